//! A cross-entropy that is to be computed.

use candle_core::{DType, Tensor};

use super::job::GROUPS;
use super::parts::{Counted, HeadTable};
use crate::error::Result;

/// What is to be computed, all checked: `hidden` `[N, C]` and `table` `[V, C]` of one type on one device.
#[derive(Clone, Debug)]
pub(crate) struct CrossEntropy<'a> {
    pub(super) hidden: Tensor,
    pub(super) table: HeadTable<'a>,
    pub(super) vocab_size: usize,
    pub(super) counted: &'a [Counted],
    pub(super) scale: f64,
    pub(super) chunk_rows: usize,
}

/// How many logits a chunk holds unless its rows are given: 64 MB in f32. Fewer cost a pass over the table's gradient
/// more often, more do not pay.
const CHUNK_LOGITS: usize = 16 << 20;

impl<'a> CrossEntropy<'a> {
    /// `scale` times the sum of the losses of the rows `counted`.
    pub(crate) fn new(
        hidden: &Tensor,
        table: HeadTable<'a>,
        counted: &'a [Counted],
        scale: f64,
        chunk_rows: Option<usize>,
    ) -> Result<Self> {
        let (_, n_embd) = hidden.dims2()?;
        let (table, vocab_size) = match table {
            HeadTable::Dense(table) => (HeadTable::Dense(table.detach().contiguous()?), table.dim(0)?),
            HeadTable::Stored(stored) => (table, stored.n_rows),
        };
        // As many partial gradients of the hidden states as logits, at most.
        let width = vocab_size.max(GROUPS * n_embd);
        let most = chunk_rows.unwrap_or((CHUNK_LOGITS / width).clamp(16, 2048)).max(1);
        // Chunks of the same size, so that the last one is no sliver.
        let n_chunks = counted.len().div_ceil(most).max(1);
        let chunk_rows = counted.len().div_ceil(n_chunks).max(1);
        let hidden = hidden.detach().contiguous()?;
        Ok(Self { hidden, table, vocab_size, counted, scale, chunk_rows })
    }

    /// The type that is computed in.
    pub(super) fn real(&self) -> DType {
        if self.hidden.dtype() == DType::F64 { DType::F64 } else { DType::F32 }
    }
}
