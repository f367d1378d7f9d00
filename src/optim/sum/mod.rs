//! [`GradSum`]: the gradient of a step over several micro-batches, on one rank or many.

mod buckets;
mod cascade;
mod rows;
mod whole;

use candle_core::Var;
use candle_core::backprop::GradStore;
use candle_nn::ParamsAdamW;

use cascade::Cascade;
use whole::Whole;

use super::params::{Params, check_gradient};
use super::{ParamGroup, RowGrad};
use crate::error::{OptimError, RanksError, Result};
use crate::ranks::{Parts, Ranks, agree};

/// Adds up the gradients of the micro-batches of a step, over all ranks: gradient accumulation and data parallelism.
///
/// Each micro-batch comes with the gradient of the *sum* of its losses
/// ([`Reduction::Sum`](crate::lm_head::Reduction::Sum)) and the number of targets that counted. The sums are divided once,
/// by all targets of the step, so a micro-batch with few targets does not weigh more than its share.
///
/// **The bits do not depend on the number of ranks.** A step over M micro-batches has the same bits on one rank and on
/// any number that leaves each rank a power of two of them ([`share`](crate::ranks::share)), if rank r has those from
/// r·M/W on, all ranks run the same program on the same kind of processor, and each variable has the same kind of
/// gradient (whole, or rows) in every micro-batch. Sums are added as a binary counter counts, (0 + 1) + (2 + 3), so
/// that what one rank adds is a whole subtree. No engine adds anything, and a rank sends as many bytes as a ring does:
/// 2·(W − 1)/W of the gradients.
///
/// Gradients of rows are not added but put one behind the other, as if of one batch. For a table that has a whole
/// gradient too (`wte` tied to the head) they are added to that one first, and do not travel.
///
/// **Memory.** Of M/W micro-batches at most log2(M/W) + 1 sums are held at once, the gradients of the last micro-batch
/// included. Several ranks need two buckets of 16 MB beside them, and the rows of all
/// ranks, three times while they arrive. A sum is written over its parts, but never over a tensor
/// of the caller, who may have kept a clone: a variable needs as much again while the first two such tensors are added, or
/// the only one is summed over ranks. Gradients on other devices pass through the host.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use candle_gpt_input::optim::GradSum;
/// use candle_gpt_input::ranks::{Alone, Ranks, Threads, share};
///
/// /// One step over four micro-batches of one value x each, with the loss w·x: the gradient is the mean of x.
/// fn step(ranks: &dyn Ranks) -> candle_gpt_input::Result<Vec<f32>> {
///     let w = Var::new(&[2f32], &Device::Cpu)?;
///     let mut sum = GradSum::new(vec![w.clone()])?;
///     let n = share(4, ranks.size())?;
///     for x in &[1f32, 3., 5., 7.][n * ranks.rank()..][..n] {
///         let loss = (w.as_tensor() * f64::from(*x))?.sum_all()?;
///         sum.add(loss.backward()?, Vec::new(), f64::from(loss.to_scalar::<f32>()?), 1)?;
///     }
///     let step = sum.finish(ranks)?;
///     assert_eq!((step.loss, step.n_counted), (8.0, 4));
///     Ok(step.grads.get(&w).unwrap().to_vec1()?)
/// }
///
/// assert_eq!(step(&Alone)?, [4.]);
/// assert!(Threads::run(2, |ranks| step(ranks)).into_iter().all(|grad| grad.unwrap() == [4.]));
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "gradients do nothing until they are summed"]
#[doc(alias("gradient accumulation", "DistributedDataParallel", "allreduce"))]
pub struct GradSum {
    params: Params,
    sums: Cascade<Micro>,
    /// Of each variable whether its rows are divided by how often their id occurs, once it has rows.
    kinds: Vec<Option<bool>>,
}

/// The gradient of a step, and what it is of. The same bits on every rank.
#[derive(Debug)]
#[non_exhaustive]
pub struct Summed {
    /// The mean gradients over all targets: of the variables that have a whole one.
    pub grads: GradStore,
    /// Those that have rows, for [`AdamW::step_with_rows`](super::AdamW::step_with_rows): at most one for a table.
    pub rows: Vec<RowGrad>,
    /// The mean loss over all targets.
    pub loss: f64,
    /// How many targets counted, over all ranks.
    pub n_counted: usize,
}

