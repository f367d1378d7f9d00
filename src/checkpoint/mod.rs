//! [`Checkpoint`]: GPT-2 weights on disk. Names → tensors; it knows no layer.

mod keys;
mod report;
mod safetensors;
mod save;
mod sharded;
mod var_builder;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::config::{ConfigFile, GptInputConfig, PositionScheme};
use crate::error::{CheckpointError, Result};
use keys::{Found, find_tables};
use safetensors::TableInfo;

pub use keys::Role;
pub use report::{ConfigSource, LoadReport, LoadedTable};
pub(crate) use safetensors::SafetensorsFile;
pub(crate) use save::save_tables;
pub use save::save_tensors;
pub use sharded::ShardIndex;

const CONFIG_FILE: &str = "config.json";
const WEIGHTS_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";
/// The key of a safetensors file's metadata under which a single file carries its configuration.
const CONFIG_METADATA: &str = "gpt_input_config";

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
    File(SafetensorsFile),
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
    /// Opens a safetensors file, a folder (`model.safetensors`, or `model.safetensors.index.json` with its shards, or one
    /// other `*.safetensors`), or an index file.
    ///
    /// Only headers are read. Of a sharded checkpoint, a shard is opened when something in it is asked for.
    ///
    /// # Errors
    /// [`CheckpointError`]: nothing there, no weights, a damaged header or index, a `config.json` that makes no sense.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let kind = match std::fs::metadata(path) {
            Ok(kind) => kind,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(CheckpointError::NotFound { path: path.to_path_buf() }.into());
            }
            Err(source) => return Err(CheckpointError::Io { path: path.to_path_buf(), source }.into()),
        };
        let file = if kind.is_dir() { weights_in(path)? } else { path.to_path_buf() };
        let weights = if file.extension().is_some_and(|extension| extension == "json") {
            Weights::Shards(ShardIndex::open(&file)?)
        } else {
            Weights::File(SafetensorsFile::open(&file)?)
        };
        let config = read_config(&file, &weights, kind.is_dir())?;
        Ok(Self { path: path.to_path_buf(), weights, config, prefix: None })
    }

    /// Chooses the tables under this prefix (`transformer` for `transformer.wte.weight`), where there are several.
    pub fn with_prefix(mut self, prefix: &str) -> Self {
        self.prefix = Some(prefix.to_string());
        self
    }

    /// Every tensor of the checkpoint, by name; opens every shard.
    ///
    /// # Errors
    /// [`CheckpointError`] if a shard is missing or damaged.
    pub fn tensors(&self) -> Result<Vec<TensorEntry>> {
        let mut entries = match &self.weights {
            Weights::File(file) => entries_of(file),
            Weights::Shards(index) => {
                let mut entries = Vec::new();
                for shard in index.shards() {
                    entries.extend(entries_of(&SafetensorsFile::open(&index.path_of(shard))?));
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
    /// [`CheckpointError`] if there are no such tables, or the configuration says otherwise.
    pub fn config(&self) -> Result<GptInputConfig> {
        Ok(self.locate()?.config)
    }

    /// Reads the input tables as `dtype` (f32, f16, bf16 or f64) onto `device`.
    ///
    /// Shapes, types and the configuration are checked before any data is read. Beside the tables themselves a megabyte
    /// is allocated.
    ///
    /// # Errors
    /// [`CheckpointError`], naming the file and the numbers that disagree.
    pub fn load_tables(&self, dtype: DType, device: &Device) -> Result<InputTables> {
        let Located { names, wte, wpe, config, padded_vocab } = self.locate()?;
        let prefix = wte.name.strip_suffix(keys::SAVED.0).unwrap_or_default();
        let positional: Vec<(String, Vec<usize>)> = match wpe {
            Some(_) => Vec::new(),
            None => config
                .position_tables()
                .into_iter()
                .map(|spec| (format!("{prefix}{}", spec.name), spec.shape))
                .collect(),
        };
        let is_used = |name: &str| {
            let wpe = wpe.as_ref().is_some_and(|wpe| wpe.name == name);
            wpe || wte.name == name || positional.iter().any(|(positional, _)| positional == name)
        };
        let report = LoadReport {
            wte: wte.report(),
            wpe: wpe.as_ref().map(LocatedTable::report),
            dtype,
            config_source: self.config.as_ref().map_or(ConfigSource::Shapes, |(source, _)| source.clone()),
            padded_vocab,
            unused: names.iter().filter(|name| !is_used(name)).map(|name| name.to_string()).collect(),
        };
        let read = |table: &LocatedTable| table.file.get().read(&table.info.at, dtype, device);
        let position_tables = match &wpe {
            Some(wpe) => vec![read(wpe)?],
            None => {
                let vb = self.var_builder(dtype, device);
                positional.iter().map(|(name, shape)| Ok(vb.get(&**shape, name)?)).collect::<Result<_>>()?
            }
        };
        Ok(InputTables { wte: read(&wte)?, position_tables, config, report })
    }

    /// Finds the two tables and checks them against each other and the configuration, from headers alone.
    fn locate(&self) -> Result<Located<'_>> {
        let names = self.names();
        let position = self.config.as_ref().and_then(|(_, stated)| stated.position.clone()).unwrap_or_default();
        let (wte_name, wpe_name) = self.find(&names, position == PositionScheme::Learned)?;
        let table = |name: String| -> Result<LocatedTable<'_>, CheckpointError> {
            let file = self.shard(&name)?;
            Ok(LocatedTable { info: file.get().table(&name)?, file, name })
        };
        let (wte, wpe) = (table(wte_name.to_string())?, wpe_name.map(table).transpose()?);
        if let Some(wpe) = wpe.as_ref().filter(|wpe| wpe.info.width != wte.info.width) {
            return Err(CheckpointError::WidthMismatch {
                path: self.path.clone(),
                wte: wte.name,
                wte_width: wte.info.width,
                wpe: wpe.name.clone(),
                wpe_width: wpe.info.width,
            }
            .into());
        }
        let (config, padded_vocab) = self.resolve_config(&names, &wte, wpe.as_ref())?;
        Ok(Located { names, wte, wpe, config, padded_vocab })
    }

    fn names(&self) -> Vec<&str> {
        match &self.weights {
            Weights::File(file) => file.tensors.keys().map(String::as_str).collect(),
            Weights::Shards(index) => index.names().collect(),
        }
    }

    fn find<'a>(&self, names: &[&'a str], has_wpe: bool) -> Result<(&'a str, Option<String>), CheckpointError> {
        let path = match &self.weights {
            Weights::File(file) => file.path.clone(),
            Weights::Shards(index) => index.path().to_path_buf(),
        };
        match find_tables(names, self.prefix.as_deref(), has_wpe) {
            Found::Tables { wte, wpe } => Ok((wte, has_wpe.then_some(wpe))),
            Found::NoTokenTable => Err(CheckpointError::MissingTable {
                path,
                what: "token table",
                looked_for: keys::token_table_names(),
                closest: keys::closest(names),
            }),
            Found::NoPositionTable { looked_for } => Err(CheckpointError::MissingTable {
                path,
                what: "position table",
                looked_for,
                closest: keys::closest(names),
            }),
            Found::Several { candidates } => {
                Err(CheckpointError::AmbiguousTables { path, candidates: candidates.join(", ") })
            }
        }
    }

    fn shard(&self, name: &str) -> Result<Shard<'_>, CheckpointError> {
        match &self.weights {
            Weights::File(file) => Ok(Shard::Whole(file)),
            Weights::Shards(index) => {
                let shard = index.shard_of(name).unwrap_or_default();
                Ok(Shard::Opened(SafetensorsFile::open(&index.path_of(shard))?.into()))
            }
        }
    }

    /// The configuration, with the dimensions that it leaves out read off the tables; what it states must agree.
    fn resolve_config(
        &self,
        names: &[&str],
        LocatedTable { name: wte_name, info: wte, .. }: &LocatedTable,
        wpe: Option<&LocatedTable>,
    ) -> Result<(GptInputConfig, Option<(usize, usize)>), CheckpointError> {
        let Some((_, stated)) = &self.config else {
            let n_positions = wpe.map_or(1, |wpe| wpe.info.n_rows); // without a config positions are learned
            let mut config = GptInputConfig::new(wte.n_rows, n_positions, wte.width);
            config.n_layer = keys::count_blocks(names);
            // Every GPT-2 has heads of 64; no shape of the checkpoint says how many there are.
            config.n_head = if wte.width % 64 == 0 { wte.width / 64 } else { 1 };
            return Ok((config, None));
        };
        let differs = |field, stated: Option<usize>, name: &str, table| match stated {
            Some(config) if config != table => Err(CheckpointError::ConfigMismatch {
                path: self.path.clone(),
                field,
                config,
                name: name.into(),
                table,
            }),
            _ => Ok(()),
        };
        let padded_vocab = stated
            .vocab_size
            .filter(|&vocab_size| {
                [64, 128].iter().any(|&multiple| {
                    vocab_size != wte.n_rows && vocab_size.checked_next_multiple_of(multiple) == Some(wte.n_rows)
                })
            })
            .map(|vocab_size| (vocab_size, wte.n_rows));
        if padded_vocab.is_none() {
            differs("vocab_size", stated.vocab_size, wte_name, wte.n_rows)?;
        }
        differs("n_embd", stated.n_embd, wte_name, wte.width)?;
        let mut config = GptInputConfig { vocab_size: wte.n_rows, n_embd: wte.width, ..stated.clone().resolve() };
        if let Some(wpe) = wpe {
            differs("n_positions", stated.n_positions, &wpe.name, wpe.info.n_rows)?;
            config.n_positions = wpe.info.n_rows;
        }
        config
            .validate()
            .map_err(|source| CheckpointError::Config { path: self.path.clone(), source: source.into() })?;
        Ok((config, padded_vocab))
    }
}

