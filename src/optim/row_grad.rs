//! The gradient of some rows of a table, as a batch gives it.

use candle_core::{Tensor, Var};

use crate::error::{OptimError, Result};
use crate::kernel::{BatchRows, DenseTable, IdChecks, Kept, RowGroups, Table, dense_gradient};
use crate::memory::copy_fits;
use crate::shape::{rows_of_ids, same_device};

/// The gradient of a table `[V, C]` as one row for each id of a batch. The ids say which rows of the table they belong
/// to; rows of equal ids add up. No `[V, C]` tensor is ever made.
///
/// [`GptInputLayer::row_grads`](crate::GptInputLayer::row_grads) makes it, or [`RowGrad::new`] for any table.
#[doc(alias("sparse gradient", "sparse_coo_tensor"))]
#[derive(Clone, Debug)]
#[must_use = "a gradient does nothing until an optimizer steps with it"]
pub struct RowGrad {
    var: Var,
    groups: RowGroups,
    /// `[n_ids, C]`, contiguous.
    pub(super) rows: Tensor,
    /// The factor of the rows.
    pub(super) scale: f64,
}

impl RowGrad {
    /// Makes the gradient `rows` of the rows `ids` of a table.
    ///
    /// The ids are sorted here, once, on the host; contiguous rows are shared, not copied.
    ///
    /// ```
    /// use candle_core::{Device, Tensor, Var};
    /// use candle_gpt_input::optim::{AdamW, RowGrad};
    /// use candle_nn::{Optimizer, ParamsAdamW};
    ///
    /// let table = Var::new(&[[1f32], [2.], [3.]], &Device::Cpu)?;
    /// let ids = Tensor::new(&[2u32, 2], &Device::Cpu)?;
    /// let rows = Tensor::new(&[[0.5f32], [0.25]], &Device::Cpu)?; // 0.75 for row 2, 0 for the others
    /// let params = ParamsAdamW { lr: 0.5, weight_decay: 0.1, ..Default::default() };
    /// let mut adamw = AdamW::new(vec![table.clone()], params)?;
    /// adamw.step_with_rows(&Default::default(), &[RowGrad::new(&table, &ids, &rows)?])?;
    /// assert_eq!(format!("{:.2?}", table.to_vec2::<f32>()?), "[[0.95], [1.90], [2.35]]"); // every row decays
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Shapes
    /// - `ids`: `[..]`, `u8`, `u32` or `i64`, any stride, empty allowed
    /// - `rows`: `[.., C]`, any stride
    ///
    /// # Errors
    /// - [`Error::InvalidTable`](crate::Error::InvalidTable) if the variable is not a matrix of floating-point elements
    /// - [`Error::TokenOutOfRange`](crate::Error::TokenOutOfRange) if an id is not below V
    /// - [`Error::IdDType`](crate::Error::IdDType) if the ids are of another dtype
    /// - [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) if there is not a row of the table's width for each id
    /// - [`Error::TableMismatch`](crate::Error::TableMismatch) if the rows' dtype or device is not the table's
    pub fn new(var: &Var, ids: &Tensor, rows: &Tensor) -> Result<Self> {
        let table = DenseTable::from_tensor(var.as_tensor().clone(), Table::Tokens)?;
        let checked = table.check_as(ids, &IdChecks::on_host())?;
        Self::checked(&table, var.clone(), rows, ids.dims(), || Ok(RowGroups::from_ids(&checked.values()?, None)))
    }

    /// Makes the gradient from ids that are grouped already.
    pub(crate) fn checked(
        table: &DenseTable,
        var: Var,
        rows: &Tensor,
        ids_dims: &[usize],
        groups: impl FnOnce() -> Result<RowGroups>,
    ) -> Result<Self> {
        let (_, width) = table.dims();
        rows_of_ids("the gradient", (rows, table.outer_dims("the gradient", rows)?, width), ids_dims)?;
        same_device(("the gradient", rows.device()), ("its table", table.device()))?;
        copy_fits("the gradient", rows)?;
        let groups = groups()?;
        let rows = rows.detach().contiguous()?.reshape((groups.n_ids(), width))?;
        Ok(Self { var, groups, rows, scale: 1.0 })
    }

