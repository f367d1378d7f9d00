// One optimizer step of one tensor, in place, in one pass: AdamW over all rows, or Adam over the rows of a batch.
// Each type of elements is a module of its own, adam_*.cu, so that the first step compiles no other.
//
// The formulas and the order of their roundings are those of rules.rs, and so are the fused multiply-adds: build.rs
// tells nvcc to fuse nothing else. A row of threads takes a row of the table.
#pragma once
#include "gradient.cuh"

namespace {

// `AdamWRule` of rules.rs, field by field.
template <class Wide> struct AdamWRule {
    Wide grad_scale;
    Wide decay;
    bool lerp_from_m;
    Wide lerp_weight;
    Wide beta2;
    Wide grad_sq_weight;
    Wide correction2_sqrt;
    Wide eps;
    Wide neg_step_size;

    __device__ __forceinline__ void apply(Wide &p, Wide &m, Wide &v, Wide g) const {
        p = p * decay;
        g = g * grad_scale;
        m = multiply_add(lerp_weight, g - m, lerp_from_m ? m : g);
        v = multiply_add(grad_sq_weight * g, g, v * beta2);
        const Wide denominator = root(v) / correction2_sqrt + eps;
        p = p + neg_step_size * m / denominator;
    }
};

// `RowRule` of rules.rs, field by field.
template <class Wide> struct RowRule {
    Wide grad_scale;
    Wide decay;
    Wide grad_weight;
    Wide grad_sq_weight;
    Wide eps;
    Wide neg_step_size;

    __device__ __forceinline__ void apply(Wide &p, Wide &m, Wide &v, Wide g) const {
        p = p * decay;
        g = g * grad_scale;
        m = m + (g - m) * grad_weight;
        v = v + (g * g - v) * grad_sq_weight;
        p = p + neg_step_size * (m / (root(v) + eps));
    }
};

template <class Rule> struct Step {
    void *param;
    void *exp_avg;
    void *exp_avg_sq;
    Gradient gradient;
    u64 n; // elements of each tensor
    u64 width;
    Rule rule;
};

// Steps one row, of which the last may be shorter than the others.
template <class N, class C, class Rule>
__device__ __forceinline__ void step_row(const Step<Rule> &job, u64 row, u64 group) {
    typedef typename N::Wide Wide;
    typedef Lanes<N, C> Values;
    const u64 row_pieces = job.width / Values::COUNT;
    const u64 rest = job.n / Values::COUNT - offset(row, row_pieces);
    const u64 n_pieces = rest < row_pieces ? rest : row_pieces;
    C *const params = static_cast<C *>(job.param) + offset(row, row_pieces);
    C *const exp_avgs = static_cast<C *>(job.exp_avg) + offset(row, row_pieces);
    C *const exp_avg_sqs = static_cast<C *>(job.exp_avg_sq) + offset(row, row_pieces);
    const u64 stride = u64(gridDim.y) * blockDim.x;
    for (u64 piece = u64(blockIdx.y) * blockDim.x + threadIdx.x; piece < n_pieces; piece += stride) {
        DEPENDENT_STEP();
        Values p = bits_as<Values>(params[piece]);
        Values m = bits_as<Values>(exp_avgs[piece]);
        Values v = bits_as<Values>(exp_avg_sqs[piece]);
        const Values g = gradient_of<N, C>(job.gradient, row, group, row_pieces, piece);
#pragma unroll
        for (unsigned lane = 0; lane < Values::COUNT; lane++) {
            // Half types use the moments before these are rounded.
            Wide wide_p = N::widen(p.values[lane]);
            Wide wide_m = N::widen(m.values[lane]), wide_v = N::widen(v.values[lane]);
            job.rule.apply(wide_p, wide_m, wide_v, N::widen(g.values[lane]));
            p.values[lane] = N::narrow(wide_p);
            m.values[lane] = N::narrow(wide_m);
            v.values[lane] = N::narrow(wide_v);
        }
        params[piece] = bits_as<C>(p);
        exp_avgs[piece] = bits_as<C>(m);
        exp_avg_sqs[piece] = bits_as<C>(v);
    }
}

// Steps every row that is not frozen.
template <class N, class C, class Rule> __device__ __forceinline__ void step_all(const Step<Rule> &job) {
    const u64 n_rows = (job.n + job.width - 1) / job.width;
    const u64 rows_at_a_time = u64(gridDim.x) * blockDim.y;
    for (u64 row = u64(blockIdx.x) * blockDim.y + threadIdx.y; row < n_rows; row += rows_at_a_time) {
        if (!is_frozen(job.gradient, row)) step_row<N, C>(job, row, group_of(job.gradient.batch, row));
    }
}

// Steps the rows of the batch that are not frozen.
template <class N, class C, class Rule> __device__ __forceinline__ void step_groups(const Step<Rule> &job) {
    const Sums &batch = job.gradient.batch;
    const u64 groups_at_a_time = u64(gridDim.x) * blockDim.y;
    for (u64 group = u64(blockIdx.x) * blockDim.y + threadIdx.y; group < batch.n_groups; group += groups_at_a_time) {
        const u64 row = batch.rows[group];
        if (!is_frozen(job.gradient, row)) step_row<N, C>(job, row, group);
    }
}

template <class Rule> __device__ __forceinline__ bool all_in_chunks(const Step<Rule> &job, u64 number_bytes) {
    const u64 tensors = u64(job.param) | u64(job.exp_avg) | u64(job.exp_avg_sq);
    const u64 gradients = u64(job.gradient.dense) | u64(job.gradient.batch.values);
    return in_chunks(tensors | gradients, (job.n | job.width) * number_bytes);
}

template <class N> __device__ __forceinline__ void adamw(const Step<AdamWRule<typename N::Wide>> &job) {
    if (all_in_chunks(job, sizeof(typename N::Stored))) {
        step_all<N, Chunk>(job);
    } else {
        step_all<N, Single<N>>(job);
    }
}

template <class N> __device__ __forceinline__ void row_adam(const Step<RowRule<typename N::Wide>> &job) {
    if (all_in_chunks(job, sizeof(typename N::Stored))) {
        step_groups<N, Chunk>(job);
    } else {
        step_groups<N, Single<N>>(job);
    }
}

} // namespace
