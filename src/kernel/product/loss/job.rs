//! The operands of a fused pass, and how the vocabulary is cut.

use super::parts::Counted;
use super::real::{Real, widened};
use crate::kernel::core::element::Element;
use crate::rows::StoredRows;

/// Rows of the table in a block, about: a block of logits of a few hundred rows stays near the core.
const BLOCK: usize = 1024;
/// Groups of blocks: at most so many threads work on the gradients, and so many partial gradients of the hidden states
/// are kept.
pub(super) const GROUPS: usize = 16;

pub(super) struct Job<'a, S> {
    /// `[n_rows, n_embd]`
    pub(super) hidden: &'a [S],
    /// `[vocab_size, n_embd]`
    pub(super) table: Rows<'a, S>,
    pub(super) n_rows: usize,
    pub(super) n_embd: usize,
    pub(super) vocab_size: usize,
    pub(super) counted: &'a [Counted],
    pub(super) scale: f64,
    pub(super) chunk_rows: usize,
}

/// The rows of the table, which are widened block by block where they are not what sums are made of.
#[derive(Clone, Copy)]
pub(super) enum Rows<'a, S> {
    Values(&'a [S]),
    Stored(&'a StoredRows),
}

/// How the vocabulary is cut: `count` blocks of `len` rows of the table (the last one may be shorter), `per_group` to a
/// group.
#[derive(Clone, Copy)]
pub(super) struct Blocks {
    pub(super) len: usize,
    pub(super) count: usize,
    pub(super) per_group: usize,
}

impl Blocks {
    pub(super) fn new(vocab_size: usize) -> Self {
        let count = vocab_size.div_ceil(BLOCK);
        let per_group = count.div_ceil(GROUPS);
        let len = vocab_size.div_ceil(per_group * GROUPS.min(count));
        Self { len, count: vocab_size.div_ceil(len), per_group }
    }
}

impl<S: Element<Wide: Real>> Job<'_, S> {
    pub(super) fn blocks(&self) -> Blocks {
        Blocks::new(self.vocab_size)
    }

    /// Block `index` of the table: its first row's number, how many rows, and their values.
    pub(super) fn block<'s>(&'s self, index: usize, scratch: &'s mut Vec<S::Wide>) -> (usize, usize, &'s [S::Wide]) {
        let len = self.blocks().len;
        let first = index * len;
        let n = len.min(self.vocab_size - first);
        let values = match self.table {
            Rows::Values(values) => widened(&values[first * self.n_embd..][..n * self.n_embd], scratch),
            Rows::Stored(table) => {
                table.widen_rows::<S>(first, n, scratch);
                scratch
            }
        };
        (first, n, values)
    }
}
