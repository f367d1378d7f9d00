//! Opens what `--hub REPO` names (feature `hub`): downloaded, or with `--remote` by ranges.

#![allow(dead_code)] // `gpt2` and `pretrain` leave nothing remote

use std::path::{Path, PathBuf};

use anyhow::Result;
use candle_gpt_input::checkpoint::{Checkpoint, CheckpointOptions};
#[cfg(feature = "hub")]
use candle_gpt_input::tokenizer::TOKENIZER_FILES;
use serde::{Deserialize, Serialize};

/// A repository to open instead of weights here.
#[derive(clap::Args, Clone, Debug, Default, Deserialize, Serialize)]
pub struct Source {
    /// A model on the Hugging Face Hub, such as openai-community/gpt2 (feature `hub`), downloaded once
    #[arg(long, value_name = "REPO", group = "model")]
    pub hub: Option<String>,
    /// A branch, a tag or a commit of that repository [default: main]
    #[arg(long, value_name = "REV", requires = "hub")]
    revision: Option<String>,
}

impl Source {
    /// Returns the folder of the downloaded model, or else `weights`. Ids need no tokenizer.
    pub fn folder(&self, weights: &Path, only_input_tables: bool, with_tokenizer: bool) -> Result<PathBuf> {
        match &self.hub {
            Some(name) => download(name, self.revision.as_deref(), only_input_tables, with_tokenizer),
            None => Ok(weights.to_path_buf()),
        }
    }
}

#[cfg(feature = "hub")]
fn repo(name: &str, revision: Option<&str>) -> Result<candle_gpt_input::hub::Repo> {
    let repo = candle_gpt_input::hub::Repo::from_env(name)?;
    Ok(if let Some(revision) = revision { repo.with_revision(revision)? } else { repo })
}

/// Says on stderr why the cache was used without the server, if it was.
#[cfg(feature = "hub")]
fn warn(snapshot: &candle_gpt_input::hub::Snapshot) {
    if let Some(error) = &snapshot.undescribed {
        let error = anyhow::Error::new(error.clone());
        crate::cli::note(format_args!("using what the cache has (commit {}): {error:#}", snapshot.commit));
    }
}

/// Downloads weights, configuration and tokenizer into the hub's cache. Shows the progress on a terminal.
#[cfg(feature = "hub")]
fn download(name: &str, revision: Option<&str>, only_input_tables: bool, with_tokenizer: bool) -> Result<PathBuf> {
    use std::io::{IsTerminal, Write, stderr};

    use candle_gpt_input::error::Shown;
    use candle_gpt_input::hub::Progress;

    use crate::cli::note;

    let is_terminal = stderr().is_terminal();
    let repo = repo(name, revision)?.with_progress(move |progress| match progress {
        Progress::Fetched { file, n_done, n_bytes } if is_terminal => {
            let end = if n_done == n_bytes { "\n" } else { "" };
            let _ = write!(stderr(), "\r{file}: {n_done} of {n_bytes} bytes{end}");
        }
        Progress::Waiting { lock } => {
            note(format_args!("another process downloads this too: waiting for {}", Shown::path(&lock)))
        }
        Progress::Dropped(dropped) => note(dropped),
        _ => {}
    });
    let snapshot = if only_input_tables { repo.download_input_tables()? } else { repo.download_weights()? };
    warn(&snapshot);
    if with_tokenizer {
        // The same commit, whatever the branch has become meanwhile.
        repo.with_revision(&snapshot.commit)?.download_existing(&TOKENIZER_FILES)?;
    }
    Ok(snapshot.folder)
}

/// A repository's weights, which stay remote.
pub struct Remote {
    pub checkpoint: Checkpoint,
    /// Says how much of the files has been fetched.
    pub fetched: Box<dyn Fn() -> String>,
}

/// Opens the weights of a repository by ranges, or only the files that hold the input tables.
#[cfg(feature = "hub")]
pub fn open(source: &Source, only_input_tables: bool, options: CheckpointOptions) -> Result<Remote> {
    use std::sync::Arc;

    use anyhow::Context;
    use candle_gpt_input::checkpoint::ByteRanges;
    use candle_gpt_input::hub::RemoteFile;

    let repo = repo(source.hub.as_deref().context("--remote needs --hub")?, source.revision.as_deref())?;
    let files = if only_input_tables { repo.input_tables()? } else { repo.weights()? };
    let files: Vec<Arc<RemoteFile>> = files.into_iter().map(Arc::new).collect();
    let checkpoint = repo.open_remote(&files, options)?;
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

/// Downloads a repository's tokenizer alone, and returns the folder.
#[cfg(feature = "hub")]
pub fn tokenizer_folder(source: &Source) -> Result<PathBuf> {
    let repo = repo(source.hub.as_deref().unwrap_or_default(), source.revision.as_deref())?;
    let snapshot = repo.download_existing(&TOKENIZER_FILES)?;
    warn(&snapshot);
    Ok(snapshot.folder)
}

/// Fails without the feature, and says how to get it.
#[cfg(not(feature = "hub"))]
fn download(name: &str, _: Option<&str>, _: bool, _: bool) -> Result<PathBuf> {
    let endpoint = std::env::var("HF_ENDPOINT").unwrap_or_else(|_| "https://huggingface.co".to_string());
    anyhow::bail!(
        "--hub needs a build with `--features hub`; or put {endpoint}/{name}/resolve/main/model.safetensors and \
         config.json into a folder by hand and pass that"
    )
}

/// Fails without the feature, as `download` does.
#[cfg(not(feature = "hub"))]
pub fn open(source: &Source, _: bool, _: CheckpointOptions) -> Result<Remote> {
    Err(download(source.hub.as_deref().unwrap_or_default(), None, true, false).unwrap_err())
}

/// Never runs: `open` fails first.
#[cfg(not(feature = "hub"))]
pub fn tokenizer_folder(source: &Source) -> Result<PathBuf> {
    download(source.hub.as_deref().unwrap_or_default(), None, true, true)
}
