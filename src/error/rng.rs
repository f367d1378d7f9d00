//! [`RngError`]: why a draw or a generator's state was refused.

use super::shown::number;

/// Says why a draw or a generator's state was refused.
///
/// ```
/// use candle_gpt_input::rng::Generator;
///
/// let error = Generator::manual_seed(1).randint(5, 5, 1).unwrap_err();
/// assert_eq!(error.to_string(), "no integer lies in 5..5; the upper bound is exclusive and must be the larger");
/// ```
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RngError {
    /// The bounds of `uniform_*` are out of order, not finite, or too far apart for the dtype.
    #[error(
        "uniform bounds {lo} and {hi} must be finite and in order, and their difference finite",
        lo = number(*lo),
        hi = number(*hi)
    )]
    UniformBounds {
        /// Lower bound.
        lo: f64,
        /// Upper bound.
        hi: f64,
    },
    /// The standard deviation is negative or not a number.
    #[error("standard deviation {std} must be 0 or greater", std = number(*std))]
    StandardDeviation {
        /// The given value.
        std: f64,
    },
    /// The rate of `exponential` is not above zero.
    #[error("exponential rate {lambda} must be greater than 0", lambda = number(*lambda))]
    Rate {
        /// The given value.
        lambda: f64,
    },
    /// A probability outside 0 to 1.
    #[error("probability {p} must be between 0 and 1", p = number(*p))]
    Probability {
        /// The given value.
        p: f64,
    },
    /// `randint` was given a range without integers.
    #[error("no integer lies in {lo}..{hi}; the upper bound is exclusive and must be the larger")]
    EmptyRange {
        /// Lower bound, inclusive.
        lo: i64,
        /// Upper bound, exclusive.
        hi: i64,
    },
    /// A weight of `multinomial` is negative, infinite or not a number.
    #[error("weight {weight} at {at} must be finite and not negative", weight = number(*weight))]
    Weight {
        /// The given value.
        weight: f32,
        /// Its index among the weights.
        at: usize,
    },
    /// `multinomial` was given no weight above zero.
    #[error("none of the {n_weights} weights is greater than 0")]
    ZeroWeights {
        /// The number of weights.
        n_weights: usize,
    },
    /// `multinomial` was given more weights than PyTorch accepts.
    #[error("{n_weights} weights are more than the {limit} that can be told apart in f32")]
    TooManyWeights {
        /// The number of weights.
        n_weights: usize,
        /// The largest number allowed.
        limit: usize,
    },
    /// `multinomial` without replacement ran out of categories.
    #[error(
        "cannot draw {n_samples} different samples from {n_nonzero} weights greater than 0; \
         draw fewer, or with replacement"
    )]
    TooFewWeights {
        /// The number of samples requested.
        n_samples: usize,
        /// The number of weights above zero.
        n_nonzero: usize,
    },
    /// A saved state has the wrong length.
    #[error("generator state has {n_bytes} bytes, expected {expected}")]
    StateLength {
        /// The given value.
        n_bytes: usize,
        /// What `torch.Generator.get_state` returns.
        expected: usize,
    },
    /// A field of a saved state holds a value that no generator has.
    #[error("generator state field `{field}` cannot be {value}")]
    StateField {
        /// The field's name in PyTorch.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
}
