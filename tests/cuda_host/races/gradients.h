// A gradient of a table: a whole one, rows, or both, with two runs of frozen rows.
#pragma once
#include "batch.h"

namespace {

const unsigned V = 40;

template <class N> struct Gradients {
    Batch batch;
    Memory sums, dense;
    u64 frozen[4] = {3, 6, 30, 31};

    explicit Gradients(unsigned width) : batch(V, V) {
        sums = values<N>(batch.rows.size() * width);
        dense = values<N>(V * width);
    }

    Gradient get(bool has_dense) {
        return {has_dense ? dense.as<void>() : nullptr, {sums.as<void>(), batch.rows.data(), batch.rows.size()}, frozen, 4};
    }
};

} // namespace
