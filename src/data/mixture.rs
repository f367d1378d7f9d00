//! [`Mixture`]: which corpus of a blend gives the next sample, by Megatron's rule.

use crate::error::{DataError, Result};

/// The shares of the corpora in a blend.
///
/// Sample `s` comes from the corpus that is furthest behind its share: the one with the largest
/// `weight · max(s, 1) - taken`, in f64, the first of several (`megatron/core/datasets/helpers.cpp`).
#[derive(Clone, Debug)]
pub(super) struct Mixture {
    /// Positive, with a sum of 1.
    weights: Vec<f64>,
    /// The numbers of windows, where each is taken once before any is taken again.
    sizes: Option<Vec<u64>>,
}

impl Mixture {
    /// Takes weights of any sum, and divides them by it.
    pub(super) fn weighted(weights: &[f64]) -> Result<Self> {
        let sum = pairwise_sum(weights);
        for (corpus, &weight) in weights.iter().enumerate() {
            if !(weight > 0.0 && sum.is_finite() && weight / sum > 0.0) {
                return Err(DataError::BlendWeight { corpus, weight }.into());
            }
        }
        Ok(Self { weights: weights.iter().map(|weight| weight / sum).collect(), sizes: None })
    }

    /// Takes the shares of the sizes; a corpus of which all is taken waits for the others.
    pub(super) fn exhaustive(sizes: Vec<u64>) -> Self {
        let sum = sizes.iter().sum::<u64>() as f64;
        Self { weights: sizes.iter().map(|&size| size as f64 / sum).collect(), sizes: Some(sizes) }
    }

    pub(super) fn weights(&self) -> &[f64] {
        &self.weights
    }

    pub(super) fn is_exhaustive(&self) -> bool {
        self.sizes.is_some()
    }

    /// Returns the corpus of the next sample, after `taken` of each.
    pub(super) fn next(&self, taken: &[u64]) -> usize {
        let n_taken: u64 = taken.iter().sum();
        // A blend that exhausts its corpora begins anew after each pass.
        let n_passes = self.sizes.as_ref().map_or(0, |sizes| n_taken / sizes.iter().sum::<u64>().max(1));
        let of_passes = |corpus: usize| self.sizes.as_ref().map_or(0, |sizes| n_passes * sizes[corpus]);
        let before: u64 = (0..taken.len()).map(of_passes).sum();
        let sample = (n_taken - before).max(1) as f64;
        let (mut furthest, mut largest) = (0, f64::NEG_INFINITY);
        for (corpus, (&weight, &taken)) in self.weights.iter().zip(taken).enumerate() {
            let taken = taken - of_passes(corpus);
            let is_spent = self.sizes.as_ref().is_some_and(|sizes| taken == sizes[corpus]);
            let behind = weight * sample - taken as f64;
            if !is_spent && behind > largest {
                (furthest, largest) = (corpus, behind);
            }
        }
        furthest
    }

    /// Returns whether a blend can have taken so many of each.
    pub(super) fn is_reachable(&self, taken: &[u64]) -> bool {
        let Some(n_taken) = taken.iter().try_fold(0u64, |sum, &n| sum.checked_add(n)) else { return false };
        match &self.sizes {
            Some(sizes) => {
                let n_passes = n_taken / sizes.iter().sum::<u64>().max(1);
                let is_between = |(&taken, &size): (&u64, &u64)| {
                    let first = n_passes.saturating_mul(size);
                    first <= taken && taken <= first.saturating_add(size)
                };
                taken.iter().zip(sizes).all(is_between)
            }
            // No corpus is a sample of each of the others apart from its share.
            None => taken.iter().zip(&self.weights).all(|(&n, weight)| {
                (n as f64 - weight * n_taken as f64).abs() <= taken.len() as f64 + n_taken as f64 * f64::EPSILON * 8.0
            }),
        }
    }
}

/// Adds up in the order of `numpy.sum`: eight sums side by side, and halves of more than 128 numbers apart.
fn pairwise_sum(x: &[f64]) -> f64 {
    if x.len() > 128 {
        let half = x.len() / 2;
        let (left, right) = x.split_at(half - half % 8);
        return pairwise_sum(left) + pairwise_sum(right);
    }
    let (eights, rest) = x.as_chunks::<8>();
    let Some((first, eights)) = eights.split_first() else { return rest.iter().fold(0.0, |sum, x| sum + x) };
    let mut s = *first;
    eights.iter().for_each(|eight| s.iter_mut().zip(eight).for_each(|(sum, x)| *sum += x));
    let sum = ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
    rest.iter().fold(sum, |sum, x| sum + x)
}
