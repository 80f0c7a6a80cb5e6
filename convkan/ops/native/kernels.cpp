// Uniform B-splines on the CPU, a vector at a time, in float32: features, learnable activations, and their gradients.
//
// A spline is told by its closed form, sums of truncated powers (Schoenberg 1946; de Boor, "A Practical Guide to
// Splines", ch. IX), where all functions are wanted, and by the polynomials of its pieces where one function is.
// Built by build.py with the machine's compiler; nothing of torch is included, and pointers are all that is passed.
// Comparisons are written so that NaN goes through them: `a < b ? b : a` is NaN where a is.

#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef int32_t Integers __attribute__((vector_size(4 * LANES)));

#ifndef CONVKAN_ORDER
#define CONVKAN_ORDER 3
#endif
constexpr int MOST_DENSE = 16;  // functions up to which all of them are evaluated for sums, rather than those alive
constexpr int64_t CHUNK = 4096;  // entries of a channel that are summed up in float32
constexpr int64_t SERIAL = 1 << 14;  // numbers up to which one thread is fastest

enum Base : int { NONE = 0, SILU = 1, RELU = 2, IDENTITY = 3, SIGMOID = 4 };
enum Extrapolation : int { ZERO = 0, CLAMP = 1, LINEAR = 2 };

inline Vector all(float value) { return Vector{} + value; }
inline Vector at_least(Vector x, float low) { return x < low ? all(low) : x; }
inline Vector at_most(Vector x, float high) { return x > high ? all(high) : x; }
inline Vector absolute(Vector x) { return (Vector)((Integers)x & 0x7fffffff); }

inline Vector load(const float* from, int64_t stride, int count) {
    Vector x{};
    if (stride == 1 && count == LANES) std::memcpy(&x, from, sizeof x);
    else for (int lane = 0; lane < count; ++lane) x[lane] = from[lane * stride];
    return x;
}
inline void store(Vector x, float* to, int64_t stride, int count) {
    if (stride == 1 && count == LANES) std::memcpy(to, &x, sizeof x);
    else for (int lane = 0; lane < count; ++lane) to[lane * stride] = x[lane];
}
inline float widened(uint16_t half) {
    uint32_t bits = uint32_t(half) << 16;
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
    for (int lane = 0; lane < count; ++lane) to[lane * stride] = rounded(x[lane]);
}
inline float total(Vector x) {
    float sum = 0;
    for (int lane = 0; lane < LANES; ++lane) sum += x[lane];
    return sum;
}

// e^x by x = n ln 2 + r and Taylor's polynomial in r, within 2 units of the last place; 0 is 1e-38 here.
inline Vector exponential(Vector x) {
    Vector held = at_most(at_least(x, -87.3f), 88.0f);
    Vector shifted = held * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the integer nearest comes to the lowest bits
    Vector n = shifted - 12582912.0f;
    Vector r = held - n * 0.693359375f + n * 2.12194440e-4f;
    Vector y = all(1.0f / 5040);
    y = y * r + 1.0f / 720;
    y = y * r + 1.0f / 120;
    y = y * r + 1.0f / 24;
    y = y * r + 1.0f / 6;
    y = y * r + 0.5f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
    y = (Vector)((Integers)y + ((Integers)shifted << 23));
    return x > 88.0f ? all(std::numeric_limits<float>::infinity()) : y;
}

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
inline void base_both(int base, Vector x, Vector& value, Vector& slope) {
    if (base == SILU) {
        const Vector gate = 1.0f / (1.0f + exponential(-x));
        value = x * gate;
        slope = gate + value * (1.0f - gate);
    } else {
        value = base_value(base, x);
        slope = base_slope(base, x);
    }
}

