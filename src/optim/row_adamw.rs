//! Adam over the rows of the batch.

use std::path::Path;

use candle_core::Var;
use candle_nn::ParamsAdamW;

use super::params::Params;
use super::{AdamState, ParamGroup, RowGrad, RowOptimizer, state};
use crate::error::Result;
use crate::kernel::row_adam;

/// `torch.optim.SparseAdam`: a step reads and writes only the rows of the batch, so its cost does not grow with the
/// vocabulary. The state of a row does not change while the row is not used.
///
/// For each row of the batch with gradient g (the sum over its occurrences), at the table's step t:
///
/// ```text
/// p ← p · (1 − lr·weight_decay)                    (not in PyTorch; 0 unless a group sets it)
/// m ← m + (g − m)·(1 − β₁)
/// v ← v + (g² − v)·(1 − β₂)
/// p ← p − lr·√(1 − β₂ᵗ)/(1 − β₁ᵗ) · m / (√v + eps)
/// ```
///
/// The step t counts all steps of the table, those without ids included. The decay is decoupled, and reaches a row only
/// in steps that use the row. f16 and bf16 are summed and computed in f32 and rounded once (PyTorch rounds after every
/// operation). The state covers all rows, but the system provides only pages that were written; a step allocates a row
/// or two for each thread.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use candle_gpt_input::optim::{RowAdamW, RowGrad, RowOptimizer};
///
/// let table = Var::new(&[[1f32], [2.], [3.]], &Device::Cpu)?;
/// let mut adam = RowAdamW::new(vec![table.clone()], 0.5)?;
/// let (ids, rows) = (Tensor::new(&[2u32], &Device::Cpu)?, Tensor::new(&[[7f32]], &Device::Cpu)?);
/// adam.step_rows(&[RowGrad::new(&table, &ids, &rows)?])?; // the first step has the length of the learning rate
/// assert_eq!(format!("{:.2?}", table.to_vec2::<f32>()?), "[[1.00], [2.00], [2.50]]");
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[doc(alias("SparseAdam", "torch.optim.SparseAdam", "lazy Adam"))]
#[derive(Debug)]
pub struct RowAdamW {
    params: Params,
}

/// The name of this optimizer in a state file.
const ALGORITHM: &str = "RowAdamW";

impl RowAdamW {
    /// Makes an optimizer of tables `[V, C]` with PyTorch's settings: betas 0.9 and 0.999, eps 1e-8, no decay.
    ///
    /// # Errors
    /// [`OptimError`](crate::error::OptimError) for a learning rate out of range, a variable given twice or of
    /// integers.
    pub fn new(tables: Vec<Var>, learning_rate: f64) -> Result<Self> {
        let defaults = ParamsAdamW { lr: learning_rate, weight_decay: 0.0, ..Default::default() };
        Self::with_groups([tables.into()], defaults)
    }

    /// Makes an optimizer of groups of named tables. A group takes from `defaults` what it does not set; note that
    /// [`ParamsAdamW::default`] decays.
    ///
    /// # Errors
    /// [`OptimError`](crate::error::OptimError) for settings out of range, a name or a variable given twice, or a
    /// variable of integers.
    #[doc(alias = "param_groups")]
    pub fn with_groups(groups: impl IntoIterator<Item = ParamGroup>, defaults: ParamsAdamW) -> Result<Self> {
        Ok(Self { params: Params::new(groups, &defaults)? })
    }

    /// Freezes rows of a table: gradient, decay and momentum leave every bit of them and of their state unchanged.
    /// Replaces the rows frozen in this table before.
    ///
    /// # Errors
    /// [`OptimError`](crate::error::OptimError) if the variable is not a parameter or not a matrix, or has no such row.
    pub fn freeze_rows(&mut self, table: &Var, rows: impl IntoIterator<Item = usize>) -> Result<()> {
        self.params.freeze_rows(table, rows)
    }

    /// Replaces the table `old` by `new`, which has another number of rows. Rows that both have keep their state; new
    /// rows begin with a state of zeros.
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
    pub fn reset_rows(&mut self, table: &Var, rows: impl IntoIterator<Item = usize>) -> Result<()> {
        self.params.reset_rows(table, rows)
    }

    /// Returns the learning rate, which each group multiplies by its `lr_scale`.
    pub fn learning_rate(&self) -> f64 {
        self.params.learning_rate
    }

    /// Sets the learning rate, which each group multiplies by its `lr_scale`; call it for a schedule.
    pub fn set_learning_rate(&mut self, learning_rate: f64) {
        self.params.learning_rate = learning_rate;
    }

    /// Returns an optimizer of the same tables with a copy of the state, as [`AdamW::try_clone`](super::AdamW::try_clone)
    /// does.
    ///
    /// # Errors
    /// [`Error::Candle`](crate::Error::Candle) if the device has no memory for the copy.
    #[doc(alias = "deepcopy")]
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self { params: self.params.try_clone()? })
    }

    /// Returns the state of a table; `None` before its first step.
    pub fn state(&self, table: &Var) -> Option<&AdamState> {
        self.params.state_of(table)
    }

    /// Writes the state to a safetensors file, in the format of [`AdamW::save`](super::AdamW::save).
    ///
    /// # Errors
    /// [`CheckpointError::Io`](crate::error::CheckpointError::Io), naming the path.
    #[doc(alias = "state_dict")]
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        state::save(path.as_ref(), ALGORITHM, &self.params, None)
    }

    /// Continues from a state written by [`save`](Self::save), with the settings of the file.
    ///
    /// # Errors
    /// [`OptimError`](crate::error::OptimError) or [`CheckpointError`](crate::error::CheckpointError) if the file is
    /// not the state of an optimizer of these names, shapes, dtypes and groups; nothing is changed then.
    #[doc(alias = "load_state_dict")]
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<()> {
        self.params = state::load(path.as_ref(), ALGORITHM, &self.params)?.0;
        Ok(())
    }
}

impl RowOptimizer for RowAdamW {
    fn step_rows(&mut self, rows: &[RowGrad]) -> Result<()> {
        let jobs = self.params.jobs(|_| None, rows)?;
        self.params.check_learning_rate()?;
        self.params.ensure_states(&jobs)?;
        self.params.step(&jobs, 1.0, row_adam)
    }
}
