//! Rotary positions: queries and keys rotated by their positions, so that their products depend on the distance alone.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, OnceLock};

use candle_core::{Device, Tensor};

use super::frequencies::Regime;
use super::scores::check_reach;
use super::sinusoidal::cos_sin;
use super::{Positions, Resolved, frequencies};
use crate::config::RotaryConfig;
use crate::error::{Error, Result};
use crate::kernel::{AngleRows, Angles, rotate, rows_in_parallel, to_host, unravel};
use crate::memory::{fits, zeros};
use crate::shape::wrong_shape;

/// The angles of positions below this are kept; a call with later positions computes the angles it needs.
const KEPT: usize = 1 << 17;

/// Rotary positions (Su et al. 2021, arXiv:2104.09864, equation 34). The pair `(x, y)` of dimensions of a query or key
/// at position `t` is rotated by the angle `t θ_i`:
///
/// ```text
/// x ← x cos(t θ_i) - y sin(t θ_i)
/// y ← y cos(t θ_i) + x sin(t θ_i)        θ_i = rope_theta^(-2i / D)
/// ```
///
/// Pair `i` is `(i, i + D/2)` (Llama, GPT-NeoX) or `(2i, 2i + 1)` (GPT-J, [`RotaryConfig::interleaved`]). With a
/// `partial_rotary_factor` the rest of a head is not rotated, and D counts only the rotated part. Frequencies, scaled
/// or not, angles, cosines and sines equal those of `transformers.modeling_rope_utils`, computed in the same f32
/// operations. In f16 and bf16 the rotation is computed in f32 and rounded once.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_gpt_input::position::{Rotary, RotaryConfig};
///
/// let rope = Rotary::new(&RotaryConfig::default(), 2, 16, &Device::Cpu)?; // one pair: 1 radian per position
/// let q = Tensor::new(&[[[[1f32, 0.], [1., 0.]]]], &Device::Cpu)?; // [B, H, T, D]
/// let (q, _) = rope.rotate(&q, &q, 0)?;
/// assert_eq!(q.flatten_all()?.to_vec1::<f32>()?, [1.0, 0.0, 0.5403023, 0.84147096]); // cos 1, sin 1
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[doc(alias("RotaryEmbedding", "rope", "RoPE"))]
#[derive(Clone, Debug)]
pub struct Rotary {
    config: RotaryConfig,
    head_dim: usize,
    n_positions: usize,
    device: Device,
    kept: Arc<Kept>,
}

/// Angles of positions from 0 on, computed when they are first needed.
#[derive(Debug, Default)]
struct Kept {
    /// The positions that the model is trained on: a call reads them without a lock.
    trained_on: OnceLock<Angles>,
    /// More positions, once a call has gone beyond.
    beyond: Mutex<Option<Beyond>>,
}

/// Angles for sequences of a regime, where frequencies depend on the length.
#[derive(Debug)]
struct Beyond {
    angles: Angles,
    n_rows: usize,
    regime: Regime,
}

impl Rotary {
    /// Makes the rotation for heads of width `head_dim` in a model trained on `n_positions`, which only scaling depends
    /// on.
    ///
    /// # Errors
    /// [`ConfigError`](crate::error::ConfigError) for a base, factor or head width out of range.
    pub fn new(config: &RotaryConfig, head_dim: usize, n_positions: usize, device: &Device) -> Result<Self> {
        config.validate(head_dim)?;
        fits("rotary frequencies", &[head_dim], size_of::<f32>())?;
        let (config, device) = (config.clone(), device.clone());
        Ok(Self { config, head_dim, n_positions, device, kept: Arc::default() })
    }

    /// Returns the `inv_freq` of each pair, and the factor of cosines and sines (`attention_scaling`, which is 1 except
    /// for YaRN and LongRoPE). Only dynamic scaling and LongRoPE depend on `seq_len`, the number of tokens of the
    /// sequence.
    ///
    /// ```
    /// use candle_core::Device;
    /// use candle_gpt_input::position::{Rotary, RotaryConfig};
    ///
    /// let rope = Rotary::new(&RotaryConfig::default(), 4, 16, &Device::Cpu)?; // rope_theta is 10000
    /// assert_eq!(rope.inv_freq(16), (vec![1.0, 0.01], 1.0)); // 10000^(-2i / 4)
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    pub fn inv_freq(&self, seq_len: usize) -> (Vec<f32>, f32) {
        frequencies::of(&self.config, self.head_dim, self.n_positions, seq_len)
    }

