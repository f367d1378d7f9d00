//! [`Ids`]: a piece of a text, as it is stored.

use std::fmt;
use std::iter::FusedIterator;
use std::ops::Range;
use std::slice;

use super::mapped::{MappedIds, Piece};
use crate::kernel;

/// The ids of a text, with 16 bits each if they all fit, as GPT-2's do: a batch then reads half as much memory.
pub(super) enum IdBuffer {
    Narrow(Vec<u16>),
    Wide(Vec<u32>),
    /// In files.
    Mapped(MappedIds),
}

impl IdBuffer {
    pub(super) fn new(ids: Vec<u32>) -> Self {
        match ids.iter().fold(0, |all, id| all | id) <= u16::MAX.into() {
            true => Self::Narrow(ids.into_iter().map(|id| id as u16).collect()),
            false => Self::Wide(ids),
        }
    }

    pub(super) fn n_ids(&self) -> usize {
        match self {
            Self::Narrow(ids) => ids.len(),
            Self::Wide(ids) => ids.len(),
            Self::Mapped(ids) => ids.n_ids(),
        }
    }

    pub(super) fn n_bytes(&self) -> usize {
        match self {
            Self::Narrow(ids) => size_of_val(&ids[..]),
            Self::Wide(ids) => size_of_val(&ids[..]),
            Self::Mapped(ids) => ids.n_bytes(),
        }
    }

    /// Returns the ids of a range, which must exist.
    #[inline]
    pub(super) fn slice(&self, range: Range<usize>) -> Ids<'_> {
        match self {
            Self::Narrow(ids) => Ids(Stored::Here(Piece::Narrow(&ids[range]))),
            Self::Wide(ids) => Ids(Stored::Here(Piece::Wide(&ids[range]))),
            Self::Mapped(ids) => Ids::of_files(ids, range),
        }
    }
}

/// Borrows a piece of a text from [`Tokens`](super::Tokens), which store ids in 16 bits if they all fit.
///
/// ```
/// use candle_gpt_input::data::Tokens;
///
/// let tokens = Tokens::new(vec![40, 367, 2885]);
/// let ids = tokens.documents().next().unwrap();
/// assert_eq!(ids, [40, 367, 2885]);
/// assert_eq!((ids.len(), ids.into_iter().max()), (3, Some(2885)));
/// ```
#[derive(Clone, Copy)]
pub struct Ids<'a>(Stored<'a>);

#[derive(Clone, Copy)]
enum Stored<'a> {
    /// Side by side.
    Here(Piece<'a>),
    /// In more than one file.
    Across { ids: &'a MappedIds, start: usize, end: usize },
}

impl<'a> Ids<'a> {
    #[inline]
    fn of_files(ids: &'a MappedIds, range: Range<usize>) -> Self {
        let first = ids.first_piece(range.clone());
        match first.len() == range.len() {
            true => Self(Stored::Here(first)),
            false => Self(Stored::Across { ids, start: range.start, end: range.end }),
        }
    }

    /// Returns the number of ids.
    #[must_use]
    pub fn len(&self) -> usize {
        match self.0 {
            Stored::Here(ids) => ids.len(),
            Stored::Across { start, end, .. } => end - start,
        }
    }

    /// Returns whether there are no ids.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Iterates over the ids.
    #[must_use]
    pub fn iter(&self) -> IdsIter<'a> {
        let rest = match self.0 {
            Stored::Here(ids) => return IdsIter::of(ids, None),
            Stored::Across { ids, start, end } => (ids, start..end),
        };
        IdsIter::of(Piece::Narrow(&[]), Some(rest))
    }

    /// Returns the pieces that lie side by side, in order.
    pub(super) fn pieces(&self) -> impl Iterator<Item = Piece<'a>> {
        let (here, mut rest) = match self.0 {
            Stored::Here(ids) => (Some(ids), None),
            Stored::Across { ids, start, end } => (None, Some((ids, start..end))),
        };
        here.into_iter().chain(std::iter::from_fn(move || take_piece(&mut rest)))
    }

    /// Copies the ids.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u32> {
        let mut ids = Vec::with_capacity(self.len());
        self.append_to(&mut ids);
        ids
    }

    /// Returns a part, which must lie inside.
    pub(super) fn slice(&self, range: Range<usize>) -> Self {
        match self.0 {
            Stored::Here(ids) => Self(Stored::Here(ids.slice(range))),
            Stored::Across { ids, start, .. } => Self::of_files(ids, start + range.start..start + range.end),
        }
    }

    /// Prefetches the ids into the cache, those in further files excepted.
    pub(super) fn prefetch(&self) {
        match self.0 {
            Stored::Here(Piece::Narrow(ids)) => kernel::prefetch(ids),
            Stored::Here(Piece::Wide(ids)) => kernel::prefetch(ids),
            Stored::Across { .. } => {}
        }
    }

    /// Copies the ids to the end of `to`. Returns the largest one, 0 without any.
    pub(super) fn append_to(&self, to: &mut Vec<u32>) -> u32 {
        let append = |largest: u32, piece| {
            largest.max(match piece {
                Piece::Narrow(ids) => kernel::extend_widened(to, ids),
                Piece::Wide(ids) => kernel::extend_widened(to, ids),
            })
        };
        self.pieces().fold(0, append)
    }

    /// Returns the largest id.
    pub(super) fn max(&self) -> Option<u32> {
        let largest = |piece| match piece {
            Piece::Narrow(ids) => ids.iter().copied().max().map(u32::from),
            Piece::Wide(ids) => ids.iter().copied().max(),
        };
        self.pieces().filter_map(largest).max()
    }
}

