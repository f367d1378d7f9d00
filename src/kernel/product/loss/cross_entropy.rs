//! The inputs of a cross-entropy.

use candle_core::{DType, Tensor};

use super::job::GROUPS;
use super::parts::{Counted, HeadTable};
use super::split::Split;
use crate::error::Result;

/// The inputs, all checked: `hidden` `[N, C]`, `table` `[V, C]` and `bias` `[V]` of one dtype on one device. With a
/// `split`, those of this rank; `counted` is of all ranks.
#[derive(Clone, Debug)]
pub(crate) struct CrossEntropy<'a> {
    pub(super) hidden: Tensor,
    pub(super) table: HeadTable,
    pub(super) bias: Option<Tensor>,
    /// Of the whole table.
    pub(super) vocab_size: usize,
    /// Of this table.
    pub(super) n_table_rows: usize,
    pub(super) counted: &'a [Counted],
    pub(super) scale: f64,
    pub(super) chunk_rows: usize,
    pub(super) split: Option<Split<'a>>,
}

/// How many logits a chunk holds unless its rows are given: 64 MB in f32. Smaller chunks pass over the table's gradient
/// more often; larger ones are not faster.
const CHUNK_LOGITS: usize = 16 << 20;

impl<'a> CrossEntropy<'a> {
    /// Prepares `scale` times the sum of the losses of the rows `counted`.
    pub(crate) fn new(
        hidden: &Tensor,
        (table, bias): (HeadTable, Option<&Tensor>),
        counted: &'a [Counted],
        scale: f64,
        chunk_rows: Option<usize>,
        split: Option<Split<'a>>,
    ) -> Result<Self> {
        let (_, n_embd) = hidden.dims2()?;
        let (table, n_table_rows) = match table {
            HeadTable::Dense(table) => (HeadTable::Dense(table.detach().contiguous()?), table.dim(0)?),
            HeadTable::Stored(ref stored) => {
                let n_rows = stored.n_rows;
                (table, n_rows)
            }
        };
        let vocab_size = split.map_or(n_table_rows, |split| split.vocab_size);
        let bias = bias.map(|bias| bias.detach().contiguous()).transpose()?;
        // At most as many partial gradients of the hidden states as logits.
        let width = vocab_size.max(GROUPS * n_embd);
        let most = chunk_rows.unwrap_or((CHUNK_LOGITS / width).clamp(16, 2048)).max(1);
        // Chunks of the same size, so that the last one is not tiny.
        let n_chunks = counted.len().div_ceil(most).max(1);
        let chunk_rows = counted.len().div_ceil(n_chunks).max(1);
        let hidden = hidden.detach().contiguous()?;
        Ok(Self { hidden, table, bias, vocab_size, n_table_rows, counted, scale, chunk_rows, split })
    }

    /// Returns the dtype of the arithmetic.
    pub(super) fn real(&self) -> DType {
        if self.hidden.dtype() == DType::F64 { DType::F64 } else { DType::F32 }
    }
}
