//! Shaw's positions: a learned vector for each clipped distance, added to keys and values.

use candle_core::{D, Tensor};

use super::scores::{Dims, Distances, check_reach, dot, dot_rows, weighted};
use crate::error::Result;
use crate::kernel::{Columns, by_distance, sum_by_distance};
use crate::memory::{copy_fits, fits_on};
use crate::shape::wrong_shape;

/// Relative position representations (Shaw et al. 2018, arXiv:1803.02155, equations 3 and 4) in one block, with r the
/// clipped distance `j - i`:
///
/// ```text
/// score(i, j) = q_i · (k_j + a^K_r) / √D
/// z_i = Σ_j weight(i, j) (v_j + a^V_r)
/// ```
///
/// The keys' part is `position_embeddings_type="relative_key"` of transformers' Wav2Vec2-BERT (`distance_embedding`).
/// As in the paper, all heads share the vectors.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_gpt_input::position::Shaw;
///
/// let keys = Tensor::new(&[[10f32], [20.]], &Device::Cpu)?; // for keys 1 or more behind the query, and at it; D = 1
/// let shaw = Shaw::new(keys, None, 1)?;
/// let q = Tensor::ones((1, 1, 1, 1), DType::F32, &Device::Cpu)?;
/// let k = Tensor::zeros((1, 1, 3, 1), DType::F32, &Device::Cpu)?;
/// let scores = shaw.attention_scores(&q, &k, 2)?; // [B, H, T_q, T_k]
/// assert_eq!(scores.flatten_all()?.to_vec1::<f32>()?, [10.0, 10.0, 20.0]);
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[doc(alias("relative_key", "distance_embedding", "relative position representations"))]
#[derive(Clone, Debug)]
pub struct Shaw {
    keys: Tensor,
    values: Option<Tensor>,
    left: usize,
}

