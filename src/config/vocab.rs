//! The size of a vocabulary, and of a token table that is padded.

use super::fields::{Object, WHOLE, as_usize, read};
use super::input::GptInputConfig;
use crate::error::ConfigError;

const VOCAB_SIZE: &str = "vocab_size";
/// The rows of the table beside a `vocab_size` that counts tokens: llm.c's and litgpt's.
pub(crate) const PADDED_VOCAB: &str = "padded_vocab_size";
/// The tokens beside a `vocab_size` that counts rows, as transformers wants it: our own.
const UNPADDED: &str = "unpadded_vocab_size";

pub(super) const KEYS: &[&str] = &[VOCAB_SIZE, PADDED_VOCAB, UNPADDED];

/// Reads the number of tokens, and the number of rows if it is another one.
pub(super) fn read_sizes(stated: &Object) -> Result<(Option<usize>, Option<usize>), ConfigError> {
    let count = |name| read(stated, &[name], WHOLE, as_usize);
    let (n_tokens, n_rows) = match (count(VOCAB_SIZE)?, count(PADDED_VOCAB)?, count(UNPADDED)?) {
        (n_rows, None, Some(n_tokens)) => (Some(n_tokens), n_rows),
        (n_tokens, n_rows, None) => (n_tokens, n_rows),
        (_, n_rows, n_tokens) => (n_tokens, n_rows),
    };
    Ok((n_tokens, n_rows.filter(|_| n_rows != n_tokens)))
}

/// Writes them so that transformers makes a table with all rows.
pub(super) fn write_sizes(map: &mut Object, n_tokens: usize, n_rows: Option<usize>) {
    map.retain(|key, _| key != PADDED_VOCAB && key != UNPADDED);
    map.insert(VOCAB_SIZE.to_string(), n_rows.unwrap_or(n_tokens).into());
    if n_rows.is_some() {
        map.insert(UNPADDED.to_string(), n_tokens.into());
    }
}

impl GptInputConfig {
    /// Returns the number of rows of the token table: `padded_vocab_size`, or else `vocab_size`.
    ///
    /// ```
    /// # use candle_gpt_input::GptInputConfig;
    /// let config = GptInputConfig::from_json(r#"{"vocab_size": 50257, "padded_vocab_size": 50304}"#)?;
    /// assert_eq!((config.vocab_size, config.n_token_rows()), (50257, 50304));
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    #[must_use]
    pub fn n_token_rows(&self) -> usize {
        self.padded_vocab_size.unwrap_or(self.vocab_size)
    }

    pub(super) fn check_vocab(&self) -> Result<(), ConfigError> {
        match self.padded_vocab_size {
            Some(n_rows) if n_rows < self.vocab_size => Err(ConfigError::OutOfRange {
                name: PADDED_VOCAB,
                value: n_rows as f64,
                expected: "at least vocab_size",
            }),
            _ => Ok(()),
        }
    }

    /// Returns the same with the sizes of its vocabulary in the keys that transformers reads.
    pub(crate) fn with_rows_as_vocab_size(mut self) -> Self {
        self.origin.stated.remove(PADDED_VOCAB);
        self
    }
}
