//! What a loss is asked for, and what comes out.

use candle_core::Tensor;

use crate::error::Result;
use crate::rows::StoredRows;

/// A row of the hidden states that counts, and the token that it is to predict: below N and V.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) row: usize,
    pub(crate) target: usize,
}

/// Which gradients are asked for.
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
    /// Whether a gradient of it is wanted.
    pub(crate) fn is_tracked(&self) -> bool {
        matches!(self, Self::Dense(table) if table.track_op())
    }

    /// All of its rows in one tensor of the dtype and on the device of `like`.
    pub(super) fn dense(&self, like: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(table) => Ok(table.clone()),
            Self::Stored(rows) => Ok(rows.to_tensor(like.dtype(), like.device())?),
        }
    }
}

/// The loss and the gradients that were asked for: f64 for f64 inputs, else f32, so that nothing is rounded to a half
/// type before the last factor is known.
#[derive(Clone, Debug)]
pub(crate) struct LossParts {
    /// A scalar.
    pub(crate) loss: Tensor,
    /// `[N, C]`, zero in rows that do not count.
    pub(crate) hidden_grad: Option<Tensor>,
    /// `[V, C]`
    pub(crate) table_grad: Option<Tensor>,
}
