//! [`LossOptions`]: which targets count, and how their losses are reduced.

use candle_core::Tensor;

/// The target that PyTorch ignores by default.
const IGNORE_INDEX: i64 = -100;

/// How the losses of the targets are reduced to one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[doc(alias = "reduction")]
pub enum Reduction {
    /// Their mean over the targets that count: `reduction="mean"`.
    #[default]
    Mean,
    /// Their sum: `reduction="sum"`, for dividing the losses of several batches by one common number.
    Sum,
    /// Not reduced: the loss of each target, 0 for one that does not count: `reduction="none"`.
    ///
    /// One call scores each sequence of a batch. `backward` runs the cross-entropy once more, since only then it knows
    /// the factor of each loss.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::LmHead;
    /// use candle_gpt_input::lm_head::{LossOptions, Reduction};
    ///
    /// let head = LmHead::new(Tensor::new(&[[1f32], [1.]], &Device::Cpu)?)?; // two tokens, alike: each loss is ln 2
    /// let hidden_states = Tensor::new(&[[[1f32], [2.]], [[3.], [4.]]], &Device::Cpu)?; // [B, T, C]
    /// let target_ids = Tensor::new(&[[0i64, 1], [1, -100]], &Device::Cpu)?;
    /// let options = LossOptions::default().with_reduction(Reduction::None);
    /// let losses = head.loss(&hidden_states, &target_ids, &options)?; // [B, T]
    /// let ln_2 = 2f32.ln();
    /// assert_eq!(losses.to_vec2::<f32>()?, [[ln_2, ln_2], [ln_2, 0.]]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    None,
}

/// Which targets count, and how their losses are reduced: the options of `torch.nn.functional.cross_entropy`.
///
/// By default every target but -100 counts, and the loss is their mean.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_gpt_input::LmHead;
/// use candle_gpt_input::lm_head::{LossOptions, Reduction};
///
/// let head = LmHead::new(Tensor::new(&[[1f32], [1.]], &Device::Cpu)?)?; // two tokens, alike: each loss is ln 2
/// let hidden_states = Tensor::new(&[[1f32], [2.], [3.]], &Device::Cpu)?;
/// let target_ids = Tensor::new(&[0u32, 1, 1], &Device::Cpu)?;
/// let mask = Tensor::new(&[1u8, 1, 0], &Device::Cpu)?; // the last one is padding
/// let options = LossOptions::default().with_mask(&mask).with_reduction(Reduction::Sum);
/// assert_eq!(head.loss(&hidden_states, &target_ids, &options)?.to_scalar::<f32>()?, 2.0 * 2f32.ln());
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LossOptions {
    pub(super) mask: Option<Tensor>,
    pub(super) ignore_index: i64,
    pub(crate) reduction: Reduction,
    pub(crate) chunk_rows: Option<usize>,
}

impl Default for LossOptions {
    /// Counts every target but -100, and takes the mean.
    fn default() -> Self {
        Self { mask: None, ignore_index: IGNORE_INDEX, reduction: Reduction::Mean, chunk_rows: None }
    }
}

impl LossOptions {
    /// Counts only targets at which `mask` is 1; targets at 0 are not read.
    ///
    /// The mask is `u8`, `u32` or `i64`, of the shape of the targets: a batch's
    /// [`loss_mask`](crate::data::Batch::loss_mask), or the attention mask shifted by one.
    #[doc(alias("loss_mask", "attention_mask"))]
    #[must_use]
    pub fn with_mask(mut self, mask: &Tensor) -> Self {
        self.mask = Some(mask.clone());
        self
    }

    /// Sets the target that does not count, by default -100. It may be a valid id, such as that of padding.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_gpt_input::LmHead;
    /// use candle_gpt_input::lm_head::LossOptions;
    ///
    /// let head = LmHead::new(Tensor::zeros((4, 1), DType::F32, &Device::Cpu)?)?;
    /// let hidden_states = Tensor::new(&[[1f32], [2.]], &Device::Cpu)?;
    /// let target_ids = Tensor::new(&[3u32, 0], &Device::Cpu)?;
    /// let options = LossOptions::default().with_ignore_index(0);
    /// assert_eq!(head.loss_and_grads(&hidden_states, &target_ids, &options)?.n_counted, 1);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    #[must_use]
    pub fn with_ignore_index(mut self, ignore_index: i64) -> Self {
        self.ignore_index = ignore_index;
        self
    }

    /// Sets whether the losses are averaged, summed or returned one by one.
    #[must_use]
    pub fn with_reduction(mut self, reduction: Reduction) -> Self {
        self.reduction = reduction;
        self
    }

    /// Computes logits in chunks of at most `chunk_rows` rows (at least 1), which take `4 * chunk_rows * V` bytes in
    /// f32.
    ///
    /// The default keeps a chunk at 64 MB; choose a smaller one only if memory is scarce. It determines the order of
    /// summation, and so the last bits.
    #[must_use]
    pub fn with_chunk_rows(mut self, chunk_rows: usize) -> Self {
        self.chunk_rows = Some(chunk_rows);
        self
    }
}
