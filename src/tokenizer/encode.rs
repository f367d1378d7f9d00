//! Encodes text: finds added tokens, and encodes the text between them, GPT-2's here, that of a file by the library.

use std::ops::Range;
use std::sync::Arc;

use tokenizers::pipeline::{EncodeOptions, Normalizer, PipelinePreTokenizer, PipelineToken, PipelineTokenizer};
use tokenizers::pre_tokenizers::split::Split;
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::utils::Grammar;

use super::added::AddedTokens;
use super::encoding::{Encoding, SpecialTokens};
use super::frame::Frame;
use super::problem::REFUSED;
use super::vocabulary::{MissingBytes, TokenBytes};
use super::words::WordEncoder;
use crate::error::{TokenizerError, cause};

/// About how much text is encoded at once. The library keeps buffers of nine bytes for each byte of text, and is faster
/// while they fit the cache.
const PIECE_BYTES: usize = 1 << 16;

pub(super) struct Encoder {
    plain: Plain,
    pub(super) added: AddedTokens,
    pub(super) frame: Frame,
    /// Whether every text between added tokens begins with a space, its own or one that is put there.
    pub(super) prefix_space: bool,
    pub(super) missing: MissingBytes,
    pub(super) tokens: Arc<TokenBytes>,
    words: Words,
}

/// The pre-tokenizer and the merges only.
pub(super) enum Plain {
    /// Of a file.
    Library(PipelineTokenizer),
    /// GPT-2's own.
    Words(Box<WordEncoder>),
}

/// Where the pre-tokenizer cuts a text into words, as far as known.
#[derive(Clone, Copy)]
enum Words {
    /// The words cover the text, and one begins at each of these bytes that follows something other than a space.
    Cover { before: &'static [u8] },
    /// Not known.
    Unknown,
}

/// The ids of a text, and which of them are added tokens.
pub(super) struct Draft {
    ids: Vec<PipelineToken>,
    /// The index among the ids, and the bytes of the text.
    added: Vec<(usize, Range<usize>)>,
    /// The start of the first segment whose tokens do not spell it, and why.
    changed: Option<(usize, &'static str)>,
}

impl Encoder {
    /// Returns an encoder without normalizers or tokens around a text.
    pub(super) fn new(plain: Plain, added: AddedTokens, tokens: Arc<TokenBytes>) -> Self {
        let words = match &plain {
            Plain::Words(words) => Words::of(words.split()),
            Plain::Library(pipeline) => match pipeline.get_pre_tokenizer() {
                PipelinePreTokenizer::Split(split) => Words::of(split),
                _ => Words::Unknown,
            },
        };
        let (frame, missing) = (Frame::default(), MissingBytes::default());
        Self { plain, added, frame, prefix_space: false, missing, tokens, words }
    }

    pub(super) fn encode(&self, text: &str, policy: SpecialTokens) -> Result<Draft, TokenizerError> {
        if u32::try_from(text.len()).is_err() {
            let reason = format!("it has {} bytes, more than 4 GiB: encode it in parts", text.len());
            return Err(TokenizerError::Encode { reason, source: None });
        }
        let mut draft = Draft { ids: Vec::with_capacity(text.len() / 4), added: Vec::new(), changed: None };
        let [before, after] = self.frame.around();
        for (token, _) in before {
            draft.push_added(*token, 0..0);
        }
        let mut from = 0;
        while let Some((range, id)) = self.added.next(text, from, false, policy)? {
            self.encode_segment(text, from..range.start, policy, &mut draft)?;
            from = range.end;
            draft.push_added(id.into(), range);
        }
        self.encode_segment(text, from..text.len(), policy, &mut draft)?;
        for (token, _) in after {
            draft.push_added(*token, text.len()..text.len());
        }
        Ok(draft)
    }

    /// Returns a place from byte `from` on where the ids of both sides are those of the whole.
    pub(super) fn cut(&self, text: &str, from: usize) -> Option<usize> {
        let cuts = !self.prefix_space && self.frame.keeps_words() && self.added.are_in_words();
        if cuts { self.words.next_start(text, from) } else { None }
    }

