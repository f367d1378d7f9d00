//! [`Documents`]: where documents begin and end among ids that lie one after the other.

use std::ops::Range;
use std::sync::Arc;

use super::index::DocumentIndex;

/// Where each document begins, and where the last ends.
#[derive(Clone, Debug)]
pub(super) enum Borders {
    /// One number more than documents, ascending.
    Held(Arc<[usize]>),
    /// In the indices of files.
    Indexed(Arc<DocumentIndex>),
}

impl Borders {
    fn n_documents(&self) -> usize {
        match self {
            Self::Held(borders) => borders.len().saturating_sub(1),
            Self::Indexed(index) => index.n_documents(),
        }
    }

    fn range(&self, number: usize) -> Range<usize> {
        match self {
            Self::Held(borders) => borders[number]..borders[number + 1],
            Self::Indexed(index) => index.range(number),
        }
    }
}

/// Consecutive documents, of which the first and the last may be cut.
#[derive(Clone, Debug)]
pub(super) struct Documents {
    borders: Borders,
    numbers: Range<usize>,
    ids: Range<usize>,
}

impl Documents {
    /// Takes all documents of `n_ids` ids.
    pub(super) fn new(borders: Borders, n_ids: usize) -> Self {
        let numbers = 0..borders.n_documents();
        Self { borders, numbers, ids: 0..n_ids }
    }

    /// Takes all ids as one document.
    pub(super) fn one(n_ids: usize) -> Self {
        Self::new(Borders::Held(Arc::new([0, n_ids])), n_ids)
    }

    /// Returns the same ids as one document.
    pub(super) fn joined(&self) -> Self {
        let Range { start, end } = self.ids;
        Self { borders: Borders::Held(Arc::new([start, end])), numbers: 0..1, ids: start..end }
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Returns where the ids of all documents lie.
    pub(super) fn ids(&self) -> Range<usize> {
        self.ids.clone()
    }

    /// Returns where the ids of a document, which must exist, lie.
    pub(super) fn range(&self, number: usize) -> Range<usize> {
        let Range { start, end } = self.borders.range(self.numbers.start + number);
        start.clamp(self.ids.start, self.ids.end)..end.clamp(self.ids.start, self.ids.end)
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = Range<usize>> {
        (0..self.len()).map(|number| self.range(number))
    }

    /// Returns the documents that have ids.
    fn without_empty(&self) -> Self {
        if self.iter().all(|range| !range.is_empty()) {
            return self.clone();
        }
        let starts = self.iter().filter(|range| !range.is_empty()).map(|range| range.start);
        let borders: Arc<[usize]> = starts.chain([self.ids.end]).collect();
        Self { numbers: 0..borders.len() - 1, borders: Borders::Held(borders), ids: self.ids.clone() }
    }

    /// Iterates over the ends of documents that lie after `from`.
    pub(super) fn ends_after(&self, from: usize) -> impl Iterator<Item = usize> {
        (self.first(|range| range.end > from)..self.len()).map(|number| self.range(number).end)
    }

    /// Splits off the first `n` ids, which must exist. A document on the border is cut in two; empty ones are left out.
    pub(super) fn split_at(&self, n: usize) -> (Self, Self) {
        let documents = self.without_empty();
        let middle = self.ids.start + n;
        let (n_begun, n_ended) =
            (documents.first(|range| range.start >= middle), documents.first(|range| range.end > middle));
        (
            documents.part(0..n_begun, documents.ids.start..middle),
            documents.part(n_ended..documents.len(), middle..documents.ids.end),
        )
    }

    /// Splits off the first `n` documents, which must exist.
    pub(super) fn split_between(&self, n: usize) -> (Self, Self) {
        let middle = if n < self.len() { self.range(n).start } else { self.ids.end };
        (self.part(0..n, self.ids.start..middle), self.part(n..self.len(), middle..self.ids.end))
    }

    fn part(&self, numbers: Range<usize>, ids: Range<usize>) -> Self {
        let first = self.numbers.start;
        Self { borders: self.borders.clone(), numbers: first + numbers.start..first + numbers.end, ids }
    }

    /// Returns the first document of which `is` holds; it must then hold of those that follow.
    fn first(&self, is: impl Fn(Range<usize>) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if is(self.range(middle)) { high = middle } else { low = middle + 1 }
        }
        low
    }
}
