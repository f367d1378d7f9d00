//! Shared by the examples that read or write files of token ids: which tokenizer these are of, and their documents.

#![allow(dead_code)] // each example uses its own part

mod tokenizer;

use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_gpt_input::data::corpus::{Corpus, CorpusFormat, CorpusOptions};
use candle_gpt_input::error::Shown;
use candle_gpt_input::tokenizer::{END_OF_TEXT, Tokenizer};

#[allow(unused_imports)]
pub use tokenizer::{Files, files_at, files_of, hash_of, keep_beside, n_ids, names, tokenizer_of};

/// What to do about ids of another tokenizer.
const ADVICE: &str = "choose the tokenizer that wrote the ids (`--tokenizer`)";

/// Returns the id of the token of `--end-of-text`.
pub fn end_of_text(tokenizer: &Tokenizer, token: &str) -> Result<u32> {
    tokenizer.special_token_id(token).with_context(|| {
        format!("--end-of-text {}: the tokenizer has no such special token: choose another", Shown::name(token))
    })
}

/// Checks that a corpus is of a tokenizer, and that a table of `n_rows` rows has one for each of its ids.
pub fn check_fits(corpus: &Corpus, tokenizer: &Tokenizer, n_rows: usize) -> Result<()> {
    let hash = hash_of(tokenizer)?;
    corpus.check_fits(&hash, n_rows)?;
    if corpus.about().is_some() || corpus.format() == CorpusFormat::Text {
        return Ok(());
    }
    let path = Shown::path(&corpus.files()[0].path).to_string();
    if let Some(characters) = corpus.characters() {
        let own = tokenizer::of_characters(characters).with_context(|| path.clone())?;
        if hash_of(&own.0)? != hash {
            bail!(
                "{path}: meta.pkl states ids of {} characters, not of the tokenizer given: {ADVICE}",
                characters.len()
            );
        }
    }
    let n_tokens = n_ids(tokenizer)?;
    match corpus.vocab_size().filter(|vocab_size| *vocab_size < n_tokens) {
        Some(n) => {
            bail!("{path}: meta.pkl states a vocabulary of {n}, but the tokenizer has {n_tokens} tokens: {ADVICE}")
        }
        None => Ok(()),
    }
}

/// Opens a corpus once more, with the documents that something beside the ids states: an index, or `corpus.json`. Where
/// nothing does, `end_of_text` separates them; without it they are one document, or one of each file. Each text ends
/// with it, or else with `<|endoftext|>`, if the tokenizer has that.
pub fn with_documents(
    corpus: Corpus,
    paths: &[impl AsRef<Path>],
    options: CorpusOptions,
    end_of_text: Option<u32>,
) -> Result<Corpus> {
    let token = match corpus.format() {
        CorpusFormat::Text => {
            let tokenizer = options.tokenizer.as_ref().unwrap_or_else(|| Tokenizer::gpt2());
            end_of_text.or_else(|| tokenizer.special_token_id(END_OF_TEXT))
        }
        CorpusFormat::Megatron => None,
        _ => corpus.about().map_or(end_of_text, |about| about.end_of_text),
    };
    drop(corpus);
    Ok(Corpus::open(paths, &token.into_iter().fold(options, CorpusOptions::with_end_of_text))?)
}
