//! Every way this crate can fail, as one type.

use std::path::PathBuf;

use candle_core::{DType, Shape};

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, where, and, where there is one, the next step.
///
/// Inherent methods return this type. Trait implementations ([`candle_core::Module`], [`candle_core::ModuleT`])
/// return `candle_core::Result`; the conversion keeps the text.
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
    /// Anything Candle reports.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Candle(inner) => inner,
            other => Self::wrap(other),
        }
    }
}

/// What can be wrong with a [`crate::GptInputConfig`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A dimension of zero.
    #[error("config: `{name}` must be at least 1")]
    Zero {
        /// The field.
        name: &'static str,
    },
    /// A number outside its range.
    #[error("config: `{name}` is {value}, which is not {expected}")]
    OutOfRange {
        /// The field.
        name: &'static str,
        /// Its value.
        value: f64,
        /// The range, in words.
        expected: &'static str,
    },
    /// A field of the wrong JSON type.
    #[error("config: `{key}` is {got}, expected {expected}")]
    FieldType {
        /// The key as spelt in the file.
        key: String,
        /// The JSON value found.
        got: String,
        /// What was expected.
        expected: &'static str,
    },
    /// Two spellings of one field that disagree.
    #[error("config: `{first}` is {first_value}, but `{second}`, another name for it, is {second_value}")]
    Contradiction {
        /// One key.
        first: &'static str,
        /// Its value.
        first_value: String,
        /// The other key.
        second: &'static str,
        /// Its value.
        second_value: String,
    },
    /// Text that is not a JSON object.
    #[error("config: {reason}")]
    Json {
        /// What the parser says.
        reason: String,
    },
    /// A preset that does not exist.
    #[error("no preset `{name}`: there are {known}")]
    UnknownPreset {
        /// The name given.
        name: String,
        /// Those that exist.
        known: String,
    },
}

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// Text that names no device.
    #[error("`{text}` is no device: use auto, cpu, cuda, cuda:N, metal or metal:N")]
    Unknown {
        /// The text given.
        text: String,
    },
    /// The binary was built without the feature that the device needs.
    #[error(
        "device {device}: this binary was built without `--features {feature}`; build with it, or use --device cpu"
    )]
    NotCompiled {
        /// The device asked for.
        device: String,
        /// The feature to build with.
        feature: &'static str,
    },
    /// The feature is there; the library or the device is not.
    #[error("device {device}: {reason}")]
    Unavailable {
        /// The device asked for.
        device: String,
        /// The first line of what the back end says.
        reason: String,
    },
}

/// What can be wrong with a checkpoint on its way in or out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// Nothing at the path.
    #[error("{}: no such file or folder", path.display())]
    NotFound {
        /// The path given.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A folder in which no weights were found.
    #[error(
        "{}: no weights in this folder (looked for model.safetensors, model.safetensors.index.json and a single *.safetensors; found {found})",
        path.display()
    )]
    NoWeights {
        /// The folder.
        path: PathBuf,
        /// The `.safetensors` files that are there, or "none".
        found: String,
    },
    /// A file that is not a well-formed safetensors file.
    #[error("{}: not a valid safetensors file: {reason}", path.display())]
    InvalidHeader {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An index of shards that cannot be read.
    #[error("{}: not a valid shard index: {reason}", path.display())]
    InvalidIndex {
        /// The index file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
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
    /// A `config.json` that cannot be used.
    #[error("{}: {source}", path.display())]
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
    /// A table that is no matrix.
    #[error("{}: `{name}` has shape {shape:?}, expected two dimensions of at least 1", path.display())]
    TableShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A table of a type that is no floating-point type we read.
    #[error("{}: `{name}` holds {dtype}, expected F32, F16, BF16 or F64", path.display())]
    TableDType {
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
    /// A type of number that tables are not loaded as, or that is not written.
    #[error("{dtype:?} is not supported here: tables are f32, f16, bf16 or f64, other tensors also u8, u32 or i64")]
    UnsupportedDType {
        /// The type asked for.
        dtype: DType,
    },
}

/// What can be wrong with a tokenizer or its input.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A file that cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A `tokenizer.json` that is broken.
    #[error("{origin}: {reason}")]
    Invalid {
        /// The file, or "the built-in GPT-2 vocabulary".
        origin: String,
        /// What is wrong.
        reason: String,
    },
    /// A `tokenizer.json` that asks for what this crate does not do.
    #[error("{origin}: not supported: {reason}")]
    Unsupported {
        /// The file.
        origin: String,
        /// What it asks for.
        reason: String,
    },
    /// An id that stands for no token.
    #[error("token id {id} at [{at}] is not in the tokenizer's vocabulary of {vocab_size}")]
    UnknownId {
        /// The id.
        id: u32,
        /// Its index in the sequence.
        at: usize,
        /// How many tokens the tokenizer knows.
        vocab_size: usize,
    },
    /// A special token in a text that may have none.
    #[error(
        "the text holds the special token `{token}` at byte {at}: choose SpecialTokens::Recognize for its id, or SpecialTokens::AsText for those of its characters"
    )]
    SpecialToken {
        /// The token.
        token: String,
        /// The byte of the text at which it begins.
        at: usize,
    },
    /// The library behind the tokenizer refused the text.
    #[error("cannot encode the text: {reason}")]
    Encode {
        /// What it says.
        reason: String,
    },
    /// Tokens that do not stand in the text as they are.
    #[error("no byte offsets from byte {at} on: {reason}: use `encode` for the ids alone")]
    NoOffsets {
        /// The first byte of the text for which there is no offset.
        at: usize,
        /// Why.
        reason: &'static str,
    },
    /// One of several texts that cannot be encoded.
    #[error("document {index}: {source}")]
    Document {
        /// Its index among the texts.
        index: usize,
        /// What is wrong with it.
        source: Box<TokenizerError>,
    },
}