/// A file that holds a tensor: the checkpoint's only one, or a shard opened for it.
enum Shard<'a> {
    Whole(&'a SafetensorsFile),
    Opened(Arc<SafetensorsFile>),
}

impl Shard<'_> {
    fn get(&self) -> &SafetensorsFile {
        match self {
            Self::Whole(file) => file,
            Self::Opened(file) => file,
        }
    }
}

/// The two tables in their files, and the configuration that they agree with.
struct Located<'a> {
    names: Vec<&'a str>,
    wte: LocatedTable<'a>,
    /// Where positions are learned.
    wpe: Option<LocatedTable<'a>>,
    config: GptInputConfig,
    padded_vocab: Option<(usize, usize)>,
}

struct LocatedTable<'a> {
    name: String,
    file: Shard<'a>,
    info: TableInfo,
}

impl LocatedTable<'_> {
    fn report(&self) -> LoadedTable {
        LoadedTable {
            name: self.name.clone(),
            file: self.file.get().path.clone(),
            shape: (self.info.n_rows, self.info.width),
            stored_dtype: self.info.at.dtype,
        }
    }
}

fn entries_of(file: &SafetensorsFile) -> Vec<TensorEntry> {
    let entry = |(name, info): (&String, &::safetensors::tensor::TensorInfo)| TensorEntry {
        name: name.clone(),
        dtype: info.dtype.to_string(),
        shape: info.shape.clone(),
        n_bytes: info.data_offsets.1 - info.data_offsets.0,
        file: file.path.clone(),
        role: Role::of(name),
    };
    file.tensors.iter().map(entry).collect()
}

