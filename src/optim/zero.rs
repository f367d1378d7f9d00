//! [`ZeroRedundancyOptimizer`]: AdamW whose state is cut over ranks.

use std::ops::Range;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};

use super::params::Job;
use super::{AdamState, AdamW, RowGrad};
use crate::error::{OptimError, RanksError, Result};
use crate::kernel::{Gradient, Moments, adamw, copy_of, dense_gradient, from_bytes, to_bytes, zeros_like};
use crate::ranks::{Parts, Ranks, agree, same};

/// The most bytes that a rank receives at once.
const PIECE_BYTES: usize = 16 << 20;

/// [`AdamW`] of which each rank keeps the state of an equal part of every parameter's elements, steps that part, and
/// receives the others: ZeRO stage 1 (Rajbhandari et al. 2020, arXiv:1910.02054), as
/// `torch.distributed.optim.ZeroRedundancyOptimizer`.
///
/// A step has the bits of [`AdamW`]'s, clipping included. On W ranks the state takes 1/W of its memory, and each rank
/// sends (W − 1)/W of the parameters more in a step than [`GradSum`](super::GradSum) alone. Gradients of rows become
/// whole ones. Rows cannot be frozen.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use candle_core::backprop::GradStore;
/// use candle_gpt_input::optim::{AdamW, ZeroRedundancyOptimizer};
/// use candle_gpt_input::ranks::Threads;
///
/// let stepped = Threads::run(2, |ranks| {
///     let x = Var::new(&[2f32, 4., 6., 8.], &Device::Cpu)?;
///     let adamw = AdamW::new_lr(vec![x.clone()], 0.5)?;
///     let mut optimizer = ZeroRedundancyOptimizer::new(ranks, adamw)?;
///     let mut grads = GradStore::default();
///     grads.insert(&x, Tensor::ones(4, x.dtype(), &Device::Cpu)?); // the same on each rank, as `GradSum` gives it
///     optimizer.step_with_rows(ranks, &grads, &[])?;
///     let own = optimizer.state(&x).unwrap().exp_avg.elem_count();
///     Ok::<_, candle_gpt_input::Error>((format!("{:.2?}", x.to_vec1::<f32>()?), own))
/// });
/// let stepped: Vec<_> = stepped.into_iter().collect::<Result<_, _>>()?;
/// // A decay by 0.5 %, and a step of 0.5; each rank has the state of two elements.
/// assert!(stepped.iter().all(|(x, own)| x == "[1.49, 3.48, 5.47, 7.46]" && *own == 2));
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Debug)]
#[doc(alias("ZeRO", "zero stage 1", "distributed optimizer"))]
pub struct ZeroRedundancyOptimizer {
    /// Its state is of this rank's elements, as vectors.
    adamw: AdamW,
    rank: usize,
    size: usize,
}

impl ZeroRedundancyOptimizer {
    /// Makes the optimizer from one that all ranks have: a new one, or one that has loaded its state.
    ///
    /// # Errors
    /// [`OptimError::FrozenRows`] for an optimizer with frozen rows.
    pub fn new(ranks: &dyn Ranks, adamw: AdamW) -> Result<Self> {
        let mut all = Self { adamw, rank: ranks.rank(), size: ranks.size() };
        for param in &mut all.adamw.params.params {
            if !param.frozen.is_empty() {
                return Err(OptimError::FrozenRows { name: param.name.clone() }.into());
            }
            if let Some(state) = &mut param.state {
                let own = part(param.var.elem_count(), all.rank, all.size);
                for moment in [&mut state.exp_avg, &mut state.exp_avg_sq] {
                    *moment = copy_of(&elements(moment, &own)?)?;
                }
            }
        }
        Ok(all)
    }

    /// Makes one step, as [`AdamW::step_with_rows`] does, with gradients that are the same on each rank. A collective
    /// call.
    ///
    /// # Errors
    /// Those of [`AdamW::step_with_rows`], on every rank; nothing is changed then. [`RanksError::Differ`] if ranks have
    /// gradients of other variables, another norm of them, or another learning rate.
    pub fn step_with_rows(&mut self, ranks: &dyn Ranks, grads: &GradStore, rows: &[RowGrad]) -> Result<()> {
        let (rank, size) = (self.rank, self.size);
        let (jobs, grad_scale) = agree(ranks, self.prepared(grads, rows))?;
        let learning_rate = self.adamw.params.learning_rate;
        let mut step: Vec<u64> = vec![grad_scale.to_bits(), learning_rate.to_bits()];
        step.extend(jobs.iter().flat_map(|job| self.n_steps(job.param)));
        same(ranks, "the gradients or the settings of a step", &le_bytes(step))?;
        let stepped = self.adamw.params.step(&jobs, grad_scale, |moments, gradient, step| {
            let own = part(moments.param.elem_count(), rank, size);
            let param = elements(moments.param, &own)?;
            let dense = elements(&whole(moments.param, gradient)?, &own)?;
            let gradient = Gradient { dense: Some(&dense), rows: None, ..gradient }; // no rows are frozen
            adamw(Moments { param: &param, ..moments }, gradient, step)
        });
        agree(ranks, stepped)?;
        jobs.iter().try_for_each(|job: &Job| self.exchange(ranks, &self.adamw.params.params[job.param].var))
    }

