//! What can be wrong with a tokenizer.

use std::path::PathBuf;

use super::cause::Cause;

/// What can be wrong with a tokenizer or its input.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A file that cannot be read. The source says why.
    #[error("cannot read {}", path.display())]
    #[non_exhaustive]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A `tokenizer.json` that is broken.
    #[error("{origin}: {reason}")]
    #[non_exhaustive]
    Invalid {
        /// The file, or "the built-in GPT-2 vocabulary".
        origin: String,
        /// What is wrong.
        reason: String,
        /// What a parser says, where one gave up.
        source: Option<Cause>,
    },
    /// A `tokenizer.json` that asks for what this crate does not do.
    #[error("{origin}: not supported: {reason}")]
    Unsupported {
        /// The file.
        origin: String,
        /// What it asks for.
        reason: String,
    },
    /// An id that stands for no token.
    #[error("token id {id} at [{at}] is not in the tokenizer's vocabulary of {vocab_size}")]
    UnknownId {
        /// The id.
        id: u32,
        /// Its index in the sequence.
        at: usize,
        /// How many tokens the tokenizer knows.
        vocab_size: usize,
    },
    /// A special token in a text that may have none.
    #[error(
        "the text holds the special token `{token}` at byte {at}: choose SpecialTokens::Recognize for its id, or SpecialTokens::AsText for those of its characters"
    )]
    SpecialToken {
        /// The token.
        token: String,
        /// The byte of the text at which it begins.
        at: usize,
    },
    /// A text that is too long, or that the library behind the tokenizer does not encode or encodes wrongly.
    #[error("cannot encode the text: {reason}")]
    #[non_exhaustive]
    Encode {
        /// Why not.
        reason: String,
        /// What the library says, where it refused the text.
        source: Option<Cause>,
    },
    /// Tokens that do not stand in the text as they are.
    #[error("no byte offsets from byte {at} on: {reason}: use `encode` for the ids alone")]
    NoOffsets {
        /// The first byte of the text for which there is no offset.
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
        /// What is wrong with it.
        source: Box<TokenizerError>,
    },
}
