//! Shared by the examples that read or write files of token ids: which tokenizer these are of, and their documents.

#![allow(dead_code)] // each example uses its own part

use std::path::Path;

use anyhow::Result;
use candle_gpt_input::data::corpus::{Corpus, CorpusFormat, CorpusOptions};
use candle_gpt_input::tokenizer::Tokenizer;
use sha2::{Digest, Sha256};

use crate::cli;

/// Returns one more than the largest id of a tokenizer: the size of its vocabulary, in which ids may be missing.
pub fn n_ids(tokenizer: &Tokenizer) -> Result<usize> {
    let most = u32::MAX as usize;
    Ok(most - tokenizer.unused_rows(most)?)
}

/// Identifies a tokenizer by its tokens, in order, as `corpus.json` states it.
pub fn hash_of(tokenizer: &Tokenizer) -> Result<String> {
    let mut hash = Sha256::new();
    for id in 0..n_ids(tokenizer)? as u32 {
        let token = tokenizer.token_bytes(id).unwrap_or_default();
        hash.update((token.len() as u64).to_le_bytes());
        hash.update(token);
    }
    Ok(cli::hex(hash.finalize()))
}

/// Opens a corpus once more, with the documents that something beside the ids states: an index, or `corpus.json`. Where
/// nothing does, `end_of_text` separates them; without it they are one document, or one of each file.
pub fn with_documents(
    corpus: Corpus,
    paths: &[impl AsRef<Path>],
    options: CorpusOptions,
    end_of_text: Option<u32>,
) -> Result<Corpus> {
    let token = match corpus.format() {
        CorpusFormat::Text => return Ok(corpus),
        CorpusFormat::Megatron => None,
        _ => corpus.about().map_or(end_of_text, |about| about.end_of_text),
    };
    Ok(Corpus::open(paths, &token.into_iter().fold(options, CorpusOptions::with_end_of_text))?)
}

/// Returns the tokenizer that a corpus is known to be of: the `tokenizer.json` beside its files, or GPT-2's if
/// `corpus.json` says so.
pub fn tokenizer_of(corpus: &Corpus) -> Result<Option<Tokenizer>> {
    let beside = corpus.files()[0].path.parent().unwrap_or(Path::new("")).join("tokenizer.json");
    if corpus.format() == CorpusFormat::Text {
        return Ok(Some(Tokenizer::gpt2().clone())); // that has encoded it
    }
    if beside.exists() {
        let own = Tokenizer::open(beside)?;
        corpus.check_fits(&hash_of(&own)?, usize::MAX)?;
        return Ok(Some(own));
    }
    let stated = corpus.about().map(|about| about.tokenizer.as_str());
    Ok(match stated {
        Some(stated) if stated == hash_of(Tokenizer::gpt2())? => Some(Tokenizer::gpt2().clone()),
        _ => None,
    })
}