    /// Returns an optimizer with the state of all elements, for [`AdamW::save`]: the file of any number of ranks. A
    /// collective call.
    ///
    /// # Errors
    /// Those of [`Ranks::all_gather`], and [`RanksError::Differ`] if ranks have made steps of other variables.
    #[doc(alias = "consolidate_state_dict")]
    pub fn consolidate(&self, ranks: &dyn Ranks) -> Result<AdamW> {
        let n_params = self.adamw.params.params.len();
        same(ranks, "the steps of an optimizer", &le_bytes((0..n_params).flat_map(|param| self.n_steps(param))))?;
        let mut all = self.adamw.without_state();
        for (to, from) in all.params.params.iter_mut().zip(&self.adamw.params.params) {
            let Some(state) = &from.state else { continue };
            let gathered = |own: &Tensor| -> Result<Tensor> {
                let whole = zeros_like(&from.var)?;
                let at = part(whole.elem_count(), self.rank, self.size);
                if !at.is_empty() {
                    whole.flatten_all()?.slice_set(own, 0, at.start)?;
                }
                self.exchange(ranks, &whole)?;
                Ok(whole)
            };
            let (exp_avg, exp_avg_sq) = (gathered(&state.exp_avg)?, gathered(&state.exp_avg_sq)?);
            to.state = Some(AdamState { step: state.step, exp_avg, exp_avg_sq });
        }
        Ok(all)
    }

    /// Returns the gradient's global norm in the last step, before clipping; `None` without clipping.
    pub fn grad_norm(&self) -> Option<f64> {
        self.adamw.grad_norm()
    }

    /// Sets the learning rate of the next steps.
    pub fn set_learning_rate(&mut self, learning_rate: f64) {
        self.adamw.params.learning_rate = learning_rate;
    }

    /// Returns the state of this rank's elements of a parameter, as vectors; `None` before its first step.
    pub fn state(&self, var: &Var) -> Option<&AdamState> {
        self.adamw.state(var)
    }

    /// Returns the parameters of a step and the factor of their gradients; all of them have a state then.
    fn prepared<'a>(&mut self, grads: &GradStore, rows: &'a [RowGrad]) -> Result<(Vec<Job<'a>>, f64)> {
        let jobs = self.adamw.params.jobs(|var| grads.get(var).cloned(), rows)?;
        let grad_scale = self.adamw.grad_scale(&jobs)?;
        for job in &jobs {
            let param = &mut self.adamw.params.params[job.param];
            if param.state.is_none() {
                let own = part(param.var.elem_count(), self.rank, self.size);
                let zeros = || zeros_like(&elements(&param.var, &own)?);
                param.state = Some(AdamState { step: 0, exp_avg: zeros()?, exp_avg_sq: zeros()? });
            }
        }
        Ok((jobs, grad_scale))
    }

    /// Returns a parameter and how many steps it has made, for [`same`]; another number than any without a state.
    fn n_steps(&self, param: usize) -> [u64; 2] {
        let state = &self.adamw.params.params[param].state;
        [param as u64, state.as_ref().map_or(u64::MAX, |state| state.step)]
    }

    /// Sends this rank's elements of a tensor to the others, and writes theirs.
    fn exchange(&self, ranks: &dyn Ranks, tensor: &Tensor) -> Result<()> {
        let (n, flat) = (tensor.elem_count(), tensor.flatten_all()?);
        let piece = (PIECE_BYTES / self.size / tensor.dtype().size_in_bytes()).max(1);
        let mut all = Parts::default();
        for start in (0..n.div_ceil(self.size)).step_by(piece) {
            let piece_of = |rank: usize| {
                let part = part(n, rank, self.size);
                (part.start + start).min(part.end)..(part.start + start + piece).min(part.end)
            };
            let own = elements(tensor, &piece_of(self.rank))?;
            ranks.all_gather(&to_bytes(&own.to_device(&Device::Cpu)?)?, &mut all)?;
            for (rank, bytes) in all.iter().enumerate().filter(|&(rank, _)| rank != self.rank) {
                let at = piece_of(rank);
                if bytes.len() != at.len() * tensor.dtype().size_in_bytes() {
                    return Err(RanksError::Differ { what: "the elements of an optimizer", rank }.into());
                }
                if !at.is_empty() {
                    let values = from_bytes(bytes, 1, tensor.dtype())?.to_device(tensor.device())?;
                    flat.slice_set(&values.flatten_all()?, 0, at.start)?;
                }
            }
        }
        Ok(())
    }
}

fn le_bytes(numbers: impl IntoIterator<Item = u64>) -> Vec<u8> {
    numbers.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// Returns which of `n` elements are a rank's.
fn part(n: usize, rank: usize, size: usize) -> Range<usize> {
    n / size * rank + (n % size).min(rank)..n / size * (rank + 1) + (n % size).min(rank + 1)
}

/// Returns elements of a contiguous tensor, in its memory, without history.
fn elements(tensor: &Tensor, at: &Range<usize>) -> candle_core::Result<Tensor> {
    tensor.detach().flatten_all()?.narrow(0, at.start, at.len())
}

/// Returns the whole gradient of a parameter.
fn whole(param: &Tensor, gradient: Gradient) -> candle_core::Result<Tensor> {
    let rows = gradient.rows.map(|rows| dense_gradient(param, rows)).transpose()?;
    match (gradient.dense, rows) {
        (Some(dense), Some(rows)) => dense + rows,
        (Some(dense), None) => Ok(dense.clone()),
        (None, Some(rows)) => Ok(rows),
        (None, None) => param.zeros_like(),
    }
}
