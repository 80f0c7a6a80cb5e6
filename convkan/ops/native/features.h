// Features b(x), B_1(x) … B_K(x) of all pixels, and their gradients pulled back to the pixels.
#pragma once

#include <vector>

#include "bases.h"
#include "splines.h"

namespace {

constexpr int64_t SERIAL = 1 << 14;  // numbers up to which one thread is fastest

struct Layout {  // where features of a pixel are; the last loop goes by vectors, over channels or over pixels
    int64_t outer, fixed, lanes;
    int64_t x_outer, x_fixed, x_lane;
    int64_t f_outer, f_fixed, f_lane, f_function;
    int64_t g_outer, g_fixed, g_lane;  // in the grid
};

// Calls kernel(x offset, feature offset, lanes, middle of the grid, intervals a unit) for all vectors of pixels.
template <class Kernel>
void over(const Layout& at, const Grid& grid, int count, int threads, Kernel kernel) {
    constexpr int64_t PART = 64 * LANES;
    const int64_t rows = at.outer * at.fixed, parts = (at.lanes + PART - 1) / PART;
    // Of lanes that are channels, the grids stay the same from row to row, up to those of all `fixed`.
    const bool apart = at.g_lane != 0;
    const int64_t kept = apart && at.g_outer == 0 ? at.fixed : 0, width = (at.lanes + LANES - 1) / LANES * LANES;
    std::vector<float> middles(kept * width, 0.0f), scales(kept * width, 1.0f);
    for (int64_t fixed = 0; fixed < kept; ++fixed)
        for (int64_t lane = 0; lane < at.lanes; ++lane) {
            const int64_t g = fixed * at.g_fixed + lane * at.g_lane;
            middles[fixed * width + lane] = (grid.low[g] + grid.high[g]) * 0.5f;
            scales[fixed * width + lane] = grid.size / (grid.high[g] - grid.low[g]);
        }
    threads = rows * at.lanes * int64_t(count) < SERIAL ? 1 : threads;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t item = 0; item < rows * parts; ++item) {
        const int64_t row = item / parts, outer = row / at.fixed, fixed = row % at.fixed;
        const int64_t first = item % parts * PART, last = first + PART < at.lanes ? first + PART : at.lanes;
        Vector middle{}, scale{};
        if (!apart) {
            const int64_t g = outer * at.g_outer + fixed * at.g_fixed;
            middle = all((grid.low[g] + grid.high[g]) * 0.5f);
            scale = all(grid.size / (grid.high[g] - grid.low[g]));
        }
        for (int64_t lane = first; lane < last; lane += LANES) {
            const int n = int(last - lane < LANES ? last - lane : LANES);
            if (apart) {
                middle = load(&middles[fixed * width + lane], 1, LANES);
                scale = load(&scales[fixed * width + lane], 1, LANES);
            }
            kernel(outer * at.x_outer + fixed * at.x_fixed + lane * at.x_lane,
                   outer * at.f_outer + fixed * at.f_fixed + lane * at.f_lane, n, middle, scale);
        }
    }
}

template <int ORDER, class T>
void features(const float* x, T* out, const Layout& at, const Grid& grid, int base, int threads) {
    const int count = grid.size + ORDER;
    over(at, grid, count, threads, [=](int64_t from, int64_t to, int n, Vector middle, Vector scale) {
        const Vector point = load(x + from, at.x_lane, n);
        T* y = out + to;
        if (base != NONE) {
            store(base_value(base, point), y, at.f_lane, n);
            y += at.f_function;
        }
        Vector distance = (point - middle) * scale + (count - 1) * 0.5f;
        for (int k = 0; k < count; ++k, y += at.f_function) store(bump<ORDER>(distance - float(k)), y, at.f_lane, n);
    });
}

template <int ORDER, class T>
void pull_back(const float* x, const T* grad, float* out, const Layout& at, const Grid& grid, int base, int threads) {
    const int count = grid.size + ORDER;
    over(at, grid, count, threads, [=](int64_t from, int64_t to, int n, Vector middle, Vector scale) {
        const Vector point = load(x + from, at.x_lane, n);
        const T* g = grad + to;
        Vector fixed{}, sum{};
        if (base != NONE) {
            fixed = load(g, at.f_lane, n) * base_slope(base, point);
            g += at.f_function;
        }
        Vector distance = (point - middle) * scale + (count - 1) * 0.5f;
        for (int k = 0; k < count; ++k, g += at.f_function)
            sum += load(g, at.f_lane, n) * bump_slope<ORDER>(distance - float(k));
        store(fixed + sum * scale, out + from, at.x_lane, n);
    });
}

}  // namespace
