//! [`Error`]: every way this crate can fail, in families.

mod advice;
mod cause;
mod checkpoint;
mod config;
mod conversion;
mod corpus;
mod data;
mod device;
mod embedding;
mod foreign;
#[cfg(feature = "hub")]
mod hub;
mod lm_head;
mod optim;
mod paths;
mod position;
mod ranks;
mod recognise;
mod rng;
mod shown;
mod text;
mod tokenizer;

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Shape};

pub(crate) use cause::cause;
pub use checkpoint::CheckpointError;
pub use config::ConfigError;
pub use corpus::CorpusError;
pub use data::DataError;
pub use device::DeviceError;
pub use embedding::EmbeddingError;
pub use foreign::ForeignFormat;
#[cfg(feature = "hub")]
#[cfg_attr(docsrs, doc(cfg(feature = "hub")))]
pub use hub::{FetchError, HubError};
pub use lm_head::LmHeadError;
pub use optim::OptimError;
pub use position::PositionError;
pub use ranks::RanksError;
pub(crate) use recognise::{N_HEAD, foreign_head, foreign_json};
pub use rng::RngError;
pub use shown::Shown;
pub use text::{NotUtf8, TextError};
pub(crate) use text::{model_text, utf8};
pub use tokenizer::TokenizerError;