impl Shaw {
    /// Makes the positions of one block. Distances are clipped to `left` before the query, and after it to the rest of
    /// the rows.
    ///
    /// # Shapes
    /// - `keys`, `values`: `[left + 1 + right, D]`
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) for other shapes.
    pub fn new(keys: Tensor, values: Option<Tensor>, left: usize) -> Result<Self> {
        match *keys.dims() {
            [n, d] if n > left && d > 0 => {}
            _ => {
                return Err(wrong_shape(
                    "distance_embedding",
                    keys.shape(),
                    format!("[{} or more, D]", left.saturating_add(1)),
                ));
            }
        }
        if let Some(values) = values.as_ref().filter(|values| values.dims() != keys.dims()) {
            return Err(wrong_shape("distance_embedding_value", values.shape(), format!("{:?}", keys.dims())));
        }
        Ok(Self { keys, values, left })
    }

    fn columns(&self, t_q: usize, t_k: usize, start_pos: usize) -> Result<(Columns, usize)> {
        check_reach(t_q, t_k, start_pos)?;
        let n = self.keys.dim(0)?;
        Ok((Columns::new(t_q, t_k, start_pos as i64, |distance| self.column(distance, n))?, n))
    }

    /// Returns the row for a distance (key minus query) in tables of `n` rows.
    fn column(&self, distance: i64, n: usize) -> u32 {
        let (left, right) = (self.left as i64, (n - 1 - self.left) as i64);
        (distance.clamp(-left, right) + left) as u32
    }

    /// Returns the scores of queries at `start_pos..start_pos + t_q` and keys at `0..t_k`, divided by √D. Add the mask.
    ///
    /// Gradients reach `q`, `k` and the table. Padding on the left changes nothing.
    ///
    /// # Shapes
    /// - `q`: `[B, H, T_q, D]`, `k`: `[B, H, T_k, D]`
    /// - returns: `[B, H, T_q, T_k]`
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) for other shapes.
    pub fn attention_scores(&self, q: &Tensor, k: &Tensor, start_pos: usize) -> Result<Tensor> {
        let Dims { t_q, t_k, d } = Dims::of(q, k, None, self.keys.dim(1)?)?;
        let (columns, _) = self.columns(t_q, t_k, start_pos)?;
        let position = by_distance(&dot_rows(q, &self.keys.unsqueeze(0)?)?, columns)?;
        Ok(((dot(q, k)? + position)? * (1.0 / (d as f64).sqrt()))?)
    }

    /// Returns the scores for queries and keys at given positions, as needed if padding lies inside a row.
    ///
    /// # Shapes
    /// - `q`: `[B, H, T_q, D]`, `k`: `[B, H, T_k, D]`
    /// - `q_positions`: `[B, T_q]`, `k_positions`: `[B, T_k]`, `u8`, `u32` or `i64`
    /// - returns: `[B, H, T_q, T_k]`
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) and [`Error::IdDType`](crate::Error::IdDType) for other
    /// shapes and positions.
    pub fn attention_scores_at(
        &self,
        q: &Tensor,
        k: &Tensor,
        q_positions: &Tensor,
        k_positions: &Tensor,
    ) -> Result<Tensor> {
        let (n, width) = self.keys.dims2()?;
        let Dims { d, .. } = Dims::of(q, k, None, width)?;
        let distances = Distances::between(q, k, q_positions, k_positions)?;
        let columns = distances.columns(q.dim(1)?, |distance| self.column(distance, n), q.device())?;
        let position = dot_rows(q, &self.keys.unsqueeze(0)?)?.gather(&columns, D::Minus1)?;
        Ok(((dot(q, k)? + position)? * (1.0 / (d as f64).sqrt()))?)
    }

    /// Returns the attention's output: the weighted values, and the weighted vectors of distances if the block has
    /// vectors for values.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_gpt_input::position::Shaw;
    ///
    /// let vectors = Tensor::new(&[[10f32], [20.]], &Device::Cpu)?; // for keys 1 or more behind the query, and at it
    /// let shaw = Shaw::new(vectors.clone(), Some(vectors), 1)?;
    /// let weights = Tensor::new(&[[[[0.5f32, 0.5]]]], &Device::Cpu)?;
    /// let v = Tensor::new(&[[[[1f32], [3.]]]], &Device::Cpu)?;
    /// let output = shaw.attention_output(&weights, &v, 1)?; // 0.5 · (1 + 10) + 0.5 · (3 + 20)
    /// assert_eq!(output.flatten_all()?.to_vec1::<f32>()?, [17.0]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Shapes
    /// - `weights`: `[B, H, T_q, T_k]`, after the softmax, `v`: `[B, H, T_k, D]`
    /// - returns: `[B, H, T_q, D]`
    ///
    /// # Errors
    /// [`Error::Candle`](crate::Error::Candle) for other shapes.
    pub fn attention_output(&self, weights: &Tensor, v: &Tensor, start_pos: usize) -> Result<Tensor> {
        let output = weighted(weights, v)?;
        let Some(values) = &self.values else { return Ok(output) };
        let (b, h, t_q, t_k) = weights.dims4()?;
        let (columns, n) = self.columns(t_q, t_k, start_pos)?;
        let by_vector = sum_by_distance(weights, columns, n)?.reshape((b * h * t_q, n))?;
        Ok((output + by_vector.matmul(values)?.reshape((b, h, t_q, ()))?)?)
    }

    /// Returns the attention's output for queries and keys at given positions.
    ///
    /// # Shapes
    /// - `weights`: `[B, H, T_q, T_k]`, after the softmax, `v`: `[B, H, T_k, D]`
    /// - `q_positions`: `[B, T_q]`, `k_positions`: `[B, T_k]`, `u8`, `u32` or `i64`
    /// - returns: `[B, H, T_q, D]`
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) and [`Error::IdDType`](crate::Error::IdDType) for other
    /// positions, and [`Error::Candle`](crate::Error::Candle) for other shapes.
    pub fn attention_output_at(
        &self,
        weights: &Tensor,
        v: &Tensor,
        q_positions: &Tensor,
        k_positions: &Tensor,
    ) -> Result<Tensor> {
        copy_fits("attention weights", weights)?;
        let weights = weights.contiguous()?;
        let output = weighted(&weights, v)?;
        let Some(values) = &self.values else { return Ok(output) };
        let (b, h, t_q, t_k) = weights.dims4()?;
        let n = values.dim(0)?;
        let distances = Distances::between(&output, v, q_positions, k_positions)?;
        // Each weight has a place of its own among B·H·T_q·N sums; Candle's `scatter_add` has no gradient for such
        // shapes.
        let of_row = |row: usize| {
            let (sequence, query) = (row / (h * t_q), row % t_q);
            let distances = &distances.values[(sequence * t_q + query) * t_k..][..t_k];
            distances.iter().map(move |&distance| (row * n) as i64 + i64::from(self.column(distance, n)))
        };
        let n_rows = b * h * t_q;
        fits_on(weights.device(), "sums by distance", &[n_rows, n], weights.dtype().size_in_bytes())?;
        let places: Vec<i64> = (0..n_rows).flat_map(of_row).collect();
        let places = Tensor::from_vec(places, n_rows * t_k, weights.device())?;
        let zeros = Tensor::zeros(n_rows * n, weights.dtype(), weights.device())?;
        let by_vector = zeros.index_add(&places, &weights.flatten_all()?, 0)?.reshape((n_rows, n))?;
        Ok((output + by_vector.matmul(values)?.reshape((b, h, t_q, ()))?)?)
    }
}
