// Learnable activations: every function of every channel in one pass, and in one pass back all of their gradients.
//
// A function is looked up as the polynomial of the interval that a point is in. Sums of gradients by coefficients are
// sums of powers of the place within each interval, of which the functions' are made at the end: their cost does not
// grow with the grid.
#pragma once

#include <vector>

#include "bases.h"
#include "splines.h"

namespace {

constexpr int64_t CHUNK = 4096;  // entries of a channel that are summed up in float32
constexpr int64_t FEW = 1 << 14;  // numbers up to which one thread is fastest

struct Images {  // (outer, channels, pixels), or (pixels, channels) with channels next to each other
    int64_t outer, channels, pixels;
    int repeats;  // R, functions a channel
    bool channels_last;
};

// A part of the work: the channels whose functions are evaluated, one or as many as there are lanes, in one chunk.
template <bool LAST>
struct Part {
    const Images& images;
    int64_t chunk, channel;
    int channels;

    // Chunks depend on sizes alone, so that sums do not depend on the number of threads.
    static int64_t entries(const Images& images) { return LAST ? images.outer * images.pixels : images.outer; }
    static int64_t entries_a_chunk(const Images& images) {
        return LAST ? CHUNK : (CHUNK + images.pixels - 1) / images.pixels;
    }
    static int64_t chunks(const Images& images) {
        return (entries(images) + entries_a_chunk(images) - 1) / entries_a_chunk(images);
    }
    static int64_t blocks(const Images& images) {
        return LAST ? (images.channels + LANES - 1) / LANES : images.channels;
    }

    Part(const Images& images, int64_t item)
        : images(images), chunk(item / blocks(images)), channel(item % blocks(images) * (LAST ? LANES : 1)),
          channels(LAST && images.channels - channel < LANES ? int(images.channels - channel) : LAST ? LANES : 1) {}

    // Calls kernel(x offset, y offset of function 0, lanes) for all vectors.
    template <class Kernel>
    ALWAYS_INLINE inline void vectors(Kernel kernel) const {
        const int64_t all_channels = images.channels, pixels = images.pixels, repeats = images.repeats;
        const int64_t size = entries_a_chunk(images), whole = entries(images);
        const int64_t stop = (chunk + 1) * size < whole ? (chunk + 1) * size : whole;
        for (int64_t entry = chunk * size; entry < stop; ++entry) {
            const int64_t row = entry * all_channels + channel;
            if constexpr (LAST) {
                kernel(row, row * repeats, channels);
            } else {
                int64_t p = 0;
                for (; p + LANES <= pixels; p += LANES) kernel(row * pixels + p, row * repeats * pixels + p, LANES);
                if (p < pixels) kernel(row * pixels + p, row * repeats * pixels + p, int(pixels - p));
            }
        }
    }

    // Of as many numbers as there are channels, those of this part, each in its lane, or one in all.
    Vector of(const float* numbers, int64_t stride) const {
        return LAST ? load(numbers + channel * stride, stride, channels) : all(numbers[channel * stride]);
    }
    Ends ends(const Grid& grid) const {
        Vector low = of(grid.low, grid.step), high = of(grid.high, grid.step);
        for (int lane = channels; LAST && lane < LANES; ++lane) high[lane] = 1;  // of a grid that does not exist
        return Ends(low, high, grid.size);
    }
};

template <bool LAST, class Work>
void for_each_part(const Images& images, int threads, Work work) {
    const int64_t items = Part<LAST>::blocks(images) * Part<LAST>::chunks(images);
    threads = images.outer * images.pixels * images.channels * images.repeats < FEW ? 1 : threads;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t item = 0; item < items; ++item) work(Part<LAST>(images, item));
}

// All functions as polynomials: coefficient m of interval i of function f at numbers[f * size + m * stride + i].
template <int ORDER>
struct Tables {
    const int stride, size;
    std::vector<float> numbers;
    Tables(const Intervals<ORDER>& intervals, int64_t functions, const float* weight)
        : stride((intervals.count + LANES - 1) / LANES * LANES), size((ORDER + 1) * stride), numbers(functions * size) {
        for (int64_t f = 0; f < functions; ++f)
            intervals.tabulate(weight + f * intervals.functions, &numbers[f * size], stride);
    }
};

// Σ_m factor(m)·c_m·t^(m − LOWEST) of functions looked up, one for all lanes, or in every lane its channel's.
template <int ORDER, int LOWEST, bool LAST>
ALWAYS_INLINE inline Vector polynomial(const float* table, int stride, Integers lanes, const Place& at) {
    Vector sum{};
    for (int m = ORDER; m >= LOWEST; --m) {
        Vector part = LAST ? gathered(table + m * stride, at.interval + lanes)
                           : look_up(table + m * stride, stride, at.interval);
        if (LOWEST == 1 && m > 1) part *= float(m);  // of the derivative
        sum = m == ORDER ? part : sum * at.t + part;
    }
    return sum;
}

