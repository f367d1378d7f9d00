//! What can be wrong with the options of an embedding, and with changing its rows.

/// What can be wrong with [`EmbeddingOptions`](crate::embedding::EmbeddingOptions) and with changing the rows of a table.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddingError {
    /// A padding row that the table does not have.
    #[error("padding_idx {padding_idx} is outside the vocabulary of {vocab_size} (a negative one counts from the end)")]
    PaddingIdx {
        /// As given.
        padding_idx: i64,
        /// How many rows the table has.
        vocab_size: usize,
    },
    /// A largest norm that is no length.
    #[error("max_norm {max_norm} must be a finite number of at least 0")]
    MaxNorm {
        /// As given.
        max_norm: f64,
    },
    /// A norm that is none.
    #[error("norm_type {norm_type} must be greater than 0")]
    NormType {
        /// As given.
        norm_type: f64,
    },
    /// Sub-tokens that do not go with the new rows of a table.
    #[error(
        "{n_lists} lists of sub-tokens for {n_new} new rows{}: give each new token the ids of its text so far",
        empty.map(|at| format!(", and list {at} is empty")).unwrap_or_default()
    )]
    SubTokens {
        /// How many lists there are.
        n_lists: usize,
        /// How many rows are new.
        n_new: usize,
        /// The first list without ids.
        empty: Option<usize>,
    },
    /// A row to be replaced twice.
    #[error("row {id} is to be replaced twice: give each id once")]
    RepeatedRow {
        /// The id.
        id: i64,
    },
}
