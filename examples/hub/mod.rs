//! Downloads a model, or what the input layer needs of it, from the Hugging Face Hub (feature `hub`); or opens its weights
//! where they are.

#[cfg(feature = "hub")]
pub mod cache;
#[cfg(feature = "hub")]
pub mod remote;
#[cfg(feature = "hub")]
pub mod request;

use std::path::{Path, PathBuf};

use anyhow::Result;

/// What of a repository is wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(dead_code)] // each example wants one of them
pub enum Wanted {
    /// `config.json` and the weights; of a sharded model only the shards with the input tables.
    InputTables,
    /// `config.json`, all weights and, if there is one, `tokenizer.json`.
    Model,
}

/// Downloads what is wanted of `repo`, and returns its folder. Honours `HF_ENDPOINT`, `HF_HOME` and the token of
/// `hf auth login`; what is there already is not downloaded again, and what was cut short goes on where it stopped.
#[cfg(feature = "hub")]
pub fn download(repo: &str, wanted: Wanted) -> Result<PathBuf> {
    use anyhow::{Context, bail};
    use candle_gpt_input::checkpoint::ShardIndex;

    let repo = hf_hub::api::sync::ApiBuilder::from_env().build()?.model(repo.to_string());
    fetch(&repo, "config.json")?;
    if wanted == Wanted::Model {
        fetch(&repo, "tokenizer.json")?;
    }
    let weights = match fetch(&repo, "model.safetensors")? {
        Some(file) => file,
        None => {
            let Some(index) = fetch(&repo, "model.safetensors.index.json")? else {
                bail!("{} has neither model.safetensors nor model.safetensors.index.json", repo.url(""));
            };
            let shards = ShardIndex::open(&index)?;
            let names = if wanted == Wanted::Model { shards.shards() } else { shards.shards_of_input_tables() };
            for shard in names {
                fetch(&repo, shard)?.with_context(|| format!("{} is missing", repo.url(shard)))?;
            }
            index
        }
    };
    Ok(weights.parent().context("a file has a folder")?.to_path_buf())
}

/// The weights of a repository where they are, and its configuration, which is downloaded.
#[cfg(feature = "hub")]
#[allow(dead_code)] // by `embed` alone
pub struct Remote {
    file: std::sync::Arc<remote::RemoteFile>,
    config: Option<PathBuf>,
}

#[cfg(feature = "hub")]
#[allow(dead_code)] // by `embed` alone
impl Remote {
    /// Asks for the length of `model.safetensors`, or, of a sharded model, of the shard that holds both input tables.
    ///
    /// What is fetched is kept in the folder `ranges` of the hub's cache.
    pub fn open(repo: &str) -> Result<Self> {
        use anyhow::{Context, bail};
        use candle_gpt_input::checkpoint::ShardIndex;
        use request::RemoteError;

        let cache = hf_hub::Cache::from_env();
        let (token, ranges) = (cache.token(), cache.path().join("ranges"));
        let repo = hf_hub::api::sync::ApiBuilder::from_env().build()?.model(repo.to_string());
        let open = |name: &str| remote::RemoteFile::open(&repo.url(name), token.as_deref(), Some(&ranges));
        let config = fetch(&repo, "config.json")?;
        let mut name = "model.safetensors".to_string();
        let mut file = open(&name);
        if let Err(RemoteError::NotFound) = file {
            let Some(index) = fetch(&repo, "model.safetensors.index.json")? else {
                bail!("{} has neither model.safetensors nor model.safetensors.index.json", repo.url(""));
            };
            let index = ShardIndex::open(&index)?;
            let shards: Vec<&str> = index.shards_of_input_tables().into_iter().collect();
            let [shard] = shards[..] else {
                bail!("{}: {} shards hold the input tables: leave out --remote", repo.url(""), shards.len());
            };
            name = shard.to_string();
            file = open(&name);
        }
        Ok(Self { file: file.with_context(|| repo.url(&name))?.into(), config })
    }

    /// Where its configuration lies on this machine.
    pub fn folder(&self) -> Option<&Path> {
        self.config.as_deref()?.parent()
    }

    /// Its header is fetched.
    pub fn checkpoint(&self) -> Result<candle_gpt_input::checkpoint::Checkpoint> {
        Ok(candle_gpt_input::checkpoint::Checkpoint::from_ranges(self.file.clone(), self.config.as_deref())?)
    }

    /// What it took so far, in words.
    pub fn fetched(&self) -> String {
        use candle_gpt_input::checkpoint::ByteRanges;

        let (n_requests, n_bytes) = self.file.fetched();
        format!("fetched {n_bytes} of {} bytes in {n_requests} requests", self.file.n_bytes())
    }
}

/// One file, or `None` if the repository does not have it. Each try begins where the last one was cut.
#[cfg(feature = "hub")]
fn fetch(repo: &hf_hub::api::sync::ApiRepo, name: &str) -> Result<Option<PathBuf>> {
    use anyhow::Context;

    const TRIES: u32 = 4;
    let mut tried = 0;
    loop {
        match repo.get(name) {
            Ok(path) => return Ok(Some(path)),
            Err(error) if error.to_string().contains("status: 404") => return Ok(None),
            Err(error) => {
                tried += 1;
                if tried == TRIES {
                    return Err(error).with_context(|| format!("cannot download {}", repo.url(name)));
                }
                std::thread::sleep(std::time::Duration::from_millis(100 << tried));
            }
        }
    }
}

/// Without the feature: how to get it.
#[cfg(not(feature = "hub"))]
pub fn download(repo: &str, _: Wanted) -> Result<PathBuf> {
    let endpoint = std::env::var("HF_ENDPOINT").unwrap_or_else(|_| "https://huggingface.co".to_string());
    anyhow::bail!(
        "--hub needs a build with `--features hub`; or put {endpoint}/{repo}/resolve/main/model.safetensors and \
         config.json into a folder by hand and pass it as --weights"
    )
}

/// Without the feature nothing is opened.
#[cfg(not(feature = "hub"))]
#[allow(dead_code)] // by `embed` alone, here too
pub enum Remote {}

#[cfg(not(feature = "hub"))]
#[allow(dead_code)] // by `embed` alone, here too
impl Remote {
    pub fn open(repo: &str) -> Result<Self> {
        download(repo, Wanted::InputTables).and_then(|_| anyhow::bail!("--remote needs a build with `--features hub`"))
    }

    pub fn folder(&self) -> Option<&Path> {
        match *self {}
    }

    pub fn checkpoint(&self) -> Result<candle_gpt_input::checkpoint::Checkpoint> {
        match *self {}
    }

    pub fn fetched(&self) -> String {
        match *self {}
    }
}
