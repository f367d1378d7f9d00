//! [`Tokens`]: the ids of one or more documents.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::documents::{Borders, Documents};
use super::ids::{IdBuffer, Ids};
use super::mapped::MappedIds;
use crate::error::{CorpusError, DataError, Error, Result};

/// How many ids a thread checks at a time.
const PIECE_IDS: usize = 1 << 20;

/// Holds the token ids of one or more documents, in a buffer that all clones and splits share.
///
/// No window crosses from one split into the other, nor, unless [`Boundaries`](super::Boundaries) say so, from one
/// document into the next.
///
/// ```
/// use candle_gpt_input::data::Tokens;
///
/// let tokens = Tokens::from_documents([vec![1, 2, 3, 4, 5, 6], vec![7, 8, 9, 10]]);
/// let (train, validation) = tokens.split(0.5)?; // 5 of 10 tokens: the first document is cut
/// assert_eq!(train.documents().collect::<Vec<_>>(), [[1, 2, 3, 4, 5]]);
/// assert_eq!(validation.documents().collect::<Vec<_>>(), [vec![6], vec![7, 8, 9, 10]]);
///
/// let (train, _) = tokens.split_documents(0.5)?; // the border nearest to half the tokens
/// assert_eq!(train.documents().collect::<Vec<_>>(), [[1, 2, 3, 4, 5, 6]]);
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone)]
#[must_use]
#[doc(alias = "corpus", alias = "token_ids")]
pub struct Tokens {
    ids: Arc<IdBuffer>,
    documents: Documents,
    /// The size of the vocabulary that ids are held against when a batch takes them.
    vocab_size: Option<usize>,
}

impl Tokens {
    /// Holds one document, such as the result of `Tokenizer::encode`; uses 16 bits for each id if all are below 65536.
    pub fn new(ids: Vec<u32>) -> Self {
        Self::of_buffer(IdBuffer::new(ids))
    }

    fn of_buffer(ids: IdBuffer) -> Self {
        let documents = Documents::one(ids.n_ids());
        Self { ids: Arc::new(ids), documents, vocab_size: None }
    }

    /// Takes ids that stay in their files, and where documents begin and end among them.
    pub(super) fn of_files(ids: MappedIds, borders: Borders, vocab_size: Option<usize>) -> Self {
        let documents = Documents::new(borders, ids.n_ids());
        Self { ids: Arc::new(IdBuffer::Mapped(ids)), documents, vocab_size }
    }

    /// Copies several documents into one buffer.
    pub fn from_documents<D: AsRef<[u32]>>(documents: impl IntoIterator<Item = D>) -> Self {
        let mut ids = Vec::new();
        let mut borders = vec![0];
        for document in documents {
            ids.extend_from_slice(document.as_ref());
            borders.push(ids.len());
        }
        let documents = Documents::new(Borders::Held(borders.into()), ids.len());
        Self { ids: Arc::new(IdBuffer::new(ids)), documents, vocab_size: None }
    }

