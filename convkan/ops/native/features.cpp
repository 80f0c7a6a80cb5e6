// The kernels of features and of small linear layers, for splines of one order and extrapolation, in one precision;
// built as activations.cpp is.

#include "features.h"
#include "linear.h"

#ifndef CONVKAN_ORDER
#define CONVKAN_ORDER 3
#endif
#ifndef CONVKAN_EXTRAPOLATION
#define CONVKAN_EXTRAPOLATION 0
#endif
constexpr int ORDER = CONVKAN_ORDER, EXTRAPOLATION = CONVKAN_EXTRAPOLATION;

extern "C" {

void convkan_features(const Number* x, void* out, int half, const int64_t* sizes, const Number* low, const Number* high,
                      int size, int base, int threads) {
    Layout at;
    std::memcpy(&at, sizes, sizeof at);
    const Grid grid{low, high, size};
    if (half) features<ORDER, EXTRAPOLATION>(x, (uint16_t*)out, at, grid, base, threads);
    else features<ORDER, EXTRAPOLATION>(x, (Number*)out, at, grid, base, threads);
}

void convkan_pull_back(const Number* x, const void* grad, int half, Number* out, const int64_t* sizes,
                       const Number* low, const Number* high, int size, int base, int threads) {
    Layout at;
    std::memcpy(&at, sizes, sizeof at);
    const Grid grid{low, high, size};
    if (half) pull_back<ORDER, EXTRAPOLATION>(x, (const uint16_t*)grad, out, at, grid, base, threads);
    else pull_back<ORDER, EXTRAPOLATION>(x, (const Number*)grad, out, at, grid, base, threads);
}

// `sizes`: rows, inputs, outputs, and how far apart the ends of neighbouring channels' grids are.
void convkan_linear(const Number* x, const Number* base_weight, const Number* basis_weight, Number* y,
                    const int64_t* sizes, const Number* low, const Number* high, int size, int base) {
    const Weights weights{base_weight, basis_weight, sizes[1], sizes[2], size + ORDER};
    linear<ORDER, EXTRAPOLATION>(x, weights, y, sizes[0], Grid{low, high, size, sizes[3]}, base);
}

void convkan_linear_backward(const Number* grad, const Number* x, const Number* base_weight, const Number* basis_weight,
                             Number* by_x, Number* by_base, Number* by_basis, const int64_t* sizes, const Number* low,
                             const Number* high, int size, int base) {
    const Weights weights{base_weight, basis_weight, sizes[1], sizes[2], size + ORDER};
    const Grid grid{low, high, size, sizes[3]};
    linear_backward<ORDER, EXTRAPOLATION>(grad, x, weights, by_x, by_base, by_basis, sizes[0], grid, base);
}
}
