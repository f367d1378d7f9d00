//! Rows of a table in memory, and the ids that select them.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, Layout};

use super::parallel::Outside;
use super::storage::inside;

/// Rows are prefetched this many bytes ahead: about what a core can have under way.
const BYTES_AHEAD: usize = 6 << 10;

/// A table of rows of `width` elements.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a, E> {
    pub(crate) values: &'a [E],
    pub(crate) width: usize,
}

impl<'a, E> Rows<'a, E> {
    #[inline(always)]
    pub(crate) fn get(&self, row: usize) -> Result<&'a [E], Outside> {
        let start = row.checked_mul(self.width).ok_or(Outside)?;
        self.values.get(start..).and_then(|rest| rest.get(..self.width)).ok_or(Outside)
    }

    /// Returns how many rows ahead to prefetch.
    pub(crate) fn n_ahead(&self) -> usize {
        (BYTES_AHEAD / (self.width * size_of::<E>()).max(1)).clamp(1, 64)
    }

    /// Returns a row to prefetch, or nothing if it is outside.
    #[inline(always)]
    pub(crate) fn next(&self, row: Result<usize, Outside>) -> &'a [E] {
        row.and_then(|row| self.get(row)).unwrap_or_default()
    }
}

/// Ids on the host, in any dtype of ids. The dtype is matched per row, so that no kernel is compiled once for each.
#[derive(Clone, Copy)]
pub(crate) enum Ids<'a> {
    U8(&'a [u8]),
    U32(&'a [u32]),
    I64(&'a [i64]),
}

impl<'a> Ids<'a> {
    #[inline(always)]
    pub(crate) fn new(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<Self> {
        match storage {
            CpuStorage::U8(ids) => Ok(Self::U8(inside(ids, layout)?)),
            CpuStorage::U32(ids) => Ok(Self::U32(inside(ids, layout)?)),
            CpuStorage::I64(ids) => Ok(Self::I64(inside(ids, layout)?)),
            other => Err(candle_core::Error::UnsupportedDTypeForOp(other.dtype(), "ids").bt()),
        }
    }

    pub(crate) fn len(self) -> usize {
        match self {
            Self::U8(ids) => ids.len(),
            Self::U32(ids) => ids.len(),
            Self::I64(ids) => ids.len(),
        }
    }

    /// Returns the row that id `n` selects.
    #[inline(always)]
    pub(crate) fn row(self, n: usize) -> Result<usize, Outside> {
        match self {
            Self::U8(ids) => ids.get(n).map(|&id| usize::from(id)),
            Self::U32(ids) => ids.get(n).map(|&id| id as usize),
            Self::I64(ids) => ids.get(n).map(|&id| row_of(id)),
        }
        .ok_or(Outside)
    }
}

/// Returns the row that an id selects. A negative id selects a row beyond every table.
pub(crate) fn row_of(id: i64) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}
