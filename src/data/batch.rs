//! [`Batch`]: several windows as tensors.

use candle_core::{DType, Device, Tensor};

use super::{Ids, LoaderConfig, Tail, Window};
use crate::error::{DataError, Result};

/// Stands in padding, for inputs and targets alike: an id of every vocabulary, so that a lookup or a loss that is masked
/// afterwards can be computed there too.
const PAD_ID: u32 = 0;

/// Holds what a training step takes: windows and their targets.
///
/// Ids are `u32`: what tokenizers give, what Candle's lookups and `loss::cross_entropy` take (on `target_ids.flatten_all()`),
/// and half the bytes of PyTorch's `i64` on the way to the device. There are half as many again, for inputs and targets
/// overlap: row `b` is `T + 1` ids of which `input_ids` sees the first `T` and `target_ids` the last. All tensors are views
/// of one allocation, made by one copy from the host, whose rows do not touch: what needs rows one after another
/// (`flatten_all` for one) copies them (`loss_mask` is cast on the device, which does).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Batch {
    /// `[B, T]`, `u32`.
    pub input_ids: Tensor,
    /// `[B, T]`, `u32`: the token after each of `input_ids`.
    #[doc(alias = "labels")]
    pub target_ids: Tensor,
    /// `[B, T]`, `u32`, with [`LoaderConfig::reset_positions_after`]; without it positions are 0 to T - 1 in every row.
    pub position_ids: Option<Tensor>,
    /// `[B, T]`, `u8`, with [`Tail::Keep`]: 1 where there is a target, 0 at padding, which is on the right. Without it
    /// every place has a target. (The first masked place of `input_ids` holds the last target: the text ends there.)
    pub loss_mask: Option<Tensor>,
}

impl Batch {
    /// One batch of at least one window, each padded to `config.max_length`.
    pub(super) fn new<'a>(
        windows: impl ExactSizeIterator<Item = Window<'a>>,
        config: &LoaderConfig,
        device: &Device,
    ) -> Result<Self> {
        let (n_rows, max_length) = (windows.len(), config.max_length);
        let resets = config.reset_positions_after;
        let masked = config.tail == Tail::Keep;
        let too_large = || DataError::BatchTooLarge { n_rows, max_length };
        let n_parts = 1 + usize::from(resets.is_some()) + usize::from(masked);
        let row_length = n_parts.checked_mul(max_length).and_then(|ids| ids.checked_add(1)).ok_or_else(too_large)?;
        let mut rows: Vec<u32> = Vec::new();
        let n_ids = n_rows.checked_mul(row_length).ok_or_else(too_large)?;
        rows.try_reserve_exact(n_ids).map_err(|_| too_large())?;
        for window in windows {
            let n_padding = max_length - window.len();
            window.ids.append_to(&mut rows);
            rows.resize(rows.len() + n_padding, PAD_ID);
            if let Some(separator) = resets {
                push_positions(&mut rows, window.input_ids(), separator);
                rows.resize(rows.len() + n_padding, 0);
            }
            if masked {
                rows.resize(rows.len() + window.len(), 1);
                rows.resize(rows.len() + n_padding, 0);
            }
        }
        let rows = Tensor::from_vec(rows, (n_rows, row_length), device)?;
        let columns = |first: usize| rows.narrow(1, first, max_length);
        let position_ids = resets.map(|_| columns(max_length + 1)).transpose()?;
        let loss_mask = masked.then(|| columns(row_length - max_length)?.to_dtype(DType::U8)).transpose()?;
        Ok(Self { input_ids: columns(0)?, target_ids: columns(1)?, position_ids, loss_mask })
    }
}

fn push_positions(rows: &mut Vec<u32>, input_ids: Ids<'_>, separator: u32) {
    let mut position = 0;
    for id in input_ids.iter() {
        rows.push(position);
        position = if id == separator { 0 } else { position + 1 };
    }
}
