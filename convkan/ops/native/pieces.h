// Uniform B-splines as polynomials, where one spline is wanted at a point: which interval it is in, and where there.
//
// Only in single precision, as all that is included by activations.h.
#pragma once

#include "splines.h"

namespace {

inline Integers all(int32_t value) { return Integers{} + value; }

// A product that is rounded on its own, as it is outside of a fused multiply-add.
inline Vector product(Vector a, Vector b) {
    Vector y = a * b;
#if defined(__AVX512F__)
    asm("" : "+v"(y));
#elif defined(__SSE__)
    asm("" : "+x"(y));
#elif defined(__aarch64__)
    asm("" : "+w"(y));
#else
    volatile Vector kept = y;
    y = kept;
#endif
    return y;
}

// The order + 1 splines alive on an interval as polynomials in t, the place within it: of[b][m] of t^m.
template <int ORDER>
struct Pieces {
    double of[ORDER + 1][ORDER + 1] = {};
    Pieces() {  // de Boor, ch. X, eq. 22 to 24, with polynomials for numbers
        of[0][0] = 1;
        for (int k = 1; k <= ORDER; ++k) {
            double next[ORDER + 1][ORDER + 1] = {};
            for (int b = 0; b < k; ++b)
                for (int m = 0; m < k; ++m) {
                    const double share = of[b][m] / k;
                    next[b][m] += (b + 1) * share;
                    next[b][m + 1] -= share;
                    next[b + 1][m] -= (b + 1 - k) * share;
                    next[b + 1][m + 1] += share;
                }
            std::memcpy(of, next, sizeof of);
        }
    }
};

// A line cut into intervals of one step, on each of which every spline is a polynomial in t, the place from its left
// end. What lies below and above of them are two more, the first and the last.
template <int ORDER>
struct Intervals {
    int size, extrapolation;
    int beyond;  // of each end of the grid, intervals on which splines are not 0
    int count, functions;
    Intervals(int size, int extrapolation)
        : size(size), extrapolation(extrapolation), beyond(extrapolation == ZERO ? ORDER : 0),
          count(size + 2 * beyond + 2), functions(size + ORDER) {}

    int last() const { return count - 1; }
    bool outer(int interval) const { return interval == 0 || interval == last(); }

    // The first of the order + 1 functions that may be alive; some do not exist.
    int first(int interval) const {
        const int inner = interval == 0 ? 1 : interval == last() ? last() - 1 : interval;
        return inner - 1 - beyond;
    }

    // What function `first + b` has of t^m.
    double share(int interval, int b, int m) const {
        static const Pieces<ORDER> pieces;
        const double* of = pieces.of[b];
        if (!outer(interval)) return of[m];
        if (extrapolation == ZERO || m > (extrapolation == LINEAR)) return 0;
        double value = of[0], slope = of[1];
        if (interval != 0) {
            value = slope = 0;
            for (int i = 0; i <= ORDER; ++i) {
                value += of[i];
                slope += i * of[i];
            }
        } else if (extrapolation == LINEAR) {
            value -= slope;  // the grid begins at the interval's right end
        }
        return m == 0 ? value : slope;
    }

    // The spline with these weights: share m of an interval at to[m * stride + interval].
    void tabulate(const float* weight, float* to, int stride) const {
        for (int interval = 0; interval < count; ++interval)
            for (int m = 0; m <= ORDER; ++m) {
                double sum = 0;
                for (int b = 0; b <= ORDER; ++b) {
                    const int k = first(interval) + b;
                    if (k >= 0 && k < functions) sum += share(interval, b, m) * weight[k];
                }
                to[m * stride + interval] = float(sum);
            }
    }

    // The adjoint, added to `to`: of sums of t^m over what is in an interval, Σ of each function over all there is.
    void collect(int interval, const double* moments, double* to) const {
        const int degree = extrapolation == LINEAR && outer(interval) ? 1 : ORDER;  // far out higher powers are infinite
        double wrong = 0;  // or NaN, where a number is none, and then so is its product with zero
        for (int m = 0; m <= degree; ++m) wrong += moments[m] * 0.0;
        if (wrong != 0) for (int k = 0; k < functions; ++k) to[k] += wrong;
        for (int b = 0; b <= ORDER; ++b) {
            const int k = first(interval) + b;
            if (k < 0 || k >= functions) continue;
            for (int m = 0; m <= degree; ++m) to[k] += share(interval, b, m) * moments[m];
        }
    }
};

struct Ends {  // of one channel's grid, or of one a lane
    Vector low, high, scale;
    Ends(Vector low, Vector high, int size) : low(low), high(high), scale(float(size) / (high - low)) {}
    Ends(const Grid& grid, int64_t channel)
        : Ends(all(grid.low[channel * grid.step]), all(grid.high[channel * grid.step]), grid.size) {}
};

struct Place {
    Integers interval;
    Vector t;
};

template <int ORDER>
inline Place place(const Intervals<ORDER>& intervals, Vector x, const Ends& grid) {
    const int last = intervals.last();
    const Vector u = (x - grid.low) * grid.scale + float(intervals.beyond + 1);
    const Vector held = at_most(at_least(u, 0.0f), float(last));
    Integers interval = __builtin_convertvector(held, Integers);
    interval = interval < 0 ? Integers{} : interval;  // of NaN
    if (intervals.extrapolation == ZERO) return {interval, held - __builtin_convertvector(interval, Vector)};
    // The ends belong to the grid.
    interval = x < grid.low ? Integers{} : (interval < 1 ? all(1) : interval);
    interval = x > grid.high ? all(last) : (interval > last - 1 ? all(last - 1) : interval);
    const Vector t = intervals.extrapolation == LINEAR ? u : held;
    return {interval, t - __builtin_convertvector(interval, Vector)};
}

// Rounding has put points near a knot on either side of it. At order 1 the side decides on the slope: that on the right
// of a knot, but on the left of the grid's end.
template <int ORDER>
inline Integers exact_side(const Intervals<ORDER>& intervals, Integers interval, Vector x, const Ends& grid) {
    const Vector step = (grid.high - grid.low) / float(intervals.size);
    const Vector j = __builtin_convertvector(interval, Vector) - float(1 + intervals.beyond);
    const float end = float(intervals.size);
    const Vector left = j == end ? grid.high : grid.low + product(step, j);
    const Vector right = j + 1.0f == end ? grid.high : grid.low + product(step, j + 1.0f);
    const Integers down = (x < left) & (interval > 0), up = (x >= right) & (interval < intervals.last());
    interval = interval + down - up;  // true is −1
    return x == grid.high ? all(intervals.size + intervals.beyond) : interval;
}

}  // namespace
