//! [`DecodeStream`]: decodes ids as they arrive.

use super::Tokenizer;
use crate::error::Result;

/// Decodes ids one at a time. [`Tokenizer::decode_stream`] makes one, and has an example.
///
/// The texts of all steps and of the final [`flush`](Self::flush), joined, equal what [`Tokenizer::decode`] returns for
/// all ids. No step returns part of a character.
#[derive(Clone, Debug)]
pub struct DecodeStream<'t> {
    tokenizer: &'t Tokenizer,
    /// The start of an incomplete character: at most three bytes.
    pending: Vec<u8>,
    n_steps: usize,
}

impl Tokenizer {
    /// Decodes ids one at a time, as a model generates them.
    ///
    /// ```
    /// use candle_gpt_input::tokenizer::Tokenizer;
    ///
    /// let mut stream = Tokenizer::gpt2().decode_stream();
    /// assert_eq!(stream.step(64)?, Some("a".to_string()));
    /// assert_eq!(stream.step(12520)?, Some(" ".to_string())); // and the first half of an emoji, kept back
    /// assert_eq!(stream.step(97)?, None);
    /// assert_eq!(stream.step(245)?, Some("🤗".to_string()));
    /// assert_eq!(stream.flush(), None);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    #[must_use]
    #[doc(alias = "TextStreamer")]
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        DecodeStream { tokenizer: self, pending: Vec::new(), n_steps: 0 }
    }
}

impl DecodeStream<'_> {
    /// Takes the next id and returns the text that it completes.
    ///
    /// Returns `None` while a character is incomplete, or if the token has no bytes.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`](crate::error::TokenizerError::UnknownId) with its index among the ids so far. No
    /// text is lost, so the caller may continue.
    pub fn step(&mut self, id: u32) -> Result<Option<String>> {
        let at = self.n_steps;
        self.n_steps += 1;
        self.pending.extend_from_slice(self.tokenizer.known(id, at)?);
        let complete = self.pending.len() - incomplete_tail(&self.pending);
        let bytes: Vec<u8> = self.pending.drain(..complete).collect();
        Ok(text(&bytes))
    }

    /// Ends the text and resets the stream; an incomplete character becomes `U+FFFD`.
    pub fn flush(&mut self) -> Option<String> {
        self.n_steps = 0;
        text(&std::mem::take(&mut self.pending))
    }
}

fn text(bytes: &[u8]) -> Option<String> {
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes).into_owned())
}

/// Counts the bytes at the end that begin a character which more bytes could complete.
///
/// The bytes before them decode the same whatever follows, even invalid ones: an invalid sequence ends where no
/// continuation is possible.
fn incomplete_tail(bytes: &[u8]) -> usize {
    let last = bytes.utf8_chunks().last();
    let invalid = last.map_or(&[][..], |chunk| chunk.invalid());
    let incomplete = std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
    if incomplete { invalid.len() } else { 0 }
}
