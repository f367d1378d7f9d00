//! T5's positions: a learned value for each bucket of distances and each head, added to the scores.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::scores::{Distances, check_reach};
use crate::error::Result;
use crate::kernel::{Columns, bias_in_runs, by_distance, distances};
use crate::memory::fits_on;
use crate::shape::wrong_shape;

/// T5's relative bias (Raffel et al. 2019, arXiv:1910.10683, section 2.1, with the buckets of its code):
///
/// ```text
/// score_h(i, j) += b_h[bucket(j - i)]
/// ```
///
/// In each direction, half the buckets hold one distance each. The others grow logarithmically up to `max_distance`,
/// and the last holds everything beyond it. If bidirectional, later keys have the upper half of the buckets; otherwise
/// they share bucket 0. T5 does not divide its scores by √D; the attention decides that.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_gpt_input::position::T5Bias;
///
/// let table = Tensor::new(&[[0f32], [1.], [2.], [3.]], &Device::Cpu)?; // 4 buckets, 1 head: each value is its bucket
/// let bias = T5Bias::new(table, 8, false)?.attention_bias(1, 4, 3)?; // the query at position 3 and the keys before it
/// assert_eq!(bias.flatten_all()?.to_vec1::<f32>()?, [2.0, 2.0, 1.0, 0.0]); // distances 2 and 3 share a bucket
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[doc(alias("relative_attention_bias", "T5Attention"))]
#[derive(Clone, Debug)]
pub struct T5Bias {
    table: Tensor,
    /// The runs of distances that share a bucket: the least distance of each, in ascending order, and its bucket.
    runs: Arc<[(i64, usize)]>,
}

impl T5Bias {
    /// Makes the bias on the table `relative_attention_bias.weight`.
    ///
    /// # Shapes
    /// - `table`: `[num_buckets, H]`
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) for a table without heads or with fewer buckets than a
    /// direction needs, or for a `max_distance` within the distances that have a bucket of their own.
    pub fn new(table: Tensor, max_distance: usize, bidirectional: bool) -> Result<Self> {
        match *table.dims() {
            [num_buckets, n_head]
                if n_head > 0
                    && num_buckets >= if bidirectional { 4 } else { 2 }
                    && max_distance > num_buckets / if bidirectional { 4 } else { 2 } =>
            {
                let runs = runs(num_buckets, max_distance.min(i64::MAX as usize) as u64, bidirectional);
                Ok(Self { table, runs })
            }
            _ => {
                let expected = format!("[num_buckets, H], with buckets that fit max_distance {max_distance}");
                Err(wrong_shape("relative_attention_bias", table.shape(), expected))
            }
        }
    }

    /// Returns the bucket of the distance from a query to a key (key minus query).
    ///
    /// The logarithm is computed in f32, as in transformers, which decides the borders between buckets.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_gpt_input::position::T5Bias;
    ///
    /// let table = Tensor::zeros((4, 1), DType::F32, &Device::Cpu)?;
    /// let bias = T5Bias::new(table, 8, false)?; // 0 and 1 have a bucket each; 2 and 3 share one, as do all from 4 on
    /// assert_eq!([0, -1, -2, -3, -4, -100].map(|distance| bias.bucket(distance)), [0, 1, 2, 2, 3, 3]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    #[doc(alias = "_relative_position_bucket")]
    pub fn bucket(&self, distance: i64) -> usize {
        let next = self.runs.partition_point(|&(least, _)| least <= distance);
        self.runs[next - 1].1 // the first run begins at `i64::MIN`
    }

    /// Returns the bias to add to attention scores, for queries at `start_pos..start_pos + t_q` and keys at `0..t_k`.
    ///
    /// Gradients reach the table. Padding on the left changes nothing.
    ///
    /// # Shapes
    /// - returns: `[1, H, T_q, T_k]`, in f32 for half-precision tables
    ///
    /// # Errors
    /// - [`Error::SequenceTooLong`](crate::Error::SequenceTooLong) for positions whose distances cannot be counted
    /// - [`Error::Candle`](crate::Error::Candle) if the device has no memory for the bias
    #[doc(alias = "compute_bias")]
    pub fn attention_bias(&self, t_q: usize, t_k: usize, start_pos: usize) -> Result<Tensor> {
        check_reach(t_q, t_k, start_pos)?;
        let table = self.wide_table()?;
        if table.track_op() || !table.device().is_cpu() {
            let by_head = table.t()?.contiguous()?.unsqueeze(1)?.unsqueeze(0)?;
            let columns = Columns::new(t_q, t_k, start_pos as i64, |distance| self.bucket(distance) as u32)?;
            return by_distance(&by_head, columns);
        }
        let Range { start, end } = distances(t_q, t_k, start_pos as i64);
        let mut runs = Vec::with_capacity(self.runs.len());
        for (i, &(least, bucket)) in self.runs.iter().enumerate() {
            let next = self.runs.get(i + 1).map_or(i64::MAX, |&(next, _)| next);
            let (from, to) = (least.max(start), next.min(end));
            if from < to {
                runs.push((bucket, (to - from) as usize));
            }
        }
        bias_in_runs(&table, &runs, (t_q, t_k))
    }

    /// Returns the table in f32, or f64 if it is f64.
    fn wide_table(&self) -> Result<Tensor> {
        let wide = if self.table.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        Ok(self.table.to_dtype(wide)?)
    }

    /// Returns the bias for queries and keys at given positions, as needed if padding lies inside a row.
    ///
    /// # Shapes
    /// - `q_positions`: `[B, T_q]`, `k_positions`: `[B, T_k]`, `u8`, `u32` or `i64`
    /// - returns: `[B, H, T_q, T_k]`, in f32 for half-precision tables
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) or [`Error::IdDType`](crate::Error::IdDType) for positions
    /// of another shape or dtype.
    pub fn attention_bias_at(&self, q_positions: &Tensor, k_positions: &Tensor) -> Result<Tensor> {
        let Distances { b, t_q, t_k, values } = Distances::of(q_positions, k_positions)?;
        fits_on(self.table.device(), "attention bias", &[b, self.table.dim(1)?, t_q, t_k], size_of::<f64>())?;
        let buckets: Vec<u32> = values.into_iter().map(|distance| self.bucket(distance) as u32).collect();
        let buckets = Tensor::from_vec(buckets, b * t_q * t_k, self.table.device())?;
        let rows = self.wide_table()?.index_select(&buckets, 0)?;
        Ok(rows.reshape((b, t_q, t_k, self.table.dim(1)?))?.permute((0, 3, 1, 2))?.contiguous()?)
    }
}