// (−1)^j C(order+1, j)/order!
template <int ORDER>
constexpr float truncated(int j) {
    double c = 1, f = 1;
    for (int i = 1; i <= ORDER; ++i) f *= i;
    for (int i = 0; i < j; ++i) c = -c * (ORDER + 1 - i) / (i + 1);
    return float(c / f);
}
template <int EXPONENT>
inline Vector power(Vector x) {
    if constexpr (EXPONENT == 0) return all(1.0f);
    else if constexpr (EXPONENT == 1) return x;
    else return power<EXPONENT / 2>(x) * power<EXPONENT - EXPONENT / 2>(x);
}
// The B-spline at this distance, in steps, from its centre.
template <int ORDER>
inline Vector bump(Vector distance) {
    Vector inside = at_least((ORDER + 1) / 2.0f - absolute(distance), 0.0f);
    Vector y = power<ORDER>(inside) * truncated<ORDER>(0);
    for (int j = 1; j < (ORDER + 2) / 2; ++j) {
        inside = at_least(inside - 1.0f, 0.0f);
        y += power<ORDER>(inside) * truncated<ORDER>(j);
    }
    return y;
}
// Its derivative by that distance, from order 2 on.
template <int ORDER>
inline Vector bump_slope(Vector distance) {
    Vector inside = at_least((ORDER + 1) / 2.0f - absolute(distance), 0.0f);
    Vector y = power<ORDER - 1>(inside) * (ORDER * truncated<ORDER>(0));
    for (int j = 1; j < (ORDER + 2) / 2; ++j) {
        inside = at_least(inside - 1.0f, 0.0f);
        y += power<ORDER - 1>(inside) * (ORDER * truncated<ORDER>(j));
    }
    return distance < 0.0f ? y : -y;
}

struct Grid {  // the ends of each channel's grid
    const float* low;
    const float* high;
    int64_t stride;  // between channels
    int size;
};

// ------------------------------------------------------------------------------------------------ features

