//! [`TokenizerError`]: why a tokenizer cannot be built or cannot convert its input.

use std::path::PathBuf;

use super::cause::Cause;
use super::shown::Shown;

/// Says why a tokenizer cannot be built, or cannot convert its input.
///
/// ```
/// # #[cfg(feature = "tokenizer")] {
/// use candle_gpt_input::tokenizer::Tokenizer;
///
/// let error = Tokenizer::gpt2().decode(&[40, 50257]).unwrap_err();
/// assert_eq!(error.to_string(), "token id 50257 at [1] is not in the tokenizer's vocabulary of 50257");
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A file that cannot be read. The source says why.
    #[error("cannot read {path}", path = Shown::path(path))]
    #[non_exhaustive]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A `tokenizer.json` that is broken.
    #[error("{origin}: {reason}", origin = Shown::text(origin), reason = Shown::text(reason))]
    #[non_exhaustive]
    Invalid {
        /// The file, or "the built-in GPT-2 vocabulary".
        origin: String,
        /// What is wrong.
        reason: String,
        /// The parser's error, if a parser failed.
        source: Option<Cause>,
    },
    /// A `tokenizer.json` that needs a feature this crate does not have.
    #[error("{origin}: not supported: {reason}", origin = Shown::text(origin), reason = Shown::text(reason))]
    Unsupported {
        /// The file.
        origin: String,
        /// The feature.
        reason: String,
    },
    /// A table without a row for every token.
    #[error(
        "the tokenizer has ids up to {largest_id}, but the table only {n_rows} rows: it is another model's tokenizer"
    )]
    TableTooSmall {
        /// The largest id.
        largest_id: u32,
        /// The number of rows of the table.
        n_rows: usize,
    },
    /// An id that is not a token.
    #[error("token id {id} at [{at}] is not in the tokenizer's vocabulary of {vocab_size}")]
    UnknownId {
        /// The id.
        id: u32,
        /// Its index in the sequence.
        at: usize,
        /// The number of tokens.
        vocab_size: usize,
    },
    /// Ids whose bytes are not UTF-8, such as a part of a character.
    #[error("the ids are not UTF-8 from the one at [{at}] on: use `decode`, which writes U+FFFD")]
    NotUtf8 {
        /// The index of the id in which the first such byte lies.
        at: usize,
    },
    /// A special token in a text, under `SpecialTokens::Refuse`.
    #[error(
        "the text holds the special token `{token}` at byte {at}: \
         choose SpecialTokens::Recognize for its id, or SpecialTokens::AsText for the ids of its characters"
    , token = Shown::name(token))]
    SpecialToken {
        /// The token.
        token: String,
        /// The byte at which it begins.
        at: usize,
    },
    /// A byte in a text for which the vocabulary has no token.
    #[error(
        "the tokenizer has no token for the byte 0x{byte:02X} at byte {at} of the text: remove it from the text, \
         or use a tokenizer whose vocabulary has all bytes"
    )]
    MissingByte {
        /// The byte.
        byte: u8,
        /// Its place, counted after normalization if the tokenizer has a normalizer.
        at: usize,
    },
    /// A text that is too long, or that the tokenizer library refuses or encodes wrongly.
    #[error("cannot encode the text: {reason}", reason = Shown::text(reason))]
    #[non_exhaustive]
    Encode {
        /// Why not.
        reason: String,
        /// The library's error, if it refused the text.
        source: Option<Cause>,
    },
    /// Tokens that do not spell the text.
    #[error("no byte offsets from byte {at} on: {reason}: use `encode` for the ids alone")]
    NoOffsets {
        /// The first byte without an offset.
        at: usize,
        /// Why.
        reason: &'static str,
    },
    /// One of several texts that cannot be encoded. The source says why.
    #[error("cannot encode document {index}")]
    #[non_exhaustive]
    Document {
        /// Its index among the texts.
        index: usize,
        /// Why it cannot be encoded.
        source: Box<TokenizerError>,
    },
}
