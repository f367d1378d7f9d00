//! Shared by the examples that take text or ids: the tokenizer, and a batch padded on the left.

use std::path::Path;

use anyhow::Result;
use candle_core::{Device, Tensor};
use candle_gpt_input::checkpoint::Checkpoint;
use candle_gpt_input::tokenizer::{END_OF_TEXT_ID, Tokenizer};

/// Returns the tokenizer in the folder of weights, or else GPT-2's. `checkpoint` is what was opened at `weights`,
/// perhaps in a folder inside.
pub fn tokenizer_for(weights: &Path, checkpoint: &Checkpoint) -> Result<Tokenizer> {
    match checkpoint.file().parent().filter(|_| weights.is_dir()) {
        Some(folder) => tokenizer_in(folder),
        None => Ok(Tokenizer::gpt2().clone()),
    }
}

/// Returns the tokenizer in a folder, or else GPT-2's.
pub fn tokenizer_in(folder: &Path) -> Result<Tokenizer> {
    let file = folder.join("tokenizer.json");
    Ok(if file.is_file() { Tokenizer::from_file(file)? } else { Tokenizer::gpt2().clone() })
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
