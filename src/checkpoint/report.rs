//! [`LoadReport`]: what was loaded from where.

use std::fmt;
use std::path::PathBuf;

use candle_core::DType;
use candle_core::quantized::GgmlDType;
use serde::{Serialize, Serializer};

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
    /// The names of all other tensors.
    pub unused: Vec<String>,
}

/// Describes a token table that has more rows than the configuration has tokens. All its rows are valid ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct PaddedVocab {
    /// The number of tokens that the configuration states.
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
    /// Rows and columns.
    pub shape: (usize, usize),
    /// Its dtype in the file; for a quantized table, the dtype that it is dequantized to.
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
