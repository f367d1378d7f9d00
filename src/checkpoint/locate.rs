//! Finds the two tables among a checkpoint's tensors and checks the configuration against them, from headers alone.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::first_row::FirstRow;
use super::head_names::{HeadNames, head_names};
use super::keys::{self, Found, Wanted, find_tables};
use super::nearest::closest;
use super::position_tables::position_tables;
use super::stored::Kind;
use super::weights::{TableInfo, Weights, WeightsFile};
use super::{Checkpoint, LoadedTable, PaddedVocab};
use crate::config::{GptInputConfig, PositionScheme, TableNames};
use crate::error::{CheckpointError, Result};

impl Checkpoint {
    /// Finds the two tables and checks them against each other and the configuration, from headers alone.
    pub(super) fn locate(&self) -> Result<Located<'_>> {
        let names = self.names();
        if names.is_empty() {
            return Err(self.no_tensors().into());
        }
        let scheme = self.config.as_ref().map(|(_, stated)| stated.scheme()).transpose();
        let position = scheme.map_err(CheckpointError::config_in(self.config_place()))?.flatten().unwrap_or_default();
        let (wte_name, wpe_name) = self.find(&names, position == PositionScheme::Learned)?;
        let wte_file = self.shard(wte_name)?;
        let wte = LocatedTable::new(wte_name, wte_file.get().table(wte_name)?, wte_file);
        let wpe = wpe_name.map(|name| self.position_table(name, &names, &wte)).transpose()?;
        if let Some(wpe) = wpe.as_ref().filter(|wpe| wpe.info.width != wte.info.width) {
            return Err(CheckpointError::WidthMismatch {
                path: self.path.clone(),
                wte: wte.name,
                wte_width: wte.info.width,
                wpe: wpe.name.clone(),
                wpe_width: wpe.info.width,
                projection: names.iter().find(|name| name.contains("project_in")).map(|name| name.to_string()),
            }
            .into());
        }
        let (mut config, padded_vocab) = self.resolve_config(&names, &wte, wpe.as_ref())?;
        if self.options.leave_tables_to_be_found() {
            config.set_table_names(TableNames {
                wte: wte.name.clone(),
                wpe: wpe.as_ref().map(|wpe| wpe.name.clone()),
                first_row: wpe.as_ref().map_or(0, |wpe| wpe.first_row),
                is_counted: wpe.as_ref().is_some_and(|wpe| wpe.n_counted != wpe.info.n_rows),
            });
        }
        let given = self.options.lm_head.as_deref();
        if let Some(name) = given.filter(|name| !names.contains(name)) {
            return Err(self
                .missing_table(
                    &names,
                    "output head",
                    format!("{name}, but usual names are {}", head_names()),
                    Some(name),
                )
                .into());
        }
        let head = HeadNames::find(&names, &wte.name, given);
        Ok(Located { names, wte, wpe, head, config, padded_vocab })
    }

    /// Returns the error of a checkpoint without tensors.
    pub(super) fn no_tensors(&self) -> CheckpointError {
        let report = match &self.weights {
            Weights::File(file) => file.pickle().map(ToString::to_string).filter(|text| !text.is_empty()),
            Weights::Shards(_) => None,
        };
        let beside = report.map(|report| format!(" ({report})")).unwrap_or_default();
        CheckpointError::NoTensors { path: self.path.clone(), beside }
    }

    /// Describes the learned position table: without leading dimensions of 1 and without rows before position 0.
    fn position_table<'a>(
        &'a self,
        name: &str,
        names: &[&str],
        wte: &LocatedTable<'a>,
    ) -> Result<LocatedTable<'a>, CheckpointError> {
        let file = match &self.weights {
            Weights::Shards(index) if index.shard_of(name) == index.shard_of(&wte.name) => wte.file.clone(),
            _ => self.shard(name)?,
        };
        let stored = file.get().position_table(name)?;
        let n_stored = stored.n_rows;
        let config = self.config.as_ref().map(|(_, stated)| stated);
        let n_stated = config.and_then(|config| config.n_positions);
        let is_chosen = self.options.first_position_row.is_some();
        let (first_row, is_counted) = match FirstRow::of(name, n_stored, names, config, &self.options) {
            FirstRow::At(row) => (row, is_chosen && n_stated == Some(n_stored)),
            FirstRow::Counted(row) => (row, n_stated == Some(n_stored)),
            FirstRow::Unknown => {
                let (path, name) = (file.get().path().to_path_buf(), name.to_string());
                return Err(CheckpointError::FirstPosition { path, name, n_rows: n_stored });
            }
        };
        let Some(info) = stored.without_first(first_row) else {
            let path = file.get().path().to_path_buf();
            return Err(CheckpointError::TooFewPositions { path, name: name.to_string(), n_rows: n_stored, first_row });
        };
        let n_counted = if is_counted { n_stored } else { info.n_rows };
        Ok(LocatedTable { first_row, n_counted, ..LocatedTable::new(name, info, file) })
    }

    /// Returns where the configuration stands.
    fn config_place(&self) -> &Path {
        self.config.as_ref().map_or(&self.path, |(source, _)| source.place())
    }

    pub(super) fn names(&self) -> Vec<&str> {
        match &self.weights {
            Weights::File(file) => file.names().collect(),
            Weights::Shards(index) => index.names().collect(),
        }
    }

    fn find<'a>(&'a self, names: &[&'a str], has_wpe: bool) -> Result<(&'a str, Option<&'a str>), CheckpointError> {
        let missing = |what, looked_for, wanted: Option<&str>| self.missing_table(names, what, looked_for, wanted);
        let given = |what, name: &Option<String>| {
            let Some(name) = name else { return Ok(None) };
            let found = names.iter().copied().find(|of_file| of_file == name);
            found.map(Some).ok_or_else(|| missing(what, name.clone(), Some(name)))
        };
        let wanted = Wanted {
            prefix: self.options.prefix.as_deref(),
            wte: given("token table", &self.options.wte)?,
            wpe: given("position table", &self.options.wpe)?,
        };
        match find_tables(names, wanted, has_wpe) {
            Found::Tables { wte, wpe } => Ok((wte, wpe)),
            Found::NoTokenTable => Err(missing("token table", keys::token_table_names(), None)),
            Found::NoPositionTable { looked_for } => {
                let wanted = looked_for.clone();
                Err(missing("position table", looked_for, Some(&wanted)))
            }
            Found::Several { candidates } => {
                let path = self.file().to_path_buf();
                Err(CheckpointError::AmbiguousTables { path, candidates: keys::listed(&candidates) })
            }
        }
    }

    fn missing_table(
        &self,
        names: &[&str],
        what: &'static str,
        looked_for: String,
        wanted: Option<&str>,
    ) -> CheckpointError {
        let closest = closest(names, wanted);
        CheckpointError::MissingTable { path: self.file().to_path_buf(), what, looked_for, closest }
    }

    pub(super) fn shard(&self, name: &str) -> Result<Shard<'_>, CheckpointError> {
        match &self.weights {
            Weights::File(file) => Ok(Shard::Whole(file)),
            Weights::Shards(index) => {
                let shard = index.shard_of(name).unwrap_or_default();
                Ok(Shard::Opened(WeightsFile::open(&index.path_of(shard)?)?.into()))
            }
        }
    }

    /// Completes the configuration with the dimensions of the tables, and checks those that it states.
    fn resolve_config(
        &self,
        names: &[&str],
        LocatedTable { name: wte_name, info: wte, .. }: &LocatedTable,
        wpe: Option<&LocatedTable>,
    ) -> Result<(GptInputConfig, Option<PaddedVocab>), CheckpointError> {
        let given = match self.options.vocab_size {
            Some(n) if !(1..=wte.n_rows).contains(&n) => {
                return Err(CheckpointError::ConfigMismatch {
                    path: self.path.clone(),
                    field: "vocab_size",
                    config: n,
                    name: wte_name.clone(),
                    table: wte.n_rows,
                });
            }
            given => given,
        };
        let padded = |n_tokens: Option<usize>| {
            let vocab_size = n_tokens.filter(|&vocab_size| vocab_size < wte.n_rows)?;
            Some(PaddedVocab { vocab_size, padded_to: wte.n_rows })
        };
        let Some((_, stated)) = &self.config else {
            let n_positions = wpe.map_or(1, |wpe| wpe.info.n_rows); // without a config, positions are learned
            let mut config = GptInputConfig::new(given.unwrap_or(wte.n_rows), n_positions, wte.width);
            config.padded_vocab_size = padded(given).map(|padded| padded.padded_to);
            config.n_layer = keys::count_blocks(names);
            // No shape states the number of heads; every GPT-2 has heads of 64.
            config.n_head = if wte.width % 64 == 0 { wte.width / 64 } else { 1 };
            return Ok((config, padded(given)));
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
        let of_config = stated.vocab_size.filter(|&vocab_size| {
            let is_stated = vocab_size < wte.n_rows && stated.padded_vocab_size == Some(wte.n_rows);
            is_stated
                || [64, 128].iter().any(|&multiple| {
                    vocab_size != wte.n_rows && vocab_size.checked_next_multiple_of(multiple) == Some(wte.n_rows)
                })
        });
        let padded_vocab = padded(given.or(of_config));
        if given.or(of_config).is_none() {
            differs("vocab_size", stated.vocab_size, wte_name, wte.n_rows)?;
        }
        // ALBERT's and ELECTRA's tables are narrower than their blocks.
        let own_width = stated.extra.get("embedding_size").and_then(serde_json::Value::as_u64);
        if own_width.is_none() || own_width != u64::try_from(wte.width).ok() {
            differs("n_embd", stated.n_embd, wte_name, wte.width)?;
        }
        if let Some(wpe) = wpe {
            differs("n_positions", stated.n_positions, &wpe.name, wpe.n_counted)?;
        }
        let mut file = stated.clone();
        file.vocab_size = Some(padded_vocab.map_or(wte.n_rows, |padded| padded.vocab_size));
        file.padded_vocab_size = padded_vocab.map(|padded| padded.padded_to);
        file.n_embd = Some(wte.width);
        file.n_positions = wpe.map(|wpe| wpe.info.n_rows).or(file.n_positions);
        if wpe.is_some() {
            file.position.get_or_insert_default(); // a table says it where neither a key nor the type of the model does
        }
        let unusable = CheckpointError::config_in(self.config_place());
        let config = file.resolve().map_err(unusable)?;
        config.check().map_err(unusable)?;
        Ok((config, padded_vocab))
    }
}

