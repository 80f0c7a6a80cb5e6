// Learnable activations: every function of every channel in one pass, and in one pass back all of their gradients.
//
// A function is looked up as the polynomial of the interval that a point is in. Sums of gradients by coefficients are
// sums of powers of the place within each interval, of which the functions' are made at the end: their cost does not
// grow with the grid.
#pragma once

#include <vector>

#include "bases.h"
#include "pieces.h"
#include "tables.h"

namespace {

constexpr int64_t CHUNK = 4096;  // entries of a channel that are summed up in float32
constexpr int64_t TILE = 256;  // pixels that are transposed together
constexpr int64_t PITCH = TILE + 16;  // between rows of a tile, so that they do not share places in the cache
constexpr int CHANNELS = 32;  // next to each other, that are transposed together
constexpr int64_t FEW = 1 << 14;  // numbers up to which one thread is fastest

struct Images {  // (outer, channels, pixels), or (pixels, channels) with channels next to each other
    int64_t outer, channels, pixels;
    int repeats;  // R, functions a channel
    bool channels_last;
};

// A part of the work: one channel in a chunk of images, or up to CHANNELS of them, next to each other, in a chunk of
// pixels. Either way its numbers are seen channel by channel, in rows: those of an image as they lie, others transposed
// some pixels at a time.
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
        return LAST ? (images.channels + CHANNELS - 1) / CHANNELS : images.channels;
    }

    Part(const Images& images, int64_t item)
        : images(images), chunk(item / blocks(images)), channel(item % blocks(images) * (LAST ? CHANNELS : 1)),
          channels(LAST && images.channels - channel < CHANNELS ? int(images.channels - channel) : LAST ? CHANNELS : 1) {}

    // Calls work(channel of the part, x, grad, out, count, distance between the functions of a channel) for all rows;
    // `grad` has R functions a channel, `out` so many; both may be null.
    template <class Work>
    ALWAYS_INLINE inline void rows(const float* x, const float* grad, float* out, int functions, Work work) const {
        const int64_t all = images.channels, pixels = images.pixels, repeats = images.repeats;
        const int64_t start = chunk * entries_a_chunk(images), whole = entries(images);
        const int64_t stop = start + entries_a_chunk(images) < whole ? start + entries_a_chunk(images) : whole;
        if constexpr (!LAST) {
            for (int64_t entry = start; entry < stop; ++entry) {
                const int64_t row = (entry * all + channel) * pixels;
                work(0, x + row, grad ? grad + row * repeats : grad, out ? out + row * functions : out, pixels, pixels);
            }
        } else {
            const int64_t of_grad = grad ? channels * repeats : 0, of_out = out ? channels * functions : 0;
            std::vector<float> space((channels + of_grad + of_out) * PITCH);
            float *const seen = space.data(), *const pulled = seen + channels * PITCH, *const made = pulled + of_grad * PITCH;
            for (int64_t entry = start; entry < stop; entry += TILE) {
                const int64_t count = stop - entry < TILE ? stop - entry : TILE, row = entry * all + channel;
                transpose(x + row, all, seen, PITCH, count, channels);
                if (grad) transpose(grad + row * repeats, all * repeats, pulled, PITCH, count, of_grad);
                for (int c = 0; c < channels; ++c)
                    work(c, seen + c * PITCH, pulled + c * repeats * PITCH, out ? made + c * functions * PITCH : out, count,
                         PITCH);
                if (out) transpose(made, PITCH, out + row * functions, all * functions, of_out, count);
            }
        }
    }
};

// Calls kernel(position, lanes) for all vectors of a row.
template <class Kernel>
ALWAYS_INLINE inline void for_each_vector(int64_t count, Kernel kernel) {
    int64_t p = 0;
    for (; p + LANES <= count; p += LANES) kernel(p, LANES);
    if (p < count) kernel(p, int(count - p));
}

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
    // With constants added to them, one a function, unless null.
    Tables(const Intervals<ORDER>& intervals, int64_t functions, const float* weight, const float* constants)
        : stride((intervals.count + LANES - 1) / LANES * LANES), size((ORDER + 1) * stride), numbers(functions * size) {
        for (int64_t f = 0; f < functions; ++f) {
            float* to = &numbers[f * size];
            intervals.tabulate(weight + f * intervals.functions, to, stride);
            for (int i = 0; constants && i < intervals.count; ++i) to[i] += constants[f];
        }
    }
};

// Σ_m factor(m)·c_m·t^(m − LOWEST) of a function, looked up.
template <int ORDER, int LOWEST>
ALWAYS_INLINE inline Vector polynomial(const float* table, int stride, const Place& at) {
    Vector sum{};
    for (int m = ORDER; m >= LOWEST; --m) {
        Vector part = look_up(table + m * stride, stride, at.interval);
        if (LOWEST == 1 && m > 1) part *= float(m);  // of the derivative
        sum = m == ORDER ? part : sum * at.t + part;
    }
    return sum;
}

