//! Attention as an operation, on queries, keys and values of their own or side by side in one tensor.

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Shape, Tensor};

use super::heads::{Bias, Heads, Job, Scores};
use super::rows::{add, each_rows};
use crate::kernel::core::locks::read_all;
use crate::kernel::core::parallel::map_in_parallel;
use crate::kernel::core::storage::slice;
use crate::kernel::product::values::{grad, storage, with_values};
use crate::memory::zeros;

type CandleResult<T> = candle_core::Result<T>;

/// From this many products of elements on, several threads share the heads.
const PARALLEL_PRODUCTS: usize = 1 << 20;

/// Attention of `q` `[B, H, T_q, D]` over `k` and `v`, whose last dimension is contiguous, in f32, f16 or bf16. The output
/// is `[B, T_q, H · D_v]` in f32.
pub(super) struct Separate(pub(super) Scores);

/// Attention of the heads in `[B, T, (H + 2 H_kv) · D]`: all queries, then all keys, then all values.
pub(super) struct Packed {
    pub(super) scores: Scores,
    pub(super) n_head: usize,
    pub(super) n_kv_head: usize,
}

/// Writes matrices `[T, D]`, `per_row` of them for each sequence, side by side into rows. Where there are several for one
/// place, their sum.
fn side_by_side(t: usize, d: usize, per_row: usize, places: &[Vec<&[f32]>]) -> CandleResult<Vec<f32>> {
    let width = per_row * d;
    let mut out = zeros(places.len() / per_row * t * width)?;
    each_rows(&mut out, width, &|first, rows| {
        for (i, row) in rows.chunks_mut(width).enumerate() {
            let (b, at) = ((first / width + i) / t, (first / width + i) % t);
            for (to, matrices) in row.chunks_mut(d).zip(&places[b * per_row..]) {
                matrices.iter().for_each(|matrix| add(to, &matrix[at * d..][..d]));
            }
        }
    });
    Ok(out)
}

/// A head's gradients of queries, keys and values.
type Gradients = [Vec<f32>; 3];

/// Returns the places of the gradients of one operand: that of each head, or the sum over a group of them.
fn places(heads: &[Gradients], operand: usize, group: usize) -> Vec<Vec<&[f32]>> {
    heads.chunks(group).map(|heads| heads.iter().map(|head| head[operand].as_slice()).collect()).collect()
}

impl Scores {
    /// Calls `f` with the elements of the bias.
    fn with_bias<R>(&self, f: impl FnOnce(Option<Bias<'_>>) -> CandleResult<R>) -> CandleResult<R> {
        let Some(bias) = &self.bias else { return f(None) };
        let dims = bias.dims4()?;
        with_values([bias], |[values]| f(Some(Bias { values, dims })))?
    }
}

impl Job<'_> {
    fn all<R: Send>(&self, f: &(dyn Fn(usize, usize) -> R + Sync)) -> Vec<R> {
        let ([b, h, t_q, d], [_, _, t_k, d_v]) = (self.q.dims, self.v.dims);
        let each = |i| f(i / h, i % h);
        // A step of decoding is over before another thread is awake.
        match b * h * t_q * t_k * (d + d_v) < PARALLEL_PRODUCTS {
            true => (0..b * h).map(each).collect(),
            false => map_in_parallel(b * h, &each),
        }
    }

    /// Computes the output, `[B, T_q, H · D_v]`.
    fn out(&self) -> CandleResult<(CpuStorage, Shape)> {
        let ([b, h, t, _], [_, _, _, d]) = (self.q.dims, self.v.dims);
        let heads = self.all(&|b, h| self.forward(b, h));
        let places: Vec<_> = heads.iter().map(|head| vec![head.as_slice()]).collect();
        Ok(storage(side_by_side(t, d, h, &places)?, &(b, t, h * d).into()))
    }

    /// Computes the gradients of each head from that of the output.
    fn gradients(&self, out_grad: &[f32]) -> Vec<Gradients> {
        let ([b, h, t, _], [_, _, _, d]) = (self.q.dims, self.v.dims);
        let out_grad = Heads::side_by_side(out_grad, (b, t, h * d), 0..h, d);
        self.all(&|b, h| self.backward(&out_grad, b, h))
    }
}

impl Packed {
    fn with_job<R>(
        &self,
        rows: &[f32],
        (b, t, width): (usize, usize, usize),
        f: impl FnOnce(Job<'_>) -> CandleResult<R>,
    ) -> CandleResult<R> {
        let (n_head, n_kv_head) = (self.n_head, self.n_kv_head);
        let d = width / (n_head + 2 * n_kv_head);
        let heads = |first, n| Heads::side_by_side(rows, (b, t, width), first..first + n, d);
        let (q, k, v) = (heads(0, n_head), heads(n_head, n_kv_head), heads(n_head + n_kv_head, n_kv_head));
        self.scores.with_bias(|bias| f(Job { q, k, v, bias, scores: &self.scores }))
    }
}

impl CustomOp1 for Packed {
    fn name(&self) -> &'static str {
        "packed-attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        self.with_job(slice(qkv, layout)?, layout.shape().dims3()?, |job| job.out())
    }

    fn bwd(&self, qkv: &Tensor, _res: &Tensor, out_grad: &Tensor) -> CandleResult<Option<Tensor>> {
        let (_, t, width) = qkv.dims3()?;
        let values = with_values([qkv, out_grad], |[rows, out_grad]| {
            self.with_job(rows, qkv.dims3()?, |job| {
                let heads = job.gradients(out_grad);
                let per_row = self.n_head + 2 * self.n_kv_head;
                let mut in_rows = Vec::with_capacity(heads.len() / self.n_head * per_row);
                for heads in heads.chunks(self.n_head) {
                    in_rows.extend(places(heads, 0, 1));
                    in_rows.extend(places(heads, 1, job.group()));
                    in_rows.extend(places(heads, 2, job.group()));
                }
                side_by_side(t, width / per_row, per_row, &in_rows)
            })
        })??;
        grad(values, qkv)
    }
}

impl Separate {
    fn with_job<R>(
        &self,
        operands: [(&CpuStorage, &Layout); 3],
        f: impl FnOnce(Job<'_>) -> CandleResult<R>,
    ) -> CandleResult<R> {
        let [q, k, v] = operands;
        let (q, k, v) = (Heads::new(q.0, q.1)?, Heads::new(k.0, k.1)?, Heads::new(v.0, v.1)?);
        self.0.with_bias(|bias| f(Job { q, k, v, bias, scores: &self.0 }))
    }
}

impl CustomOp3 for Separate {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        self.with_job([(q, q_layout), (k, k_layout), (v, v_layout)], |job| job.out())
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _res: &Tensor,
        out_grad: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        read_all(&[q, k, v, &out_grad.contiguous()?], |held| {
            let &[q_held, k_held, v_held, (out_grad, layout)] = held else {
                candle_core::bail!("four tensors have four memories")
            };
            self.with_job([q_held, k_held, v_held], |job| {
                let (heads, group) = (job.gradients(slice(out_grad, layout)?), job.group());
                let of = |operand, tensor: &Tensor, group| {
                    let (b, h, t, d) = tensor.dims4()?;
                    let rows = side_by_side(t, d, h, &places(&heads, operand, group))?;
                    let grad = Tensor::from_vec(rows, (b, t, h, d), tensor.device())?.transpose(1, 2)?;
                    grad.to_dtype(tensor.dtype()).map(Some)
                };
                Ok((of(0, q, 1)?, of(1, k, group)?, of(2, v, group)?))
            })
        })
    }
}