/// What one micro-batch gives, or several.
#[derive(Debug, Default)]
struct Micro {
    /// Of each variable.
    grads: Vec<Grad>,
    loss: f64,
    n_counted: usize,
}

/// The gradient of one variable: the sum of both.
#[derive(Debug, Default)]
struct Grad {
    dense: Option<Whole>,
    rows: Vec<RowGrad>,
}

impl GradSum {
    /// Begins the step of these variables: a `Vec` of them, or a [`VarMap`](candle_nn::VarMap). All ranks give the same
    /// ones in the same order.
    ///
    /// # Errors
    /// [`OptimError`] for a name or a variable given twice, or a variable of integers.
    pub fn new(vars: impl Into<ParamGroup>) -> Result<Self> {
        let params = Params::new([vars.into()], &ParamsAdamW::default())?;
        let kinds = vec![None; params.params.len()];
        Ok(Self { params, sums: Cascade::default(), kinds })
    }

    /// Adds a micro-batch: the gradients of the sum of its losses, whole ones and rows, that sum itself, and the number
    /// of targets that counted.
    ///
    /// Gradients of other variables in `grads` are dropped. A rank may add none.
    ///
    /// # Errors
    /// [`OptimError`] for a gradient of another shape, dtype or device than its variable, for rows of a table that is not
    /// one of the variables, and for rows with and without `scale_grad_by_freq` of one table. The micro-batch is not
    /// added then.
    pub fn add(&mut self, mut grads: GradStore, rows: Vec<RowGrad>, loss: f64, n_counted: usize) -> Result<()> {
        let grad_of = |param: &super::params::Param| -> Result<Grad> {
            let grad = grads.remove(&param.var);
            let dense = grad.map(|grad| check_gradient(&param.name, &param.var, &grad.detach())).transpose()?;
            Ok(Grad { dense: dense.map(Whole::of_caller), rows: Vec::new() })
        };
        let mut grads = self.params.params.iter().map(grad_of).collect::<Result<Vec<_>>>()?;
        let mut kinds = self.kinds.clone();
        for rows in rows {
            let index = self.params.index_of(rows.var())?;
            let by_frequency = rows.is_by_frequency();
            if *kinds[index].get_or_insert(by_frequency) != by_frequency {
                return Err(OptimError::MixedRows { shape: rows.var().shape().clone() }.into());
            }
            grads[index].rows.push(rows.unscaled()?);
        }
        self.kinds = kinds;
        self.sums.push(1, Micro { grads, loss, n_counted }, Micro::add)
    }

    /// Returns the sum over all micro-batches of all ranks, divided by all targets. A collective call.
    ///
    /// # Errors
    /// - [`OptimError::NoTargets`] if no target counted on any rank
    /// - [`RanksError::Differ`] if the ranks have other variables, those of the calls of [`Ranks`]
    /// - the error of any rank, on every rank
    pub fn finish(self, ranks: &dyn Ranks) -> Result<Summed> {
        let vars: Vec<&Var> = self.params.params.iter().map(|param| &param.var).collect();
        let n_own = self.sums.count();
        let own = self.sums.finish(Micro::add);
        let own = agree(ranks, own)?
            .unwrap_or_else(|| Micro { grads: vars.iter().map(|_| Grad::default()).collect(), ..Default::default() });
        let heads = Head::gather(ranks, &Head::new(n_own, &own), &self.params)?;
        let counts: Vec<usize> = heads.iter().map(|head| head.n_micro).collect();
        let n_counted: usize = heads.iter().map(|head| head.n_counted).sum();
        if n_counted == 0 {
            return Err(OptimError::NoTargets.into());
        }
        let mut losses = Cascade::default();
        for head in &heads {
            losses.push(head.n_micro, head.loss, |left, right| Ok(left + right))?;
        }
        let loss = losses.finish(|left, right| Ok(left + right))?.unwrap_or(0.0);

        let is_dense = |var: usize| heads.iter().any(|head| head.has_dense[var]);
        let is_alone = counts.iter().sum::<usize>() == 1 && ranks.size() == 1;
        let mut dense = Vec::new();
        let mut rows = Vec::new();
        for (index, (mut grad, var)) in own.grads.into_iter().zip(vars).enumerate() {
            if is_dense(index) {
                if !is_alone {
                    grad.fold()?;
                }
                dense.push((var, grad.dense.take()));
            }
            if !is_dense(index) || is_alone {
                let own = RowGrad::union(grad.rows)?;
                let is_sent = ranks.size() > 1 && heads.iter().any(|head| head.has_rows[index]);
                rows.extend(if is_sent { rows::gather(ranks, var, own)? } else { own });
            }
        }
        let vars: Vec<&Var> = dense.iter().map(|(var, _)| *var).collect();
        let sums = match ranks.size() {
            1 => dense.into_iter().filter_map(|(_, grad)| grad).collect(),
            _ => buckets::sums(ranks, &counts, dense)?,
        };
        let mean = 1.0 / n_counted as f64;
        let mut grads = GradStore::default();
        for (var, sum) in vars.into_iter().zip(sums) {
            grads.insert(var, if n_counted == 1 { sum } else { sum.scaled(mean)? }.into_tensor());
        }
        let rows = rows.into_iter().map(|rows| rows.with_scale(mean)).collect();
        Ok(Summed { grads, rows, loss: loss * mean, n_counted })
    }
}

