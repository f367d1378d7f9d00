// out[n] = wte[ids[n]] + wpe[place of n], or without the sum: every byte moved once, every sum rounded once.

struct Gather {
    ulong id_bytes;    // of a token id: 1, 4 or 8
    ulong place_bytes; // of a position id; 0: row n has position start + n % t
    ulong n_places;    // position ids repeat after this many
    ulong n_ids;
    ulong start;
    ulong t;
    ulong wte_rows;
    ulong wpe_rows;
    ulong width;    // elements of a row
    ulong adds;     // whether there are positions
    ulong in_fours; // whether rows can be moved by `Four`
};

// Reads an id of any type. A negative one is a row beyond every table.
inline ulong read_id(device const uchar *ids, ulong bytes, ulong n) {
    if (bytes == 1) return ids[n];
    if (bytes == 4) return reinterpret_cast<device const uint *>(ids)[n];
    return reinterpret_cast<device const ulong *>(ids)[n];
}

// Computes n % by. Both are almost always small, and a device has no division of 64 bits.
inline ulong remainder_of(ulong n, ulong by) { return (n | by) >> 32 ? n % by : uint(n) % uint(by); }

// A row of an id outside its table is filled with NaN, which cannot pass for a result. Ids are checked before, so that
// none is, unless somebody changed them since.
template <class P>
void write_rows(
    device typename P::Piece *out, device const uchar *ids, device const uchar *places,
    device const typename P::Piece *wte, device const typename P::Piece *wpe, constant Gather &job, ulong n_pieces,
    uint2 at, uint2 size) {
    for (ulong n = at.y; n < job.n_ids; n += size.y) {
        const ulong token = read_id(ids, job.id_bytes, n);
        ulong place = 0;
        if (job.adds) {
            place = job.place_bytes == 0 ? job.start + remainder_of(n, job.t)
                                         : read_id(places, job.place_bytes, remainder_of(n, job.n_places));
        }
        const bool is_inside = token < job.wte_rows && (!job.adds || place < job.wpe_rows);
        for (ulong piece = at.x; piece < n_pieces; piece += size.x) {
            typename P::Piece value = P::nan();
            if (is_inside) value = wte[token * n_pieces + piece];
            if (is_inside && job.adds) {
                value = P::narrow(P::widen(value) + P::widen(wpe[place * n_pieces + piece]));
            }
            out[n * n_pieces + piece] = value;
        }
    }
}

// Chooses how rows are moved.
template <class N>
void gather_add(
    device typename N::Stored *out, device const uchar *ids, device const uchar *places,
    device const typename N::Stored *wte, device const typename N::Stored *wpe, constant Gather &job, uint2 at,
    uint2 size) {
    typedef Four<N> P;
    if (job.in_fours) {
        write_rows<P>(reinterpret_cast<device typename P::Piece *>(out), ids, places,
                      reinterpret_cast<device const typename P::Piece *>(wte),
                      reinterpret_cast<device const typename P::Piece *>(wpe), job, job.width / 4, at, size);
    } else {
        write_rows<One<N>>(out, ids, places, wte, wpe, job, job.width, at, size);
    }
}

// The buffers are those of jobs.rs, in its order.
#define KERNEL(NAME, N)                                                                                               \
    kernel void gather_add_##NAME(                                                                                    \
        uint2 at [[thread_position_in_grid]], uint2 size [[threads_per_grid]],                                        \
        device N::Stored *out [[buffer(0)]], device const uchar *ids [[buffer(1)]],                                   \
        device const uchar *places [[buffer(2)]], device const N::Stored *wte [[buffer(3)]],                          \
        device const N::Stored *wpe [[buffer(4)]], constant Gather &job [[buffer(5)]]) {                              \
        gather_add<N>(out, ids, places, wte, wpe, job, at, size);                                                     \
    }
KERNEL(f32, F32)
KERNEL(f16, F16)
KERNEL(bf16, Bf16)
