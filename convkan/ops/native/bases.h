// Base activations: the fixed part of an edge.
#pragma once

#include "vectors.h"

namespace {

enum Base : int { NONE = 0, SILU = 1, RELU = 2, IDENTITY = 3, SIGMOID = 4 };

inline Vector base_value(int base, Vector x) {
    switch (base) {
        case SILU: return x / (1.0f + exponential(-x));
        case RELU: return at_least(x, 0.0f);
        case SIGMOID: return 1.0f / (1.0f + exponential(-x));
        default: return x;
    }
}

inline Vector base_slope(int base, Vector x) {
    switch (base) {
        case SILU: {
            const Vector gate = 1.0f / (1.0f + exponential(-x));
            return gate + x * gate * (1.0f - gate);
        }
        case RELU: return x > 0.0f ? all(1.0f) : Vector{};
        case SIGMOID: return 1.0f / ((1.0f + exponential(-x)) * (1.0f + exponential(x)));
        default: return all(1.0f);
    }
}

struct Tangent {
    Vector value, slope;
};
inline Tangent base_tangent(int base, Vector x) {
    if (base != SILU) return {base_value(base, x), base_slope(base, x)};
    const Vector gate = 1.0f / (1.0f + exponential(-x)), value = x * gate;
    return {value, gate + value * (1.0f - gate)};
}

}  // namespace
