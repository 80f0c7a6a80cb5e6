// Base activations: the fixed part of an edge.
#pragma once

#include "vectors.h"

namespace {

enum Base : int {
    NONE = 0, SILU = 1, RELU = 2, IDENTITY = 3, SIGMOID = 4, GELU = 5, TANH = 6, GELU_TANH = 7, RELU6 = 8, HARDSWISH = 9
};

// A value and what it changes by.
struct Tangent {
    Vector value, slope;
};

// x and the chance that a standard normal is below it, x Φ(x), with its slope Φ(x) + x Φ'(x). The far side of the
// distribution is e^(-x²/2) t P(t), t = 1 / (1 + 0.28 |x|), P fitted to a relative error of 2e-7 for all x.
inline Tangent gelu(Vector x) {
    const Vector far = absolute(x), bell = exponential(-0.5f * far * far), t = 1.0f / (1.0f + 0.28f * far);
    Vector p = all(0.0247201025f);
    p = p * t - 0.0935935900f;
    p = p * t + 0.0924287811f;
    p = p * t - 0.00644966355f;
    p = p * t + 0.0727752000f;
    p = p * t + 0.0836307481f;
    p = p * t + 0.103084669f;
    p = p * t + 0.111699805f;
    p = p * t + 0.111703858f;
    const Vector tail = bell * t * p, below = x < 0.0f ? tail : 1.0f - tail;
    return {x * below, below + x * bell * 0.398942280f};
}

// Near 0 by Taylor's polynomial, where the difference of exponentials would lose what is left of x.
inline Vector hyperbolic_tangent(Vector x) {
    const Vector far = absolute(x), square = x * x;
    const Vector ends = 1.0f - 2.0f / (exponential(2.0f * far) + 1.0f);
    Vector p = all(-1382.0f / 155925);
    p = p * square + 62.0f / 2835;
    p = p * square - 17.0f / 315;
    p = p * square + 2.0f / 15;
    p = p * square - 1.0f / 3;
    const Vector middle = x + x * square * p;
    return far < 0.45f ? middle : (x < 0.0f ? -ends : ends);
}

// GELU as it is approximated, x (1 + tanh u) / 2 with u = √(2/π) (x + 0.044715 x³).
inline Tangent gelu_tanh(Vector x) {
    const Number scale = 0.797884561f, cubic = 0.044715f;
    const Vector square = x * x, t = hyperbolic_tangent(scale * (x + cubic * x * square)), gate = 0.5f + 0.5f * t;
    return {x * gate, gate + 0.5f * x * (1.0f - t * t) * scale * (1.0f + 3.0f * cubic * square)};
}

inline Vector base_value(int base, Vector x) {
    switch (base) {
        case SILU: return x / (1.0f + exponential(-x));
        case RELU: return at_least(x, 0.0f);
        case SIGMOID: return 1.0f / (1.0f + exponential(-x));
        case GELU: return gelu(x).value;
        case TANH: return hyperbolic_tangent(x);
        case GELU_TANH: return gelu_tanh(x).value;
        case RELU6: return at_most(at_least(x, 0.0f), 6.0f);
        case HARDSWISH: return x * at_most(at_least(x + 3.0f, 0.0f), 6.0f) / 6.0f;
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
        case GELU: return gelu(x).slope;
        case TANH: {
            const Vector down = 1.0f + exponential(-2.0f * x), up = 1.0f + exponential(2.0f * x);
            return 4.0f / (down * up);
        }
        case GELU_TANH: return gelu_tanh(x).slope;
        case RELU6: return x > 0.0f ? (x < 6.0f ? all(1.0f) : Vector{}) : Vector{};
        case HARDSWISH: return x < -3.0f ? Vector{} : (x > 3.0f ? all(1.0f) : x / 3.0f + 0.5f);
        default: return all(1.0f);
    }
}

inline Tangent base_tangent(int base, Vector x) {
    if (base == GELU) return gelu(x);
    if (base == GELU_TANH) return gelu_tanh(x);
    if (base != SILU) return {base_value(base, x), base_slope(base, x)};
    const Vector gate = 1.0f / (1.0f + exponential(-x)), value = x * gate;
    return {value, gate + value * (1.0f - gate)};
}

}  // namespace
