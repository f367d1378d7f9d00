//! The position of each token ([`Positions`]), and the schemes that make use of positions.

mod alibi;
mod attention;
mod deberta;
mod encoding;
mod frequencies;
mod layer_types;
mod learned;
mod resize;
mod rotary;
mod scores;
mod shaw;
mod sinusoidal;
mod t5;
mod transformer_xl;

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};
use crate::kernel::{to_host, unravel};
use crate::memory::{counted, room_for};
use crate::shape::wrong_shape;

pub use crate::config::{
    DebertaConfig, Llama3Scaling, LongRopeScaling, PositionScheme, RotaryConfig, RotaryScaling, ShawConfig,
    SinusoidalConfig, SinusoidalLayout, T5Config, YarnScaling,
};
pub use alibi::Alibi;
pub use deberta::{Deberta, DebertaProjections};
pub use encoding::{PositionEncoding, PositionKind};
pub use learned::PositionTable;
pub use resize::Resize;
pub(crate) use resize::resized;
pub use rotary::Rotary;
pub use shaw::Shaw;
pub use sinusoidal::sinusoidal;
pub use t5::T5Bias;
pub use transformer_xl::TransformerXl;

/// The position of each token of a call: counted from a start, given one by one, or counted by an attention mask.
///
/// A `usize` (the position of the first token) and a tensor of position ids convert into it, and can be passed in its
/// place.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_gpt_input::{GptInputLayer, Positions};
///
/// let cpu = Device::Cpu;
/// let wte = Tensor::new(&[[0f32], [100.], [200.]], &cpu)?;
/// let wpe = Tensor::new(&[[0f32], [1.], [2.], [3.], [4.]], &cpu)?;
/// let layer = GptInputLayer::new(wte, wpe)?;
///
/// // Two prompts, the first one padded on the left: padding has position 0 and is not counted.
/// let ids = Tensor::new(&[[0u32, 1, 2], [1, 2, 1]], &cpu)?;
/// let mask = Tensor::new(&[[0u8, 1, 1], [1, 1, 1]], &cpu)?;
/// let prefill = layer.forward_at(&ids, Positions::from_mask(&mask)?)?;
/// assert_eq!(prefill.squeeze(2)?.to_vec2::<f32>()?, [[0., 100., 201.], [100., 201., 102.]]);
///
/// // One more token each, after the three columns in the cache: the first prompt had two tokens, the second three.
/// let next = Tensor::new(&[[1u32], [1]], &cpu)?;
/// let decode = layer.forward_at(&next, Positions::from_mask(&mask)?.after(3))?;
/// assert_eq!(decode.squeeze(2)?.to_vec2::<f32>()?, [[102.], [103.]]);
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[doc(alias("position_ids", "cache_position"))]
#[derive(Clone, Debug)]
pub struct Positions {
    kind: Kind,
    /// The columns before the first of the ids, if the caller gave them.
    n_cached: Option<usize>,
}

#[derive(Clone, Debug)]
enum Kind {
    Start(usize),
    Ids(Tensor),
    Mask { dims: Vec<usize>, is_token: Vec<bool> },
}

impl Positions {
    /// Counts positions over the tokens of an attention mask, without padding, as `generate` of transformers does:
    /// `cumsum(mask) - 1`, and 0 at padding, wherever padding lies. Schemes that count columns refuse padding between
    /// tokens: [`PositionEncoding::check_mask`].
    ///
    /// The mask is read on the host (copied, if it lies on a device). With a key/value cache it may be longer than the
    /// ids; the ids then are its last columns, unless [`after`](Self::after) says which column they begin at.
    ///
    /// # Shapes
    /// - `attention_mask`: `[B, M]` (or `[M]`, the same for every row), `u8`, `u32` or `i64`, 1 for a token and 0 for
    ///   padding
    ///
    /// # Errors
    /// [`Error::IdDType`] for another dtype, [`Error::MaskValue`] for a value other than 0 and 1,
    /// [`Error::ShapeMismatch`] for a scalar.
    #[doc(alias("attention_mask", "cumsum"))]
    pub fn from_mask(attention_mask: &Tensor) -> Result<Self> {
        let dims = attention_mask.dims().to_vec();
        if dims.is_empty() {
            return Err(mask_shape(&dims, "[B, M] or [M]".to_string()));
        }
        let values = to_host(attention_mask, "attention_mask")?;
        if let Some(index) = values.iter().position(|value| !matches!(value, 0 | 1)) {
            return Err(Error::MaskValue { what: "attention_mask", value: values[index], at: unravel(index, &dims) });
        }
        let is_token = values.into_iter().map(|value| value == 1).collect();
        Ok(Self { kind: Kind::Mask { dims, is_token }, n_cached: None })
    }

    /// Moves the positions behind `n_cached` tokens in a key/value cache.
    ///
    /// A start position or position ids grow by `n_cached`. With a mask, the ids are its columns from `n_cached` on;
    /// columns beyond the mask are tokens, so the mask of the prompt serves for the whole generation.
    #[doc(alias("past_key_values_length", "past_length"))]
    #[must_use]
    pub fn after(mut self, n_cached: usize) -> Self {
        self.n_cached = Some(n_cached);
        self
    }

