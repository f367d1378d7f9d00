//! [`Tokenizer`]: text ↔ token ids. GPT-2's byte-pair encoding is compiled in; any byte-level BPE `tokenizer.json` can be
//! read instead.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;
use tokenizers::models::bpe::{BpeConfig, Merges, PipelineBPE, Vocab};
use tokenizers::pipeline::{
    EncodeOptions, NormalizerChain, PipelineModel, PipelinePostProcessor, PipelinePreTokenizer, PipelineTokenizer,
};
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::vocab::bucket_added_vocabulary::{AddedToken, AddedVocabulary};

use crate::error::{Result, TokenizerError};

/// OpenAI's merges, in order; the vocabulary follows from them (`weights/README.md` says where the file came from).
const GPT2_MERGES: &str = include_str!("../weights/gpt2-tokenizer/vocab.bpe");
/// How GPT-2 cuts text into words before it merges (`encoder.py` of openai/gpt-2).
const GPT2_PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// The token that stands between documents, the last of GPT-2's vocabulary.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// The id of [`END_OF_TEXT`] in GPT-2's vocabulary.
pub const END_OF_TEXT_ID: u32 = 50256;
/// The largest id that a `tokenizer.json` may use: the library allocates in proportion to it.
const MAX_ID: u64 = (1 << 24) - 1;

/// Turns text into token ids and back.
///
/// ```
/// use candle_gpt_input::tokenizer::Tokenizer;
///
/// let tokenizer = Tokenizer::gpt2()?;
/// let ids = tokenizer.encode("Hello, do you like tea?")?;
/// assert_eq!(ids, [15496, 11, 466, 345, 588, 8887, 30]);
/// assert_eq!(tokenizer.decode(&ids)?, "Hello, do you like tea?");
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone)]
pub struct Tokenizer {
    pipeline: PipelineTokenizer,
    tokens: TokenBytes,
}

impl Tokenizer {
    /// GPT-2's tokenizer, built on first use, once a process, from what is compiled in.
    ///
    /// # Errors
    /// None in practice: the vocabulary is part of the binary, and the tests build it.
    pub fn gpt2() -> Result<&'static Self> {
        static GPT2: OnceLock<Result<Tokenizer, String>> = OnceLock::new();
        let built = GPT2.get_or_init(|| build_gpt2(GPT2_MERGES));
        Ok(built.as_ref().map_err(|reason| invalid("the built-in GPT-2 vocabulary", reason))?)
    }

    /// Reads a Hugging Face `tokenizer.json` of a byte-level BPE, of any version.
    ///
    /// # Errors
    /// [`TokenizerError::Io`], or [`TokenizerError::Invalid`] with what is wrong or not supported.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text =
            std::fs::read_to_string(path).map_err(|source| TokenizerError::Io { path: path.to_path_buf(), source })?;
        Ok(build_from_json(&text).map_err(|reason| invalid(&path.display().to_string(), &reason))?)
    }

    /// The ids of `text`, as Hugging Face's `tokenizer(text)` gives them: special tokens such as `<|endoftext|>` in the text
    /// are recognised, and a `tokenizer.json` that puts tokens around every text does so here (GPT-2 puts none).
    ///
    /// # Errors
    /// [`TokenizerError::Encode`] for more than 4 GiB of text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 4);
        self.pipeline
            .encode_into(text, &EncodeOptions::default(), &mut ids)
            .map_err(|error| TokenizerError::Encode { reason: error.to_string() })?;
        Ok(ids.into_iter().map(|token| token.id()).collect())
    }

    /// The text of `ids`. Bytes that are no UTF-8, as a cut through a character leaves them, become `U+FFFD`.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`] with its place: nothing is dropped.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for (at, &id) in ids.iter().enumerate() {
            let token = self.tokens.get(id);
            bytes.extend(token.ok_or(TokenizerError::UnknownId { id, at, vocab_size: self.vocab_size() })?);
        }
        Ok(match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        })
    }

    /// The bytes that token `id` stands for; `None` if there is no such token.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.tokens.get(id)
    }

    /// How many tokens there are, special ones included.
    pub fn vocab_size(&self) -> usize {
        self.tokens.spans.len()
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

/// What each token decodes to: one slab of bytes, and where in it each id's are.
#[derive(Clone, Default)]
struct TokenBytes {
    slab: Vec<u8>,
    spans: HashMap<u32, (usize, usize)>,
}

impl TokenBytes {
    fn insert(&mut self, id: u32, bytes: impl IntoIterator<Item = u8>) {
        let start = self.slab.len();
        self.slab.extend(bytes);
        self.spans.insert(id, (start, self.slab.len()));
    }

    fn get(&self, id: u32) -> Option<&[u8]> {
        self.spans.get(&id).map(|&(start, end)| &self.slab[start..end])
    }
}

fn invalid(origin: &str, reason: &str) -> TokenizerError {
    TokenizerError::Invalid { origin: origin.to_string(), reason: reason.to_string() }
}

/// The alphabet in which byte-level BPE spells bytes as printable characters, in the order of GPT-2's first 256 ids
/// (`bytes_to_unicode` of openai/gpt-2): printable Latin-1 stands for itself, the others for U+0100 and up.
fn byte_alphabet() -> impl Iterator<Item = (u8, char)> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let themselves = (0..=u8::MAX).filter(printable).map(|byte| (byte, char::from(byte)));
    let shifted = (0..=u8::MAX).filter(move |byte| !printable(byte)).zip('\u{100}'..);
    themselves.chain(shifted)
}

