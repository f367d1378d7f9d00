//! Downloads files of a repository into huggingface_hub's cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::MAX_TEXT_BYTES;
use super::content::fault_of_cached;
use super::download::{Download, at};
use super::layout::{Layout, is_file_name};
use super::progress::Dropped;
use super::remote::shards_of;
use super::repo::Repo;
use super::request::{Described, is_plain, is_undescribed};
use crate::checkpoint::{CONFIG_FILE, ShardIndex, WEIGHTS_NAMES};
use crate::error::{FetchError, HubError, Result};

/// Files of one commit, in the cache.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// The folder that holds them, which [`Checkpoint::open`](crate::checkpoint::Checkpoint::open) opens.
    pub folder: PathBuf,
    /// The commit.
    pub commit: String,
    /// How many bytes of files were fetched; 0 if all were in the cache.
    pub n_bytes_fetched: u64,
    /// The broken entries that were removed from the cache.
    pub dropped: Vec<Dropped>,
    /// Why the server did not describe a file, if what the cache has of the revision was used instead.
    pub undescribed: Option<Arc<FetchError>>,
}

/// # Download
///
/// Downloads lie where huggingface_hub keeps them, so that Python's programs use the same files, also at the same time.
/// A download that was cut goes on where it ended. A file is put in its place once it has the length and the hash that
/// the hub states; where the hub states no hash, once its header can be read. All files of a call are of one commit.
///
/// As in huggingface_hub, the cache stands in for a server that cannot be reached, takes too long, answers with an error
/// or is no hub: [`Snapshot::undescribed`] says why. Not so if the revision does not exist.
impl Repo {
    /// Downloads files that the repository must have.
    ///
    /// ```no_run
    /// use candle_gpt_input::hub::Repo;
    ///
    /// let snapshot = Repo::from_env("openai-community/gpt2")?.download(&["vocab.json", "merges.txt"])?;
    /// assert!(snapshot.folder.join("merges.txt").is_file());
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`HubError::Fetch`] if a file cannot be fetched, does not exist, or is not what the server announced
    /// - [`HubError::NotCached`] if the server describes no file, and the cache lacks one
    /// - [`HubError::Offline`] if only the cache is to be used and lacks one
    /// - [`HubError::NoCache`] without a cache, [`HubError::FileName`] for a name that leads out of the repository
    pub fn download(&self, files: &[&str]) -> Result<Snapshot> {
        self.session(|session| {
            for file in files {
                session.bring_existing(file)?;
            }
            Ok(())
        })
    }

    /// Downloads those of the files that the repository has.
    ///
    /// # Errors
    /// Those of [`download`](Self::download), except for files that do not exist.
    pub fn download_existing(&self, files: &[&str]) -> Result<Snapshot> {
        self.session(|session| {
            for file in files {
                session.bring(file)?;
            }
            Ok(())
        })
    }

    /// Downloads all weights, and `config.json`.
    ///
    /// The weights are `model.safetensors`, else all shards that its index names, else `pytorch_model.bin` or its
    /// shards.
    ///
    /// # Errors
    /// - those of [`download`](Self::download)
    /// - [`HubError::NoWeights`] if the repository has none of these
    /// - [`CheckpointError`](crate::error::CheckpointError) if an index cannot be read
    pub fn download_weights(&self) -> Result<Snapshot> {
        self.session(|session| session.bring_weights(false))
    }

    /// Downloads the weights that hold the input tables, and `config.json`: of several shards one or two.
    ///
    /// ```no_run
    /// use candle_core::{DType, Device};
    /// use candle_gpt_input::GptInputLayer;
    /// use candle_gpt_input::checkpoint::Checkpoint;
    /// use candle_gpt_input::hub::Repo;
    /// use candle_gpt_input::input_layer::{OpenOptions, TableStorage};
    ///
    /// let snapshot = Repo::from_env("openai-community/gpt2")?.with_revision("main")?.download_input_tables()?;
    /// let options = OpenOptions::new(DType::F32, &Device::Cpu).with_storage(TableStorage::Mapped);
    /// let (layer, report) = GptInputLayer::open(&Checkpoint::open(&snapshot.folder)?, &options)?;
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`download_weights`](Self::download_weights), and [`HubError::NoInputTables`] if an index names no
    /// input tables.
    pub fn download_input_tables(&self) -> Result<Snapshot> {
        self.session(|session| session.bring_weights(true))
    }

    /// Downloads what `work` asks for, and then lets the revision name the commit.
    fn session(&self, work: impl FnOnce(&mut Session) -> Result<()>) -> Result<Snapshot> {
        let cache = self.cache.as_deref().ok_or(HubError::NoCache)?;
        let layout = Layout::new(cache, &self.name);
        let download = Download {
            client: &self.client,
            layout: &layout,
            listener: &self.listener,
            with_links: self.with_links,
            again: self.again,
            n_bytes_fetched: 0,
            dropped: Vec::new(),
        };
        let mut session = Session { repo: self, download, commit: None, undescribed: None, is_down: false };
        work(&mut session)?;
        let Session { commit, undescribed, download: Download { n_bytes_fetched, dropped, .. }, .. } = session;
        let commit = commit.or_else(|| layout.commit_of(&self.revision));
        let commit = commit.ok_or_else(|| HubError::NothingFetched { url: self.url("") })?;
        let folder = layout.snapshot(&commit);
        if !self.offline && folder.is_dir() {
            let written = layout.write_ref(&self.revision, &commit);
            // A cache that has all files may be one that cannot be written.
            if n_bytes_fetched > 0 {
                written.map_err(|source| self.failed("", FetchError::Cache { path: layout.folder(), source }))?;
            }
        }
        Ok(Snapshot { folder, commit, n_bytes_fetched, dropped, undescribed })
    }

    fn failed(&self, file: &str, source: FetchError) -> HubError {
        HubError::Fetch { url: self.url(file), source }
    }
}

