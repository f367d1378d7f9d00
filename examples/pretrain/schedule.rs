//! The learning rate over the steps.

use std::f64::consts::PI;

use crate::settings::Settings;

/// The final learning rate, as a share of the highest.
const FINAL_SHARE: f64 = 0.1;

/// Returns nanoGPT's `get_lr` for `step` (from 0): a linear rise over `warmup` steps, then half a cosine down to a
/// tenth.
pub fn learning_rate(settings: &Settings, step: u64) -> f64 {
    let &Settings { learning_rate, warmup, steps, .. } = settings;
    if step < warmup {
        return learning_rate * (step as f64 + 1.0) / (warmup as f64 + 1.0);
    }
    let lowest = learning_rate * FINAL_SHARE;
    if step >= steps {
        return lowest;
    }
    let progress = (step - warmup) as f64 / (steps - warmup) as f64;
    lowest + 0.5 * (1.0 + (PI * progress).cos()) * (learning_rate - lowest)
}
