//! [`ParallelLmHead`]: the tied head on a table that is cut.

use candle_core::Tensor;

use super::VocabParallelEmbedding;
use crate::error::{RanksError, Result};
use crate::kernel::{Counted, CrossEntropy, HeadTable, Split, Wanted};
use crate::lm_head::{LossGrads, LossOptions, Reduction, at_rows, counted, expect_dims};
use crate::memory::copy_fits;
use crate::ranks::{Parts, Ranks, agree, same};
use crate::shape::{outer_dims, same_device};

/// The output head tied to a table of which each rank holds a share, and its loss: Megatron's
/// `vocab_parallel_cross_entropy`.
///
/// Each rank computes the logits of its rows for the hidden states of all ranks, chunk by chunk, and never holds more
/// than a chunk of them. The results are those of [`LmHead`](crate::LmHead) on the whole table and on all hidden
/// states, in the order of the ranks, bit for bit.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_gpt_input::ranks::{Ranks, Threads};
/// use candle_gpt_input::vocab_parallel::{ParallelLmHead, VocabParallelEmbedding};
///
/// let losses = Threads::run(2, |ranks| {
///     let wte = Tensor::new(&[[1f32], [1.]], &Device::Cpu)?; // two tokens, alike: each loss is ln 2
///     let head = ParallelLmHead::new(VocabParallelEmbedding::new(ranks, &wte)?);
///     let hidden_states = Tensor::new(&[[3f32]], &Device::Cpu)?;
///     let target_ids = Tensor::new(&[ranks.rank() as u32], &Device::Cpu)?;
///     let found = head.loss_and_grads(ranks, &hidden_states, &target_ids, &Default::default())?;
///     Ok::<_, candle_gpt_input::Error>((found.loss.to_scalar::<f32>()?, found.n_counted))
/// });
/// let losses: Vec<_> = losses.into_iter().collect::<Result<_, _>>()?;
/// assert_eq!(losses, [(2f32.ln(), 2); 2]); // the mean over both ranks' targets, on both
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone, Debug)]
#[doc(alias("ParallelLMHead", "vocab_parallel_cross_entropy", "loss_parallel"))]
pub struct ParallelLmHead {
    table: VocabParallelEmbedding,
}

impl ParallelLmHead {
    /// Makes a head on the table.
    pub fn new(table: VocabParallelEmbedding) -> Self {
        Self { table }
    }

    /// Returns the table.
    pub fn table(&self) -> &VocabParallelEmbedding {
        &self.table
    }

    /// Computes the cross-entropy of the next tokens over all ranks, without gradients: for evaluation. A collective
    /// call.
    ///
    /// # Shapes
    /// Those of [`loss_and_grads`](Self::loss_and_grads).
    ///
    /// # Errors
    /// Those of [`loss_and_grads`](Self::loss_and_grads).
    pub fn loss(
        &self,
        ranks: &dyn Ranks,
        hidden_states: &Tensor,
        target_ids: &Tensor,
        options: &LossOptions,
    ) -> Result<Tensor> {
        let none = Wanted { hidden: false, table: false, bias: false };
        Ok(self.run(ranks, hidden_states, target_ids, options, none)?.loss)
    }

    /// Computes the cross-entropy of the next tokens over all ranks, with its gradients. A collective call.
    ///
    /// The fields of the result, on each rank:
    /// - `loss`: the mean or the sum over the targets of *all* ranks, the same on each; with [`Reduction::None`] the
    ///   losses of this rank's targets
    /// - `hidden_grad`: of this rank's hidden states, in their shape and dtype. The blocks below continue with the
    ///   gradient of `(hidden_states * hidden_grad).sum_all()?`
    /// - `wte_grad`: of this rank's rows of the table through the head alone, `[rows, C]`
    /// - `n_counted`: how many targets counted on all ranks
    ///
    /// # Shapes
    /// - `hidden_states`: `[.., C]` in the dtype of the table, on the CPU; those of each rank have a shape of their
    ///   own, and may be empty
    /// - `target_ids`, mask: `[..]`, `u8`, `u32` or `i64`
    ///
    /// # Errors
    /// On every rank, before anything is computed:
    /// - [`Error::TokenOutOfRange`](crate::Error::TokenOutOfRange) for a target of any rank that counts and is not
    ///   below V
    /// - [`Error::ShapeMismatch`](crate::Error::ShapeMismatch), [`Error::TableMismatch`](crate::Error::TableMismatch),
    ///   [`Error::IdDType`](crate::Error::IdDType), [`Error::MaskValue`](crate::Error::MaskValue) as of
    ///   [`LmHead::loss`](crate::LmHead::loss)
    /// - [`RanksError::Differ`] if ranks give other options
    pub fn loss_and_grads(
        &self,
        ranks: &dyn Ranks,
        hidden_states: &Tensor,
        target_ids: &Tensor,
        options: &LossOptions,
    ) -> Result<LossGrads> {
        self.run(ranks, hidden_states, target_ids, options, Wanted { hidden: true, table: true, bias: false })
    }

