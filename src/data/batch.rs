//! [`Batch`]: several windows as tensors.

use candle_core::{DType, Device, Tensor};

use super::{Boundaries, Ids, LoaderConfig, PackedDocuments, Tail, Window, Windows};
use crate::error::{DataError, Result};

/// The id of padding in inputs and targets. Every vocabulary has it, so a lookup or a loss works there before it is
/// masked.
const PAD_ID: u32 = 0;

/// Holds the windows of a training step, and their targets.
///
/// Ids are `u32`, which Candle's lookups and `loss::cross_entropy` (on `target_ids.flatten_all()`) take. All tensors
/// but `loss_mask` and the positions of marked documents are views of one allocation, which one copy brings to the device. Row `b` holds `T + 1` ids:
/// `input_ids` is a view of the first `T`, `target_ids` of the last `T`. These views are not contiguous, so
/// `flatten_all` copies.
///
/// ```
/// use candle_core::Device;
/// use candle_gpt_input::data::{Loader, LoaderConfig, Seeding, Tail, Tokens};
/// use candle_gpt_input::rng::Generator;
///
/// let tokens = Tokens::new((0..6).collect());
/// let config = LoaderConfig::default().with_batch_size(2).with_max_length(3).with_stride(3);
/// let config = config.with_shuffle(false).with_tail(Tail::Keep);
/// let loader = Loader::new(&tokens, config, Seeding::Global(Generator::default()), &Device::Cpu)?;
/// let batch = loader.epoch().next().unwrap()?;
/// assert_eq!(batch.input_ids.to_vec2::<u32>()?, [[0, 1, 2], [3, 4, 5]]);
/// assert_eq!(batch.target_ids.to_vec2::<u32>()?, [[1, 2, 3], [4, 5, 0]]); // nothing follows 5: padded with 0
/// assert_eq!(batch.loss_mask.unwrap().to_vec2::<u8>()?, [[1, 1, 1], [1, 1, 0]]);
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Batch {
    /// `[B, T]`, `u32`.
    pub input_ids: Tensor,
    /// `[B, T]`, `u32`: the token after each of `input_ids`.
    #[doc(alias = "labels")]
    pub target_ids: Tensor,
    /// `[B, T]`, `u32`, with [`Boundaries::Mark`] or [`LoaderConfig::reset_positions_after`]; without them the positions
    /// of every row are `0..T`.
    pub position_ids: Option<Tensor>,
    /// `[B, T]`, `u8`, with [`Tail::Keep`] or [`Boundaries::Mark`]: 1 where there is a target, 0 at padding, which is on
    /// the right, and, with `Mark`, at the last token of a document, whose target is the first of another.
    ///
    /// Without it every input has a target. The first input masked for padding is the last token of the text, which
    /// nothing follows.
    pub loss_mask: Option<Tensor>,
    /// Where documents lie in each row, with [`Boundaries::Mark`]. Padding counts as a part of the last document, as in
    /// Megatron.
    pub documents: Option<PackedDocuments>,
}

