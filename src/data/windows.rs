//! [`Windows`]: overlapping or adjacent pieces of a text, found on demand.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Ids, Tokens};
use crate::error::{ConfigError, DataError, Error, Result};

/// Says what happens to the targets after the last whole window of a document: `drop` or `keep`.
///
/// ```
/// use candle_gpt_input::data::{Tail, Tokens, Windows};
///
/// let tokens = Tokens::new(vec![1, 2, 3, 4, 5]);
/// assert_eq!(Windows::new(&tokens, 3, 3, "drop".parse()?)?.n_windows(), 1);
/// assert_eq!(Windows::new(&tokens, 3, 3, Tail::Keep)?.n_windows(), 2); // the second has one target, 5
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
#[doc(alias = "pad_last")]
pub enum Tail {
    /// They are left out, as the book's `GPTDatasetV1` does.
    #[default]
    Drop,
    /// They form one more, shorter window; a batch pads it on the right and masks the padding out of the loss.
    Keep,
}

impl fmt::Display for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drop => "drop",
            Self::Keep => "keep",
        })
    }
}

impl FromStr for Tail {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(ConfigError::one_of("tail", [Self::Drop, Self::Keep], "drop or keep", text)?)
    }
}

/// Holds one window: its input, and its targets one token later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window<'a> {
    /// The input ids and the last target: at least two ids.
    pub(super) ids: Ids<'a>,
    /// The place of the first id in the buffer.
    pub(super) start: usize,
}

impl<'a> Window<'a> {
    /// Returns the model's input: `max_length` ids, or fewer in a tail that is kept.
    #[must_use]
    pub fn input_ids(&self) -> Ids<'a> {
        self.ids.slice(0..self.len())
    }

    /// Returns the target of each input: the next token.
    #[must_use]
    #[doc(alias = "labels")]
    pub fn target_ids(&self) -> Ids<'a> {
        self.ids.slice(1..self.ids.len())
    }

    /// Returns the number of input ids, which is that of targets.
    pub(super) fn len(&self) -> usize {
        self.ids.len() - 1
    }
}

/// Finds the windows of a text as the book's `GPTDatasetV1` does, without copying any.
///
/// In a document of `n` tokens, window `j` starts at token `j · stride` and has `max_length` inputs; its targets are
/// the same piece one token later. There are `ceil((n - max_length) / stride)` windows, those with all their targets:
/// one for each of `range(0, n - max_length, stride)`, and none if `n <= max_length`. [`Tail::Keep`] adds the next,
/// shorter window, if it has a target that no window before it has.
///
/// So each token of a document but the first is a target
/// - at least once, with `stride <= max_length` and [`Tail::Keep`] (exactly once if they are equal);
/// - never in the gaps of `stride - max_length` tokens between windows, with `stride > max_length`.
///
/// ```
/// use candle_gpt_input::data::{Tail, Tokens, Windows};
///
/// let tokens = Tokens::new((0..11).collect());
/// let windows = Windows::new(&tokens, 4, 4, Tail::Drop)?;
/// assert_eq!(windows.n_windows(), 2); // ceil((11 - 4) / 4)
/// let window = windows.get(1).unwrap();
/// assert_eq!(window.input_ids(), [4, 5, 6, 7]);
/// assert_eq!(window.target_ids(), [5, 6, 7, 8]);
///
/// let windows = Windows::new(&tokens, 4, 4, Tail::Keep)?;
/// let window = windows.get(2).unwrap();
/// assert_eq!(window.input_ids(), [8, 9]);
/// assert_eq!(window.target_ids(), [9, 10]);
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
#[doc(alias = "Dataset", alias = "GPTDatasetV1")]
pub struct Windows {
    tokens: Tokens,
    max_length: usize,
    stride: usize,
    tail: Tail,
    /// Whether all documents are cut as one.
    crosses: bool,
    /// The number of windows up to the end of each document, or of the one of all.
    ends: Arc<[usize]>,
}

impl Windows {
    /// Finds windows of `max_length` tokens, each of which starts `stride` tokens after the one before.
    ///
    /// # Errors
    /// [`DataError::Zero`] if `max_length` or `stride` is 0, [`DataError::TooShort`] if there is no window.
    pub fn new(tokens: &Tokens, max_length: usize, stride: usize, tail: Tail) -> Result<Self> {
        Self::of_texts(tokens, max_length, stride, tail, false)
    }