/// One download of several files.
struct Session<'a> {
    repo: &'a Repo,
    download: Download<'a>,
    /// The commit of the files so far. The next ones are of the same.
    commit: Option<String>,
    /// Why the cache was used without the server.
    undescribed: Option<Arc<FetchError>>,
    /// Whether the server described no file in all tries.
    is_down: bool,
}

/// What is known of a file.
enum Known {
    /// What the server says, and of which commit. `None`: it has no such file.
    Described(Option<Described>, Option<String>),
    /// The path in the cache, and why the server does not describe it. `None`: the cache notes that it does not exist.
    Cached(Option<PathBuf>, FetchError),
}

impl Session<'_> {
    fn bring_existing(&mut self, file: &str) -> Result<PathBuf> {
        let brought = self.bring(file)?;
        Ok(brought.ok_or_else(|| self.repo.failed(file, FetchError::NotFound))?)
    }

    /// Brings a file into the cache and returns its path; `None` if the repository lacks it.
    fn bring(&mut self, file: &str) -> Result<Option<PathBuf>, HubError> {
        if !is_file_name(file) {
            return Err(HubError::FileName { file: file.to_string() });
        }
        if self.repo.offline || self.is_down {
            return self.cached(file);
        }
        // A commit does not change, and a server that has not answered is not waited for again.
        let is_undescribed = self.undescribed.is_some();
        if (is_commit(&self.repo.revision) || is_undescribed)
            && !self.repo.again
            && let Ok(found) = self.cached(file)
            && (found.is_some() || is_undescribed)
        {
            return Ok(found);
        }
        let url = self.repo.url_in(self.commit.as_deref().unwrap_or(&self.repo.revision), file);
        let failed = |source| HubError::Fetch { url: url.clone(), source };
        let (described, commit) = match self.known(&url, file)? {
            Known::Described(described, commit) => (described, commit),
            Known::Cached(path, error) => {
                self.undescribed.get_or_insert(error.into());
                return Ok(path);
            }
        };
        if let (Some(was), Some(is)) = (&self.commit, &commit)
            && was != is
        {
            return Err(failed(FetchError::Changed { was: format!("commit {was}"), is: format!("commit {is}") }));
        }
        self.commit = commit.or(self.commit.take());
        let Some(described) = described else {
            if let Some(commit) = &self.commit {
                // A cache works without this note.
                let _ = self.download.layout.write_no_exist(commit, file);
            }
            return Ok(None);
        };
        if file.ends_with(".json") && described.n_bytes > MAX_TEXT_BYTES {
            return Err(failed(FetchError::TooLarge { max_bytes: MAX_TEXT_BYTES }));
        }
        self.download.bring(&url, file, &described).map_err(failed)?;
        Ok(Some(self.download.layout.pointer(&described.commit, file)))
    }

    /// Asks the server for a file, and the cache where the server does not describe it.
    fn known(&mut self, url: &str, file: &str) -> Result<Known, HubError> {
        let client = &self.repo.client;
        let asked = client.tried(&AtomicUsize::new(0), || match client.requests.about(url) {
            Ok((described, commit)) => Ok(Known::Described(described, commit)),
            Err(failure) if !self.repo.again && is_undescribed(failure.error()) => match self.cached(file) {
                Ok(path) => Ok(Known::Cached(path, failure.into())),
                Err(_) => Err(failure),
            },
            Err(failure) => Err(failure),
        });
        asked.map_err(|failure| {
            let source = FetchError::from(failure);
            if self.repo.again || !is_undescribed(&source) {
                return HubError::Fetch { url: url.to_string(), source };
            }
            (self.undescribed, self.is_down) = (Some(source.into()), true);
            self.not_cached(file)
        })
    }

    fn not_cached(&self, file: &str) -> HubError {
        match (&self.undescribed, &self.repo.cache) {
            (Some(source), Some(cache)) if self.is_down => {
                HubError::NotCached { url: self.repo.url(file), cache: cache.clone(), source: source.clone() }
            }
            _ => self.repo.not_cached(file),
        }
    }

    /// Looks for a file in the cache alone. `None` if the cache notes that the repository lacks it.
    fn cached(&mut self, file: &str) -> Result<Option<PathBuf>, HubError> {
        let layout = self.download.layout;
        let commit = self.commit.clone().or_else(|| layout.commit_of(&self.repo.revision));
        let commit = commit.ok_or_else(|| self.not_cached(file))?;
        let path = layout.pointer(&commit, file);
        if fs::symlink_metadata(&path).is_err() {
            if !layout.no_exist(&commit, file).is_file() {
                return Err(self.not_cached(file));
            }
            self.commit = Some(commit);
            return Ok(None);
        }
        let etag = fs::read_link(&path).ok().and_then(|to| Some(to.file_name()?.to_string_lossy().into_owned()));
        let failed = |source| self.repo.failed(file, source);
        match fault_of_cached(&path, file, etag.as_deref(), None).map_err(|error| failed(at(&path)(error)))? {
            None => {
                self.commit = Some(commit);
                Ok(Some(path))
            }
            Some(reason) => {
                // What a link leads to outside the cache is not removed.
                let content = etag.filter(|etag| is_plain(etag)).map(|etag| layout.blob(&etag));
                for entry in content.iter().chain([&path]) {
                    if fs::symlink_metadata(entry).is_ok() {
                        let dropped = self.download.drop_entry(entry, reason.clone());
                        dropped.map_err(|source| self.repo.failed(file, source))?;
                    }
                }
                Err(HubError::Broken { path, reason })
            }
        }
    }

    /// Brings the configuration, and the weights or those shards that hold the input tables.
    fn bring_weights(&mut self, only_input_tables: bool) -> Result<()> {
        self.bring(CONFIG_FILE)?;
        let mut missing = None;
        for name in WEIGHTS_NAMES {
            match self.bring(name) {
                Ok(Some(path)) if name.ends_with(".json") => return self.bring_shards(&path, only_input_tables),
                Ok(Some(_)) => return Ok(()),
                Ok(None) => {}
                // Without the network, any of the names may be in the cache.
                Err(error @ (HubError::Offline { .. } | HubError::NotCached { .. })) => {
                    missing = missing.or(Some(error));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(missing.unwrap_or_else(|| HubError::NoWeights { url: self.repo.url("") }).into())
    }

    fn bring_shards(&mut self, index: &Path, only_input_tables: bool) -> Result<()> {
        let index = ShardIndex::open(index)?;
        for shard in shards_of(&index, only_input_tables, &self.repo.url(""))? {
            self.bring_existing(shard)?;
        }
        Ok(())
    }
}

/// Returns whether a revision is a whole commit.
fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
