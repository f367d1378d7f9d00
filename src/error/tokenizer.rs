//! What can be wrong with a tokenizer.

use std::path::PathBuf;

/// What can be wrong with a tokenizer or its input.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A file that cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A `tokenizer.json` that is broken.
    #[error("{origin}: {reason}")]
    Invalid {
        /// The file, or "the built-in GPT-2 vocabulary".
        origin: String,
        /// What is wrong.
        reason: String,
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
    /// The library behind the tokenizer refused the text.
    #[error("cannot encode the text: {reason}")]
    Encode {
        /// What it says.
        reason: String,
    },
    /// Tokens that do not stand in the text as they are.
    #[error("no byte offsets from byte {at} on: {reason}: use `encode` for the ids alone")]
    NoOffsets {
        /// The first byte of the text for which there is no offset.
        at: usize,
        /// Why.
        reason: &'static str,
    },
    /// One of several texts that cannot be encoded.
    #[error("document {index}: {source}")]
    Document {
        /// Its index among the texts.
        index: usize,
        /// What is wrong with it.
        source: Box<TokenizerError>,
    },
}