/// Why a draw or a state was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RngError {
    /// The bounds of `uniform_*` are out of order, not finite, or too far apart for the type.
    #[error("uniform bounds {lo} and {hi} must be finite and in order, and their difference too")]
    UniformBounds {
        /// Lower bound.
        lo: f64,
        /// Upper bound.
        hi: f64,
    },
    /// The standard deviation is negative or not a number.
    #[error("standard deviation {std} must be 0 or greater")]
    StandardDeviation {
        /// As given.
        std: f64,
    },
    /// The rate of `exponential` is not above zero.
    #[error("exponential rate {lambda} must be greater than 0")]
    Rate {
        /// As given.
        lambda: f64,
    },
    /// A probability is not one.
    #[error("probability {p} must be between 0 and 1")]
    Probability {
        /// As given.
        p: f64,
    },
    /// `randint` was given a range without integers.
    #[error("no integer lies in {lo}..{hi}; the upper bound is exclusive and must be the larger")]
    EmptyRange {
        /// Lower bound, inclusive.
        lo: i64,
        /// Upper bound, exclusive.
        hi: i64,
    },
    /// A weight of `multinomial` is negative, infinite or not a number.
    #[error("weight {weight} at {at} must be finite and not negative")]
    Weight {
        /// As given.
        weight: f32,
        /// Its place among the weights.
        at: usize,
    },
    /// `multinomial` was given no weight above zero.
    #[error("none of the {n_weights} weights is greater than 0")]
    ZeroWeights {
        /// How many weights there are.
        n_weights: usize,
    },
    /// `multinomial` was given more weights than PyTorch takes.
    #[error("{n_weights} weights are more than the {limit} that can be told apart in f32")]
    TooManyWeights {
        /// How many weights there are.
        n_weights: usize,
        /// How many there may be.
        limit: usize,
    },
    /// `multinomial` without replacement ran out of categories.
    #[error(
        "cannot draw {n_samples} different samples from {n_nonzero} weights greater than 0; \
         draw fewer, or with replacement"
    )]
    TooFewWeights {
        /// How many samples were asked for.
        n_samples: usize,
        /// How many weights are above zero.
        n_nonzero: usize,
    },
    /// A saved state has the wrong length.
    #[error("generator state has {n_bytes} bytes, expected {expected}")]
    StateLength {
        /// As given.
        n_bytes: usize,
        /// What `torch.Generator.get_state` returns.
        expected: usize,
    },
    /// A field of a saved state holds a value that no generator leaves there.
    #[error("generator state field `{field}` cannot be {value}")]
    StateField {
        /// The field's name in PyTorch.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
}

/// What can be wrong with [`EmbeddingOptions`](crate::embedding::EmbeddingOptions).
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
    /// A largest norm that is no length.
    #[error("max_norm {max_norm} must be a finite number of at least 0")]
    MaxNorm {
        /// As given.
        max_norm: f64,
    },
    /// A norm that is none.
    #[error("norm_type {norm_type} must be greater than 0")]
    NormType {
        /// As given.
        norm_type: f64,
    },
}

/// What can be wrong with token ids, windows, batches or a loader's saved state.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A length or count of zero.
    #[error("`{name}` must be at least 1")]
    Zero {
        /// `max_length`, `stride` or `batch_size`.
        name: &'static str,
    },
    /// No document is long enough for one window.
    #[error(
        "no window of max_length {max_length} fits: it needs {n_needed} tokens, and the longest of {n_documents} documents has {n_tokens}"
    )]
    TooShort {
        /// The length of a window.
        max_length: usize,
        /// How many tokens a document needs for its first window.
        n_needed: usize,
        /// How many documents there are.
        n_documents: usize,
        /// The tokens of the longest one.
        n_tokens: usize,
    },
    /// An integer that is no token id.
    #[error("token id {id} at [{at}] does not fit u32: ids are 0 to 4294967295")]
    IdRange {
        /// The integer.
        id: i64,
        /// Its index among those given.
        at: usize,
    },
    /// A fraction to split at that is not one.
    #[error("cannot split at {fraction}: the fraction must be between 0 and 1")]
    Fraction {
        /// As given.
        fraction: f64,
    },
    /// A shard that does not exist.
    #[error("no shard {rank} of {world_size}: ranks are 0 to world_size - 1")]
    Shard {
        /// Which shard.
        rank: usize,
        /// How many there are.
        world_size: usize,
    },
    /// A batch too large to allocate.
    #[error("a batch of {n_rows} windows of {max_length} tokens does not fit in memory")]
    BatchTooLarge {
        /// Windows in the batch.
        n_rows: usize,
        /// Tokens in a window.
        max_length: usize,
    },
    /// A saved state of another text, other windows or another kind of loader.
    #[error("the saved state is of a loader with {what} {saved}, this one has {given}")]
    StateMismatch {
        /// What differs.
        what: &'static str,
        /// The saved loader's.
        saved: String,
        /// This loader's.
        given: String,
    },
    /// A saved state that no loader writes.
    #[error("the saved state is damaged: {reason}")]
    InvalidState {
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// What can be wrong with an optimizer's settings, gradients or saved state.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
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
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
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

fn valid(n: usize) -> String {
    match n {
        0 => "none".to_string(),
        n => format!("0 to {}", n - 1),
    }
}