// Where each lane's own table begins.
inline Integers tables_of_lanes(int channels, int64_t size) {
    Integers begin{};
    for (int lane = 0; lane < channels; ++lane) begin[lane] = int32_t(lane * size);
    return begin;
}

template <int ORDER, bool LAST>
void activation(const float* x, const float* base_weight, const float* basis_weight, float* y, const Images& images,
                const Grid& grid, int base, int extrapolation, int threads) {
    const Intervals<ORDER> intervals(grid.size, extrapolation);
    const int repeats = images.repeats;
    const Tables<ORDER> tables(intervals, images.channels * repeats, basis_weight);
    const int64_t step = LAST ? 1 : images.pixels, stride = LAST ? repeats : 1;
    for_each_part<LAST>(images, threads, [=, &tables, &images, &grid](const Part<LAST>& part) {
        const Ends ends = part.ends(grid);
        const float* table = &tables.numbers[part.channel * repeats * tables.size];
        const int size = tables.size, row = tables.stride;
        const Integers lanes = tables_of_lanes(part.channels, LAST ? int64_t(repeats) * size : 0);
        const Vector first = base == NONE ? Vector{} : part.of(base_weight, repeats);
        part.vectors([=, &part](int64_t from, int64_t to, int n) ALWAYS_INLINE {
            const Vector point = load(x + from, 1, n);
            const Place at = place(intervals, point, ends);
            const Vector fixed = base == NONE ? Vector{} : base_value(base, point);
            for (int r = 0; r < repeats; ++r) {
                Vector sum = polynomial<ORDER, 0, LAST>(table + r * size, row, lanes, at);
                if (base != NONE) sum += fixed * (r == 0 ? first : part.of(base_weight + r, repeats));
                store(sum, y + to + r * step, stride, n);
            }
        });
    });
}

// Σ g·t^m over what is in an interval, each lane for itself. Of few intervals the sums are kept as vectors, to which
// some points at a time are added under a mask; of many each lane's sums are rows of a table, to which it adds its own.
template <int ORDER>
class Moments {
    static constexpr int POWERS = ORDER + 1, WIDTH = ORDER == 1 ? 2 : ORDER <= 3 ? 4 : 8;
    static constexpr int FEW_INTERVALS = LANES == 16 ? 16 : 0, WAITING = 8;  // masks cost nothing with AVX-512 alone
    typedef float Row __attribute__((vector_size(4 * WIDTH), aligned(4)));
    struct Point {
        Integers interval;
        Vector powers[WIDTH];
    };
    const int count, repeats;
    const bool few;
    Integers begin;
    std::vector<float> rows;  // [lane][repeat][interval][power]
    std::vector<Vector> sums;  // [repeat][interval][power]
    std::vector<Point> points;  // [repeat][waiting]
    int waiting = 0;

    void flush(int repeat) {
        Vector* to = &sums[int64_t(repeat) * count * POWERS];
        const Point* from = &points[repeat * WAITING];
        for (int interval = 0; interval < count; ++interval, to += POWERS) {
            Vector sum[POWERS];
            for (int m = 0; m < POWERS; ++m) sum[m] = to[m];
            for (int i = 0; i < WAITING; ++i) {
                const Integers here = from[i].interval == interval;
                for (int m = 0; m < POWERS; ++m) sum[m] = here ? sum[m] + from[i].powers[m] : sum[m];
            }
            for (int m = 0; m < POWERS; ++m) to[m] = sum[m];
        }
    }

public:
    Moments(int count, int repeats)
        : count(count), repeats(repeats), few(count <= FEW_INTERVALS),
          rows(few ? 0 : int64_t(LANES) * repeats * count * WIDTH), sums(few ? int64_t(repeats) * count * POWERS : 0),
          points(few ? repeats * WAITING : 0) {
        for (int lane = 0; lane < LANES; ++lane) begin[lane] = lane * repeats * count * WIDTH;
    }

