//! ALiBi: a penalty on attention scores that grows with the distance.

use candle_core::{Device, Tensor};

use super::scores::{Distances, check_reach};
use crate::error::{PositionError, Result};
use crate::kernel::linear_bias;
use crate::memory::fits;

const MAX_HEADS: usize = 1 << 16;

/// ALiBi (Press et al. 2021, arXiv:2108.12409, section 3), with head h = 1 … H:
///
/// ```text
/// score_h(i, j) += -m_h (i - j)        m_h = 2^(-8h / H)
/// ```
///
/// If H is not a power of 2, the slopes are those of the next lower power, then every second one of the next higher
/// power, as in the authors' code, BLOOM and MPT. Slopes are computed in f64 and rounded once. BLOOM's `slope · j`
/// differs by a constant in each row, which the softmax cancels.
///
/// ```
/// use candle_core::Device;
/// use candle_gpt_input::position::Alibi;
///
/// let alibi = Alibi::new(3, &Device::Cpu)?;
/// assert_eq!(alibi.slopes(), [0.0625, 0.00390625, 0.25]);
/// let bias = alibi.attention_bias(1, 3, 2)?; // the query at position 2 looks back at 0, 1 and itself
/// assert_eq!(bias.get(0)?.get(0)?.to_vec2::<f32>()?, [[-0.125, -0.0625, 0.0]]);
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[doc(alias("build_alibi_tensor", "attention with linear biases"))]
#[derive(Clone, Debug)]
pub struct Alibi {
    slopes: Vec<f32>,
    device: Device,
}

impl Alibi {
    /// Makes the slopes of `n_head` heads.
    ///
    /// # Errors
    /// [`PositionError::Dimension`] if `n_head` is 0, or more than 65536.
    pub fn new(n_head: usize, device: &Device) -> Result<Self> {
        if !(1..=MAX_HEADS).contains(&n_head) {
            let (scheme, what, expected) = ("alibi", "n_head", "1 to 65536 heads");
            return Err(PositionError::Dimension { scheme, what, got: n_head, expected }.into());
        }
        let below = if n_head.is_power_of_two() { n_head } else { n_head.next_power_of_two() / 2 };
        let slope = |h: usize, n: usize| (-8.0 * h as f64 / n as f64).exp2() as f32;
        let own = (1..=below).map(|h| slope(h, below));
        let extra = (1..=2 * below).step_by(2).map(|h| slope(h, 2 * below));
        Ok(Self { slopes: own.chain(extra).take(n_head).collect(), device: device.clone() })
    }

    /// Returns the slope of each head.
    pub fn slopes(&self) -> &[f32] {
        &self.slopes
    }

    /// Returns the bias to add to attention scores, for queries at `start_pos..start_pos + t_q` and keys at `0..t_k`.
    ///
    /// Padding on the left moves queries and keys alike, and so changes nothing. Entries of later keys follow the same
    /// formula; a causal mask hides them.
    ///
    /// # Shapes
    /// - returns: `[1, H, T_q, T_k]` in f32
    ///
    /// # Errors
    /// - [`Error::SequenceTooLong`](crate::Error::SequenceTooLong) for positions whose distances cannot be counted
    /// - [`Error::TooLarge`](crate::Error::TooLarge) or [`Error::Candle`](crate::Error::Candle) if there is no memory for
    ///   the bias
    pub fn attention_bias(&self, t_q: usize, t_k: usize, start_pos: usize) -> Result<Tensor> {
        check_reach(t_q, t_k, start_pos)?;
        linear_bias(&self.slopes, (t_q, t_k), start_pos, &self.device)
    }

    /// Returns the bias for queries and keys at given positions, as needed if padding lies inside a row.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::position::Alibi;
    ///
    /// let alibi = Alibi::new(1, &Device::Cpu)?; // its only slope is 1/256
    /// let (q, k) = (Tensor::new(&[[512u32]], &Device::Cpu)?, Tensor::new(&[[0u32, 512]], &Device::Cpu)?);
    /// assert_eq!(alibi.attention_bias_at(&q, &k)?.flatten_all()?.to_vec1::<f32>()?, [-2.0, 0.0]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Shapes
    /// - `q_positions`: `[B, T_q]`, `k_positions`: `[B, T_k]`, `u8`, `u32` or `i64`
    /// - returns: `[B, H, T_q, T_k]` in f32
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) or [`Error::IdDType`](crate::Error::IdDType) for positions
    /// of another shape or dtype.
    pub fn attention_bias_at(&self, q_positions: &Tensor, k_positions: &Tensor) -> Result<Tensor> {
        let Distances { b, t_q, t_k, values } = Distances::of(q_positions, k_positions)?;
        fits("attention bias", &[b, self.slopes.len(), t_q, t_k], size_of::<f32>())?;
        let rows = values.chunks_exact(t_q.saturating_mul(t_k).max(1));
        let bias = rows.flat_map(|row| {
            self.slopes.iter().flat_map(move |&slope| row.iter().map(move |&distance| slope * distance as f32))
        });
        Ok(Tensor::from_vec(bias.collect::<Vec<f32>>(), (b, self.slopes.len(), t_q, t_k), &self.device)?)
    }
}
