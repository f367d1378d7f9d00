//! The files of a repository without a download: texts whole, weights by ranges.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::MAX_TEXT_BYTES;
use super::file::RemoteFile;
use super::repo::Repo;
use crate::checkpoint::{ByteRanges, CONFIG_FILE, Checkpoint, CheckpointOptions, ShardIndex, WEIGHTS_NAMES};
use crate::error::{CheckpointError, Error, FetchError, HubError, Result, cause};

/// # Ranges
impl Repo {
    /// Reads a text file of at most 64 MiB, such as `config.json`. Returns `None` if the repository lacks it.
    ///
    /// # Errors
    /// [`HubError::Fetch`], and [`HubError::Offline`] if only the cache is to be used.
    pub fn text(&self, file: &str) -> Result<Option<String>> {
        self.online(file)?;
        let url = self.url(file);
        let Some(bytes) = if_there(self.client.read(&url, MAX_TEXT_BYTES))? else { return Ok(None) };
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(error) => {
                let source = FetchError::NotUtf8 { at: error.utf8_error().valid_up_to() };
                Err(HubError::Fetch { url, source }.into())
            }
        }
    }

    /// Opens the weights: `model.safetensors`, else all shards that its index names, else `pytorch_model.bin` or its
    /// shards.
    ///
    /// # Errors
    /// - [`HubError::NoWeights`] if the repository has none of these
    /// - [`HubError::Fetch`] if a file cannot be fetched, [`HubError::Offline`] if only the cache is to be used
    /// - [`CheckpointError`](crate::error::CheckpointError) if the index cannot be read
    pub fn weights(&self) -> Result<Vec<RemoteFile>> {
        self.files(false)
    }

    /// Opens only the weights that hold the input tables: one file, or one or two shards.
    ///
    /// # Errors
    /// The errors of [`weights`](Self::weights), and [`HubError::NoInputTables`] if the index names no input tables.
    pub fn input_tables(&self) -> Result<Vec<RemoteFile>> {
        self.files(true)
    }

    fn files(&self, only_input_tables: bool) -> Result<Vec<RemoteFile>> {
        for name in WEIGHTS_NAMES {
            self.online(name)?;
            let url = self.url(name);
            if !name.ends_with(".json") {
                match if_there(self.client.open(&url))? {
                    Some(file) => return Ok(vec![file]),
                    None => continue,
                }
            }
            if let Some(text) = self.text(name)? {
                let index = ShardIndex::parse(Path::new(&url), &text)?;
                let shards = shards_of(&index, only_input_tables, &url)?;
                return shards.into_iter().map(|shard| self.client.open(&self.url(shard))).collect();
            }
        }
        Err(HubError::NoWeights { url: self.url("") }.into())
    }

    /// Opens remote weights as one checkpoint, with the repository's `config.json` unless `options` have one.
    ///
    /// Weights that cannot be opened leave no ranges in the cache: the next call fetches them again.
    ///
    /// ```no_run
    /// use std::sync::Arc;
    ///
    /// use candle_gpt_input::checkpoint::CheckpointOptions;
    /// use candle_gpt_input::hub::Repo;
    ///
    /// let repo = Repo::from_env("openai-community/gpt2")?;
    /// let files: Vec<_> = repo.input_tables()?.into_iter().map(Arc::new).collect();
    /// let checkpoint = repo.open_remote(&files, CheckpointOptions::default())?;
    /// assert_eq!(checkpoint.config()?.n_embd, 768);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// - those of [`text`](Self::text) and [`Checkpoint::from_shards`]
    /// - [`HubError::DroppedRanges`] around the latter if ranges were in the cache
    pub fn open_remote(&self, files: &[Arc<RemoteFile>], mut options: CheckpointOptions) -> Result<Checkpoint> {
        if options.config_json.is_none() {
            options.config_json = self.text(CONFIG_FILE)?;
        }
        let shards = files.iter().map(|file| file.clone() as Arc<dyn ByteRanges>).collect();
        Checkpoint::from_shards(shards, &options).map_err(|error| {
            if matches!(error, Error::Checkpoint(CheckpointError::Io { .. } | CheckpointError::Config { .. })) {
                return error;
            }
            let mut folders: Vec<PathBuf> = files.iter().filter_map(|file| file.forget()).collect();
            match folders.pop() {
                Some(folder) => HubError::DroppedRanges { folder, source: cause(error) }.into(),
                None => error,
            }
        })
    }

    /// Refuses a request for `file` if only the cache is to be used.
    fn online(&self, file: &str) -> Result<(), HubError> {
        match self.offline {
            true => Err(self.not_cached(file)),
            false => Ok(()),
        }
    }

    pub(super) fn not_cached(&self, file: &str) -> HubError {
        let (repo, revision, file) = (self.name.clone(), self.revision.clone(), file.to_string());
        HubError::Offline { repo, revision, file, cache: self.cache.clone().unwrap_or_default() }
    }
}

/// Returns all shards of an index, or those that hold the input tables.
pub(super) fn shards_of<'a>(
    index: &'a ShardIndex,
    only_input_tables: bool,
    url: &str,
) -> Result<BTreeSet<&'a str>, HubError> {
    let shards = if only_input_tables { index.shards_of_input_tables() } else { index.shards() };
    match shards.is_empty() {
        true => Err(HubError::NoInputTables { url: url.to_string() }),
        false => Ok(shards),
    }
}

/// Turns the error for a missing file into `None`.
fn if_there<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(Error::Hub(HubError::Fetch { source: FetchError::NotFound, .. })) => Ok(None),
        result => result.map(Some),
    }
}