template <int ORDER, bool LAST>
void activation(const float* x, const float* base_weight, const float* basis_weight, const float* constants, float* y,
                const Images& images, const Grid& grid, int base, int extrapolation, int threads) {
    const Intervals<ORDER> intervals(grid.size, extrapolation);
    const int repeats = images.repeats;
    const Tables<ORDER> tables(intervals, images.channels * repeats, basis_weight, constants);
    for_each_part<LAST>(images, threads, [=, &tables, &images, &grid](const Part<LAST>& part) {
        part.rows(x, nullptr, y, repeats, [=, &tables, &grid, &part](
            int channel, const float* x, const float*, float* y, int64_t count, int64_t step) ALWAYS_INLINE {
            const int64_t c = part.channel + channel;
            const Ends ends(grid, c);
            const float* table = &tables.numbers[c * repeats * tables.size];
            const float* weight = base == NONE ? nullptr : base_weight + c * repeats;
            const int size = tables.size, row = tables.stride;
            for_each_vector(count, [&](int64_t p, int n) ALWAYS_INLINE {
                const Vector point = load(x + p, 1, n);
                const Place at = place(intervals, point, ends);
                const Vector fixed = base == NONE ? Vector{} : base_value(base, point);
                for (int r = 0; r < repeats; ++r) {
                    Vector sum = polynomial<ORDER, 0>(table + r * size, row, at);
                    if (base != NONE) sum += fixed * weight[r];
                    store(sum, y + r * step + p, 1, n);
                }
            });
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

// by_weight: (chunks, channels * R, 1 + functions + 1), zeros to begin with: by the base weight, by those of the
// functions, by a constant. It and by_x may be null.
template <int ORDER, bool LAST>
void activation_backward(const float* grad, const float* x, const float* base_weight, const float* basis_weight,
                         float* by_x, double* by_weight, const Images& images, const Grid& grid, int base,
                         int extrapolation, int threads) {
    const Intervals<ORDER> intervals(grid.size, extrapolation);
    const int repeats = images.repeats;
    const Tables<ORDER> tables(intervals, by_x ? images.channels * repeats : 0, basis_weight, nullptr);
    for_each_part<LAST>(images, threads, [=, &tables, &images, &grid](const Part<LAST>& part) {
        std::vector<Moments<ORDER>> moments(part.channels, Moments<ORDER>(by_weight ? intervals.count : 0, repeats));
        std::vector<Vector> base_sums(part.channels * repeats);
        Moments<ORDER>* moment = moments.data();
        Vector* base_sum = base_sums.data();
        part.rows(x, grad, by_x, 1, [=, &tables, &grid, &part](
            int channel, const float* x, const float* grad, float* by_x, int64_t count, int64_t step) ALWAYS_INLINE {
            const int64_t c = part.channel + channel;
            const Ends ends(grid, c);
            const float *table = by_x ? &tables.numbers[c * repeats * tables.size] : nullptr;
            const float* weight = base == NONE ? nullptr : base_weight + c * repeats;
            const int size = tables.size, row = tables.stride;
            Moments<ORDER>& sums = moment[channel];
            Vector* fixed_sums = base_sum + channel * repeats;
            for_each_vector(count, [&](int64_t p, int n) ALWAYS_INLINE {
                const Vector point = load(x + p, 1, n);
                const Place at = place(intervals, point, ends);
                const Tangent fixed = base == NONE ? Tangent{} : base_tangent(base, point);
                Place sided = at;
                if (by_x && ORDER == 1) sided.interval = exact_side(intervals, at.interval, point, ends);
                Vector pulled{};
                for (int r = 0; r < repeats; ++r) {
                    const Vector g = load(grad + r * step + p, 1, n);
                    if (by_x) {
                        Vector slope = polynomial<ORDER, 1>(table + r * size, row, sided);
                        slope *= ends.scale;
                        if (base != NONE) slope += fixed.slope * weight[r];
                        pulled += g * (point == point ? slope : point);
                    }
                    if (by_weight) {
                        sums.add(r, g, at);
                        if (base != NONE) fixed_sums[r] += g * fixed.value;
                    }
                }
                if (by_x) store(pulled, by_x + p, 1, n);
            });
        });
        if (!by_weight) return;
        for (int channel = 0; channel < part.channels; ++channel) {
            moments[channel].finish();
            for (int r = 0; r < repeats; ++r) {
                const int64_t functions = images.channels * repeats, f = (part.channel + channel) * repeats + r;
                double* sums = by_weight + (part.chunk * functions + f) * (2 + intervals.functions);
                sums[0] = total(base_sums[channel * repeats + r]);
                for (int interval = 0; interval < intervals.count; ++interval) {
                    double powers[ORDER + 1] = {};
                    for (int lane = 0; lane < LANES; ++lane)
                        for (int m = 0; m <= ORDER; ++m) powers[m] += moments[channel].of(lane, r, interval, m);
                    intervals.collect(interval, powers, sums + 1);
                    sums[1 + intervals.functions] += powers[0];
                }
            }
        }
    });
}

}  // namespace
