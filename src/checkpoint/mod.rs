//! [`Checkpoint`]: GPT-2 weights on disk, or wherever their bytes can be asked for. Names → tensors; it knows no layer.

// Lengths come from files of any size, and `usize` has 32 bits on some targets.
#![warn(clippy::cast_possible_truncation)]

mod bytes;
mod convert;
mod folder;
mod format;
mod keys;
mod locate;
mod mapped;
mod names;
mod pages;
mod read;
mod report;
mod save;
mod save_gguf;
mod sharded;
mod stored;
mod tables;
mod var_builder;
mod weights;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::ConfigFile;
use crate::error::Result;
use bytes::ByteFile;
use stored::StoredTensor;
use weights::Weights;

pub use crate::rows::ByteRanges;
pub use format::Format;
pub use keys::Role;
pub(crate) use mapped::StoredTables;
#[cfg(feature = "hub")]
pub(crate) use names::{INDEX_FILE, WEIGHTS_FILE};
pub use report::{ConfigSource, LoadReport, LoadedTable, PaddedVocab};
pub(crate) use save::save_tables;
pub use save::save_tensors;
pub(crate) use save_gguf::{TableData, save_gguf};
pub use sharded::ShardIndex;
pub use tables::InputTables;
pub(crate) use weights::WeightsFile;

/// A checkpoint whose headers have been read and checked; tensors are read when they are asked for.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    weights: Weights,
    /// Where the configuration is, if anywhere, and what it states.
    config: Option<(ConfigSource, ConfigFile)>,
    prefix: Option<String>,
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