    /// Returns the number of tokens in all documents.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        self.documents.ids().len()
    }

    /// Returns the number of documents, including empty ones.
    #[must_use]
    pub fn n_documents(&self) -> usize {
        self.documents.len()
    }

    /// Iterates over the documents, in order.
    pub fn documents(&self) -> impl ExactSizeIterator<Item = Ids<'_>> {
        self.documents.iter().map(|range| self.ids.slice(range))
    }

    /// Returns the memory of the ids, including those of other splits.
    pub(super) fn n_bytes(&self) -> usize {
        self.ids.n_bytes()
    }

    /// Returns where a document, which must exist, lies among the ids of the buffer.
    pub(super) fn document_range(&self, number: usize) -> Range<usize> {
        self.documents.range(number)
    }

    /// Returns where all documents lie among the ids of the buffer.
    pub(super) fn range(&self) -> Range<usize> {
        self.documents.ids()
    }

    /// Iterates over the places in the buffer after `from` where documents end.
    pub(super) fn ends_after(&self, from: usize) -> impl Iterator<Item = usize> {
        self.documents.ends_after(from)
    }

    /// Returns ids by their place in the buffer, where documents lie one after the other.
    pub(super) fn ids_at(&self, range: Range<usize>) -> Ids<'_> {
        self.ids.slice(range)
    }

    /// Joins all documents into one, with `separator` (the end of text, or nothing) between them.
    ///
    /// Copies the ids, unless nothing is put between them.
    ///
    /// Windows of the result may cross from one document into the next.
    ///
    /// ```
    /// # use candle_gpt_input::data::Tokens;
    /// let joined = Tokens::from_documents([[1, 2], [3, 4]]).joined(&[50256]);
    /// assert_eq!(joined.documents().collect::<Vec<_>>(), [[1, 2, 50256, 3, 4]]);
    /// ```
    pub fn joined(&self, separator: &[u32]) -> Self {
        if separator.is_empty() {
            return Self { documents: self.documents.joined(), ..self.clone() };
        }
        let mut ids = Vec::with_capacity(self.n_tokens() + separator.len() * self.n_documents().saturating_sub(1));
        for (number, document) in self.documents().enumerate() {
            ids.extend_from_slice(if number == 0 { &[] } else { separator });
            document.append_to(&mut ids);
        }
        Self { vocab_size: self.vocab_size, ..Self::new(ids) }
    }

    /// Splits off the first `floor(fraction · n_tokens)` tokens; a document on the border is cut in two.
    ///
    /// The fraction counts tokens: 0.9 of the 5145 tokens of the book's text gives 4630 and 515. Chapter 5 cuts the
    /// *text* at 0.9 of its characters, and so a token in two: that gives 4612 and 534, 5146 in all.
    ///
    /// # Errors
    /// [`DataError::Fraction`] unless `fraction` is between 0 and 1.
    #[doc(alias = "random_split", alias = "train_test_split")]
    pub fn split(&self, fraction: f64) -> Result<(Self, Self)> {
        let (before, after) = self.documents.split_at(self.share(fraction)? as usize);
        Ok((self.part(before), self.part(after)))
    }

    /// Splits between two documents, at the border nearest to `fraction · n_tokens` (the earlier of two equally near
    /// ones).
    ///
    /// # Errors
    /// [`DataError::Fraction`] unless `fraction` is between 0 and 1.
    pub fn split_documents(&self, fraction: f64) -> Result<(Self, Self)> {
        let share = self.share(fraction)?;
        let (mut n_before, mut nearest, mut distance) = (0, 0, share);
        for (number, document) in self.documents.iter().enumerate() {
            n_before += document.len();
            let next = (n_before as f64 - share).abs();
            if next < distance {
                (nearest, distance) = (number + 1, next);
            }
        }
        let (before, after) = self.documents.split_between(nearest);
        Ok((self.part(before), self.part(after)))
    }

    /// Checks that all ids are below `vocab_size`, before training meets one that is not.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`] with the first such id; `at` counts through all documents. Of a mapped corpus,
    /// [`CorpusError::TokenOutOfRange`] with the file.
    pub fn check_ids(&self, vocab_size: usize) -> Result<()> {
        let ids = self.documents.ids();
        let starts: Vec<usize> = ids.clone().step_by(PIECE_IDS).collect();
        let checked = |&start: &usize| self.check_range(start..ids.end.min(start + PIECE_IDS), vocab_size);
        starts.par_iter().find_map_first(|start| checked(start).err()).map_or(Ok(()), Err)
    }

    /// Returns whether the ids stay in files.
    pub(super) fn are_mapped(&self) -> bool {
        matches!(*self.ids, IdBuffer::Mapped(_))
    }

    /// Asks the system to read a range of the buffer from its files.
    pub(super) fn read_ahead(&self, range: Range<usize>) {
        if let IdBuffer::Mapped(ids) = &*self.ids {
            ids.read_ahead(range);
        }
    }

    /// Holds the largest id of a range of the buffer against the vocabulary of a mapped corpus, if one was stated.
    pub(super) fn check_largest(&self, largest: u32, range: Range<usize>) -> Result<()> {
        let exceeded = self.vocab_size.filter(|&vocab_size| largest as usize >= vocab_size);
        exceeded.map_or(Ok(()), |vocab_size| self.check_range(range, vocab_size))
    }

    fn check_range(&self, range: Range<usize>, vocab_size: usize) -> Result<()> {
        let ids = self.ids.slice(range.clone());
        if ids.max().is_none_or(|id| (id as usize) < vocab_size) {
            return Ok(());
        }
        let Some((nth, id)) = ids.iter().enumerate().find(|(_, id)| *id as usize >= vocab_size) else { return Ok(()) };
        Err(match &*self.ids {
            IdBuffer::Mapped(files) => {
                let (segment, at) = files.place(range.start + nth);
                let path = segment.path.clone();
                CorpusError::TokenOutOfRange { path, id, at, vocab_size }.into()
            }
            _ => {
                let at = vec![range.start + nth - self.documents.ids().start];
                Error::TokenOutOfRange { id: id.into(), at, vocab_size }
            }
        })
    }

    fn share(&self, fraction: f64) -> Result<f64> {
        if !(0.0..=1.0).contains(&fraction) {
            return Err(DataError::Fraction { fraction }.into());
        }
        Ok(self.n_tokens() as f64 * fraction)
    }

    fn part(&self, documents: Documents) -> Self {
        Self { documents, ..self.clone() }
    }
}

impl Default for Tokens {
    /// Holds no documents.
    fn default() -> Self {
        Self::from_documents::<[u32; 0]>([])
    }
}

impl PartialEq for Tokens {
    /// Compares the ids of the documents.
    fn eq(&self, other: &Self) -> bool {
        self.documents().eq(other.documents())
    }
}

impl Eq for Tokens {}

impl FromIterator<u32> for Tokens {
    /// Holds one document of these ids.
    fn from_iter<I: IntoIterator<Item = u32>>(ids: I) -> Self {
        Self::new(ids.into_iter().collect())
    }
}

impl From<Vec<u32>> for Tokens {
    fn from(ids: Vec<u32>) -> Self {
        Self::new(ids)
    }
}

impl From<Vec<u16>> for Tokens {
    /// Holds one document of 16-bit ids, as in many token files, without a copy.
    fn from(ids: Vec<u16>) -> Self {
        Self::of_buffer(IdBuffer::Narrow(ids))
    }
}

impl From<&[u16]> for Tokens {
    /// Copies one document of 16-bit ids.
    fn from(ids: &[u16]) -> Self {
        ids.to_vec().into()
    }
}

impl TryFrom<&[i64]> for Tokens {
    type Error = Error;

    /// Copies one document of 64-bit ids, as PyTorch holds them; [`DataError::IdRange`] for one that does not fit
    /// `u32`.
    fn try_from(ids: &[i64]) -> Result<Self> {
        let narrow = |(at, &id)| u32::try_from(id).map_err(|_| DataError::IdRange { id, at });
        Ok(Self::new(ids.iter().enumerate().map(narrow).collect::<Result<_, _>>()?))
    }
}

impl fmt::Debug for Tokens {
    /// Leaves the ids out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Tokens");
        debug.field("n_tokens", &self.n_tokens()).field("n_documents", &self.n_documents()).finish_non_exhaustive()
    }
}