struct Layout {  // where features of a pixel are; the last loop goes by vectors, over channels or over pixels
    int64_t outer, fixed, lanes;
    int64_t x_outer, x_fixed, x_lane;
    int64_t f_outer, f_fixed, f_lane, f_function;
    int64_t g_outer, g_fixed, g_lane;  // in the grid
};

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
void features_of(const float* x, T* out, const Layout& at, const Grid& grid, int base, int threads) {
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

// ------------------------------------------------------------------------------------------------ activations

// The order + 1 splines alive on an interval as polynomials in t, the place within it: M[b][m] of t^m.
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

// What is not on the grid's knots, seen as two intervals more: the first and the last.
template <int ORDER>
struct Splines {
    int size, extrapolation, beyond, intervals, entries, functions, stride;
    Splines(int size, int extrapolation)
        : size(size), extrapolation(extrapolation), beyond(extrapolation == ZERO ? ORDER : 0),
          intervals(size + 2 * beyond), entries(intervals + 2), functions(size + ORDER),
          stride((entries + LANES - 1) / LANES * LANES) {}

    // Polynomials of one function, coefficient m of entry e at table[m * stride + e].
    void table(const float* weight, int64_t weight_stride, float* to) const {
        static const Pieces<ORDER> pieces;
        std::memset(to, 0, sizeof(float) * (ORDER + 1) * stride);
        for (int entry = 1; entry <= intervals; ++entry)
            for (int m = 0; m <= ORDER; ++m) {
                double sum = 0;
                for (int b = 0; b <= ORDER; ++b) {
                    const int k = entry - 1 - beyond + b;
                    if (k >= 0 && k < functions) sum += pieces.of[b][m] * weight[k * weight_stride];
                }
                to[m * stride + entry] = float(sum);
            }
        if (extrapolation == ZERO) return;
        double value = 0, slope = 0;
        for (int m = 0; m <= ORDER; ++m) {
            value += to[m * stride + intervals];
            slope += m * to[m * stride + intervals];
        }
        const int last = intervals + 1;
        to[last] = float(value);
        to[0] = to[1];
        if (extrapolation == LINEAR) {  // of the first, t is counted from the entry's own left end
            to[stride] = to[stride + 1];
            to[0] -= to[stride];
            to[stride + last] = float(slope);
        }
    }
};

// Where points are on the grid of one channel, or one a lane.
struct Place {
    Integers entry;
    Vector t;
};

template <int ORDER>
inline Place place(const Splines<ORDER>& splines, Vector x, Vector low, Vector high, Vector scale) {
    Vector u = (x - low) * scale + float(splines.beyond + 1);
    const float last = float(splines.intervals + 1);
    Vector held = at_most(at_least(u, 0.0f), last);
    Integers entry = __builtin_convertvector(held, Integers);
    entry = entry < 0 ? Integers{} : entry;  // of NaN
    if (splines.extrapolation != ZERO) {  // the ends belong to the grid
        entry = x < low ? Integers{} : (entry < 1 ? Integers{} + 1 : entry);
        entry = x > high ? Integers{} + (splines.intervals + 1)
                         : (entry > splines.intervals ? Integers{} + splines.intervals : entry);
    }
    Vector t = (splines.extrapolation == LINEAR ? u : held) - __builtin_convertvector(entry, Vector);
    return {entry, t};
}

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

// Rounding has put points near a knot on either side of it. At order 1 the side decides on the slope: that on the right
// of a knot, but on the left of the grid's end.
template <int ORDER>
inline Integers exact_side(const Splines<ORDER>& splines, Integers entry, Vector x, Vector low, Vector high) {
    const Vector step = (high - low) / float(splines.size);
    const Vector j = __builtin_convertvector(entry, Vector) - float(1 + splines.beyond);
    const Vector left = j == float(splines.size) ? high : low + product(step, j);
    const Vector right = j + 1.0f == float(splines.size) ? high : low + product(step, j + 1.0f);
    const Integers down = (x < left) & (entry > 0), up = (x >= right) & (entry <= splines.intervals);
    entry = entry + down - up;  // true is −1
    return x == high ? Integers{} + (splines.size + splines.beyond) : entry;
}

inline Vector look_up(const float* table, int stride, Integers entry) {
#if defined(__AVX512F__)
    if (stride == 16) return (Vector)_mm512_permutexvar_ps((__m512i)entry, _mm512_loadu_ps(table));
    if (stride == 32)
        return (Vector)_mm512_permutex2var_ps(_mm512_loadu_ps(table), (__m512i)entry, _mm512_loadu_ps(table + 16));
    return (Vector)_mm512_i32gather_ps((__m512i)entry, table, 4);
#elif defined(__AVX2__)
    return (Vector)_mm256_i32gather_ps(table, (__m256i)entry, 4);
#else
    Vector y;
    for (int lane = 0; lane < LANES; ++lane) y[lane] = table[entry[lane]];
    return y;
#endif
}
inline Vector gathered(const float* table, Integers entry) {
#if defined(__AVX512F__)
    return (Vector)_mm512_i32gather_ps((__m512i)entry, table, 4);
#elif defined(__AVX2__)
    return (Vector)_mm256_i32gather_ps(table, (__m256i)entry, 4);
#else
    return look_up(table, 0, entry);
#endif
}

struct Images {  // (outer, channels, pixels), or (pixels, channels) with channels next to each other
    int64_t outer, channels, pixels;
    int repeats;  // R, functions a channel
    bool channels_last;
};

// Calls kernel(x offset, y offset of function 0, lanes, first channel, chunk) for all vectors of a part of the work.
template <class Begin, class Kernel, class End>
void through(const Images& images, int threads, Begin begin, Kernel kernel, End end) {
    const int64_t channels = images.channels, pixels = images.pixels, repeats = images.repeats;
    const int64_t blocks = images.channels_last ? (channels + LANES - 1) / LANES : channels;
    const int64_t all_pixels = images.outer * pixels;
    // Chunks depend on sizes alone, so that sums do not depend on the number of threads.
    const int64_t outer_per_chunk = images.channels_last ? 0 : (CHUNK + pixels - 1) / pixels;
    const int64_t chunks = images.channels_last ? (all_pixels + CHUNK - 1) / CHUNK
                                                : (images.outer + outer_per_chunk - 1) / outer_per_chunk;
    threads = all_pixels * channels * repeats < SERIAL ? 1 : threads;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t item = 0; item < blocks * chunks; ++item) {
        const int64_t chunk = item / blocks, block = item % blocks;
        if (images.channels_last) {
            const int64_t c = block * LANES;
            const int n = int(channels - c < LANES ? channels - c : LANES);
            auto state = begin(c, n);
            const int64_t stop = (chunk + 1) * CHUNK < all_pixels ? (chunk + 1) * CHUNK : all_pixels;
            for (int64_t p = chunk * CHUNK; p < stop; ++p)
                kernel(state, p * channels + c, (p * channels + c) * repeats, n);
            end(state, c, n, chunk);
        } else {
            auto state = begin(block, 1);
            const int64_t last = (chunk + 1) * outer_per_chunk;
            for (int64_t i = chunk * outer_per_chunk; i < (last < images.outer ? last : images.outer); ++i)
                for (int64_t p = 0; p < pixels; p += LANES) {
                    const int n = int(pixels - p < LANES ? pixels - p : LANES);
                    const int64_t row = i * channels + block;
                    kernel(state, row * pixels + p, row * repeats * pixels + p, n);
                }
            end(state, block, 1, chunk);
        }
    }
}

