//! The head's cross-entropy, computed from hidden states without materializing the logits.

use candle_core::Tensor;

use super::{LmHead, LossOptions, Reduction};
use crate::error::{Error, Result};
use crate::kernel::{Counted, HeadLoss, HeadTable, Wanted, attach, attach_each, to_host, unravel};
use crate::memory::copy_fits;
use crate::shape::wrong_shape;

/// A loss with its gradients, for a training loop that does not use Candle's graph here.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LossGrads {
    /// The loss without history: f64 for f64 inputs, otherwise f32. A scalar, or with [`Reduction::None`] in the shape of
    /// the targets.
    pub loss: Tensor,
    /// The gradient of the hidden states, in their shape and dtype.
    pub hidden_grad: Tensor,
    /// The gradient of the table through the head alone, `[V, C]` in its dtype; `None` for a table that is not
    /// trainable.
    pub wte_grad: Option<Tensor>,
    /// The gradient of the bias, `[V]` in its dtype; `None` without a bias that is trainable.
    pub bias_grad: Option<Tensor>,
    /// How many targets counted.
    pub n_counted: usize,
}

impl LmHead {
    /// Computes the cross-entropy of the next tokens, `cross_entropy(hidden_states · wteᵀ + bias, target_ids)`, without
    /// ever holding the logits `[.., V]`.
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
    /// - returns: a scalar, or `[..]` with [`Reduction::None`]; f64 for f64 inputs, else f32
    ///
    /// # Errors
    /// All are reported before anything is computed:
    /// - [`Error::TokenOutOfRange`] for a target that counts and is not below [`vocab_size`](Self::vocab_size)
    /// - [`Error::ShapeMismatch`] for hidden states, targets or a mask of another shape
    /// - [`Error::TableMismatch`] for hidden states of another dtype or device than the table
    /// - [`Error::IdDType`] for targets or a mask of another dtype, [`Error::MaskValue`] for mask values other than 0
    ///   and 1
    #[doc(alias("cross_entropy", "CrossEntropyLoss", "LigerFusedLinearCrossEntropyLoss"))]
    pub fn loss(&self, hidden_states: &Tensor, target_ids: &Tensor, options: &LossOptions) -> Result<Tensor> {
        let Job { loss, n_rows, scale, dims } = self.job(hidden_states, target_ids, options)?;
        let wanted = Wanted { hidden: hidden_states.track_op(), ..self.trainable() };
        let (flat, untracked) = (loss.hidden.clone(), loss.hidden.detach());
        let table = match &loss.table {
            HeadTable::Dense(table) => table.clone(),
            HeadTable::Stored(_) => untracked.clone(),
        };
        let bias = loss.bias.clone().unwrap_or(untracked);
        let inputs = [&flat, &table, &bias];
        if options.reduction != Reduction::None {
            let parts = loss.run(scale, wanted)?;
            return attach(inputs, parts);
        }
        let parts = loss.run(scale, Wanted { hidden: false, table: false, bias: false })?;
        let each = at_rows(&parts.losses, &loss.counted, n_rows)?;
        Ok(attach_each(inputs, each, loss, wanted)?.reshape(dims)?)
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
        let Job { loss, n_rows, scale, dims } = self.job(hidden_states, target_ids, options)?;
        let parts = loss.run(scale, Wanted { hidden: true, ..self.trainable() })?;
        let dtype = hidden_states.dtype();
        let hidden_grad = match parts.hidden_grad {
            Some(grad) => grad.to_dtype(dtype)?.reshape(hidden_states.shape())?,
            None => hidden_states.zeros_like()?,
        };
        let (n_table_rows, _) = self.table.dims();
        let with_padding = |grad: Tensor| -> Result<Tensor> {
            let n_padding = n_table_rows - grad.dim(0)?;
            let grad = grad.to_dtype(dtype)?;
            if n_padding == 0 { Ok(grad) } else { Ok(grad.pad_with_zeros(0, 0, n_padding)?) }
        };
        Ok(LossGrads {
            loss: match options.reduction {
                Reduction::None => at_rows(&parts.losses, &loss.counted, n_rows)?.reshape(dims)?,
                Reduction::Mean | Reduction::Sum => parts.loss,
            },
            hidden_grad,
            wte_grad: parts.table_grad.map(with_padding).transpose()?,
            bias_grad: parts.bias_grad.map(with_padding).transpose()?,
            n_counted: loss.counted.len(),
        })
    }

    /// Returns which parts of the head need a gradient.
    fn trainable(&self) -> Wanted {
        Wanted {
            hidden: false,
            table: self.table.dense().is_ok_and(|table| table.weight().track_op()),
            bias: self.bias.as_ref().is_some_and(Tensor::track_op),
        }
    }

    /// Checks the inputs, and finds the targets that count.
    fn job(&self, hidden_states: &Tensor, target_ids: &Tensor, options: &LossOptions) -> Result<Job> {
        let outer = self.outer_dims(hidden_states)?;
        expect_dims("target_ids", target_ids, outer)?;
        copy_fits("hidden_states", hidden_states)?;
        let counted = counted(target_ids, options, self.vocab_size)?;
        let scale = match options.reduction {
            Reduction::Mean => 1.0 / counted.len() as f64,
            Reduction::Sum | Reduction::None => 1.0,
        };
        let n_rows = outer.iter().product::<usize>();
        let loss = HeadLoss {
            hidden: hidden_states.reshape((n_rows, self.table.dims().1))?,
            table: self.rows()?,
            bias: self.bias.as_ref().map(|bias| self.tokens(bias)).transpose()?,
            counted,
            chunk_rows: options.chunk_rows,
        };
        Ok(Job { loss, n_rows, scale, dims: outer.to_vec() })
    }
}

/// A loss whose inputs are checked.
struct Job {
    loss: HeadLoss,
    n_rows: usize,
    scale: f64,
    /// The dimensions of the targets.
    dims: Vec<usize>,
}

/// Returns the losses of all rows, `[N]`: those that count, and 0 for the others.
pub(crate) fn at_rows(losses: &Tensor, counted: &[Counted], n_rows: usize) -> Result<Tensor> {
    let rows: Vec<i64> = counted.iter().map(|counted| counted.row as i64).collect();
    let zeros = Tensor::zeros(n_rows, losses.dtype(), losses.device())?;
    if rows.is_empty() {
        return Ok(zeros);
    }
    Ok(zeros.index_add(&Tensor::new(rows, losses.device())?, losses, 0)?)
}

pub(crate) fn expect_dims(what: &'static str, tensor: &Tensor, dims: &[usize]) -> Result<()> {
    match tensor.dims() == dims {
        true => Ok(()),
        false => Err(wrong_shape(what, tensor.shape(), format!("{dims:?}, one for each of the hidden_states"))),
    }
}

/// Returns the rows that count with their targets, in order.
pub(crate) fn counted(target_ids: &Tensor, options: &LossOptions, vocab_size: usize) -> Result<Vec<Counted>> {
    let targets = to_host(target_ids, "target_ids")?;
    let mask = options.mask.as_ref().map(|mask| loss_mask(mask, target_ids)).transpose()?;
    let counts = |row: usize, target: i64| target != options.ignore_index && mask.as_ref().is_none_or(|mask| mask[row]);
    let rows = targets.into_iter().enumerate().filter(|&(row, target)| counts(row, target));
    rows.map(|(row, id)| match usize::try_from(id) {
        Ok(target) if target < vocab_size => Ok(Counted { row, target, weight: 1.0 }),
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