/// Takes the first piece from what remains of a range in several files.
fn take_piece<'a>(rest: &mut Option<(&'a MappedIds, Range<usize>)>) -> Option<Piece<'a>> {
    let (ids, range) = rest.as_mut().filter(|(_, range)| !range.is_empty())?;
    let piece = ids.first_piece(range.clone());
    range.start += piece.len();
    (piece.len() > 0).then_some(piece)
}

/// Iterates over [`Ids`].
#[derive(Clone)]
pub struct IdsIter<'a> {
    narrow: slice::Iter<'a, u16>,
    wide: slice::Iter<'a, u32>,
    rest: Option<(&'a MappedIds, Range<usize>)>,
}

impl<'a> IdsIter<'a> {
    fn of(piece: Piece<'a>, rest: Option<(&'a MappedIds, Range<usize>)>) -> Self {
        let (narrow, wide) = match piece {
            Piece::Narrow(ids) => (ids, &[][..]),
            Piece::Wide(ids) => (&[][..], ids),
        };
        Self { narrow: narrow.iter(), wide: wide.iter(), rest }
    }

    /// Goes on in the next file.
    #[cold]
    fn next_file(&mut self) -> Option<u32> {
        let piece = take_piece(&mut self.rest)?;
        *self = Self::of(piece, self.rest.take());
        self.next()
    }
}

impl Iterator for IdsIter<'_> {
    type Item = u32;

    #[inline]
    fn next(&mut self) -> Option<u32> {
        let here = self.narrow.next().map(|&id| u32::from(id)).or_else(|| self.wide.next().copied());
        if here.is_some() || self.rest.is_none() { here } else { self.next_file() }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let n_rest = self.rest.as_ref().map_or(0, |(_, range)| range.len());
        let n = self.narrow.len() + self.wide.len() + n_rest; // one of the first two is empty
        (n, Some(n))
    }
}

impl fmt::Debug for IdsIter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

impl ExactSizeIterator for IdsIter<'_> {}
impl FusedIterator for IdsIter<'_> {}

impl<'a> IntoIterator for Ids<'a> {
    type Item = u32;
    type IntoIter = IdsIter<'a>;

    fn into_iter(self) -> IdsIter<'a> {
        self.iter()
    }
}

impl PartialEq for Ids<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Ids<'_> {}

impl PartialEq<[u32]> for Ids<'_> {
    fn eq(&self, other: &[u32]) -> bool {
        self.iter().eq(other.iter().copied())
    }
}

impl PartialEq<&[u32]> for Ids<'_> {
    fn eq(&self, other: &&[u32]) -> bool {
        *self == **other
    }
}

impl<const N: usize> PartialEq<[u32; N]> for Ids<'_> {
    fn eq(&self, other: &[u32; N]) -> bool {
        *self == other[..]
    }
}

impl PartialEq<Vec<u32>> for Ids<'_> {
    fn eq(&self, other: &Vec<u32>) -> bool {
        *self == other[..]
    }
}

impl fmt::Debug for Ids<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
