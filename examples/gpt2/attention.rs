//! Causal attention over whole sequences, forward and backward, one head at a time.

use std::ops::Range;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{ROWS, add, slice, softmax_row, softmax_row_backward, storage_of, with_slices};

/// Computes the attention of every token to itself and those before it: `[B, T, 3 C] -> [B, T, C]`, with queries, keys
/// and values side by side in `qkv`.
///
/// Only the scores of a few queries of a head exist at a time; the backward pass computes them again.
pub fn causal_attention(qkv: &Tensor, n_head: usize, scale: f64) -> Result<Tensor> {
    qkv.contiguous()?.apply_op1(CausalAttention { n_head, scale: scale as f32 })
}

struct CausalAttention {
    n_head: usize,
    scale: f32,
}

/// A contiguous matrix.
struct Matrix {
    values: CpuStorage,
    width: usize,
}

impl Matrix {
    /// Copies `width` columns, scaled, out of a matrix whose rows are `stride` apart.
    fn cut(values: &[f32], stride: usize, first: usize, width: usize, scale: f32) -> Self {
        let rows = values.chunks(stride).flat_map(|row| &row[first..first + width]);
        Self { values: CpuStorage::F32(rows.map(|x| x * scale).collect()), width }
    }

    fn rows(&self, rows: Range<usize>) -> Layout {
        Layout::contiguous_with_offset((rows.len(), self.width), rows.start * self.width)
    }
}

fn product(lhs: &CpuStorage, lhs_layout: &Layout, rhs: &CpuStorage, rhs_layout: &Layout) -> Result<Vec<f32>> {
    let ((m, k), (_, n)) = (lhs_layout.shape().dims2()?, rhs_layout.shape().dims2()?);
    match lhs.matmul(rhs, (1, m, n, k), lhs_layout, rhs_layout)? {
        CpuStorage::F32(product) => Ok(product),
        other => candle_core::bail!("a product of f32 is {other:?}"),
    }
}

/// The input of one head.
struct Head {
    /// Already scaled.
    q: Matrix,
    k: Matrix,
    v: Matrix,
}

impl Head {
    /// Computes the weights of `queries` over the keys they may see, the last of which is `queries.end - 1`.
    fn weights(&self, queries: Range<usize>) -> Result<Vec<f32>> {
        let keys = self.k.rows(0..queries.end).transpose(0, 1)?;
        let mut weights = product(&self.q.values, &self.q.rows(queries.clone()), &self.k.values, &keys)?;
        for (row, query) in weights.chunks_mut(queries.end).zip(queries) {
            let (seen, later) = row.split_at_mut(query + 1);
            softmax_row(seen);
            later.fill(0.0);
        }
        Ok(weights)
    }
}

impl CausalAttention {
    fn head(&self, qkv: &[f32], c: usize, head: usize) -> Head {
        let d = c / self.n_head;
        let cut = |part: usize, scale: f32| Matrix::cut(qkv, 3 * c, part * c + head * d, d, scale);
        Head { q: cut(0, self.scale), k: cut(1, 1.0), v: cut(2, 1.0) }
    }

    /// Computes the output `[T, D]` of one head.
    fn forward(&self, qkv: &[f32], c: usize, head: usize) -> Result<Vec<f32>> {
        let (t, head) = (qkv.len() / (3 * c), self.head(qkv, c, head));
        let mut out = Vec::with_capacity(t * head.v.width);
        for first in (0..t).step_by(ROWS) {
            let queries = first..t.min(first + ROWS);
            let shape = Layout::contiguous((queries.len(), queries.end));
            let weights = CpuStorage::F32(head.weights(queries.clone())?);
            out.extend(product(&weights, &shape, &head.v.values, &head.v.rows(0..queries.end))?);
        }
        Ok(out)
    }

