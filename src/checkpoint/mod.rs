//! [`Checkpoint`]: GPT-2 weights on disk, or wherever their bytes can be asked for. Names → tensors; it knows no layer.

mod bytes;
mod convert;
mod folder;
mod format;
mod keys;
mod locate;
mod mapped;
mod pages;
mod read;
mod report;
mod save;
mod save_gguf;
mod sharded;
mod stored;
mod var_builder;
mod weights;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::config::{ConfigFile, GptInputConfig};
use crate::error::Result;
use bytes::ByteFile;
use locate::{Located, LocatedTable};
use stored::StoredTensor;

pub use crate::rows::ByteRanges;
pub use format::Format;
pub use keys::Role;
pub(crate) use mapped::StoredTables;
pub use report::{ConfigSource, LoadReport, LoadedTable};
pub(crate) use save::save_tables;
pub use save::save_tensors;
pub(crate) use save_gguf::{TableData, save_gguf};
pub use sharded::ShardIndex;
pub(crate) use weights::WeightsFile;

const CONFIG_FILE: &str = "config.json";
pub(crate) const WEIGHTS_FILE: &str = "model.safetensors";
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";
/// The key of a safetensors file's metadata under which a single file carries its configuration.
const CONFIG_METADATA: &str = "gpt_input_config";
/// The key of a configuration under which a header states how many rows a padded table has.
const PADDED_VOCAB: &str = "padded_vocab_size";

/// A checkpoint whose headers have been read and checked; tensors are read when they are asked for.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    weights: Weights,
    /// Where the configuration is, if anywhere, and what it states.
    config: Option<(ConfigSource, ConfigFile)>,
    prefix: Option<String>,
}

#[derive(Debug)]
enum Weights {
    File(WeightsFile),
    Shards(ShardIndex),
}

/// One tensor of a checkpoint, from its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    /// Its name in the file.
    pub name: String,
    /// The format's name for its type, such as `F32`.
    pub dtype: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its size on disk.
    pub n_bytes: usize,
    /// The file that holds it.
    pub file: PathBuf,
    /// What it is to this crate.
    pub role: Role,
}

/// The tables of an input layer, and what is known about them.
#[derive(Debug)]
pub struct InputTables {
    /// The token table `[V, C]`.
    pub wte: Tensor,
    /// The learned tables of the positions: `wpe` `[P, C]`, or those that the configuration's scheme has.
    pub position_tables: Vec<Tensor>,
    /// The checkpoint's configuration, in agreement with the tables' shapes.
    pub config: GptInputConfig,
    /// What came from where.
    pub report: LoadReport,
}