struct Ends {
    Vector low, high, scale;
    Integers channel;  // where the lane's own table begins
};
inline Ends ends(const Grid& grid, const Images& images, int64_t c, int n, int table_size) {
    Ends at;
    if (images.channels_last) {
        at.low = load(grid.low + c * grid.stride, grid.stride, n);
        at.high = load(grid.high + c * grid.stride, grid.stride, n);
        for (int lane = 0; lane < LANES; ++lane) at.channel[lane] = (lane < n ? lane : 0) * table_size;
        for (int lane = n; lane < LANES; ++lane) at.low[lane] = 0, at.high[lane] = 1;
    } else {
        at.low = all(grid.low[c * grid.stride]);
        at.high = all(grid.high[c * grid.stride]);
        at.channel = Integers{};
    }
    at.scale = float(grid.size) / (at.high - at.low);
    return at;
}

template <int ORDER>
std::vector<float> tables_of(const Splines<ORDER>& splines, const Images& images, const float* weight) {
    const int64_t functions = images.channels * images.repeats, size = (ORDER + 1) * splines.stride;
    std::vector<float> tables(functions * size);
    for (int64_t f = 0; f < functions; ++f) splines.table(weight + f * splines.functions, 1, &tables[f * size]);
    return tables;
}

template <int ORDER, bool LAST>
void activation_of(const float* x, const float* base_weight, const float* basis_weight, float* y, const Images& images,
                   const Grid& grid, int base, int extrapolation, int threads) {
    const Splines<ORDER> splines(grid.size, extrapolation);
    const int size = (ORDER + 1) * splines.stride, repeats = images.repeats;
    const std::vector<float> tables = tables_of(splines, images, basis_weight);
    const int64_t step = LAST ? 1 : images.pixels, stride = LAST ? repeats : 1;
    struct State { Ends at; const float* table; const float* weight; Vector weights; };
    through(images, threads,
        [&](int64_t c, int n) {
            State state{ends(grid, images, c, n, size * repeats), &tables[c * repeats * size],
                        base == NONE ? nullptr : base_weight + c * repeats, {}};
            if (base != NONE) state.weights = LAST ? load(state.weight, repeats, n) : all(*state.weight);
            return state;
        },
        [&](State& state, int64_t from, int64_t to, int n) {
            const Vector point = load(x + from, 1, n);
            const Place at = place(splines, point, state.at.low, state.at.high, state.at.scale);
            const Vector fixed = base == NONE ? Vector{} : base_value(base, point);
            for (int r = 0; r < repeats; ++r) {
                const float* table = state.table + r * size;
                Vector sum{};
                for (int m = ORDER; m >= 0; --m) {
                    const float* row = table + m * splines.stride;
                    const Vector part = LAST ? gathered(row, at.entry + state.at.channel)
                                             : look_up(row, splines.stride, at.entry);
                    sum = m == ORDER ? part : sum * at.t + part;
                }
                if (base != NONE) {
                    const Vector weight = r == 0 ? state.weights
                                                 : LAST ? load(state.weight + r, repeats, n) : all(state.weight[r]);
                    sum += fixed * weight;
                }
                store(sum, y + to + r * step, stride, n);
            }
        },
        [](State&, int64_t, int, int64_t) {});
}

