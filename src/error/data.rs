//! [`DataError`]: why token ids cannot be cut or batched, or a loader's state cannot be used.

use super::shown::{Shown, number};

/// Says why token ids cannot be cut into windows or batches, or a loader's saved state cannot be used.
///
/// ```
/// use candle_gpt_input::Error;
/// use candle_gpt_input::data::{Tail, Tokens, Windows};
/// use candle_gpt_input::error::DataError;
///
/// let error = Windows::new(&Tokens::new(vec![1, 2, 3]), 4, 4, Tail::Drop).unwrap_err();
/// assert!(matches!(error, Error::Data(DataError::TooShort { n_needed: 5, n_tokens: 3, .. })));
/// ```
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A length or count of zero.
    #[error("`{name}` must be at least 1")]
    Zero {
        /// `max_length`, `stride`, `batch_size` or `n_rows`.
        name: &'static str,
    },
    /// No document is long enough for one window.
    #[error(
        "no window of max_length {max_length} fits: it needs {n_needed} tokens, \
         and the longest of {n_documents} documents has {n_tokens}"
    )]
    TooShort {
        /// The length of a window.
        max_length: usize,
        /// The tokens that a document needs for its first window.
        n_needed: usize,
        /// The number of documents.
        n_documents: usize,
        /// The tokens of the longest one.
        n_tokens: usize,
    },
    /// A loader whose epochs would have no batch.
    #[error(
        "no batch: an epoch has {n_windows} windows, and a step takes {} (batch_size {batch_size}, world_size \
         {world_size}, drop_last {drop_last}): set drop_last to false, or choose smaller batches, windows or strides",
        batch_size.saturating_mul(*world_size)
    )]
    NoBatch {
        /// The number of windows.
        n_windows: usize,
        /// The windows of a batch.
        batch_size: usize,
        /// The number of ranks.
        world_size: usize,
        /// Whether an incomplete batch is left out.
        drop_last: bool,
    },
    /// An integer that does not fit a token id.
    #[error("token id {id} at [{at}] does not fit u32: ids are 0 to 4294967295")]
    IdRange {
        /// The integer.
        id: i64,
        /// Its index among those given.
        at: usize,
    },
    /// A fraction to split at outside 0 to 1.
    #[error("cannot split at {fraction}: the fraction must be between 0 and 1", fraction = number(*fraction))]
    Fraction {
        /// The given fraction.
        fraction: f64,
    },
    /// A shard that does not exist.
    #[error("no shard {rank} of {world_size}: ranks are 0 to world_size - 1")]
    Shard {
        /// The requested shard.
        rank: usize,
        /// The number of shards.
        world_size: usize,
    },
    /// Rows of documents that are not equally long.
    #[error("row {row} has documents of {got} tokens in all, but row 0 of {expected}: all rows need the same number")]
    DocumentRows {
        /// The row.
        row: usize,
        /// Its tokens.
        got: usize,
        /// Those of the first row.
        expected: usize,
    },
    /// Two settings that both restart positions.
    #[error(
        "`boundaries` mark restarts positions at each document, and `reset_positions_after` {separator} after a token: \
         choose one of them"
    )]
    PositionsTwice {
        /// The token.
        separator: u32,
    },
    /// A weight of a blend that is not a positive number.
    #[error(
        "the weight of corpus {corpus} in the blend is {weight}: weights are positive and finite, and so is their sum",
        weight = number(*weight)
    )]
    BlendWeight {
        /// The number of the corpus, from 0.
        corpus: usize,
        /// Its weight.
        weight: f64,
    },
    /// A shuffled order too large to allocate.
    #[error(
        "the order of {n_windows} shuffled windows needs {n_bytes} bytes, more than this machine's memory holds: choose \
         a larger stride, or set shuffle to false"
    )]
    TooManyWindows {
        /// The number of windows.
        n_windows: usize,
        /// The bytes of their order.
        n_bytes: u128,
    },
    /// A batch too large to allocate.
    #[error("a batch of {n_rows} windows of {max_length} tokens does not fit in memory")]
    BatchTooLarge {
        /// Windows in the batch.
        n_rows: usize,
        /// Tokens in a window.
        max_length: usize,
    },
    /// A saved state of another text, other windows or another kind of loader.
    #[error(
        "cannot resume: the state is of a loader with {what} {saved}, but this one has {given}",
        saved = Shown::name(saved),
        given = Shown::name(given)
    )]
    StateMismatch {
        /// What differs.
        what: &'static str,
        /// The saved loader's.
        saved: String,
        /// This loader's.
        given: String,
    },
    /// A saved state that no loader writes.
    #[error("the saved state is damaged: {reason}")]
    InvalidState {
        /// What is wrong with it.
        reason: &'static str,
    },
}