impl Checkpoint {
    /// Opens a file of any [`Format`], recognised by its content; a folder (Hugging Face's, of one file or with an index
    /// and shards; OpenAI's; or one with a single file of weights); an index of shards; or the prefix of a TensorFlow
    /// checkpoint (`model.ckpt`).
    ///
    /// Only headers are read. Of a sharded checkpoint, a shard is opened when something in it is asked for. A pickle is
    /// read and never executed.
    ///
    /// # Errors
    /// [`CheckpointError`](crate::error::CheckpointError): nothing there, no weights, a damaged header or index, a
    /// configuration that makes no sense.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (file, whole_folder) = folder::weights_at(path)?;
        let weights = match folder::is_index(&file) {
            true => Weights::Shards(ShardIndex::open(&file)?),
            false => Weights::File(WeightsFile::open(&file)?),
        };
        let config = folder::read_config(&file, &weights, whole_folder)?;
        Ok(Self { path: path.to_path_buf(), weights, config, prefix: None })
    }

    /// Opens a single file of any [`Format`] but TensorFlow's whose bytes are asked for by their places: over a network,
    /// for one. `config` is the text of its `config.json`, if there is one.
    ///
    /// Only the header is fetched, in pages of 16 KiB. [`GptInputLayer::from_checkpoint_mapped`] then fetches the rows that a call
    /// asks for, everything else fetches what it reads.
    ///
    /// [`GptInputLayer::from_checkpoint_mapped`]: crate::GptInputLayer::from_checkpoint_mapped
    ///
    /// # Errors
    /// As [`open`](Self::open); what `ranges` reports is
    /// [`CheckpointError::Io`](crate::error::CheckpointError::Io) with its name.
    pub fn from_ranges(ranges: Arc<dyn ByteRanges>, config: Option<&str>) -> Result<Self> {
        Self::from_shards(vec![ranges], config)
    }

    /// Opens several such files as one checkpoint; their tensors have different names.
    ///
    /// # Errors
    /// As [`from_ranges`](Self::from_ranges).
    pub fn from_shards(shards: Vec<Arc<dyn ByteRanges>>, config: Option<&str>) -> Result<Self> {
        let path = PathBuf::from(shards.first().map(|shard| shard.name()).unwrap_or_default());
        let files = shards.into_iter().map(|shard| WeightsFile::parse(ByteFile::elsewhere(shard)));
        let weights = Weights::File(WeightsFile::joined(files.collect::<Result<_, _>>()?)?);
        let config = match config {
            Some(text) => Some((ConfigSource::Given, folder::parse_config(&path, text)?)),
            None => folder::embedded_config(&weights)?,
        };
        Ok(Self { path, weights, config, prefix: None })
    }

    /// The format of its file, or that of the first of its shards.
    ///
    /// # Errors
    /// [`CheckpointError`](crate::error::CheckpointError) if the shard is missing or damaged.
    pub fn format(&self) -> Result<Format> {
        match &self.weights {
            Weights::File(file) => Ok(file.format),
            Weights::Shards(index) => {
                let first = index.shards().first().copied().unwrap_or_default();
                Ok(WeightsFile::open(&index.path_of(first))?.format)
            }
        }
    }

    /// Chooses the tables under this prefix (`transformer` for `transformer.wte.weight`), where there are several.
    pub fn with_prefix(mut self, prefix: &str) -> Self {
        self.prefix = Some(prefix.to_string());
        self
    }

    /// Every tensor of the checkpoint, by name; opens every shard.
    ///
    /// # Errors
    /// [`CheckpointError`](crate::error::CheckpointError) if a shard is missing or damaged.
    pub fn tensors(&self) -> Result<Vec<TensorEntry>> {
        let mut entries = match &self.weights {
            Weights::File(file) => entries_of(file),
            Weights::Shards(index) => {
                let mut entries = Vec::new();
                for shard in index.shards() {
                    entries.extend(entries_of(&WeightsFile::open(&index.path_of(shard))?));
                }
                entries
            }
        };
        entries.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(entries)
    }

    /// The checkpoint's configuration, in agreement with the shapes of its input tables; no tensor is read.
    ///
    /// # Errors
    /// [`CheckpointError`](crate::error::CheckpointError) if there are no such tables, or the configuration says otherwise.
    pub fn config(&self) -> Result<GptInputConfig> {
        Ok(self.locate()?.config)
    }

    /// Reads the input tables as `dtype` (f32, f16, bf16 or f64) onto `device`.
    ///
    /// Shapes, types and the configuration are checked before any data is read. Beside the tables themselves a megabyte
    /// is allocated.
    ///
    /// # Errors
    /// [`CheckpointError`](crate::error::CheckpointError), naming the file and the numbers that disagree.
    pub fn load_tables(&self, dtype: DType, device: &Device) -> Result<InputTables> {
        let located = self.locate()?;
        let report = self.report(&located, dtype);
        let position_tables = self.position_tables(&located, dtype, device)?;
        let Located { wte, config, .. } = located;
        Ok(InputTables { wte: wte.read(dtype, device)?, position_tables, config, report })
    }

    /// The learned tables of the positions, read.
    fn position_tables(&self, located: &Located, dtype: DType, device: &Device) -> Result<Vec<Tensor>> {
        if let Some(wpe) = &located.wpe {
            return Ok(vec![wpe.read(dtype, device)?]);
        }
        let vb = self.var_builder(dtype, device);
        located.positional().into_iter().map(|(name, shape)| Ok(vb.get(shape, &name)?)).collect()
    }

    fn report(&self, located: &Located, dtype: DType) -> LoadReport {
        let Located { names, wte, wpe, padded_vocab, .. } = located;
        let positional = located.positional();
        let is_used = |name: &str| {
            let is_wpe = wpe.as_ref().is_some_and(|wpe| wpe.name == name);
            is_wpe || wte.name == name || positional.iter().any(|(positional, _)| positional == name)
        };
        LoadReport {
            wte: wte.report(),
            wpe: wpe.as_ref().map(LocatedTable::report),
            dtype,
            config_source: self.config.as_ref().map_or(ConfigSource::Shapes, |(source, _)| source.clone()),
            padded_vocab: *padded_vocab,
            unused: names.iter().filter(|name| !is_used(name)).map(|name| name.to_string()).collect(),
        }
    }
}

fn entries_of(file: &WeightsFile) -> Vec<TensorEntry> {
    let entry = |(name, tensor): (&String, &StoredTensor)| TensorEntry {
        name: name.clone(),
        dtype: tensor.dtype.name.clone(),
        shape: tensor.shape.clone(),
        n_bytes: tensor.n_bytes(),
        file: file.file_of(tensor),
        role: Role::of(name),
    };
    file.tensors().iter().map(entry).collect()
}
