//! The rows of a table, as bytes.

use std::ops::Range;

use super::kind::Kind;

/// Rows of one length, at equal distances.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Rows<'a> {
    bytes: &'a [u8],
    pub(super) n_rows: usize,
    pub(super) row_bytes: usize,
    pub(super) stride: usize,
}

impl<'a> Rows<'a> {
    /// Takes `n_rows` rows of `row_bytes`, `stride` bytes apart, from the start of `bytes` on. `None` if they do not end
    /// inside.
    pub(in super::super) fn new(bytes: &'a [u8], n_rows: usize, row_bytes: usize, stride: usize) -> Option<Self> {
        let end = n_rows.checked_sub(1)?.checked_mul(stride)?.checked_add(row_bytes)?;
        (end <= bytes.len()).then_some(Self { bytes, n_rows, row_bytes, stride })
    }

    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> &'a [u8] {
        &self.bytes[row * self.stride..][..self.row_bytes]
    }

    /// Returns rows `rows`, and asks for the rows behind them if `ahead`.
    pub(super) fn chunk(&self, rows: Range<usize>) -> Chunk<'a> {
        let ahead = (rows.end < self.n_rows).then_some(rows.len() * self.stride);
        Chunk { rows: *self, first: rows.start, n_rows: rows.len(), ahead, turn: (0, 1) }
    }
}

/// Some rows of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk<'a> {
    rows: Rows<'a>,
    first: usize,
    pub(super) n_rows: usize,
    /// How many bytes behind each row is another, which is to be prefetched. `None` at the end of the table.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only vector code prefetches"))]
    pub(super) ahead: Option<usize>,
    /// If the chunk is used several times, each use prefetches its share: one of so many units.
    pub(super) turn: (usize, usize),
}

impl<'a> Chunk<'a> {
    /// Returns `R` rows from `first` on. Behind the end the last one is repeated.
    #[inline(always)]
    pub(super) fn some<const R: usize>(&self, first: usize) -> [&'a [u8]; R] {
        std::array::from_fn(|row| self.rows.row(self.first + (first + row).min(self.n_rows - 1)))
    }

    /// Returns how many units of a row are whole, and whether there is one more.
    #[inline(always)]
    pub(super) fn units<K: Kind>(&self) -> (usize, bool) {
        (self.rows.row_bytes / K::UNIT_BYTES, !K::IS_WHOLE && !self.rows.row_bytes.is_multiple_of(K::UNIT_BYTES))
    }
}

/// Some rows of a weight, cut to some columns.
pub(super) struct Block<'a> {
    pub(super) rows: Rows<'a>,
    pub(super) taken: Range<usize>,
    pub(super) columns: Range<usize>,
    /// What to prefetch meanwhile: rows, from this byte of each, so many bytes.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only vector code prefetches"))]
    pub(super) next: (Range<usize>, usize, usize),
}

impl<'a> Block<'a> {
    /// Returns the bytes of a row from one of the block's columns on.
    #[inline(always)]
    pub(super) fn row<K: Kind>(&self, row: usize, column: usize) -> &'a [u8] {
        let size = K::UNIT_BYTES / K::UNIT;
        &self.rows.row(row)[(self.columns.start + column) * size..self.columns.end * size]
    }
}

/// Room for a unit of any kind.
pub(super) const LAST: usize = 256;

/// Returns the last unit of a row, filled up with zeros.
#[inline(always)]
pub(super) fn last<K: Kind>(row: &[u8]) -> [u8; LAST] {
    const { assert!(K::UNIT_BYTES <= LAST) };
    let mut unit = [0; LAST];
    let rest = &row[row.len() / K::UNIT_BYTES * K::UNIT_BYTES..];
    unit[..rest.len()].copy_from_slice(rest);
    unit
}
