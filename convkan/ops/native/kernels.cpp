// The kernels as calls.py finds them, for splines of one order. Built by build.py with the machine's compiler; nothing
// of torch is included, and pointers and numbers are all that is passed.

#include "activations.h"
#include "features.h"
#include "linear.h"

#ifndef CONVKAN_ORDER
#define CONVKAN_ORDER 3
#endif
constexpr int ORDER = CONVKAN_ORDER;

extern "C" {

int64_t convkan_chunks(int64_t outer, int64_t pixels, int channels_last) {
    const Images images{outer, 1, pixels, 1, bool(channels_last)};
    return channels_last ? Part<true>::chunks(images) : Part<false>::chunks(images);
}

void convkan_features(const float* x, void* out, int half, const int64_t* sizes, const float* low, const float* high,
                      int size, int base, int threads) {
    Layout at;
    std::memcpy(&at, sizes, sizeof at);
    const Grid grid{low, high, size};
    if (half) features<ORDER>(x, (uint16_t*)out, at, grid, base, threads);
    else features<ORDER>(x, (float*)out, at, grid, base, threads);
}

void convkan_pull_back(const float* x, const void* grad, int half, float* out, const int64_t* sizes, const float* low,
                       const float* high, int size, int base, int threads) {
    Layout at;
    std::memcpy(&at, sizes, sizeof at);
    const Grid grid{low, high, size};
    if (half) pull_back<ORDER>(x, (const uint16_t*)grad, out, at, grid, base, threads);
    else pull_back<ORDER>(x, (const float*)grad, out, at, grid, base, threads);
}

// `sizes`: outer, channels, pixels, and how far apart the ends of neighbouring channels' grids are.
void convkan_activation(const float* x, const float* base_weight, const float* basis_weight, const float* constants,
                        float* y, const int64_t* sizes, int repeats, int last, const float* low, const float* high,
                        int size, int base, int extrapolation, int threads) {
    const Images images{sizes[0], sizes[1], sizes[2], repeats, bool(last)};
    const Grid grid{low, high, size, sizes[3]};
    const auto run = last ? activation<ORDER, true> : activation<ORDER, false>;
    run(x, base_weight, basis_weight, constants, y, images, grid, base, extrapolation, threads);
}

void convkan_activation_backward(const float* grad, const float* x, const float* base_weight, const float* basis_weight,
                                 float* by_x, double* by_weight, const int64_t* sizes, int repeats, int last,
                                 const float* low, const float* high, int size, int base, int extrapolation,
                                 int threads) {
    const Images images{sizes[0], sizes[1], sizes[2], repeats, bool(last)};
    const Grid grid{low, high, size, sizes[3]};
    const auto run = last ? activation_backward<ORDER, true> : activation_backward<ORDER, false>;
    run(grad, x, base_weight, basis_weight, by_x, by_weight, images, grid, base, extrapolation, threads);
}

// `sizes`: rows, inputs, outputs, and how far apart the ends of neighbouring channels' grids are.
void convkan_linear(const float* x, const float* base_weight, const float* basis_weight, float* y, const int64_t* sizes,
                    const float* low, const float* high, int size, int base) {
    const Weights weights{base_weight, basis_weight, sizes[1], sizes[2], size + ORDER};
    linear<ORDER>(x, weights, y, sizes[0], Grid{low, high, size, sizes[3]}, base);
}

void convkan_linear_backward(const float* grad, const float* x, const float* base_weight, const float* basis_weight,
                             float* by_x, float* by_base, float* by_basis, const int64_t* sizes, const float* low,
                             const float* high, int size, int base) {
    const Weights weights{base_weight, basis_weight, sizes[1], sizes[2], size + ORDER};
    linear_backward<ORDER>(grad, x, weights, by_x, by_base, by_basis, sizes[0], Grid{low, high, size, sizes[3]}, base);
}
}
