//! Shared by both optimizers: parameters, their settings and their state.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use candle_core::{DType, Tensor, TensorId, Var};
use candle_nn::ParamsAdamW;

use super::adam_state::AdamState;
use super::{ParamGroup, RowGrad};
use crate::error::{OptimError, Result};
use crate::kernel::{AdamStep, Gradient, Kept, Moments, copy_of, memory_of, prepare, sum_of_squares, zeros_like};
use crate::memory::counted;

/// The complete settings of a group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) lr_scale: f64,
    pub(super) beta1: f64,
    pub(super) beta2: f64,
    pub(super) eps: f64,
    pub(super) weight_decay: f64,
}

/// One parameter.
#[derive(Debug)]
pub(super) struct Param {
    pub(super) name: String,
    pub(super) var: Var,
    /// Index of its group.
    pub(super) group: usize,
    /// Rows that no step changes: ascending, disjoint.
    pub(super) frozen: Vec<Range<usize>>,
    /// `None` before the first step.
    pub(super) state: Option<AdamState>,
}

/// A parameter that has a gradient in this step.
pub(super) struct Job<'a> {
    pub(super) param: usize,
    pub(super) dense: Option<Tensor>,
    pub(super) rows: Option<&'a RowGrad>,
    kept_rows: Kept,
    kept_frozen: Kept,
}

impl Job<'_> {
    pub(super) fn gradient<'a>(&'a self, frozen: &'a [Range<usize>]) -> Gradient<'a> {
        let rows = self.rows.map(|rows| rows.batch(&self.kept_rows));
        Gradient { dense: self.dense.as_ref(), rows, frozen, kept: &self.kept_frozen }
    }
}

#[derive(Debug)]
pub(super) struct Params {
    pub(super) learning_rate: f64,
    pub(super) groups: Vec<Settings>,
    pub(super) params: Vec<Param>,
    pub(super) index: HashMap<TensorId, usize>,
}

impl Params {
    pub(super) fn new(groups: impl IntoIterator<Item = ParamGroup>, defaults: &ParamsAdamW) -> Result<Self> {
        let &ParamsAdamW { lr, beta1, beta2, eps, weight_decay } = defaults;
        let defaults = Settings { lr_scale: 1.0, beta1, beta2, eps, weight_decay };
        defaults.validate()?;
        let (mut settings, mut params) = (Vec::new(), Vec::<Param>::new());
        let (mut index, mut names) = (HashMap::new(), HashMap::new());
        for (group_index, group) in groups.into_iter().enumerate() {
            let (beta1, beta2) = group.betas.unwrap_or((defaults.beta1, defaults.beta2));
            let of_group = Settings {
                lr_scale: group.lr_scale.unwrap_or(defaults.lr_scale),
                beta1,
                beta2,
                eps: group.eps.unwrap_or(defaults.eps),
                weight_decay: group.weight_decay.unwrap_or(defaults.weight_decay),
            };
            of_group.validate()?;
            settings.push(of_group);
            for (name, var) in group.vars {
                let dtype = var.dtype();
                if !matches!(dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16) {
                    return Err(OptimError::UnsupportedDType { name, dtype }.into());
                }
                counted("a variable", var.dims(), dtype.size_in_bytes())?;
                if let Some(first) = index.insert(var.id(), params.len()) {
                    let first = params[first].name.clone();
                    return Err(OptimError::DuplicateVar { first, second: name }.into());
                }
                if names.insert(name.clone(), ()).is_some() {
                    return Err(OptimError::DuplicateName { name }.into());
                }
                params.push(Param { name, var, group: group_index, frozen: Vec::new(), state: None });
            }
        }
        let all = Self { learning_rate: lr, groups: settings, params, index };
        all.check_learning_rate()?;
        Ok(all)
    }

    /// Returns the same parameters and settings with a copy of the state.
    pub(super) fn try_clone(&self) -> Result<Self> {
        let mut all = self.without_state();
        for (copy, param) in all.params.iter_mut().zip(&self.params) {
            if let Some(AdamState { step, exp_avg, exp_avg_sq }) = &param.state {
                let (exp_avg, exp_avg_sq) = (copy_of(exp_avg)?, copy_of(exp_avg_sq)?);
                copy.state = Some(AdamState { step: *step, exp_avg, exp_avg_sq });
            }
        }
        Ok(all)
    }

