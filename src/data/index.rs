//! [`DocumentIndex`]: where documents begin, read from the indices of Megatron's files.

use std::ops::Range;
use std::sync::Arc;

use memmap2::Mmap;

/// The index of one file of ids. It has been checked: the arrays lie inside the map.
#[derive(Debug)]
pub(super) struct IndexPart {
    pub(super) map: Arc<Mmap>,
    /// The first byte of the `i64` offsets, one for each sequence, in bytes of the file of ids.
    pub(super) offsets_at: usize,
    /// The first byte of the `i64` sequence numbers at which documents begin, and a last one where the last ends.
    pub(super) documents_at: usize,
    pub(super) n_sequences: usize,
    pub(super) n_documents: usize,
    pub(super) id_bytes: usize,
    pub(super) n_ids: usize,
}

impl IndexPart {
    /// Returns the number of ids before document `number`; of a file that was changed meanwhile, some number up to
    /// `n_ids`.
    fn border(&self, number: usize) -> usize {
        let sequence = self.integer(self.documents_at, number);
        match sequence < self.n_sequences {
            true => (self.integer(self.offsets_at, sequence) / self.id_bytes).min(self.n_ids),
            false => self.n_ids,
        }
    }

    /// Returns an integer of an array, which need not be aligned.
    fn integer(&self, at: usize, number: usize) -> usize {
        let start = at.saturating_add(number.saturating_mul(8));
        let bytes = self.map.get(start..).and_then(|bytes| bytes.first_chunk());
        bytes.and_then(|bytes| usize::try_from(i64::from_le_bytes(*bytes)).ok()).unwrap_or(usize::MAX)
    }
}

/// The indices of several files, one after the other.
#[derive(Debug)]
pub(super) struct DocumentIndex {
    parts: Vec<IndexPart>,
    /// The numbers of documents and of ids before each file, and in all.
    before: Vec<(usize, usize)>,
}

impl DocumentIndex {
    pub(super) fn new(parts: Vec<IndexPart>) -> Self {
        let mut before = vec![(0, 0)];
        let mut sums = (0, 0);
        for part in &parts {
            sums = (sums.0 + part.n_documents, sums.1 + part.n_ids);
            before.push(sums);
        }
        Self { parts, before }
    }

    pub(super) fn n_documents(&self) -> usize {
        self.before.last().map_or(0, |(n_documents, _)| *n_documents)
    }

    /// Returns where the ids of a document, which must exist, lie.
    pub(super) fn range(&self, number: usize) -> Range<usize> {
        let file = self.before.partition_point(|(n_documents, _)| *n_documents <= number).saturating_sub(1);
        let (first, n_before) = self.before[file];
        let Some(part) = self.parts.get(file) else { return n_before..n_before };
        let start = part.border(number - first);
        n_before + start..n_before + part.border(number - first + 1).max(start)
    }
}
