//! [`Coverage`]: what training has seen of a corpus.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Boundaries, Windows};

/// Says how much of a corpus was trained on: by [`Blend::coverage`](super::Blend::coverage), or from the
/// [`window_numbers`](super::Epoch::window_numbers) of a loader's batches.
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
    /// Whole epochs: how often each window was taken at least.
    pub n_epochs: u64,
    /// Targets in the windows taken, each as often as it was one: the tokens trained on.
    pub n_targets: u64,
    /// Windows never taken.
    pub n_unseen_windows: u64,
    /// Tokens that never were a target: those of windows not yet taken, the first of each document (unless
    /// boundaries are ignored), tails that are dropped, and gaps between windows.
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
    /// Counts from how often each window was taken.
    ///
    /// `boundaries` are those of the loader that made the batches.
    ///
    /// ```
    /// use candle_gpt_input::data::{Boundaries, Coverage, Tail, Tokens, Windows};
    ///
    /// let windows = Windows::new(&Tokens::new((0..11).collect()), 3, 3, Tail::Drop)?; // 1 2 3, 4 5 6, 7 8 9; not 10
    /// let coverage = Coverage::new(&windows, Boundaries::Keep, |window| [2, 0, 1][window]);
    /// assert_eq!((coverage.n_taken, coverage.n_epochs, coverage.n_targets), (3, 0, 9));
    /// assert_eq!((coverage.n_unseen_windows, coverage.n_never_targets, coverage.n_without_target), (1, 5, 2));
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    #[must_use]
    pub fn new(windows: &Windows, boundaries: Boundaries, times: impl Fn(usize) -> u64) -> Self {
        let n_windows = windows.n_windows();
        let (mut n_taken, mut n_epochs) = (0, u64::MAX);
        let (mut n_targets, mut n_seen, mut n_possible, mut n_seen_windows) = (0, 0, 0, 0);
        let (mut end_of_possible, mut end_of_seen) = (0, 0);
        for number in 0..n_windows {
            let (window, times) = (windows.window(number), times(number));
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
            (n_taken, n_epochs) = (n_taken + times, times.min(n_epochs));
            n_targets += count(0) * times;
            n_possible += count(end_of_possible);
            end_of_possible = end_of_possible.max(end);
            if times > 0 {
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
