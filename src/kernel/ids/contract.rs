//! Which ids a table takes, and the errors for others.

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
use crate::memory::fits;

/// Dimensions that a note has room for: `MAX_RANK` of gather_add.cu. Ids of higher rank are checked at once.
pub(crate) const MAX_RANK: usize = 8;

/// The table that ids index. A bad id is reported as that table's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    Tokens,
    Positions,
}

impl Table {
    pub(crate) fn ids(self) -> &'static str {
        match self {
            Self::Tokens => "input_ids",
            Self::Positions => "position_ids",
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tokens => "wte",
            Self::Positions => "wpe",
        }
    }
}

/// Returns the error for an id that is not in `0..n_rows`.
pub(crate) fn outside(table: Table, id: i64, at: Vec<usize>, n_rows: usize) -> Error {
    match table {
        Table::Tokens => Error::TokenOutOfRange { id, at, vocab_size: n_rows },
        Table::Positions => Error::PositionOutOfRange { position: id, at, n_positions: n_rows },
    }
}

/// Returns the values of an integer tensor as `i64`, in logical order.
pub(crate) fn to_host(ids: &Tensor, what: &'static str) -> Result<Vec<i64>> {
    if !matches!(ids.dtype(), DType::U8 | DType::U32 | DType::I64) {
        return Err(Error::IdDType { what, got: ids.dtype() });
    }
    fits(what, ids.dims(), size_of::<i64>())?;
    let flat = ids.flatten_all()?.contiguous()?.to_device(&Device::Cpu)?;
    Ok(flat.to_dtype(DType::I64)?.to_vec1()?)
}

/// Returns the index of element `flat` of a tensor of shape `dims`, one entry per dimension.
pub(crate) fn unravel(mut flat: usize, dims: &[usize]) -> Vec<usize> {
    let mut at = vec![0; dims.len()];
    for (axis, &dim) in dims.iter().enumerate().rev() {
        at[axis] = flat % dim;
        flat /= dim;
    }
    at
}
