//! Rows of a table in memory.

use super::element::Id;
use super::parallel::Outside;

/// Rows are asked from memory so many bytes before they are needed: what a core has under way at a time.
const BYTES_AHEAD: usize = 6 << 10;

/// A table of rows of `width` numbers.
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

    /// How many rows ahead the memory is asked.
    pub(crate) fn n_ahead(&self) -> usize {
        (BYTES_AHEAD / (self.width * size_of::<E>()).max(1)).clamp(1, 64)
    }

    /// A row that is read later, or nothing.
    #[inline(always)]
    pub(crate) fn next<I: Id>(&self, id: Option<&I>) -> &'a [E] {
        id.and_then(|id| self.get(id.row()).ok()).unwrap_or_default()
    }
}
