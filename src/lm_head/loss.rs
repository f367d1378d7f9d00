//! The head's cross-entropy, computed from hidden states without materializing the logits.

use candle_core::Tensor;

use super::LmHead;
use crate::error::{Error, Result};
use crate::kernel::{Counted, CrossEntropy, HeadTable, LossParts, Wanted, attach, to_host, unravel};
use crate::memory::copy_fits;
use crate::shape::{same_device, wrong_shape};

/// The target that PyTorch ignores by default.
const IGNORE_INDEX: i64 = -100;

/// How the losses of the targets are reduced to one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reduction {
    /// Their mean over the targets that count: `reduction="mean"`.
    #[default]
    Mean,
    /// Their sum: `reduction="sum"`, for dividing the losses of several batches by one common number.
    Sum,
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
    mask: Option<Tensor>,
    ignore_index: i64,
    reduction: Reduction,
    chunk_rows: Option<usize>,
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

    /// Sets whether the losses are averaged or summed.
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

/// A loss with its gradients, for a training loop that does not use Candle's graph here.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LossGrads {
    /// A scalar without history: f64 for f64 inputs, otherwise f32.
    pub loss: Tensor,
    /// The gradient of the hidden states, in their shape and dtype.
    pub hidden_grad: Tensor,
    /// The gradient of the table through the head alone, `[V, C]` in its dtype; `None` for a table that is not
    /// trainable.
    pub wte_grad: Option<Tensor>,
    /// How many targets counted.
    pub n_counted: usize,
}

impl LmHead {
    /// Computes the cross-entropy of the next tokens, `cross_entropy(hidden_states · wteᵀ, target_ids)`, without ever
    /// holding the logits `[.., V]`.
    ///
    /// `loss = mean(ln Σ_v exp(h · wte_v) - h · wte_target)` over the targets that count. Rows are processed in chunks,
    /// and gradients are computed with them (as in Liger-Kernel, arXiv:2410.10989): the gradient of a tracked input is
    /// ready when this returns, and `backward` only scales it. Inputs that are not tracked cost nothing: a frozen table
    /// saves a third of the products, and evaluation two thirds. Beside the inputs, memory holds one table-sized buffer
    /// for the table's gradient and one of 64 MB. bf16 and f16 tables are widened block by block, and every sum is
    /// computed in f32.
    ///
    /// The value agrees with PyTorch's to 1e-6 and each gradient to 1e-5 of its largest element; the bits are the same
    /// for any number of threads. Mapped and quantized tables are converted block by block, too; they get no gradient,
    /// but the hidden states do. As in PyTorch the mean over no targets is NaN and the sum 0; the gradients are zero
    /// then. Devices other than the CPU compute the same in plain Candle operations.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor, Var};
    /// use candle_gpt_input::LmHead;
    ///
    /// let wte = Var::zeros((4, 2), DType::F32, &Device::Cpu)?; // four tokens, all alike
    /// let hidden_states = Tensor::new(&[[1f32, 0.], [0., 2.]], &Device::Cpu)?;
    /// let target_ids = Tensor::new(&[3i64, -100], &Device::Cpu)?; // -100 does not count
    /// let loss = LmHead::new(wte.as_tensor().clone())?.loss(&hidden_states, &target_ids, &Default::default())?;
    /// assert_eq!(loss.to_scalar::<f32>()?, 4f32.ln());
    /// let grads = loss.backward()?;
    /// // Each token had a quarter of the probability; the target should have had it all.
    /// assert_eq!(grads.get(&wte).unwrap().to_vec2::<f32>()?, [[0.25, 0.], [0.25, 0.], [0.25, 0.], [-0.75, 0.]]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Shapes
    /// - `hidden_states`: `[.., C]`, usually `[B, T, C]`, in the dtype of the table
    /// - `target_ids`: `[..]`, `u8`, `u32` or `i64`, on the CPU or on the table's device (from which they are copied)
    /// - mask: as `target_ids`
    /// - returns: a scalar, f64 for f64 inputs, else f32
    ///
    /// # Errors
    /// All are reported before anything is computed:
    /// - [`Error::TokenOutOfRange`] for a target that counts and is not a row of the table
    /// - [`Error::ShapeMismatch`] for hidden states, targets or a mask of another shape
    /// - [`Error::TableMismatch`] for hidden states of another dtype or device than the table
    /// - [`Error::IdDType`] for targets or a mask of another dtype, [`Error::MaskValue`] for mask values other than 0
    ///   and 1
    #[doc(alias("cross_entropy", "CrossEntropyLoss", "LigerFusedLinearCrossEntropyLoss"))]
    pub fn loss(&self, hidden_states: &Tensor, target_ids: &Tensor, options: &LossOptions) -> Result<Tensor> {
        let table = self.head_table()?;
        let wanted = Wanted { hidden: hidden_states.track_op(), table: table.is_tracked() };
        let (flat, parts, _) = self.loss_parts(hidden_states, target_ids, options, wanted)?;
        match table {
            HeadTable::Dense(wte) => attach(&flat, &wte, parts),
            HeadTable::Stored(_) => attach(&flat, &flat.detach(), parts),
        }
    }

