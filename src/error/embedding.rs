//! What can be wrong with the options of an embedding.

/// What can be wrong with [`EmbeddingOptions`](crate::embedding::EmbeddingOptions).
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
}