    /// Encodes text that has no added tokens except those to be found after normalization.
    fn encode_segment(
        &self,
        text: &str,
        range: Range<usize>,
        policy: SpecialTokens,
        draft: &mut Draft,
    ) -> Result<(), TokenizerError> {
        let start = range.start;
        let original = &text[range];
        let normalized = self.frame.normalize(original, start).map_err(failed)?;
        if normalized != original {
            draft.changed.get_or_insert((start, "the tokenizer's normalizer changes the text"));
        }
        let mut from = 0;
        while let Some((range, id)) = self.added.next(&normalized, from, true, policy).map_err(|e| moved(e, start))? {
            self.encode_between(&normalized, from..range.start, start, draft)?;
            from = range.end;
            draft.push_added(id.into(), start + range.start..start + range.end);
        }
        self.encode_between(&normalized, from..normalized.len(), start, draft)
    }

    /// Encodes a range of `text` without added tokens. `start` is where `text` begins in the whole text.
    fn encode_between(
        &self,
        text: &str,
        range: Range<usize>,
        start: usize,
        draft: &mut Draft,
    ) -> Result<(), TokenizerError> {
        let start = start + range.start;
        let text = &text[range];
        if !self.prefix_space || text.is_empty() || text.starts_with(' ') {
            return self.encode_plain(text, &mut draft.ids).map_err(|error| moved(error, start));
        }
        draft.changed.get_or_insert((start, "the tokenizer puts a space before the text"));
        let spaced = [" ", text].concat();
        self.encode_plain(&spaced, &mut draft.ids).map_err(|error| moved(error, start.saturating_sub(1)))
    }

    /// Encodes text without added tokens, piece by piece.
    fn encode_plain(&self, text: &str, ids: &mut Vec<PipelineToken>) -> Result<(), TokenizerError> {
        let mut at = 0;
        while at < text.len() {
            let piece = &text[at..][..self.words.first_piece(&text[at..])];
            let start = ids.len();
            match &self.plain {
                Plain::Words(words) => words.encode(piece, ids).map_err(failed)?,
                Plain::Library(pipeline) => {
                    pipeline.encode_into(piece, &EncodeOptions::no_specials(), ids).map_err(failed)?;
                    match self.words {
                        Words::Cover { .. } => self.check(piece, &ids[start..]),
                        Words::Unknown => self.missing.check(piece, &ids[start..]),
                    }
                    .map_err(|error| moved(error, at))?;
                }
            }
            at += piece.len();
        }
        Ok(())
    }

    /// Checks that the library's ids spell the text.
    ///
    /// It takes a word for a token if 32 bits of their hashes agree, without comparing them. That is wrong for
    /// one word in four billion, or for one crafted to collide.
    fn check(&self, text: &str, ids: &[PipelineToken]) -> Result<(), TokenizerError> {
        let mut rest = text.as_bytes();
        for token in ids {
            rest = self.tokens.strip(token.id(), rest).ok_or_else(|| self.misspelt(token.id(), text, rest))?;
        }
        if rest.is_empty() { Ok(()) } else { Err(misspelt(text, rest)) }
    }

    /// Says why a token does not spell the rest of a text.
    #[cold]
    fn misspelt(&self, id: u32, text: &str, rest: &[u8]) -> TokenizerError {
        let at = text.len() - rest.len();
        self.missing.byte(id).map_or_else(|| misspelt(text, rest), |byte| TokenizerError::MissingByte { byte, at })
    }
}

impl Words {
    fn of(split: &Split) -> Self {
        match split.grammar() {
            Some(_) if split.invert || split.behavior != SplitDelimiterBehavior::Isolated => Self::Unknown,
            // In no alternative of the pattern does a space follow anything but whitespace, so a word ends before it.
            // A line feed belongs to the punctuation before it in all patterns but GPT-2's.
            Some(Grammar::Gpt2) => Self::Cover { before: b" \n" },
            Some(_) => Self::Cover { before: b" " },
            None => Self::Unknown,
        }
    }

    /// Returns how many bytes of the text can be encoded separately: all of a short text.
    fn first_piece(self, text: &str) -> usize {
        self.next_start(text, PIECE_BYTES).unwrap_or(text.len())
    }

