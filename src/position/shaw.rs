//! Shaw's positions: a learned vector for each clipped distance, added to the keys and the values.

use candle_core::Tensor;

use super::scores::{Dims, dot, dot_rows};
use crate::error::{Error, Result};
use crate::kernel::{Columns, by_distance, sum_by_distance};

/// Relative position representations (Shaw et al. 2018, arXiv:1803.02155, equations 3 and 4) in one block:
/// `score(i, j) = q_i · (k_j + a^K_r) / √D` and `z_i = Σ_j weight(i, j) (v_j + a^V_r)`, with r the distance `j - i` clipped.
///
/// The keys' part is `position_embeddings_type="relative_key"` of transformers' Wav2Vec2-BERT (`distance_embedding`). The
/// vectors are the same for all heads, as in the paper.
#[derive(Clone, Debug)]
pub struct Shaw {
    keys: Tensor,
    values: Option<Tensor>,
    left: usize,
}

impl Shaw {
    /// Distances are clipped to `left` before and, after the query, to what the tables have rows for.
    ///
    /// # Shapes
    /// - `keys`, `values`: `[left + 1 + right, D]`
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if they do not go together.
    pub fn new(keys: Tensor, values: Option<Tensor>, left: usize) -> Result<Self> {
        let mismatch = |what, got: &Tensor, expected| Error::ShapeMismatch { what, got: got.shape().clone(), expected };
        match *keys.dims() {
            [n, d] if n > left && d > 0 => {}
            _ => return Err(mismatch("distance_embedding", &keys, format!("[{} or more, D]", left + 1))),
        }
        if let Some(values) = values.as_ref().filter(|values| values.dims() != keys.dims()) {
            return Err(mismatch("distance_embedding_value", values, format!("{:?}", keys.dims())));
        }
        Ok(Self { keys, values, left })
    }

    fn columns(&self, t_q: usize, t_k: usize, start_pos: usize) -> Result<(Columns, usize)> {
        let n = self.keys.dim(0)?;
        let (left, right) = (self.left as i64, (n - 1 - self.left) as i64);
        let column = |distance: i64| (distance.clamp(-left, right) + left) as u32;
        Ok((Columns::new(t_q, t_k, start_pos as i64, column), n))
    }

    /// The scores of queries that begin at position `start_pos` of the keys, divided by √D; a mask is still to be added.
    ///
    /// Gradients reach `q`, `k` and the table. Padding on the left changes nothing.
    ///
    /// # Shapes
    /// - `q`: `[B, H, T_q, D]`, `k`: `[B, H, T_k, D]`
    /// - returns: `[B, H, T_q, T_k]`
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] for other shapes.
    pub fn attention_scores(&self, q: &Tensor, k: &Tensor, start_pos: usize) -> Result<Tensor> {
        let Dims { t_q, t_k, d } = Dims::of(q, k, None, self.keys.dim(1)?)?;
        let (columns, _) = self.columns(t_q, t_k, start_pos)?;
        let position = by_distance(&dot_rows(q, &self.keys.unsqueeze(0)?)?, columns)?;
        Ok(((dot(q, k)? + position)? * (1.0 / (d as f64).sqrt()))?)
    }

    /// What the attention gives: the weighted values, and the weighted vectors of the distances where values have some.
    ///
    /// # Shapes
    /// - `weights`: `[B, H, T_q, T_k]`, after the softmax, `v`: `[B, H, T_k, D]`
    /// - returns: `[B, H, T_q, D]`
    ///
    /// # Errors
    /// [`Error::Candle`] for shapes that do not go together.
    pub fn attention_output(&self, weights: &Tensor, v: &Tensor, start_pos: usize) -> Result<Tensor> {
        let output = weights.contiguous()?.matmul(&v.contiguous()?)?;
        let Some(values) = &self.values else { return Ok(output) };
        let (b, h, t_q, t_k) = weights.dims4()?;
        let (columns, n) = self.columns(t_q, t_k, start_pos)?;
        let by_vector = sum_by_distance(weights, columns, n)?.reshape((b * h * t_q, n))?;
        Ok((output + by_vector.matmul(values)?.reshape((b, h, t_q, ()))?)?)
    }
}
