//! What was loaded from where.

use std::fmt;
use std::path::PathBuf;

use candle_core::DType;
use candle_core::quantized::GgmlDType;

/// What was loaded from where, and what was left.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadReport {
    /// The token table.
    pub wte: LoadedTable,
    /// The position table; `None` where the configuration says positions without one.
    pub wpe: Option<LoadedTable>,
    /// The type that the tables were loaded as.
    pub dtype: DType,
    /// Where the configuration was read.
    pub config_source: ConfigSource,
    /// (`vocab_size` of the config, rows of the table), where the table is padded. All of its rows are valid ids.
    pub padded_vocab: Option<(usize, usize)>,
    /// The names of all other tensors.
    pub unused: Vec<String>,
}

/// One table as it was found.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadedTable {
    /// Its name in the file.
    pub name: String,
    /// The file that holds it.
    pub file: PathBuf,
    /// Rows and columns.
    pub shape: (usize, usize),
    /// Its type in the file; of a quantized table, the one that it is dequantized to.
    pub stored_dtype: DType,
    /// How it is quantized in the file, if it is.
    pub block_type: Option<GgmlDType>,
}

/// Where a configuration came from.
#[derive(Clone, Debug, PartialEq, Eq)]
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
        if let Some((vocab_size, n_rows)) = self.padded_vocab {
            writeln!(f, "padded vocabulary: {n_rows} rows for {vocab_size} tokens, all of them valid ids")?;
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
