//! [`CheckpointError`]: why a checkpoint could not be read or written.
// Long because it is one enum: a variant for each way to fail.

use std::io;
use std::path::PathBuf;

use candle_core::DType;

use super::advice::between;
use super::cause::Cause;
use super::config::ConfigError;
use super::foreign::ForeignFormat;
use super::shown::Shown;

/// Says why a checkpoint could not be read or written.
///
/// ```
/// use candle_gpt_input::Error;
/// use candle_gpt_input::checkpoint::Checkpoint;
/// use candle_gpt_input::error::CheckpointError;
///
/// let error = Checkpoint::open("no/such/folder").unwrap_err();
/// assert_eq!(error.to_string(), "cannot open no/such/folder: no such file or folder");
/// assert!(matches!(error, Error::Checkpoint(CheckpointError::NotFound { .. })));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A path where no file or folder exists.
    #[error("cannot open {path}: no such file or folder", path = Shown::path(path))]
    NotFound {
        /// The path given.
        path: PathBuf,
    },
    /// A file or remote source that cannot be read or written. The source says why.
    #[error("cannot {action} {path}", path = Shown::path(path))]
    #[non_exhaustive]
    Io {
        /// What was attempted: `read`, `write` or `create the folder`.
        action: &'static str,
        /// The file, or the name of the remote source.
        path: PathBuf,
        /// The error of the system or the remote source.
        source: io::Error,
    },
    /// A folder in which no weights were found.
    #[error(
        "cannot find weights in the folder {path}: expected model.safetensors, pytorch_model.bin, an index of shards \
         of either, model.ckpt.index, or a single file of any known format; found {found}",
        path = Shown::path(path),
        found = Shown::text(found)
    )]
    NoWeights {
        /// The folder.
        path: PathBuf,
        /// The files of weights that were found, or "none".
        found: String,
    },
    /// A file without named tensors.
    #[error(
        "{path}: it holds no tensor under a name{beside}: save `model.state_dict()`",
        path = Shown::path(path),
        beside = Shown::text(beside)
    )]
    #[non_exhaustive]
    NoTensors {
        /// The checkpoint.
        path: PathBuf,
        /// What it holds instead, in parentheses after a space; may be empty.
        beside: String,
    },
    /// A folder that holds several checkpoints.
    #[error(
        "{path}: several checkpoints in this folder: {found}; {advice}",
        path = Shown::path(path),
        found = Shown::text(found)
    )]
    SeveralWeights {
        /// The folder.
        path: PathBuf,
        /// The files or folders of weights.
        found: String,
        /// What to do.
        advice: &'static str,
    },
    /// A file that is not well-formed, or whose header does not match its contents.
    #[error("{path}: not a valid {format} file: {reason}", path = Shown::path(path), reason = Shown::text(reason))]
    #[non_exhaustive]
    InvalidFile {
        /// The file.
        path: PathBuf,
        /// The format that it was read as, as [`Format`](crate::checkpoint::Format) spells it.
        format: &'static str,
        /// What is wrong with it.
        reason: String,
        /// The parser's error, if a parser failed.
        source: Option<Cause>,
    },
    /// A file of another kind than weights, or of weights that this crate does not read.
    #[error("{path}: this is {format}", path = Shown::path(path))]
    #[non_exhaustive]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is, and what to do.
        format: ForeignFormat,
    },
    /// A pickle that holds more than tensors and plain values. Nothing in it was imported or called.
    #[error(
        "{path}: its pickle holds {what}, which is never part of a state dict (nothing was executed): \
         save `model.state_dict()` alone", path = Shown::path(path), what = Shown::text(what))]
    ForbiddenPickle {
        /// The file.
        path: PathBuf,
        /// The class, function or opcode.
        what: String,
    },
    /// A file that is not an index of shards.
    #[error("{path}: not a valid shard index: {reason}", path = Shown::path(path), reason = Shown::text(reason))]
    #[non_exhaustive]
    InvalidIndex {
        /// The index file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// The JSON parser's error, if it failed.
        source: Option<Cause>,
    },
    /// A shard that does not exist.
    #[error(
        "{path}: no such file, but the index {index} asks for it: download it, or all shards, again",
        path = Shown::path(path),
        index = Shown::path(index)
    )]
    #[non_exhaustive]
    MissingShard {
        /// The shard.
        path: PathBuf,
        /// The index.
        index: PathBuf,
    },
    /// A shard that lacks a tensor which the index assigns to it.
    #[error(
        "{path}: the index says that this shard holds `{name}`, but it does not: download both again",
        path = Shown::path(path),
        name = Shown::name(name)
    )]
    TensorNotInShard {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// No tensor of the requested name.
    #[error(
        "{path}: no tensor `{name}` (closest: {closest}): `Checkpoint::tensors` lists those that exist",
        path = Shown::path(path),
        name = Shown::name(name),
        closest = Shown::text(closest)
    )]
    #[non_exhaustive]
    MissingTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The requested name.
        name: String,
        /// The most similar names.
        closest: String,
    },
    /// A tensor of a kind that cannot be read. Others in its file can.
    #[error(
        "{path}: cannot read `{name}`, {reason}",
        path = Shown::path(path),
        name = Shown::name(name),
        reason = Shown::text(reason)
    )]
    #[non_exhaustive]
    UnreadableTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What it is and what to do, such as ``a sparse tensor: save its `.to_dense()` ``.
        reason: String,
    },
    /// A tensor whose shape differs from the requested one.
    #[error(
        "{path}: `{name}` has shape {shape:?}, expected {expected:?}",
        path = Shown::path(path),
        name = Shown::name(name)
    )]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// The requested shape.
        expected: Vec<usize>,
    },
    /// A configuration that cannot be used, in a `config.json` or in the weights. The source says why.
    #[error("cannot use the configuration in {path}", path = Shown::path(path))]
    #[non_exhaustive]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<ConfigError>,
    },
    /// No token or position table under any known name.
    #[error(
        "{path}: no {what} found (looked for {looked_for} under any prefix; closest: {closest}): name both tables \
         with `CheckpointOptions::with_wte` and `with_wpe` (`--wte`, `--wpe`), or state `position_embedding_type` in \
         the configuration if the positions have no table",
        path = Shown::path(path),
        looked_for = Shown::text(looked_for),
        closest = Shown::text(closest)
    )]
    MissingTable {
        /// The checkpoint.
        path: PathBuf,
        /// `token table` or `position table`.
        what: &'static str,
        /// The names looked for.
        looked_for: String,
        /// The most similar names.
        closest: String,
    },
    /// More than one pair of tables.
    #[error(
        "{path}: several input tables: {candidates}; choose one with `CheckpointOptions::with_prefix` (`--prefix`), \
         or name both tables with `with_wte` and `with_wpe` (`--wte`, `--wpe`)",
        path = Shown::path(path),
        candidates = Shown::text(candidates)
    )]
    AmbiguousTables {
        /// The checkpoint.
        path: PathBuf,
        /// The names of the token tables, or of the position tables beside the only token table.
        candidates: String,
    },
    /// A position table of which neither its name nor the configuration says where the positions begin.
    #[error(
        "{path}: cannot tell which of the {n_rows} rows of `{name}` is position 0, as models with such names differ: \
         state `model_type` in the configuration, or the row with `CheckpointOptions::with_first_position_row` \
         (`--first-position-row`)", path = Shown::path(path), name = Shown::name(name))]
    FirstPosition {
        /// The file.
        path: PathBuf,
        /// The position table.
        name: String,
        /// Its rows.
        n_rows: usize,
    },
    /// A position table without a row for position 0.
    #[error(
        "{path}: `{name}` has {n_rows} rows, but position 0 is to be row {first_row}",
        path = Shown::path(path),
        name = Shown::name(name)
    )]
    TooFewPositions {
        /// The file.
        path: PathBuf,
        /// The position table.
        name: String,
        /// Its rows.
        n_rows: usize,
        /// The row of position 0.
        first_row: usize,
    },
    /// A table that is not a matrix.
    #[error(
        "{path}: `{name}` has shape {shape:?}, expected two dimensions of at least 1",
        path = Shown::path(path),
        name = Shown::name(name)
    )]
    TableShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A table whose dtype is none of the supported floats and blocks.
    #[error(
        "{path}: `{name}` holds {dtype}, expected F32, F16, BF16, F64, F8 or blocks of Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, \
         Q2_K to Q6_K: convert it with the library that wrote it",
        path = Shown::path(path),
        name = Shown::name(name),
        dtype = Shown::name(dtype)
    )]
    TableDType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its dtype in the file.
        dtype: String,
    },
    /// An 8-bit tensor with scales in another tensor, which is not supported.
    #[error(
        "{path}: `{name}` holds {dtype} with scales in `{scale}`: dequantize it with the library that quantized it",
        path = Shown::path(path),
        name = Shown::name(name),
        dtype = Shown::name(dtype),
        scale = Shown::name(scale)
    )]
    #[non_exhaustive]
    ScaledTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its dtype in the file.
        dtype: String,
        /// The tensor with its scales.
        scale: String,
    },
    /// A table that cannot be mapped from its file.
    #[error(
        "{path}: cannot map `{name}`, which is {reason}: load it, or convert the checkpoint to safetensors",
        path = Shown::path(path),
        name = Shown::name(name)
    )]
    NotMappable {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Why not, such as `compressed`.
        reason: &'static str,
    },
    /// A table that has no quantized blocks to keep.
    #[error(
        "{path}: `{name}` holds {dtype}, not quantized blocks: open it with dense tables and call `quantize`",
        path = Shown::path(path),
        name = Shown::name(name),
        dtype = Shown::name(dtype)
    )]
    NotQuantized {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its dtype in the file.
        dtype: String,
    },
    /// Tables of different width.
    #[error(
        "{path}: `{wte}` is {wte_width} wide, but `{wpe}` is {wpe_width} wide{}",
        between(projection.as_deref()),
        path = Shown::path(path),
        wte = Shown::name(wte),
        wpe = Shown::name(wpe)
    )]
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
        /// The projection that the model puts between the two.
        projection: Option<String>,
    },
    /// A configuration that contradicts a table.
    #[error(
        "{path}: the config says `{field}` is {config}, but the table `{name}` says {table}",
        path = Shown::path(path),
        name = Shown::name(name)
    )]
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
    /// Positions whose tables have no names in GGUF.
    #[error(
        "{path}: GGUF has no names for {scheme} positions: save to a path that ends in `.safetensors`",
        path = Shown::path(path)
    )]
    NoNamesForPositions {
        /// The file to be written.
        path: PathBuf,
        /// The scheme's name.
        scheme: &'static str,
    },
    /// A dtype that tensors cannot be loaded or saved as.
    #[error(
        "cannot load or save a tensor as {dtype:?}: tables are f32, f16, bf16 or f64, other tensors also u8, u32 or i64"
    )]
    UnsupportedDType {
        /// The requested dtype.
        dtype: DType,
    },
    /// A file or folder that could not be read back as what is written. Nothing was written.
    #[error(
        "cannot save {path}: it could not be read back: {reason}",
        path = Shown::path(path),
        reason = Shown::text(reason)
    )]
    CannotReadBack {
        /// The file or folder to be written.
        path: PathBuf,
        /// What its reader would find.
        reason: String,
    },
    /// A tensor under a name with which its file could not be read back.
    #[error(
        "{path}: cannot save a tensor as `{name}`: {reason}; rename it",
        path = Shown::path(path),
        name = Shown::name(name)
    )]
    InvalidName {
        /// The file to be written.
        path: PathBuf,
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}
