//! Downloads a model, or what the input layer needs of it, from the Hugging Face Hub (feature `hub`).

use std::path::PathBuf;

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