/// The file in a folder that its weights begin with, in the order in which transformers looks.
fn weights_in(folder: &Path) -> Result<PathBuf, CheckpointError> {
    for name in [WEIGHTS_FILE, INDEX_FILE] {
        let path = folder.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    let io = |source| CheckpointError::Io { path: folder.to_path_buf(), source };
    let mut others = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") && path.is_file() {
            others.push(path);
        }
    }
    others.sort();
    match others.as_slice() {
        [only] => Ok(only.clone()),
        several => {
            let names: Vec<_> =
                several.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy()).collect();
            let found = if names.is_empty() { "none".to_string() } else { names.join(", ") };
            Err(CheckpointError::NoWeights { path: folder.to_path_buf(), found })
        }
    }
}

/// The configuration that belongs to a file of weights: the `config.json` of its folder, if the folder was asked for or the
/// file has one of Hugging Face's names (any other file may lie beside a config of something else), or else the metadata
/// of the file itself.
fn read_config(
    file: &Path,
    weights: &Weights,
    whole_folder: bool,
) -> Result<Option<(ConfigSource, ConfigFile)>, CheckpointError> {
    let beside = file.with_file_name(CONFIG_FILE);
    let of_a_folder = whole_folder || file.file_name().is_some_and(|name| name == WEIGHTS_FILE || name == INDEX_FILE);
    if of_a_folder && beside.is_file() {
        let text =
            std::fs::read_to_string(&beside).map_err(|source| CheckpointError::Io { path: beside.clone(), source })?;
        let config = ConfigFile::parse(&text)
            .map_err(|source| CheckpointError::Config { path: beside.clone(), source: source.into() })?;
        return Ok(Some((ConfigSource::File(beside), config)));
    }
    let Weights::File(opened) = weights else { return Ok(None) };
    let Some(text) = opened.metadata.get(CONFIG_METADATA) else { return Ok(None) };
    let config = ConfigFile::parse(text)
        .map_err(|source| CheckpointError::Config { path: file.to_path_buf(), source: source.into() })?;
    Ok(Some((ConfigSource::Metadata(file.to_path_buf()), config)))
}
