//! What can be wrong with a use of positions.

/// What can be wrong with a use of [`crate::position`].
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PositionError {
    /// A scheme that was asked for what it does not do.
    #[error("{scheme} positions {asked}: {instead}")]
    WrongPlace {
        /// The scheme, by the name that the configuration gives it.
        scheme: &'static str,
        /// What it does not do.
        asked: &'static str,
        /// What it does, and what to call.
        instead: &'static str,
    },
    /// Padding between two tokens of a row, for a scheme that goes by the distance of columns.
    #[error(
        "{scheme} positions count columns, but the mask has padding inside row {row}, at column {column}: {instead}"
    )]
    Hole {
        /// The scheme, by the name that the configuration gives it.
        scheme: &'static str,
        /// The row of the mask.
        row: usize,
        /// The first column of padding behind a token and before another.
        column: usize,
        /// What can be done.
        instead: &'static str,
    },
    /// A block that the model does not have.
    #[error("block {block} has no positions of its own: the configuration says n_layer {n_layer}")]
    NoSuchBlock {
        /// The block asked for, counted from 0.
        block: usize,
        /// How many there are.
        n_layer: usize,
    },
    /// A scheme with tables of its own, of which one was not given.
    #[error("{scheme} positions have a table `{name}`, which was not given: load it with `GptInputLayer::load`")]
    MissingTables {
        /// The scheme, by the name that the configuration gives it.
        scheme: &'static str,
        /// The table's name.
        name: String,
    },
    /// A scheme that was given fewer tables than it has.
    #[error("{scheme} positions need more tables than the {n_tables} given")]
    MissingTable {
        /// The scheme.
        scheme: &'static str,
        /// How many tables were given.
        n_tables: usize,
    },
    /// A number of heads, or a dimension of them, that the scheme cannot have.
    #[error("{scheme} positions need {expected}, but {what} is {got}")]
    Dimension {
        /// The scheme.
        scheme: &'static str,
        /// Which number.
        what: &'static str,
        /// Its value.
        got: usize,
        /// What would have been right.
        expected: &'static str,
    },
    /// A table that cannot be made so long or so short in the way asked for.
    #[error("a table of {from} positions cannot be {how} to {to}: {instead}")]
    Resize {
        /// Rows now.
        from: usize,
        /// Rows asked for.
        to: usize,
        /// `cropped` or `extended`.
        how: &'static str,
        /// What can be done.
        instead: &'static str,
    },
}
