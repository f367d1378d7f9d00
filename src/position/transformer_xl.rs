//! Transformer-XL's positions: scores from content and from distance.

use candle_core::{D, Tensor};

use super::scores::{Dims, Distances, check_reach, dot, dot_rows};
use super::sinusoidal::DistanceRows;
use crate::error::Result;
use crate::kernel::{Columns, by_distance};
use crate::shape::wrong_shape;

/// The relative positions of Transformer-XL (Dai et al. 2019, arXiv:1901.02860, section 3.3) in one block:
///
/// ```text
/// score(i, j) = ((q_i + u) · k_j + (q_i + v) · (W_R R_{i-j})) / √D
/// ```
///
/// `R` holds sines and cosines (sin‖cos) of the distance, computed in f32 as in Transformer-XL; `W_R` (`r_net`), `u`
/// (`r_w_bias`) and `v` (`r_r_bias`) are learned. Keys may reach further back than the segment (its memory): queries
/// then begin at `start_pos`. XLNet's attention has the same formula; its `r` is the transpose of `r_net`.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_gpt_input::position::TransformerXl;
///
/// let r_net = Tensor::new(&[[0f32, 1.]], &Device::Cpu)?; // takes the cosine of the distance, from a row sin‖cos
/// let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
/// let xl = TransformerXl::new(r_net, zeros(&[1, 1])?, zeros(&[1, 1])?)?;
/// let q = Tensor::ones((1, 1, 1, 1), DType::F32, &Device::Cpu)?;
/// let scores = xl.attention_scores(&q, &zeros(&[1, 1, 2, 1])?, 1)?; // [B, H, T_q, T_k]
/// assert_eq!(scores.flatten_all()?.to_vec1::<f32>()?, [0.5403023, 1.0]); // cos 1, cos 0
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[doc(alias("RelPartialLearnableMultiHeadAttn", "XLNet", "r_net"))]
#[derive(Clone, Debug)]
pub struct TransformerXl {
    r_net: Tensor,
    u: Tensor,
    v: Tensor,
    n_head: usize,
    head_dim: usize,
    rows: DistanceRows,
}

impl TransformerXl {
    /// Makes the positions of one block from its learned tensors.
    ///
    /// # Shapes
    /// - `r_net`: `[H D, C]`, of any width C
    /// - `u`, `v`: `[H, D]`
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) for other shapes.
    pub fn new(r_net: Tensor, u: Tensor, v: Tensor) -> Result<Self> {
        let &[n_head, head_dim] = u.dims() else { return Err(wrong_shape("r_w_bias", u.shape(), "[H, D]")) };
        if v.dims() != u.dims() {
            return Err(wrong_shape("r_r_bias", v.shape(), format!("[{n_head}, {head_dim}]")));
        }
        match *r_net.dims() {
            [n, width] if Some(n) == n_head.checked_mul(head_dim) && n > 0 && width > 0 => {
                Ok(Self { rows: DistanceRows::new(width), r_net, u, v, n_head, head_dim })
            }
            _ => Err(wrong_shape("r_net", r_net.shape(), format!("[{n_head} · {head_dim}, C]"))),
        }
    }

    /// Shares the rows of `R` that another block has computed.
    pub(super) fn sharing(self, other: Option<&Self>) -> Self {
        let rows = other.map_or(self.rows.clone(), |other| other.rows.clone());
        Self { rows, ..self }
    }

    /// Returns the scores of queries at `start_pos..start_pos + t_q` and keys at `0..t_k`, divided by √D. Add the mask.
    ///
    /// Gradients reach `q`, `k` and the three tables. Padding on the left changes nothing.
    ///
    /// # Shapes
    /// - `q`: `[B, H, T_q, D]`, `k`: `[B, H, T_k, D]`
    /// - returns: `[B, H, T_q, T_k]`
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) for other shapes.
    pub fn attention_scores(&self, q: &Tensor, k: &Tensor, start_pos: usize) -> Result<Tensor> {
        let Dims { t_q, t_k, .. } = Dims::of(q, k, Some(self.n_head), self.head_dim)?;
        if t_q == 0 || t_k == 0 {
            return dot(q, k);
        }
        check_reach(t_q, t_k, start_pos)?;
        // In the order of the columns, from the key that is furthest behind (largest i - j) to the one furthest ahead.
        let furthest = (start_pos + t_q - 1) as i64;
        let rows = self.rows.down_from(furthest, t_q + t_k - 1, self.r_net.dtype(), self.r_net.device())?;
        self.scores(q, k, &rows, |position| by_distance(position, Columns::each(t_q, t_k)?))
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
        Dims::of(q, k, Some(self.n_head), self.head_dim)?;
        let distances = Distances::between(q, k, q_positions, k_positions)?;
        if distances.values.is_empty() {
            return dot(q, k);
        }
        // A row for each distance that occurs.
        let mut met: Vec<i64> = distances.values.clone();
        met.sort_unstable();
        met.dedup();
        let behind: Vec<i64> = met.iter().map(|distance| distance.saturating_neg()).collect();
        let rows = self.rows.each(&behind, self.r_net.dtype(), self.r_net.device())?;
        let column = |distance: i64| met.partition_point(|&other| other < distance) as u32;
        let columns = distances.columns(self.n_head, column, q.device())?;
        self.scores(q, k, &rows, |position| Ok(position.gather(&columns, D::Minus1)?))
    }

    /// Computes the scores from rows of `R` `[N, C]`; `pick` takes from scores `[B, H, T_q, N]` those of every key.
    fn scores(
        &self,
        q: &Tensor,
        k: &Tensor,
        rows: &Tensor,
        pick: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let with = |bias: &Tensor| q.broadcast_add(&bias.reshape((1, self.n_head, 1, self.head_dim))?);
        let r = rows.matmul(&self.r_net.t()?)?.reshape((rows.dim(0)?, self.n_head, self.head_dim))?;
        let position = pick(&dot_rows(&with(&self.v)?, &r.transpose(0, 1)?)?)?;
        Ok(((dot(&with(&self.u)?, k)? + position)? * (1.0 / (self.head_dim as f64).sqrt()))?)
    }
}
