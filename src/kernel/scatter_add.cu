// out[row of group g] = sum of grad[places of g]: the gradient of a table under a gather, the same bits at every run.
//
// The host has sorted the ids: each group names one row of the table and the places in the batch that took it. One thread
// sums the columns that it owns over a whole group, in the order of the places, in the wide type, and rounds once: no
// atomics. A group is split by columns into many threads, and the groups are spread over many blocks.
#include "number.cuh"

namespace {

struct Scatter {
    void *out;
    const void *grad;
    const u64 *rows;   // of each group
    const u64 *starts; // of each group in `places`, and the end of the last
    const u64 *places;
    u64 n_groups;
    u64 width;
};

template <class N, class C>
__device__ __forceinline__ void sum_groups(const Scatter &job) {
    typedef typename N::Stored Stored;
    typedef Lanes<N, C> Values;
    const u64 n_pieces = job.width * sizeof(Stored) / sizeof(C);
    const C *const grad = static_cast<const C *>(job.grad);
    C *const out = static_cast<C *>(job.out);
    const u64 groups_at_a_time = u64(gridDim.x) * blockDim.y;
    for (u64 group = u64(blockIdx.x) * blockDim.y + threadIdx.y; group < job.n_groups; group += groups_at_a_time) {
        const u64 end = job.starts[group + 1];
        C *const to = out + job.rows[group] * n_pieces;
        const u64 step = u64(gridDim.y) * blockDim.x;
        for (u64 piece = u64(blockIdx.y) * blockDim.x + threadIdx.x; piece < n_pieces; piece += step) {
            typename N::Wide sums[Values::COUNT] = {};
            // The loads of several places are under way at a time; the additions keep their order.
#pragma unroll 4
            for (u64 at = job.starts[group]; at < end; at++) {
                const Values values = bits_as<Values>(grad[job.places[at] * n_pieces + piece]);
#pragma unroll
                for (unsigned lane = 0; lane < Values::COUNT; lane++) sums[lane] += N::widen(values.values[lane]);
            }
            Values rounded;
#pragma unroll
            for (unsigned lane = 0; lane < Values::COUNT; lane++) rounded.values[lane] = N::narrow(sums[lane]);
            to[piece] = bits_as<C>(rounded);
        }
    }
}

template <class N> __device__ __forceinline__ void scatter_add(const Scatter &job) {
    if (in_chunks(u64(job.out) | u64(job.grad), job.width * sizeof(typename N::Stored))) {
        sum_groups<N, Chunk>(job);
    } else {
        sum_groups<N, Single<N>>(job);
    }
}

} // namespace

extern "C" __global__ void __launch_bounds__(256) scatter_add_f32(const Scatter job) { scatter_add<F32>(job); }
extern "C" __global__ void __launch_bounds__(256) scatter_add_f64(const Scatter job) { scatter_add<F64>(job); }
extern "C" __global__ void __launch_bounds__(256) scatter_add_f16(const Scatter job) { scatter_add<F16>(job); }
extern "C" __global__ void __launch_bounds__(256) scatter_add_bf16(const Scatter job) { scatter_add<Bf16>(job); }
