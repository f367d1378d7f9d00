//! The frequencies of rotary positions, in the f32 operations of `transformers.modeling_rope_utils`.

use std::f32::consts::TAU;

use super::sinusoidal::{inverse_frequencies, powers};
use crate::config::{Llama3Scaling, LongRopeScaling, RotaryConfig, RotaryScaling, YarnScaling};

/// Sequences that share their frequencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Regime {
    /// All, or those up to some length.
    First,
    /// All that are longer.
    Longer,
    /// Those of one length.
    Length(usize),
}

/// Returns which frequencies a sequence of `seq_len` tokens has.
pub(super) fn regime(config: &RotaryConfig, n_positions: usize, seq_len: usize) -> Regime {
    match config.scaling {
        _ if seq_len <= longest_of_first(config, n_positions) => Regime::First,
        RotaryScaling::Dynamic { .. } => Regime::Length(seq_len),
        RotaryScaling::LongRope(_) => Regime::Longer,
        _ => Regime::First,
    }
}

/// Returns the longest sequence of the first frequencies, or the trained length where they have no end.
pub(super) fn longest_of_first(config: &RotaryConfig, n_positions: usize) -> usize {
    match &config.scaling {
        RotaryScaling::LongRope(longrope) => longrope.original_max_position_embeddings.unwrap_or(n_positions),
        _ => n_positions,
    }
}

/// Returns the `inv_freq` of each pair and the factor of cosines and sines, for sequences of `seq_len` tokens.
pub(super) fn of(config: &RotaryConfig, head_dim: usize, n_positions: usize, seq_len: usize) -> (Vec<f32>, f32) {
    let (base, dim) = (config.rope_theta, config.rotated_dims(head_dim));
    let plain = || inverse_frequencies(base, dim);
    match &config.scaling {
        RotaryScaling::None => (plain(), 1.0),
        RotaryScaling::Linear { factor } => (plain().into_iter().map(|f| f / *factor as f32).collect(), 1.0),
        RotaryScaling::Dynamic { factor } => (dynamic(*factor, base, dim, n_positions, seq_len), 1.0),
        RotaryScaling::Yarn(scaling) => yarn(scaling, base, dim, n_positions),
        RotaryScaling::Llama3(scaling) => (llama3(scaling, plain(), n_positions), 1.0),
        RotaryScaling::LongRope(scaling) => longrope(scaling, base, dim, n_positions, seq_len),
        RotaryScaling::Proportional { factor } => {
            let n_turning = (config.partial_rotary_factor * head_dim as f64 / 2.0).floor() as usize;
            let scale = |(i, f): (usize, f32)| if i < n_turning { f / *factor as f32 } else { 0.0 };
            (plain().into_iter().enumerate().map(scale).collect(), 1.0)
        }
    }
}

fn dynamic(factor: f64, base: f64, dim: usize, n_positions: usize, seq_len: usize) -> Vec<f32> {
    if seq_len <= n_positions {
        return inverse_frequencies(base, dim);
    }
    // In transformers a length is a tensor: from here on everything but the exponent is f32.
    let stretch = factor as f32 * seq_len as f32 / n_positions as f32 - (factor - 1.0) as f32;
    let power = f64::from(stretch).powf(dim as f64 / (dim as f64 - 2.0)) as f32;
    inverse_frequencies(f64::from(base as f32 * power), dim)
}

fn yarn(scaling: &YarnScaling, base: f64, dim: usize, n_positions: usize) -> (Vec<f32>, f32) {
    let factor = scaling.factor;
    let trained_on = scaling.original_max_position_embeddings.unwrap_or(n_positions) as f64;
    let term = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
    let computed = match scaling.mscale.zip(scaling.mscale_all_dim) {
        Some((mscale, all)) if mscale != 0.0 && all != 0.0 => term(mscale) / term(all),
        _ => term(1.0),
    };
    // The dimension whose frequency makes so many turns within the trained length.
    let dimension = |turns: f64| (dim as f64 * (trained_on / (turns * std::f64::consts::TAU)).ln()) / (2.0 * base.ln());
    let (mut low, mut high) = (dimension(scaling.beta_fast), dimension(scaling.beta_slow));
    if scaling.truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    let (low, mut high) = (low.max(0.0), high.min(dim as f64 - 1.0));
    if low == high {
        high += 0.001;
    }
    let blend = |(i, power): (usize, f32)| {
        let stays = 1.0 - ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
        (1.0 / (factor as f32 * power)) * (1.0 - stays) + (1.0 / power) * stays
    };
    let frequencies = powers(base, dim).into_iter().enumerate().map(blend).collect();
    (frequencies, scaling.attention_factor.unwrap_or(computed) as f32)
}

fn llama3(scaling: &Llama3Scaling, plain: Vec<f32>, n_positions: usize) -> Vec<f32> {
    let &Llama3Scaling { factor, low_freq_factor, high_freq_factor, .. } = scaling;
    let trained_on = scaling.original_max_position_embeddings.unwrap_or(n_positions) as f64;
    let (longest, shortest) = ((trained_on / low_freq_factor) as f32, (trained_on / high_freq_factor) as f32);
    let (factor, low, width) = (factor as f32, low_freq_factor as f32, (high_freq_factor - low_freq_factor) as f32);
    let scale = |frequency: f32| {
        // torch divides a number by a tensor by multiplying with the tensor's reciprocal.
        let wavelength = (1.0 / frequency) * TAU;
        if wavelength > longest {
            frequency / factor
        } else if wavelength < shortest {
            frequency
        } else {
            let stays = ((1.0 / wavelength) * trained_on as f32 - low) / width;
            (1.0 - stays) * frequency / factor + stays * frequency
        }
    };
    plain.into_iter().map(scale).collect()
}

fn longrope(scaling: &LongRopeScaling, base: f64, dim: usize, n_positions: usize, seq_len: usize) -> (Vec<f32>, f32) {
    let trained_on = scaling.original_max_position_embeddings.unwrap_or(n_positions);
    let factor = scaling.factor.unwrap_or(n_positions as f64 / trained_on as f64);
    let computed = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (trained_on as f64).ln()).sqrt() };
    let factors = if seq_len > trained_on { &scaling.long_factor } else { &scaling.short_factor };
    let divided = |(power, factor): (f32, &f64)| 1.0 / (*factor as f32 * power);
    let frequencies = powers(base, dim).into_iter().zip(factors).map(divided).collect();
    (frequencies, scaling.attention_factor.unwrap_or(computed) as f32)
}
