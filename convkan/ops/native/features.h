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

// The grid of each lane: its middle and its intervals a unit, and where splines do not end by themselves, its ends.
struct Span {
    Vector middle, scale, low, high;
};

// A point's place in steps from the middle of its grid, held within the grid where splines do not end by themselves.
template <int EXTRAPOLATION>
struct Held {
    Vector at, excess{};
    Integers beyond{};
    Held(Vector x, const Span& grid, int size) : at((x - grid.middle) * grid.scale) {
        if constexpr (EXTRAPOLATION != ZERO) {
            const Vector half = all(size * Number(0.5)), free = at;
            const Integers below = x < grid.low, above = x > grid.high;
            at = below ? -half : (above ? half : at);
            excess = free - at;
            beyond = below | above;
        }
    }
};

// Calls kernel(x offset, feature offset, lanes, span) for all vectors of pixels.
template <int EXTRAPOLATION, class Kernel>
void over(const Layout& at, const Grid& grid, int count, int threads, Kernel kernel) {
    constexpr int64_t PART = 64 * LANES;
    const int64_t rows = at.outer * at.fixed, parts = (at.lanes + PART - 1) / PART;
    // Of lanes that are channels, the grids stay the same from row to row, up to those of all `fixed`.
    const bool apart = at.g_lane != 0;
    const int64_t kept = apart && at.g_outer == 0 ? at.fixed : 0, width = (at.lanes + LANES - 1) / LANES * LANES;
    const int64_t with_ends = EXTRAPOLATION == ZERO ? 0 : kept * width;
    std::vector<Number> middles(kept * width, Number(0)), scales(kept * width, Number(1));
    std::vector<Number> lows(with_ends, Number(0)), highs(with_ends, Number(0));
    for (int64_t fixed = 0; fixed < kept; ++fixed)
        for (int64_t lane = 0; lane < at.lanes; ++lane) {
            const int64_t g = fixed * at.g_fixed + lane * at.g_lane;
            middles[fixed * width + lane] = (grid.low[g] + grid.high[g]) * Number(0.5);
            scales[fixed * width + lane] = grid.size / (grid.high[g] - grid.low[g]);
            if constexpr (EXTRAPOLATION != ZERO) {
                lows[fixed * width + lane] = grid.low[g];
                highs[fixed * width + lane] = grid.high[g];
            }
        }
    threads = rows * at.lanes * int64_t(count) < SERIAL ? 1 : threads;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t item = 0; item < rows * parts; ++item) {
        const int64_t row = item / parts, outer = row / at.fixed, fixed = row % at.fixed;
        const int64_t first = item % parts * PART, last = first + PART < at.lanes ? first + PART : at.lanes;
        Span span{};
        if (!apart) {
            const int64_t g = outer * at.g_outer + fixed * at.g_fixed;
            const Number low = grid.low[g], high = grid.high[g];
            span = {all((low + high) * Number(0.5)), all(grid.size / (high - low)), all(low), all(high)};
        }
        for (int64_t lane = first; lane < last; lane += LANES) {
            const int n = int(last - lane < LANES ? last - lane : LANES);
            if (apart) {
                span.middle = load(&middles[fixed * width + lane], 1, LANES);
                span.scale = load(&scales[fixed * width + lane], 1, LANES);
                if constexpr (EXTRAPOLATION != ZERO) {
                    span.low = load(&lows[fixed * width + lane], 1, LANES);
                    span.high = load(&highs[fixed * width + lane], 1, LANES);
                }
            }
            kernel(outer * at.x_outer + fixed * at.x_fixed + lane * at.x_lane,
                   outer * at.f_outer + fixed * at.f_fixed + lane * at.f_lane, n, span);
        }
    }
}

template <int ORDER, int EXTRAPOLATION, class T>
void features(const Number* x, T* out, const Layout& at, const Grid& grid, int base, int threads) {
    const int count = grid.size + ORDER;
    over<EXTRAPOLATION>(at, grid, count, threads, [=](int64_t from, int64_t to, int n, const Span& span) {
        const Vector point = load(x + from, at.x_lane, n);
        T* y = out + to;
        if (base != NONE) {
            store(base_value(base, point), y, at.f_lane, n);
            y += at.f_function;
        }
        const Held<EXTRAPOLATION> held(point, span, grid.size);
        const Vector distance = held.at + (count - 1) * Number(0.5);
        if constexpr (EXTRAPOLATION == LINEAR && ORDER > 1)
            if (any(held.beyond)) {
                for (int k = 0; k < count; ++k, y += at.f_function) {
                    const Vector here = distance - Number(k);
                    store(bump<ORDER>(here) + bump_slope<ORDER>(here) * held.excess, y, at.f_lane, n);
                }
                return;
            }
        for (int k = 0; k < count; ++k, y += at.f_function) store(bump<ORDER>(distance - Number(k)), y, at.f_lane, n);
    });
}

template <int ORDER, int EXTRAPOLATION, class T>
void pull_back(const Number* x, const T* grad, Number* out, const Layout& at, const Grid& grid, int base, int threads) {
    const int count = grid.size + ORDER;
    over<EXTRAPOLATION>(at, grid, count, threads, [=](int64_t from, int64_t to, int n, const Span& span) {
        const Vector point = load(x + from, at.x_lane, n);
        const T* g = grad + to;
        Vector fixed{}, sum{};
        if (base != NONE) {
            fixed = load(g, at.f_lane, n) * base_slope(base, point);
            g += at.f_function;
        }
        const Held<EXTRAPOLATION> held(point, span, grid.size);
        const Vector distance = held.at + (count - 1) * Number(0.5);
        for (int k = 0; k < count; ++k, g += at.f_function)
            sum += load(g, at.f_lane, n) * bump_slope<ORDER>(distance - Number(k));
        if constexpr (EXTRAPOLATION == CLAMP) sum = held.beyond ? Vector{} : sum;
        store(fixed + sum * span.scale, out + from, at.x_lane, n);
    });
}

}  // namespace