impl Batch {
    /// Makes a batch of at least one window, each padded to `config.max_length`.
    pub(super) fn new<'a>(
        chosen: impl ExactSizeIterator<Item = (&'a Windows, Window<'a>)>,
        config: &LoaderConfig,
        device: &Device,
    ) -> Result<Self> {
        let (n_rows, max_length) = (chosen.len(), config.max_length);
        let resets = config.reset_positions_after;
        let marks = config.boundaries == Boundaries::Mark;
        let masked = marks || config.tail == Tail::Keep;
        let too_large = || DataError::BatchTooLarge { n_rows, max_length };
        let n_parts = 1 + usize::from(resets.is_some()) + usize::from(masked);
        let row_length = n_parts.checked_mul(max_length).and_then(|ids| ids.checked_add(1)).ok_or_else(too_large)?;
        let mut rows: Vec<u32> = Vec::new();
        let n_ids = n_rows.checked_mul(row_length).ok_or_else(too_large)?;
        rows.try_reserve_exact(n_ids).map_err(|_| too_large())?;
        let mut documents = Vec::new();
        for (windows, window) in chosen {
            let n_padding = max_length - window.len();
            let largest = window.ids.append_to(&mut rows);
            windows.check(&window, largest)?;
            rows.resize(rows.len() + n_padding, PAD_ID);
            if let Some(separator) = resets {
                push_positions(&mut rows, window.input_ids(), separator);
                rows.resize(rows.len() + n_padding, 0);
            }
            if masked {
                rows.resize(rows.len() + window.len(), 1);
                rows.resize(rows.len() + n_padding, 0);
            }
            if marks {
                let mask = rows.len() - max_length;
                let mut ends: Vec<usize> = windows.ends_in(&window).collect();
                ends.iter().for_each(|end| rows[mask + end - 1] = 0); // the next token begins another document
                ends.retain(|&end| end < window.len());
                ends.push(max_length);
                documents.push(ends);
            }
        }
        let rows = Tensor::from_vec(rows, (n_rows, row_length), device)?;
        let columns = |first: usize| rows.narrow(1, first, max_length);
        let documents = marks.then(|| PackedDocuments { ends: documents.into() });
        let position_ids = match &documents {
            Some(documents) => Some(documents.position_ids(device)?),
            None => resets.map(|_| columns(max_length + 1)).transpose()?,
        };
        let loss_mask = masked.then(|| columns(row_length - max_length)?.to_dtype(DType::U8)).transpose()?;
        Ok(Self { input_ids: columns(0)?, target_ids: columns(1)?, position_ids, loss_mask, documents })
    }

    /// Cuts the batch into micro-batches of `n_rows` rows, views of it; the last may have fewer. Their gradients are
    /// added up by [`GradSum`](crate::optim::GradSum).
    ///
    /// ```
    /// use candle_core::Device;
    /// use candle_gpt_input::data::{Loader, LoaderConfig, Seeding, Tokens};
    /// use candle_gpt_input::rng::Generator;
    ///
    /// let config = LoaderConfig::default().with_batch_size(3).with_max_length(2).with_stride(2).with_shuffle(false);
    /// let tokens = Tokens::new((0..7).collect());
    /// let loader = Loader::new(&tokens, config, Seeding::Global(Generator::default()), &Device::Cpu)?;
    /// let parts = loader.epoch().next().unwrap()?.split(2)?;
    /// assert_eq!(parts[0].input_ids.to_vec2::<u32>()?, [[0, 1], [2, 3]]);
    /// assert_eq!(parts[1].target_ids.to_vec2::<u32>()?, [[5, 6]]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Shapes
    /// Of each part: `[n_rows, T]`, in every field.
    ///
    /// # Errors
    /// [`DataError::Zero`] if `n_rows` is 0.
    #[doc(alias("micro_batch", "chunk"))]
    pub fn split(&self, n_rows: usize) -> Result<Vec<Self>> {
        if n_rows == 0 {
            return Err(DataError::Zero { name: "n_rows" }.into());
        }
        let all = self.input_ids.dim(0)?;
        let part = |start: usize| {
            let n = n_rows.min(all - start);
            let narrow = |tensor: &Tensor| tensor.narrow(0, start, n);
            let documents = |all: &PackedDocuments| PackedDocuments { ends: all.ends[start..start + n].into() };
            Ok(Self {
                input_ids: narrow(&self.input_ids)?,
                target_ids: narrow(&self.target_ids)?,
                position_ids: self.position_ids.as_ref().map(narrow).transpose()?,
                loss_mask: self.loss_mask.as_ref().map(narrow).transpose()?,
                documents: self.documents.as_ref().map(documents),
            })
        };
        (0..all).step_by(n_rows).map(part).collect()
    }
}

impl From<Batch> for (Tensor, Tensor) {
    /// Returns `input_ids` and `target_ids`, as a `DataLoader` yields them. Position ids and the loss mask, which some
    /// configurations add, are left out.
    fn from(batch: Batch) -> Self {
        (batch.input_ids, batch.target_ids)
    }
}

fn push_positions(rows: &mut Vec<u32>, input_ids: Ids<'_>, separator: u32) {
    let mut position = 0;
    for id in input_ids.iter() {
        rows.push(position);
        position = if id == separator { 0 } else { position + 1 };
    }
}