    /// Rotates queries and keys by their positions: a start position (with a key/value cache), position ids, or those
    /// of a mask.
    ///
    /// Cache keys after rotating them. Dynamic scaling and LongRoPE take the frequencies of the call's largest
    /// position; keys in a cache keep the rotation of their own call, as in transformers.
    ///
    /// # Shapes
    /// - `q`: `[B, H, T, D]`, `k`: `[B, H_k, T, D]`, of any strides
    /// - positions: those of `[B, T]`
    /// - returns: the same, contiguous on the CPU, in the dtypes of `q` and `k`
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] for other shapes, [`Error::PositionOutOfRange`] for a position below 0,
    /// [`Error::IdDType`] for position ids of another dtype.
    #[doc(alias = "apply_rotary_pos_emb")]
    pub fn rotate(&self, q: &Tensor, k: &Tensor, positions: impl Into<Positions>) -> Result<(Tensor, Tensor)> {
        let (b, _, t, _) = self.dims("q", q, None)?;
        self.dims("k", k, Some((b, t)))?;
        let (angles, rows) = self.angles(&positions.into(), b, t)?;
        rotate(q, k, &angles, rows, self.config.interleaved)
    }

    /// Returns cosines and sines for ids of dimensions (B, T), for an attention with a rotation of its own.
    ///
    /// They include the factor `attention_scaling`. B may be 1 if all sequences have the same positions.
    ///
    /// ```
    /// use candle_core::Device;
    /// use candle_gpt_input::position::{Rotary, RotaryConfig};
    ///
    /// let rope = Rotary::new(&RotaryConfig::default(), 2, 16, &Device::Cpu)?;
    /// let (cos, sin) = rope.cos_sin(0, (1, 2))?; // positions 0 and 1
    /// assert_eq!(cos.flatten_all()?.to_vec1::<f32>()?, [1.0, 0.5403023]);
    /// assert_eq!(sin.flatten_all()?.to_vec1::<f32>()?, [0.0, 0.84147096]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Shapes
    /// - returns: `[B, T, D_r / 2]` each, in f32, with `D_r` the width that is rotated
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] for positions of another shape, [`Error::PositionOutOfRange`] for one below 0,
    /// [`Error::IdDType`] for position ids of another dtype.
    pub fn cos_sin(&self, positions: impl Into<Positions>, dims: (usize, usize)) -> Result<(Tensor, Tensor)> {
        let (b, t) = dims;
        let (angles, rows) = self.angles(&positions.into(), b, t)?;
        Ok(angles.cos_sin(&rows, (b, t))?)
    }

    fn dims(
        &self,
        what: &'static str,
        x: &Tensor,
        like: Option<(usize, usize)>,
    ) -> Result<(usize, usize, usize, usize)> {
        let expected =
            |(b, t): (String, String)| Err(wrong_shape(what, x.shape(), format!("[{b}, H, {t}, {}]", self.head_dim)));
        match (x.dims(), like) {
            (&[b, h, t, d], None) if d == self.head_dim => Ok((b, h, t, d)),
            (&[b, h, t, d], Some(like)) if d == self.head_dim && (b, t) == like => Ok((b, h, t, d)),
            (_, None) => expected(("B".to_string(), "T".to_string())),
            (_, Some((b, t))) => expected((b.to_string(), t.to_string())),
        }
    }

    fn angles(&self, positions: &Positions, b: usize, t: usize) -> Result<(Cow<'_, Angles>, AngleRows)> {
        // The rows of angles are numbered in u32.
        if fits("rotary positions", &[b.max(1), t], size_of::<u64>())? > u32::MAX as usize {
            return Err(Error::TooLarge {
                what: "rotary positions",
                dims: vec![b, t],
                element_bytes: size_of::<u64>(),
            });
        }
        let each = match positions.resolve(&[b, t], usize::MAX)? {
            Resolved::Counted(start) => {
                let end = start.saturating_add(t);
                check_reach(t, 0, start)?;
                if end <= KEPT {
                    return Ok((self.kept(end)?, AngleRows::From(start)));
                }
                let first = start as u64;
                (0..t as u64).map(|step| first.saturating_add(step)).collect()
            }
            Resolved::Given(ids) => {
                let ids = ids.broadcast_as((b, t))?;
                let values = to_host(&ids, "position_ids")?;
                let mut checked = Vec::with_capacity(values.len());
                for (index, value) in values.into_iter().enumerate() {
                    let out_of_range = |_| Error::PositionOutOfRange {
                        position: value,
                        at: unravel(index, &[b, t]),
                        n_positions: i64::MAX as usize,
                    };
                    checked.push(usize::try_from(value).map_err(out_of_range)? as u64);
                }
                let end = checked.iter().max().map_or(0, |&last| last.saturating_add(1));
                if end <= KEPT as u64 {
                    let rows = checked.iter().map(|&position| position as u32).collect();
                    return Ok((self.kept(end as usize)?, AngleRows::Each(rows)));
                }
                checked
            }
        };
        // Positions too far to be kept: a row of angles for each token.
        let seq_len = each.iter().max().map_or(0, |&last| last.saturating_add(1));
        let seq_len = usize::try_from(seq_len).unwrap_or(usize::MAX);
        let rows =
            if each.len() == t { (0..t as u32).cycle().take(b * t).collect() } else { (0..(b * t) as u32).collect() };
        Ok((Cow::Owned(self.make(&each, seq_len)?), AngleRows::Each(rows)))
    }

    /// Returns the angles of at least the positions below `end`.
    fn kept(&self, end: usize) -> Result<Cow<'_, Angles>> {
        let first = frequencies::regime(&self.config, self.n_positions, 0);
        let regime = frequencies::regime(&self.config, self.n_positions, end);
        // With LongRoPE, those of sequences up to the trained length; with dynamic scaling, up to `n_positions`.
        let n_first = frequencies::longest_of_first(&self.config, self.n_positions).min(KEPT);
        if regime == first && end <= n_first {
            if let Some(angles) = self.kept.trained_on.get() {
                return Ok(Cow::Borrowed(angles));
            }
            // Two threads may compute them at once; one of the results is dropped.
            let angles = self.make_first(n_first, n_first)?;
            return Ok(Cow::Borrowed(self.kept.trained_on.get_or_init(|| angles)));
        }
        let mut beyond = self.kept.beyond.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let angles = match beyond.as_ref().filter(|kept| kept.n_rows >= end && kept.regime == regime) {
            Some(kept) => kept.angles.clone(),
            None => {
                let n_rows = if regime == Regime::Length(end) { end } else { end.next_power_of_two() };
                let angles = self.make_first(n_rows, end)?;
                *beyond = Some(Beyond { angles: angles.clone(), n_rows, regime });
                angles
            }
        };
        Ok(Cow::Owned(angles))
    }

    /// Computes the angles of the first positions, for sequences of `seq_len` tokens.
    fn make_first(&self, n_rows: usize, seq_len: usize) -> Result<Angles> {
        self.make(&(0..n_rows as u64).collect::<Vec<_>>(), seq_len)
    }

    fn make(&self, positions: &[u64], seq_len: usize) -> Result<Angles> {
        let (frequencies, scaling) = self.inv_freq(seq_len);
        let n_pairs = frequencies.len();
        let n = fits("cosines and sines", &[positions.len(), 2, n_pairs], size_of::<f32>())?;
        let mut values = zeros::<f32>(n)?;
        rows_in_parallel(&mut values, 2 * n_pairs, &|number, row| {
            let position = positions[number];
            let (cos_row, sin_row) = row.split_at_mut(n_pairs);
            for ((cos_to, sin_to), &frequency) in cos_row.iter_mut().zip(sin_row).zip(&frequencies) {
                let (cos, sin) = cos_sin(position as f32, frequency);
                (*cos_to, *sin_to) = (cos * scaling, sin * scaling);
            }
        });
        Ok(Angles(Tensor::from_vec(values, (positions.len(), 2, n_pairs), &self.device)?))
    }
}
