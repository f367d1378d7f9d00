//! Shared by the examples that take text or ids: the tokenizer, and a batch padded on the left.

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use candle_gpt_input::checkpoint::Checkpoint;
use candle_gpt_input::error::Shown;
use candle_gpt_input::tokenizer::{END_OF_TEXT_ID, Tokenizer};

/// Returns the tokenizer at the path of `--tokenizer`, or else `own`: the model's, or GPT-2's where it has none.
pub fn tokenizer(
    path: Option<&Path>,
    own: impl FnOnce() -> Result<Option<Tokenizer>>,
    checkpoint: &Checkpoint,
) -> Result<Tokenizer> {
    let advice = "choose a tokenizer with --tokenizer PATH, or pass ids";
    let n_rows = checkpoint.config()?.vocab_size;
    match path {
        Some(path) => fitting(Tokenizer::open(path)?, &path.display().to_string(), n_rows, advice),
        None => own_or_gpt2(own(), n_rows, advice),
    }
}

/// Returns the model's tokenizer, or GPT-2's where it has none. An error gives `advice`.
pub fn own_or_gpt2(own: Result<Option<Tokenizer>>, n_rows: usize, advice: &str) -> Result<Tokenizer> {
    match own.with_context(|| format!("the model's tokenizer cannot be used: {advice}"))? {
        Some(tokenizer) => fitting(tokenizer, "the model's tokenizer", n_rows, advice),
        None => fitting(Tokenizer::gpt2().clone(), "GPT-2's tokenizer (the model has none)", n_rows, advice),
    }
}

/// Returns a tokenizer whose ids all have a row of the table. Says how many rows have none, if these are more than
/// padding.
pub fn fitting(tokenizer: Tokenizer, whose: &str, n_rows: usize, advice: &str) -> Result<Tokenizer> {
    let n_unused = tokenizer.unused_rows(n_rows).with_context(|| format!("{whose} does not fit: {advice}"))?;
    if n_rows > (n_rows - n_unused).next_multiple_of(PADDED_TO) {
        let n_used = n_rows - n_unused;
        crate::cli::note(format_args!("note: {whose} has ids for {n_used} of the table's {n_rows} rows only"));
    }
    Ok(tokenizer)
}

/// A table may have rows that no token uses, up to a multiple of this (nanoGPT, llm.c, Megatron).
const PADDED_TO: usize = 128;

/// Returns the tokenizer of the weights that were opened at `weights`, inside their file or beside it.
pub fn own(weights: &Path, checkpoint: &Checkpoint) -> Result<Option<Tokenizer>> {
    match inside(checkpoint)? {
        Some((tokenizer, _)) => Ok(Some(tokenizer)),
        None => Ok(beside(weights, checkpoint)?.map(|(tokenizer, _)| tokenizer)),
    }
}

/// Returns the tokenizer inside the file of weights, and its text as a `tokenizer.json`.
pub fn inside(checkpoint: &Checkpoint) -> Result<Option<(Tokenizer, String)>> {
    let Some(text) = checkpoint.tokenizer_json()? else { return Ok(None) };
    let fault = || format!("inside {}", Shown::path(checkpoint.file()));
    Ok(Some((Tokenizer::from_json(&text).with_context(fault)?, text)))
}

/// Returns the tokenizer beside the weights, and the folder, or a file in it, that [`Tokenizer::beside`] found it by.
pub fn beside<'a>(weights: &'a Path, checkpoint: &'a Checkpoint) -> Result<Option<(Tokenizer, &'a Path)>> {
    for path in [checkpoint.file(), weights] {
        if let Some(tokenizer) = Tokenizer::beside(path)? {
            return Ok(Some((tokenizer, path)));
        }
    }
    Ok(None)
}

/// Rows of ids as one tensor `[B, T]`, on the host, and the mask `[B, T]` of their tokens.
pub struct Batch {
    pub input_ids: Tensor,
    pub attention_mask: Tensor,
    /// How many columns of each row are padding.
    pub n_padding: Vec<usize>,
}

impl Batch {
    /// Pads the shorter rows on the left, so that the last column of every row is its last token, as generation needs
    /// it.
    pub fn left_padded(rows: &[Vec<i64>], vocab_size: usize) -> Result<Self> {
        let n_tokens = rows.iter().map(Vec::len).max().unwrap_or(0);
        let n_padding: Vec<usize> = rows.iter().map(|row| n_tokens - row.len()).collect();
        // GPT-2 has no padding token. Any valid id will do; the end of text is the usual choice.
        let pad_id = i64::from(END_OF_TEXT_ID).min(vocab_size as i64 - 1);
        let padded = |(row, &n): (&Vec<i64>, &usize)| [vec![pad_id; n], row.clone()].concat();
        let flat: Vec<i64> = rows.iter().zip(&n_padding).flat_map(padded).collect();
        let is_token = n_padding.iter().flat_map(|&n| (0..n_tokens).map(move |column| u8::from(column >= n)));
        Ok(Self {
            input_ids: Tensor::from_vec(flat, (rows.len(), n_tokens), &Device::Cpu)?,
            attention_mask: Tensor::from_vec(is_token.collect::<Vec<_>>(), (rows.len(), n_tokens), &Device::Cpu)?,
            n_padding,
        })
    }

    /// Returns whether any row is shorter than the longest.
    pub fn is_padded(&self) -> bool {
        self.n_padding.iter().any(|&n| n > 0)
    }
}
