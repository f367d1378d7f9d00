//! [`ReadAhead`]: asks the system for the pages of batches to come, while batches wait for a disk.

use std::time::{Duration, Instant};

/// How many batches are asked for, from the next one on.
const N_BATCHES: usize = 16;
/// For how many batches after one that waited.
const N_COLD: usize = 256;
/// What a batch takes at most, by its rows and by its ids, if it does not wait: far less than a disk takes.
const PER_ROW: Duration = Duration::from_micros(20);
const PER_ID: Duration = Duration::from_nanos(10);

/// Knows whether batches wait for pages. Asking costs a call of the system for each row, which is as long as a row takes
/// that is in memory, so it is done only while it helps, and for the first batches.
#[derive(Debug)]
pub(super) struct ReadAhead {
    /// For how many batches to go on.
    n_left: usize,
    /// How many batches were asked for, from the next one on.
    n_asked: usize,
}

impl ReadAhead {
    pub(super) fn new() -> Self {
        Self { n_left: 1, n_asked: 0 }
    }

    /// Makes a batch of `n_rows` of up to `max_length` ids. Calls `ask` before with how many batches later it is whose
    /// pages are to be asked for: 0 for this one.
    pub(super) fn around<T>(
        &mut self,
        (n_rows, max_length): (usize, usize),
        ask: impl FnMut(usize),
        make: impl FnOnce() -> T,
    ) -> T {
        self.next().for_each(ask);
        let start = Instant::now();
        let made = make();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let most =
            PER_ROW.saturating_mul(count(n_rows)) + PER_ID.saturating_mul(count(n_rows.saturating_mul(max_length)));
        if start.elapsed() > most {
            self.n_left = N_COLD;
        }
        made
    }

    /// Returns which batches to ask for before the next one is made.
    fn next(&mut self) -> std::ops::Range<usize> {
        let asked = match self.n_left {
            0 => 0..0,
            _ => std::mem::replace(&mut self.n_asked, N_BATCHES)..N_BATCHES,
        };
        (self.n_left, self.n_asked) = (self.n_left.saturating_sub(1), self.n_asked.saturating_sub(1));
        asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_asked_for_while_batches_wait() {
        let mut ahead = ReadAhead::new();
        let mut asked_for = |wait: Duration| {
            let mut asked = Vec::new();
            ahead.around((1, 8), |later| asked.push(later), || std::thread::sleep(wait));
            asked
        };
        let fast = Duration::ZERO;
        assert_eq!(asked_for(Duration::from_millis(1)), (0..16).collect::<Vec<_>>());
        (0..3).for_each(|_| assert_eq!(asked_for(fast), [15]));
        let n_more = (0..2000).take_while(|_| !asked_for(fast).is_empty()).count();
        assert!(n_more >= 253, "{n_more}");
        let mut ahead = ReadAhead { n_left: 0, n_asked: 2 };
        assert_eq!([ahead.next(), ahead.next(), ahead.next()], [0..0, 0..0, 0..0]);
        ahead.n_left = 2;
        assert_eq!([ahead.next(), ahead.next(), ahead.next()], [0..16, 15..16, 0..0]);
        ahead.n_left = 1;
        assert_eq!(ahead.next(), 14..16); // one was made without asking
    }
}
