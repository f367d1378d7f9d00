//! `torch.randperm`.

use super::Generator;
use super::mt19937::Mt19937;
use crate::error::Result;
use crate::memory::fits;

/// From here on PyTorch takes 64 random bits per step, to keep the remainder's bias below 1/20.
const TWO_WORDS_FROM: usize = u32::MAX as usize / 20;

impl Generator {
    /// Draws a random order of `0..n`: `torch.randperm(n)`.
    ///
    /// Draws `n - 1` words, or `2 n` from n = 214748364 on (since PyTorch 2.15; earlier versions used the first rule
    /// for every n). The values are `i64`, as in PyTorch and as an index tensor needs them.
    ///
    /// A `DataLoader(shuffle=True)` without a generator of its own draws two 63-bit integers from the global one in
    /// each epoch. The second seeds the permutation:
    ///
    /// ```
    /// # use candle_gpt_input::rng::Generator;
    /// let global = Generator::manual_seed(123);
    /// let [_base_seed, seed] = [(); 2].map(|()| global.random_u64() & i64::MAX as u64);
    /// let order = Generator::manual_seed(seed).randperm(5)?;
    /// assert_eq!(order, [3, 1, 0, 2, 4]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::TooLarge`](crate::Error::TooLarge) for more values than memory holds.
    pub fn randperm(&self, n: usize) -> Result<Vec<i64>> {
        fits("a permutation", &[n], size_of::<i64>())?;
        Ok(self.permutation(n, |i| i as i64))
    }

    /// Draws [`randperm`](Self::randperm) of `n` values, for which there is memory.
    pub(crate) fn permutation<V: Copy>(&self, n: usize, value: impl Fn(usize) -> V) -> Vec<V> {
        let engine = &mut self.lock().engine;
        if n < TWO_WORDS_FROM { shuffle_down(engine, n, value) } else { shuffle_up(engine, n, value) }
    }

    /// Draws what a permutation of `n` draws.
    pub(crate) fn skip_permutation(&self, n: usize) {
        let engine = &mut self.lock().engine;
        let n_words = if n < TWO_WORDS_FROM { n.saturating_sub(1) } else { 2 * n };
        for _ in 0..n_words {
            engine.next_u32();
        }
    }
}

/// Shuffles a finished row by Fisher-Yates: each place takes one of the values not yet placed.
fn shuffle_down<V: Copy>(engine: &mut Mt19937, n: usize, value: impl Fn(usize) -> V) -> Vec<V> {
    let mut order: Vec<V> = (0..n).map(value).collect();
    for i in 0..n.saturating_sub(1) {
        let ahead = engine.next_u32() as usize % (n - i);
        order.swap(i, i + ahead);
    }
    order
}

/// Shuffles by Fisher-Yates inside out: each new value goes anywhere among those before it.
fn shuffle_up<V: Copy>(engine: &mut Mt19937, n: usize, value: impl Fn(usize) -> V) -> Vec<V> {
    let mut order = Vec::with_capacity(n);
    for i in 0..n {
        let place = (engine.next_u64() % (i as u64 + 1)) as usize;
        order.push(value(i));
        order.swap(place, i);
    }
    order
}
