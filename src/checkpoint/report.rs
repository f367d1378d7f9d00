//! What was loaded from where.

use std::fmt;
use std::path::PathBuf;

use candle_core::DType;
use candle_core::quantized::GgmlDType;
use serde::{Serialize, Serializer};

/// What was loaded from where, and what was left.
///
/// Its serialization is for logs: dtypes and block types are written as text.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LoadReport {
    /// The token table.
    pub wte: LoadedTable,
    /// The position table; `None` where the configuration says positions without one.
    pub wpe: Option<LoadedTable>,
    /// The dtype that the tables were loaded as.
    #[serde(serialize_with = "debug")]
    pub dtype: DType,
    /// Where the configuration was read.
    pub config_source: ConfigSource,
    /// By how much the token table is padded, where it is.
    pub padded_vocab: Option<PaddedVocab>,
    /// The names of all other tensors.
    pub unused: Vec<String>,
}

/// A token table of more rows than the configuration has tokens. All of its rows are valid ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct PaddedVocab {
    /// How many tokens the configuration states.
    pub vocab_size: usize,
    /// How many rows the table has.
    pub padded_to: usize,
}

/// One table as it was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LoadedTable {
    /// Its name in the file.
    pub name: String,
    /// The file that holds it.
    pub file: PathBuf,
    /// Rows and columns.
    pub shape: (usize, usize),
    /// Its dtype in the file; of a quantized table, the one that it is dequantized to.
    #[serde(serialize_with = "debug")]
    pub stored_dtype: DType,
    /// How it is quantized in the file, if it is.
    #[serde(serialize_with = "optional_debug")]
    pub block_type: Option<GgmlDType>,
}

/// Where a configuration came from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub enum ConfigSource {
    /// A `config.json` beside the weights.
    File(PathBuf),
    /// The metadata of the safetensors file.
    Metadata(PathBuf),
    /// The text that [`Checkpoint::from_ranges`](crate::checkpoint::Checkpoint::from_ranges) was given.
    Given,
    /// Nowhere: dimensions from the tables' shapes, the number of blocks from the names, the rest from the defaults.
    Shapes,
}

/// Candle's types as text; they know no serde.
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
            write!(f, "{what} = `{}` [{n_rows}, {width}] ", table.name)?;
            match table.block_type {
                Some(blocks) => write!(f, "{blocks:?}")?,
                None => write!(f, "{:?}", table.stored_dtype)?,
            }
            if table.stored_dtype != self.dtype || table.block_type.is_some() {
                write!(f, " -> {:?}", self.dtype)?;
            }
            writeln!(f, " from {}", table.file.display())?;
        }
        if let Some(PaddedVocab { vocab_size, padded_to }) = self.padded_vocab {
            writeln!(f, "padded vocabulary: {padded_to} rows for {vocab_size} tokens, all of them valid ids")?;
        }
        match &self.config_source {
            ConfigSource::File(path) => write!(f, "config from {}", path.display())?,
            ConfigSource::Metadata(path) => write!(f, "config from the metadata of {}", path.display())?,
            ConfigSource::Given => write!(f, "config as given")?,
            ConfigSource::Shapes => write!(f, "no config: dimensions from the tables' shapes")?,
        }
        write!(f, "; {} other tensors left", self.unused.len())
    }
}
