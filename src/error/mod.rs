//! Every way this crate can fail, as one type.

mod cause;
mod checkpoint;
mod config;
mod conversion;
mod data;
mod device;
mod embedding;
#[cfg(feature = "hub")]
mod hub;
mod optim;
mod position;
mod rng;
mod tokenizer;

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Shape};

pub use checkpoint::CheckpointError;
pub use config::ConfigError;
pub use data::DataError;
pub use device::DeviceError;
pub use embedding::EmbeddingError;
#[cfg(feature = "hub")]
#[cfg_attr(docsrs, doc(cfg(feature = "hub")))]
pub use hub::{FetchError, HubError};
pub use optim::OptimError;
pub use position::PositionError;
pub use rng::RngError;
pub use tokenizer::TokenizerError;

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, where, and, where there is one, the next step.
///
/// The text says what was attempted and with what. The cause, where there is one, is in
/// [`source`](std::error::Error::source) alone, so a printer of the whole chain (`{:#}` of anyhow) says everything once.
///
/// Functions and methods of this crate return this type, whatever the family of the error, and so do its conversions
/// (`TryFrom`, `FromStr`). Implementations of Candle's traits ([`candle_core::Module`], [`candle_core::ModuleT`], a backend
/// of [`candle_nn::VarBuilder`]) return [`candle_core::Error`]. `Error::from` takes ours out of that again, with its cause:
///
/// ```
/// use candle_core::{DType, Device, Module, Tensor};
/// use candle_gpt_input::{Error, GptInputConfig, GptInputLayer};
/// # use candle_gpt_input::{init::Init, rng::Generator};
///
/// let config = GptInputConfig::new(10, 4, 2);
/// # let rng = Generator::manual_seed(1);
/// # let layer = GptInputLayer::init(&config, Init::TorchEmbedding, &rng, DType::F32, &Device::Cpu)?;
/// let ids = Tensor::new(&[3u32, 99], &Device::Cpu)?;
/// let candle_error = layer.eval().forward(&ids).unwrap_err(); // a candle_core::Error
/// match Error::from(candle_error) {
///     Error::TokenOutOfRange { id, at, vocab_size } => assert_eq!((id, &at[..], vocab_size), (99, &[1][..], 10)),
///     other => panic!("{other}"),
/// }
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A token id that no row of the token table belongs to. `at` is its index in the tensor of ids.
    #[error(
        "token id {id} at {at:?} is outside the vocabulary of {vocab_size} (valid ids: {})",
        valid(*vocab_size)
    )]
    TokenOutOfRange {
        /// The id as it was given; every supported type of id fits `i64`.
        id: i64,
        /// Its index in the tensor of ids, one number a dimension (empty for a scalar).
        at: Vec<usize>,
        /// How many rows the token table has.
        vocab_size: usize,
    },
    /// A position id that no row of the position table belongs to. `at` is its index in the tensor of position ids.
    #[error(
        "position {position} at {at:?} is outside the position table of {n_positions} (valid positions: {})",
        valid(*n_positions)
    )]
    PositionOutOfRange {
        /// The position as it was given.
        position: i64,
        /// Its index in the tensor of position ids.
        at: Vec<usize>,
        /// How many rows the position table has.
        n_positions: usize,
    },
    /// A sequence that would end beyond the position table.
    #[error(
        "the sequence ends at position {end}, but the model has {n_positions} positions: shorten it to fit, or use a model with more positions"
    )]
    SequenceTooLong {
        /// Start position + length: one more than the last position asked for.
        end: usize,
        /// How many rows the position table has.
        n_positions: usize,
    },
    /// Token ids, position ids or a mask of a type that is none of `u8`, `u32`, `i64`.
    #[error("{what} must be u8, u32 or i64, not {got:?}: convert with `.to_dtype(DType::U32)`")]
    IdDType {
        /// Which argument: `input_ids`, `position_ids`, `attention_mask`, `target_ids` or `loss_mask`.
        what: &'static str,
        /// The type it has.
        got: DType,
    },
    /// A mask with a value that is neither 0 nor 1.
    #[error("{what} holds {value} at {at:?}: it must be 1 (token) or 0 (padding)")]
    MaskValue {
        /// Which mask: `attention_mask` or `loss_mask`.
        what: &'static str,
        /// The value found.
        value: i64,
        /// Its index in the mask.
        at: Vec<usize>,
    },
    /// An argument whose shape does not go with the others.
    #[error("{what} has shape {got:?}, expected {expected}")]
    ShapeMismatch {
        /// Which argument.
        what: &'static str,
        /// The shape it has.
        got: Shape,
        /// What would have been right, in words and numbers.
        expected: String,
    },
    /// A table that is not a matrix of floating-point numbers.
    #[error("{table} must be a two-dimensional table of f32, f64, f16 or bf16, not {shape:?} of {dtype:?}")]
    InvalidTable {
        /// `wte` or `wpe`.
        table: &'static str,
        /// The shape it has.
        shape: Shape,
        /// The type it has.
        dtype: DType,
    },
    /// Two tables (or a table and a tensor) that cannot be added.
    #[error("{left} has {property} {left_value}, but {right} has {right_value}")]
    TableMismatch {
        /// The first of the two, usually `wte`.
        left: &'static str,
        /// The second of the two, usually `wpe`.
        right: &'static str,
        /// What differs: `width`, `dtype` or `device`.
        property: &'static str,
        /// The first one's.
        left_value: String,
        /// The second one's.
        right_value: String,
    },
    /// A table of a dtype that random numbers are not drawn for.
    #[error("cannot draw a table of {dtype:?}: use f32, f64, f16 or bf16")]
    InitDType {
        /// The dtype asked for.
        dtype: DType,
    },
    /// A table that stays in its file or on its server, where the whole of it is needed in memory.
    #[error("{table} stays where it is stored, and this needs it in memory: open the checkpoint with dense tables")]
    NotInMemory {
        /// `wte` or `wpe`.
        table: &'static str,
    },
    /// Something that needs the numbers of a table was asked of quantized blocks.
    #[error(
        "{table} is quantized to {block_type:?}, which is read, not trained or changed: `to_dense` gives its numbers, and `save` to a path that ends in `.gguf` keeps its blocks"
    )]
    Quantized {
        /// `wte` or `wpe`.
        table: &'static str,
        /// What it is quantized to.
        block_type: GgmlDType,
    },
    /// `trainable` met a variable of the same name.
    #[error("the VarMap already holds a variable `{name}`: pass another prefix")]
    VarExists {
        /// The full name.
        name: String,
    },
    /// A configuration that cannot be read or makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A device that cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A checkpoint that cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A tokenizer that cannot be built, or an id it does not know.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Random numbers that cannot be drawn, or a generator's state that cannot be read.
    #[error(transparent)]
    Rng(#[from] RngError),
    /// Options of an embedding that make no sense for its table.
    #[error(transparent)]
    Embedding(#[from] EmbeddingError),
    /// Token ids that cannot be cut into windows or batches, or a loader's state that does not go with them.
    #[error(transparent)]
    Data(#[from] DataError),
    /// An optimizer that was given something it cannot use.
    #[error(transparent)]
    Optim(#[from] OptimError),
    /// Positions that were asked for what their scheme does not do, or given what does not go with it.
    #[error(transparent)]
    Position(#[from] PositionError),
    /// A server that does not give what was asked of it. Needs the feature `hub`.
    #[cfg(feature = "hub")]
    #[cfg_attr(docsrs, doc(cfg(feature = "hub")))]
    #[error(transparent)]
    Hub(#[from] HubError),
    /// Anything Candle reports.
    #[error(transparent)]
    Candle(candle_core::Error),
}

fn valid(n: usize) -> String {
    match n {
        0 => "none".to_string(),
        n => format!("0 to {}", n - 1),
    }
}

#[cfg(test)]
mod tests;
