//! [`Tokenizer`]: text ↔ token ids. GPT-2's byte-pair encoding is compiled in; any byte-level BPE `tokenizer.json` can be
//! read instead. Needs the feature `tokenizer`, which is on by default.
//!
//! # What is matched
//!
//! GPT-2's ids and decoded text are those of Hugging Face's `tokenizers` 0.23.3 and of tiktoken 0.14.0, and the offsets are the
//! former's, but in bytes and within characters. One thing differs: which characters are letters, numbers or spaces is the
//! business of an edition of Unicode, and that is 17 here and 16 there. Of the 1 112 064 scalar values, the 4644 letters and 13
//! numbers that Unicode 17 added (U+088F, U+0C5C, Sidetic, the ideographs from U+323B0, …) are symbols to them, so that a word
//! may be cut in other places beside one. All others are of the same class. (OpenAI's `encoder.py` has the edition of the
//! `regex` module beside it.)
//!
//! [`decode`](Tokenizer::decode) gives back every byte that [`encode`](Tokenizer::encode) was given, or `encode` fails: the
//! ids are compared with the text before they are returned.

mod added;
mod encode;
mod encoding;
mod gpt2;
mod json;
mod stream;
mod vocabulary;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use rayon::prelude::*;

use crate::error::{Result, TokenizerError};
use encode::Encoder;
pub use encoding::{Encoding, SpecialTokens};
pub use gpt2::{END_OF_TEXT, END_OF_TEXT_ID};
pub use stream::DecodeStream;
use vocabulary::TokenBytes;

/// The largest `tokenizer.json` that is read; the largest known has 33 MB.
const MAX_FILE_BYTES: u64 = 64 << 20;

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
    /// Or why the library refuses GPT-2's merges: those of a file are an error before there is a tokenizer.
    encoder: Result<Arc<Encoder>, String>,
    special_tokens: SpecialTokens,
}

impl Tokenizer {
    /// Returns GPT-2's tokenizer, built on first use, once a process, from what is compiled in.
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
    /// Its normalizer, pre-tokenizer, added tokens and post-processor are followed; its `truncation`, `padding` and `decoder`
    /// are not: nothing is cut or padded here, and a byte-level BPE decodes in one way.
    ///
    /// The tokenizer library panics on some vocabularies that no training makes. The panic is caught here and becomes
    /// [`TokenizerError::Unsupported`], but the program's panic hook still sees it (the default one prints to stderr), and a
    /// program built with `panic = "abort"` ends. What can be told beforehand is refused without a panic.
    ///
    /// # Errors
    /// - [`TokenizerError::Io`] if the file cannot be read
    /// - [`TokenizerError::Invalid`] with what is wrong with it
    /// - [`TokenizerError::Unsupported`] with what it asks for that is not done here
    #[doc(alias = "from_pretrained")]
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let origin = path.display().to_string();
        let text = read_capped(path).map_err(|source| TokenizerError::Io { path: path.to_path_buf(), source })?;
        let text = text.ok_or_else(|| TokenizerError::Unsupported {
            origin: origin.clone(),
            reason: format!("it has more than {} MiB", MAX_FILE_BYTES >> 20),
        })?;
        Ok(json::build(&text).map(Self::new).map_err(|problem| problem.of(origin))?)
    }

    /// Reads the text of a `tokenizer.json`, as [`from_file`](Self::from_file) reads the file.
    ///
    /// # Errors
    /// - [`TokenizerError::Invalid`] with what is wrong with the text
    /// - [`TokenizerError::Unsupported`] with what it asks for that is not done here
    pub fn from_json(text: &str) -> Result<Self> {
        Ok(json::build(text).map(Self::new).map_err(|problem| problem.of("tokenizer.json".to_string()))?)
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

    /// Returns this tokenizer with another policy for the special tokens found in a text.
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

    /// Returns the ids of `text`. A `tokenizer.json` that puts tokens around every text does so here (GPT-2 puts none).
    ///
    /// Takes time and memory in proportion to the text. One thread; [`encode_batch`](Self::encode_batch) uses several.
    ///
    /// # Errors
    /// - [`TokenizerError::SpecialToken`] under [`SpecialTokens::Refuse`]
    /// - [`TokenizerError::Encode`] for more than 4 GiB of text
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encoder()?.encode(text, self.special_tokens)?.into_ids())
    }

    /// Returns the ids of `text` as [`encode`](Self::encode) gives them, and the bytes that each one stands for.
    ///
    /// ```
    /// use candle_gpt_input::tokenizer::Tokenizer;
    ///
    /// let encoding = Tokenizer::gpt2().encode_with_offsets("a 🤗")?;
    /// assert_eq!(encoding.ids, [64, 12520, 97, 245]);
    /// assert_eq!(encoding.offsets, [0..1, 1..4, 4..5, 5..6]); // " " and two of the four bytes, then one each
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`TokenizerError::NoOffsets`] when the tokens do not spell the text, because the `tokenizer.json` has a normalizer
    ///   that changed it or a pre-tokenizer that drops some of it
    /// - [`TokenizerError::SpecialToken`] under [`SpecialTokens::Refuse`]
    /// - [`TokenizerError::Encode`] for more than 4 GiB of text
    #[doc(alias = "return_offsets_mapping")]
    pub fn encode_with_offsets(&self, text: &str) -> Result<Encoding> {
        let encoder = self.encoder()?;
        Ok(encoder.encode(text, self.special_tokens)?.with_offsets(text, encoder)?)
    }

    /// Returns the ids of each text, in order, as [`encode`](Self::encode) gives them; in parallel, on rayon's current threads.
    ///
    /// # Errors
    /// [`TokenizerError::Document`] with the index of the first text that fails, and why.
    pub fn encode_batch<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Vec<Vec<u32>>> {
        let encoder = self.encoder()?;
        let encode = |text: &S| encoder.encode(text.as_ref(), self.special_tokens).map(|draft| draft.into_ids());
        let encoded: Vec<Result<Vec<u32>, TokenizerError>> = texts.par_iter().map(encode).collect();
        let document = |(index, ids): (usize, Result<Vec<u32>, TokenizerError>)| {
            ids.map_err(|source| TokenizerError::Document { index, source: Box::new(source) }.into())
        };
        encoded.into_iter().enumerate().map(document).collect()
    }

    /// Returns the text of `ids`. Bytes that are no UTF-8, as a cut through a character leaves them, become `U+FFFD`.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`] with its place: nothing is dropped.
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

    /// Returns the bytes that token `id` stands for; `None` if there is no such token.
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

    /// Returns how many tokens there are, special ones included.
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

/// The text of a file, or `None` if it is larger than [`MAX_FILE_BYTES`].
fn read_capped(path: &Path) -> std::io::Result<Option<String>> {
    let mut text = String::new();
    let n_bytes = File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    Ok((n_bytes as u64 <= MAX_FILE_BYTES).then_some(text))
}
