//! [`LoadReport`]: what was loaded from where.

use std::fmt;
use std::path::{Path, PathBuf};

use candle_core::DType;
use candle_core::quantized::GgmlDType;
use serde::{Serialize, Serializer};

use crate::error::Shown;

/// At most this many tensors are printed of [`LoadReport::left_out`] and [`LoadReport::unreadable`], which have all.
const N_LISTED: usize = 8;
/// How many of the tensors outside a state dict are printed.
const N_OTHERS: usize = 4;

/// Says what was loaded from where, and which tensors were left.
///
/// Its serialization is for logs: dtypes and block types are written as text.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_gpt_input::GptInputLayer;
/// use candle_gpt_input::checkpoint::{Checkpoint, ConfigSource, save_tensors};
/// use candle_gpt_input::input_layer::OpenOptions;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("model.safetensors");
/// let wte = Tensor::zeros((3, 2), DType::F32, &Device::Cpu)?;
/// let wpe = Tensor::zeros((1, 2), DType::F32, &Device::Cpu)?;
/// save_tensors(&path, [("wte.weight", &wte), ("wpe.weight", &wpe), ("ln_f.bias", &wpe)], [])?;
///
/// let options = OpenOptions::new(DType::F32, &Device::Cpu);
/// let (_, report) = GptInputLayer::open(&Checkpoint::open(&path)?, &options)?;
/// assert_eq!((report.wte.name.as_str(), report.wte.shape), ("wte.weight", (3, 2)));
/// assert_eq!((report.config_source, report.unused), (ConfigSource::Shapes, vec!["ln_f.bias".to_string()]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LoadReport {
    /// The token table.
    pub wte: LoadedTable,
    /// The learned position table; `None` where the configuration's positions have none.
    pub wpe: Option<LoadedTable>,
    /// The dtype that the tables were loaded as.
    #[serde(serialize_with = "debug")]
    pub dtype: DType,
    /// Where the configuration was read.
    pub config_source: ConfigSource,
    /// The padding of the token table, if it is padded.
    pub padded_vocab: Option<PaddedVocab>,
    /// Whether anything says how many rows of the token table are tokens: a padding that is stated or given, or a number
    /// of rows that no padding would make (one that is not a multiple of 64).
    pub is_vocab_size_known: bool,
    /// The weight of the output head, if the checkpoint has one. It is read when
    /// [`lm_head`](crate::GptInputLayer::lm_head) asks for it.
    pub lm_head: Option<String>,
    /// Whether the model's head is there: in the file, or tied to the token table.
    pub has_lm_head: bool,
    /// How the file was chosen, where the path held several.
    pub choice: Option<Choice>,
    /// What the model adds to the sum of the two tables besides, or changes in it. The layer leaves it out.
    pub left_out: Vec<LeftOut>,
    /// The names of all other tensors, those left out included.
    pub unused: Vec<String>,
    /// The tensors that cannot be read. Of a sharded checkpoint, those of the shards with the tables;
    /// [`Checkpoint::unreadable`](super::Checkpoint::unreadable) looks into all.
    pub unreadable: Vec<Unreadable>,
    /// The names of tensors that the shards with the tables hold, but the index does not assign to them.
    /// [`Checkpoint::not_in_index`](super::Checkpoint::not_in_index) looks into all shards.
    pub not_in_index: Vec<String>,
    /// What else the pickle with the token table holds; `None` for other formats.
    pub pickle: Option<PickleReport>,
}

/// Describes which state dict of a pickle was read, and what else the pickle holds.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_gpt_input::checkpoint::{Checkpoint, save_tensors};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("bias.safetensors");
/// save_tensors(&path, [("bias", &Tensor::zeros(2, DType::F32, &Device::Cpu)?)], [])?;
/// assert_eq!(Checkpoint::open(&path)?.pickle_report(), None); // not a pickle
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PickleReport {
    /// The keys that lead to the state dict, joined by dots; empty if it is the whole pickle.
    pub state_dict: String,
    /// Up to 16 other state dicts that [`with_state_dict`](super::CheckpointOptions::with_state_dict) may choose.
    pub other_state_dicts: Vec<String>,
    /// How many tensors the pickle holds outside this state dict: those of an optimizer, for example.
    pub n_other_tensors: usize,
    /// The names of up to 16 of these: the keys that lead to them, joined by dots.
    pub other_tensors: Vec<String>,
    /// How many objects of unknown classes the pickle holds. They were skipped: nothing of a pickle is executed.
    pub n_objects: usize,
    /// The names of up to 16 of these classes.
    pub classes: Vec<String>,
}

