//! What can be wrong with an optimizer.

use std::path::PathBuf;

use candle_core::{DType, Shape};

use super::cause::Cause;

/// What can be wrong with an optimizer's settings, gradients or saved state.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OptimError {
    /// A number outside its range.
    #[error("optimizer: `{name}` is {value}, which is not {expected}")]
    OutOfRange {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: f64,
        /// The range, in words.
        expected: &'static str,
    },
    /// Two parameters of one name.
    #[error("optimizer: two parameters are called `{name}`")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// One variable under two names.
    #[error("optimizer: `{first}` and `{second}` are one variable: give it once")]
    DuplicateVar {
        /// The name it came under first.
        first: String,
        /// The other name.
        second: String,
    },
    /// A parameter of a type that is no floating-point type we compute in.
    #[error("optimizer: `{name}` holds {dtype:?}, expected f32, f64, f16 or bf16")]
    UnsupportedDType {
        /// The parameter.
        name: String,
        /// Its type.
        dtype: DType,
    },
    /// A variable that is none of the optimizer's parameters.
    #[error("optimizer: a variable of shape {shape:?} is none of its {n_params} parameters")]
    UnknownVar {
        /// The variable's shape.
        shape: Shape,
        /// How many parameters there are.
        n_params: usize,
    },
    /// Rows of a parameter that is no matrix.
    #[error("optimizer: `{name}` has shape {shape:?}; only a matrix has rows to freeze")]
    NotMatrix {
        /// The parameter.
        name: String,
        /// Its shape.
        shape: Shape,
    },
    /// A row that a table does not have.
    #[error("optimizer: row {row} is outside `{name}`, which has {n_rows} rows")]
    RowOutOfRange {
        /// The parameter.
        name: String,
        /// The row.
        row: usize,
        /// How many rows there are.
        n_rows: usize,
    },
    /// A table that is to take another's place, but differs from it in more than the number of rows.
    #[error("optimizer: `{name}` cannot become a table of {property} {got}, expected {expected}")]
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
    /// A gradient that does not go with its parameter.
    #[error("optimizer: the gradient of `{name}` has {property} {got}, expected {expected}")]
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
    /// A gradient that lives in the memory of its parameter, which the step is about to write.
    #[error("optimizer: the gradient of `{name}` shares its memory: pass a copy")]
    SharedGradient {
        /// The parameter.
        name: String,
    },
    /// Two gradients of rows for one parameter in one step.
    #[error("optimizer: two gradients of rows for `{name}` in one step: join their ids and rows with `Tensor::cat`")]
    RepeatedRows {
        /// The parameter.
        name: String,
    },
    /// A layer neither of whose tables is a variable.
    #[error("neither table of the layer is a variable: make one with `GptInputLayer::trainable`")]
    NotTrainable,
    /// A file that holds no state of such an optimizer.
    #[error("{}: {reason}", path.display())]
    #[non_exhaustive]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What the JSON parser says, where it gave up.
        source: Option<Cause>,
    },
    /// A saved state of other parameters.
    #[error("{}: a state of other parameters; not in the file: {missing}; only in the file: {unexpected}", path.display())]
    StateNames {
        /// The file.
        path: PathBuf,
        /// The optimizer's parameters that the file lacks, or "none".
        missing: String,
        /// The file's parameters that the optimizer lacks, or "none".
        unexpected: String,
    },
    /// A saved state whose parameter has another shape, type or group.
    #[error("{}: the state of `{name}` is {got}, expected {expected}", path.display())]
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
