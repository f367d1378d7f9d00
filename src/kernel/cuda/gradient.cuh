// The gradient of a table as in gradient.rs: a whole table, rows of a batch, or both; and the frozen rows.
#pragma once
#include "number.cuh"

namespace {

// Rows of a batch [n_ids, width]. The host has sorted the ids: each group names one row of the table, the places in the
// batch that took it, and what their sum is multiplied by. Groups ascend by row.
struct Batch {
    const void *grad;
    const u64 *rows;       // of each group
    const u64 *starts;     // of each group in `places`, and the end of the last
    const u64 *places;
    const double *factors; // of each group
    u64 n_groups;
};

struct Gradient {
    const void *dense; // null, or as many elements as the parameter has
    Batch batch;       // no groups where there is none
    const u64 *frozen; // where runs of frozen rows begin and end, in turns
    u64 n_frozen;
};

const u64 NO_GROUP = ~u64(0);

// Returns how many of `n` ascending values are at most `limit`.
__device__ __forceinline__ u64 count_up_to(const u64 *numbers, u64 n, u64 limit) {
    u64 low = 0, high = n;
    while (low < high) {
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
__device__ __forceinline__ u64 group_of(const Batch &batch, u64 row) {
    const u64 n = count_up_to(batch.rows, batch.n_groups, row);
    return n > 0 && batch.rows[n - 1] == row ? n - 1 : NO_GROUP;
}

// Returns one piece of the sum of a group, of `n_pieces` per row: in the order of the places, in the wide type, rounded
// once.
template <class N, class C>
__device__ __forceinline__ Lanes<N, C> sum_of_group(const Batch &batch, u64 group, u64 n_pieces, u64 piece) {
    typedef Lanes<N, C> Values;
    const C *const grad = static_cast<const C *>(batch.grad);
    typename N::Wide sums[Values::COUNT] = {};
    const u64 end = batch.starts[group + 1];
    // The loads of several places are under way at a time; the additions keep their order.
#pragma unroll 4
    for (u64 at = batch.starts[group]; at < end; at++) {
        const Values values = bits_as<Values>(grad[batch.places[at] * n_pieces + piece]);
#pragma unroll
        for (unsigned lane = 0; lane < Values::COUNT; lane++) sums[lane] += N::widen(values.values[lane]);
    }
    const typename N::Wide factor = static_cast<typename N::Wide>(batch.factors[group]);
    Values rounded;
#pragma unroll
    for (unsigned lane = 0; lane < Values::COUNT; lane++) rounded.values[lane] = N::narrow(sums[lane] * factor);
    return rounded;
}

// Returns one piece of the gradient of a row: the group's sum, the whole table's elements, or both added and rounded
// again.
template <class N, class C>
__device__ __forceinline__ Lanes<N, C> gradient_of(const Gradient &gradient, u64 row, u64 group, u64 n_pieces, u64 piece) {
    typedef Lanes<N, C> Values;
    Values sum = {};
    if (group != NO_GROUP) sum = sum_of_group<N, C>(gradient.batch, group, n_pieces, piece);
    if (!gradient.dense) return sum;
    const Values dense = bits_as<Values>(static_cast<const C *>(gradient.dense)[row * n_pieces + piece]);
    if (group == NO_GROUP) return dense;
#pragma unroll
    for (unsigned lane = 0; lane < Values::COUNT; lane++) {
        sum.values[lane] = N::narrow(N::widen(dense.values[lane]) + N::widen(sum.values[lane]));
    }
    return sum;
}

} // namespace