    /// Computes the gradients of queries, keys and values of one head, `[T, D]` each.
    fn backward(&self, qkv: &[f32], grad: &[f32], c: usize, head: usize) -> Result<[Vec<f32>; 3]> {
        let (t, d) = (qkv.len() / (3 * c), c / self.n_head);
        let grad = Matrix::cut(grad, c, head * d, d, 1.0);
        let head = self.head(qkv, c, head);
        let (mut q_grad, mut k_grad, mut v_grad) = (Vec::with_capacity(t * d), vec![0.0; t * d], vec![0.0; t * d]);
        for first in (0..t).step_by(ROWS) {
            let queries = first..t.min(first + ROWS);
            let (keys, shape) = (0..queries.end, Layout::contiguous((queries.len(), queries.end)));
            let weights = head.weights(queries.clone())?;
            let v = head.v.rows(keys.clone()).transpose(0, 1)?;
            let mut scores_grad = product(&grad.values, &grad.rows(queries.clone()), &head.v.values, &v)?;
            for (weights, grad) in weights.chunks(keys.end).zip(scores_grad.chunks_mut(keys.end)) {
                softmax_row_backward(weights, grad);
            }
            let (weights, scores_grad) = (CpuStorage::F32(weights), CpuStorage::F32(scores_grad));
            let by_key = shape.transpose(0, 1)?;
            add(&mut v_grad, &product(&weights, &by_key, &grad.values, &grad.rows(queries.clone()))?);
            add(&mut k_grad, &product(&scores_grad, &by_key, &head.q.values, &head.q.rows(queries))?);
            let rows = product(&scores_grad, &shape, &head.k.values, &head.k.rows(keys))?;
            q_grad.extend(rows.iter().map(|g| g * self.scale));
        }
        Ok([q_grad, k_grad, v_grad])
    }

    /// Calls `f` with the number of each sequence and head, in parallel.
    fn heads<R: Send>(&self, b: usize, f: impl Fn(usize, usize) -> Result<R> + Sync) -> Result<Vec<R>> {
        (0..b * self.n_head).into_par_iter().map(|i| f(i / self.n_head, i % self.n_head)).collect()
    }
}

/// Writes matrices `[T, D]`, `width / D` of them for each sequence, side by side into its rows.
fn interleave(out: &mut [f32], t: usize, width: usize, d: usize, heads: &[&[f32]]) {
    let per_sequence = width / d;
    out.par_chunks_mut(t * width).zip(heads.par_chunks(per_sequence)).for_each(|(out, heads)| {
        for (i, row) in out.chunks_mut(width).enumerate() {
            for (to, head) in row.chunks_mut(d).zip(heads) {
                to.copy_from_slice(&head[i * d..(i + 1) * d]);
            }
        }
    });
}

impl CustomOp1 for CausalAttention {
    fn name(&self) -> &'static str {
        "causal-attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (b, t, width) = layout.shape().dims3()?;
        let (qkv, c) = (slice(qkv, layout)?, width / 3);
        let heads = self.heads(b, |sequence, head| self.forward(&qkv[sequence * t * width..][..t * width], c, head))?;
        let mut out = vec![0.0; b * t * c];
        interleave(&mut out, t, c, c / self.n_head, &heads.iter().map(Vec::as_slice).collect::<Vec<_>>());
        Ok(storage_of(out, &(b, t, c).into()))
    }

    fn bwd(&self, qkv: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (b, t, width) = qkv.dims3()?;
        let c = width / 3;
        with_slices([qkv, grad], |[values, grad]| {
            let heads = self.heads(b, |sequence, head| {
                let (qkv, grad) = (&values[sequence * t * width..], &grad[sequence * t * c..]);
                self.backward(&qkv[..t * width], &grad[..t * c], c, head)
            })?;
            // The queries of all heads of a sequence, then the keys, then the values.
            let sequences = heads.chunks(self.n_head);
            let parts =
                sequences.flat_map(|heads| (0..3).flat_map(|part| heads.iter().map(move |head| head[part].as_slice())));
            let mut out = vec![0.0; b * t * width];
            interleave(&mut out, t, width, c / self.n_head, &parts.collect::<Vec<_>>());
            Tensor::from_vec(out, qkv.shape(), qkv.device()).map(Some)
        })
    }
}
