//! A repository of the Hugging Face Hub: weights are read by ranges, texts whole.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::file::{Client, RemoteFile};
use crate::checkpoint::{INDEX_FILE, ShardIndex, WEIGHTS_FILE};
use crate::error::{Error, FetchError, HubError, Result};

const ENDPOINT: &str = "https://huggingface.co";
/// Well above the size of any known configuration, index or tokenizer.
const MAX_TEXT_BYTES: u64 = 64 << 20;

/// Reads the branch `main` of a model repository on the Hugging Face Hub, or on a server with the same URLs.
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
    client: Client,
    /// The URL of its files, without a trailing slash.
    url: String,
}

impl Repo {
    /// Names a repository on a server. Fetches nothing.
    ///
    /// # Errors
    /// [`HubError::RepoName`] unless `name` is one word, or two with a slash between, of letters, digits, `-`, `_` and
    /// `.`.
    pub fn new(client: Client, endpoint: &str, name: &str) -> Result<Self> {
        let is_word = |word: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !word.is_empty() && word.chars().all(known) && !word.chars().all(|c| c == '.')
        };
        if name.split('/').count() > 2 || !name.split('/').all(is_word) {
            return Err(HubError::RepoName { name: name.to_string() }.into());
        }
        Ok(Self { client, url: format!("{}/{name}/resolve/main", endpoint.trim_end_matches('/')) })
    }

    /// Names a repository as huggingface_hub would find it. Fetches nothing.
    ///
    /// Reads three environment variables:
    /// - `HF_ENDPOINT`: the server; huggingface.co if it is not set
    /// - `HF_TOKEN`: the access token; if it is not set, the file `token` in `HF_HOME`
    /// - `HF_HOME`: the folder of the token and of the cached ranges (`hub/ranges`); `~/.cache/huggingface` if it is
    ///   not set
    ///
    /// # Errors
    /// [`HubError::RepoName`], as for [`new`](Self::new).
    pub fn from_env(name: &str) -> Result<Self> {
        let variable = |name| std::env::var(name).ok().map(|value| value.trim().to_string()).filter(|v| !v.is_empty());
        let home = variable("HF_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(std::env::home_dir()?.join(".cache").join("huggingface")));
        let saved = || Some(std::fs::read_to_string(home.as_ref()?.join("token")).ok()?.trim().to_string());
        let mut client = Client::new();
        if let Some(token) = variable("HF_TOKEN").or_else(saved).filter(|token| !token.is_empty()) {
            client = client.with_token(&token);
        }
        if let Some(home) = &home {
            client = client.with_cache(home.join("hub").join("ranges"));
        }
        Self::new(client, variable("HF_ENDPOINT").as_deref().unwrap_or(ENDPOINT), name)
    }

    /// Returns the URL of a file.
    pub fn url(&self, file: &str) -> String {
        format!("{}/{file}", self.url)
    }

    /// Reads a text file of at most 64 MiB, such as `config.json`. Returns `None` if the repository lacks it.
    ///
    /// # Errors
    /// [`HubError::Fetch`].
    pub fn text(&self, file: &str) -> Result<Option<String>> {
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

    /// Opens the weights: `model.safetensors`, or all shards that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// - [`HubError::NoWeights`] if the repository has neither file
    /// - [`HubError::Fetch`] if a file cannot be fetched
    /// - [`CheckpointError`](crate::error::CheckpointError) if the index cannot be read
    pub fn weights(&self) -> Result<Vec<RemoteFile>> {
        self.files(|index| Ok(index.shards()))
    }

    /// Opens only the weights that hold the input tables: `model.safetensors`, or one or two shards.
    ///
    /// # Errors
    /// The errors of [`weights`](Self::weights), and [`HubError::NoInputTables`] if the index names no input tables.
    pub fn input_tables(&self) -> Result<Vec<RemoteFile>> {
        self.files(|index| {
            let shards = index.shards_of_input_tables();
            match shards.is_empty() {
                true => Err(HubError::NoInputTables { url: self.url(INDEX_FILE) }),
                false => Ok(shards),
            }
        })
    }

    fn files(&self, wanted: impl Fn(&ShardIndex) -> Result<BTreeSet<&str>, HubError>) -> Result<Vec<RemoteFile>> {
        if let Some(file) = if_there(self.client.open(&self.url(WEIGHTS_FILE)))? {
            return Ok(vec![file]);
        }
        let Some(index) = self.text(INDEX_FILE)? else {
            return Err(HubError::NoWeights { url: self.url.clone() }.into());
        };
        let index = ShardIndex::parse(Path::new(&self.url(INDEX_FILE)), &index)?;
        wanted(&index)?.into_iter().map(|shard| self.client.open(&self.url(shard))).collect()
    }
}

/// Turns the error for a missing file into `None`.
fn if_there<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(Error::Hub(HubError::Fetch { source: FetchError::NotFound, .. })) => Ok(None),
        result => result.map(Some),
    }
}
