//! What can be wrong with token ids, windows, batches and a loader's state.

/// What can be wrong with token ids, windows, batches or a loader's saved state.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A length or count of zero.
    #[error("`{name}` must be at least 1")]
    Zero {
        /// `max_length`, `stride` or `batch_size`.
        name: &'static str,
    },
    /// No document is long enough for one window.
    #[error(
        "no window of max_length {max_length} fits: it needs {n_needed} tokens, and the longest of {n_documents} documents has {n_tokens}"
    )]
    TooShort {
        /// The length of a window.
        max_length: usize,
        /// How many tokens a document needs for its first window.
        n_needed: usize,
        /// How many documents there are.
        n_documents: usize,
        /// The tokens of the longest one.
        n_tokens: usize,
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
    #[error("cannot split at {fraction}: the fraction must be between 0 and 1")]
    Fraction {
        /// As given.
        fraction: f64,
    },
    /// A shard that does not exist.
    #[error("no shard {rank} of {world_size}: ranks are 0 to world_size - 1")]
    Shard {
        /// Which shard.
        rank: usize,
        /// How many there are.
        world_size: usize,
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
    #[error("the saved state is of a loader with {what} {saved}, this one has {given}")]
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