template <int ORDER, bool LAST>
void activation_backward_of(const float* grad, const float* x, const float* base_weight, const float* basis_weight,
                            float* by_x, double* by_weight, const Images& images, const Grid& grid, int base,
                            int extrapolation, int threads) {
    const Splines<ORDER> splines(grid.size, extrapolation);
    const int size = (ORDER + 1) * splines.stride, repeats = images.repeats, functions = splines.functions;
    const bool need_x = by_x != nullptr, need_weight = by_weight != nullptr;
    const bool dense = extrapolation == ZERO && functions < MOST_DENSE;
    const std::vector<float> tables = need_x ? tables_of(splines, images, basis_weight) : std::vector<float>();
    const int64_t step = LAST ? 1 : images.pixels, stride = LAST ? repeats : 1;
    static const Pieces<ORDER> pieces;
    const int row_size = 1 + functions;
    const int64_t chunk_size = images.channels * repeats * row_size;
    // Scattered: room for functions that do not exist at both ends; in linear parts, the two slopes of the ends.
    const int room = splines.entries + 2 * (ORDER + 1);
    struct State {
        Ends at;
        const float* table;
        const float* weight;
        Vector sums[MOST_DENSE + 1];
        std::vector<Vector> more;   // [repeats][1 + functions] of all but the first function
        std::vector<float> alive;   // [lanes or 2][repeats][room][ORDER + 1]
    };
    const int copies = LAST ? LANES : 4;
    auto scatter = [&](State& state, int r, Vector g, const Place& at, int n) {
        // Σ g·t^m over what is in an entry: a spline is a polynomial there, of one set of weights.
        float moments[ORDER + 1][LANES];
        Vector part = g;
        for (int m = 0; m <= ORDER; ++m) {
            std::memcpy(moments[m], &part, sizeof part);
            part *= at.t;
        }
        for (int lane = 0; lane < n; ++lane) {
            float* to = &state.alive[((int64_t(LAST ? lane : lane % copies) * repeats + r) * room + at.entry[lane]) * (ORDER + 1)];
            for (int m = 0; m <= ORDER; ++m) to[m] += moments[m][lane];
        }
    };
    through(images, threads,
        [&](int64_t c, int n) {
            State state{ends(grid, images, c, n, size * repeats), need_x ? &tables[c * repeats * size] : nullptr,
                        base == NONE ? nullptr : base_weight + c * repeats, {}, {}, {}};
            if (need_weight && repeats > 1) state.more.resize(int64_t(repeats - 1) * row_size);
            if (need_weight && !dense) state.alive.resize(int64_t(copies) * repeats * room * (ORDER + 1));
            return state;
        },
        [&](State& state, int64_t from, int64_t to, int n) {
            const Vector point = load(x + from, 1, n);
            Place at = place(splines, point, state.at.low, state.at.high, state.at.scale);
            Vector value{}, slope{};
            if (base != NONE) {
                if (need_x && need_weight) base_both(base, point, value, slope);
                else if (need_x) slope = base_slope(base, point);
                else value = base_value(base, point);
            }
            Vector pulled{};
            Vector first{};
            Integers entry = at.entry;
            if (need_x && ORDER == 1) entry = exact_side(splines, at.entry, point, state.at.low, state.at.high);
            for (int r = 0; r < repeats; ++r) {
                const Vector g = load(grad + to + r * step, stride, n);
                if (r == 0) first = g;
                if (need_x) {
                    const float* table = state.table + r * size;
                    Vector sum{};
                    for (int m = ORDER; m >= 1; --m) {
                        const float* row = table + m * splines.stride;
                        const Vector part = (LAST ? gathered(row, entry + state.at.channel)
                                                  : look_up(row, splines.stride, entry)) * float(m);
                        sum = m == ORDER ? part : sum * at.t + part;
                    }
                    sum *= state.at.scale;
                    if (base != NONE) {
                        const Vector weight = LAST ? load(state.weight + r, repeats, n) : all(state.weight[r]);
                        sum += slope * weight;
                    }
                    pulled += g * (point == point ? sum : point);
                }
                if (need_weight && !dense) scatter(state, r, g, at, n);
                if (need_weight && base != NONE) {
                    if (r == 0) state.sums[0] += g * value;
                    else state.more[int64_t(r - 1) * row_size] += g * value;
                }
            }
            if (need_x) store(pulled, by_x + from, 1, n);
            if (need_weight && dense) {
                Vector distance = (point - (state.at.low + state.at.high) * 0.5f) * state.at.scale + (functions - 1) * 0.5f;
                if (n < LANES) for (int lane = n; lane < LANES; ++lane) distance[lane] = 1e3f;
                if (repeats == 1) {
                    for (int k = 0; k < functions; ++k) state.sums[1 + k] += first * bump<ORDER>(distance - float(k));
                } else {
                    for (int k = 0; k < functions; ++k) {
                        const Vector b = bump<ORDER>(distance - float(k));
                        state.sums[1 + k] += first * b;
                        for (int r = 1; r < repeats; ++r)
                            state.more[int64_t(r - 1) * row_size + 1 + k] += load(grad + to + r * step, stride, n) * b;
                    }
                }
            }
        },
        [&](State& state, int64_t c, int n, int64_t chunk) {
            if (!need_weight) return;
            for (int r = 0; r < repeats; ++r) {
                for (int lane = 0; lane < n; ++lane) {
                    double* to = by_weight + chunk * chunk_size + ((c + lane) * repeats + r) * row_size;
                    for (int k = 0; k < (dense ? row_size : 1); ++k) {
                        const Vector part = r == 0 ? state.sums[k] : state.more[int64_t(r - 1) * row_size + k];
                        to[k] = LAST ? double(part[lane]) : double(total(part));
                    }
                    if (dense) continue;
                    for (int copy = LAST ? lane : 0; copy < (LAST ? lane + 1 : copies); ++copy) {
                        const float* sums = &state.alive[(int64_t(copy) * repeats + r) * room * (ORDER + 1)];
                        for (int e = 0; e < splines.entries; ++e) {
                            const float* moment = sums + e * (ORDER + 1);
                            const bool below = e == 0, above = e == splines.entries - 1;
                            float wrong = 0;  // or NaN, where a number is none, and then so is its product with zero
                            for (int m = 0; m <= ORDER; ++m) wrong += moment[m] * 0.0f;
                            if (wrong != 0) for (int k = 0; k < functions; ++k) to[1 + k] += wrong;
                            if ((below || above) && extrapolation == ZERO) continue;
                            const int interval = below ? 0 : above ? splines.intervals - 1 : e - 1;
                            for (int b = 0; b <= ORDER; ++b) {
                                const int k = interval - splines.beyond + b;
                                if (k < 0 || k >= functions) continue;
                                double sum = 0;
                                if (below || above) {  // value and slope at the end, t from the entry's left end
                                    double value = 0, slope = 0;
                                    for (int m = 0; m <= ORDER; ++m) {
                                        value += below ? (m == 0) * pieces.of[b][0] : pieces.of[b][m];
                                        slope += below ? (m == 1) * pieces.of[b][m] : m * pieces.of[b][m];
                                    }
                                    sum = value * moment[0];
                                    if (extrapolation == LINEAR)
                                        sum += slope * (double(moment[1]) - (below ? double(moment[0]) : 0.0));
                                } else {
                                    for (int m = 0; m <= ORDER; ++m) sum += pieces.of[b][m] * moment[m];
                                }
                                to[1 + k] += sum;
                            }
                        }
                    }
                }
            }
        });
}

}  // namespace

