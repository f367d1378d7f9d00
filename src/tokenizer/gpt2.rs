//! GPT-2's vocabulary, compiled in.

use tokenizers::models::bpe::{BpeConfig, Merges, PipelineBPE, Vocab};
use tokenizers::pipeline::{PipelineModel, PipelinePostProcessor, PipelinePreTokenizer, PipelineTokenizer};
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::vocab::bucket_added_vocabulary::AddedToken;

use super::added::AddedTokens;
use super::encode::Encoder;
use super::vocabulary::{Spelling, TokenBytes, byte_alphabet};

/// OpenAI's merges, in order; the vocabulary follows from them (`weights/README.md` says where the file came from).
const MERGES: &str = include_str!("../../weights/gpt2-tokenizer/vocab.bpe");
/// How GPT-2 cuts text into words before it merges (`encoder.py` of openai/gpt-2).
const PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// The token that stands between documents, the last of GPT-2's vocabulary.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// The id of [`END_OF_TEXT`] in GPT-2's vocabulary.
pub const END_OF_TEXT_ID: u32 = 50256;

/// GPT-2's ids: 0 to 255 the bytes, then one token a merge, then the end of text.
pub(super) fn build() -> Result<Encoder, String> {
    let n_tokens = END_OF_TEXT_ID as usize + 1;
    let mut vocab = Vocab::with_capacity(n_tokens);
    let mut merges = Merges::with_capacity(n_tokens);
    let mut tokens = TokenBytes::with_capacity(n_tokens, MERGES.len());
    for (id, (byte, character)) in (0u32..).zip(byte_alphabet()) {
        vocab.insert(character.to_string(), id);
        tokens.insert(id, &[byte]);
    }
    let spelling = Spelling::new();
    let lines = MERGES.lines().skip(1).filter(|line| !line.is_empty()); // the first line is a version
    for (id, line) in (256u32..).zip(lines) {
        let (left, right) = line.split_once(' ').ok_or_else(|| format!("merge `{line}` is no pair"))?;
        let merged = [left, right].concat();
        tokens.insert(id, &spelling.read(&merged));
        vocab.insert(merged, id);
        merges.push((left.to_string(), right.to_string()));
    }
    tokens.insert(END_OF_TEXT_ID, END_OF_TEXT.as_bytes());
    let added = AddedTokens::new(vec![(END_OF_TEXT_ID, AddedToken::from(END_OF_TEXT, true))], &[])?;
    let config = BpeConfig { vocab, merges, byte_level: true, ..BpeConfig::default() };
    let model = PipelineBPE::from_config(config).map_err(|error| error.to_string())?;
    let split = Split::native(SplitPattern::Regex(PATTERN.to_string()), SplitDelimiterBehavior::Isolated, false)
        .map_err(|error| error.to_string())?;
    let plain = PipelineTokenizer::from_parts(
        Default::default(), // special tokens are found here, see `Encoder`
        Vec::new(),
        PipelinePreTokenizer::Split(split),
        PipelineModel::BPE(model),
        PipelinePostProcessor::default(),
        None, // `TokenBytes` knows the bytes
        Default::default(),
        None,
        None,
    );
    Ok(Encoder::new(plain, added, None, tokens))
}
