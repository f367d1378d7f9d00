// The gradient of a table under a gather: the rows of a batch, summed by the row of the table that they belong to, in
// the order of row_sums.rs.
//
// Each part of at most `PART` places is summed from zero, in order, by one thread for each piece of a row. A group of
// one part is done then. A second kernel adds the sums of the parts of longer groups, in order.

struct Scatter {
    // Where the tables of groups begin, see group_table.rs, and the factors of sums, one for each group.
    ulong rows;
    ulong starts;
    ulong places;
    ulong parts;
    ulong long_groups;
    ulong first_parts;
    ulong factors;
    ulong n_groups;
    ulong n_parts;
    ulong n_long;
    ulong part;     // `PART`
    ulong width;    // elements of a row
    ulong is_table; // whether `out` has all rows of the table, or one row for each group
    ulong in_fours; // whether rows can be moved by `Four`
};

// Multiplies one piece of the sum of a group, rounds once, and writes it.
template <class P>
void write_sum(
    device typename P::Piece *out, device const uint *table, constant Scatter &job, ulong group, ulong n_pieces,
    ulong piece, typename P::Wide sum) {
    const ulong row = job.is_table ? table[job.rows + group] : group;
    out[row * n_pieces + piece] = P::narrow(sum * as_type<float>(table[job.factors + group]));
}

template <class P>
void sum_groups(
    device typename P::Piece *out, device typename P::Wide *part_sums, device const typename P::Piece *grad,
    device const uint *table, constant Scatter &job, ulong n_pieces, uint2 at, uint2 size) {
    for (ulong task = at.y; task < job.n_parts + job.n_groups; task += size.y) {
        const bool is_part = task < job.n_parts;
        const ulong group = task - job.n_parts; // if it is no part
        const ulong ends = is_part ? job.parts + 2 * task : job.starts + group;
        const ulong first = table[ends], end = table[ends + 1];
        if (!is_part && end - first > job.part) continue;
        for (ulong piece = at.x; piece < n_pieces; piece += size.x) {
            typename P::Wide sum = {};
            for (ulong place = first; place < end; place++) {
                sum += P::widen(grad[table[job.places + place] * n_pieces + piece]);
            }
            if (is_part) {
                part_sums[task * n_pieces + piece] = sum;
            } else {
                write_sum<P>(out, table, job, group, n_pieces, piece, sum);
            }
        }
    }
}

template <class P>
void add_parts(
    device typename P::Piece *out, device const typename P::Wide *part_sums, device const uint *table,
    constant Scatter &job, ulong n_pieces, uint2 at, uint2 size) {
    for (ulong n = at.y; n < job.n_long; n += size.y) {
        const ulong first = table[job.first_parts + n], end = table[job.first_parts + n + 1];
        for (ulong piece = at.x; piece < n_pieces; piece += size.x) {
            typename P::Wide sum = part_sums[first * n_pieces + piece];
            for (ulong part = first + 1; part < end; part++) sum += part_sums[part * n_pieces + piece];
            write_sum<P>(out, table, job, table[job.long_groups + n], n_pieces, piece, sum);
        }
    }
}

// Chooses how rows are moved.
template <class N>
void scatter_add(
    device typename N::Stored *out, device float *part_sums, device const typename N::Stored *grad,
    device const uint *table, constant Scatter &job, uint2 at, uint2 size) {
    typedef Four<N> P;
    if (job.in_fours) {
        sum_groups<P>(reinterpret_cast<device typename P::Piece *>(out),
                      reinterpret_cast<device typename P::Wide *>(part_sums),
                      reinterpret_cast<device const typename P::Piece *>(grad), table, job, job.width / 4, at, size);
    } else {
        sum_groups<One<N>>(out, part_sums, grad, table, job, job.width, at, size);
    }
}

template <class N>
void add_long(
    device typename N::Stored *out, device const float *part_sums, device const uint *table, constant Scatter &job,
    uint2 at, uint2 size) {
    typedef Four<N> P;
    if (job.in_fours) {
        add_parts<P>(reinterpret_cast<device typename P::Piece *>(out),
                     reinterpret_cast<device const typename P::Wide *>(part_sums), table, job, job.width / 4, at, size);
    } else {
        add_parts<One<N>>(out, part_sums, table, job, job.width, at, size);
    }
}

// The buffers are those of jobs.rs, in its order.
#define KERNELS(NAME, N)                                                                                              \
    kernel void scatter_add_##NAME(                                                                                   \
        uint2 at [[thread_position_in_grid]], uint2 size [[threads_per_grid]],                                        \
        device N::Stored *out [[buffer(0)]], device float *part_sums [[buffer(1)]],                                   \
        device const N::Stored *grad [[buffer(2)]], device const uint *table [[buffer(3)]],                           \
        constant Scatter &job [[buffer(4)]]) {                                                                        \
        scatter_add<N>(out, part_sums, grad, table, job, at, size);                                                   \
    }                                                                                                                 \
    kernel void add_parts_##NAME(                                                                                     \
        uint2 at [[thread_position_in_grid]], uint2 size [[threads_per_grid]],                                        \
        device N::Stored *out [[buffer(0)]], device const float *part_sums [[buffer(1)]],                             \
        device const uint *table [[buffer(2)]], constant Scatter &job [[buffer(3)]]) {                                \
        add_long<N>(out, part_sums, table, job, at, size);                                                            \
    }
KERNELS(f32, F32)
KERNELS(f16, F16)
KERNELS(bf16, Bf16)
