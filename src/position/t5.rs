//! T5's positions: a learned number for each bucket of distances and each head, added to the scores.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::scores::Distances;
use crate::error::{Error, Result};
use crate::kernel::{Columns, by_distance};

/// T5's relative bias (Raffel et al. 2019, arXiv:1910.10683, section 2.1; the buckets are those of its code):
/// `score(i, j) += b_h[bucket(j - i)]`.
///
/// Half the buckets of a direction belong to one distance each; the others grow logarithmically up to `max_distance`, and
/// share the last beyond it. Bidirectional, later keys have the upper half of the buckets; else they share bucket 0.
/// T5 does not divide its scores by √D; that is the attention's to decide.
#[derive(Clone, Debug)]
pub struct T5Bias {
    table: Tensor,
    num_buckets: usize,
    max_distance: usize,
    bidirectional: bool,
    /// The buckets of the distances from 0 on in one direction, as far as they differ or [`LISTED`] reaches.
    listed: Arc<[u32]>,
}

/// A list of so many buckets spares a call their logarithms; what lies further is computed.
const LISTED: usize = 1 << 12;

impl T5Bias {
    /// On the table `relative_attention_bias.weight`.
    ///
    /// # Shapes
    /// - `table`: `[num_buckets, H]`
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] for a table with fewer buckets than a direction needs, or no heads, or a `max_distance` that
    /// the buckets with a distance of their own already reach.
    pub fn new(table: Tensor, max_distance: usize, bidirectional: bool) -> Result<Self> {
        let num_buckets = match *table.dims() {
            [num_buckets, n_head]
                if n_head > 0
                    && num_buckets >= if bidirectional { 4 } else { 2 }
                    && max_distance > num_buckets / if bidirectional { 4 } else { 2 } =>
            {
                num_buckets
            }
            _ => {
                let expected = format!("[num_buckets, H] that go with max_distance {max_distance}");
                return Err(Error::ShapeMismatch {
                    what: "relative_attention_bias",
                    got: table.shape().clone(),
                    expected,
                });
            }
        };
        let mut bias = Self { table, num_buckets, max_distance, bidirectional, listed: Arc::new([]) };
        bias.listed = (0..max_distance.min(LISTED) as u64).map(|distance| bias.logarithmic(distance) as u32).collect();
        Ok(bias)
    }

    /// The bucket of the distance from a query to a key (key minus query).
    ///
    /// The logarithm is that of f32 operations, as transformers has them: it decides which bucket a border belongs to.
    pub fn bucket(&self, distance: i64) -> usize {
        let (base, distance) = match self.bidirectional {
            true => (if distance > 0 { self.n_buckets() } else { 0 }, distance.unsigned_abs()),
            false => (0, distance.min(0).unsigned_abs()),
        };
        let listed = usize::try_from(distance).ok().and_then(|distance| self.listed.get(distance));
        base + listed.map_or_else(|| self.logarithmic(distance), |&bucket| bucket as usize)
    }

    /// Buckets of one direction.
    fn n_buckets(&self) -> usize {
        if self.bidirectional { self.num_buckets / 2 } else { self.num_buckets }
    }

    fn logarithmic(&self, distance: u64) -> usize {
        let n_buckets = self.n_buckets();
        let max_exact = n_buckets / 2;
        if distance < max_exact as u64 {
            return distance as usize;
        }
        if distance >= self.max_distance as u64 {
            return n_buckets - 1;
        }
        let log = f64::from(distance as f32 / max_exact as f32).ln() as f32;
        let whole = (self.max_distance as f64 / max_exact as f64).ln() as f32;
        let further = (log / whole * (n_buckets - max_exact) as f32) as usize;
        max_exact.saturating_add(further).min(n_buckets - 1)
    }

    /// What is added to the scores of `t_q` queries, the first of them at `start_pos`, and `t_k` keys from position 0 on.
    ///
    /// Gradients reach the table. Padding on the left changes nothing.
    ///
    /// # Shapes
    /// - returns: `[1, H, T_q, T_k]`, in f32 for tables of half types
    ///
    /// # Errors
    /// [`Error::Candle`] if there is no room.
    pub fn attention_bias(&self, t_q: usize, t_k: usize, start_pos: usize) -> Result<Tensor> {
        let wide = if self.table.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let by_head = self.table.to_dtype(wide)?.t()?.contiguous()?.unsqueeze(1)?.unsqueeze(0)?;
        by_distance(&by_head, Columns::new(t_q, t_k, start_pos as i64, |distance| self.bucket(distance) as u32))
    }
    /// The same for queries and keys at positions of their own: where padding lies in the middle of rows, say.
    ///
    /// # Shapes
    /// - `q_positions`: `[B, T_q]`, `k_positions`: `[B, T_k]`, `u8`, `u32` or `i64`
    /// - returns: `[B, H, T_q, T_k]`, in f32 for tables of half types
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] and [`Error::IdDType`] for other positions.
    pub fn attention_bias_at(&self, q_positions: &Tensor, k_positions: &Tensor) -> Result<Tensor> {
        let Distances { b, t_q, t_k, values } = Distances::of(q_positions, k_positions)?;
        let buckets: Vec<u32> = values.into_iter().map(|distance| self.bucket(distance) as u32).collect();
        let buckets = Tensor::from_vec(buckets, b * t_q * t_k, self.table.device())?;
        let wide = if self.table.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let rows = self.table.to_dtype(wide)?.index_select(&buckets, 0)?;
        Ok(rows.reshape((b, t_q, t_k, self.table.dim(1)?))?.permute((0, 3, 1, 2))?.contiguous()?)
    }
}
