//! [`MappedIds`]: ids that stay in their files.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use memmap2::Mmap;
use rayon::prelude::*;

use crate::files;

/// How many ids a thread searches at a time.
const PIECE_IDS: usize = 1 << 18;

/// Ids of one width that lie side by side in memory.
#[derive(Clone, Copy)]
pub(super) enum Piece<'a> {
    Narrow(&'a [u16]),
    Wide(&'a [u32]),
}

impl Piece<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Narrow(ids) => ids.len(),
            Self::Wide(ids) => ids.len(),
        }
    }

    /// Returns a part, which must lie inside.
    pub(super) fn slice(&self, range: Range<usize>) -> Self {
        match self {
            Self::Narrow(ids) => Self::Narrow(&ids[range]),
            Self::Wide(ids) => Self::Wide(&ids[range]),
        }
    }
}

/// The ids of one file.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    map: Arc<Mmap>,
    /// The first byte of the ids.
    start: usize,
    n_ids: usize,
    is_wide: bool,
}

impl Segment {
    /// Takes `n_ids` ids from byte `start` of a map on; `None` if they do not lie inside, or cannot be read in place.
    pub(super) fn new(path: PathBuf, map: Arc<Mmap>, start: usize, n_ids: usize, is_wide: bool) -> Option<Self> {
        let segment = Self { path, map, start, n_ids, is_wide };
        (segment.bytes().len() == n_ids.checked_mul(segment.id_bytes())?
            && segment.piece().is_some_and(|piece| piece.len() == n_ids))
        .then_some(segment)
    }

    pub(super) fn n_ids(&self) -> usize {
        self.n_ids
    }

    /// Returns the whole file.
    pub(super) fn file(&self) -> &[u8] {
        &self.map
    }

    /// Returns where a token occurs.
    pub(super) fn find(&self, token: u32) -> Vec<usize> {
        fn places<I: Copy + PartialEq + Sync>(ids: &[I], token: I) -> Vec<usize> {
            let pieces = ids.par_chunks(PIECE_IDS).enumerate();
            let in_piece = |(nth, piece): (usize, &[I])| -> Vec<usize> {
                let places = piece.iter().enumerate().filter(|(_, id)| **id == token);
                places.map(|(at, _)| nth * PIECE_IDS + at).collect()
            };
            pieces.map(in_piece).collect::<Vec<_>>().concat()
        }
        match (self.piece(), u16::try_from(token)) {
            (Some(Piece::Narrow(ids)), Ok(token)) => places(ids, token),
            (Some(Piece::Wide(ids)), _) => places(ids, token),
            _ => Vec::new(),
        }
    }

    fn id_bytes(&self) -> usize {
        if self.is_wide { 4 } else { 2 }
    }

    fn bytes(&self) -> &[u8] {
        let end = self.n_ids.saturating_mul(self.id_bytes()).saturating_add(self.start);
        self.map.get(self.start..end).unwrap_or_default()
    }

    fn piece(&self) -> Option<Piece<'_>> {
        match self.is_wide {
            false => files::as_u16(self.bytes()).map(Piece::Narrow),
            true => files::as_u32(self.bytes()).map(Piece::Wide),
        }
    }
}

/// The ids of several files, one after the other.
#[derive(Debug)]
pub(super) struct MappedIds {
    segments: Vec<Segment>,
    /// The number of ids up to the end of each file.
    ends: Vec<usize>,
}

impl MappedIds {
    pub(super) fn new(segments: Vec<Segment>) -> Self {
        let ends = segments.iter().scan(0, |end, segment| {
            *end += segment.n_ids;
            Some(*end)
        });
        let ends = ends.collect();
        Self { segments, ends }
    }

    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    pub(super) fn n_ids(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    pub(super) fn n_bytes(&self) -> usize {
        self.segments.iter().map(|segment| segment.bytes().len()).sum()
    }

    /// Returns the file of an id, which must exist, and the number of the id in it.
    pub(super) fn place(&self, at: usize) -> (&Segment, usize) {
        let number = self.ends.partition_point(|&end| end <= at);
        let segment = &self.segments[number];
        (segment, at - (self.ends[number] - segment.n_ids))
    }

    /// Asks the system to read a range, which must exist, as far as one file holds it. Advice may be ignored, and so may
    /// its failure.
    pub(super) fn read_ahead(&self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let (segment, first) = self.place(range.start);
        let n_ids = range.len().min(segment.n_ids - first);
        #[cfg(unix)]
        let _ = segment.map.advise_range(
            memmap2::Advice::WillNeed,
            segment.start + first * segment.id_bytes(),
            n_ids * segment.id_bytes(),
        );
        #[cfg(not(unix))]
        let _ = n_ids;
    }

    /// Returns the ids of a range, which must exist, as far as one file holds them: at least one, if the range has any.
    #[inline]
    pub(super) fn first_piece(&self, range: Range<usize>) -> Piece<'_> {
        if range.is_empty() {
            return Piece::Narrow(&[]);
        }
        let (segment, start) = self.place(range.start);
        let piece = segment.piece().unwrap_or(Piece::Narrow(&[])); // `Segment::new` has checked that there is one
        piece.slice(start..segment.n_ids.min(start + range.len()))
    }
}