    /// Returns the table whose gradient this is.
    pub fn var(&self) -> &Var {
        &self.var
    }

    /// Returns how many rows of the table have a gradient.
    pub fn n_rows(&self) -> usize {
        self.groups.len()
    }

    /// Multiplies the gradient by `scale`. This costs nothing: the next step multiplies.
    pub fn with_scale(mut self, scale: f64) -> Self {
        self.scale *= scale;
        self
    }

    /// Returns the gradient as a whole table `[V, C]`, with zeros where no id points: one buffer of that size, in which
    /// only the batch's rows are written. Pass it to `GradStore::insert` for an optimizer without support for rows.
    ///
    /// ```
    /// # use candle_core::{Device, Tensor, Var};
    /// # use candle_gpt_input::optim::RowGrad;
    /// let table = Var::new(&[[1f32], [2.], [3.]], &Device::Cpu)?;
    /// let (ids, rows) = (Tensor::new(&[2u32, 2], &Device::Cpu)?, Tensor::new(&[[0.5f32], [0.25]], &Device::Cpu)?);
    /// assert_eq!(RowGrad::new(&table, &ids, &rows)?.to_dense()?.to_vec2::<f32>()?, [[0.], [0.], [0.75]]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Candle`](crate::Error::Candle) if the device has no memory for the table.
    pub fn to_dense(&self) -> Result<Tensor> {
        Ok(dense_gradient(&self.var, self.batch(&Kept::default()))?)
    }

    /// Returns the gradient of several batches of one table: as of one batch with all their ids, in this order. Their
    /// scales are 1.
    pub(super) fn union(parts: Vec<Self>) -> Result<Option<Self>> {
        let [first, others @ ..] = parts.as_slice() else { return Ok(None) };
        if others.is_empty() {
            return Ok(parts.into_iter().next());
        }
        let by_frequency = first.is_by_frequency();
        if others.iter().any(|part| part.is_by_frequency() != by_frequency) {
            return Err(OptimError::MixedRows { shape: first.var.shape().clone() }.into());
        }
        let ids = parts.iter().flat_map(Self::ids).collect::<Vec<_>>();
        let rows = parts.iter().map(|part| &part.rows).collect::<Vec<_>>();
        Ok(Some(Self::from_ids(&first.var, &ids, &Tensor::cat(&rows, 0)?, by_frequency)))
    }

    /// Makes a gradient of ids that are known to be inside their table, or -1 where there is none.
    pub(crate) fn from_ids(var: &Var, ids: &[i64], rows: &Tensor, by_frequency: bool) -> Self {
        let groups = RowGroups::again(ids).by_frequency(by_frequency);
        Self { var: var.clone(), groups, rows: rows.clone(), scale: 1.0 }
    }

    /// Returns the row of the table that each row of the gradient belongs to; -1 where it belongs to none.
    pub(super) fn ids(&self) -> Vec<i64> {
        self.groups.ids()
    }

    pub(super) fn is_by_frequency(&self) -> bool {
        self.groups.is_by_frequency()
    }

    /// Multiplies the rows by their scale, which is 1 then.
    pub(super) fn unscaled(mut self) -> Result<Self> {
        if self.scale != 1.0 {
            (self.rows, self.scale) = ((&self.rows * self.scale)?, 1.0);
        }
        Ok(self)
    }

    pub(super) fn batch<'a>(&'a self, kept: &'a Kept) -> BatchRows<'a> {
        BatchRows { groups: &self.groups, rows: &self.rows, scale: self.scale, kept }
    }
}

/// An optimizer that takes gradients of rows: [`AdamW`](super::AdamW) or [`RowAdamW`](super::RowAdamW).
pub trait RowOptimizer {
    /// Makes one step of the tables that `rows` belong to; other parameters do not change.
    ///
    /// # Errors
    /// [`OptimError`](crate::error::OptimError) if a table is not a parameter of the optimizer, or is given twice;
    /// nothing is changed then.
    fn step_rows(&mut self, rows: &[RowGrad]) -> Result<()>;
}
