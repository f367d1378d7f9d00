//! [`Ids`]: a piece of a text, as it is stored.

use std::fmt;
use std::iter::FusedIterator;
use std::ops::Range;
use std::slice;

use crate::kernel;

/// The ids of a text, with 16 bits each if they all fit, as GPT-2's do: a batch then reads half as much memory.
pub(super) enum IdBuffer {
    Narrow(Vec<u16>),
    Wide(Vec<u32>),
}

impl IdBuffer {
    pub(super) fn new(ids: Vec<u32>) -> Self {
        match ids.iter().fold(0, |all, id| all | id) <= u16::MAX.into() {
            true => Self::Narrow(ids.into_iter().map(|id| id as u16).collect()),
            false => Self::Wide(ids),
        }
    }

    pub(super) fn n_bytes(&self) -> usize {
        match self {
            Self::Narrow(ids) => size_of_val(&ids[..]),
            Self::Wide(ids) => size_of_val(&ids[..]),
        }
    }

    pub(super) fn slice(&self, range: Range<usize>) -> Ids<'_> {
        match self {
            Self::Narrow(ids) => Ids(Stored::Narrow(&ids[range])),
            Self::Wide(ids) => Ids(Stored::Wide(&ids[range])),
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
    Narrow(&'a [u16]),
    Wide(&'a [u32]),
}

impl<'a> Ids<'a> {
    /// Returns the number of ids.
    #[must_use]
    pub fn len(&self) -> usize {
        match self.0 {
            Stored::Narrow(ids) => ids.len(),
            Stored::Wide(ids) => ids.len(),
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
        let (narrow, wide) = match self.0 {
            Stored::Narrow(ids) => (ids, &[][..]),
            Stored::Wide(ids) => (&[][..], ids),
        };
        IdsIter { narrow: narrow.iter(), wide: wide.iter() }
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
        Self(match self.0 {
            Stored::Narrow(ids) => Stored::Narrow(&ids[range]),
            Stored::Wide(ids) => Stored::Wide(&ids[range]),
        })
    }

    /// Prefetches the ids into the cache.
    pub(super) fn prefetch(&self) {
        match self.0 {
            Stored::Narrow(ids) => kernel::prefetch(ids),
            Stored::Wide(ids) => kernel::prefetch(ids),
        }
    }

    pub(super) fn append_to(&self, to: &mut Vec<u32>) {
        match self.0 {
            Stored::Narrow(ids) => kernel::extend_widened(to, ids),
            Stored::Wide(ids) => to.extend_from_slice(ids),
        }
    }
}

/// Iterates over [`Ids`].
#[derive(Clone, Debug)]
pub struct IdsIter<'a> {
    narrow: slice::Iter<'a, u16>,
    wide: slice::Iter<'a, u32>,
}

impl Iterator for IdsIter<'_> {
    type Item = u32;

    #[inline]
    fn next(&mut self) -> Option<u32> {
        self.narrow.next().map(|&id| u32::from(id)).or_else(|| self.wide.next().copied())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let n = self.narrow.len() + self.wide.len(); // one of them is empty
        (n, Some(n))
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
