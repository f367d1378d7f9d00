//! [`Coverage`]: what training has seen of a corpus.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::order::Order;
use super::{Boundaries, Windows};

/// Says how much of a corpus was trained on: by [`Blend::coverage`](super::Blend::coverage).
///
/// Its text is one line for people; serde writes the numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Coverage {
    /// Tokens of the corpus.
    pub n_tokens: u64,
    /// Its windows.
    pub n_windows: u64,
    /// Windows taken, each as often as it was.
    pub n_taken: u64,
    /// Whole epochs.
    pub n_epochs: u64,
    /// Targets in the windows taken, each as often as it was one: the tokens trained on.
    pub n_targets: u64,
    /// Windows never taken.
    pub n_unseen_windows: u64,
    /// Tokens that never were a target: those of windows not yet taken, the first of each document, tails that are
    /// dropped, and gaps between windows.
    pub n_never_targets: u64,
    /// Those of them that never will be, however long training goes on.
    pub n_without_target: u64,
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { n_tokens, n_windows, n_taken, n_targets, n_unseen_windows, n_never_targets, .. } = self;
        let epochs = *n_taken as f64 / *n_windows as f64;
        write!(
            f,
            "{n_targets} tokens trained on in {epochs:.2} epochs; never seen: {n_unseen_windows} of {n_windows} windows; \
             never a target: {n_never_targets} of {n_tokens} tokens"
        )
    }
}

impl Coverage {
    /// Counts after `n_taken` windows: whole epochs, and the first of `order`, if another has begun.
    pub(super) fn new(windows: &Windows, boundaries: Boundaries, n_taken: u64, order: Option<&Order>) -> Self {
        let n_windows = windows.n_windows();
        let (n_epochs, n_begun) = (n_taken / n_windows as u64, (n_taken % n_windows as u64) as usize);
        let mut is_begun = vec![false; n_windows];
        (0..n_begun).for_each(|nth| is_begun[order.map_or(nth, |order| order.sample(nth))] = true);
        let (mut n_targets, mut n_seen, mut n_possible, mut n_seen_windows) = (0, 0, 0, 0);
        let (mut end_of_possible, mut end_of_seen) = (0, 0);
        for (number, is_begun) in is_begun.into_iter().enumerate() {
            let window = windows.window(number);
            let (first, end) = (window.start + 1, window.start + 1 + window.len());
            let of_others: Vec<usize> = match boundaries {
                Boundaries::Mark => windows.ends_in(&window).map(|end| window.start + end).collect(),
                _ => Vec::new(),
            };
            // The targets from a place on that no earlier window has reached; windows come in the order of their ends.
            let count = |reached: usize| {
                let first = first.max(reached).min(end);
                (end - first - of_others.iter().filter(|&&other| other >= first).count()) as u64
            };
            n_targets += count(0) * (n_epochs + u64::from(is_begun));
            n_possible += count(end_of_possible);
            end_of_possible = end_of_possible.max(end);
            if n_epochs > 0 || is_begun {
                n_seen_windows += 1;
                n_seen += count(end_of_seen);
                end_of_seen = end_of_seen.max(end);
            }
        }
        let n_tokens = windows.tokens().n_tokens() as u64;
        Self {
            n_tokens,
            n_windows: n_windows as u64,
            n_taken,
            n_epochs,
            n_targets,
            n_unseen_windows: n_windows as u64 - n_seen_windows,
            n_never_targets: n_tokens - n_seen,
            n_without_target: n_tokens - n_possible,
        }
    }
}
