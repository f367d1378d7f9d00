//! Turns logits into text: chooses the next token of each row, and prints tokens as they come.

use std::io::Write;

use anyhow::{Context, Result};
use candle_core::{DType, Tensor};
use candle_gpt_input::rng::Generator;
use candle_gpt_input::tokenizer::{END_OF_TEXT, END_OF_TEXT_ID, Tokenizer};

use crate::input::Batch;
use crate::model::{Gpt2, KvCache};

/// How the next token is chosen.
pub struct Sampling {
    /// 0 takes the likeliest token.
    pub temperature: f64,
    /// Draws among this many likeliest tokens only.
    pub top_k: Option<usize>,
    pub generator: Generator,
}

impl Sampling {
    /// Chooses one token for each row of `logits` `[B, V]`. With the same seed the draws are those of
    /// `torch.multinomial(softmax(logits / temperature), 1)`, from the first row to the last.
    fn next_tokens(&self, logits: &Tensor) -> Result<Vec<u32>> {
        let rows = logits.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        rows.into_iter().map(|row| Ok(u32::try_from(self.next_token(row)?)?)).collect()
    }

    fn next_token(&self, mut logits: Vec<f32>) -> Result<usize> {
        if self.temperature == 0.0 {
            return likeliest(&logits, 1).first().copied().context("no logits");
        }
        logits.iter_mut().for_each(|logit| *logit /= self.temperature as f32);
        let ranked = likeliest(&logits, self.top_k.unwrap_or(1));
        let (Some(&first), Some(&last)) = (ranked.first(), ranked.last()) else { anyhow::bail!("no logits") };
        let (highest, lowest) = (logits[first], logits[last]);
        let is_candidate = |logit: f32| self.top_k.is_none() || logit >= lowest;
        let weight = |&logit: &f32| if is_candidate(logit) { (logit - highest).exp() } else { 0.0 };
        let weights: Vec<f32> = logits.iter().map(weight).collect();
        let sum: f32 = weights.iter().sum();
        let probabilities: Vec<f32> = weights.iter().map(|weight| weight / sum).collect();
        self.generator.multinomial(&probabilities, 1, false)?.first().copied().context("nothing drawn")
    }
}

/// Returns the indices of the `n` largest of `logits`, largest first; equal ones in their order.
pub fn likeliest(logits: &[f32], n: usize) -> Vec<usize> {
    let mut ids: Vec<usize> = (0..logits.len()).collect();
    let larger = |&a: &usize, &b: &usize| logits[b].total_cmp(&logits[a]).then(a.cmp(&b));
    let n = n.min(ids.len());
    if n < ids.len() {
        ids.select_nth_unstable_by(n, larger);
    }
    ids.truncate(n);
    ids.sort_by(larger);
    ids
}

/// Adds up to `max_new_tokens` tokens to every row, until each has reached the end of the text.
pub fn generate(
    model: &Gpt2,
    batch: &Batch,
    max_new_tokens: usize,
    sampling: &Sampling,
    tokenizer: Option<&Tokenizer>,
    out: &mut impl Write,
) -> Result<()> {
    let n_rows = batch.n_padding.len();
    let mask = batch.is_padded().then_some(&batch.attention_mask);
    let end_of_text = match model.input().config().extra::<serde_json::Value>("eos_token_id")? {
        Some(id) => id.as_u64(),
        None => tokenizer.map_or(Some(END_OF_TEXT_ID), |own| own.special_token_id(END_OF_TEXT)).map(u64::from),
    };
    let mut rows = vec![Row { tokenizer, ids: Vec::new(), unwritten: Vec::new(), ended: false }; n_rows];
    let mut cache = KvCache::default();
    let mut input_ids = batch.input_ids.clone();
    let start = std::time::Instant::now();
    let (mut first, mut n_steps) = (0.0, 0);
    while n_steps < max_new_tokens && rows.iter().any(|row| !row.ended) {
        let hidden_states = model.hidden_states(&input_ids, mask, Some(&mut cache))?;
        let (_, t, _) = hidden_states.dims3()?;
        // The head is the most expensive matrix of the model: only the last column goes through it.
        let logits = model.lm_head().forward(&hidden_states.narrow(1, t - 1, 1)?.contiguous()?)?.squeeze(1)?;
        let next = sampling.next_tokens(&logits)?;
        for (row, &id) in rows.iter_mut().zip(&next) {
            row.ended |= Some(u64::from(id)) == end_of_text;
            if !row.ended {
                row.add(id)?;
            }
        }
        if let [only] = rows.as_mut_slice() {
            only.write(false, out)?; // rows of a batch would tear each other apart
        }
        input_ids = Tensor::from_vec(next, (n_rows, 1), input_ids.device())?;
        n_steps += 1;
        if n_steps == 1 {
            first = start.elapsed().as_secs_f64();
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    for (i, row) in rows.iter_mut().enumerate() {
        if n_rows > 1 {
            write!(out, "[{i}] ")?;
        }
        row.write(true, out)?;
        writeln!(out)?;
    }
    let n_tokens: usize = rows.iter().map(|row| row.ids.len()).sum();
    let step = (seconds - first) / (n_steps.max(2) - 1) as f64;
    let rate = n_tokens as f64 / seconds;
    writeln!(
        out,
        "{n_tokens} tokens in {seconds:.2} s: {rate:.1} tokens/s (first after {:.1} ms, then {:.2} ms a step)",
        first * 1e3,
        step * 1e3
    )?;
    Ok(())
}

/// The tokens generated for one row, and the part that is not printed yet.
#[derive(Clone)]
struct Row<'a> {
    tokenizer: Option<&'a Tokenizer>,
    ids: Vec<u32>,
    unwritten: Vec<u8>,
    ended: bool,
}

impl Row<'_> {
    fn add(&mut self, id: u32) -> Result<()> {
        match self.tokenizer {
            Some(tokenizer) => {
                let bytes = tokenizer.token_bytes(id);
                self.unwritten.extend(bytes.with_context(|| format!("the tokenizer knows no token {id}: pass --ids"))?);
            }
            None => {
                let comma = if self.ids.is_empty() { "" } else { "," };
                self.unwritten.extend(format!("{comma}{id}").bytes());
            }
        }
        self.ids.push(id);
        Ok(())
    }

    /// Prints all complete characters, and at the end whatever is left of an incomplete one.
    fn write(&mut self, at_end: bool, out: &mut impl Write) -> Result<()> {
        let n_whole = match std::str::from_utf8(&self.unwritten) {
            Err(error) if !at_end && error.error_len().is_none() => error.valid_up_to(),
            _ => self.unwritten.len(),
        };
        let rest = self.unwritten.split_off(n_whole);
        write!(out, "{}", String::from_utf8_lossy(&std::mem::replace(&mut self.unwritten, rest)))?;
        Ok(out.flush()?)
    }
}