    /// Computes the [`loss`](Self::loss) with its gradients, not recorded in Candle's graph.
    ///
    /// For a training loop that hands gradients to an optimizer itself: `GradStore` would fill one more table with
    /// zeros and add this gradient to it, two passes over `[V, C]`. The blocks below continue with the gradient of
    /// `(hidden_states * hidden_grad).sum_all()?`. The table's gradient is computed if the table is tracked, as a `Var`
    /// is.
    ///
    /// ```
    /// # use candle_core::{DType, Device, Tensor, Var};
    /// # use candle_gpt_input::LmHead;
    /// let wte = Var::new(&[[1f32, 0.], [1., 0.]], &Device::Cpu)?;
    /// let hidden_states = Tensor::new(&[[4f32, 8.]], &Device::Cpu)?;
    /// let target_ids = Tensor::new(&[1u32], &Device::Cpu)?;
    /// let head = LmHead::new(wte.as_tensor().clone())?;
    /// let found = head.loss_and_grads(&hidden_states, &target_ids, &Default::default())?;
    /// assert_eq!(found.loss.to_scalar::<f32>()?, 2f32.ln());
    /// assert_eq!(found.hidden_grad.to_vec2::<f32>()?, [[0., 0.]]);
    /// assert_eq!(found.wte_grad.unwrap().to_vec2::<f32>()?, [[2., 4.], [-2., -4.]]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Shapes
    /// Those of [`loss`](Self::loss).
    ///
    /// # Errors
    /// Those of [`loss`](Self::loss): [`Error::TokenOutOfRange`], [`Error::ShapeMismatch`], [`Error::TableMismatch`],
    /// [`Error::IdDType`], [`Error::MaskValue`].
    pub fn loss_and_grads(
        &self,
        hidden_states: &Tensor,
        target_ids: &Tensor,
        options: &LossOptions,
    ) -> Result<LossGrads> {
        let wanted = Wanted { hidden: true, table: self.head_table()?.is_tracked() };
        let (flat, parts, n_counted) = self.loss_parts(hidden_states, target_ids, options, wanted)?;
        let dtype = flat.dtype();
        let hidden_grad = match parts.hidden_grad {
            Some(grad) => grad.to_dtype(dtype)?.reshape(hidden_states.shape())?,
            None => hidden_states.zeros_like()?,
        };
        let wte_grad = parts.table_grad.map(|grad| grad.to_dtype(dtype)).transpose()?;
        Ok(LossGrads { loss: parts.loss, hidden_grad, wte_grad, n_counted })
    }

    fn head_table(&self) -> Result<HeadTable<'_>> {
        match self.wte.stored() {
            Some(table) => Ok(HeadTable::Stored(&table.rows)),
            None => Ok(HeadTable::Dense(self.wte.dense()?.weight().clone())),
        }
    }

    /// Returns the hidden states as `[N, C]`, what was computed from them, and how many targets counted.
    fn loss_parts(
        &self,
        hidden_states: &Tensor,
        target_ids: &Tensor,
        options: &LossOptions,
        wanted: Wanted,
    ) -> Result<(Tensor, LossParts, usize)> {
        let (vocab_size, n_embd) = self.wte.dims();
        let outer = self.outer_dims(hidden_states)?;
        same_device(("hidden_states", hidden_states.device()), ("wte", self.wte.device()))?;
        expect_dims("target_ids", target_ids, outer)?;
        copy_fits("hidden_states", hidden_states)?;
        let counted = counted(target_ids, options, vocab_size)?;
        let scale = match options.reduction {
            Reduction::Mean => 1.0 / counted.len() as f64,
            Reduction::Sum => 1.0,
        };
        let flat = hidden_states.reshape((outer.iter().product::<usize>(), n_embd))?;
        let parts = CrossEntropy::new(&flat, self.head_table()?, &counted, scale, options.chunk_rows)?.run(wanted)?;
        Ok((flat, parts, counted.len()))
    }
}

fn expect_dims(what: &'static str, tensor: &Tensor, dims: &[usize]) -> Result<()> {
    match tensor.dims() == dims {
        true => Ok(()),
        false => Err(wrong_shape(what, tensor.shape(), format!("{dims:?}, one for each of the hidden_states"))),
    }
}

/// Returns the rows that count with their targets, in order.
fn counted(target_ids: &Tensor, options: &LossOptions, vocab_size: usize) -> Result<Vec<Counted>> {
    let targets = to_host(target_ids, "target_ids")?;
    let mask = options.mask.as_ref().map(|mask| loss_mask(mask, target_ids)).transpose()?;
    let counts = |row: usize, target: i64| target != options.ignore_index && mask.as_ref().is_none_or(|mask| mask[row]);
    let rows = targets.into_iter().enumerate().filter(|&(row, target)| counts(row, target));
    rows.map(|(row, id)| match usize::try_from(id) {
        Ok(target) if target < vocab_size => Ok(Counted { row, target }),
        _ => Err(Error::TokenOutOfRange { id, at: unravel(row, target_ids.dims()), vocab_size }),
    })
    .collect()
}

fn loss_mask(mask: &Tensor, target_ids: &Tensor) -> Result<Vec<bool>> {
    expect_dims("loss_mask", mask, target_ids.dims())?;
    let values = to_host(mask, "loss_mask")?.into_iter().enumerate();
    values
        .map(|(row, value)| match value {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Error::MaskValue { what: "loss_mask", value, at: unravel(row, mask.dims()) }),
        })
        .collect()
}
