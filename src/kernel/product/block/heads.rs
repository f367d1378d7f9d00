//! Attention of one head, forward and backward. Only the scores of a few queries exist at a time; the backward pass
//! computes them again.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{CpuStorage, Layout, Tensor};
use half::{bf16, f16};

use super::rows::{ROWS, add};
use super::softmax_op::Softmax;
use crate::kernel::core::element::{Element, widen_row};
use crate::kernel::core::simd::vectorised;
use crate::kernel::product::matmul::{Matrix, Update, matmul};

type CandleResult<T> = candle_core::Result<T>;

const SOFTMAX: Softmax = Softmax { masks_rows: true };

/// How scores are made of queries and keys: `q · kᵀ · scale + bias`, with the last query at the last key.
#[derive(Clone, Debug)]
pub(crate) struct Scores {
    pub(crate) scale: f64,
    /// Whether a query sees no later key.
    pub(crate) is_causal: bool,
    /// `[1 or B, 1 or H, 1 or T_q, T_k]`
    pub(crate) bias: Option<Tensor>,
    /// For each of B rows the ends of its documents, of which the last is T_k: a query sees no key of another document.
    pub(crate) documents: Option<Arc<[Vec<usize>]>>,
}

impl Scores {
    /// Returns where the keys end that query `query` of `t_q` may see, documents aside.
    pub(super) fn end_of_seen(&self, query: usize, t_q: usize, t_k: usize) -> usize {
        if self.is_causal { (query + 1 + t_k).saturating_sub(t_q) } else { t_k }
    }

    /// Returns the documents of row `b` as ranges of keys.
    fn documents(&self, b: usize, t_k: usize) -> impl Iterator<Item = Range<usize>> {
        let ends = self.documents.as_ref().map_or(&[][..], |rows| &rows[b]);
        let starts = std::iter::once(0).chain(ends.iter().copied());
        // Without documents there is one, of all keys.
        starts.zip(ends.iter().copied().chain(ends.is_empty().then_some(t_k))).map(|(start, end)| start..end)
    }
}

/// The elements of queries, keys or values, in their own dtype.
#[derive(Clone, Copy)]
pub(super) enum Values<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    BF16(&'a [bf16]),
}

/// `[B, H, T, D]` in memory, each vector of D in one piece.
pub(super) struct Heads<'a> {
    values: Values<'a>,
    pub(super) dims: [usize; 4],
    strides: [usize; 4],
}

impl<'a> Heads<'a> {
    pub(super) fn new(storage: &'a CpuStorage, layout: &Layout) -> CandleResult<Self> {
        let (b, h, t, d) = layout.shape().dims4()?;
        let &[of_b, of_h, of_t, _] = layout.stride() else { candle_core::bail!("four dimensions have four strides") };
        let start = layout.start_offset();
        let values = match storage {
            CpuStorage::F32(values) => Values::F32(&values[start..]),
            CpuStorage::F16(values) => Values::F16(&values[start..]),
            CpuStorage::BF16(values) => Values::BF16(&values[start..]),
            _ => candle_core::bail!("attention is computed for f32, f16 and bf16"),
        };
        Ok(Self { values, dims: [b, h, t, d], strides: [of_b, of_h, of_t, 1] })
    }

    /// Takes `h` of the heads that lie side by side in rows `[B, T, width]`, from the `first` on.
    pub(super) fn side_by_side(
        rows: &'a [f32],
        (b, t, width): (usize, usize, usize),
        heads: Range<usize>,
        d: usize,
    ) -> Self {
        let strides = [t * width, d, width, 1];
        Self { values: Values::F32(&rows[heads.start * d..]), dims: [b, heads.len(), t, d], strides }
    }

