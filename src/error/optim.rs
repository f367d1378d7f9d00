//! [`OptimError`]: why an optimizer refuses its settings, gradients or saved state.

use std::path::PathBuf;

use candle_core::{DType, Shape};

use super::cause::Cause;
use super::shown::{Shown, number};

/// Says why an optimizer refuses its settings, gradients or saved state.
///
/// ```
/// use candle_gpt_input::Error;
/// use candle_gpt_input::error::OptimError;
/// use candle_gpt_input::optim::AdamW;
///
/// let error = AdamW::new_lr(vec![], -1.0).unwrap_err();
/// assert!(matches!(error, Error::Optim(OptimError::OutOfRange { value: -1.0, .. })));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OptimError {
    /// A setting outside its range.
    #[error("optimizer: `{name}` is {value}, which is not {expected}", value = number(*value))]
    OutOfRange {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: f64,
        /// The range, in words.
        expected: &'static str,
    },
    /// Two parameters of one name.
    #[error("optimizer: two parameters are called `{name}`", name = Shown::name(name))]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// One variable under two names.
    #[error(
        "optimizer: `{first}` and `{second}` are one variable: give it once",
        first = Shown::name(first),
        second = Shown::name(second)
    )]
    DuplicateVar {
        /// The name it came under first.
        first: String,
        /// The other name.
        second: String,
    },
    /// A parameter whose dtype is not one of the supported floating-point dtypes.
    #[error("optimizer: `{name}` holds {dtype:?}, expected f32, f64, f16 or bf16", name = Shown::name(name))]
    UnsupportedDType {
        /// The parameter.
        name: String,
        /// Its dtype.
        dtype: DType,
    },
    /// A variable that is not a parameter of the optimizer.
    #[error("optimizer: a variable of shape {shape:?} is not one of its {n_params} parameters")]
    UnknownVar {
        /// The variable's shape.
        shape: Shape,
        /// The number of parameters.
        n_params: usize,
    },
    /// Frozen rows in an optimizer whose state is cut by elements.
    #[error(
        "optimizer: rows of `{name}` are frozen, which one that is cut over ranks does not keep: use `AdamW`",
        name = Shown::name(name)
    )]
    FrozenRows {
        /// The parameter.
        name: String,
    },
    /// Rows of a parameter that is not a matrix.
    #[error("optimizer: `{name}` has shape {shape:?}; only a matrix has rows to freeze", name = Shown::name(name))]
    NotMatrix {
        /// The parameter.
        name: String,
        /// Its shape.
        shape: Shape,
    },
    /// A row that a table does not have.
    #[error("optimizer: row {row} is outside `{name}`, which has {n_rows} rows", name = Shown::name(name))]
    RowOutOfRange {
        /// The parameter.
        name: String,
        /// The row.
        row: usize,
        /// The number of rows.
        n_rows: usize,
    },
    /// A table that would replace another, but differs in more than the number of rows.
    #[error(
        "optimizer: `{name}` cannot become a table of {property} {got}, expected {expected}",
        name = Shown::name(name),
        got = Shown::name(got),
        expected = Shown::text(expected)
    )]
    Resized {
        /// The parameter.
        name: String,
        /// What differs: `width`, `dtype` or `device`.
        property: &'static str,
        /// The new table's.
        got: String,
        /// The parameter's.
        expected: String,
    },
    /// A gradient that does not match its parameter.
    #[error(
        "optimizer: the gradient of `{name}` has {property} {got}, expected {expected}",
        name = Shown::name(name),
        got = Shown::name(got),
        expected = Shown::text(expected)
    )]
    Gradient {
        /// The parameter.
        name: String,
        /// What differs: `shape`, `dtype` or `device`.
        property: &'static str,
        /// The gradient's.
        got: String,
        /// The parameter's.
        expected: String,
    },
    /// A gradient in memory that the step would overwrite.
    #[error(
        "optimizer: the gradient of `{name}` shares its memory with {with}: pass a copy",
        name = Shown::name(name),
        with = Shown::name(with)
    )]
    #[non_exhaustive]
    SharedGradient {
        /// The parameter.
        name: String,
        /// What the memory holds: a parameter, or a part of its state.
        with: String,
    },
    /// Two row gradients for one parameter in one step.
    #[error(
        "optimizer: two row gradients for `{name}` in one step: join their ids and rows with `Tensor::cat`",
        name = Shown::name(name)
    )]
    RepeatedRows {
        /// The parameter.
        name: String,
    },
    /// Row gradients of one table with and without `scale_grad_by_freq`.
    #[error(
        "optimizer: row gradients of a table of shape {shape:?} with scale_grad_by_freq and without: make all in one way"
    )]
    MixedRows {
        /// The shape of the table.
        shape: Shape,
    },
    /// A step in which no target counted on any rank, whose mean gradient is not a number.
    #[error("optimizer: no target of the step counted, on no rank: leave the step out")]
    NoTargets,
    /// A layer without a table that is a variable.
    #[error("neither table of the layer is a variable: make one with `GptInputLayer::trainable`")]
    NotTrainable,
    /// A file that does not hold a state of this kind of optimizer.
    #[error("{path}: {reason}", path = Shown::path(path), reason = Shown::text(reason))]
    #[non_exhaustive]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// The JSON parser's error, if it failed.
        source: Option<Cause>,
    },
    /// A saved state of other parameters.
    #[error(
        "{path}: a state of other parameters; not in the file: {missing}; only in the file: {unexpected}",
        path = Shown::path(path),
        missing = Shown::text(missing),
        unexpected = Shown::text(unexpected)
    )]
    StateNames {
        /// The file.
        path: PathBuf,
        /// The optimizer's parameters that the file lacks, or "none".
        missing: String,
        /// The file's parameters that the optimizer lacks, or "none".
        unexpected: String,
    },
    /// A saved state whose parameter has another shape, dtype or group.
    #[error(
        "{path}: the state of `{name}` is {got}, expected {expected}",
        path = Shown::path(path),
        name = Shown::name(name),
        got = Shown::name(got),
        expected = Shown::text(expected)
    )]
    StateMismatch {
        /// The file.
        path: PathBuf,
        /// The parameter.
        name: String,
        /// What the file holds.
        got: String,
        /// What the optimizer needs.
        expected: String,
    },
}
