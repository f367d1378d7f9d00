//! What goes into encoding a text beside it, and what comes out.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{ConfigError, Error, Result};

/// Says what [`Tokenizer::encode`] makes of a special token such as `<|endoftext|>` that it finds in the text:
/// `recognize`, `as-text` or `refuse`.
///
/// It is a property of the tokenizer ([`Tokenizer::with_special_tokens`]), so that it reaches every place where the tokenizer
/// goes. Text from strangers should not be able to end a document: use [`AsText`](Self::AsText) or [`Refuse`](Self::Refuse).
///
/// [`Tokenizer::encode`]: super::Tokenizer::encode
/// [`Tokenizer::with_special_tokens`]: super::Tokenizer::with_special_tokens
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
#[doc(alias = "allowed_special", alias = "disallowed_special", alias = "split_special_tokens")]
pub enum SpecialTokens {
    /// Its one id, as Hugging Face's tokenizers do (tiktoken: `allowed_special="all"`).
    #[default]
    Recognize,
    /// The ids of its characters, as of any other text (Hugging Face: `split_special_tokens=True`; tiktoken:
    /// `disallowed_special=()`).
    AsText,
    /// [`TokenizerError::SpecialToken`](crate::error::TokenizerError::SpecialToken) with its place, as tiktoken does by
    /// default.
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
        match text {
            "recognize" => Ok(Self::Recognize),
            "as-text" => Ok(Self::AsText),
            "refuse" => Ok(Self::Refuse),
            _ => {
                let (key, expected) = ("special_tokens".to_string(), "recognize, as-text or refuse");
                Err(ConfigError::FieldType { key, got: text.to_string(), expected }.into())
            }
        }
    }
}

/// Holds token ids, and where in the text each of them stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[doc(alias = "BatchEncoding")]
pub struct Encoding {
    /// The ids.
    pub ids: Vec<u32>,
    /// The bytes of the text that each id stands for: consecutive, from 0 to the length of the text. A character of several
    /// bytes may be shared by several tokens, so slice `text.as_bytes()`, not `text`. A token that the tokenizer puts around
    /// every text has an empty range.
    #[doc(alias = "offset_mapping")]
    pub offsets: Vec<Range<usize>>,
}
