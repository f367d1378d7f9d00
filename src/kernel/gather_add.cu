// out[n] = wte[ids[n]] + wpe[place of n], or out[n] = wte[ids[n]]: every byte moved once, every sum rounded once.
//
// A block is 32 threads wide and several rows high: a row of threads takes a row of the output, or part of a long one.
// Each thread has all its loads under way before the first store.
#include "number.cuh"

namespace {

// How many pieces of a row one thread loads before it stores any.
const unsigned PIECES = 4;

struct Gather {
    void *out;
    const void *ids;
    const u32 *places; // null: row n stands at start + n % t
    const void *wte;
    const void *wpe;
    u32 *outside; // null, or two words: set where an id, a place is outside its table
    u64 n_ids;
    u64 id_bytes;
    u64 start;
    u64 t;
    u64 wte_rows;
    u64 wpe_rows;
    u64 width;
};

// An id of any type; a negative one is a row beyond every table.
__device__ __forceinline__ u64 read_id(const void *ids, u64 id_bytes, u64 n) {
    if (id_bytes == 1) return static_cast<const u8 *>(ids)[n];
    if (id_bytes == 4) return static_cast<const u32 *>(ids)[n];
    return static_cast<const u64 *>(ids)[n];
}

__device__ __forceinline__ u64 place_of(const Gather &job, u64 n) {
    if (job.places) return job.places[n];
    // Almost always small, and a division of 64 bits costs several of 32.
    const u64 step = (n | job.t) >> 32 ? n % job.t : u32(n) % u32(job.t);
    return job.start + step;
}

// One row, in pieces of type C. `add` is null for a plain gather.
template <class N, class C> __device__ __forceinline__ void write_row(C *to, const C *from, const C *add, u64 n_pieces) {
    typedef Lanes<N, C> Values;
    const u64 span = PIECES * blockDim.x;
    for (u64 base = blockIdx.y * span + threadIdx.x; base < n_pieces; base += gridDim.y * span) {
        C left[PIECES], right[PIECES];
#pragma unroll
        for (unsigned piece = 0; piece < PIECES; piece++) {
            const u64 at = base + piece * blockDim.x;
            if (at < n_pieces) {
                left[piece] = from[at];
                if (add) right[piece] = add[at];
            }
        }
#pragma unroll
        for (unsigned piece = 0; piece < PIECES; piece++) {
            const u64 at = base + piece * blockDim.x;
            if (at >= n_pieces) break;
            if (add) {
                Values sum = bits_as<Values>(left[piece]);
                const Values other = bits_as<Values>(right[piece]);
#pragma unroll
                for (unsigned lane = 0; lane < Values::COUNT; lane++) {
                    sum.values[lane] = N::narrow(N::widen(sum.values[lane]) + N::widen(other.values[lane]));
                }
                left[piece] = bits_as<C>(sum);
            }
            to[at] = left[piece];
        }
    }
}

template <class N, class C, bool ADD>
__device__ __forceinline__ void write_rows(const Gather &job) {
    typedef typename N::Stored Stored;
    const u64 n_pieces = job.width * sizeof(Stored) / sizeof(C);
    Stored *const out = static_cast<Stored *>(job.out);
    const Stored *const wte = static_cast<const Stored *>(job.wte);
    const Stored *const wpe = static_cast<const Stored *>(job.wpe);
    const u64 rows_at_a_time = u64(gridDim.x) * blockDim.y;
    for (u64 n = u64(blockIdx.x) * blockDim.y + threadIdx.y; n < job.n_ids; n += rows_at_a_time) {
        const u64 token = read_id(job.ids, job.id_bytes, n);
        const u64 place = ADD ? place_of(job, n) : 0;
        const bool bad_token = token >= job.wte_rows;
        const bool bad_place = ADD && place >= job.wpe_rows;
        Stored *const to = out + n * job.width;
        if (bad_token || bad_place) {
            // Nothing is read, and nobody can take the row for a result. Threads that raise a flag all write the same.
            if (job.outside && bad_token) job.outside[0] = 1;
            if (job.outside && bad_place) job.outside[1] = 1;
            const u64 step = u64(gridDim.y) * blockDim.x;
            for (u64 at = u64(blockIdx.y) * blockDim.x + threadIdx.x; at < job.width; at += step) to[at] = N::nan();
            continue;
        }
        const Stored *const from = wte + token * job.width;
        const Stored *const add = ADD ? wpe + place * job.width : nullptr;
        write_row<N, C>(reinterpret_cast<C *>(to), reinterpret_cast<const C *>(from), reinterpret_cast<const C *>(add),
                        n_pieces);
    }
}

template <class N, bool ADD> __device__ __forceinline__ void gather(const Gather &job) {
    const u64 addresses = u64(job.out) | u64(job.wte) | (ADD ? u64(job.wpe) : 0);
    if (in_chunks(addresses, job.width * sizeof(typename N::Stored))) {
        write_rows<N, Chunk, ADD>(job);
    } else {
        write_rows<N, Single<N>, ADD>(job);
    }
}

} // namespace

extern "C" __global__ void __launch_bounds__(256) gather_f32(const Gather job) { gather<F32, false>(job); }
extern "C" __global__ void __launch_bounds__(256) gather_f64(const Gather job) { gather<F64, false>(job); }
extern "C" __global__ void __launch_bounds__(256) gather_f16(const Gather job) { gather<F16, false>(job); }
extern "C" __global__ void __launch_bounds__(256) gather_bf16(const Gather job) { gather<Bf16, false>(job); }
extern "C" __global__ void __launch_bounds__(256) gather_add_f32(const Gather job) { gather<F32, true>(job); }
extern "C" __global__ void __launch_bounds__(256) gather_add_f64(const Gather job) { gather<F64, true>(job); }
extern "C" __global__ void __launch_bounds__(256) gather_add_f16(const Gather job) { gather<F16, true>(job); }
extern "C" __global__ void __launch_bounds__(256) gather_add_bf16(const Gather job) { gather<Bf16, true>(job); }
