// out[n] = wte[ids[n]] + wpe[place of n], or out[n] = wte[ids[n]]: every byte moved once, every sum rounded once.
//
// A block is 32 threads wide and several rows high: a row of threads takes a row of the output, or part of a long one.
// Each thread issues all its loads before its first store.
#include "number.cuh"

namespace {

// How many pieces of a row one thread loads before it stores any.
const unsigned PIECES = 4;

// Dimensions that a shape has room for: `MAX_RANK` of contract.rs.
const unsigned MAX_RANK = 8;
// Parts of an id in a note, and the bits of each: `PART_BITS` of notes.rs.
const unsigned PARTS = 3;
const unsigned PART_BITS = 24;

struct Shape {
    u64 rank;
    u64 dims[MAX_RANK];
};

// The first id outside its table in the first call that has one, by its place among the ids of that call. All zeros:
// none.
struct Note {
    u64 call;
    u64 parts[PARTS]; // of the id, each below the distance of its place from the last possible one
    u64 n_rows;
    Shape shape; // of the ids of that call
};

// Ids of one type, and where they are noted if they are outside their table.
struct Ids {
    const void *values;
    u64 bytes; // of an id
    Note *note; // null: they were checked
    Shape shape;
};

struct Gather {
    void *out;
    Ids ids;
    Ids places; // null: row n has position start + n % t
    u64 n_places; // positions repeat after this many
    const void *wte;
    const void *wpe;
    u64 call;
    u64 n_ids;
    u64 start;
    u64 t;
    u64 wte_rows;
    u64 wpe_rows;
    u64 width;
};

// Reads an id of any type. A negative one is a row beyond every table.
__device__ __forceinline__ u64 read_id(const Ids &ids, u64 n) {
    if (ids.bytes == 1) return static_cast<const u8 *>(ids.values)[n];
    if (ids.bytes == 4) return static_cast<const u32 *>(ids.values)[n];
    return static_cast<const u64 *>(ids.values)[n];
}

// Computes n % by. Both are almost always small, and a division of 64 bits costs several of 32.
__device__ __forceinline__ u64 remainder(u64 n, u64 by) { return (n | by) >> 32 ? n % by : u32(n) % u32(by); }

// Threads may note in any order: the smallest place wins, and all parts of its id with it.
__device__ __forceinline__ void write_note(const Ids &ids, u64 call, u64 n_rows, u64 n, u64 id) {
    Note *const note = ids.note;
    const u64 earlier = atomicCAS(&note->call, u64(0), call);
    if (earlier == 0) {
        note->n_rows = n_rows;
        note->shape.rank = ids.shape.rank;
#pragma unroll
        for (unsigned axis = 0; axis < MAX_RANK; axis++) note->shape.dims[axis] = ids.shape.dims[axis];
    } else if (earlier != call) {
        return;
    }
    const u64 mask = (u64(1) << PART_BITS) - 1;
    const u64 rank = ~u64(0) >> PART_BITS;
#pragma unroll
    for (unsigned part = 0; part < PARTS; part++) {
        atomicMax(&note->parts[part], (rank - n) << PART_BITS | (id >> part * PART_BITS & mask));
    }
}

// Writes one row, in pieces of type C. `add` is null for a plain gather.
template <class N, class C>
__device__ __forceinline__ void write_row(C *to, const C *from, const C *add, u64 n_pieces) {
    typedef Lanes<N, C> Values;
    const u64 span = u64(PIECES) * blockDim.x;
    for (u64 base = blockIdx.y * span + threadIdx.x; base < n_pieces; base += gridDim.y * span) {
        DEPENDENT_STEP();
        C left[PIECES], right[PIECES];
#pragma unroll
        for (unsigned piece = 0; piece < PIECES; piece++) {
            const u64 at = base + u64(piece) * blockDim.x;
            if (at < n_pieces) {
                left[piece] = from[at];
                if (add) right[piece] = add[at];
            }
        }
#pragma unroll
        for (unsigned piece = 0; piece < PIECES; piece++) {
            const u64 at = base + u64(piece) * blockDim.x;
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
        const u64 token = read_id(job.ids, n);
        const u64 at = !ADD ? 0 : remainder(n, job.places.values ? job.n_places : job.t);
        const u64 place = !ADD ? 0 : job.places.values ? read_id(job.places, at) : job.start + at;
        const bool bad_token = token >= job.wte_rows;
        const bool bad_place = ADD && place >= job.wpe_rows;
        Stored *const to = out + offset(n, job.width);
        if (bad_token || bad_place) {
            // Reads nothing, and fills the row with NaN, which cannot pass for a result. One thread of the row writes a
            // note.
            if (blockIdx.y == 0 && threadIdx.x == 0) {
                if (bad_token && job.ids.note) write_note(job.ids, job.call, job.wte_rows, n, token);
                if (bad_place && job.places.note) write_note(job.places, job.call, job.wpe_rows, at, place);
            }
            const u64 step = u64(gridDim.y) * blockDim.x;
            for (u64 c = u64(blockIdx.y) * blockDim.x + threadIdx.x; c < job.width; c += step) to[c] = N::nan();
            continue;
        }
        const Stored *const from = wte + offset(token, job.width);
        const Stored *const add = ADD ? wpe + offset(place, job.width) : nullptr;
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
