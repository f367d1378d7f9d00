// out[row of group g] = sum of grad[places of g]: the gradient of a table under a gather, with the same bits in every
// run.
//
// One thread sums the columns that it owns over a whole group, without atomics. Columns of a group are spread over
// threads, and groups over blocks.
#include "gradient.cuh"

namespace {

struct Scatter {
    void *out;
    Batch batch;
    u64 width;
};

template <class N, class C> __device__ __forceinline__ void sum_groups(const Scatter &job) {
    const u64 n_pieces = job.width * sizeof(typename N::Stored) / sizeof(C);
    const u64 groups_at_a_time = u64(gridDim.x) * blockDim.y;
    for (u64 group = u64(blockIdx.x) * blockDim.y + threadIdx.y; group < job.batch.n_groups; group += groups_at_a_time) {
        C *const to = static_cast<C *>(job.out) + job.batch.rows[group] * n_pieces;
        const u64 step = u64(gridDim.y) * blockDim.x;
        for (u64 piece = u64(blockIdx.y) * blockDim.x + threadIdx.x; piece < n_pieces; piece += step) {
            to[piece] = bits_as<C>(sum_of_group<N, C>(job.batch, group, n_pieces, piece));
        }
    }
}

template <class N> __device__ __forceinline__ void scatter_add(const Scatter &job) {
    if (in_chunks(u64(job.out) | u64(job.batch.grad), job.width * sizeof(typename N::Stored))) {
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