    fn run(
        &self,
        ranks: &dyn Ranks,
        hidden_states: &Tensor,
        target_ids: &Tensor,
        options: &LossOptions,
        wanted: Wanted,
    ) -> Result<LossGrads> {
        let (table, dtype) = (&self.table, hidden_states.dtype());
        let own = || {
            same_device(("hidden_states", hidden_states.device()), ("wte", table.device()))?;
            let outer = outer_dims("hidden_states", hidden_states, ("wte", table.n_embd, table.dtype()))?;
            expect_dims("target_ids", target_ids, outer)?;
            copy_fits("hidden_states", hidden_states)?;
            counted(target_ids, options, table.vocab_size)
        };
        let own = agree(ranks, own())?;
        let settings = format!("{:?} {:?} {wanted:?}", options.reduction, options.chunk_rows);
        same(ranks, "the options of the loss", settings.as_bytes())?;
        let (counted, counts) = all_counted(ranks, &own, table.vocab_size)?;

        let (n_rows, dims) = (target_ids.elem_count(), target_ids.dims());
        let flat = hidden_states.reshape((n_rows, table.n_embd))?;
        let scale = match options.reduction {
            Reduction::Mean => 1.0 / counted.len() as f64,
            Reduction::Sum | Reduction::None => 1.0,
        };
        let split = Split { ranks, vocab_size: table.vocab_size, counts: &counts };
        let head = (HeadTable::Dense(table.var.as_tensor().clone()), None);
        let parts = CrossEntropy::new(&flat, head, &counted, scale, options.chunk_rows, Some(split))?.run(wanted)?;
        let first: usize = counts[..ranks.rank()].iter().sum();
        Ok(LossGrads {
            loss: match options.reduction {
                Reduction::None => at_rows(&parts.losses.narrow(0, first, own.len())?, &own, n_rows)?.reshape(dims)?,
                Reduction::Mean | Reduction::Sum => parts.loss,
            },
            hidden_grad: match parts.hidden_grad {
                Some(grad) => grad.to_dtype(dtype)?.reshape(hidden_states.shape())?,
                None => hidden_states.zeros_like()?,
            },
            wte_grad: parts.table_grad.map(|grad| grad.to_dtype(dtype)).transpose()?,
            bias_grad: None,
            n_counted: counted.len(),
        })
    }
}

/// Returns the targets that count of all ranks, in their order, and how many each rank has.
fn all_counted(ranks: &dyn Ranks, own: &[Counted], vocab_size: usize) -> Result<(Vec<Counted>, Vec<usize>)> {
    let bytes: Vec<u8> = own.iter().flat_map(|counted| (counted.target as u64).to_le_bytes()).collect();
    let mut all = Parts::default();
    ranks.all_gather(&bytes, &mut all)?;
    let (mut counted, mut counts) = (Vec::new(), Vec::new());
    for (rank, part) in all.iter().enumerate() {
        let before = counted.len();
        for (at, bytes) in part.as_chunks::<8>().0.iter().enumerate() {
            let target = u64::from_le_bytes(*bytes) as usize;
            // Only the own rows are ever read.
            let row = if rank == ranks.rank() { own[at].row } else { 0 };
            counted.push(Counted { row, target, weight: 1.0 });
        }
        if counted[before..].iter().any(|counted| counted.target >= vocab_size) {
            return Err(RanksError::Differ { what: "the targets of the loss", rank }.into());
        }
        counts.push(counted.len() - before);
    }
    Ok((counted, counts))
}