impl Checkpoint {
    /// Returns whether anything says how many rows of the token table are tokens.
    pub(super) fn is_vocab_size_known(&self, config: &GptInputConfig) -> bool {
        self.options.vocab_size.is_some() || config.padded_vocab_size.is_some() || !config.vocab_size.is_multiple_of(64)
    }
}

/// A file that holds a tensor: the checkpoint's only one, or a shard opened for it.
#[derive(Clone)]
pub(super) enum Shard<'a> {
    Whole(&'a WeightsFile),
    Opened(Arc<WeightsFile>),
}

impl Shard<'_> {
    pub(super) fn get(&self) -> &WeightsFile {
        match self {
            Self::Whole(file) => file,
            Self::Opened(file) => file,
        }
    }
}

/// The two tables in their files, and the configuration that they agree with.
pub(super) struct Located<'a> {
    pub(super) names: Vec<&'a str>,
    pub(super) wte: LocatedTable<'a>,
    /// Where positions are learned.
    pub(super) wpe: Option<LocatedTable<'a>>,
    pub(super) head: HeadNames,
    pub(super) config: GptInputConfig,
    pub(super) padded_vocab: Option<PaddedVocab>,
}

impl Located<'_> {
    /// Returns the names and shapes of the tables of positions other than learned ones, next to `wte`.
    pub(super) fn positional(&self) -> Vec<(String, Vec<usize>)> {
        if self.wpe.is_some() {
            return Vec::new();
        }
        let prefix = self.wte.name.strip_suffix(keys::SAVED.0).unwrap_or_default();
        let tables = position_tables(&self.config).into_iter();
        tables.map(|spec| (format!("{prefix}{}", spec.name), spec.shape)).collect()
    }
}

