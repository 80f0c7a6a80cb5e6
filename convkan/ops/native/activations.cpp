// The kernels of activations as calls.py finds them, for splines of one order. Built by build.py with the machine's
// compiler; nothing of torch is included, and pointers and numbers are all that is passed.

#include "activations.h"

#ifndef CONVKAN_ORDER
#define CONVKAN_ORDER 3
#endif
constexpr int ORDER = CONVKAN_ORDER;

extern "C" {

int64_t convkan_chunks(int64_t outer, int64_t pixels, int channels_last) {
    const Images images{outer, 1, pixels, 1, bool(channels_last)};
    return channels_last ? Part<true>::chunks(images) : Part<false>::chunks(images);
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
}