    /// Returns one head. Halves are widened, which takes a copy that stays in a cache.
    fn head(&self, b: usize, h: usize) -> Head<'a> {
        let [_, _, t, width] = self.dims;
        let [of_b, of_h, stride, _] = self.strides;
        let start = b * of_b + h * of_h;
        match self.values {
            Values::F32(values) => Head { values: Cow::Borrowed(&values[start..]), width, stride },
            Values::F16(values) => Head { values: widened(&values[start..], (t, width), stride), width, stride: width },
            Values::BF16(values) => {
                Head { values: widened(&values[start..], (t, width), stride), width, stride: width }
            }
        }
    }
}

/// Returns `n` vectors of `width`, one behind the other.
fn widened<E: Element<Wide = f32>>(values: &[E], (n, width): (usize, usize), stride: usize) -> Cow<'static, [f32]> {
    let mut wide = vec![0.0; n * width];
    vectorised(|| {
        for (i, row) in wide.chunks_mut(width.max(1)).enumerate() {
            widen_row(row, &values[i * stride..][..width]);
        }
    });
    Cow::Owned(wide)
}

/// `[T, D]`
struct Head<'a> {
    values: Cow<'a, [f32]>,
    width: usize,
    stride: usize,
}

impl Head<'_> {
    fn rows(&self, rows: Range<usize>) -> Matrix<'_, f32> {
        Matrix::strided(&self.values[rows.start * self.stride..], rows.len(), self.width, self.stride)
    }

    /// Returns the vectors one behind the other, times `scale`.
    fn scaled(&self, t: usize, scale: f32) -> Vec<f32> {
        let rows = (0..t).flat_map(|row| &self.values[row * self.stride..][..self.width]);
        rows.map(|x| x * scale).collect()
    }
}

/// A bias with its elements.
pub(super) struct Bias<'a> {
    pub(super) values: &'a [f32],
    pub(super) dims: (usize, usize, usize, usize),
}

impl Bias<'_> {
    fn row(&self, b: usize, h: usize, query: usize) -> &[f32] {
        let (n_b, n_h, n_q, t_k) = self.dims;
        let row = ((b.min(n_b - 1) * n_h) + h.min(n_h - 1)) * n_q + query.min(n_q - 1);
        &self.values[row * t_k..][..t_k]
    }
}

/// Attention over all heads. `k` and `v` may have fewer: each then serves as many neighbouring heads of `q`.
pub(super) struct Job<'a> {
    pub(super) q: Heads<'a>,
    pub(super) k: Heads<'a>,
    pub(super) v: Heads<'a>,
    pub(super) bias: Option<Bias<'a>>,
    pub(super) scores: &'a Scores,
}

/// One head's operands.
struct Operands<'a> {
    b: usize,
    h: usize,
    /// Already scaled, `[T_q, D]`.
    q: Vec<f32>,
    k: Head<'a>,
    v: Head<'a>,
}

impl<'a> Job<'a> {
    pub(super) fn t_q(&self) -> usize {
        self.q.dims[2]
    }

    fn t_k(&self) -> usize {
        self.k.dims[2]
    }

    /// Returns how many heads of `q` share one of `k`.
    pub(super) fn group(&self) -> usize {
        self.q.dims[1] / self.k.dims[1]
    }