pub(super) struct LocatedTable<'a> {
    pub(super) name: String,
    pub(super) file: Shard<'a>,
    pub(super) info: TableInfo,
    /// The row of the stored tensor that is row 0 here.
    first_row: usize,
    /// The rows that the configuration states.
    n_counted: usize,
}

impl<'a> LocatedTable<'a> {
    pub(super) fn new(name: &str, info: TableInfo, file: Shard<'a>) -> Self {
        Self { name: name.to_string(), file, first_row: 0, n_counted: info.n_rows, info }
    }

    pub(super) fn read(&self, dtype: DType, device: &Device) -> Result<Tensor> {
        self.file.get().read(&self.info.at, dtype, device)
    }

    pub(super) fn report(&self) -> LoadedTable {
        LoadedTable {
            name: self.name.clone(),
            file: self.file.get().file_of(&self.info.at),
            shape: (self.info.n_rows, self.info.width),
            stored_name: self.info.at.dtype.name.to_string(),
            first_row: self.first_row,
            stored_dtype: self.info.at.dtype.loaded_as(),
            block_type: match self.info.at.dtype.kind {
                Kind::Blocks(dtype) => Some(dtype),
                Kind::Float(_) | Kind::Float8(_) | Kind::Other => None,
            },
        }
    }
}
