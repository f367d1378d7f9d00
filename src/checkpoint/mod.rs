//! [`Checkpoint`]: GPT-2 weights on disk or remote, in any [`Format`]. Names → tensors; it knows no layer.
//!
//! The page [`formats`](crate::guide::formats) of the guide has the formats, with examples.
//!
//! # Mapped, quantized, remote
//!
//! A checkpoint reads headers when it is opened, and tensors when they are asked for. What becomes of a layer's tables
//! is the choice of [`GptInputLayer::open`](crate::GptInputLayer::open): in memory, in their file, or in quantized
//! blocks. Remote files come through [`ByteRanges`].
//!
//! # Security
//!
//! A pickle is read and never executed: objects of unknown classes are skipped and reported, and in the place of a
//! tensor they are [`ForbiddenPickle`](crate::error::CheckpointError::ForbiddenPickle). What a header claims is
//! compared with the size of the file before memory is set aside for it.

// Lengths come from files of any size, and `usize` has 32 bits on some targets.
#![warn(clippy::cast_possible_truncation)]

mod budget;
mod bytes;
mod convert;
mod first_row;
mod float8;
mod folder;
mod format;
mod head;
mod head_names;
mod header;
mod keys;
mod left_out;
mod listing;
mod locate;
mod mapped;
mod names;
mod nearest;
mod options;
mod pages;
mod parse;
mod plain_pickle;
mod position_tables;
mod qtensor;
mod read;
mod report;
mod role;
mod runs;
mod save;
mod save_gguf;
mod sharded;
mod stored;
mod stored_tables;
mod switch;
mod tables;
mod tokenizer_json;
mod var_builder;
mod weight_map;
mod weights;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::ConfigFile;
use crate::error::Result;
use crate::files::folder_of;
use bytes::ByteFile;
use folder::At;
use weights::Weights;

pub use crate::rows::ByteRanges;
pub use format::Format;
pub(crate) use head::{HeadTable, StoredHead};
pub(crate) use keys::{SAVED, listed, names_among};
#[cfg(feature = "hub")]
pub(crate) use names::{CONFIG_FILE, WEIGHTS_NAMES};
pub use options::CheckpointOptions;
pub(crate) use plain_pickle::PlainPickle;
pub(crate) use position_tables::{TableSpec, position_tables};
pub use report::{Choice, ConfigSource, LeftOut, LoadReport, LoadedTable, PaddedVocab, PickleReport, Unreadable};
pub use role::Role;
pub use save::{SaveFormat, save_pretrained, save_tensors, write_file};
pub(crate) use save::{SavedTables, Streamed, save_folder, save_pretrained_after, save_safetensors};
pub(crate) use save_gguf::{SavedBlocks, TableData, save_gguf};
pub use sharded::ShardIndex;
pub(crate) use stored_tables::StoredTables;
pub(crate) use weights::WeightsFile;

/// How often a checkpoint is opened again because it was replaced meanwhile.
const MAX_TRIES: usize = 8;

/// Opens GPT-2 weights of any [`Format`]: checks their headers at once and reads tensors on demand.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_gpt_input::checkpoint::{Checkpoint, Format, save_tensors};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("model.safetensors");
/// let wte = Tensor::new(&[[1f32, 2.], [3., 4.], [5., 6.]], &Device::Cpu)?;
/// let wpe = Tensor::new(&[[10f32, 20.]], &Device::Cpu)?;
/// save_tensors(&path, [("wte.weight", &wte), ("wpe.weight", &wpe)], [])?;
///
/// let checkpoint = Checkpoint::open(&path)?;
/// assert_eq!(checkpoint.format()?, Format::Safetensors);
/// let config = checkpoint.config()?; // read off the shapes of the tables
/// assert_eq!((config.vocab_size, config.n_positions, config.n_embd), (3, 1, 2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Checkpoint {
    path: PathBuf,
    weights: Weights,
    /// Where the configuration is, if anywhere, and what it states.
    config: Option<(ConfigSource, ConfigFile)>,
    options: CheckpointOptions,
    /// How the file was chosen, where the path held several.
    choice: Option<Choice>,
}

/// Describes one tensor of a checkpoint, from its header.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_gpt_input::checkpoint::{Checkpoint, Role, save_tensors};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("model.safetensors");
/// let wte = Tensor::new(&[[1f32, 2.], [3., 4.], [5., 6.]], &Device::Cpu)?;
/// save_tensors(&path, [("transformer.wte.weight", &wte)], [])?;
/// let entry = &Checkpoint::open(&path)?.tensors()?[0];
/// assert_eq!((entry.dtype.as_str(), &entry.shape[..]), ("F32", &[3, 2][..]));
/// assert_eq!((entry.n_bytes, entry.role), (24, Role::TokenTable)); // 6 elements of 4 bytes
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorEntry {
    /// Its name in the file.
    pub name: String,
    /// Its dtype as the format spells it, such as `F32`.
    pub dtype: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its size on disk.
    pub n_bytes: usize,
    /// The file that holds it.
    pub file: PathBuf,
    /// What this crate uses it for.
    pub role: Role,
}

