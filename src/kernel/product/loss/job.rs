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
    /// `[rows, n_embd]`: the rows of `groups`.
    pub(super) table: &'a dyn WideRows<T>,
    /// `[rows]`
    pub(super) bias: Option<&'a [T]>,
    pub(super) n_rows: usize,
    pub(super) n_embd: usize,
    /// Of the whole table.
    pub(super) vocab_size: usize,
    /// The groups of blocks that this pass has: all, or a rank's share.
    pub(super) groups: Range<usize>,
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

    pub(super) fn n_groups(self) -> usize {
        self.count.div_ceil(self.per_group)
    }

    /// Returns the blocks of some groups.
    pub(super) fn of_groups(self, groups: &Range<usize>) -> Range<usize> {
        (groups.start * self.per_group).min(self.count)..(groups.end * self.per_group).min(self.count)
    }
}

impl<T: Real> Job<'_, T> {
    pub(super) fn blocks(&self) -> Blocks {
        Blocks::new(self.vocab_size)
    }

    /// Returns the blocks of this pass.
    pub(super) fn own_blocks(&self) -> Range<usize> {
        self.blocks().of_groups(&self.groups)
    }

    /// Returns the rows of the whole table that this pass has.
    pub(super) fn own_rows(&self) -> Range<usize> {
        let (own, len) = (self.own_blocks(), self.blocks().len);
        (own.start * len).min(self.vocab_size)..(own.end * len).min(self.vocab_size)
    }

    /// Returns block `index` of the table: the index of its first row, how many rows it has, and their values.
    pub(super) fn block<'s>(&'s self, index: usize, scratch: &'s mut Vec<T>) -> (usize, usize, &'s [T]) {
        let len = self.blocks().len;
        let first = index * len;
        let n = len.min(self.vocab_size - first);
        let at = first - self.own_rows().start;
        (first, n, self.table.rows(at..at + n, scratch))
    }

    /// Copies rows that count next to each other.
    pub(super) fn pack(&self, counted: Range<usize>) -> Vec<T> {
        let c = self.n_embd;
        let (mut rows, mut scratch) = (Vec::with_capacity(counted.len() * c), Vec::new());
        for &Counted { row, .. } in &self.counted[counted] {
            rows.extend_from_slice(self.hidden.rows(row..row + 1, &mut scratch));
        }
        rows
    }

    /// Writes rows that count where they came from.
    pub(super) fn unpack(&self, counted: Range<usize>, rows: &[T], out: &mut [T]) {
        let c = self.n_embd;
        for (row, counted) in rows.chunks(c).zip(&self.counted[counted]) {
            out[counted.row * c..][..c].copy_from_slice(row);
        }
    }
}
