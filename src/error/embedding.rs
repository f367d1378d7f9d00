//! What can be wrong with the options of an embedding, with changing its rows, and with quantizing it.

use candle_core::quantized::GgmlDType;

/// What can be wrong with [`EmbeddingOptions`](crate::embedding::EmbeddingOptions), with changing the rows of a table, and
/// with quantizing it.
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
    /// A `max_norm` that is negative, infinite or NaN.
    #[error("max_norm {max_norm} must be a finite number of at least 0")]
    MaxNorm {
        /// As given.
        max_norm: f64,
    },
    /// A `norm_type` that is not above 0.
    #[error("norm_type {norm_type} must be greater than 0")]
    NormType {
        /// As given.
        norm_type: f64,
    },
    /// A table that would have no rows, or be padded to a multiple of 0.
    #[error("cannot change the number of rows: `{name}` must be at least 1")]
    Zero {
        /// The argument: `vocab_size` or `multiple`.
        name: &'static str,
    },
    /// A multiple that is too large for a number of rows.
    #[error(
        "cannot pad a vocabulary of {vocab_size} to a multiple of {multiple}: no multiple that large can be counted"
    )]
    Multiple {
        /// As given.
        multiple: usize,
        /// How many rows the table has.
        vocab_size: usize,
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
    /// Rows that are not made of whole blocks.
    #[error(
        "rows of {width} numbers are not made of whole {block_type:?} blocks of {}: {}",
        block_type.block_size(),
        instead(*width)
    )]
    BlockWidth {
        /// What the table was to be quantized to.
        block_type: GgmlDType,
        /// How wide it is.
        width: usize,
    },
    /// A type that is none of the quantized ones that rows are read from.
    #[error(
        "tables are not quantized to {block_type:?}: use Q8_0, Q5_1, Q5_0, Q4_1 or Q4_0, or Q6K, Q5K, Q4K, Q3K or Q2K where 256 divides the width"
    )]
    BlockType {
        /// As given.
        block_type: GgmlDType,
    },
    /// Blocks were asked of a table that has none.
    #[error("the token table is not quantized: `quantize` it first")]
    NotQuantized,
    /// A number that no block can hold.
    #[error(
        "row {row} holds a number that is not finite and cannot be quantized: repair it, or leave the table as it is"
    )]
    NotFinite {
        /// The first such row.
        row: usize,
    },
    /// Options that change rows or their gradients, of a table that has only rows to be read.
    #[error(
        "max_norm changes rows where they lie, which those of a mapped or quantized table are not: `to_dense` gives numbers"
    )]
    MaxNormOfStored,
}

/// What to do with a table whose rows some type's blocks do not divide.
fn instead(width: usize) -> String {
    const SMALL: usize = 32;
    match width % SMALL {
        0 => format!(
            "use Q8_0, Q5_0 or Q4_0, whose blocks hold {SMALL}, or pad the width to {}",
            width.next_multiple_of(256)
        ),
        _ => format!("pad the width to {}, or keep the table in bf16 or f16", width.next_multiple_of(SMALL)),
    }
}
