//! The perplexity of a text, by windows that overlap.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use candle_gpt_input::lm_head::{LossOptions, Reduction};

use crate::generate::not_finite;
use crate::model::Gpt2;

/// Prints the perplexity of a text, `exp(Σ -ln p(token | tokens before it in its window) / n)` over the `n` tokens that
/// are predicted.
///
/// A window is as long as the model allows and begins `stride` tokens after the one before it. It predicts its tokens
/// that no window before it held; a window's first token has none before it and is never predicted. So windows that
/// overlap predict every token but the first, each with at least `n_positions - stride` tokens before it (in the first
/// window fewer). These are the windows of Hugging Face's guide "Perplexity of fixed-length models". It multiplies the
/// mean loss of each window by its new tokens less one, also where all of them are predicted: that sum is printed too.
pub fn perplexity(model: &Gpt2, ids: &[i64], stride: Option<usize>, out: &mut impl Write) -> Result<()> {
    let (n_tokens, length) = (ids.len(), model.input().config().n_positions);
    let stride = stride.unwrap_or(length.div_ceil(2));
    ensure!((1..=length).contains(&stride), "--stride {stride}: a window has {length} tokens, use 1 to {length}");
    ensure!(n_tokens.min(length) > 1, "{n_tokens} tokens in windows of {length} predict none: both need at least 2");
    let n_windows = 1 + n_tokens.saturating_sub(length).div_ceil(stride);
    let mut progress = Progress::new(n_windows);
    let (mut ours, mut guide) = (Mean::default(), Mean::default());
    for window in 0..n_windows {
        let begin = window * stride;
        let end = n_tokens.min(begin + length);
        let n_new = if window == 0 { end } else { end - (begin - stride + length) };
        let n_targets = n_new.min(end - begin - 1);
        if n_targets > 0 {
            let loss = loss(model, &ids[begin..end], n_targets)? / n_targets as f64;
            ours.add(loss, n_targets);
            guide.add(loss, n_new - 1);
        }
        progress.show(window + 1);
    }
    writeln!(out, "{n_tokens} tokens, {n_windows} windows of {length}, stride {stride}")?;
    writeln!(out, "{ours}")?;
    if guide.n != ours.n {
        writeln!(out, "as Hugging Face's guide counts: {guide}")?;
    }
    Ok(())
}

/// Returns the sum of the losses of the last `n_targets` tokens.
fn loss(model: &Gpt2, ids: &[i64], n_targets: usize) -> Result<f64> {
    let n_inputs = ids.len() - 1;
    let input_ids = Tensor::new(&ids[..n_inputs], model.input().device())?.unsqueeze(0)?;
    let target_ids = Tensor::new(&ids[ids.len() - n_targets..], &Device::Cpu)?.unsqueeze(0)?;
    let hidden_states = model.hidden_states(&input_ids, None, None)?;
    let predicting = hidden_states.narrow(1, n_inputs - n_targets, n_targets)?.contiguous()?;
    let options = LossOptions::default().with_reduction(Reduction::Sum);
    let loss = model.lm_head().loss(&predicting, &target_ids, &options)?.to_scalar::<f32>()?;
    // A token whose logit is -inf has probability 0, and its text the perplexity inf.
    ensure!(!loss.is_nan(), not_finite(hidden_states.dtype()));
    Ok(loss.into())
}

/// A mean of losses.
#[derive(Default)]
struct Mean {
    sum: f64,
    n: usize,
}

impl Mean {
    fn add(&mut self, loss: f64, n: usize) {
        if n > 0 {
            self.sum += loss * n as f64;
            self.n += n;
        }
    }
}

impl std::fmt::Display for Mean {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let mean = self.sum / self.n as f64;
        write!(f, "mean loss {mean:.7} over {} tokens, perplexity {:.6}", self.n, mean.exp())
    }
}

/// Says on standard error how far a long text is: on a terminal in one line that changes, elsewhere every ten seconds.
struct Progress {
    n_windows: usize,
    is_terminal: bool,
    shown: Instant,
}

impl Progress {
    fn new(n_windows: usize) -> Self {
        Self { n_windows, is_terminal: stderr().is_terminal(), shown: Instant::now() }
    }

    fn show(&mut self, n_done: usize) {
        let (every, end) = if self.is_terminal { (1, '\r') } else { (10, '\n') };
        if self.shown.elapsed() >= Duration::from_secs(every) {
            self.shown = Instant::now();
            let _ = write!(stderr(), "{n_done} of {} windows{end}", self.n_windows);
        }
    }
}
