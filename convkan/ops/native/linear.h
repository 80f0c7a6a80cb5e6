// A small linear layer in one call: features of some rows at a time, and their products with the weights.
//
// Large ones leave the products to a library; of small ones most of the time would go into handing tensors over.
#pragma once

#include <algorithm>
#include <vector>

#include "features.h"

namespace {

struct Weights {  // by output; planes one after another, those of the base activation first
    const Number* base;   // (outputs, inputs), or null
    const Number* basis;  // (outputs, functions · inputs)
    int64_t inputs, outputs, functions;

    int64_t first() const { return base ? inputs : 0; }  // planes of the base activation
    int64_t planes() const { return first() + functions * inputs; }
};

// Calls kernel(weights of an output, planes, position of the first of them) for both parts of its weights.
template <class T, class Kernel>
inline void over_parts(const Weights& weights, T* base, T* basis, int64_t output, Kernel kernel) {
    const int64_t rest = weights.functions * weights.inputs;
    if (weights.base) kernel(base + output * weights.inputs, weights.inputs, int64_t(0));
    kernel(basis + output * rest, rest, weights.first());
}

// ------------------------------------------------------------------------------------------------ many rows
// Vectors go over rows, BLOCK of them at a time: plane p of row n is at [p * BLOCK + n], and so are outputs.

constexpr int64_t BLOCK = 4 * LANES;
struct Rows {
    Vector of[4];
    ALWAYS_INLINE inline void add(const Number* from, Number weight) {
        for (int part = 0; part < 4; ++part) of[part] += *(const Stored*)(from + part * LANES) * weight;
    }
};

inline Layout by_rows(const Weights& weights, int64_t rows) {
    const int64_t inputs = weights.inputs;
    return {1, inputs, rows, 0, 1, inputs, 0, BLOCK, 1, inputs * BLOCK, 0, 0, 0};
}

inline void transposed(const Number* from, Number* to, int64_t rows, int64_t columns) {  // with zeros for missing rows
    for (int64_t column = 0; column < columns; ++column)
        for (int64_t row = 0; row < BLOCK; ++row)
            to[column * BLOCK + row] = row < rows ? from[row * columns + column] : 0;
}

inline void multiply_rows(const Number* planes, const Weights& weights, Number* y, int64_t rows) {
    for (int64_t output = 0; output < weights.outputs; ++output) {
        Rows sum{};
        const auto part = [&](const Number* weight, int64_t count, int64_t first) {
            for (int64_t p = 0; p < count; ++p) sum.add(planes + (first + p) * BLOCK, weight[p]);
        };
        over_parts(weights, weights.base, weights.basis, output, part);
        for (int64_t row = 0; row < rows; ++row) y[row * weights.outputs + output] = sum.of[row / LANES][row % LANES];
    }
}

inline void spread_rows(const Number* grad, const Weights& weights, Number* planes) {
    for (int64_t output = 0; output < weights.outputs; ++output) {
        const auto part = [&](const Number* weight, int64_t count, int64_t first) {
            for (int64_t p = 0; p < count; ++p) {
                Number* to = planes + (first + p) * BLOCK;
                for (int64_t row = 0; row < BLOCK; row += LANES) {
                    const Vector more = *(const Stored*)(grad + output * BLOCK + row) * weight[p];
                    *(Stored*)(to + row) = output ? *(const Stored*)(to + row) + more : more;
                }
            }
        };
        over_parts(weights, weights.base, weights.basis, output, part);
    }
}

inline void sum_rows(const Number* grad, const Number* planes, const Weights& weights, Number* by_base,
                     Number* by_basis, bool first_block) {
    for (int64_t output = 0; output < weights.outputs; ++output)
        over_parts(weights, by_base, by_basis, output, [&](Number* by_weight, int64_t count, int64_t first) {
            for (int64_t p = 0; p < count; ++p) {
                Vector sum{};
                for (int64_t row = 0; row < BLOCK; row += LANES)
                    sum += *(const Stored*)(grad + output * BLOCK + row) *
                           *(const Stored*)(planes + (first + p) * BLOCK + row);
                by_weight[p] = total(sum) + (first_block ? Number(0) : by_weight[p]);
            }
        });
}

// ------------------------------------------------------------------------------------------------ few rows
// Vectors go over planes, row by row, as weights lie in memory.

inline Layout by_planes(const Weights& weights) {
    const int64_t inputs = weights.inputs;
    return {1, 1, inputs, 0, 0, 1, 0, 0, 1, inputs, 0, 0, 0};
}

// Products of COUNT rows of `matrix` with a vector, added to y: several at once, to wait for memory only once.
template <int COUNT>
inline void dots(const Number* matrix, int64_t stride, const Number* vector, Number* y, int64_t count) {
    Vector sums[COUNT]{};
    int64_t p = 0;
    for (; p + LANES <= count; p += LANES) {
        const Vector here = *(const Stored*)(vector + p);
        for (int row = 0; row < COUNT; ++row) sums[row] += *(const Stored*)(matrix + row * stride + p) * here;
    }
    for (int row = 0; row < COUNT; ++row) {
        y[row] += total(sums[row]);
        for (int64_t rest = p; rest < count; ++rest) y[row] += matrix[row * stride + rest] * vector[rest];
    }
}

inline void multiply_row(const Number* planes, const Weights& weights, Number* y) {
    constexpr int AT_ONCE = 8;
    std::fill(y, y + weights.outputs, Number(0));
    const auto part = [&](const Number* matrix, const Number* vector, int64_t count) {
        int64_t output = 0;
        for (; output + AT_ONCE <= weights.outputs; output += AT_ONCE)
            dots<AT_ONCE>(matrix + output * count, count, vector, y + output, count);
        for (; output < weights.outputs; ++output) dots<1>(matrix + output * count, count, vector, y + output, count);
    };
    if (weights.base) part(weights.base, planes, weights.inputs);
    part(weights.basis, planes + weights.first(), weights.functions * weights.inputs);
}

// to += from · scale, or to = from · scale.
inline void add_scaled(Number* to, const Number* from, Number scale, int64_t count, bool first) {
    int64_t p = 0;
    if (first) {
        for (; p + LANES <= count; p += LANES) *(Stored*)(to + p) = *(const Stored*)(from + p) * scale;
        for (; p < count; ++p) to[p] = from[p] * scale;
        return;
    }
    for (; p + LANES <= count; p += LANES) *(Stored*)(to + p) += *(const Stored*)(from + p) * scale;
    for (; p < count; ++p) to[p] += from[p] * scale;
}

// ------------------------------------------------------------------------------------------------ both

template <int ORDER, int EXTRAPOLATION>
void linear(const Number* x, const Weights& weights, Number* y, int64_t rows, const Grid& grid, int base) {
    const bool many = rows >= LANES;
    const int64_t block = many ? BLOCK : 1;
    std::vector<Number> planes(weights.planes() * block);
    for (int64_t start = 0; start < rows; start += block, x += block * weights.inputs, y += block * weights.outputs) {
        const int64_t count = std::min(block, rows - start);
        Layout at = many ? by_rows(weights, count) : by_planes(weights);
        (many ? at.g_fixed : at.g_lane) = grid.step;
        features<ORDER, EXTRAPOLATION>(x, planes.data(), at, grid, base, 1);
        if (many) multiply_rows(planes.data(), weights, y, count);
        else multiply_row(planes.data(), weights, y);
    }
}

// Gradients by x and by the weights, each where it is not null.
template <int ORDER, int EXTRAPOLATION>
void linear_backward(const Number* grad, const Number* x, const Weights& weights, Number* by_x, Number* by_base,
                     Number* by_basis, int64_t rows, const Grid& grid, int base) {
    const bool many = rows >= LANES;
    const int64_t block = many ? BLOCK : 1, outputs = weights.outputs;
    std::vector<Number> planes(weights.planes() * block), turned(many ? outputs * BLOCK : 0);
    if (rows == 0 && by_basis) {
        if (by_base) std::fill(by_base, by_base + outputs * weights.inputs, Number(0));
        std::fill(by_basis, by_basis + outputs * weights.inputs * weights.functions, Number(0));
    }
    for (int64_t start = 0; start < rows; start += block) {
        const int64_t count = std::min(block, rows - start);
        Layout at = many ? by_rows(weights, count) : by_planes(weights);
        (many ? at.g_fixed : at.g_lane) = grid.step;
        const Number* from = grad + start * outputs;
        if (count < block) std::fill(planes.begin(), planes.end(), Number(0));  // of rows that there are not
        if (many) transposed(from, turned.data(), count, outputs);
        if (by_basis) {
            features<ORDER, EXTRAPOLATION>(x + start * weights.inputs, planes.data(), at, grid, base, 1);
            if (many) sum_rows(turned.data(), planes.data(), weights, by_base, by_basis, start == 0);
            else
                for (int64_t output = 0; output < outputs; ++output)
                    over_parts(weights, by_base, by_basis, output, [&](Number* to, int64_t number, int64_t first) {
                        add_scaled(to, planes.data() + first, from[output], number, start == 0);
                    });
        }
        if constexpr (ORDER > 1)
            if (by_x) {
                if (many) spread_rows(turned.data(), weights, planes.data());
                else {
                    for (int64_t output = 0; output < outputs; ++output)
                        over_parts(weights, weights.base, weights.basis, output,
                                   [&](const Number* weight, int64_t number, int64_t first) {
                                       add_scaled(planes.data() + first, weight, from[output], number, output == 0);
                                   });
                }
                pull_back<ORDER, EXTRAPOLATION>(x + start * weights.inputs, planes.data(), by_x + start * weights.inputs,
                                                at, grid, base, 1);
            }
    }
}

}  // namespace