/// Returns the least distance of each run of distances that share a bucket, and their bucket.
fn runs(num_buckets: usize, max_distance: u64, bidirectional: bool) -> Arc<[(i64, usize)]> {
    let n_buckets = if bidirectional { num_buckets / 2 } else { num_buckets };
    // First one direction, from distance 0 on. Buckets grow with the distance, and some may hold none.
    let bucket = |distance| bucket_of(distance, n_buckets, max_distance);
    let mut one_way = vec![(0u64, 0)];
    while let Some(&(_, last)) = one_way.last().filter(|&&(_, last)| last < bucket(max_distance)) {
        let (mut low, mut high) = (0, max_distance); // the bucket of `low` is at most `last`, that of `high` is above
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if bucket(middle) > last { high = middle } else { low = middle }
        }
        one_way.push((high, bucket(high)));
    }
    let backwards = one_way.iter().enumerate().rev().map(|(i, &(_, bucket))| {
        let least = one_way.get(i + 1).map_or(i64::MIN, |&(next, _)| 1 - next as i64);
        (least, bucket)
    });
    let forwards =
        one_way[1..].iter().filter(|_| bidirectional).map(|&(least, bucket)| (least as i64, n_buckets + bucket));
    backwards.chain(forwards).collect()
}

/// Returns the bucket of a distance in one direction.
fn bucket_of(distance: u64, n_buckets: usize, max_distance: u64) -> usize {
    let max_exact = n_buckets / 2;
    if distance < max_exact as u64 {
        return distance as usize;
    }
    if distance >= max_distance {
        return n_buckets - 1;
    }
    let log = f64::from(distance as f32 / max_exact as f32).ln() as f32;
    let whole = (max_distance as f64 / max_exact as f64).ln() as f32;
    let further = (log / whole * (n_buckets - max_exact) as f32) as usize;
    max_exact.saturating_add(further).min(n_buckets - 1)
}
