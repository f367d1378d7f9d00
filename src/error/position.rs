//! [`PositionError`]: what a position scheme does not support.

use super::shown::Shown;

/// Says what a position scheme does not support, or which table it lacks.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_gpt_input::error::PositionError;
/// use candle_gpt_input::{Error, GptInputLayer};
///
/// let wte = Tensor::zeros((3, 2), DType::F32, &Device::Cpu)?;
/// let wpe = Tensor::zeros((4, 2), DType::F32, &Device::Cpu)?;
/// let layer = GptInputLayer::new(wte, wpe)?; // learned positions, which are added to the input
/// let error = layer.positions().attention_bias(1, 1, 0).unwrap_err();
/// assert!(matches!(error, Error::Position(PositionError::WrongPlace { scheme: "learned", .. })));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PositionError {
    /// A call that the scheme does not support.
    #[error("{scheme} positions {asked}: {instead}")]
    WrongPlace {
        /// The scheme, as the configuration names it.
        scheme: &'static str,
        /// What it does not do.
        asked: &'static str,
        /// What it does, and which method to call.
        instead: &'static str,
    },
    /// Padding between two tokens of a row, for a scheme that counts columns.
    #[error(
        "{scheme} positions count columns, but the mask has padding inside row {row}, at column {column}: {instead}"
    )]
    Hole {
        /// The scheme, as the configuration names it.
        scheme: &'static str,
        /// The row of the mask.
        row: usize,
        /// The first column of padding between two tokens.
        column: usize,
        /// What can be done.
        instead: &'static str,
    },
    /// A block that does not exist.
    #[error("block {block} has no positions of its own: the configuration says n_layer {n_layer}")]
    NoSuchBlock {
        /// The requested block, counted from 0.
        block: usize,
        /// The number of blocks.
        n_layer: usize,
    },
    /// Positions that differ between types of layers, asked for without a type.
    #[error(
        "rope positions differ between types of layers ({types}): choose with `of_layer_type`, by the block's entry \
         in `layer_types`",
        types = Shown::text(types)
    )]
    LayerTypes {
        /// The types.
        types: String,
    },
    /// A layer type that the model does not have.
    #[error(
        "no layer type `{layer_type}`: the model has rope positions for {known}",
        layer_type = Shown::name(layer_type),
        known = Shown::text(known)
    )]
    NoSuchLayerType {
        /// The type asked for.
        layer_type: String,
        /// The known types.
        known: String,
    },
    /// A position table of a scheme that adds nothing to the input.
    #[error("{scheme} positions add no table to the input: attention calls the methods of `layer.positions()`")]
    NoTable {
        /// The scheme, as the configuration names it.
        scheme: &'static str,
    },
    /// A scheme with a table that was not given.
    #[error(
        "{scheme} positions have a table `{name}`, which was not given: load it with `GptInputLayer::load`",
        name = Shown::name(name)
    )]
    MissingTables {
        /// The scheme, as the configuration names it.
        scheme: &'static str,
        /// The table's name.
        name: String,
    },
    /// A scheme with more tables than were given.
    #[error("{scheme} positions need more tables than the {n_tables} given")]
    MissingTable {
        /// The scheme.
        scheme: &'static str,
        /// The number of tables given.
        n_tables: usize,
    },
    /// A number or dimension of heads that the scheme does not support.
    #[error("{scheme} positions need {expected}, but {what} is {got}")]
    Dimension {
        /// The scheme.
        scheme: &'static str,
        /// The dimension, in words.
        what: &'static str,
        /// Its value.
        got: usize,
        /// What the scheme needs.
        expected: &'static str,
    },
    /// A position table that cannot be resized in the requested way.
    #[error("a table of {from} positions cannot be {how} to {to}: {instead}")]
    Resize {
        /// Rows now.
        from: usize,
        /// Rows requested.
        to: usize,
        /// `cropped` or `extended`.
        how: &'static str,
        /// What can be done.
        instead: &'static str,
    },
}