    /// Returns the same parameters and settings, as before the first step.
    pub(super) fn without_state(&self) -> Self {
        let fresh = |Param { name, var, group, frozen, .. }: &Param| Param {
            name: name.clone(),
            var: var.clone(),
            group: *group,
            frozen: frozen.clone(),
            state: None,
        };
        let params = self.params.iter().map(fresh).collect();
        Self { learning_rate: self.learning_rate, groups: self.groups.clone(), params, index: self.index.clone() }
    }

    pub(super) fn check_learning_rate(&self) -> Result<(), OptimError> {
        in_range("learning_rate", self.learning_rate, 0.0..=f64::MAX, "a finite number of at least 0")
    }

    pub(super) fn index_of(&self, var: &Var) -> Result<usize, OptimError> {
        let unknown = || OptimError::UnknownVar { shape: var.shape().clone(), n_params: self.params.len() };
        self.index.get(&var.id()).copied().ok_or_else(unknown)
    }

    pub(super) fn state_of(&self, var: &Var) -> Option<&AdamState> {
        self.index_of(var).ok().and_then(|index| self.params[index].state.as_ref())
    }

    /// Returns the names of the parameters that have made no step.
    pub(super) fn without_step(&self) -> Vec<&str> {
        let has_none = |param: &&Param| param.state.as_ref().is_none_or(|state| state.step == 0);
        self.params.iter().filter(has_none).map(|param| param.name.as_str()).collect()
    }

    /// Returns the parameters that have a gradient, in their own order; every gradient is checked and contiguous.
    pub(super) fn jobs<'a>(
        &self,
        grad_of: impl Fn(&Var) -> Option<Tensor>,
        rows: &'a [RowGrad],
    ) -> Result<Vec<Job<'a>>> {
        let mut rows_of = BTreeMap::new();
        for rows in rows {
            let index = self.index_of(rows.var())?;
            if rows_of.insert(index, rows).is_some() {
                return Err(OptimError::RepeatedRows { name: self.params[index].name.clone() }.into());
            }
        }
        let (mut jobs, written) = (Vec::new(), self.written());
        let apart = |param: &Param, grad: &Tensor| match written.get(&memory_of(grad)) {
            Some((part, of)) => {
                let with = format!("{part}`{}`", of.name);
                Err(OptimError::SharedGradient { name: param.name.clone(), with })
            }
            None => Ok(()),
        };
        for (index, param) in self.params.iter().enumerate() {
            let rows = rows_of.get(&index).copied();
            if let Some(rows) = rows {
                apart(param, &rows.rows)?;
            }
            let dense = match grad_of(&param.var) {
                Some(grad) => {
                    let grad = check_gradient(&param.name, &param.var, &grad)?;
                    apart(param, &grad)?;
                    Some(grad)
                }
                None => None,
            };
            if dense.is_some() || rows.is_some() {
                let (kept_rows, kept_frozen) = (Kept::default(), Kept::default());
                jobs.push(Job { param: index, dense, rows, kept_rows, kept_frozen });
            }
        }
        Ok(jobs)
    }

    /// Returns the memories that a step writes: of which parameter, and of which part of it.
    fn written(&self) -> HashMap<usize, (&'static str, &Param)> {
        let mut written = HashMap::with_capacity(3 * self.params.len());
        for param in &self.params {
            written.insert(memory_of(&param.var), ("", param));
            if let Some(AdamState { exp_avg, exp_avg_sq, .. }) = &param.state {
                written.insert(memory_of(exp_avg), ("exp_avg of ", param));
                written.insert(memory_of(exp_avg_sq), ("exp_avg_sq of ", param));
            }
        }
        written
    }

    /// Returns the square root of the sum of the squares of all gradients, summed in the order of the jobs.
    pub(super) fn grad_norm<'a>(&'a self, jobs: &'a [Job]) -> Result<f64> {
        let gradient = |job: &'a Job| {
            let param = &self.params[job.param];
            (param.var.as_tensor(), job.gradient(&param.frozen))
        };
        let gradients: Vec<_> = jobs.iter().map(gradient).collect();
        Ok(sum_of_squares(&gradients)?.sqrt())
    }

    /// Gives every parameter of `jobs` a state of zeros, if it has none yet.
    pub(super) fn ensure_states(&mut self, jobs: &[Job]) -> Result<()> {
        for job in jobs {
            let param = &mut self.params[job.param];
            if param.state.is_none() {
                let zeros = || zeros_like(&param.var);
                param.state = Some(AdamState { step: 0, exp_avg: zeros()?, exp_avg_sq: zeros()? });
            }
        }
        Ok(())
    }

    /// Calls `update` with the tensors, gradient and settings of each parameter of `jobs`, and counts its step.
    ///
    /// If one fails, those before it have made their steps, and are counted.
    pub(super) fn step(
        &mut self,
        jobs: &[Job],
        grad_scale: f64,
        update: impl Fn(Moments, Gradient, &AdamStep) -> candle_core::Result<()>,
    ) -> Result<()> {
        for job in jobs {
            let param = &self.params[job.param];
            prepare(&param.var, job.gradient(&param.frozen))?;
        }
        for job in jobs {
            let Param { var, group, frozen, state, .. } = &mut self.params[job.param];
            let (settings, Some(state)) = (&self.groups[*group], state) else { continue };
            let step = AdamStep {
                learning_rate: self.learning_rate * settings.lr_scale,
                beta1: settings.beta1,
                beta2: settings.beta2,
                eps: settings.eps,
                weight_decay: settings.weight_decay,
                step: state.step + 1,
                grad_scale,
            };
            let moments = Moments { param: var, exp_avg: &state.exp_avg, exp_avg_sq: &state.exp_avg_sq };
            update(moments, job.gradient(frozen), &step)?;
            state.step = step.step;
        }
        Ok(())
    }
}