impl Micro {
    fn add(self, other: Self) -> Result<Self> {
        let grads = self.grads.into_iter().zip(other.grads).map(|(left, right)| left.add(right));
        Ok(Self {
            grads: grads.collect::<Result<_>>()?,
            loss: self.loss + other.loss,
            n_counted: self.n_counted + other.n_counted,
        })
    }
}

impl Grad {
    fn add(mut self, mut other: Self) -> Result<Self> {
        if self.dense.is_none() && other.dense.is_none() {
            self.rows.append(&mut other.rows);
            return Ok(self);
        }
        self.fold()?;
        other.fold()?;
        let dense = match (self.dense, other.dense) {
            (Some(left), Some(right)) => Some(left.add(right)?),
            (left, right) => left.or(right),
        };
        Ok(Self { dense, rows: Vec::new() })
    }

    /// Adds the rows to the whole gradient.
    fn fold(&mut self) -> Result<()> {
        if let Some(rows) = RowGrad::union(std::mem::take(&mut self.rows))? {
            let rows = Whole::own(rows.to_dense()?);
            self.dense = Some(match self.dense.take() {
                Some(dense) => dense.add(rows)?,
                None => rows,
            });
        }
        Ok(())
    }
}

/// What ranks tell each other before they send gradients.
struct Head {
    n_micro: usize,
    n_counted: usize,
    loss: f64,
    has_dense: Vec<bool>,
    has_rows: Vec<bool>,
}

impl Head {
    fn new(n_micro: usize, own: &Micro) -> Self {
        Self {
            n_micro,
            n_counted: own.n_counted,
            loss: own.loss,
            has_dense: own.grads.iter().map(|grad| grad.dense.is_some()).collect(),
            has_rows: own.grads.iter().map(|grad| !grad.rows.is_empty()).collect(),
        }
    }

    /// Returns the heads of all ranks, if they have the same variables.
    fn gather(ranks: &dyn Ranks, own: &Self, params: &Params) -> Result<Vec<Self>> {
        let vars = params
            .params
            .iter()
            .map(|param| format!("{} {:?} {:?}\n", param.name, param.var.dtype(), param.var.dims()));
        let vars = vars.collect::<String>();
        crate::ranks::same(ranks, "the variables of the gradients", vars.as_bytes())?;
        let numbers = [own.n_micro as u64, own.n_counted as u64, own.loss.to_bits()];
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        bytes.extend(own.has_dense.iter().chain(&own.has_rows).map(|&has| u8::from(has)));
        let mut all = Parts::default();
        ranks.all_gather(&bytes, &mut all)?;
        let read = |bytes: &[u8]| -> Option<Self> {
            let (numbers, has) = bytes.split_at_checked(size_of_val(&numbers))?;
            let (dense, rows) = has.split_at_checked(own.has_dense.len())?;
            let number = |at: usize| numbers.as_chunks::<8>().0.get(at).map(|bytes| u64::from_le_bytes(*bytes));
            Some(Self {
                n_micro: number(0)? as usize,
                n_counted: number(1)? as usize,
                loss: f64::from_bits(number(2)?),
                has_dense: dense.iter().map(|&has| has == 1).collect(),
                has_rows: rows.iter().map(|&has| has == 1).collect(),
            })
        };
        let differ = |rank| RanksError::Differ { what: "the summary of the gradients", rank };
        all.iter().enumerate().map(|(rank, bytes)| read(bytes).ok_or_else(|| differ(rank).into())).collect()
    }
}
