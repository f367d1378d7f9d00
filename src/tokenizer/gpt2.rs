//! GPT-2's vocabulary, compiled in.

use std::sync::Arc;

use tokenizers::models::bpe::{BpeConfig, Merges, PipelineBPE, Vocab};
use tokenizers::pipeline::{PipelineModel, PipelinePostProcessor, PipelinePreTokenizer, PipelineTokenizer};
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::vocab::bucket_added_vocabulary::AddedToken;

use super::added::AddedTokens;
use super::encode::Encoder;
use super::frame::Frame;
use super::vocabulary::{Spelling, TokenBytes, byte_alphabet};

/// OpenAI's merges, in order, which define the vocabulary (`weights/README.md` names the source of the file).
const MERGES: &str = include_str!("../../weights/gpt2-tokenizer/vocab.bpe");
/// GPT-2's pattern for cutting text into words before merging (`encoder.py` of openai/gpt-2).
const PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Names the token between documents, the last of GPT-2's vocabulary.
#[doc(alias = "eos_token")]
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// Gives the id of [`END_OF_TEXT`] in GPT-2's vocabulary.
#[doc(alias = "eos_token_id")]
pub const END_OF_TEXT_ID: u32 = 50256;

/// Builds GPT-2's tokens (256 bytes, then one for each merge, then the end of text) and the library's encoder.
///
/// The tests check that the library accepts the compiled-in merges, so the error does not occur.
pub(super) fn build() -> (Arc<TokenBytes>, Result<Encoder, String>) {
    let n_tokens = END_OF_TEXT_ID as usize + 1;
    let mut vocab = Vocab::with_capacity(n_tokens);
    let mut merges = Merges::with_capacity(n_tokens);
    let mut tokens = TokenBytes::with_capacity(n_tokens, MERGES.len());
    for (id, (byte, character)) in (0u32..).zip(byte_alphabet()) {
        vocab.insert(character.to_string(), id);
        tokens.insert(id, &[byte]);
    }
    let spelling = Spelling::new();
    let pairs = MERGES.lines().skip(1).filter_map(|line| line.split_once(' ')); // the first line is a version
    for (id, (left, right)) in (256u32..).zip(pairs) {
        let merged = [left, right].concat();
        tokens.insert(id, &spelling.read(&merged));
        vocab.insert(merged, id);
        merges.push((left.to_string(), right.to_string()));
    }
    tokens.insert(END_OF_TEXT_ID, END_OF_TEXT.as_bytes());
    let tokens = Arc::new(tokens);
    let encoder = encoder(vocab, merges, tokens.clone());
    (tokens, encoder)
}

fn encoder(vocab: Vocab, merges: Merges, tokens: Arc<TokenBytes>) -> Result<Encoder, String> {
    let added = AddedTokens::new(vec![(END_OF_TEXT_ID, AddedToken::from(END_OF_TEXT, true))], &Frame::default())?;
    let config = BpeConfig { vocab, merges, byte_level: true, ..BpeConfig::default() };
    let model = PipelineBPE::from_config(config).map_err(|error| error.to_string())?;
    let split = Split::native(SplitPattern::Regex(PATTERN.to_string()), SplitDelimiterBehavior::Isolated, false)
        .map_err(|error| error.to_string())?;
    let plain = PipelineTokenizer::from_parts(
        Default::default(), // `Encoder` finds special tokens
        Vec::new(),
        PipelinePreTokenizer::Split(split),
        PipelineModel::BPE(model),
        PipelinePostProcessor::default(),
        None, // `TokenBytes` holds the bytes
        Default::default(),
        None,
        None,
    );
    Ok(Encoder::new(plain, added, tokens))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_takes_the_merges_that_are_compiled_in() {
        let (tokens, encoder) = build();
        assert_eq!((tokens.len(), encoder.err()), (50257, None));
        assert_eq!(tokens.get(END_OF_TEXT_ID - 1), Some(&b" gazed"[..]));
    }
}
