// Sums of the rows of a batch, of groups of one part and of several.
#include "batch.h"

namespace {

const unsigned V = 40, N_IDS = 120, PART = 4;

// The words of a table on the device, and where they lie in it.
struct Table {
    std::vector<u32> parts, long_groups, first_parts = {0};
    Groups groups;

    explicit Table(const Batch &batch) {
        for (unsigned group = 0; group < batch.rows.size(); group++) {
            const u32 first = batch.starts[group], end = batch.starts[group + 1];
            if (end - first <= PART) continue;
            for (u32 start = first; start < end; start += PART) {
                parts.insert(parts.end(), {start, std::min(end, start + PART)});
            }
            long_groups.push_back(group);
            first_parts.push_back(parts.size() / 2);
        }
        groups = {batch.rows.data(), batch.starts.data(), batch.places.data(), parts.data(),
                  long_groups.data(), first_parts.data(), batch.rows.size(), parts.size() / 2, long_groups.size()};
    }
};

template <class N> void sum(unsigned width, void (*scatter_add)(const Scatter), void (*add_parts)(const Scatter)) {
    typedef typename N::Stored Stored;
    const Batch batch(V, N_IDS);
    const Table table(batch);
    Memory grad = values<N>(N_IDS * width);
    for (const bool is_table : {false, true}) {
        Memory out((is_table ? V : batch.rows.size()) * width * sizeof(Stored));
        Memory part_sums(table.groups.n_parts * width * sizeof(typename N::Wide));
        const Scatter job = {out.as<void>(), grad.as<void>(), part_sums.as<void>(), table.groups, width, PART, 0.5, is_table, is_table};
        for (const unsigned blocks : {unsigned(table.groups.n_parts + table.groups.n_groups) / BLOCK.y + 1, 1u}) {
            launch({blocks, 2, 1}, BLOCK, {&out, &part_sums}, [=] { scatter_add(job); });
            launch({blocks, 2, 1}, BLOCK, {&out, &part_sums}, [=] { add_parts(job); });
        }
    }
}

} // namespace

int main() {
    return over_widths([](unsigned width) {
        sum<F32>(width, scatter_add_f32, add_parts_f32);
        sum<Bf16>(width, scatter_add_bf16, add_parts_bf16);
    });
}
