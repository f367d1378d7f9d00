//! [`Tokenizer`]: turns text into token ids and back. Needs the feature `tokenizer`, which is on by default.
//!
//! GPT-2's byte-pair encoding is compiled in. [`Tokenizer::beside`] finds a model's own among its files,
//! [`Tokenizer::from_file`] reads a `tokenizer.json`: a byte-level BPE with any of these parts.
//!
//! - `model`: BPE, also with `ignore_merges`, also without tokens for some bytes. Other models, `dropout` and affixes of
//!   words are refused.
//! - `normalizer`: NFC, NFD, NFKC, NFKD, StripAccents, Lowercase, Strip, Prepend, Replace of a string, and sequences.
//!   Others are refused, such as Nmt and Replace of a regular expression.
//! - `pre_tokenizer`: ByteLevel, also with `add_prefix_space`; Split by the patterns of GPT-2, cl100k, Llama 3, Qwen,
//!   o200k, DeepSeek, Tekken and Kimi; Digits, Punctuation and the like. Other patterns are refused, and
//!   `add_prefix_space` behind another pre-tokenizer.
//! - `added_tokens` with all flags.
//! - `post_processor`: TemplateProcessing, RobertaProcessing, BertProcessing, ByteLevel. Two that add tokens are refused.
//! - `decoder`: ByteLevel, Fuse or none. Others are refused.
//!
//! `truncation` and `padding` do not apply, as in a call of transformers' tokenizer that does not ask for them.
//! `unk_token`, `fuse_unk` and `byte_fallback` cannot matter while every byte has a token; a text that needs one of the
//! missing bytes is [`TokenizerError::MissingByte`], where Hugging Face's library gives `unk_token` or drops the byte.
//!
//! # What it matches
//!
//! GPT-2's ids and decoded text equal those of Hugging Face's `tokenizers` 0.23.3 and tiktoken 0.14.0. Offsets equal
//! those of `tokenizers`, but count bytes and may lie inside a character. Ids under each normalizer equal those of
//! `tokenizers`, which normalizes by the tables of Unicode 9: younger characters stay as they are.
//!
//! One thing differs: which characters are letters, numbers or spaces. Here Unicode 17 decides, in both libraries
//! Unicode 16. The 4644 letters and 13 numbers that Unicode 17 added (U+088F, U+0C5C, Sidetic, the ideographs from
//! U+323B0, …) are symbols to them, so words next to these characters may be cut differently. All other scalar values
//! have the same class. OpenAI's `encoder.py` uses the Unicode version of the installed `regex` module.
//!
//! [`decode`](Tokenizer::decode) returns every byte that was passed to [`encode`](Tokenizer::encode), or `encode` fails:
//! GPT-2's ids spell the text by construction, and those of a file are compared with it. Of a file that changes its
//! texts, `decode` returns the changed text.
//!
//! # How long it takes
//!
//! The first call of [`Tokenizer::gpt2`] builds tables from the compiled-in merges. The tokenizer library, which encodes
//! by any other file, takes about ten times as long to prepare the same merges.

mod added;
mod encode;
mod encoding;
mod entries;
mod files;
mod frame;
mod gpt2;
mod json;
mod library;
mod merges;
mod problem;
mod settings;
mod stream;
mod vocabulary;
mod words;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use rayon::prelude::*;

use crate::error::{Result, TokenizerError};
use encode::Encoder;
pub use encoding::{Encoding, SpecialTokens};
pub use files::TOKENIZER_FILES;
pub use gpt2::{END_OF_TEXT, END_OF_TEXT_ID};
use problem::{parse, read_text};
pub use stream::DecodeStream;
use vocabulary::TokenBytes;

/// Turns text into token ids and back. Cheap to clone: clones share one vocabulary.
///
/// ```
/// use candle_gpt_input::tokenizer::Tokenizer;
///
/// let tokenizer = Tokenizer::gpt2();
/// let ids = tokenizer.encode("Hello, do you like tea?")?;
/// assert_eq!(ids, [15496, 11, 466, 345, 588, 8887, 30]);
/// assert_eq!(tokenizer.decode(&ids)?, "Hello, do you like tea?");
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone)]
#[doc(alias = "AutoTokenizer", alias = "GPT2Tokenizer", alias = "tiktoken")]
pub struct Tokenizer {
    tokens: Arc<TokenBytes>,
    /// Or why GPT-2's merges cannot be used. (A file with such merges gives no tokenizer at all.)
    encoder: Result<Arc<Encoder>, String>,
    special_tokens: SpecialTokens,
}

