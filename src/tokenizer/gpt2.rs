//! GPT-2's vocabulary, compiled in.

use std::sync::Arc;

use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::vocab::bucket_added_vocabulary::AddedToken;

use super::added::AddedTokens;
use super::encode::{Encoder, Plain};
use super::frame::Frame;
use super::merges::Merges;
use super::vocabulary::{Spelling, TokenBytes, byte_alphabet};
use super::words::WordEncoder;

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

/// Builds GPT-2's tokens and their encoder.
///
/// The tests check the compiled-in merges, so the error does not occur.
pub(super) fn build() -> (Arc<TokenBytes>, Result<Encoder, String>) {
    let (tokens, left_lens) = tokens();
    let encoder = encoder(tokens.clone(), &left_lens);
    (tokens, encoder)
}

/// Returns GPT-2's tokens (256 bytes, then one for each merge, then the end of text), and how many bytes the left half
/// of each has, 0 if no merge gives it.
pub(super) fn tokens() -> (Arc<TokenBytes>, Vec<usize>) {
    let n_tokens = END_OF_TEXT_ID as usize + 1;
    let mut tokens = TokenBytes::with_capacity(n_tokens, MERGES.len());
    let mut left_lens = vec![0; n_tokens];
    for (id, (byte, _)) in (0..).zip(byte_alphabet()) {
        tokens.insert(id, &[byte]);
    }
    let spelling = Spelling::new();
    let pairs = MERGES.lines().skip(1).filter_map(|line| line.split_once(' ')); // the first line is a version
    for (id, (left, right)) in (256..END_OF_TEXT_ID).zip(pairs) {
        tokens.insert(id, &spelling.read(&[left, right].concat()));
        left_lens[id as usize] = left.chars().count(); // a character spells a byte
    }
    tokens.insert(END_OF_TEXT_ID, END_OF_TEXT.as_bytes());
    (Arc::new(tokens), left_lens)
}

fn encoder(tokens: Arc<TokenBytes>, left_lens: &[usize]) -> Result<Encoder, String> {
    let added = AddedTokens::new(vec![(END_OF_TEXT_ID, AddedToken::from(END_OF_TEXT, true))], &Frame::default())?;
    let split = Split::native(SplitPattern::Regex(PATTERN.to_string()), SplitDelimiterBehavior::Isolated, false)
        .map_err(|error| error.to_string())?;
    let words = WordEncoder::new(split, Merges::new(tokens.clone(), left_lens)?);
    Ok(Encoder::new(Plain::Words(Box::new(words)), added, tokens))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_merges_that_are_compiled_in_are_taken() {
        let (tokens, encoder) = build();
        assert_eq!((tokens.len(), encoder.err()), (50257, None));
        assert_eq!(tokens.get(END_OF_TEXT_ID - 1), Some(&b" gazed"[..]));
    }
}
