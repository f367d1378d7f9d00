// The sum of the squares of a gradient in f64, in the order of rules.rs and norm.rs: eight sums per row, each of every
// eighth element. Then rows are added in runs, one for each task of the CPU. The host adds the runs.
#include "gradient.cuh"

namespace {

// `LANES` of rules.rs, and the threads of a block along a row.
const u64 LANES = 8;

struct Squares {
    double *sums; // [n_rows, LANES]
    Gradient gradient;
    u64 n; // elements of the parameter
    u64 width;
};

struct Runs {
    double *out;        // of each run
    const double *sums; // [n_rows, LANES]
    u64 n_rows;
    u64 rows_per_run;
};

template <class N> __device__ __forceinline__ void sum_of_squares(const Squares &job) {
    typedef Single<N> Number;
    const u64 n_rows = (job.n + job.width - 1) / job.width;
    const u64 rows_at_a_time = u64(gridDim.x) * blockDim.y;
    for (u64 row = u64(blockIdx.x) * blockDim.y + threadIdx.y; row < n_rows; row += rows_at_a_time) {
        const u64 group = group_of(job.gradient.batch, row);
        const u64 rest = job.n - offset(row, job.width);
        u64 end = rest < job.width ? rest : job.width;
        if (is_frozen(job.gradient, row) || (group == NO_GROUP && !job.gradient.dense)) end = 0;
        double sum = 0;
#pragma unroll 4
        for (u64 at = threadIdx.x; at < end; at += LANES) {
            DEPENDENT_STEP();
            const double x = N::widen(gradient_of<N, Number>(job.gradient, row, group, job.width, at).values[0]);
            sum += x * x;
        }
        job.sums[offset(row, LANES) + threadIdx.x] = sum;
    }
}

} // namespace

extern "C" __global__ void __launch_bounds__(256) sum_of_squares_f32(const Squares job) { sum_of_squares<F32>(job); }
extern "C" __global__ void __launch_bounds__(256) sum_of_squares_f64(const Squares job) { sum_of_squares<F64>(job); }
extern "C" __global__ void __launch_bounds__(256) sum_of_squares_f16(const Squares job) { sum_of_squares<F16>(job); }
extern "C" __global__ void __launch_bounds__(256) sum_of_squares_bf16(const Squares job) { sum_of_squares<Bf16>(job); }

extern "C" __global__ void __launch_bounds__(256) add_rows_f64(const Runs job) {
    const u64 n_runs = (job.n_rows + job.rows_per_run - 1) / job.rows_per_run;
    const u64 n_threads = u64(gridDim.x) * blockDim.x;
    for (u64 run = u64(blockIdx.x) * blockDim.x + threadIdx.x; run < n_runs; run += n_threads) {
        const u64 first = run * job.rows_per_run;
        const u64 rest = job.n_rows - first;
        const u64 end = first + (rest < job.rows_per_run ? rest : job.rows_per_run);
        double total = 0;
        for (u64 row = first; row < end; row++) {
            double sum = 0;
            DEPENDENT_STEP();
            for (unsigned lane = 0; lane < LANES; lane++) sum += job.sums[offset(row, LANES) + lane];
            total += sum;
        }
        job.out[run] = total;
    }
}