/// Abbreviates a result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Says what was attempted, with what, and where possible what to do next.
///
/// The text is one line without control characters, whatever a file, a server or a caller put into it: see [`Shown`].
/// It never includes the cause, which is in [`source`](std::error::Error::source). So a printer of the whole
/// chain (`{:#}` of anyhow) prints everything once.
///
/// All functions and methods of this crate return this type, and so do its conversions (`TryFrom`, `FromStr`).
/// Implementations of Candle's traits ([`candle_core::Module`], [`candle_core::ModuleT`], a backend of
/// [`candle_nn::VarBuilder`]) return [`candle_core::Error`]. `Error::from` takes our error out again, with its cause:
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
    /// A token id outside the token table.
    #[error(
        "token id {id} at {at:?} is outside the vocabulary of {vocab_size} (valid ids: {})", valid(*vocab_size))]
    TokenOutOfRange {
        /// The given id; every supported dtype of ids fits `i64`.
        id: i64,
        /// Its index in the tensor of ids, one entry for each dimension (empty for a scalar).
        at: Vec<usize>,
        /// The number of rows of the token table.
        vocab_size: usize,
    },
    /// A position id outside the position table.
    #[error(
        "position {position} at {at:?} is outside the position table of {n_positions} (valid positions: {})",
        valid(*n_positions)
    )]
    PositionOutOfRange {
        /// The given position.
        position: i64,
        /// Its index in the tensor of position ids.
        at: Vec<usize>,
        /// The number of rows of the position table.
        n_positions: usize,
    },
    /// A sequence that would end beyond the position table.
    #[error(
        "the sequence ends at position {end}, but the model has {n_positions} positions: \
         shorten it to fit, or use a model with more positions"
    )]
    SequenceTooLong {
        /// Start position + length: one more than the last position needed.
        end: usize,
        /// The number of rows of the position table.
        n_positions: usize,
    },
    /// Token ids, position ids or a mask whose dtype is not `u8`, `u32` or `i64`.
    #[error("{what} must be u8, u32 or i64, not {got:?}: convert with `.to_dtype(DType::U32)`")]
    IdDType {
        /// Which argument: `input_ids`, `position_ids`, `attention_mask`, `target_ids` or `loss_mask`.
        what: &'static str,
        /// Its dtype.
        got: DType,
    },
    /// A tensor that must hold floating-point elements.
    #[error("{what} must be f32, f64, f16 or bf16, not {got:?}: convert with `.to_dtype(DType::F32)`")]
    FloatDType {
        /// Which argument.
        what: &'static str,
        /// Its dtype.
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
    /// An argument whose shape does not match the others.
    #[error("{what} has shape {got:?}, expected {expected}", expected = Shown::text(expected))]
    ShapeMismatch {
        /// Which argument.
        what: &'static str,
        /// Its shape.
        got: Shape,
        /// The expected shape, in words.
        expected: String,
    },
    /// A table that is not a matrix of floating-point elements.
    #[error(
        "{table} must be a table of f32, f64, f16 or bf16 with two dimensions of at least 1, not {shape:?} of {dtype:?}"
    )]
    InvalidTable {
        /// `wte` or `wpe`.
        table: &'static str,
        /// Its shape.
        shape: Shape,
        /// Its dtype.
        dtype: DType,
    },
    /// Two tables (or a table and a tensor) that cannot be added.
    #[error(
        "{left} has {property} {left_value}, but {right} has {right_value}",
        left_value = Shown::name(left_value),
        right_value = Shown::name(right_value)
    )]
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
    /// Memory that was asked for by a number, and that cannot be allocated or not even be counted.
    #[error(
        "{what} of shape {dims:?} in elements of {element_bytes} bytes is more than this machine can hold: ask for less"
    )]
    TooLarge {
        /// What would have been made.
        what: &'static str,
        /// Its shape.
        dims: Vec<usize>,
        /// The bytes of an element.
        element_bytes: usize,
    },
    /// An argument that would be written while another one in the same memory is read.
    #[error("{what} shares its memory with {with}: pass a copy")]
    SharedMemory {
        /// The argument that would be written.
        what: &'static str,
        /// The other one.
        with: &'static str,
    },
    /// A dtype in which no random table can be drawn.
    #[error("cannot draw a table of {dtype:?}: use f32, f64, f16 or bf16")]
    InitDType {
        /// The requested dtype.
        dtype: DType,
    },
    /// A mapped or remote table that would have to be in memory as a whole.
    #[error("{table} is mapped, but this operation needs it in memory: open the checkpoint with dense tables")]
    NotInMemory {
        /// `wte` or `wpe`.
        table: &'static str,
    },
    /// An operation that quantized blocks do not support.
    #[error(
        "{table} is quantized to {block_type:?}, which cannot be trained, changed or saved as safetensors: \
         call `to_dense` first, or `save` to a path that ends in `.gguf`"
    )]
    Quantized {
        /// `wte` or `wpe`.
        table: &'static str,
        /// The dtype of its blocks.
        block_type: GgmlDType,
    },
    /// A variable of the same name that `trainable` found.
    #[error("the VarMap already holds a variable `{name}`: pass another prefix", name = Shown::name(name))]
    VarExists {
        /// The full name.
        name: String,
    },
    /// A configuration that cannot be read or is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A device that cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A checkpoint that cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A text that cannot be read.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A tokenizer that cannot be built, or cannot convert its input.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A draw, or a generator's state, that was refused.
    #[error(transparent)]
    Rng(#[from] RngError),
    /// A table that cannot have an option, be resized, or be quantized.
    #[error(transparent)]
    Embedding(#[from] EmbeddingError),
    /// Token ids that cannot be cut into windows or batches, or a loader's state that does not match them.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Files of token ids that cannot be opened, read or written.
    #[error(transparent)]
    Corpus(#[from] CorpusError),
    /// Why there is no output head.
    #[error(transparent)]
    LmHead(#[from] LmHeadError),
    /// Settings, gradients or a saved state that an optimizer refuses.
    #[error(transparent)]
    Optim(#[from] OptimError),
    /// A call or an argument that a position scheme does not support.
    #[error(transparent)]
    Position(#[from] PositionError),
    /// Ranks that cannot go on together.
    #[error(transparent)]
    Ranks(#[from] RanksError),
    /// Files of a repository that cannot be fetched. Needs the feature `hub`.
    #[cfg(feature = "hub")]
    #[cfg_attr(docsrs, doc(cfg(feature = "hub")))]
    #[error(transparent)]
    Hub(#[from] HubError),
    /// An error of Candle's own.
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