    /// Finds windows as [`new`](Self::new) does, but in all documents one behind the other, as if they were one.
    ///
    /// ```
    /// use candle_gpt_input::data::{Tail, Tokens, Windows};
    ///
    /// let tokens = Tokens::from_documents([[1, 2, 3], [4, 5, 6]]);
    /// let windows = Windows::across(&tokens, 2, 2, Tail::Drop)?;
    /// assert_eq!(windows.n_windows(), 2); // ceil((6 - 2) / 2)
    /// assert_eq!(windows.get(1).unwrap().input_ids(), [3, 4]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn across(tokens: &Tokens, max_length: usize, stride: usize, tail: Tail) -> Result<Self> {
        Self::of_texts(tokens, max_length, stride, tail, true)
    }

    fn of_texts(tokens: &Tokens, max_length: usize, stride: usize, tail: Tail, crosses: bool) -> Result<Self> {
        for (name, value) in [("max_length", max_length), ("stride", stride)] {
            if value == 0 {
                return Err(DataError::Zero { name }.into());
            }
        }
        let n_texts = if crosses { 1 } else { tokens.n_documents() };
        let length = |text: usize| if crosses { tokens.n_tokens() } else { tokens.document_range(text).len() };
        let counts = (0..n_texts).map(|text| count(length(text), max_length, stride, tail));
        let ends: Arc<[usize]> = counts
            .scan(0, |end, n_windows| {
                *end += n_windows;
                Some(*end)
            })
            .collect();
        if ends.last().is_none_or(|&n_windows| n_windows == 0) {
            let (n_documents, n_tokens) = (n_texts, (0..n_texts).map(length).max().unwrap_or(0));
            let n_needed = match tail {
                Tail::Drop => max_length.saturating_add(1),
                Tail::Keep => 2,
            };
            return Err(DataError::TooShort { max_length, n_needed, n_documents, n_tokens }.into());
        }
        Ok(Self { tokens: tokens.clone(), max_length, stride, tail, crosses, ends })
    }

    /// Returns the number of windows, `len(dataset)`.
    #[must_use]
    #[doc(alias = "len")]
    pub fn n_windows(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Returns window `number`, counting through all documents; `None` from [`n_windows`](Self::n_windows) on.
    #[must_use]
    pub fn get(&self, number: usize) -> Option<Window<'_>> {
        (number < self.n_windows()).then(|| self.window(number))
    }

    /// Returns a window, which must exist.
    pub(super) fn window(&self, number: usize) -> Window<'_> {
        let range = self.range(number);
        Window { start: range.start, ids: self.tokens.ids_at(range) }
    }

    /// Holds the largest id of a window against the vocabulary of a mapped corpus.
    pub(super) fn check(&self, window: &Window<'_>, largest: u32) -> Result<()> {
        self.tokens.check_largest(largest, window.start..window.start + window.ids.len())
    }

    /// Asks the system to read a window, which must exist, from its files.
    pub(super) fn read_ahead(&self, number: usize) {
        self.tokens.read_ahead(self.range(number));
    }

    /// Returns where the input ids and the last target of a window, which must exist, lie.
    fn range(&self, number: usize) -> Range<usize> {
        let document = self.ends.partition_point(|&end| end <= number);
        let first = document.checked_sub(1).map_or(0, |before| self.ends[before]);
        let ids = if self.crosses { self.tokens.range() } else { self.tokens.document_range(document) };
        let start = ids.start + (number - first) * self.stride;
        start..start.saturating_add(self.max_length).saturating_add(1).min(ids.end)
    }

    /// Iterates over the ends of documents inside a window, after which another of its ids follows.
    pub(super) fn ends_in(&self, window: &Window<'_>) -> impl Iterator<Item = usize> {
        let (start, n_ids) = (window.start, window.ids.len());
        let ends = self.tokens.ends_after(start).map(move |end| end - start).take_while(move |&end| end < n_ids);
        let mut last = 0;
        ends.filter(move |&end| std::mem::replace(&mut last, end) != end) // empty documents end where another does
    }

    /// Returns the text.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Returns the number of input tokens of a whole window.
    #[must_use]
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Returns the number of tokens from the start of one window to the start of the next.
    #[must_use]
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Returns what happens to the targets after the last whole window.
    #[must_use]
    pub fn tail(&self) -> Tail {
        self.tail
    }
}

/// Counts the windows of a document of `n_tokens`.
fn count(n_tokens: usize, max_length: usize, stride: usize, tail: Tail) -> usize {
    let n_whole = n_tokens.saturating_sub(max_length).div_ceil(stride);
    let next_start = n_whole.saturating_mul(stride);
    let last_target = n_whole.checked_sub(1).map_or(0, |before| before * stride + max_length);
    // The next window has new targets if tokens follow both its start and the last target so far.
    let tail_has_targets = next_start.max(last_target).saturating_add(1) < n_tokens;
    n_whole + usize::from(tail == Tail::Keep && tail_has_targets)
}