impl Checkpoint {
    /// Opens a checkpoint and reads its headers.
    ///
    /// `path` is one of these:
    /// - a file of any [`Format`], recognised by its content
    /// - a folder: Hugging Face's (one file, or an index and shards), OpenAI's, or one with a single file of weights
    /// - an index of shards
    /// - the prefix of a TensorFlow checkpoint (`model.ckpt`)
    /// - the folder of a run of llm.c or gpt-2-simple: the newest step, which the load report names
    /// - a repository in the hub's cache (`models--org--name`): the snapshot that `refs/main` names
    ///
    /// A shard is opened when one of its tensors is needed. A pickle is read and never executed.
    ///
    /// # Errors
    /// [`CheckpointError`](crate::error::CheckpointError) if the path does not exist, no weights are found, a header or
    /// an index is damaged, or the configuration is invalid.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, &CheckpointOptions::default())
    }

    /// Opens a checkpoint as [`open`](Self::open) does, with options for what its files leave open.
    ///
    /// # Errors
    /// Those of [`open`](Self::open), and [`CheckpointError::InvalidFile`](crate::error::CheckpointError::InvalidFile)
    /// if the file has no state dict under the given key.
    pub fn open_with(path: impl AsRef<Path>, options: &CheckpointOptions) -> Result<Self> {
        let path = path.as_ref();
        let folder = if path.is_dir() { path } else { folder_of(path) };
        for _ in 0..MAX_TRIES {
            let before = switch::state(folder);
            let opened = Self::open_once(path, options);
            if switch::state(folder) == before {
                return opened;
            }
        }
        Self::open_once(path, options)
    }

    fn open_once(path: &Path, options: &CheckpointOptions) -> Result<Self> {
        let At { file, whole_folder, choice } = folder::weights_at(path)?;
        let weights = match folder::is_index(&file) {
            true => Weights::Shards(ShardIndex::open_with(&file, options.state_dict.as_deref())?),
            false => Weights::File(WeightsFile::open_with(&file, options.state_dict.as_deref())?.into()),
        };
        let config = match &options.config_json {
            Some(text) => Some(folder::given_config(text)?),
            None => folder::read_config(&file, &weights, whole_folder)?,
        };
        Ok(Self { path: path.to_path_buf(), weights, config, options: options.clone(), choice })
    }

    /// Opens a single file of any [`Format`] but TensorFlow's from a random-access byte source, such as a server.
    ///
    /// Opening fetches only the header, in pages of 16 KiB. A [mapped](crate::input_layer::TableStorage::Mapped) layer
    /// then fetches just the rows of each call; other layers fetch whole tables. Pass a remote `config.json` as
    /// [`CheckpointOptions::config_json`]. [`ByteRanges`] has an example.
    ///
    /// # Errors
    /// Those of [`open_with`](Self::open_with). A failure of `ranges` is
    /// [`CheckpointError::Io`](crate::error::CheckpointError::Io) with its name.
    pub fn from_ranges(ranges: Arc<dyn ByteRanges>, options: &CheckpointOptions) -> Result<Self> {
        Self::from_shards(vec![ranges], options)
    }

    /// Opens several files from byte sources as one checkpoint, as [`from_ranges`](Self::from_ranges) opens one.
    ///
    /// # Errors
    /// Those of [`from_ranges`](Self::from_ranges), and
    /// [`CheckpointError::InvalidFile`](crate::error::CheckpointError::InvalidFile) if two files hold tensors of the
    /// same name.
    pub fn from_shards(shards: Vec<Arc<dyn ByteRanges>>, options: &CheckpointOptions) -> Result<Self> {
        let path = PathBuf::from(shards.first().map(|shard| shard.name()).unwrap_or_default());
        let state_dict = options.state_dict.as_deref();
        let files = shards.into_iter().map(|shard| WeightsFile::parse(ByteFile::elsewhere(shard), state_dict));
        let weights = Weights::File(WeightsFile::joined(files.collect::<Result<_, _>>()?)?.into());
        let config = match &options.config_json {
            Some(text) => Some(folder::given_config(text)?),
            None => folder::embedded_config(&weights)?,
        };
        Ok(Self { path, weights, config, options: options.clone(), choice: None })
    }

    /// Returns the file of weights that was opened, or the index of its shards.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::checkpoint::{Checkpoint, save_tensors};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// let path = folder.path().join("model.safetensors");
    /// save_tensors(&path, [("wte.weight", &Tensor::new(&[[1f32]], &Device::Cpu)?)], [])?;
    /// assert_eq!(Checkpoint::open(folder.path())?.file(), path);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn file(&self) -> &Path {
        match &self.weights {
            Weights::File(file) => file.path(),
            Weights::Shards(index) => index.path(),
        }
    }

    /// Returns the format of the file, or of the first shard.
    ///
    /// # Errors
    /// [`CheckpointError`](crate::error::CheckpointError) if the shard is missing or damaged.
    pub fn format(&self) -> Result<Format> {
        match &self.weights {
            Weights::File(file) => Ok(file.format),
            Weights::Shards(index) => {
                let first = index.shards().first().copied().unwrap_or_default();
                Ok(WeightsFile::open(&index.path_of(first)?)?.format)
            }
        }
    }

    /// Returns which state dict of a pickle was read, and what else the pickle holds. `None` for other formats and for
    /// shards.
    pub fn pickle_report(&self) -> Option<&PickleReport> {
        match &self.weights {
            Weights::File(file) => file.pickle(),
            Weights::Shards(_) => None,
        }
    }
}
