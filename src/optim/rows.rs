//! Changes to rows of a parameter: freezing them, zeroing their state, changing their number.

use std::collections::BTreeSet;
use std::ops::Range;

use candle_core::{Tensor, Var};

use super::adam_state::AdamState;
use super::params::Params;
use crate::error::{OptimError, Result};
use crate::kernel::zeros_like;

impl Params {
    pub(super) fn freeze_rows(&mut self, var: &Var, rows: impl IntoIterator<Item = usize>) -> Result<()> {
        let (index, rows) = self.rows_of(var, rows)?;
        let mut frozen: Vec<Range<usize>> = Vec::new();
        for row in rows {
            match frozen.last_mut() {
                Some(last) if row <= last.end => last.end = row + 1,
                _ => frozen.push(row..row + 1),
            }
        }
        self.params[index].frozen = frozen;
        Ok(())
    }

    /// Returns the index of the parameter `var`, a matrix, and its `rows` in ascending order.
    fn rows_of(&self, var: &Var, rows: impl IntoIterator<Item = usize>) -> Result<(usize, BTreeSet<usize>)> {
        let index = self.index_of(var)?;
        let name = || self.params[index].name.clone();
        let &[n_rows, _] = var.dims() else {
            return Err(OptimError::NotMatrix { name: name(), shape: var.shape().clone() }.into());
        };
        // The first row outside ends a range of any length.
        let inside =
            |row| if row < n_rows { Ok(row) } else { Err(OptimError::RowOutOfRange { name: name(), row, n_rows }) };
        Ok((index, rows.into_iter().map(inside).collect::<Result<_, _>>()?))
    }

    /// Zeros the state of some rows.
    pub(super) fn reset_rows(&mut self, var: &Var, rows: impl IntoIterator<Item = usize>) -> Result<()> {
        let (index, rows) = self.rows_of(var, rows)?;
        let Some(AdamState { exp_avg, exp_avg_sq, .. }) = &self.params[index].state else { return Ok(()) };
        for moment in [exp_avg, exp_avg_sq] {
            let zeros = moment.narrow(0, 0, 1)?.zeros_like()?;
            rows.iter().try_for_each(|&row| moment.slice_set(&zeros, 0, row))?;
        }
        Ok(())
    }

    /// Replaces the table `old` by `new`: rows that both have keep their state, and new rows get zeros.
    pub(super) fn resize_table(&mut self, old: &Var, new: &Var) -> Result<()> {
        let (index, _) = self.rows_of(old, [])?;
        if old.id() == new.id() {
            return Ok(());
        }
        let name = self.params[index].name.clone();
        if let Ok(other) = self.index_of(new) {
            return Err(OptimError::DuplicateVar { first: self.params[other].name.clone(), second: name }.into());
        }
        let &[n_rows, width] = new.dims() else {
            return Err(OptimError::NotMatrix { name, shape: new.shape().clone() }.into());
        };
        let (n_old, expected) = old.dims2()?;
        let device = |tensor: &Tensor| format!("{:?}", tensor.device().location());
        for (property, got, expected) in [
            ("width", width.to_string(), expected.to_string()),
            ("dtype", format!("{:?}", new.dtype()), format!("{:?}", old.dtype())),
            ("device", device(new), device(old)),
        ] {
            if got != expected {
                return Err(OptimError::Resized { name, property, got, expected }.into());
            }
        }
        let n_kept = n_old.min(n_rows);
        let param = &mut self.params[index];
        if let Some(AdamState { exp_avg, exp_avg_sq, .. }) = &mut param.state {
            let resized = |moment: &Tensor| -> Result<Tensor> {
                let zeros = zeros_like(new)?;
                zeros.slice_set(&moment.narrow(0, 0, n_kept)?, 0, 0)?;
                Ok(zeros)
            };
            (*exp_avg, *exp_avg_sq) = (resized(exp_avg)?, resized(exp_avg_sq)?);
        }
        param.frozen.iter_mut().for_each(|rows| *rows = rows.start.min(n_kept)..rows.end.min(n_kept));
        param.frozen.retain(|rows| !rows.is_empty());
        param.var = new.clone();
        self.index.remove(&old.id());
        self.index.insert(new.id(), index);
        Ok(())
    }
}