impl fmt::Display for PickleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |names: &[String]| {
            names.iter().map(|name| format!("`{}`", Shown::name(name))).collect::<Vec<_>>().join(", ")
        };
        let mut parts = Vec::new();
        if !self.state_dict.is_empty() {
            parts.push(format!("state dict `{}`", Shown::name(&self.state_dict)));
        }
        if !self.other_state_dicts.is_empty() {
            parts.push(format!("others: {}", quoted(&self.other_state_dicts)));
        }
        if self.n_other_tensors > 0 {
            let shown = &self.other_tensors[..self.other_tensors.len().min(N_OTHERS)];
            let named = if shown.is_empty() { String::new() } else { format!(": {}", quoted(shown)) };
            let more = match self.n_other_tensors.saturating_sub(shown.len()) {
                n @ 1.. if !shown.is_empty() => format!(" and {n} more"),
                _ => String::new(),
            };
            parts.push(format!("{}{named}{more}", counted(self.n_other_tensors, "other tensor")));
        }
        if self.n_objects > 0 || !self.classes.is_empty() {
            parts.push(format!("{} skipped, of {}", counted(self.n_objects, "object"), quoted(&self.classes)));
        }
        f.write_str(&parts.join("; "))
    }
}

/// Joins the first of many texts.
fn first_of(mut texts: impl ExactSizeIterator<Item = String>) -> String {
    let first = texts.by_ref().take(N_LISTED).collect::<Vec<_>>().join(", ");
    match texts.len() {
        0 => first,
        n_more => format!("{first} and {n_more} more"),
    }
}

fn counted(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

impl PickleReport {
    /// Returns whether the pickle holds another state dict, or objects of unknown classes.
    pub fn is_worth_saying(&self) -> bool {
        !self.other_state_dicts.is_empty() || self.n_objects > 0 || !self.classes.is_empty()
    }
}

/// Names a tensor that changes what enters a model's first block, but is not part of the input layer.
///
/// BERT's token types and normalization are such tensors. Apply them to what the layer returns:
/// [`Checkpoint::var_builder`](crate::checkpoint::Checkpoint::var_builder) reads them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct LeftOut {
    /// Its name in the file.
    pub name: String,
    /// What it does, by its name.
    pub what: String,
}

/// Names a tensor that cannot be read, beside others that can.
///
/// It is of a kind that is not supported, such as a sparse one, or its shard does not hold it.
/// [`Checkpoint::unreadable`](super::Checkpoint::unreadable) has an example.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct Unreadable {
    /// Its name in the file, or in the index of shards.
    pub name: String,
    /// The file.
    pub file: PathBuf,
    /// What it is and what to do, such as ``a sparse tensor: save its `.to_dense()` ``.
    pub reason: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ({})", Shown::name(&self.name), Shown::text(&self.reason))
    }
}

/// Says which of several checkpoints in a folder was opened, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct Choice {
    /// The file of weights, or the folder that holds them.
    pub path: PathBuf,
    /// Why this one, such as `the newest of 2 steps`.
    pub reason: String,
}

/// Describes a token table that has more rows than the model has tokens.
///
/// All its rows can be looked up; those of padding have no logits, and are no targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct PaddedVocab {
    /// The number of tokens that the configuration or the caller states.
    pub vocab_size: usize,
    /// The number of rows of the table.
    pub padded_to: usize,
}

/// Describes one table as it was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LoadedTable {
    /// Its name in the file.
    pub name: String,
    /// The file that holds it.
    pub file: PathBuf,
    /// Rows and columns, without the rows before [`first_row`](Self::first_row).
    pub shape: (usize, usize),
    /// The row of the stored tensor that is row 0 of the table.
    ///
    /// OPT's and RoBERTa's position tables begin with 2 rows for padding, which are not loaded. Padding takes row 0 of
    /// the table here, where transformers takes one of those: what comes of it differs, and is masked in both.
    pub first_row: usize,
    /// The name of its dtype in the file, such as `F8_E4M3`.
    pub stored_name: String,
    /// Its dtype in the file; for a quantized or 8-bit table, the dtype that it is converted to first.
    #[serde(serialize_with = "debug")]
    pub stored_dtype: DType,
    /// The dtype of its quantized blocks in the file, if it has any.
    #[serde(serialize_with = "optional_debug")]
    pub block_type: Option<GgmlDType>,
}

