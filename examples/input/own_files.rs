//! A model's own tokenizer, and its files.

use std::path::Path;

use anyhow::Result;
use candle_gpt_input::checkpoint::Checkpoint;
use candle_gpt_input::tokenizer::Tokenizer;

use crate::corpora::{self, Files};
use crate::input;

/// Returns a model's own tokenizer, inside its file or beside it, and its files.
pub fn own(checkpoint: &Checkpoint, weights: &Path) -> Result<Option<(Tokenizer, Files)>> {
    if let Some((tokenizer, text)) = input::inside(checkpoint)? {
        return Ok(Some((tokenizer, vec![("tokenizer.json", text.into_bytes())])));
    }
    let Some((tokenizer, path)) = input::beside(weights, checkpoint)? else { return Ok(None) };
    Ok(Some((tokenizer, corpora::files_at(path)?)))
}
