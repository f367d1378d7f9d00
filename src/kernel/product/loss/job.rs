//! The operands of a fused pass, and how the vocabulary is cut.

use std::marker::PhantomData;
use std::ops::Range;

use super::parts::Counted;
use crate::kernel::core::element::Element;
use crate::kernel::product::real::Real;
use crate::rows::StoredRows;

/// About how many rows of the table a block has: its logits for a few hundred rows then stay near the core.
const BLOCK: usize = 1024;
/// Groups of blocks: at most this many threads work on the gradients, and at most this many partial gradients of the
/// hidden states are kept.
pub(super) const GROUPS: usize = 16;

/// A pass that computes in `T`, whatever the operands are stored as.
pub(super) struct Job<'a, T> {
    /// `[n_rows, n_embd]`
    pub(super) hidden: &'a dyn WideRows<T>,
    /// `[vocab_size, n_embd]`
    pub(super) table: &'a dyn WideRows<T>,
    /// `[vocab_size]`
    pub(super) bias: Option<&'a [T]>,
    pub(super) n_rows: usize,
    pub(super) n_embd: usize,
    pub(super) vocab_size: usize,
    pub(super) counted: &'a [Counted],
    pub(super) scale: f64,
    pub(super) chunk_rows: usize,
}

/// Rows in the type of the arithmetic: themselves, or exact copies in `scratch`.
pub(super) trait WideRows<T>: Sync {
    fn rows<'s>(&'s self, rows: Range<usize>, scratch: &'s mut Vec<T>) -> &'s [T];
}

/// Rows in memory, and their width.
pub(super) struct Values<'a, S>(pub(super) &'a [S], pub(super) usize);

impl<S: Element> WideRows<S::Wide> for Values<'_, S> {
    fn rows<'s>(&'s self, rows: Range<usize>, scratch: &'s mut Vec<S::Wide>) -> &'s [S::Wide] {
        let &Self(values, width) = self;
        let values = &values[rows.start * width..rows.end * width];
        S::as_wide(values).unwrap_or_else(|| {
            scratch.clear();
            scratch.extend(values.iter().map(|x| x.widen()));
            scratch
        })
    }
}

/// Stored rows, read as elements of `S`.
pub(super) struct Stored<'a, S>(pub(super) &'a StoredRows, pub(super) PhantomData<S>);

impl<S: Element> WideRows<S::Wide> for Stored<'_, S> {
    fn rows<'s>(&'s self, rows: Range<usize>, scratch: &'s mut Vec<S::Wide>) -> &'s [S::Wide] {
        self.0.widen_rows::<S>(rows.start, rows.len(), scratch);
        scratch
    }
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

impl<T: Real> Job<'_, T> {
    pub(super) fn blocks(&self) -> Blocks {
        Blocks::new(self.vocab_size)
    }

    /// Returns block `index` of the table: the index of its first row, how many rows it has, and their values.
    pub(super) fn block<'s>(&'s self, index: usize, scratch: &'s mut Vec<T>) -> (usize, usize, &'s [T]) {
        let len = self.blocks().len;
        let first = index * len;
        let n = len.min(self.vocab_size - first);
        (first, n, self.table.rows(first..first + n, scratch))
    }
}