    fn operands(&self, b: usize, h: usize) -> Operands<'a> {
        let kv_head = h / self.group();
        let q = self.q.head(b, h).scaled(self.t_q(), self.scores.scale as f32);
        Operands { b, h, q, k: self.k.head(b, kv_head), v: self.v.head(b, kv_head) }
    }

    /// Returns the queries of a row, a few of one document at a time, with the keys of that document. Each document is
    /// divided as if it were alone, so its bits are those that it has alone.
    fn blocks(&self, b: usize) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        let (t_q, t_k) = (self.t_q(), self.t_k());
        self.scores.documents(b, t_k).flat_map(move |keys| {
            // The last query stands at the last key. Queries before the first key belong to the first document.
            let query_at = |key: usize| if key == 0 { 0 } else { (key + t_q).saturating_sub(t_k) };
            let (start, end) = (query_at(keys.start), query_at(keys.end));
            (start..end).step_by(ROWS).map(move |first| (first..end.min(first + ROWS), keys.clone()))
        })
    }

    /// Computes the weights of `queries` over the keys of their document that the last of them sees, and returns these.
    fn weights(
        &self,
        head: &Operands<'_>,
        queries: &Range<usize>,
        keys: &Range<usize>,
        weights: &mut Vec<f32>,
    ) -> Range<usize> {
        let seen = |query| keys.start..self.scores.end_of_seen(query, self.t_q(), self.t_k()).min(keys.end);
        let keys = seen(queries.end - 1);
        weights.resize(queries.len() * keys.len(), 0.0);
        if keys.is_empty() {
            return keys;
        }
        let d = head.k.width;
        let q = Matrix::new(&head.q[queries.start * d..], queries.len(), d);
        matmul(weights, Update::Overwrite, q, head.k.rows(keys.clone()).t());
        for (row, query) in weights.chunks_mut(keys.len()).zip(queries.clone()) {
            let (seen, later) = row.split_at_mut(seen(query).len());
            if let Some(bias) = &self.bias {
                add(seen, &bias.row(head.b, head.h, query)[keys.start..]);
            }
            SOFTMAX.forward_row(seen);
            later.fill(0.0);
        }
        keys
    }

    /// Computes the output `[T_q, D]` of one head.
    pub(super) fn forward(&self, b: usize, h: usize) -> Vec<f32> {
        let (head, mut weights) = (self.operands(b, h), Vec::new());
        let d = head.v.width;
        let mut out = vec![0.0; self.t_q() * d];
        for (queries, keys) in self.blocks(b) {
            let keys = self.weights(&head, &queries, &keys, &mut weights);
            if !keys.is_empty() {
                let rows = &mut out[queries.start * d..queries.end * d];
                let weights = Matrix::new(&weights, queries.len(), keys.len());
                matmul(rows, Update::Overwrite, weights, head.v.rows(keys));
            }
        }
        out
    }

    /// Computes the gradients `[T, D]` of queries, keys and values of one head.
    pub(super) fn backward(&self, out_grad: &Heads<'_>, b: usize, h: usize) -> [Vec<f32>; 3] {
        let (head, out_grad, scale) = (self.operands(b, h), out_grad.head(b, h), self.scores.scale as f32);
        let (d, d_v) = (head.k.width, head.v.width);
        let mut q_grad = vec![0.0; self.t_q() * d];
        let (mut k_grad, mut v_grad) = (vec![0.0; self.t_k() * d], vec![0.0; self.t_k() * d_v]);
        let (mut weights, mut scores_grad) = (Vec::new(), Vec::new());
        for (queries, keys) in self.blocks(b) {
            let keys = self.weights(&head, &queries, &keys, &mut weights);
            let n = keys.len();
            if n == 0 {
                continue;
            }
            let out_grad = out_grad.rows(queries.clone());
            scores_grad.resize(weights.len(), 0.0);
            matmul(&mut scores_grad, Update::Overwrite, out_grad, head.v.rows(keys.clone()).t());
            let rows = weights.chunks(n).zip(scores_grad.chunks_mut(n));
            rows.for_each(|(weights, grad)| Softmax::backward_row(weights, grad));
            let of = |values| Matrix::new(values, queries.len(), n);
            let q = Matrix::new(&head.q[queries.start * d..], queries.len(), d);
            matmul(&mut v_grad[keys.start * d_v..keys.end * d_v], Update::Add, of(&weights).t(), out_grad);
            matmul(&mut k_grad[keys.start * d..keys.end * d], Update::Add, of(&scores_grad).t(), q);
            let rows = &mut q_grad[queries.start * d..queries.end * d];
            matmul(rows, Update::Overwrite, of(&scores_grad), head.k.rows(keys));
            rows.iter_mut().for_each(|g| *g *= scale);
        }
        [q_grad, k_grad, v_grad]
    }
}
