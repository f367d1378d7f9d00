// The gradient of a table under a gather: the rows of a batch, summed by the row of the table that they belong to, with
// the bits of the CPU in every run.
//
// The order of additions is that of row_sums.rs: the places of a group are cut into parts, each part is summed from zero
// in order, and the sums of parts are added in order. A group of one part is done then. The parts of longer groups are
// tasks of their own, so that a frequent token is spread over blocks; a second kernel adds them. No atomics.
#include "gradient.cuh"

namespace {

// The places of a batch by group, made on the host: tables of 32 bits in one allocation.
struct Groups {
    const u32 *rows;        // of the table, of each group, ascending
    const u32 *starts;      // of each group in `places`, and the end of the last
    const u32 *places;      // rows of the gradient
    const u32 *parts;       // of long groups: where each part starts and ends in `places`, in turns
    const u32 *long_groups; // groups of more than one part
    const u32 *first_parts; // of each of those, and the end of the last
    u64 n_groups;
    u64 n_parts;
    u64 n_long;
};

struct Scatter {
    void *out;
    const void *grad; // [n_ids, width]
    void *part_sums;  // [n_parts, width] in the wide type
    Groups groups;
    u64 width;
    u64 part;         // `PART` of row_sums.rs
    double scale;     // of all sums
    u64 by_frequency; // divide each sum by the number of its places
    u64 is_table;     // whether `out` has all rows of the table, or one row per group
};

// The sums of a piece in the wide type, loaded and stored in as few instructions as alignment allows.
template <class N, class C> struct alignas(Lanes<N, C>::COUNT > 1 ? 16 : sizeof(typename N::Wide)) WideSums {
    typename N::Wide values[Lanes<N, C>::COUNT];
};

// Adds one piece of the rows at places `first` to `end`, of `n_pieces` per row, to zeros.
template <class N, class C>
__device__ __forceinline__ void sum_places(const Scatter &job, u64 first, u64 end, u64 n_pieces, u64 piece,
                                           WideSums<N, C> &sums) {
    typedef Lanes<N, C> Values;
    const C *const grad = static_cast<const C *>(job.grad);
    // The loads of several places are under way at a time; the additions keep their order.
#pragma unroll 8
    for (u64 at = first; at < end; at++) {
        DEPENDENT_STEP();
        const Values values = bits_as<Values>(grad[offset(u64(job.groups.places[at]), n_pieces) + piece]);
#pragma unroll
        for (unsigned lane = 0; lane < Values::COUNT; lane++) sums.values[lane] += N::widen(values.values[lane]);
    }
}

// Multiplies one piece of the sum of a group, rounds once, and writes it.
template <class N, class C>
__device__ __forceinline__ void write_sum(const Scatter &job, u64 group, u64 n_pieces, u64 piece,
                                          const WideSums<N, C> &sums) {
    typedef Lanes<N, C> Values;
    const Groups &groups = job.groups;
    const u64 n_places = groups.starts[group + 1] - groups.starts[group];
    const double factor = job.by_frequency ? job.scale * (1.0 / double(n_places)) : job.scale;
    Values rounded;
#pragma unroll
    for (unsigned lane = 0; lane < Values::COUNT; lane++) {
        rounded.values[lane] = N::narrow(sums.values[lane] * static_cast<typename N::Wide>(factor));
    }
    const u64 row = job.is_table ? groups.rows[group] : group;
    static_cast<C *>(job.out)[offset(row, n_pieces) + piece] = bits_as<C>(rounded);
}

// The parts of long groups come first, as they take longest.
template <class N, class C> __device__ __forceinline__ void sum_groups(const Scatter &job) {
    const Groups &groups = job.groups;
    const u64 n_pieces = job.width / Lanes<N, C>::COUNT;
    const u64 stride = u64(gridDim.y) * blockDim.x;
    const u64 tasks_at_a_time = u64(gridDim.x) * blockDim.y;
    const u64 n_tasks = groups.n_parts + groups.n_groups;
    for (u64 task = u64(blockIdx.x) * blockDim.y + threadIdx.y; task < n_tasks; task += tasks_at_a_time) {
        const bool is_part = task < groups.n_parts;
        const u64 group = task - groups.n_parts; // if it is no part
        const u64 first = is_part ? groups.parts[2 * task] : groups.starts[group];
        const u64 end = is_part ? groups.parts[2 * task + 1] : groups.starts[group + 1];
        if (!is_part && end - first > job.part) continue;
        for (u64 piece = u64(blockIdx.y) * blockDim.x + threadIdx.x; piece < n_pieces; piece += stride) {
            WideSums<N, C> sums = {};
            sum_places<N, C>(job, first, end, n_pieces, piece, sums);
            if (is_part) {
                static_cast<WideSums<N, C> *>(job.part_sums)[offset(task, n_pieces) + piece] = sums;
            } else {
                write_sum<N, C>(job, group, n_pieces, piece, sums);
            }
        }
    }
}

// Adds the sums of the parts of each long group, in order.
template <class N, class C> __device__ __forceinline__ void add_sums(const Scatter &job) {
    typedef WideSums<N, C> Values;
    const Groups &groups = job.groups;
    const u64 n_pieces = job.width / Lanes<N, C>::COUNT;
    const Values *const part_sums = static_cast<const Values *>(job.part_sums);
    const u64 stride = u64(gridDim.y) * blockDim.x;
    const u64 groups_at_a_time = u64(gridDim.x) * blockDim.y;
    for (u64 at = u64(blockIdx.x) * blockDim.y + threadIdx.y; at < groups.n_long; at += groups_at_a_time) {
        const u64 first = groups.first_parts[at], end = groups.first_parts[at + 1];
        for (u64 piece = u64(blockIdx.y) * blockDim.x + threadIdx.x; piece < n_pieces; piece += stride) {
            Values sums = part_sums[offset(first, n_pieces) + piece];
#pragma unroll 4
            for (u64 part = first + 1; part < end; part++) {
                DEPENDENT_STEP();
                const Values values = part_sums[offset(part, n_pieces) + piece];
#pragma unroll
                for (unsigned lane = 0; lane < Lanes<N, C>::COUNT; lane++) sums.values[lane] += values.values[lane];
            }
            write_sum<N, C>(job, groups.long_groups[at], n_pieces, piece, sums);
        }
    }
}

template <class N> __device__ __forceinline__ bool is_in_chunks(const Scatter &job) {
    return in_chunks(u64(job.out) | u64(job.grad), job.width * sizeof(typename N::Stored));
}

template <class N> __device__ __forceinline__ void scatter_add(const Scatter &job) {
    if (is_in_chunks<N>(job)) {
        sum_groups<N, Chunk>(job);
    } else {
        sum_groups<N, Single<N>>(job);
    }
}

template <class N> __device__ __forceinline__ void add_parts(const Scatter &job) {
    if (is_in_chunks<N>(job)) {
        add_sums<N, Chunk>(job);
    } else {
        add_sums<N, Single<N>>(job);
    }
}

} // namespace

extern "C" __global__ void __launch_bounds__(256) scatter_add_f32(const Scatter job) { scatter_add<F32>(job); }
extern "C" __global__ void __launch_bounds__(256) scatter_add_f64(const Scatter job) { scatter_add<F64>(job); }
extern "C" __global__ void __launch_bounds__(256) scatter_add_f16(const Scatter job) { scatter_add<F16>(job); }
extern "C" __global__ void __launch_bounds__(256) scatter_add_bf16(const Scatter job) { scatter_add<Bf16>(job); }
extern "C" __global__ void __launch_bounds__(256) add_parts_f32(const Scatter job) { add_parts<F32>(job); }
extern "C" __global__ void __launch_bounds__(256) add_parts_f64(const Scatter job) { add_parts<F64>(job); }
extern "C" __global__ void __launch_bounds__(256) add_parts_f16(const Scatter job) { add_parts<F16>(job); }
extern "C" __global__ void __launch_bounds__(256) add_parts_bf16(const Scatter job) { add_parts<Bf16>(job); }
