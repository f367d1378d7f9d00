//! What can be wrong with a draw or a generator's state.

/// Why a draw or a state was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RngError {
    /// The bounds of `uniform_*` are out of order, not finite, or too far apart for the type.
    #[error("uniform bounds {lo} and {hi} must be finite and in order, and their difference too")]
    UniformBounds {
        /// Lower bound.
        lo: f64,
        /// Upper bound.
        hi: f64,
    },
    /// The standard deviation is negative or not a number.
    #[error("standard deviation {std} must be 0 or greater")]
    StandardDeviation {
        /// As given.
        std: f64,
    },
    /// The rate of `exponential` is not above zero.
    #[error("exponential rate {lambda} must be greater than 0")]
    Rate {
        /// As given.
        lambda: f64,
    },
    /// A probability outside 0 to 1.
    #[error("probability {p} must be between 0 and 1")]
    Probability {
        /// As given.
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
    #[error("weight {weight} at {at} must be finite and not negative")]
    Weight {
        /// As given.
        weight: f32,
        /// Its place among the weights.
        at: usize,
    },
    /// `multinomial` was given no weight above zero.
    #[error("none of the {n_weights} weights is greater than 0")]
    ZeroWeights {
        /// How many weights there are.
        n_weights: usize,
    },
    /// `multinomial` was given more weights than PyTorch takes.
    #[error("{n_weights} weights are more than the {limit} that can be told apart in f32")]
    TooManyWeights {
        /// How many weights there are.
        n_weights: usize,
        /// How many there may be.
        limit: usize,
    },
    /// `multinomial` without replacement ran out of categories.
    #[error(
        "cannot draw {n_samples} different samples from {n_nonzero} weights greater than 0; \
         draw fewer, or with replacement"
    )]
    TooFewWeights {
        /// How many samples were asked for.
        n_samples: usize,
        /// How many weights are above zero.
        n_nonzero: usize,
    },
    /// A saved state has the wrong length.
    #[error("generator state has {n_bytes} bytes, expected {expected}")]
    StateLength {
        /// As given.
        n_bytes: usize,
        /// What `torch.Generator.get_state` returns.
        expected: usize,
    },
    /// A field of a saved state holds a value that no generator leaves there.
    #[error("generator state field `{field}` cannot be {value}")]
    StateField {
        /// The field's name in PyTorch.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
}
