// Just enough CUDA for g++ to compile a kernel for the CPU: each thread of each block runs in turn, to its end.
// There are no barriers, no shared memory and no warp operations: a kernel that needs them does not compile here.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>

#define __global__ __attribute__((visibility("default")))
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(n)

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

static thread_local dim3 gridDim, blockDim, blockIdx, threadIdx;

// As `cvt.f32.f16` and `cvt.rn.f16.f32` do it: to nearest, ties to even, by the compiler's own half type.
static inline float cuda_host_widen_half(unsigned short bits) {
    _Float16 half;
    std::memcpy(&half, &bits, sizeof half);
    return static_cast<float>(half);
}

static inline unsigned short cuda_host_narrow_half(float value) {
    const _Float16 half = static_cast<_Float16>(value);
    unsigned short bits;
    std::memcpy(&bits, &half, sizeof bits);
    return bits;
}

// Threads run one after another, so nothing can come between.
static inline unsigned long long atomicCAS(unsigned long long *at, unsigned long long expected, unsigned long long wanted) {
    const unsigned long long found = *at;
    if (found == expected) *at = wanted;
    return found;
}

static inline unsigned long long atomicMax(unsigned long long *at, unsigned long long value) {
    const unsigned long long found = *at;
    if (found < value) *at = value;
    return found;
}

namespace cuda_host {

// The order in which threads run must not matter: CUDA_HOST_ORDER=reverse runs the last one first.
inline bool reversed() {
    const char *order = std::getenv("CUDA_HOST_ORDER");
    return order && std::strcmp(order, "reverse") == 0;
}

template <class F> void each(dim3 size, dim3 &index, bool reverse, F body) {
    const std::uint64_t count = std::uint64_t(size.x) * size.y * size.z;
    for (std::uint64_t i = 0; i < count; i++) {
        const std::uint64_t at = reverse ? count - 1 - i : i;
        index.x = at % size.x;
        index.y = at / size.x % size.y;
        index.z = at / size.x / size.y;
        body();
    }
}

template <auto kernel> struct Entry;

template <class... Args, void (*kernel)(Args...)> struct Entry<kernel> {
    template <std::size_t... I> static void call(void **args, std::index_sequence<I...>) {
        kernel(*static_cast<std::remove_const_t<Args> *>(args[I])...);
    }

    static void launch(dim3 grid, dim3 block, void **args) {
        gridDim = grid;
        blockDim = block;
        const bool reverse = reversed();
        each(grid, blockIdx, reverse, [&] {
            each(block, threadIdx, reverse, [&] { call(args, std::index_sequence_for<Args...>{}); });
        });
    }
};

} // namespace cuda_host

// The symbol that the driver looks up: `NAME` as `cuda_host_NAME`, launched over a whole grid.
#define CUDA_HOST_ENTRY(NAME)                                                                                         \
    extern "C" __attribute__((visibility("default"))) void cuda_host_##NAME(dim3 grid, dim3 block, void **args) {     \
        cuda_host::Entry<NAME>::launch(grid, block, args);                                                            \
    }
