// Tables of numbers in single precision: to look them up, to transpose them.
#pragma once

#include "vectors.h"

namespace {

// table[position] in every lane, wherever they are.
inline Vector gathered(const float* table, Integers position) {
#if defined(__AVX512F__)
    return (Vector)_mm512_i32gather_ps((__m512i)position, table, 4);
#elif defined(__AVX2__)
    return (Vector)_mm256_i32gather_ps(table, (__m256i)position, 4);
#else
    Vector y;
    for (int lane = 0; lane < LANES; ++lane) y[lane] = table[position[lane]];
    return y;
#endif
}

// The same of a table of `size` numbers, a multiple of LANES, which stays in registers where it is small.
inline Vector look_up(const float* table, int size, Integers position) {
#if defined(__AVX512F__)
    if (size == 16) return (Vector)_mm512_permutexvar_ps((__m512i)position, _mm512_loadu_ps(table));
    if (size == 32)
        return (Vector)_mm512_permutex2var_ps(_mm512_loadu_ps(table), (__m512i)position, _mm512_loadu_ps(table + 16));
#elif defined(__AVX2__)
    const __m256i at = (__m256i)position;
    if (size == 8) return (Vector)_mm256_permutevar8x32_ps(_mm256_loadu_ps(table), at);
    if (size == 16) {
        const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), at);
        const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), at);
        return (Vector)_mm256_blendv_ps(low, high, (__m256)_mm256_slli_epi32(at, 28));  // by the bit of eight
    }
#endif
    return gathered(table, position);
}

// Columns of WIDTH vectors as rows of as many numbers: that of a lane begins at to[WIDTH * row_of<WIDTH>(lane)].
template <int WIDTH>
inline int row_of(int lane) {
#if defined(__AVX512F__) || defined(__AVX2__)
    constexpr int PARTS = LANES / 4;  // within each of which alone it is fast to exchange numbers
    if constexpr (WIDTH == 2) return lane % 4 / 2 * (2 * PARTS) + lane / 4 * 2 + lane % 2;
    if constexpr (WIDTH == 4) return lane % 4 * PARTS + lane / 4;
#endif
    return lane;
}
template <int WIDTH>
inline void transpose(const Vector* columns, float* to) {
#if defined(__AVX512F__)
#define PAIRED(name, a, b) (Vector) _mm512_unpack##name##_ps((__m512)(a), (__m512)(b))
#define PAIRED_TWICE(name, a, b) (Vector) _mm512_unpack##name##_pd((__m512d)(a), (__m512d)(b))
#elif defined(__AVX2__)
#define PAIRED(name, a, b) (Vector) _mm256_unpack##name##_ps((__m256)(a), (__m256)(b))
#define PAIRED_TWICE(name, a, b) (Vector) _mm256_unpack##name##_pd((__m256d)(a), (__m256d)(b))
#endif
#ifdef PAIRED
    if constexpr (WIDTH == 2) {
        store(PAIRED(lo, columns[0], columns[1]), to, 1, LANES);
        store(PAIRED(hi, columns[0], columns[1]), to + LANES, 1, LANES);
        return;
    }
    if constexpr (WIDTH == 4) {
        const Vector a = PAIRED(lo, columns[0], columns[1]), b = PAIRED(lo, columns[2], columns[3]);
        const Vector c = PAIRED(hi, columns[0], columns[1]), d = PAIRED(hi, columns[2], columns[3]);
        store(PAIRED_TWICE(lo, a, b), to, 1, LANES);
        store(PAIRED_TWICE(hi, a, b), to + LANES, 1, LANES);
        store(PAIRED_TWICE(lo, c, d), to + 2 * LANES, 1, LANES);
        store(PAIRED_TWICE(hi, c, d), to + 3 * LANES, 1, LANES);
        return;
    }
#undef PAIRED
#undef PAIRED_TWICE
#endif
    for (int column = 0; column < WIDTH; ++column) store(columns[column], to + column, WIDTH, LANES);
}

#if defined(__AVX512F__) || defined(__AVX2__)
inline void transpose8(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
    __m256 a[8], b[8];
    for (int i = 0; i < 8; ++i) a[i] = _mm256_loadu_ps(from + i * from_stride);
    for (int i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
        a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
        a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
        a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
    }
    for (int i = 0; i < 4; ++i) {
        _mm256_storeu_ps(to + i * to_stride, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
        _mm256_storeu_ps(to + (i + 4) * to_stride, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
    }
}
#endif

// A matrix of so many rows and columns, of which rows begin at from[i * from_stride], as its transpose.
inline void transpose(const float* from, int64_t from_stride, float* to, int64_t to_stride, int64_t rows,
                      int64_t columns) {
#if defined(__AVX512F__) || defined(__AVX2__)
    if (rows >= 8 && columns >= 8) {  // the last blocks overlap with those before
        for (int64_t i = 0; i < rows; i += 8)
            for (int64_t j = 0; j < columns; j += 8) {
                const int64_t row = i + 8 < rows ? i : rows - 8, column = j + 8 < columns ? j : columns - 8;
                transpose8(from + row * from_stride + column, from_stride, to + column * to_stride + row, to_stride);
            }
        return;
    }
#endif
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t column = 0; column < columns; ++column)
            to[column * to_stride + row] = from[row * from_stride + column];
}

}  // namespace
