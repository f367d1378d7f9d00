// The element types of tables, as in element.rs: widened for a sum, rounded once to nearest even.
//
// No header of the toolkit is used, so that the same text compiles with nvcc and, for tests without a GPU, with g++.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

template <class To, class From> __device__ __forceinline__ To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From), "a cast of bits keeps their number");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

// Rounds once. Everything else that looks like a multiply-add is a product, rounded, and a sum.
__device__ __forceinline__ float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
__device__ __forceinline__ double multiply_add(double a, double b, double c) { return fma(a, b, c); }
__device__ __forceinline__ float root(float value) { return sqrtf(value); }
__device__ __forceinline__ double root(double value) { return sqrt(value); }

struct F32 {
    typedef float Stored;
    typedef float Wide;
    static __device__ __forceinline__ float widen(float value) { return value; }
    static __device__ __forceinline__ float narrow(float wide) { return wide; }
    static __device__ __forceinline__ float nan() { return bits_as<float>(0x7fc00000u); }
};

struct F64 {
    typedef double Stored;
    typedef double Wide;
    static __device__ __forceinline__ double widen(double value) { return value; }
    static __device__ __forceinline__ double narrow(double wide) { return wide; }
    static __device__ __forceinline__ double nan() { return bits_as<double>(0x7ff8000000000000ull); }
};

struct Bf16 {
    typedef u16 Stored;
    typedef float Wide;
    static __device__ __forceinline__ float widen(u16 bits) { return bits_as<float>(u32(bits) << 16); }
    static __device__ __forceinline__ u16 narrow(float wide) {
        const u32 bits = bits_as<u32>(wide);
        const u32 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        const u32 nan = (bits >> 16) | 0x40; // quiet, and never rounded into an infinity
        return u16(wide != wide ? nan : rounded);
    }
    static __device__ __forceinline__ u16 nan() { return 0x7fc0; }
};

struct F16 {
    typedef u16 Stored;
    typedef float Wide;
#ifdef __CUDACC__
    static __device__ __forceinline__ float widen(u16 bits) {
        float wide;
        asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(bits));
        return wide;
    }
    static __device__ __forceinline__ u16 narrow(float wide) {
        u16 bits;
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(wide));
        return bits;
    }
#else
    static float widen(u16 bits) { return cuda_host_widen_half(bits); }
    static u16 narrow(float wide) { return cuda_host_narrow_half(wide); }
#endif
    static __device__ __forceinline__ u16 nan() { return 0x7e00; }
};

// Returns where row `row` of a table begins, in elements or pieces of `width` to a row. Only in 64 bits: a table may
// have more elements than fit 32.
__device__ __forceinline__ constexpr u64 offset(u64 row, u64 width) { return row * width; }
template <class Row, class Width> u64 offset(Row, Width) = delete;

// Marks a step that waits for the one before it in its thread: a load, or the terms of a sum. The stand-in counts them.
#ifdef __CUDACC__
#define DEPENDENT_STEP() ((void)0)
#endif

// What one thread loads and stores at a time if alignment allows: one 128-bit instruction.
struct alignas(16) Chunk {
    u32 words[4];
};

// One element with the interface of `Chunk`, if alignment does not allow that.
template <class N> struct Single {
    typename N::Stored value;
};

// The elements in a chunk or in a single.
template <class N, class C> struct Lanes {
    static const unsigned COUNT = sizeof(C) / sizeof(typename N::Stored);
    typename N::Stored values[COUNT];
};

// Returns whether rows of `n_bytes` each that begin at these addresses can be moved in chunks.
__device__ __forceinline__ bool in_chunks(u64 addresses, u64 n_bytes) { return ((addresses | n_bytes) & 15) == 0; }
