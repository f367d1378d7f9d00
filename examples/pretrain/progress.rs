//! Shows a progress bar, or without a terminal a plain line now and then.

use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use crate::cli;

/// How often a plain line is written.
const INTERVAL: Duration = Duration::from_secs(10);

pub struct Progress {
    bar: ProgressBar,
    first_step: u64,
    n_tokens: usize,
    start: Instant,
    last_line: Instant,
    /// The seconds of each step.
    seconds: Vec<f64>,
}

impl Progress {
    /// Starts the bar of a run of `steps` steps of `n_tokens` tokens at `first_step`.
    pub fn new(first_step: u64, steps: u64, n_tokens: usize) -> Self {
        let bar = ProgressBar::new(steps).with_position(first_step);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}") {
            bar.set_style(style);
        }
        let now = Instant::now();
        Self { bar, first_step, n_tokens, start: now, last_line: now, seconds: Vec::new() }
    }

    /// Notes that step `step` (from 1) took `seconds`.
    pub fn step(&mut self, step: u64, loss: f32, seconds: f64) {
        self.seconds.push(seconds);
        let steps = self.bar.length().unwrap_or(step);
        let n_done = (step - self.first_step) as f64;
        // The time left includes evaluation and checkpoints; the rate counts the steps alone.
        let left = self.start.elapsed().as_secs_f64() / n_done * (steps.saturating_sub(step)) as f64;
        let left = Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX);
        let rate = self.tokens_per_second();
        let message = format!("loss {loss:.3}, {rate:.0} tokens/s, {} left", HumanDuration(left));
        if self.bar.is_hidden() && (self.last_line.elapsed() > INTERVAL || step == steps) {
            cli::note(format_args!("step {step}/{steps} {message}"));
            self.last_line = Instant::now();
        }
        self.bar.set_message(message);
        self.bar.set_position(step);
    }

    fn tokens_per_second(&self) -> f64 {
        (self.n_tokens * self.seconds.len()) as f64 / self.seconds.iter().sum::<f64>()
    }

    /// Writes other output without tearing the bar.
    pub fn around<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bar.suspend(write)
    }

    /// Ends the bar and says what the steps took.
    pub fn finish(mut self) -> String {
        self.bar.finish_and_clear();
        let (n_steps, total) = (self.seconds.len(), self.start.elapsed().as_secs_f64());
        if n_steps == 0 {
            return format!("0 steps in {total:.1} s");
        }
        let rate = self.tokens_per_second();
        self.seconds.sort_by(f64::total_cmp);
        let median = self.seconds.get(n_steps / 2).copied().unwrap_or_default() * 1e3;
        format!("{n_steps} steps in {total:.1} s: median {median:.1} ms a step, {rate:.0} tokens/s")
    }
}
