//! [`Parts`]: what ranks send and receive.

use std::ops::Range;

/// Byte strings, one behind the other in memory: one for each rank.
///
/// ```
/// use candle_gpt_input::ranks::Parts;
///
/// let mut parts = Parts::default();
/// parts.push(b"ab");
/// parts.push(b"");
/// parts.push(b"cde");
/// assert_eq!((parts.len(), parts.get(2), parts.bytes()), (3, &b"cde"[..], &b"abcde"[..]));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Parts {
    /// Adds a part behind the others.
    pub fn push(&mut self, part: &[u8]) {
        self.bytes.extend_from_slice(part);
        self.ends.push(self.bytes.len());
    }

    /// Gives the parts these lengths; their number is that of the lengths. The bytes are unspecified until they are
    /// written through [`bytes_mut`](Self::bytes_mut).
    pub fn resize(&mut self, lengths: impl IntoIterator<Item = usize>) {
        self.ends.clear();
        let mut end = 0;
        for length in lengths {
            end += length;
            self.ends.push(end);
        }
        self.bytes.resize(end, 0);
    }

    /// Returns the number of parts.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns whether there are no parts.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns the part of rank `rank`, empty if there is none.
    pub fn get(&self, rank: usize) -> &[u8] {
        self.bytes.get(self.range(rank)).unwrap_or_default()
    }

    /// Returns where a part lies in [`bytes`](Self::bytes); at the end if there is none.
    pub fn range(&self, rank: usize) -> Range<usize> {
        let end = |part: usize| self.ends.get(part).copied().unwrap_or(self.bytes.len());
        rank.checked_sub(1).map_or(0, end)..end(rank)
    }

    /// Returns all parts, in the order of the ranks.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|rank| self.get(rank))
    }

    /// Returns the bytes of all parts, one part behind the other.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the bytes of all parts to write them.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl<P: AsRef<[u8]>> FromIterator<P> for Parts {
    fn from_iter<I: IntoIterator<Item = P>>(parts: I) -> Self {
        let mut all = Self::default();
        parts.into_iter().for_each(|part| all.push(part.as_ref()));
        all
    }
}