impl Tokenizer {
    /// Returns GPT-2's tokenizer, which is built from the compiled-in merges once, on first use.
    #[must_use]
    #[doc(alias = "get_encoding")]
    pub fn gpt2() -> &'static Self {
        static GPT2: LazyLock<Tokenizer> = LazyLock::new(|| {
            let (tokens, encoder) = gpt2::build();
            Tokenizer { tokens, encoder: encoder.map(Arc::new), special_tokens: SpecialTokens::default() }
        });
        &GPT2
    }

    /// Reads a Hugging Face `tokenizer.json` of a byte-level BPE, of any version.
    ///
    /// The [module](self) lists which parts apply, and which are refused.
    ///
    /// The tokenizer library panics on some vocabularies that no training produces. Most are refused before; other
    /// panics are caught and become [`TokenizerError::Unsupported`]. The program's panic hook still runs (the default
    /// one prints to stderr), and a program built with `panic = "abort"` ends.
    ///
    /// # Errors
    /// - [`TokenizerError::Io`] if the file cannot be read
    /// - [`TokenizerError::Invalid`] if it is broken
    /// - [`TokenizerError::Unsupported`] if it needs a feature this crate does not have
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::parse(&read_text(path)?, &path.display().to_string())
    }

    /// Reads the text of a `tokenizer.json`, as [`from_file`](Self::from_file) reads the file.
    ///
    /// # Errors
    /// - [`TokenizerError::Invalid`] if it is broken
    /// - [`TokenizerError::Unsupported`] if it needs a feature this crate does not have
    pub fn from_json(text: &str) -> Result<Self> {
        Self::parse(text, "tokenizer.json")
    }

    fn parse(text: &str, origin: &str) -> Result<Self> {
        let encoder = parse(text).and_then(json::build);
        Ok(encoder.map(Self::new).map_err(|problem| problem.of(origin.to_string()))?)
    }

    fn new(encoder: Encoder) -> Self {
        let tokens = encoder.tokens.clone();
        Self { tokens, encoder: Ok(Arc::new(encoder)), special_tokens: SpecialTokens::default() }
    }

    fn encoder(&self) -> Result<&Encoder, TokenizerError> {
        self.encoder.as_deref().map_err(|reason| {
            let origin = "the built-in GPT-2 vocabulary".to_string();
            TokenizerError::Invalid { origin, reason: reason.clone(), source: None }
        })
    }

    /// Sets what happens to special tokens found in a text.
    ///
    /// ```
    /// use candle_gpt_input::tokenizer::{SpecialTokens, Tokenizer};
    ///
    /// let tokenizer = Tokenizer::gpt2();
    /// assert_eq!(tokenizer.encode("<|endoftext|>")?, [50256]);
    ///
    /// let tokenizer = tokenizer.with_special_tokens(SpecialTokens::AsText);
    /// assert_eq!(tokenizer.encode("<|endoftext|>")?, [27, 91, 437, 1659, 5239, 91, 29]);
    ///
    /// let tokenizer = tokenizer.with_special_tokens(SpecialTokens::Refuse);
    /// let error = tokenizer.encode("The end.<|endoftext|>").unwrap_err().to_string();
    /// assert!(error.starts_with("the text holds the special token `<|endoftext|>` at byte 8"));
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    #[must_use]
    pub fn with_special_tokens(&self, special_tokens: SpecialTokens) -> Self {
        Self { special_tokens, ..self.clone() }
    }

    /// Returns the ids of `text`, including tokens that a `tokenizer.json` puts around every text (GPT-2 puts none).
    ///
    /// Time and memory are linear in the length of the text. Uses one thread; [`encode_batch`](Self::encode_batch) uses
    /// several.
    ///
    /// # Errors
    /// - [`TokenizerError::SpecialToken`] under [`SpecialTokens::Refuse`]
    /// - [`TokenizerError::MissingByte`] if the vocabulary has no token for a byte of the text
    /// - [`TokenizerError::Encode`] for more than 4 GiB of text
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encoder()?.encode(text, self.special_tokens)?.into_ids())
    }

    /// Returns the ids of `text`, as [`encode`](Self::encode) does, and the range of bytes of each.
    ///
    /// ```
    /// use candle_gpt_input::tokenizer::Tokenizer;
    ///
    /// let encoding = Tokenizer::gpt2().encode_with_offsets("a 🤗")?;
    /// assert_eq!(encoding.ids, [64, 12520, 97, 245]);
    /// assert_eq!(encoding.offsets, [0..1, 1..4, 4..5, 5..6]); // " " and half of the emoji, then one byte each
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`TokenizerError::NoOffsets`] if the tokens do not spell the text, because the `tokenizer.json` has a
    ///   normalizer that changes it, a space before it, or a pre-tokenizer that drops part of it
    /// - [`TokenizerError::SpecialToken`] under [`SpecialTokens::Refuse`]
    /// - [`TokenizerError::MissingByte`] if the vocabulary has no token for a byte of the text
    /// - [`TokenizerError::Encode`] for more than 4 GiB of text
    #[doc(alias = "return_offsets_mapping")]
    pub fn encode_with_offsets(&self, text: &str) -> Result<Encoding> {
        let encoder = self.encoder()?;
        Ok(encoder.encode(text, self.special_tokens)?.with_offsets(text, encoder)?)
    }

    /// Encodes several texts, as [`encode`](Self::encode) does one, in parallel on rayon's current threads.
    ///
    /// ```
    /// use candle_gpt_input::tokenizer::Tokenizer;
    ///
    /// assert_eq!(Tokenizer::gpt2().encode_batch(&["Hello", " tea"])?, [[15496], [8887]]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`TokenizerError::Document`] with the index of the first text that fails, and its error as the source.
    pub fn encode_batch<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Vec<Vec<u32>>> {
        let encoder = self.encoder()?;
        let encode = |text: &S| encoder.encode(text.as_ref(), self.special_tokens).map(|draft| draft.into_ids());
        let encoded: Vec<Result<Vec<u32>, TokenizerError>> = texts.par_iter().map(encode).collect();
        let document = |(index, ids): (usize, Result<Vec<u32>, TokenizerError>)| {
            ids.map_err(|source| TokenizerError::Document { index, source: Box::new(source) }.into())
        };
        encoded.into_iter().enumerate().map(document).collect()
    }

    /// Returns a place from byte `from` on where a text can be cut: the ids of both parts, one after the other, are those
    /// of the whole. So a text larger than memory can be encoded piece by piece.
    ///
    /// `None` if there is no such place: there is one only before a space (or a line feed, under GPT-2's pattern) that
    /// follows something else. Also `None` for all texts if a `tokenizer.json` puts tokens around them, has a normalizer
    /// other than NFC, added tokens with spaces or `rstrip`, or another pre-tokenizer than a pattern alone.
    ///
    /// ```
    /// use candle_gpt_input::tokenizer::Tokenizer;
    ///
    /// let (tokenizer, text) = (Tokenizer::gpt2(), "Hello, do you like tea?");
    /// assert_eq!(tokenizer.cut(text, 7), Some(9)); // before " you"
    /// let (left, right) = text.split_at(9);
    /// assert_eq!([tokenizer.encode(left)?, tokenizer.encode(right)?].concat(), tokenizer.encode(text)?);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    #[must_use]
    pub fn cut(&self, text: &str, from: usize) -> Option<usize> {
        self.encoder().ok()?.cut(text, from)
    }

    /// Returns the text of `ids`. Bytes that are not UTF-8, such as those of a cut character, become `U+FFFD`;
    /// [`decode_strict`](Self::decode_strict) refuses them.
    ///
    /// ```
    /// use candle_gpt_input::tokenizer::Tokenizer;
    ///
    /// assert_eq!(Tokenizer::gpt2().decode(&[15496, 8887])?, "Hello tea");
    /// assert_eq!(Tokenizer::gpt2().decode(&[64, 12520])?, "a \u{FFFD}"); // the first half of an emoji
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`] with its index; no id is skipped.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for (at, &id) in ids.iter().enumerate() {
            bytes.extend_from_slice(self.known(id, at)?);
        }
        Ok(match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        })
    }

    /// Returns the text of `ids`, and refuses bytes that are not UTF-8, as `tiktoken` does with `errors="strict"`.
    ///
    /// ```
    /// use candle_gpt_input::tokenizer::Tokenizer;
    ///
    /// let tokenizer = Tokenizer::gpt2();
    /// assert_eq!(tokenizer.decode_strict(&[15496, 8887])?, "Hello tea");
    /// let error = tokenizer.decode_strict(&[64, 12520]).unwrap_err(); // the first half of an emoji
    /// assert_eq!(error.to_string(), "the ids are not UTF-8 from the one at [1] on: use `decode`, which writes U+FFFD");
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`TokenizerError::NotUtf8`] with the index of the id in which the first such byte lies,
    /// [`TokenizerError::UnknownId`] with its index.
    pub fn decode_strict(&self, ids: &[u32]) -> Result<String> {
        let (mut bytes, mut starts) = (Vec::with_capacity(ids.len() * 4), Vec::with_capacity(ids.len()));
        for (at, &id) in ids.iter().enumerate() {
            starts.push(bytes.len());
            bytes.extend_from_slice(self.known(id, at)?);
        }
        Ok(String::from_utf8(bytes).map_err(|error| {
            let first = error.utf8_error().valid_up_to();
            TokenizerError::NotUtf8 { at: starts.partition_point(|&start| start <= first).saturating_sub(1) }
        })?)
    }

    /// Returns the bytes of token `id`; `None` if there is no such token.
    #[must_use]
    #[doc(alias = "convert_ids_to_tokens", alias = "decode_single_token_bytes")]
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.tokens.get(id)
    }

    /// Returns the id of a special token, such as [`END_OF_TEXT`]; `None` if it is not one of this tokenizer's.
    #[must_use]
    #[doc(alias = "convert_tokens_to_ids", alias = "eos_token_id")]
    pub fn special_token_id(&self, token: &str) -> Option<u32> {
        self.encoder().ok()?.added.special_id(token)
    }

    /// Returns the number of tokens, including special ones.
    #[must_use]
    #[doc(alias = "n_vocab")]
    pub fn vocab_size(&self) -> usize {
        self.tokens.len()
    }

    fn known(&self, id: u32, at: usize) -> Result<&[u8], TokenizerError> {
        let unknown = || TokenizerError::UnknownId { id, at, vocab_size: self.vocab_size() };
        self.token_bytes(id).ok_or_else(unknown)
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("special_tokens", &self.special_tokens)
            .finish_non_exhaustive()
    }
}
