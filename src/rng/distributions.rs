//! Coin flips, waiting times and categories: `bernoulli_`, dropout, `exponential_`, `torch.multinomial`.

use super::Generator;
use super::mt19937::Mt19937;
use crate::error::{Result, RngError};
use crate::memory::{collected, room_for};

/// PyTorch's limit on categories: beyond it f32 cannot count them.
const MAX_WEIGHTS: usize = 1 << 24;

impl Generator {
    /// Draws `n` coin flips, true with probability `p`: `torch.empty(n).bernoulli_(p)`.
    ///
    /// Draws two words per flip, also for p = 0 and p = 1.
    ///
    /// ```
    /// # use candle_gpt_input::rng::Generator;
    /// let flips = Generator::manual_seed(123).bernoulli_mask(6, 0.5)?;
    /// assert_eq!(flips, [true, true, false, true, true, false]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`RngError::Probability`] unless `p` is between 0 and 1, [`Error::TooLarge`](crate::Error::TooLarge) for more flips
    /// than memory holds.
    #[doc(alias = "bernoulli_")]
    pub fn bernoulli_mask(&self, n: usize, p: f64) -> Result<Vec<bool>> {
        check_probability(p)?;
        let engine = &mut self.lock().engine;
        collected("coin flips", n, || engine.unit_f64() < p)
    }

    /// Draws which of `n` elements `nn.Dropout(p)` keeps while training. Kept ones are multiplied by
    /// [`dropout_scale`](Self::dropout_scale).
    ///
    /// Draws two words per element, none for p = 1. For p = 0, where PyTorch draws nothing either, the caller needs no
    /// mask. PyTorch before 2.7 with MKL drew other masks.
    ///
    /// # Errors
    /// [`RngError::Probability`] unless `p` is between 0 and 1.
    pub(crate) fn dropout_mask(&self, n: usize, p: f64) -> Result<Vec<bool>> {
        check_probability(p)?;
        if p == 1.0 {
            return collected("a dropout mask", n, || false);
        }
        self.bernoulli_mask(n, 1.0 - p)
    }

    /// Returns the factor of the elements that `nn.Dropout(p)` keeps: 1 / (1 - p), rounded as PyTorch rounds it, and 0
    /// for p = 1, which keeps none.
    ///
    /// # Errors
    /// [`RngError::Probability`] unless `p` is between 0 and 1.
    pub(crate) fn dropout_scale(p: f64) -> Result<f32> {
        check_probability(p)?;
        Ok(if p == 1.0 { 0.0 } else { 1.0 / (1.0 - p) as f32 })
    }

    /// Fills `out` as `exponential_(lambda)` fills an f32 tensor. Draws two words per value.
    ///
    /// ```
    /// # use candle_gpt_input::rng::Generator;
    /// let (mut one, mut two) = ([0.0; 2], [0.0; 2]);
    /// Generator::manual_seed(123).exponential(&mut one, 1.0)?;
    /// Generator::manual_seed(123).exponential(&mut two, 2.0)?;
    /// assert_eq!(format!("{one:.4?}"), "[0.4603, 0.0135]");
    /// assert_eq!(two, one.map(|wait| wait / 2.0)); // twice the rate, half the wait
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`RngError::Rate`] unless `lambda` is above 0.
    #[doc(alias = "exponential_")]
    pub fn exponential(&self, out: &mut [f32], lambda: f64) -> Result<()> {
        if lambda.is_nan() || lambda <= 0.0 {
            return Err(RngError::Rate { lambda }.into());
        }
        let engine = &mut self.lock().engine;
        out.fill_with(|| exponential(engine, lambda));
        Ok(())
    }

    /// Draws `n_samples` categories by weight: `torch.multinomial(weights, n_samples, replacement)` on one row. The
    /// weights need not add up to 1.
    ///
    /// One sample, or several without replacement, draw two words per weight. Several with replacement draw two words
    /// per sample.
    ///
    /// Without replacement, categories whose f32 scores are exactly equal come in the order of their indices. In
    /// PyTorch that order depends on its sort.
    ///
    /// ```
    /// # use candle_gpt_input::rng::Generator;
    /// let generator = Generator::manual_seed(123);
    /// assert_eq!(generator.multinomial(&[0.1, 0.0, 0.6, 0.3], 5, true)?, [2, 0, 2, 0, 2]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`RngError::Weight`] if a weight is negative, infinite or NaN
    /// - [`RngError::ZeroWeights`] if none is above 0
    /// - [`RngError::TooManyWeights`] if there are more than 2^24
    /// - [`RngError::TooFewWeights`] without replacement, if fewer than `n_samples` weights are above 0 (PyTorch then
    ///   returns categories of weight 0, in no defined order)
    /// - [`Error::TooLarge`](crate::Error::TooLarge) for more samples than memory holds
    pub fn multinomial(&self, weights: &[f32], n_samples: usize, replacement: bool) -> Result<Vec<usize>> {
        let n_nonzero = check_weights(weights)?;
        if !replacement && n_samples > n_nonzero {
            return Err(RngError::TooFewWeights { n_samples, n_nonzero }.into());
        }
        let engine = &mut self.lock().engine;
        match n_samples {
            0 => Ok(Vec::new()),
            2.. if replacement => by_inversion(engine, weights, n_samples),
            _ => by_race(engine, weights, n_samples),
        }
    }
}