impl Settings {
    pub(super) fn validate(&self) -> Result<(), OptimError> {
        const BETA: &str = "at least 0 and below 1";
        const FINITE: &str = "a finite number of at least 0";
        in_range("lr_scale", self.lr_scale, 0.0..=f64::MAX, FINITE)?;
        in_range("beta1", self.beta1, 0.0..1.0, BETA)?;
        in_range("beta2", self.beta2, 0.0..1.0, BETA)?;
        in_range("eps", self.eps, 0.0..=f64::MAX, FINITE)?;
        in_range("weight_decay", self.weight_decay, 0.0..=f64::MAX, FINITE)
    }
}

pub(super) fn in_range(
    name: &'static str,
    value: f64,
    range: impl std::ops::RangeBounds<f64>,
    expected: &'static str,
) -> Result<(), OptimError> {
    if range.contains(&value) { Ok(()) } else { Err(OptimError::OutOfRange { name, value, expected }) }
}

/// Checks that a gradient has its variable's shape, dtype and device; returns it contiguous.
pub(super) fn check_gradient(name: &str, var: &Var, grad: &Tensor) -> Result<Tensor> {
    let differs = |property, got: String, expected: String| OptimError::Gradient {
        name: name.to_string(),
        property,
        got,
        expected,
    };
    if grad.shape() != var.shape() {
        return Err(differs("shape", format!("{:?}", grad.shape()), format!("{:?}", var.shape())).into());
    }
    if grad.dtype() != var.dtype() {
        return Err(differs("dtype", format!("{:?}", grad.dtype()), format!("{:?}", var.dtype())).into());
    }
    if !grad.device().same_device(var.device()) {
        let location = |tensor: &Tensor| format!("{:?}", tensor.device().location());
        return Err(differs("device", location(grad), location(var)).into());
    }
    Ok(grad.contiguous()?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn a_step_that_fails_is_not_counted() -> Result<()> {
        let vars = [Var::zeros(3, DType::F32, &Device::Cpu)?, Var::ones(3, DType::F32, &Device::Cpu)?];
        let named = [("first", vars[0].clone()), ("second", vars[1].clone())];
        let mut params = Params::new([ParamGroup::new(named)], &ParamsAdamW::default())?;
        let jobs = params.jobs(|var| var.ones_like().ok(), &[])?;
        params.ensure_states(&jobs)?;
        let of_second = memory_of(&vars[1]);
        let error = params.step(&jobs, 1.0, |moments, _, step| {
            assert_eq!(step.step, 1);
            if memory_of(moments.param) == of_second { candle_core::bail!("no memory") } else { Ok(()) }
        });
        // A backtrace follows where the environment asks for one.
        assert!(error.is_err_and(|error| error.to_string().starts_with("no memory")));
        let steps: Vec<_> = vars.iter().map(|var| params.state_of(var).map(|state| state.step)).collect();
        assert_eq!(steps, [Some(1), Some(0)]);
        assert_eq!(params.without_step(), ["second"]);
        Ok(())
    }
}
