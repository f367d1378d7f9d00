// Rows of a batch in groups, as batch.rs makes them.
#pragma once
#include "threads.h"

namespace {

// One group for about every second row of a table, of one to nine places each.
struct Batch {
    std::vector<u32> rows, starts = {0}, places;

    Batch(unsigned n_rows, unsigned n_ids) {
        for (u32 row = below(2); row < n_rows; row += 1 + below(3)) {
            rows.push_back(row);
            for (unsigned n = 1 + below(9); n > 0; n--) places.push_back(below(n_ids));
            starts.push_back(places.size());
        }
    }
};

} // namespace