    ALWAYS_INLINE inline void add(int repeat, Vector g, const Place& at) {
        Vector powers[WIDTH] = {g};
        for (int m = 1; m <= ORDER; ++m) powers[m] = powers[m - 1] * at.t;
        if (few) {
            Point& point = points[repeat * WAITING + waiting];
            point.interval = at.interval;
            for (int m = 0; m < POWERS; ++m) point.powers[m] = powers[m];
            if (waiting == WAITING - 1) flush(repeat);
            if (repeat == repeats - 1) waiting = (waiting + 1) % WAITING;
            return;
        }
        float transposed[WIDTH * LANES];
        transpose<WIDTH>(powers, transposed);
        int32_t offsets[LANES];
        const Integers to = at.interval * WIDTH + begin;
        std::memcpy(offsets, &to, sizeof to);
        asm("" : "+m"(offsets));  // to be read from memory, which is faster than lane by lane
        float* table = &rows[int64_t(repeat) * count * WIDTH];
#pragma GCC unroll 16
        for (int lane = 0; lane < LANES; ++lane)
            *(Row*)(table + offsets[lane]) += *(const Row*)(transposed + WIDTH * row_of<WIDTH>(lane));
    }

    // To be called before sums are read.
    void finish() {
        if (!few || waiting == 0) return;
        for (int repeat = 0; repeat < repeats; ++repeat) {
            for (int i = waiting; i < WAITING; ++i) points[repeat * WAITING + i] = Point{};
            flush(repeat);
        }
        waiting = 0;
    }

    double of(int lane, int repeat, int interval, int power) const {
        const int64_t cell = int64_t(repeat) * count + interval;
        return few ? sums[cell * POWERS + power][lane] : rows[(int64_t(lane) * repeats * count + cell) * WIDTH + power];
    }
};

// by_weight: (chunks, channels * R, 1 + functions), zeros to begin with; it and by_x may be null.
template <int ORDER, bool LAST>
void activation_backward(const float* grad, const float* x, const float* base_weight, const float* basis_weight,
                         float* by_x, double* by_weight, const Images& images, const Grid& grid, int base,
                         int extrapolation, int threads) {
    const Intervals<ORDER> intervals(grid.size, extrapolation);
    const int repeats = images.repeats;
    const Tables<ORDER> tables(intervals, by_x ? images.channels * repeats : 0, basis_weight);
    const int64_t step = LAST ? 1 : images.pixels, stride = LAST ? repeats : 1;
    for_each_part<LAST>(images, threads, [=, &tables, &images, &grid](const Part<LAST>& part) {
        const Ends ends = part.ends(grid);
        const int size = tables.size, row = tables.stride;
        const float* table = by_x ? &tables.numbers[part.channel * repeats * tables.size] : nullptr;
        const Integers lanes = tables_of_lanes(part.channels, LAST ? int64_t(repeats) * size : 0);
        const Vector first = base == NONE ? Vector{} : part.of(base_weight, repeats);
        Moments<ORDER> moments(by_weight ? intervals.count : 0, repeats);
        std::vector<Vector> base_sums(repeats);
        Vector* base_sum = base_sums.data();
        part.vectors([=, &part, &moments](int64_t from, int64_t to, int n) ALWAYS_INLINE {
            const Vector point = load(x + from, 1, n);
            const Place at = place(intervals, point, ends);
            const Tangent fixed = base == NONE ? Tangent{} : base_tangent(base, point);
            Place sided = at;
            if (by_x && ORDER == 1) sided.interval = exact_side(intervals, at.interval, point, ends);
            Vector pulled{};
            for (int r = 0; r < repeats; ++r) {
                const Vector g = load(grad + to + r * step, stride, n);
                if (by_x) {
                    Vector slope = polynomial<ORDER, 1, LAST>(table + r * size, row, lanes, sided);
                    slope *= ends.scale;
                    if (base != NONE) slope += fixed.slope * (r == 0 ? first : part.of(base_weight + r, repeats));
                    pulled += g * (point == point ? slope : point);
                }
                if (by_weight) {
                    moments.add(r, g, at);
                    if (base != NONE) base_sum[r] += g * fixed.value;
                }
            }
            if (by_x) store(pulled, by_x + from, 1, n);
        });
        if (!by_weight) return;
        moments.finish();
        for (int lane = 0; lane < part.channels; ++lane)
            for (int r = 0; r < repeats; ++r) {
                const int64_t functions = images.channels * repeats, f = (part.channel + lane) * repeats + r;
                double* sums = by_weight + (part.chunk * functions + f) * (1 + intervals.functions);
                sums[0] = LAST ? base_sums[r][lane] : total(base_sums[r]);
                for (int interval = 0; interval < intervals.count; ++interval) {
                    double powers[ORDER + 1] = {};
                    for (int from = LAST ? lane : 0; from < (LAST ? lane + 1 : LANES); ++from)
                        for (int m = 0; m <= ORDER; ++m) powers[m] += moments.of(from, r, interval, m);
                    intervals.collect(interval, powers, sums + 1);
                }
            }
    });
}

}  // namespace
