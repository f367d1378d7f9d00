//! The inputs and outputs of a loss.

use candle_core::Tensor;

use crate::error::Result;
use crate::rows::StoredRows;

/// A row of the hidden states that counts (below N), and the token that it is to predict (below V).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Counted {
    pub(crate) row: usize,
    pub(crate) target: usize,
    /// The factor of its loss in the sum.
    pub(crate) weight: f64,
}

/// Which gradients are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) hidden: bool,
    pub(crate) table: bool,
    pub(crate) bias: bool,
}

impl Wanted {
    pub(super) fn any(self) -> bool {
        self.hidden || self.table || self.bias
    }
}

/// The table of the head, `[V, C]`: in memory, or converted while it is read.
#[derive(Clone, Debug)]
pub(crate) enum HeadTable {
    Dense(Tensor),
    Stored(StoredRows),
}

impl HeadTable {
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
    /// The losses of the rows that count, in their order, each without a factor.
    pub(crate) losses: Tensor,
    /// `[N, C]`, zero in rows that do not count.
    pub(crate) hidden_grad: Option<Tensor>,
    /// `[V, C]`
    pub(crate) table_grad: Option<Tensor>,
    /// `[V]`
    pub(crate) bias_grad: Option<Tensor>,
}