/// The bytes of a token spelt in the byte alphabet; a token with a character outside it stands for its own UTF-8.
fn spelt_bytes(token: &str, alphabet: &HashMap<char, u8>) -> Vec<u8> {
    let bytes: Option<Vec<u8>> = token.chars().map(|c| alphabet.get(&c).copied()).collect();
    bytes.unwrap_or_else(|| token.as_bytes().to_vec())
}

/// GPT-2's ids: 0 to 255 the bytes, then one token a merge, then the end of text.
fn build_gpt2(merges_file: &str) -> Result<Tokenizer, String> {
    let mut vocab = Vocab::default();
    let mut merges = Merges::new();
    let mut tokens = TokenBytes::default();
    let mut alphabet = HashMap::new();
    for (id, (byte, character)) in (0u32..).zip(byte_alphabet()) {
        vocab.insert(character.to_string(), id);
        tokens.insert(id, [byte]);
        alphabet.insert(character, byte);
    }
    let lines = merges_file.lines().skip(1).filter(|line| !line.is_empty()); // the first line is a version
    for (id, line) in (256u32..).zip(lines) {
        let (left, right) = line.split_once(' ').ok_or_else(|| format!("merge `{line}` is no pair"))?;
        let merged = format!("{left}{right}");
        tokens.insert(id, spelt_bytes(&merged, &alphabet));
        vocab.insert(merged, id);
        merges.push((left.to_string(), right.to_string()));
    }
    tokens.insert(END_OF_TEXT_ID, END_OF_TEXT.bytes());
    let mut special = AddedVocabulary::new();
    special
        .add_tokens([AddedToken::from(END_OF_TEXT, true)], vocab.len(), |_| None, None::<&NormalizerChain<'_>>)
        .map_err(|error| error.to_string())?;
    let split = Split::native(SplitPattern::Regex(GPT2_PATTERN.to_string()), SplitDelimiterBehavior::Isolated, false)
        .map_err(|error| error.to_string())?;
    let config = BpeConfig { vocab, merges, byte_level: true, ..BpeConfig::default() };
    let model = PipelineBPE::from_config(config).map_err(|error| error.to_string())?;
    let pipeline = PipelineTokenizer::from_parts(
        special,
        Vec::new(),
        PipelinePreTokenizer::Split(split),
        PipelineModel::BPE(model),
        PipelinePostProcessor::default(),
        None, // `Tokenizer::decode` knows the bytes itself
        Default::default(),
        None,
        None,
    );
    Ok(Tokenizer { pipeline, tokens })
}

fn build_from_json(text: &str) -> Result<Tokenizer, String> {
    let mut json: Value = serde_json::from_str(text).map_err(|error| format!("not valid JSON: {error}"))?;
    tokenizers::canonicalize_value(&mut json).map_err(|error| error.to_string())?;
    let model = &json["model"];
    if model["type"] != "BPE" || model["byte_level"] != true {
        let kind = model["type"].as_str().unwrap_or("unnamed");
        return Err(format!(
            "its model is a {kind} that is not byte-level; only byte-level BPE (GPT-2's kind) is supported"
        ));
    }
    let alphabet: HashMap<char, u8> = byte_alphabet().map(|(byte, character)| (character, byte)).collect();
    let mut tokens = TokenBytes::default();
    for (token, id) in model["vocab"].as_object().into_iter().flatten() {
        tokens.insert(checked_id(token, id)?, spelt_bytes(token, &alphabet));
    }
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        let content = added["content"].as_str().ok_or("an added token has no `content`")?;
        tokens.insert(checked_id(content, &added["id"])?, content.bytes());
    }
    let pipeline = tokenizers::from_json(&json.to_string()).map_err(|error| error.to_string())?;
    Ok(Tokenizer { pipeline, tokens })
}

fn checked_id(token: &str, id: &Value) -> Result<u32, String> {
    match id.as_u64() {
        Some(id) if id <= MAX_ID => Ok(id as u32),
        _ => Err(format!("token {token:?} has the id {id}, expected a whole number up to {MAX_ID}")),
    }
}
