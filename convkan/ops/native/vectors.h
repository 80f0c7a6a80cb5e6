// Vectors of numbers and what is done with them: to load, to store, to compare. Numbers are floats, or doubles where
// CONVKAN_DOUBLE is defined.
//
// Comparisons are written so that NaN goes through them: `a < b ? b : a` is NaN where a is.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

#if defined(CONVKAN_DOUBLE)
typedef double Number;
typedef int64_t Integer;
#else
typedef float Number;
typedef int32_t Integer;
#endif
#if defined(__AVX512F__)
constexpr int BYTES = 64;
#elif defined(__AVX2__)
constexpr int BYTES = 32;
#else
constexpr int BYTES = 16;
#endif
constexpr int LANES = BYTES / sizeof(Number);
typedef Number Vector __attribute__((vector_size(BYTES)));
typedef Integer Integers __attribute__((vector_size(BYTES)));
typedef Number Stored __attribute__((vector_size(BYTES), aligned(sizeof(Number))));  // as they lie between others

#define ALWAYS_INLINE __attribute__((always_inline))

inline Vector all(Number value) { return Vector{} + value; }
inline Vector at_least(Vector x, Number low) { return x < low ? all(low) : x; }
inline Vector at_most(Vector x, Number high) { return x > high ? all(high) : x; }
inline Vector absolute(Vector x) { return (Vector)((Integers)x & std::numeric_limits<Integer>::max()); }

inline bool any(Integers truths) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)truths, (__m512i)truths) != 0;
#elif defined(__AVX2__)
    return !_mm256_testz_si256((__m256i)truths, (__m256i)truths);
#else
    bool found = false;
    for (int lane = 0; lane < LANES; ++lane) found |= truths[lane] != 0;
    return found;
#endif
}

inline Vector load(const Number* from, int64_t stride, int count) {
    if (stride == 1 && count == LANES) return *(const Stored*)from;
    Vector x{};
    for (int lane = 0; lane < count; ++lane) x[lane] = from[lane * stride];
    return x;
}
inline void store(Vector x, Number* to, int64_t stride, int count) {
    if (stride == 1 && count == LANES) *(Stored*)to = x;
    else for (int lane = 0; lane < count; ++lane) to[lane * stride] = x[lane];
}

inline float widened(uint16_t half) {
    const uint32_t bits = uint32_t(half) << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
inline uint16_t rounded(float x) {  // to the nearest bfloat16, to even where two are as near
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if (x != x) return 0x7fc0;
    return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
inline Vector load(const uint16_t* from, int64_t stride, int count) {
    Vector x{};
    for (int lane = 0; lane < count; ++lane) x[lane] = widened(from[lane * stride]);
    return x;
}
inline void store(Vector x, uint16_t* to, int64_t stride, int count) {
    for (int lane = 0; lane < count; ++lane) to[lane * stride] = rounded(float(x[lane]));
}

inline Number total(Vector x) {
    Number sum = 0;
    for (int lane = 0; lane < LANES; ++lane) sum += x[lane];
    return sum;
}

// e^x by x = n ln 2 + r and Taylor's polynomial in r, within 2 units of the last place; below LOWEST it stays the same.
struct Exponential {
#if defined(CONVKAN_DOUBLE)
    static constexpr int DEGREE = 13, MANTISSA = 52;
    static constexpr Number LOWEST = -708.0, HIGHEST = 709.0;
    static constexpr Number LN_2 = 0.693147180369123816490, LN_2_REST = 1.90821492927058770002e-10;
#else
    static constexpr int DEGREE = 7, MANTISSA = 23;
    static constexpr Number LOWEST = -87.3f, HIGHEST = 88.0f;
    static constexpr Number LN_2 = 0.693359375f, LN_2_REST = -2.12194440e-4f;
#endif
    static constexpr Number NEAREST = Number(Integer(3) << (MANTISSA - 1));  // brings n to the lowest bits
    Number share[DEGREE + 1];  // 1/m!
    constexpr Exponential() : share{} {
        double factorial = 1;
        for (int m = 0; m <= DEGREE; ++m) {
            factorial *= m ? m : 1;
            share[m] = Number(1 / factorial);
        }
    }
};

inline Vector exponential(Vector x) {
    constexpr Exponential e;
    const Vector held = at_most(at_least(x, e.LOWEST), e.HIGHEST);
    const Vector shifted = held * Number(1.4426950408889634) + e.NEAREST;
    const Vector n = shifted - e.NEAREST;
    const Vector r = held - n * e.LN_2 - n * e.LN_2_REST;
    Vector y = all(e.share[e.DEGREE]);
#pragma GCC unroll 16
    for (int m = e.DEGREE - 1; m >= 0; --m) y = y * r + e.share[m];
    y = (Vector)((Integers)y + ((Integers)shifted << e.MANTISSA));
    return x > e.HIGHEST ? all(std::numeric_limits<Number>::infinity()) : y;
}

}  // namespace