    /// Returns where a word begins from byte `from` on, if one is known to.
    fn next_start(self, text: &str, from: usize) -> Option<usize> {
        let Self::Cover { before } = self else { return None };
        let begins_word = |&at: &usize| {
            before.contains(&text.as_bytes()[at])
                && text[..at].chars().next_back().is_some_and(|c| !c.is_whitespace() && !c.is_control())
        };
        (from..text.len()).find(begins_word)
    }
}

impl Draft {
    fn push_added(&mut self, token: PipelineToken, range: Range<usize>) {
        self.added.push((self.ids.len(), range));
        self.ids.push(token);
    }

    pub(super) fn into_ids(self) -> Vec<u32> {
        self.ids.into_iter().map(u32::from).collect() // in place
    }

    pub(super) fn with_offsets(self, text: &str, encoder: &Encoder) -> Result<Encoding, TokenizerError> {
        if let Some((at, reason)) = self.changed {
            return Err(TokenizerError::NoOffsets { at, reason });
        }
        let mut offsets = Vec::with_capacity(self.ids.len());
        let mut added = self.added.iter().peekable();
        let mut at = 0;
        for (index, token) in self.ids.iter().enumerate() {
            let end = match added.next_if(|(added, _)| *added == index) {
                Some((_, range)) if range.start == at => Some(range.end),
                Some(_) => None,
                None => encoder.tokens.strip(token.id(), &text.as_bytes()[at..]).map(|rest| text.len() - rest.len()),
            };
            let end = end.ok_or_else(|| dropped(at))?;
            offsets.push(at..end);
            at = end;
        }
        if at < text.len() {
            return Err(dropped(at));
        }
        Ok(Encoding { ids: self.into_ids(), offsets })
    }
}

fn dropped(at: usize) -> TokenizerError {
    TokenizerError::NoOffsets { at, reason: "the tokenizer's pre-tokenizer drops some of the text" }
}

fn failed(error: tokenizers::tokenizer::Error) -> TokenizerError {
    TokenizerError::Encode { reason: REFUSED.to_string(), source: Some(cause(error)) }
}

/// Turns an error about a part of a text into one about the whole, in which the part begins at byte `by`.
fn moved(error: TokenizerError, by: usize) -> TokenizerError {
    match error {
        TokenizerError::SpecialToken { token, at } => TokenizerError::SpecialToken { token, at: at + by },
        TokenizerError::MissingByte { byte, at } => TokenizerError::MissingByte { byte, at: at + by },
        other => other,
    }
}

fn misspelt(text: &str, rest: &[u8]) -> TokenizerError {
    let word = String::from_utf8_lossy(&rest[..rest.len().min(32)]);
    let at = text.len() - rest.len();
    let reason = format!("the ids do not spell it at `{word}` (byte {at} of {})", text.len());
    TokenizerError::Encode { reason, source: None }
}

#[cfg(test)]
mod tests {
    use super::super::gpt2;

    /// No word is known that the library confuses with another, so the wrong ids are made up.
    #[test]
    fn ids_that_do_not_spell_the_text_are_refused() {
        let encoder = gpt2::build().1.unwrap();
        let check = |text: &str, ids: &[u32]| {
            let ids: Vec<_> = ids.iter().map(|id| (*id).into()).collect();
            encoder.check(text, &ids).map_err(|error| error.to_string())
        };
        let refused = |rest: &str, at, of| {
            Err(format!("cannot encode the text: the ids do not spell it at `{rest}` (byte {at} of {of})"))
        };
        let [hello, tea] = [15496, 8887]; // "Hello", " tea"
        assert_eq!(check("Hello tea", &[hello, tea]), Ok(()));
        assert_eq!(check("Hello tea", &[hello, hello]), refused(" tea", 5, 9));
        assert_eq!(check("Hello tea", &[hello]), refused(" tea", 5, 9));
        assert_eq!(check("Hello", &[hello, tea]), refused("", 5, 5));
        assert_eq!(check("Hell", &[hello]), refused("Hell", 0, 4));
        assert_eq!(check("Hello and more", &[hello, 50257]), refused(" and more", 5, 14));
        let long = encoder.tokens.get(30906).unwrap(); // more than the eight bytes that are compared at once
        let text = std::str::from_utf8(long).unwrap();
        assert!(text.len() > 8, "{text}");
        assert_eq!(check(text, &[30906]), Ok(()));
        let other = format!("{}x", &text[..text.len() - 1]);
        assert_eq!(check(&other, &[30906]), refused(&other, 0, text.len()));
    }
}
