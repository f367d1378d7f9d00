//! What can be wrong with a checkpoint.

use std::io;
use std::path::{Path, PathBuf};

use candle_core::DType;

use super::cause::Cause;
use super::config::ConfigError;

/// What can be wrong with a checkpoint on its way in or out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A path at which there is no file or folder.
    #[error("{}: no such file or folder", path.display())]
    NotFound {
        /// The path given.
        path: PathBuf,
    },
    /// A file or a remote that cannot be read or written. The source says why.
    #[error("cannot {action} {}", path.display())]
    #[non_exhaustive]
    Io {
        /// What was attempted: `read`, `write` or `create the folder`.
        action: &'static str,
        /// The file, or the name of the remote.
        path: PathBuf,
        /// What the system or the remote says.
        source: io::Error,
    },
    /// A folder in which no weights were found.
    #[error(
        "{}: no weights in this folder (looked for model.safetensors, pytorch_model.bin, an index of shards of either, model.ckpt.index and a single file of any known format; found {found})",
        path.display()
    )]
    NoWeights {
        /// The folder.
        path: PathBuf,
        /// The files of weights that are there, or "none".
        found: String,
    },
    /// A file that is not well-formed, or whose header describes what is not in it.
    #[error("{}: not a valid {format} file: {reason}", path.display())]
    #[non_exhaustive]
    InvalidFile {
        /// The file.
        path: PathBuf,
        /// The format that it was read as, as [`Format`](crate::checkpoint::Format) spells it.
        format: &'static str,
        /// What is wrong with it.
        reason: String,
        /// What a parser says, where one gave up.
        source: Option<Cause>,
    },
    /// A pickle with something else than tensors and plain values; it was neither imported nor called.
    #[error(
        "{}: its pickle holds {what}, which is nothing that a state dict is made of: nothing of it was executed; save `model.state_dict()` alone",
        path.display()
    )]
    ForbiddenPickle {
        /// The file.
        path: PathBuf,
        /// The class, function or opcode.
        what: String,
    },
    /// A file that is no index of shards.
    #[error("{}: not a valid shard index: {reason}", path.display())]
    #[non_exhaustive]
    InvalidIndex {
        /// The index file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What the JSON parser says, where it gave up.
        source: Option<Cause>,
    },
    /// The index sends a tensor to a shard that does not hold it.
    #[error("{}: the index says that tensor `{name}` is here, but it is not", path.display())]
    TensorNotInShard {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// No tensor of the name that was asked for.
    #[error("{}: no tensor `{name}`", path.display())]
    MissingTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The name asked for.
        name: String,
    },
    /// A tensor of another shape than the one that was asked for.
    #[error("{}: `{name}` has shape {shape:?}, expected {expected:?}", path.display())]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// The shape asked for.
        expected: Vec<usize>,
    },
    /// A configuration that cannot be used, in a `config.json` or in the weights. The source says why.
    #[error("cannot use the configuration in {}", path.display())]
    #[non_exhaustive]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<ConfigError>,
    },
    /// No token or position table under any known name.
    #[error("{}: no {what} found (looked for {looked_for} under any prefix); closest: {closest}", path.display())]
    MissingTable {
        /// The checkpoint.
        path: PathBuf,
        /// `token table` or `position table`.
        what: &'static str,
        /// The names looked for.
        looked_for: String,
        /// The names that resemble them most.
        closest: String,
    },
    /// More than one pair of tables.
    #[error("{}: several input tables: {candidates}; choose one with `with_prefix`", path.display())]
    AmbiguousTables {
        /// The checkpoint.
        path: PathBuf,
        /// The names of the token tables.
        candidates: String,
    },
    /// A table that is not a matrix.
    #[error("{}: `{name}` has shape {shape:?}, expected two dimensions of at least 1", path.display())]
    TableShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A table whose dtype is not a floating-point type that is read.
    #[error("{}: `{name}` holds {dtype}, expected F32, F16, BF16 or F64", path.display())]
    TableDType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// A table that cannot be left in its file.
    #[error("{}: `{name}` cannot be mapped, for it is {reason}: load it, or convert the checkpoint to safetensors", path.display())]
    NotMappable {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What it is.
        reason: &'static str,
    },
    /// A table without quantized blocks, which were to be kept.
    #[error(
        "{}: `{name}` holds {dtype}, no quantized blocks: load it with `from_pretrained`, and `quantize` the layer",
        path.display()
    )]
    NotQuantized {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// Tables of different width.
    #[error("{}: `{wte}` is {wte_width} wide, but `{wpe}` is {wpe_width} wide", path.display())]
    WidthMismatch {
        /// The checkpoint.
        path: PathBuf,
        /// The token table's name.
        wte: String,
        /// Its width.
        wte_width: usize,
        /// The position table's name.
        wpe: String,
        /// Its width.
        wpe_width: usize,
    },
    /// The config and the tables disagree.
    #[error("{}: the config says `{field}` is {config}, but the table `{name}` says {table}", path.display())]
    ConfigMismatch {
        /// The checkpoint.
        path: PathBuf,
        /// The config's field.
        field: &'static str,
        /// Its value.
        config: usize,
        /// The tensor that disagrees.
        name: String,
        /// What its shape says.
        table: usize,
    },
    /// Positions that GGUF has no names for.
    #[error("{}: GGUF has no names for {scheme} positions: save to a path that ends in `.safetensors`", path.display())]
    NoNamesForPositions {
        /// The file that was to be written.
        path: PathBuf,
        /// The scheme's name.
        scheme: &'static str,
    },
    /// A dtype that tables are not loaded as, or that is not written.
    #[error("{dtype:?} is not supported here: tables are f32, f16, bf16 or f64, other tensors also u8, u32 or i64")]
    UnsupportedDType {
        /// The type asked for.
        dtype: DType,
    },
}

impl CheckpointError {
    /// The error of reading `path`, to be completed by `map_err`.
    pub(crate) fn reading(path: &Path) -> impl Fn(io::Error) -> Self + Copy {
        Self::io("read", path)
    }

    /// The error of writing `path`, to be completed by `map_err`.
    pub(crate) fn writing(path: &Path) -> impl Fn(io::Error) -> Self + Copy {
        Self::io("write", path)
    }

    /// The error of creating the folder `path`, to be completed by `map_err`.
    pub(crate) fn creating(path: &Path) -> impl Fn(io::Error) -> Self + Copy {
        Self::io("create the folder", path)
    }

    fn io(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Self + Copy {
        move |source| Self::Io { action, path: path.to_path_buf(), source }
    }

    /// The error of a configuration in `path`, to be completed by `map_err`.
    pub(crate) fn config_in(path: &Path) -> impl Fn(ConfigError) -> Self + Copy {
        move |source| Self::Config { path: path.to_path_buf(), source: source.into() }
    }
}
