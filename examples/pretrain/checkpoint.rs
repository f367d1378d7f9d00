//! Checkpoints: everything that a run needs to continue, in a folder that appears whole or not at all.
//!
//! `OUT/step-N/` holds the weights as a Hugging Face folder (`model.safetensors`, `config.json`), and beside them
//! `optimizer.safetensors`, `loader.json` (the state of the loader and of the one generator), `settings.json` and
//! `loss.csv`. It is written as `OUT/partial`, each file synced to disk, and then renamed; older ones are removed
//! afterwards. So the folder of the highest N is complete at any moment.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::{DType, Tensor};
use candle_gpt_input::checkpoint::save_tensors;
use candle_gpt_input::data::{Loader, LoaderState};
use candle_gpt_input::error::Shown;

use crate::history::{self, Record};
use crate::settings::Settings;
use crate::trainer::Trainer;

const PARTIAL: &str = "partial";
const STEP: &str = "step-";
const WEIGHTS: &str = "model.safetensors";
const CONFIG: &str = "config.json";
const OPTIMIZER: &str = "optimizer.safetensors";
const LOADER: &str = "loader.json";
const SETTINGS: &str = "settings.json";
const HISTORY: &str = "loss.csv";

/// Returns all checkpoints in `out`, the newest last.
fn all(out: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(out).with_context(|| Shown::path(out).to_string())? {
        let entry = entry?;
        let name = entry.file_name();
        let step = name.to_str().and_then(|name| name.strip_prefix(STEP)).and_then(|step| step.parse().ok());
        found.extend(step.map(|step: u64| (step, entry.path())));
    }
    found.sort();
    Ok(found)
}

/// Returns the newest checkpoint in `out`, if there is one.
pub fn newest(out: &Path) -> Result<Option<PathBuf>> {
    Ok(if out.is_dir() { all(out)?.pop().map(|(_, path)| path) } else { None })
}

/// Saves everything, then removes older checkpoints.
pub fn save(
    out: &Path,
    trainer: &Trainer,
    loader: &Loader,
    settings: &Settings,
    records: &[Record],
) -> Result<PathBuf> {
    let partial = out.join(PARTIAL);
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| Shown::path(&partial).to_string())?; // left by a run that was killed
    }
    fs::create_dir(&partial).with_context(|| Shown::path(&partial).to_string())?;
    save_model(&partial, trainer, settings, DType::F32)?;
    trainer.adamw.save(partial.join(OPTIMIZER))?;
    write(&partial.join(LOADER), &serde_json::to_string(&loader.state())?)?;
    write(&partial.join(SETTINGS), &serde_json::to_string_pretty(settings)?)?;
    write(&partial.join(HISTORY), &history::to_csv(records))?;
    sync_folder(&partial)?;

    let step = records.last().map_or(0, |record| record.step);
    let path = out.join(format!("{STEP}{step:06}"));
    fs::rename(&partial, &path).with_context(|| Shown::path(&path).to_string())?;
    sync_folder(out)?;
    for (_, old) in all(out)?.into_iter().filter(|(other, _)| *other < step) {
        fs::remove_dir_all(&old).with_context(|| Shown::path(&old).to_string())?;
    }
    Ok(path)
}

/// Writes a Hugging Face folder, which `gpt2`, `embed` and transformers open.
pub fn save_model(folder: &Path, trainer: &Trainer, settings: &Settings, dtype: DType) -> Result<()> {
    let name = match dtype {
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    };
    let config = settings.config()?.with_extra("dtype", name)?;
    let weights = trainer.weights().into_iter().map(|(name, var)| Ok((name, var.to_dtype(dtype)?)));
    let weights = weights.collect::<Result<Vec<(String, Tensor)>>>()?;
    save_tensors(folder.join(WEIGHTS), weights.iter().map(|(name, tensor)| (name, tensor)), [])?;
    write(&folder.join(CONFIG), &config.to_json())
}

/// Reads the settings of a checkpoint's run.
pub fn settings(path: &Path) -> Result<Settings> {
    read_json(&path.join(SETTINGS))
}

/// Restores weights, optimizer, loader and generator, and returns the loader and the history.
pub fn load(path: &Path, trainer: &mut Trainer, loader: Loader) -> Result<(Loader, Vec<Record>)> {
    trainer.varmap.load(path.join(WEIGHTS))?;
    trainer.adamw.load(path.join(OPTIMIZER))?;
    let state: LoaderState = read_json(&path.join(LOADER))?;
    let loader = loader.resume(&state).context("the text has changed since the checkpoint")?;
    Ok((loader, history::read(&path.join(HISTORY))?))
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| Shown::path(path).to_string())?;
    serde_json::from_str(&text).with_context(|| Shown::path(path).to_string())
}

/// Writes a file and syncs it to disk.
fn write(path: &Path, text: &str) -> Result<()> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().with_context(|| Shown::path(path).to_string())
}

/// Syncs the names in a folder to disk.
fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(folder).and_then(|folder| folder.sync_all()).with_context(|| Shown::path(folder).to_string())?;
    }
    Ok(())
}
