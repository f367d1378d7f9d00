// Each kernel, in each type, on rows behind the 2^32th element of its tables, and on early rows of such tables. Memory
// that nobody touches is never there, so the tables are as large as they claim, and only a few of their blocks run.
#include <sys/mman.h>

#include <cstdio>

#include "shim.h"

#include "adam.cuh"
#include "gather_add.cu"
#include "scatter_add.cu"
#include "sum_of_squares.cu"

namespace {

const u64 FOUR_GI = u64(1) << 32;
int n_wrong = 0;

void expect(bool is_right, const char *what, u64 width) {
    if (is_right) return;
    std::fprintf(stderr, "behind 2^32 elements, rows of %llu: %s is wrong\n", width, what);
    n_wrong++;
}

// `n` zeros that take memory only where they are touched.
template <class T> struct Sparse {
    u64 n;
    T *values;

    explicit Sparse(u64 n) : n(n) {
        const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        void *const memory = mmap(nullptr, n * sizeof(T), PROT_READ | PROT_WRITE, flags, -1, 0);
        if (memory == MAP_FAILED) std::perror("mmap"), std::exit(1);
        values = static_cast<T *>(memory);
    }
    Sparse(const Sparse &) = delete;
    ~Sparse() { munmap(values, n * sizeof(T)); }

    void fill(u64 first, u64 count, T value) {
        for (u64 i = first; i < first + count; i++) values[i] = value;
    }
    bool is(u64 first, u64 count, T value) const {
        for (u64 i = first; i < first + count; i++) {
            if (values[i] != value) return false;
        }
        return true;
    }
};

// Runs the block of one of `n` rows, of a grid with a block for every `block.y` of them.
template <class F> void launch_one(u64 row, u64 n, dim3 block, F kernel) {
    gridDim = {unsigned((n + block.y - 1) / block.y), 1, 1};
    blockDim = block;
    blockIdx = {unsigned(row / block.y), 0, 0};
    for (threadIdx.y = 0; threadIdx.y < block.y; threadIdx.y++) {
        for (threadIdx.x = 0; threadIdx.x < block.x; threadIdx.x++) kernel();
    }
}

template <class F> void launch_last(u64 n, dim3 block, F kernel) { launch_one(n - 1, n, block, kernel); }

const dim3 BLOCK = {32, 8, 1};

// A small number as tables of a type hold it.
template <class N> typename N::Stored stored(int value) { return N::narrow(typename N::Wide(value)); }
// A table of a type.
template <class N> using Table = Sparse<typename N::Stored>;

template <class N> void look_up(u64 width) {
    const u64 n_rows = FOUR_GI / width + 9, last = n_rows - 1, at = last * width;
    Table<N> wte(n_rows * width), wpe(n_rows * width), out(n_rows * width);
    Sparse<u64> ids(n_rows);
    wte.fill(at, width, stored<N>(3));
    wpe.fill(at, width, stored<N>(4));
    ids.fill(last - 8, 9, last);
    Gather job = {};
    job.out = out.values;
    job.ids.values = ids.values;
    job.ids.bytes = sizeof(u64);
    job.wte = wte.values;
    job.wpe = wpe.values;
    job.n_ids = job.t = job.wte_rows = job.wpe_rows = n_rows;
    job.width = width;
    launch_last(n_rows, BLOCK, [&] { gather<N, true>(job); });
    expect(out.is(at, width, stored<N>(7)), "a sum", width);
    launch_last(n_rows, BLOCK, [&] { gather<N, false>(job); });
    expect(out.is(at, width, stored<N>(3)), "a row", width);
    // An early row, whose position does not repeat for as long.
    wpe.fill(9 * width, width, stored<N>(4));
    launch_one(9, n_rows, BLOCK, [&] { gather<N, true>(job); });
    expect(out.is(9 * width, width, stored<N>(4)), "an early sum", width);
    // Positions that are given, and one that repeats behind as many ids.
    Sparse<u64> places(n_rows - 1);
    job.places = job.ids;
    job.places.values = places.values;
    job.n_places = n_rows - 1;
    places.values[0] = last;
    launch_last(n_rows, BLOCK, [&] { gather<N, true>(job); });
    expect(out.is(at, width, stored<N>(7)), "a sum with a given position", width);
}

// Rows of a batch: place, group, row and part are the last of very many.
template <class N> void sum(u64 width) {
    const u64 n_rows = FOUR_GI / width + 9, last = n_rows - 1, at = last * width;
    Table<N> grad(n_rows * width), table(n_rows * width), sums(n_rows * width);
    Sparse<typename N::Wide> part_sums(n_rows * width);
    Sparse<u32> rows(n_rows), starts(n_rows + 1), parts(2 * n_rows);
    u32 places[] = {u32(last), u32(last)}, long_groups[] = {u32(last)}, first_parts[] = {u32(last - 1), u32(n_rows)};
    grad.fill(at, width, stored<N>(3));
    starts.values[n_rows] = 2;
    rows.values[last] = last;
    parts.values[2 * last + 1] = 2;
    Scatter job = {table.values, grad.values, part_sums.values, {}, width, 2, 1, false, true};
    job.groups = {rows.values, starts.values, places, parts.values, long_groups, first_parts, n_rows, 0, 1};
    launch_last(n_rows, BLOCK, [&] { scatter_add<N>(job); });
    expect(table.is(at, width, stored<N>(6)), "the sum of a group", width);
    job.out = sums.values;
    job.is_table = false;
    launch_last(n_rows, BLOCK, [&] { scatter_add<N>(job); });
    expect(sums.is(at, width, stored<N>(6)), "the sum of a group among others", width);
    job.groups.n_groups = 0;
    job.groups.n_parts = n_rows;
    launch_last(n_rows, BLOCK, [&] { scatter_add<N>(job); });
    expect(part_sums.is(at, width, 6), "the sum of a part", width);
    part_sums.fill(at - width, width, 1);
    launch_last(1, BLOCK, [&] { add_parts<N>(job); });
    expect(sums.is(at, width, stored<N>(7)), "the sum of parts", width);
}

template <class N> void step(u64 width) {
    const u64 n_rows = FOUR_GI / width + 9, last = n_rows - 1, at = last * width;
    Table<N> param(n_rows * width), exp_avg(n_rows * width), exp_avg_sq(n_rows * width), dense(n_rows * width);
    Table<N> sums(n_rows * width);
    Sparse<u32> rows(n_rows);
    u32 only_row[] = {u32(last)};
    dense.fill(at, width, stored<N>(2));
    dense.fill(8 * width, width, stored<N>(2));
    sums.fill(0, width, stored<N>(1));
    sums.fill(at, width, stored<N>(5));
    rows.values[last] = last;
    // The first moment becomes the gradient, the second one its square.
    typedef typename N::Wide Wide;
    const auto holds = [&](u64 at, int p, int m, int v) {
        return param.is(at, width, stored<N>(p)) && exp_avg.is(at, width, stored<N>(m)) &&
               exp_avg_sq.is(at, width, stored<N>(v));
    };
    const u64 n = n_rows * width;
    const Gradient both = {dense.values, {sums.values, only_row, 1}, nullptr, 0};
    const Step<AdamWRule<Wide>> all_rows = {param.values, exp_avg.values, exp_avg_sq.values, both, n, width,
                                            {1, 1, false, 0, 0, 1, 1, 0, -1}};
    launch_last(n_rows, BLOCK, [&] { adamw<N>(all_rows); });
    expect(holds(at, -1, 3, 9), "AdamW", width);
    // An early row, behind which 2^32 elements and a few more are left.
    launch_one(8, n_rows, BLOCK, [&] { adamw<N>(all_rows); });
    expect(holds(8 * width, -1, 2, 4), "AdamW of an early row", width);
    const Gradient batch = {nullptr, {sums.values, rows.values, n_rows}, nullptr, 0};
    const Step<RowRule<Wide>> batch_rows = {param.values, exp_avg.values, exp_avg_sq.values, batch, n, width,
                                            {1, 1, 1, 1, 0, -1}};
    launch_last(n_rows, BLOCK, [&] { row_adam<N>(batch_rows); });
    expect(holds(at, -2, 5, 25), "RowAdam", width);
}

// Eight sums for each row.
template <class N> void norm() {
    const u64 n_short_rows = FOUR_GI / LANES + 9, last_sums = (n_short_rows - 1) * LANES;
    Sparse<double> squares(n_short_rows * LANES), runs(n_short_rows);
    Table<N> gradient(n_short_rows * LANES);
    gradient.fill(last_sums, LANES, stored<N>(3));
    gradient.fill(9 * LANES, LANES, stored<N>(2));
    const Squares job = {squares.values, {gradient.values, {}, nullptr, 0}, n_short_rows * LANES, LANES};
    launch_last(n_short_rows, {LANES, 32, 1}, [&] { sum_of_squares<N>(job); });
    expect(squares.is(last_sums, LANES, 9), "the norm of a row", LANES);
    launch_one(9, n_short_rows, {LANES, 32, 1}, [&] { sum_of_squares<N>(job); });
    expect(squares.is(9 * LANES, LANES, 4), "the norm of an early row", LANES);
    const Runs add = {runs.values, squares.values, n_short_rows, 1};
    launch_last(n_short_rows, {1, 1, 1}, [&] { add_rows_f64(add); });
    expect(runs.is(n_short_rows - 1, 1, 72), "the norm of rows", LANES);
}

template <class N> void every_kernel() {
    // In chunks, and one by one.
    for (const u64 width : {1024, 1023}) {
        look_up<N>(width);
        sum<N>(width);
        step<N>(width);
    }
    norm<N>();
    // Ids and positions themselves may be of more than 32 bits.
    look_up<N>(1);
}

} // namespace

int main() {
    every_kernel<F32>();
    every_kernel<F64>();
    every_kernel<F16>();
    every_kernel<Bf16>();
    return n_wrong > 0;
}
