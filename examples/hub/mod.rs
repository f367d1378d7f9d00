//! Opens what `--hub REPO` names (feature `hub`): the weights by ranges, configuration and tokenizer whole.

use anyhow::Result;
use candle_gpt_input::checkpoint::{Checkpoint, CheckpointOptions};
use candle_gpt_input::tokenizer::Tokenizer;

/// A repository's weights, which stay remote.
pub struct Remote {
    pub checkpoint: Checkpoint,
    /// Says how much of the files has been fetched.
    pub fetched: Box<dyn Fn() -> String>,
}

/// Opens the weights of a repository, or only the files that hold the input tables.
#[cfg(feature = "hub")]
pub fn open(repo: &str, only_input_tables: bool, mut options: CheckpointOptions) -> Result<Remote> {
    use std::sync::Arc;

    use candle_gpt_input::checkpoint::ByteRanges;
    use candle_gpt_input::hub::{RemoteFile, Repo};

    let repo = Repo::from_env(repo)?;
    let files = if only_input_tables { repo.input_tables()? } else { repo.weights()? };
    let files: Vec<Arc<RemoteFile>> = files.into_iter().map(Arc::new).collect();
    let shards = files.iter().map(|file| file.clone() as Arc<dyn ByteRanges>).collect();
    options.config_json = repo.text("config.json")?;
    let checkpoint = Checkpoint::from_shards(shards, &options)?;
    let fetched = move || {
        let (n_requests, n_bytes) = files.iter().fold((0, 0), |(n_requests, n_bytes), file| {
            let (more_requests, more_bytes) = file.fetched();
            (n_requests + more_requests, n_bytes + more_bytes)
        });
        let all: u64 = files.iter().map(|file| file.n_bytes()).sum();
        format!("fetched {n_bytes} of {all} bytes in {n_requests} requests")
    };
    Ok(Remote { checkpoint, fetched: Box::new(fetched) })
}

/// Returns the tokenizer of a repository, or else GPT-2's.
#[cfg(feature = "hub")]
pub fn tokenizer(repo: &str) -> Result<Tokenizer> {
    use candle_gpt_input::hub::Repo;

    Ok(match Repo::from_env(repo)?.text("tokenizer.json")? {
        Some(text) => Tokenizer::from_json(&text)?,
        None => Tokenizer::gpt2().clone(),
    })
}

/// Fails without the feature, and says how to get it.
#[cfg(not(feature = "hub"))]
pub fn open(repo: &str, _: bool, _: CheckpointOptions) -> Result<Remote> {
    let endpoint = std::env::var("HF_ENDPOINT").unwrap_or_else(|_| "https://huggingface.co".to_string());
    anyhow::bail!(
        "--hub needs a build with `--features hub`; or put {endpoint}/{repo}/resolve/main/model.safetensors and \
         config.json into a folder by hand and pass it as --weights"
    )
}

/// Never runs: `open` fails first.
#[cfg(not(feature = "hub"))]
pub fn tokenizer(repo: &str) -> Result<Tokenizer> {
    anyhow::bail!("{repo}: --hub needs a build with `--features hub`")
}