/// Draws a waiting time for each weight as its rate, and returns the first arrivals.
fn by_race(engine: &mut Mt19937, weights: &[f32], n_samples: usize) -> Result<Vec<usize>> {
    let mut scores: Vec<(f32, usize)> = room_for("scores", weights.len())?;
    for (at, &weight) in weights.iter().enumerate() {
        let wait = exponential(engine, 1.0);
        if weight > 0.0 {
            scores.push((weight / wait, at));
        }
    }
    let best_first = |a: &(f32, usize), b: &(f32, usize)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    if n_samples < scores.len() {
        scores.select_nth_unstable_by(n_samples, best_first);
        scores.truncate(n_samples);
    }
    scores.sort_unstable_by(best_first);
    Ok(scores.into_iter().map(|(_, at)| at).collect())
}

/// Looks uniforms up in the cumulative distribution, which is kept in f32.
fn by_inversion(engine: &mut Mt19937, weights: &[f32], n_samples: usize) -> Result<Vec<usize>> {
    let mut sum = 0.0;
    let mut cumulative: Vec<f32> = weights
        .iter()
        .map(|&weight| {
            sum += weight;
            sum
        })
        .collect();
    for value in &mut cumulative {
        *value /= sum;
    }
    // If the sum overflowed, this is infinity / infinity.
    if let Some(last) = cumulative.last_mut() {
        *last = 1.0;
    }
    collected("samples", n_samples, || {
        let u = engine.unit_f64();
        cumulative.partition_point(|&value| f64::from(value) < u)
    })
}

fn exponential(engine: &mut Mt19937, lambda: f64) -> f32 {
    (-1.0 / lambda * (-engine.unit_f64()).ln_1p()) as f32
}

fn check_probability(p: f64) -> Result<(), RngError> {
    if (0.0..=1.0).contains(&p) { Ok(()) } else { Err(RngError::Probability { p }) }
}

/// Returns how many weights are above zero.
fn check_weights(weights: &[f32]) -> Result<usize, RngError> {
    let n_weights = weights.len();
    if n_weights > MAX_WEIGHTS {
        return Err(RngError::TooManyWeights { n_weights, limit: MAX_WEIGHTS });
    }
    let bad = |weight: &f32| !(weight.is_finite() && *weight >= 0.0);
    if let Some(at) = weights.iter().position(bad) {
        return Err(RngError::Weight { weight: weights[at], at });
    }
    match weights.iter().filter(|&&weight| weight > 0.0).count() {
        0 => Err(RngError::ZeroWeights { n_weights }),
        n_nonzero => Ok(n_nonzero),
    }
}