/// Says where a configuration came from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub enum ConfigSource {
    /// A `config.json` beside the weights.
    File(PathBuf),
    /// The metadata of the safetensors file.
    Metadata(PathBuf),
    /// The text in [`CheckpointOptions::config_json`](crate::checkpoint::CheckpointOptions::config_json).
    Given,
    /// There was none: dimensions are from the tables' shapes, the number of blocks from the names, the rest defaults.
    Shapes,
}

impl ConfigSource {
    /// Returns where the configuration stands, for an error.
    pub(super) fn place(&self) -> &Path {
        match self {
            Self::File(path) | Self::Metadata(path) => path,
            Self::Given => Path::new("`CheckpointOptions::config_json`"),
            Self::Shapes => Path::new("no file"),
        }
    }
}

/// Serializes Candle's dtypes as text; they do not implement serde.
fn debug<S: Serializer>(value: &impl fmt::Debug, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{value:?}"))
}

fn optional_debug<S: Serializer>(value: &Option<impl fmt::Debug>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(|value| format!("{value:?}")).serialize(serializer)
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, table) in [("wte", &self.wte)].into_iter().chain(self.wpe.iter().map(|wpe| ("wpe", wpe))) {
            let (n_rows, width) = table.shape;
            write!(f, "{what} = `{}` [{n_rows}, {width}] ", Shown::name(&table.name))?;
            match table.block_type {
                Some(blocks) => write!(f, "{blocks:?}")?,
                None => write!(f, "{}", Shown::name(&table.stored_name))?,
            }
            if table.stored_name != format!("{:?}", self.dtype) {
                write!(f, " -> {:?}", self.dtype)?;
            }
            write!(f, " from {}", Shown::path(&table.file))?;
            match table.first_row {
                0 => writeln!(f)?,
                n => writeln!(f, ", without its first {n} rows, which are not positions")?,
            }
        }
        if let Some(Choice { path, reason }) = &self.choice {
            writeln!(f, "opened {}: {}", Shown::path(path), Shown::text(reason))?;
        }
        if !self.left_out.is_empty() {
            let names = self
                .left_out
                .iter()
                .map(|LeftOut { name, what }| format!("`{}` ({})", Shown::name(name), Shown::text(what)));
            writeln!(f, "not applied: {}", first_of(names))?;
        }
        if !self.unreadable.is_empty() {
            let names = self.unreadable.iter().map(ToString::to_string);
            writeln!(f, "{} cannot be read: {}", counted(self.unreadable.len(), "tensor"), first_of(names))?;
        }
        if !self.not_in_index.is_empty() {
            let names = self.not_in_index.iter().map(|name| format!("`{}`", Shown::name(name)));
            let counted = counted(self.not_in_index.len(), "tensor");
            writeln!(f, "{counted} of the shards not in the index, and left: {}", first_of(names))?;
        }
        if let Some(PaddedVocab { vocab_size, padded_to }) = self.padded_vocab {
            writeln!(f, "padded vocabulary: {padded_to} rows for {vocab_size} tokens; padding has no logits")?;
        } else if !self.is_vocab_size_known {
            let n_rows = self.wte.shape.0;
            writeln!(f, "all {n_rows} rows of wte are taken for tokens: nothing says whether some are padding")?;
        }
        match &self.lm_head {
            Some(name) => writeln!(f, "output head `{name}`: not read until it is asked for")?,
            None if !self.has_lm_head => writeln!(f, "no output head: it is not tied to wte, and not in the file")?,
            None => {}
        }
        if let Some(pickle) = self.pickle.as_ref().filter(|pickle| pickle.is_worth_saying()) {
            writeln!(f, "{pickle}")?;
        }
        match &self.config_source {
            ConfigSource::File(path) => write!(f, "config from {}", Shown::path(path))?,
            ConfigSource::Metadata(path) => write!(f, "config from the metadata of {}", Shown::path(path))?,
            ConfigSource::Given => write!(f, "config as given")?,
            ConfigSource::Shapes => write!(f, "no config: dimensions from the tables' shapes")?,
        }
        write!(f, "; {} other tensors left", self.unused.len())
    }
}