    /// Resolves the positions for ids of shape `ids_dims`.
    pub(crate) fn resolve(&self, ids_dims: &[usize], n_positions: usize) -> Result<Resolved> {
        match &self.kind {
            Kind::Start(start_pos) => Ok(Resolved::Counted(start_pos.saturating_add(self.n_cached.unwrap_or(0)))),
            Kind::Ids(ids) => {
                if !broadcasts(ids.dims(), ids_dims) {
                    let expected = format!("the shape of the ids, {ids_dims:?}, or one that broadcasts to it");
                    return Err(wrong_shape("position_ids", ids.shape(), expected));
                }
                let Some(n_cached) = self.n_cached else { return Ok(Resolved::Given(ids.clone())) };
                let n_positions = n_positions.min(i64::MAX as usize);
                let shifted = to_host(ids, "position_ids")?.into_iter().map(|position| {
                    position.checked_add_unsigned(n_cached as u64).ok_or_else(|| {
                        let end = n_cached.saturating_add_signed(position as isize).saturating_add(1);
                        Error::SequenceTooLong { end, n_positions }
                    })
                });
                let shifted = shifted.collect::<Result<Vec<i64>>>()?;
                Ok(Resolved::Given(Tensor::from_vec(shifted, ids.shape(), &Device::Cpu)?))
            }
            Kind::Mask { dims, is_token } => {
                counted_by_mask(dims, is_token, self.n_cached, ids_dims, n_positions).map(Resolved::Given)
            }
        }
    }
}

/// Positions for ids of a known shape.
pub(crate) enum Resolved {
    /// The first of positions that count up along the last dimension.
    Counted(usize),
    /// A position id for each token, in a shape that broadcasts to the ids'.
    Given(Tensor),
}

fn counted_by_mask(
    dims: &[usize],
    is_token: &[bool],
    n_cached: Option<usize>,
    ids_dims: &[usize],
    n_positions: usize,
) -> Result<Tensor> {
    let (Some((&n_columns, rows)), Some((&t, ids_rows))) = (dims.split_last(), ids_dims.split_last()) else {
        return Err(mask_shape(dims, "ids with a sequence ([T] or [B, T])".to_string()));
    };
    let first = n_cached.or_else(|| n_columns.checked_sub(t));
    let (Some(first), true) = (first, broadcasts(rows, ids_rows)) else {
        return Err(mask_shape(
            dims,
            format!("the rows of the ids, {ids_dims:?}, and at least {t} columns (or say `.after(n_cached)`)"),
        ));
    };
    let n_rows: usize = rows.iter().product();
    let mut position_ids: Vec<i64> =
        room_for("position_ids", counted("position_ids", &[n_rows, t], size_of::<i64>())?)?;
    let mut longest = 0;
    // Rows of no ids, of which there may be any number, have no positions.
    for row in 0..if t == 0 { 0 } else { n_rows } {
        let mask = &is_token[row * n_columns..(row + 1) * n_columns];
        // Columns beyond the mask are tokens.
        let mut n_before = mask.iter().take(first).filter(|&&token| token).count();
        n_before = n_before.saturating_add(first.saturating_sub(n_columns));
        for column in (0..t).map(|step| first.saturating_add(step)) {
            if mask.get(column).copied().unwrap_or(true) {
                position_ids.push(n_before as i64);
                n_before = n_before.saturating_add(1);
                longest = longest.max(n_before);
            } else {
                position_ids.push(0);
            }
        }
    }
    let n_positions = n_positions.min(i64::MAX as usize);
    if longest > n_positions {
        return Err(Error::SequenceTooLong { end: longest, n_positions });
    }
    let shape: Vec<usize> = rows.iter().copied().chain([t]).collect();
    Ok(Tensor::from_vec(position_ids, shape, &Device::Cpu)?)
}

fn mask_shape(dims: &[usize], expected: String) -> Error {
    wrong_shape("attention_mask", dims, expected)
}

/// Returns whether a tensor of shape `from` broadcasts to exactly `to`.
fn broadcasts(from: &[usize], to: &[usize]) -> bool {
    from.len() <= to.len() && from.iter().rev().zip(to.iter().rev()).all(|(&from, &to)| from == to || from == 1)
}

impl From<usize> for Positions {
    /// Starts at `start_pos`, the position of the first token.
    fn from(start_pos: usize) -> Self {
        Self { kind: Kind::Start(start_pos), n_cached: None }
    }
}

impl From<Tensor> for Positions {
    /// Takes `position_ids`, one for each token.
    fn from(position_ids: Tensor) -> Self {
        Self { kind: Kind::Ids(position_ids), n_cached: None }
    }
}

impl From<&Tensor> for Positions {
    /// Takes `position_ids`, one for each token.
    fn from(position_ids: &Tensor) -> Self {
        Self::from(position_ids.clone())
    }
}
