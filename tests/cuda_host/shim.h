// Just enough CUDA for g++ to compile a kernel for the CPU: each thread of each block runs in turn, to its end (in races/,
// several at the same time).
// There are no barriers, no shared memory and no warp operations: a kernel that needs them does not compile here.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

#define __global__ __attribute__((visibility("default")))
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#ifdef CUDA_HOST_LIST // the stand-in nvcc reads names and bounds of kernels from the preprocessed text
#define __launch_bounds__(n) cuda_host_bounds(n)
#else
#define __launch_bounds__(n)
#endif

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

static thread_local dim3 gridDim, blockDim, blockIdx, threadIdx;

// Steps of the thread that runs, each of which waits for the one before: a load, or the terms of a sum.
static thread_local std::uint64_t cuda_host_steps;
#define DEPENDENT_STEP() (cuda_host_steps++)

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

static inline unsigned long long atomicCAS(unsigned long long *at, unsigned long long expected, unsigned long long wanted) {
    __atomic_compare_exchange_n(at, &expected, wanted, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}

static inline unsigned long long atomicMax(unsigned long long *at, unsigned long long value) {
    unsigned long long found = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (found < value &&
           !__atomic_compare_exchange_n(at, &found, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return found;
}

namespace cuda_host {

// The order in which threads run must not matter: CUDA_HOST_ORDER=reverse runs the last one first.
inline bool reversed() {
    const char *order = std::getenv("CUDA_HOST_ORDER");
    return order && std::strcmp(order, "reverse") == 0;
}

// Tells the driver where the frames of a kernel begin, or that none is running.
extern "C" void cuda_host_check_from(void *frame);

// Numbers of threads are the host's, so what touches them is not checked as a kernel is.
#define CUDA_HOST_UNCHECKED __attribute__((noinline, no_sanitize("kernel-address")))

template <class F> CUDA_HOST_UNCHECKED void each(dim3 size, dim3 &index, bool reverse, F body) {
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
    // The arguments are copied now, and each thread of the launch is called later.
    static std::function<std::uint64_t()> *prepare(dim3 grid, dim3 block, void **args) {
        return copied(grid, block, args, std::index_sequence_for<Args...>{});
    }

    template <std::size_t... I>
    static std::function<std::uint64_t()> *copied(dim3 grid, dim3 block, void **args, std::index_sequence<I...>) {
        std::tuple<std::remove_const_t<Args>...> copy{*static_cast<std::remove_const_t<Args> *>(args[I])...};
        return new std::function<std::uint64_t()>([=] {
            gridDim = grid;
            blockDim = block;
            std::uint64_t longest = 0;
            const bool reverse = reversed();
            const auto own = copy; // on the stack, where the driver lets a kernel read
            cuda_host_check_from(__builtin_frame_address(0));
            each(gridDim, blockIdx, reverse, [&] {
                each(blockDim, threadIdx, reverse, [&] {
                    cuda_host_steps = 0;
                    std::apply(kernel, own);
                    longest = cuda_host_steps > longest ? cuda_host_steps : longest;
                });
            });
            cuda_host_check_from(nullptr);
            return longest;
        });
    }
};

} // namespace cuda_host

// What the driver looks up, `NAME` as `cuda_host_NAME`: how to prepare a launch over a whole grid, and how many threads a
// block may have.
namespace cuda_host {
struct Kernel {
    std::function<std::uint64_t()> *(*prepare)(dim3 grid, dim3 block, void **args);
    unsigned max_threads;
};
} // namespace cuda_host

#define CUDA_HOST_ENTRY(NAME, BOUND)                                                                                  \
    extern "C" __attribute__((visibility("default"))) const cuda_host::Kernel cuda_host_##NAME = {                    \
        cuda_host::Entry<NAME>::prepare, BOUND};