extern "C" {

int64_t convkan_chunks(int64_t outer, int64_t pixels, int channels_last) {
    if (channels_last) return (outer * pixels + CHUNK - 1) / CHUNK;
    const int64_t per_chunk = (CHUNK + pixels - 1) / pixels;
    return (outer + per_chunk - 1) / per_chunk;
}

void convkan_features(const float* x, void* out, int half, const int64_t* sizes, const float* low, const float* high,
                      int64_t stride, int size, int base, int threads) {
    Layout at;
    std::memcpy(&at, sizes, sizeof at);
    const Grid grid{low, high, stride, size};
    if (half) features_of<CONVKAN_ORDER>(x, (uint16_t*)out, at, grid, base, threads);
    else features_of<CONVKAN_ORDER>(x, (float*)out, at, grid, base, threads);
}

void convkan_pull_back(const float* x, const void* grad, int half, float* out, const int64_t* sizes, const float* low,
                       const float* high, int64_t stride, int size, int base, int threads) {
    Layout at;
    std::memcpy(&at, sizes, sizeof at);
    const Grid grid{low, high, stride, size};
    if (half) pull_back<CONVKAN_ORDER>(x, (const uint16_t*)grad, out, at, grid, base, threads);
    else pull_back<CONVKAN_ORDER>(x, (const float*)grad, out, at, grid, base, threads);
}

void convkan_activation(const float* x, const float* base_weight, const float* basis_weight, float* y, int64_t outer,
                        int64_t channels, int64_t pixels, int repeats, int last, const float* low, const float* high,
                        int64_t stride, int size, int base, int extrapolation, int threads) {
    const Images images{outer, channels, pixels, repeats, bool(last)};
    const Grid grid{low, high, stride, size};
    if (last) activation_of<CONVKAN_ORDER, true>(x, base_weight, basis_weight, y, images, grid, base, extrapolation, threads);
    else activation_of<CONVKAN_ORDER, false>(x, base_weight, basis_weight, y, images, grid, base, extrapolation, threads);
}

void convkan_activation_backward(const float* grad, const float* x, const float* base_weight, const float* basis_weight,
                                 float* by_x, double* by_weight, int64_t outer, int64_t channels, int64_t pixels,
                                 int repeats, int last, const float* low, const float* high, int64_t stride, int size,
                                 int base, int extrapolation, int threads) {
    const Images images{outer, channels, pixels, repeats, bool(last)};
    const Grid grid{low, high, stride, size};
    if (last)
        activation_backward_of<CONVKAN_ORDER, true>(grad, x, base_weight, basis_weight, by_x, by_weight, images, grid, base,
                                          extrapolation, threads);
    else
        activation_backward_of<CONVKAN_ORDER, false>(grad, x, base_weight, basis_weight, by_x, by_weight, images, grid, base,
                                           extrapolation, threads);
}
}
