//! [`SpecialTokens`], the policy of encoding a text, and [`Encoding`], its result.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{ConfigError, Error, Result};

/// Says what [`Tokenizer::encode`] makes of a special token such as `<|endoftext|>` that it finds in the text:
/// `recognize`, `as-text` or `refuse`.
///
/// It is a property of the tokenizer ([`Tokenizer::with_special_tokens`]), so it applies wherever the tokenizer is
/// used. Untrusted text should not be able to end a document: use [`AsText`](Self::AsText) or [`Refuse`](Self::Refuse)
/// for it.
///
/// ```
/// use candle_gpt_input::tokenizer::{END_OF_TEXT, END_OF_TEXT_ID, SpecialTokens, Tokenizer};
///
/// let tokenizer = Tokenizer::gpt2();
/// assert_eq!(tokenizer.encode(END_OF_TEXT)?, [END_OF_TEXT_ID]); // SpecialTokens::Recognize
/// let tokenizer = tokenizer.with_special_tokens("as-text".parse()?);
/// assert_eq!(tokenizer.encode(END_OF_TEXT)?.len(), 7); // < | end of text | >
/// let tokenizer = tokenizer.with_special_tokens(SpecialTokens::Refuse);
/// assert!(tokenizer.encode(END_OF_TEXT).is_err());
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
///
/// [`Tokenizer::encode`]: super::Tokenizer::encode
/// [`Tokenizer::with_special_tokens`]: super::Tokenizer::with_special_tokens
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
#[doc(alias = "allowed_special", alias = "disallowed_special", alias = "split_special_tokens")]
pub enum SpecialTokens {
    /// Its id, as in Hugging Face's tokenizers (tiktoken: `allowed_special="all"`).
    #[default]
    Recognize,
    /// The ids of its characters, as for any other text (Hugging Face: `split_special_tokens=True`; tiktoken:
    /// `disallowed_special=()`).
    AsText,
    /// An error, [`TokenizerError::SpecialToken`](crate::error::TokenizerError::SpecialToken), as tiktoken's default.
    Refuse,
}

impl fmt::Display for SpecialTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Recognize => "recognize",
            Self::AsText => "as-text",
            Self::Refuse => "refuse",
        })
    }
}

impl FromStr for SpecialTokens {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(ConfigError::one_of(
            "special_tokens",
            [Self::Recognize, Self::AsText, Self::Refuse],
            "recognize, as-text or refuse",
            text,
        )?)
    }
}

/// Holds token ids, and the place of each in the text.
///
/// ```
/// use candle_gpt_input::tokenizer::Tokenizer;
///
/// let encoding = Tokenizer::gpt2().encode_with_offsets("Hello tea")?;
/// assert_eq!((encoding.ids, encoding.offsets), (vec![15496, 8887], vec![0..5, 5..9]));
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[doc(alias = "BatchEncoding")]
pub struct Encoding {
    /// The ids.
    pub ids: Vec<u32>,
    /// The range of bytes of each id. The ranges are consecutive, from 0 to the length of the text.
    ///
    /// Several tokens may share a character of several bytes, so slice `text.as_bytes()`, not `text`. A token that the
    /// tokenizer puts around every text has an empty range.
    #[doc(alias = "offset_mapping")]
    pub offsets: Vec<Range<usize>>,
}
