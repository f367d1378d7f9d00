//! [`EmbeddingError`]: why a table cannot have an option, be resized, or be quantized.

use candle_core::quantized::GgmlDType;

use super::shown::number;

/// Says why a table cannot have some [`EmbeddingOptions`](crate::embedding::EmbeddingOptions), change its rows or be
/// quantized.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_gpt_input::Error;
/// use candle_gpt_input::embedding::{EmbeddingOptions, TokenTable};
/// use candle_gpt_input::error::EmbeddingError;
///
/// let wte = TokenTable::try_from(Tensor::new(&[[1f32, 2.], [3., 4.]], &Device::Cpu)?)?;
/// let error = wte.with_options(EmbeddingOptions::default().with_padding_idx(2)).unwrap_err();
/// assert!(matches!(error, Error::Embedding(EmbeddingError::PaddingIdx { padding_idx: 2, vocab_size: 2 })));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddingError {
    /// A padding row that the table does not have.
    #[error("padding_idx {padding_idx} is outside the vocabulary of {vocab_size} (a negative one counts from the end)")]
    PaddingIdx {
        /// The given index.
        padding_idx: i64,
        /// The number of rows of the table.
        vocab_size: usize,
    },
    /// A `max_norm` that is negative, infinite or NaN.
    #[error("max_norm {max_norm} must be a finite number of at least 0", max_norm = number(*max_norm))]
    MaxNorm {
        /// The given norm.
        max_norm: f64,
    },
    /// A `norm_type` that is not above 0.
    #[error("norm_type {norm_type} must be greater than 0", norm_type = number(*norm_type))]
    NormType {
        /// The given exponent.
        norm_type: f64,
    },
    /// A table that would have no rows, or be padded to a multiple of 0.
    #[error("cannot change the number of rows: `{name}` must be at least 1")]
    Zero {
        /// The argument: `vocab_size` or `multiple`.
        name: &'static str,
    },
    /// A multiple that is too large for any number of rows.
    #[error(
        "cannot pad a vocabulary of {vocab_size} to a multiple of {multiple}: no multiple that large can be counted"
    )]
    Multiple {
        /// The given multiple.
        multiple: usize,
        /// The number of rows of the table.
        vocab_size: usize,
    },
    /// Lists of sub-tokens that do not match the new rows of a table.
    #[error(
        "{n_lists} lists of sub-tokens for {n_new} new rows{}: give each new token the old ids of its text",
        empty.map(|at| format!(", and list {at} is empty")).unwrap_or_default()
    )]
    SubTokens {
        /// The number of lists.
        n_lists: usize,
        /// The number of new rows.
        n_new: usize,
        /// The first list without ids.
        empty: Option<usize>,
    },
    /// A row that would be replaced twice.
    #[error("cannot replace row {id} twice: give each id once")]
    RepeatedRow {
        /// The id.
        id: i64,
    },
    /// Rows that do not divide into whole blocks.
    #[error(
        "rows of {width} elements do not divide into {block_type:?} blocks of {}: {}",
        block_type.block_size(),
        instead(*width)
    )]
    BlockWidth {
        /// The requested dtype of the blocks.
        block_type: GgmlDType,
        /// The width of the table.
        width: usize,
    },
    /// A dtype that is not quantized, or whose rows this crate does not read.
    #[error(
        "cannot quantize a table to {block_type:?}: use Q8_0, Q5_1, Q5_0, Q4_1 or Q4_0, \
         or Q6K, Q5K, Q4K, Q3K or Q2K where 256 divides the width"
    )]
    BlockType {
        /// The requested dtype.
        block_type: GgmlDType,
    },
    /// The blocks of a table that is not quantized.
    #[error("the token table is not quantized: `quantize` it first")]
    NotQuantized,
    /// A value that no block can hold.
    #[error("cannot quantize row {row}, which holds a value that is not finite: repair it, or keep the table as it is")]
    NotFinite {
        /// The first such row.
        row: usize,
    },
    /// A backward pass through a head whose table a look-up with `max_norm` has changed since.
    #[error(
        "max_norm scaled rows of the token table after a head had used it, so that its gradient would be wrong: \
         look up first, and call `backward` before the next look-up"
    )]
    ChangedByMaxNorm,
    /// A vocabulary cut over ranks, with a table or hidden states that are not on the CPU.
    #[error("a vocabulary cut over ranks is computed on the CPU: move the table and the hidden states there")]
    SplitOnDevice,
    /// A `max_norm` for a table whose rows can only be read.
    #[error("max_norm changes rows in place, which a mapped or quantized table does not allow: call `to_dense` first")]
    MaxNormOfStored,
}

/// Says what to do with a table whose rows do not divide into the requested blocks.
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
