// The gradient of a table as in gradient.rs: a whole table, rows of a batch, or both; and the frozen rows.
#pragma once
#include "number.cuh"

namespace {

// Sums of the rows of a batch, one for each row of the table that it touched.
struct Sums {
    const void *values; // [n_groups, width]
    const u32 *rows;    // of the table, ascending
    u64 n_groups;
};

struct Gradient {
    const void *dense; // null, or as many elements as the parameter has
    Sums batch;        // no groups where there is none
    const u64 *frozen; // where runs of frozen rows begin and end, in turns
    u64 n_frozen;
};

const u64 NO_GROUP = ~u64(0);

// Returns how many of `n` ascending values are at most `limit`.
template <class T> __device__ __forceinline__ u64 count_up_to(const T *numbers, u64 n, u64 limit) {
    u64 low = 0, high = n;
    while (low < high) {
        DEPENDENT_STEP();
        const u64 middle = low + (high - low) / 2;
        if (numbers[middle] <= limit) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

__device__ __forceinline__ bool is_frozen(const Gradient &gradient, u64 row) {
    return count_up_to(gradient.frozen, gradient.n_frozen, row) & 1;
}

// Returns the group of a row of the table, or NO_GROUP.
__device__ __forceinline__ u64 group_of(const Sums &batch, u64 row) {
    const u64 n = count_up_to(batch.rows, batch.n_groups, row);
    return n > 0 && batch.rows[n - 1] == row ? n - 1 : NO_GROUP;
}

// Returns one piece of the gradient of a row: the group's sum, the whole table's elements, or both added and rounded
// again.
template <class N, class C>
__device__ __forceinline__ Lanes<N, C> gradient_of(const Gradient &gradient, u64 row, u64 group, u64 n_pieces,
                                                   u64 piece) {
    typedef Lanes<N, C> Values;
    Values sum = {};
    if (group != NO_GROUP) {
        sum = bits_as<Values>(static_cast<const C *>(gradient.batch.values)[offset(group, n_pieces) + piece]);
    }
    if (!gradient.dense) return sum;
    const Values dense = bits_as<Values>(static_cast<const C *>(gradient.dense)[offset(row, n_pieces) + piece]);
    if (group == NO_GROUP) return dense;
#pragma unroll
    for (unsigned lane = 0; lane < Values::COUNT; lane++) {
        sum.values[lane] = N::narrow(N::widen(dense.values[lane]) + N::widen(sum.values[lane]));
    }
    return sum;
}

} // namespace
