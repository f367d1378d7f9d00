//! AdamW over all elements of all parameters.

use std::path::Path;

use candle_core::Var;
use candle_core::backprop::GradStore;
use candle_nn::{Optimizer, ParamsAdamW, VarMap};

use super::clip::coefficient;
use super::params::{Job, Params, in_range};
use super::{AdamState, ParamGroup, RowGrad, RowOptimizer, state};
use crate::error::Result;
use crate::kernel::adamw;

/// `torch.optim.AdamW(fused=True)`: one pass over parameter, gradient and state, in place and in parallel.
///
/// For each element with gradient g, at the parameter's step t (Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm
/// 2):
///
/// ```text
/// p ← p · (1 − lr·weight_decay)
/// m ← m + (1 − β₁)·(g − m)
/// v ← β₂·v + (1 − β₂)·g²
/// p ← p − lr/(1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + eps)
/// ```
///
/// f32 and f64 are computed in their own dtype. f16 and bf16 are computed in f32, with parameter and state rounded once
/// for each step, as in PyTorch. A parameter without a gradient is skipped, and its t does not count. The trait
/// ([`Optimizer`]) and the configuration are Candle's: this type replaces [`candle_nn::AdamW`].
///
/// ```
/// use candle_core::{Device, Var};
/// use candle_gpt_input::optim::AdamW;
/// use candle_nn::{Optimizer, ParamsAdamW};
///
/// let x = Var::new(&[1f32, -2.], &Device::Cpu)?;
/// let mut adamw = AdamW::new(vec![x.clone()], ParamsAdamW { lr: 0.5, weight_decay: 0.1, ..Default::default() })?;
/// adamw.backward_step(&x.sqr()?.sum_all()?)?; // decay by 5 %, then a step of 0.5 against the gradient's sign
/// assert_eq!(format!("{:.2?}", x.to_vec1::<f32>()?), "[0.45, -1.40]");
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[doc(alias("Adam", "torch.optim.AdamW"))]
#[derive(Debug)]
pub struct AdamW {
    pub(super) params: Params,
    max_grad_norm: Option<f64>,
    grad_norm: Option<f64>,
}

/// The name of this optimizer in a state file.
const ALGORITHM: &str = "AdamW";

impl AdamW {
    /// Makes an optimizer of groups of named parameters. A group takes from `defaults` what it does not set;
    /// [`ParamGroup`] has an example.
    ///
    /// # Errors
    /// [`OptimError`](crate::error::OptimError) for settings out of range, a name or a variable given twice, or a
    /// variable of integers.
    #[doc(alias = "param_groups")]
    pub fn with_groups(groups: impl IntoIterator<Item = ParamGroup>, defaults: ParamsAdamW) -> Result<Self> {
        Ok(Self { params: Params::new(groups, &defaults)?, max_grad_norm: None, grad_norm: None })
    }

    /// Takes all variables of a [`VarMap`] as one group, ordered by name.
    ///
    /// # Errors
    /// [`OptimError`](crate::error::OptimError) for settings out of range or a variable of integers.
    pub fn from_varmap(varmap: &VarMap, params: ParamsAdamW) -> Result<Self> {
        Self::with_groups([varmap.into()], params)
    }

    /// Takes `vars` as one group with the default settings.
    ///
    /// # Errors
    /// [`OptimError`](crate::error::OptimError) for a learning rate out of range, a variable given twice or of
    /// integers.
    pub fn new_lr(vars: Vec<Var>, learning_rate: f64) -> Result<Self> {
        Self::with_groups([vars.into()], ParamsAdamW { lr: learning_rate, ..Default::default() })
    }

