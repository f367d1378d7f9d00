//! Turns logits into text: chooses the next token of each row, and prints tokens as they come.

use std::io::Write;

use anyhow::{Context, Result, anyhow, ensure};
use candle_core::{DType, Tensor};
use candle_gpt_input::rng::Generator;
use candle_gpt_input::tokenizer::{DecodeStream, END_OF_TEXT, END_OF_TEXT_ID, Tokenizer};

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
        let next_token = |row: Vec<f32>| {
            check_logits(&row, logits.dtype())?;
            Ok(u32::try_from(self.next_token(row)?)?)
        };
        rows.into_iter().map(next_token).collect()
    }

    fn next_token(&self, mut logits: Vec<f32>) -> Result<usize> {
        if self.temperature == 0.0 {
            return likeliest(&logits, 1).first().copied().context("no logits");
        }
        logits.iter_mut().for_each(|logit| *logit /= self.temperature as f32);
        let ranked = likeliest(&logits, self.top_k.unwrap_or(1));
        let (Some(&first), Some(&last)) = (ranked.first(), ranked.last()) else { anyhow::bail!("no logits") };
        let (highest, lowest) = (logits[first], logits[last]);
        ensure!(
            highest.is_finite(),
            "--temperature {:?} makes the logits infinite: use 0 for the likeliest token",
            self.temperature
        );
        let is_candidate = |logit: f32| self.top_k.is_none() || logit >= lowest;
        let weight = |&logit: &f32| if is_candidate(logit) { (logit - highest).exp() } else { 0.0 };
        let weights: Vec<f32> = logits.iter().map(weight).collect();
        let sum: f32 = weights.iter().sum();
        let probabilities: Vec<f32> = weights.iter().map(|weight| weight / sum).collect();
        self.generator.multinomial(&probabilities, 1, false)?.first().copied().context("nothing drawn")
    }
}

/// Checks the logits of one row. Some may be -inf, by a mask or a bias of the head: their tokens have probability 0.
pub fn check_logits(row: &[f32], dtype: DType) -> Result<()> {
    // A NaN fails both comparisons. The first looks at all, which is faster than to stop where one fails.
    let is_below_inf = row.iter().fold(true, |so_far, &x| so_far & (x < f32::INFINITY));
    let is_usable = is_below_inf && row.iter().any(|&x| x > f32::NEG_INFINITY);
    if is_usable { Ok(()) } else { Err(not_finite(dtype)) }
}

/// Returns the error for logits that are NaN or infinite: it names the dtype to try.
pub fn not_finite(dtype: DType) -> anyhow::Error {
    let advice = match dtype {
        DType::F16 => "try --dtype bf16 or f32",
        DType::BF16 => "try --dtype f32",
        _ => "the weights are damaged",
    };
    anyhow!("the logits are NaN or infinite in {}: {advice}", dtype.as_str())
}

/// Returns the indices of the `n` largest of `logits`, largest first; equal ones in their order.
pub fn likeliest(logits: &[f32], n: usize) -> Vec<usize> {
    let larger = |&a: &usize, &b: &usize| logits[b].total_cmp(&logits[a]).then(a.cmp(&b));
    if n == 1 {
        return (0..logits.len()).min_by(larger).into_iter().collect(); // one pass, ten times as fast
    }
    let mut ids: Vec<usize> = (0..logits.len()).collect();
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
    let stream = tokenizer.map(Tokenizer::decode_stream);
    let mut rows = vec![Row { stream, n_tokens: 0, unwritten: String::new(), ended: false }; n_rows];
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
            only.write(out)?; // rows of a batch would tear each other apart
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
        row.end();
        row.write(out)?;
        writeln!(out)?;
    }
    let n_tokens: usize = rows.iter().map(|row| row.n_tokens).sum();
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
    /// `None` prints ids.
    stream: Option<DecodeStream<'a>>,
    n_tokens: usize,
    unwritten: String,
    ended: bool,
}

impl Row<'_> {
    fn add(&mut self, id: u32) -> Result<()> {
        let text = match &mut self.stream {
            Some(stream) => stream.step(id).context("pass --ids, or choose a tokenizer with --tokenizer PATH")?,
            None => Some(format!("{}{id}", if self.n_tokens == 0 { "" } else { "," })),
        };
        self.unwritten.extend(text);
        self.n_tokens += 1;
        Ok(())
    }

    /// Adds what is left of an incomplete character.
    fn end(&mut self) {
        self.unwritten.extend(self.stream.as_mut().and_then(DecodeStream::flush));
    }

    fn write(&mut self, out: &mut impl Write) -> Result<()> {
        write!(out, "{}", std::mem::take(&mut self.unwritten))?;
        Ok(out.flush()?)
    }
}
