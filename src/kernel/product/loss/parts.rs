//! The inputs and outputs of a loss.

use candle_core::Tensor;

use crate::error::Result;
use crate::rows::StoredRows;

/// A row of the hidden states that counts (below N), and the token that it is to predict (below V).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) row: usize,
    pub(crate) target: usize,
}

/// Which gradients are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) hidden: bool,
    pub(crate) table: bool,
}

/// The table of the head, `[V, C]`: in memory, or converted while it is read.
#[derive(Clone, Debug)]
pub(crate) enum HeadTable<'a> {
    Dense(Tensor),
    Stored(&'a StoredRows),
}

impl HeadTable<'_> {
    /// Returns whether the table needs a gradient.
    pub(crate) fn is_tracked(&self) -> bool {
        matches!(self, Self::Dense(table) if table.track_op())
    }

    /// Returns all rows as one tensor with the dtype and device of `like`.
    pub(super) fn dense(&self, like: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(table) => Ok(table.clone()),
            Self::Stored(rows) => Ok(rows.to_tensor(like.dtype(), like.device())?),
        }
    }
}

/// The loss and the gradients that were wanted: f64 for f64 inputs, else f32, so that nothing is rounded to a half type
/// before the last factor is applied.
#[derive(Clone, Debug)]
pub(crate) struct LossParts {
    /// A scalar.
    pub(crate) loss: Tensor,
    /// `[N, C]`, zero in rows that do not count.
    pub(crate) hidden_grad: Option<Tensor>,
    /// `[V, C]`
    pub(crate) table_grad: Option<Tensor>,
}