    /// Clips the gradient to this global norm in every step from now on, as `torch.nn.utils.clip_grad_norm_` before
    /// each step would. `None` does not clip.
    ///
    /// All gradients are multiplied by `min(1, max_norm / (norm + 1e-6))` inside the step; only the norm takes another
    /// pass. It is summed in f64 (in PyTorch in the parameters' dtype), in the order of the parameters and without
    /// frozen rows. On a device the norm costs one synchronisation for each step.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use candle_gpt_input::optim::AdamW;
    /// use candle_nn::Optimizer;
    ///
    /// let x = Var::new(&[1.5f32, 2.], &Device::Cpu)?;
    /// let mut adamw = AdamW::new_lr(vec![x.clone()], 0.1)?;
    /// adamw.set_max_grad_norm(Some(1.0))?;
    /// adamw.backward_step(&x.sqr()?.sum_all()?)?; // the gradient is [3, 4], clipped to [0.6, 0.8]
    /// assert_eq!(adamw.grad_norm(), Some(5.0));
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`OptimError::OutOfRange`](crate::error::OptimError::OutOfRange) if it is negative or not a number.
    #[doc(alias = "clip_grad_norm_")]
    pub fn set_max_grad_norm(&mut self, max_norm: Option<f64>) -> Result<()> {
        if let Some(max_norm) = max_norm {
            in_range("max_grad_norm", max_norm, 0.0.., "at least 0")?;
        }
        self.max_grad_norm = max_norm;
        Ok(())
    }

    /// Returns the gradient's global norm in the last step, before clipping; `None` without clipping.
    pub fn grad_norm(&self) -> Option<f64> {
        self.grad_norm
    }

    /// Freezes rows of a table: gradient, decay and momentum leave every bit of them and of their state unchanged.
    ///
    /// Replaces the rows frozen in this table before. PyTorch cannot do this: zeroing a row's gradient leaves decay and
    /// momentum.
    ///
    /// ```
    /// # use candle_core::{DType, Device, Var};
    /// # use candle_gpt_input::optim::AdamW;
    /// // Train the rows added to a vocabulary of 50257, and no others.
    /// let wte = Var::zeros((50300, 4), DType::F32, &Device::Cpu)?;
    /// let mut adamw = AdamW::new_lr(vec![wte.clone()], 1e-3)?;
    /// adamw.freeze_rows(&wte, 0..50257)?;
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`OptimError`](crate::error::OptimError) if the variable is not a parameter or not a matrix, or has no such row.
    pub fn freeze_rows(&mut self, var: &Var, rows: impl IntoIterator<Item = usize>) -> Result<()> {
        self.params.freeze_rows(var, rows)
    }

    /// Replaces the table `old` by `new`, which has another number of rows, after
    /// [`GptInputLayer::resize_vocab`](crate::GptInputLayer::resize_vocab).
    ///
    /// For rows that both tables have, state and frozen rows stay the same bits. New rows begin with a state of zeros,
    /// at the step that the table has reached. If both are the same table, nothing changes.
    ///
    /// # Errors
    /// [`OptimError`](crate::error::OptimError) if `old` is not a parameter, `new` is one already, or they differ in
    /// width, dtype or device.
    pub fn resize_table(&mut self, old: &Var, new: &Var) -> Result<()> {
        self.params.resize_table(old, new)
    }

    /// Zeros the state of rows, for example after [`GptInputLayer::replace_rows`](crate::GptInputLayer::replace_rows).
    ///
    /// # Errors
    /// [`OptimError`](crate::error::OptimError) if the variable is not a parameter or not a matrix, or has no such row.
    pub fn reset_rows(&mut self, var: &Var, rows: impl IntoIterator<Item = usize>) -> Result<()> {
        self.params.reset_rows(var, rows)
    }

    /// Makes one step with the gradients of `grads` and gradients of rows.
    ///
    /// The result has the bits of `step` with whole tables of gradients, zero rows included. A table in both, such as a
    /// tied `wte` (the head's gradient in `grads`, the input's as rows), gets their sum, still in one pass.
    /// [`RowGrad::new`] has an example.
    ///
    /// # Errors
    /// [`OptimError`](crate::error::OptimError) for a gradient of another shape, dtype or device than its parameter,
    /// for a table that is not a parameter, or one that is given twice; nothing is changed then, nor if CUDA lacks memory.
    /// If a device fails during the step, the parameters before the one at fault have made and counted it.
    pub fn step_with_rows(&mut self, grads: &GradStore, rows: &[RowGrad]) -> Result<()> {
        let jobs = self.params.jobs(|var| grads.get(var).cloned(), rows)?;
        self.run(&jobs)
    }

    fn run(&mut self, jobs: &[Job]) -> Result<()> {
        let grad_scale = self.grad_scale(jobs)?;
        self.params.ensure_states(jobs)?;
        self.params.step(jobs, grad_scale, adamw)
    }

    /// Returns the factor of the gradients of a step; takes their norm, if it is limited.
    pub(super) fn grad_scale(&mut self, jobs: &[Job]) -> Result<f64> {
        self.params.check_learning_rate()?;
        self.grad_norm = match self.max_grad_norm {
            Some(_) => Some(self.params.grad_norm(jobs)?),
            None => None,
        };
        Ok(match (self.grad_norm, self.max_grad_norm) {
            (Some(norm), Some(max_norm)) => coefficient(norm, max_norm),
            _ => 1.0,
        })
    }

    /// Returns an optimizer of the same variables and settings, as before the first step.
    pub(super) fn without_state(&self) -> Self {
        Self { params: self.params.without_state(), max_grad_norm: self.max_grad_norm, grad_norm: self.grad_norm }
    }

    /// Returns an optimizer of the same variables with a copy of the state and of all settings.
    ///
    /// Steps of one leave the state of the other unchanged, so a copy can be saved in another thread.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use candle_gpt_input::optim::AdamW;
    /// use candle_nn::Optimizer;
    ///
    /// let x = Var::new(&[3f64], &Device::Cpu)?;
    /// let mut adamw = AdamW::new_lr(vec![x.clone()], 0.1)?;
    /// adamw.backward_step(&x.sum_all()?)?; // the gradient is 1, and beta1 is 0.9
    /// let copy = adamw.try_clone()?;
    /// adamw.backward_step(&x.sum_all()?)?;
    /// let exp_avg = |adamw: &AdamW| adamw.state(&x).unwrap().exp_avg.to_vec1::<f64>();
    /// assert_eq!(format!("{:.2?} {:.2?}", exp_avg(&copy)?, exp_avg(&adamw)?), "[0.10] [0.19]");
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Candle`](crate::Error::Candle) if the device has no memory for the copy.
    #[doc(alias = "deepcopy")]
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self { params: self.params.try_clone()?, max_grad_norm: self.max_grad_norm, grad_norm: self.grad_norm })
    }

    /// Returns the state of a parameter; `None` before its first step.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use candle_gpt_input::optim::AdamW;
    /// use candle_nn::Optimizer;
    ///
    /// let x = Var::new(&[3f64], &Device::Cpu)?;
    /// let mut adamw = AdamW::new_lr(vec![x.clone()], 0.1)?;
    /// assert!(adamw.state(&x).is_none());
    /// adamw.backward_step(&x.sum_all()?)?; // the gradient is 1, and beta1 is 0.9
    /// let state = adamw.state(&x).unwrap();
    /// assert_eq!((state.step, format!("{:.3?}", state.exp_avg.to_vec1::<f64>()?)), (1, "[0.100]".to_string()));
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    pub fn state(&self, var: &Var) -> Option<&AdamState> {
        self.params.state_of(var)
    }

    /// Returns the names of the parameters that no step has given a gradient yet.
    ///
    /// After the first step this should be empty, or name only what you froze: parameters without a gradient are skipped
    /// in silence, as in PyTorch. [`missing_gradients`](super::missing_gradients) says what may have cut it.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use candle_gpt_input::optim::{AdamW, ParamGroup};
    /// use candle_nn::{Optimizer, ParamsAdamW};
    ///
    /// let (x, y) = (Var::new(&[1f32], &Device::Cpu)?, Var::new(&[2f32], &Device::Cpu)?);
    /// let group = ParamGroup::new([("x", x.clone()), ("y", y)]);
    /// let mut adamw = AdamW::with_groups([group], ParamsAdamW::default())?;
    /// adamw.backward_step(&x.sqr()?.sum_all()?)?;
    /// assert_eq!(adamw.missing_gradients(), ["y"]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    pub fn missing_gradients(&self) -> Vec<&str> {
        self.params.without_step()
    }

    /// Writes the state to a safetensors file: `{name}.exp_avg` and `{name}.exp_avg_sq` for each parameter that has
    /// made a step. The metadata holds names, numbers of steps, all settings, the learning rate and frozen rows.
    ///
    /// The file appears whole or not at all, and is on disk when this returns. It does not hold the parameters
    /// themselves.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use candle_gpt_input::optim::AdamW;
    /// use candle_nn::Optimizer;
    ///
    /// let x = Var::new(&[3f32], &Device::Cpu)?;
    /// let mut adamw = AdamW::new_lr(vec![x.clone()], 0.1)?;
    /// adamw.backward_step(&x.sum_all()?)?;
    /// let folder = tempfile::tempdir()?;
    /// adamw.save(folder.path().join("optimizer.safetensors"))?;
    ///
    /// let mut resumed = AdamW::new_lr(vec![x.clone()], 0.5)?;
    /// resumed.load(folder.path().join("optimizer.safetensors"))?;
    /// assert_eq!((resumed.learning_rate(), resumed.state(&x).unwrap().step), (0.1, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`CheckpointError::Io`](crate::error::CheckpointError::Io), naming the path.
    #[doc(alias = "state_dict")]
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        state::save(path.as_ref(), ALGORITHM, &self.params, self.max_grad_norm)
    }

    /// Continues from a state written by [`save`](Self::save), with the settings of the file. With the parameters as
    /// they were then, the next steps have the bits of an uninterrupted run.
    ///
    /// # Errors
    /// [`OptimError`](crate::error::OptimError) or [`CheckpointError`](crate::error::CheckpointError) if the file is
    /// not the state of an optimizer of these names, shapes, dtypes and groups; nothing is changed then.
    #[doc(alias = "load_state_dict")]
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let (params, max_grad_norm) = state::load(path.as_ref(), ALGORITHM, &self.params)?;
        (self.params, self.max_grad_norm) = (params, max_grad_norm);
        Ok(())
    }
}

impl Optimizer for AdamW {
    type Config = ParamsAdamW;

    fn new(vars: Vec<Var>, params: ParamsAdamW) -> candle_core::Result<Self> {
        Ok(Self::with_groups([vars.into()], params)?)
    }

    fn step(&mut self, grads: &GradStore) -> candle_core::Result<()> {
        Ok(self.step_with_rows(grads, &[])?)
    }

    fn learning_rate(&self) -> f64 {
        self.params.learning_rate
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.params.learning_rate = learning_rate;
    }
}

impl RowOptimizer for AdamW {
    fn step_rows(&mut self, rows: &[RowGrad]) -> Result<()> {
        let jobs = self.params.jobs(|_| None, rows)?;
        self.run(&jobs)
    }
}
