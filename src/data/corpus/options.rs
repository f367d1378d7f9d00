//! [`CorpusOptions`]: what files of ids do not say themselves.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::config::builders;
use crate::error::{CorpusError, Error, Result};
#[cfg(feature = "tokenizer")]
use crate::tokenizer::Tokenizer;

/// Says how many bits an id has in a file: 16 or 32.
///
/// ```
/// use candle_gpt_input::data::corpus::IdBits;
///
/// assert_eq!("16".parse::<IdBits>()?, IdBits::Sixteen);
/// assert_eq!(IdBits::of_vocabulary(50257), IdBits::Sixteen);
/// assert_eq!(IdBits::of_vocabulary(128256).n_bytes(), 4);
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub enum IdBits {
    /// `u16`, as of GPT-2's vocabulary.
    Sixteen,
    /// `u32` or `i32`.
    ThirtyTwo,
}

impl IdBits {
    /// Returns the smaller width that holds all ids of a vocabulary.
    #[must_use]
    pub fn of_vocabulary(vocab_size: usize) -> Self {
        if vocab_size <= 1 << 16 { Self::Sixteen } else { Self::ThirtyTwo }
    }

    /// Returns how many bytes an id has.
    #[must_use]
    pub fn n_bytes(self) -> usize {
        match self {
            Self::Sixteen => 2,
            Self::ThirtyTwo => 4,
        }
    }
}

impl From<IdBits> for u32 {
    fn from(bits: IdBits) -> Self {
        match bits {
            IdBits::Sixteen => 16,
            IdBits::ThirtyTwo => 32,
        }
    }
}

impl TryFrom<u32> for IdBits {
    type Error = Error;

    fn try_from(bits: u32) -> Result<Self> {
        match bits {
            16 => Ok(Self::Sixteen),
            32 => Ok(Self::ThirtyTwo),
            other => Err(CorpusError::IdBits { got: other.to_string() }.into()),
        }
    }
}

impl FromStr for IdBits {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.parse::<u32>().map_err(|_| CorpusError::IdBits { got: text.to_string() })?.try_into()
    }
}

impl fmt::Display for IdBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", u32::from(*self))
    }
}

/// Says what files of ids do not say themselves, and how much is checked when a [`Corpus`](super::Corpus) is opened.
///
/// ```
/// use candle_gpt_input::data::corpus::{CorpusOptions, IdBits};
///
/// let options = CorpusOptions::default().with_id_bits(IdBits::Sixteen).with_vocab_size(50257);
/// assert_eq!(options.vocab_size, Some(50257));
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CorpusOptions {
    /// The width of bare ids, as in nanoGPT's files. Other formats state it.
    pub id_bits: Option<IdBits>,
    /// The size of the vocabulary. Ids are held against it, and against one that stands beside the files, when a batch
    /// takes them.
    pub vocab_size: Option<usize>,
    /// The token by which documents are found in files without an index: it begins a document in llm.c's files, and
    /// ends one in bare ids. Opening then reads all ids. It is put after each text.
    pub end_of_text: Option<u32>,
    /// Checks all ids and the checksums of `corpus.json` on opening.
    pub verify: bool,
    /// The tokenizer of texts: GPT-2's without one.
    #[cfg(feature = "tokenizer")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tokenizer")))]
    pub tokenizer: Option<Tokenizer>,
}

builders!(CorpusOptions {
    with_id_bits(id_bits: IdBits, Some),
    with_vocab_size(vocab_size: usize, Some),
    with_end_of_text(end_of_text: u32, Some),
    with_verify(verify: bool),
});

#[cfg(feature = "tokenizer")]
#[cfg_attr(docsrs, doc(cfg(feature = "tokenizer")))]
impl CorpusOptions {
    /// Sets `tokenizer`.
    #[must_use]
    pub fn with_tokenizer(self, tokenizer: Tokenizer) -> Self {
        Self { tokenizer: Some(tokenizer), ..self }
    }
}
