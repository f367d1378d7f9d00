// Launches whose threads run at the same time, for ThreadSanitizer. It reports two threads that touch one address if one
// of them writes and neither is atomic, in whatever order they happen to run.
#pragma once
#include <algorithm>
#include <cstdio>
#include <initializer_list>
#include <thread>
#include <vector>

#include "../shim.h"
#include KERNELS

namespace {

const unsigned N_WORKERS = 6;
const dim3 BLOCK = {32, 8, 1}; // THREADS_X and THREADS_Y of mod.rs

// Decides the inputs, and which threads of a launch share a worker.
unsigned seed = 1;
u64 state = 0;
bool all_equal = true;

unsigned below(unsigned n) {
    state = state * 6364136223846793005 + 1442695040888963407;
    return (state >> 33) % n;
}

// Memory of the device, aligned for chunks.
struct Memory {
    std::vector<u64> words;

    explicit Memory(std::size_t n_bytes = 0) : words((n_bytes + 7) / 8) {}

    template <class T> T *as() { return reinterpret_cast<T *>(words.data()); }
};

// Small elements of one type.
template <class N> Memory values(std::size_t n) {
    Memory memory(n * sizeof(typename N::Stored));
    for (std::size_t i = 0; i < n; i++) memory.as<typename N::Stored>()[i] = N::narrow(below(100) + 1);
    return memory;
}

// Deals the threads of a grid to workers by a hash of their numbers, so that neighbors meet as strangers do.
template <class F> void run(dim3 grid, dim3 block, unsigned n_workers, F kernel) {
    const u64 per_block = u64(block.x) * block.y;
    const u64 n = u64(grid.x) * grid.y * per_block;
    std::vector<std::thread> workers;
    for (unsigned worker = 0; worker < n_workers; worker++) {
        workers.emplace_back([=] {
            gridDim = grid;
            blockDim = block;
            for (u64 i = 0; i < n; i++) {
                if (((i + seed) * 0x9e3779b97f4a7c15 >> 33) % n_workers != worker) continue;
                const u64 in_grid = i / per_block, in_block = i % per_block;
                blockIdx = {unsigned(in_grid % grid.x), unsigned(in_grid / grid.x), 0};
                threadIdx = {unsigned(in_block % block.x), unsigned(in_block / block.x), 0};
                kernel();
            }
        });
    }
    for (std::thread &worker : workers) worker.join();
}

// Launches a kernel twice: its threads one after another, then at the same time. Both must leave the same in what it
// writes.
template <class F> void launch(dim3 grid, dim3 block, std::initializer_list<Memory *> written, F kernel) {
    std::vector<std::vector<u64>> before, alone;
    for (const Memory *memory : written) before.push_back(memory->words);
    run(grid, block, 1, kernel);
    auto kept = before.begin();
    for (Memory *memory : written) {
        alone.push_back(memory->words);
        std::copy(kept->begin(), kept->end(), memory->words.begin()); // where kernels have its address
        kept++;
    }
    run(grid, block, N_WORKERS, kernel);
    auto expected = alone.begin();
    for (const Memory *memory : written) all_equal = all_equal && memory->words == *expected++;
}

// Calls `each` with some widths of rows: of one element, of singles, of chunks, of more than a warp takes at a time.
template <class F> int over_widths(F each) {
    for (seed = 1; seed <= 3; seed++) {
        state = seed;
        for (const unsigned width : {1, 7, 24, 264}) each(width);
    }
    if (!all_equal) std::fprintf(stderr, "threads at the same time wrote something else than one after another\n");
    return all_equal ? 0 : 1;
}

} // namespace
