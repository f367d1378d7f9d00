//! The texts of a run.

use std::path::PathBuf;

use anyhow::Result;
use candle_gpt_input::data::Tokens;
use candle_gpt_input::tokenizer::{END_OF_TEXT_ID, Tokenizer};

use crate::{cli, hashes};

/// What tells the texts of a run from others.
pub struct Texts {
    pub paths: Vec<PathBuf>,
    /// The hash of each, as a line.
    pub lines: Vec<String>,
}

/// Reads all texts as one document, with `<|endoftext|>` between them.
pub fn read(paths: &[PathBuf]) -> Result<(Texts, Tokens)> {
    let texts = paths.iter().map(|path| cli::read_text(path)).collect::<Result<Vec<String>>>()?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let line = |(path, text): (&PathBuf, &&str)| hashes::line(&path.to_string_lossy(), text.as_bytes());
    let lines = paths.iter().zip(&texts).map(line).collect();
    let tokens = Tokens::from_documents(Tokenizer::gpt2().encode_batch(&texts)?).joined(&[END_OF_TEXT_ID]);
    Ok((Texts { paths: paths.to_vec(), lines }, tokens))
}
