// Uniform B-splines by their closed form, where all functions are wanted.
//
// It is a sum of truncated powers (Schoenberg 1946; de Boor, "A Practical Guide to Splines", ch. IX).
#pragma once

#include "vectors.h"

namespace {

enum Extrapolation : int { ZERO = 0, CLAMP = 1, LINEAR = 2 };

struct Grid {  // the ends of each channel's grid
    const Number* low;
    const Number* high;
    int size;
    int64_t step = 1;  // from one channel's to the next one's
};

// (−1)^j C(order+1, j)/order!
template <int ORDER>
constexpr Number truncated(int j) {
    double c = 1, f = 1;
    for (int i = 1; i <= ORDER; ++i) f *= i;
    for (int i = 0; i < j; ++i) c = -c * (ORDER + 1 - i) / (i + 1);
    return Number(c / f);
}

template <int EXPONENT>
inline Vector power(Vector x) {
    if constexpr (EXPONENT == 0) return all(1);
    else if constexpr (EXPONENT == 1) return x;
    else return power<EXPONENT / 2>(x) * power<EXPONENT - EXPONENT / 2>(x);
}

// The B-spline at this distance, in steps, from its centre.
template <int ORDER>
inline Vector bump(Vector distance) {
    Vector inside = at_least((ORDER + 1) / Number(2) - absolute(distance), 0);
    Vector y = power<ORDER>(inside) * truncated<ORDER>(0);
    for (int j = 1; j < (ORDER + 2) / 2; ++j) {
        inside = at_least(inside - Number(1), 0);
        y += power<ORDER>(inside) * truncated<ORDER>(j);
    }
    return y;
}

// Its derivative by that distance, from order 2 on.
template <int ORDER>
inline Vector bump_slope(Vector distance) {
    Vector inside = at_least((ORDER + 1) / Number(2) - absolute(distance), 0);
    Vector y = power<ORDER - 1>(inside) * (ORDER * truncated<ORDER>(0));
    for (int j = 1; j < (ORDER + 2) / 2; ++j) {
        inside = at_least(inside - Number(1), 0);
        y += power<ORDER - 1>(inside) * (ORDER * truncated<ORDER>(j));
    }
    return distance < Number(0) ? y : -y;
}

}  // namespace
