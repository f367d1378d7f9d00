//! [`Repo`]: a repository of the Hugging Face Hub, and how its files are fetched.

use std::path::PathBuf;
use std::sync::Arc;

use super::address::encoded;
use super::environment::Environment;
use super::file::Client;
use super::layout::is_file_name;
use super::progress::{Listener, Progress};
use crate::error::{HubError, Result};

const MAIN: &str = "main";

/// Opens or downloads the files of a model repository on the Hugging Face Hub, or on a server with the same URLs.
///
/// ```
/// use candle_gpt_input::hub::{Client, Repo};
///
/// let repo = Repo::new(Client::new(), "https://huggingface.co/", "openai-community/gpt2")?;
/// assert_eq!(repo.url("config.json"), "https://huggingface.co/openai-community/gpt2/resolve/main/config.json");
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Repo {
    pub(super) client: Client,
    endpoint: String,
    pub(super) name: String,
    pub(super) revision: String,
    /// The folder of huggingface_hub's cache.
    pub(super) cache: Option<PathBuf>,
    pub(super) offline: bool,
    pub(super) again: bool,
    pub(super) with_links: bool,
    pub(super) listener: Listener,
}

impl Repo {
    /// Names a repository on a server. Fetches nothing.
    ///
    /// Downloads need a cache: [`with_cache`](Self::with_cache).
    ///
    /// # Errors
    /// [`HubError::RepoName`] unless `name` is one word, or two with a slash between, of letters, digits, `-`, `_` and
    /// `.`, without `--` and `..`.
    pub fn new(client: Client, endpoint: &str, name: &str) -> Result<Self> {
        let is_word = |word: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !word.is_empty() && word.chars().all(known) && word != "."
        };
        let is_name = name.len() <= 96 && name.split('/').count() <= 2 && name.split('/').all(is_word);
        // The cache writes `--` for the slash.
        if !is_name || name.contains("--") || name.contains("..") {
            return Err(HubError::RepoName { name: name.to_string() }.into());
        }
        let (endpoint, name) = (endpoint.trim_end_matches('/').to_string(), name.to_string());
        let (revision, listener) = (MAIN.to_string(), Listener::default());
        Ok(Self {
            client,
            endpoint,
            name,
            revision,
            cache: None,
            offline: false,
            again: false,
            with_links: true,
            listener,
        })
    }

    /// Names a repository as huggingface_hub would find it. Fetches nothing.
    ///
    /// These environment variables count:
    ///
    /// | variable | says |
    /// | --- | --- |
    /// | `HF_ENDPOINT` | the server; huggingface.co if it is not set |
    /// | `HF_HUB_CACHE`, or `HUGGINGFACE_HUB_CACHE` | the folder of downloads; `hub` in `HF_HOME` if neither is set |
    /// | `HF_ASSETS_CACHE` | the folder of ranges, in `candle-gpt-input`; `assets` in `HF_HOME` if it is not set |
    /// | `HF_HOME` | `huggingface` in `XDG_CACHE_HOME` if it is not set |
    /// | `XDG_CACHE_HOME` | `~/.cache` if it is not set |
    /// | `HF_TOKEN`, or `HUGGING_FACE_HUB_TOKEN` | the access token; if neither is set, the text of `HF_TOKEN_PATH` |
    /// | `HF_TOKEN_PATH` | a file; `token` in `HF_HOME` if it is not set |
    /// | `HF_HUB_DISABLE_IMPLICIT_TOKEN` | with `1`, no token is sent |
    /// | `HF_HUB_OFFLINE`, or `TRANSFORMERS_OFFLINE` | with `1`, only what is in the cache is used |
    /// | `HF_HUB_DISABLE_SYMLINKS` | with `1`, files are copied in the cache, not linked |
    ///
    /// For `1` one may write `ON`, `YES` or `TRUE`. A variable without text counts as not set.
    ///
    /// # Errors
    /// [`HubError::RepoName`], as for [`new`](Self::new).
    pub fn from_env(name: &str) -> Result<Self> {
        let environment = Environment::of_process();
        let mut client = Client::new();
        if let Some(token) = environment.token() {
            client = client.with_token(&token);
        }
        if let Some(ranges) = environment.ranges() {
            client = client.with_cache(ranges);
        }
        let mut repo = Self::new(client, &environment.endpoint(), name)?;
        repo.cache = environment.cache();
        repo.offline = environment.is_offline();
        repo.with_links = environment.has_links();
        Ok(repo)
    }

    /// Chooses a branch, a tag or a commit. The default is the branch `main`.
    ///
    /// ```
    /// use candle_gpt_input::hub::{Client, Repo};
    ///
    /// let repo = Repo::new(Client::new(), "https://huggingface.co", "gpt2")?.with_revision("refs/pr/1")?;
    /// assert_eq!(repo.url("config.json"), "https://huggingface.co/gpt2/resolve/refs%2Fpr%2F1/config.json");
    /// assert!(repo.with_revision("../main").is_err());
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`HubError::Revision`] for a name that no revision can have.
    pub fn with_revision(mut self, revision: &str) -> Result<Self> {
        if !is_file_name(revision) {
            return Err(HubError::Revision { revision: revision.to_string() }.into());
        }
        self.revision = revision.to_string();
        Ok(self)
    }

    /// Sets the folder of downloads, in huggingface_hub's layout.
    #[must_use]
    pub fn with_cache(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache = Some(folder.into());
        self
    }

    /// Sets whether only the cache is used.
    #[must_use]
    pub fn with_offline(mut self, offline: bool) -> Self {
        self.offline = offline;
        self
    }

    /// Sets whether downloads fetch again what is in the cache, as for a server that sent wrong bytes.
    #[must_use]
    #[doc(alias = "force_download")]
    pub fn with_force_download(mut self, again: bool) -> Self {
        self.again = again;
        self
    }

    /// Sets whether snapshots link to the files of the cache, or hold copies. Where links cannot be made they hold
    /// copies anyhow.
    #[must_use]
    pub fn with_symlinks(mut self, with_links: bool) -> Self {
        self.with_links = with_links;
        self
    }

    /// Calls `listener` while files are downloaded. The library itself prints nothing.
    ///
    /// ```no_run
    /// use candle_gpt_input::hub::{Progress, Repo};
    ///
    /// let repo = Repo::from_env("openai-community/gpt2")?.with_progress(|progress| {
    ///     if let Progress::Fetched { file, n_done, n_bytes } = progress {
    ///         eprint!("\r{file}: {} %", 100 * n_done / n_bytes.max(1));
    ///     }
    /// });
    /// let snapshot = repo.download_weights()?;
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    #[must_use]
    pub fn with_progress(mut self, listener: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.listener = Listener(Some(Arc::new(listener)));
        self
    }

    /// Returns the URL of a file.
    pub fn url(&self, file: &str) -> String {
        self.url_in(&self.revision, file)
    }

    pub(super) fn url_in(&self, revision: &str, file: &str) -> String {
        format!("{}/{}/resolve/{}/{}", self.endpoint, self.name, encoded(revision, ""), encoded(file, "/"))
    }
}
