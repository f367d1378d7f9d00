//! Checkpoints: everything that a run needs to continue, in a folder that appears whole or not at all.
//!
//! `OUT/step-N/` holds the weights as a Hugging Face folder (`model.safetensors`, `config.json`, the model's own
//! tokenizer), and beside them `optimizer.safetensors`, `loader.json` (the state of the loader and of the one
//! generator), `settings.json` and `loss.csv`. `SHA256SUMS` ties them to each other and to the texts. The folder is
//! written as `OUT/.step.partial`, each file synced to disk, and then renamed; older ones are removed afterwards. So the
//! folder of the highest N is complete at any moment.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Tensor};
use candle_gpt_input::checkpoint::{save_pretrained, write_file};
use candle_gpt_input::error::Shown;
use candle_gpt_input::tokenizer::TOKENIZER_FILES;

use crate::corpora;
use crate::feed::{Feed, read_json};
use crate::hashes;
use crate::history::{self, Record};
use crate::run::{BEST, Run};
use crate::settings::Settings;
use crate::texts::Texts;
use crate::trainer::{Trainer, all_finite};

const PARTIAL: &str = ".step.partial";
const STEP: &str = "step-";
const WEIGHTS: &str = "model.safetensors";
const CONFIG: &str = "config.json";
const OPTIMIZER: &str = "optimizer.safetensors";
const LOADER: &str = "loader.json";
const SETTINGS: &str = "settings.json";
pub const HISTORY: &str = "loss.csv";
pub const PICTURE: &str = "loss.png";
pub const COVERAGE: &str = "coverage.json";
const PARTS: [&str; 6] = [WEIGHTS, CONFIG, OPTIMIZER, LOADER, SETTINGS, HISTORY];
const HASHES: &str = "SHA256SUMS";

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

/// Checks that a folder without a checkpoint has nothing that a run would replace: perhaps the model it begins from.
pub fn check_no_model(out: &Path) -> Result<()> {
    let index = format!("{WEIGHTS}.index.json");
    let replaced = TOKENIZER_FILES.into_iter().chain([CONFIG, WEIGHTS, &index, BEST, HISTORY, PICTURE, COVERAGE]);
    for path in replaced.map(|name| out.join(name)) {
        ensure!(
            !path.exists(),
            "{} is there already, and not of a run of pretrain: it would be replaced; choose another --out",
            Shown::path(&path)
        );
    }
    Ok(())
}

/// A checkpoint whose files are those that were saved together.
pub struct Checkpoint {
    pub path: PathBuf,
    pub settings: Settings,
    records: Vec<Record>,
    hashes: String,
}

impl Checkpoint {
    /// Returns the path of the newest checkpoint in `out`, if there is one.
    pub fn newest(out: &Path) -> Result<Option<PathBuf>> {
        Ok(all(out)?.pop().map(|(_, path)| path))
    }

    /// Opens a checkpoint and checks that all its parts belong together.
    pub fn open(path: PathBuf) -> Result<Self> {
        let list = path.join(HASHES);
        let hashes = fs::read_to_string(&list).with_context(|| Shown::path(&list).to_string())?;
        let is_there = |name: &&str| hashes::names(&hashes, name) || path.join(name).exists();
        let parts: Vec<&str> = PARTS.into_iter().chain(corpora::names().filter(is_there)).collect();
        for (name, line) in parts.iter().zip(hashes::lines(&path, &parts)?) {
            hashes::check(&hashes, &line, &path.join(name))?;
        }
        let records = history::read(&path.join(HISTORY))?;
        let step = records.last().map_or(0, |record| record.step);
        let shown = Shown::path(&path);
        ensure!(path.ends_with(name(step)), "{shown} holds step {step}: give the folder its name back, {}", name(step));
        Ok(Self { settings: read_json(&path.join(SETTINGS))?, path, records, hashes })
    }

    /// Checks that the texts are those of the run.
    pub fn check_texts(&self, texts: &Texts) -> Result<()> {
        texts.files.iter().try_for_each(|(path, line)| hashes::check(&self.hashes, line, path))?;
        hashes::check_all(&self.hashes, &texts.files.iter().map(|(_, line)| line.as_str()).collect::<Vec<_>>())
    }

    /// Restores optimizer, loader and generator, and returns the loader and the history. The weights are read before,
    /// as those of any model.
    pub fn load(self, trainer: &mut Trainer, feed: Feed) -> Result<(Feed, Vec<Record>)> {
        trainer.adamw.load(self.path.join(OPTIMIZER))?;
        Ok((feed.resume(&self.path.join(LOADER))?, self.records))
    }
}

fn name(step: u64) -> String {
    format!("{STEP}{step:06}")
}

/// Saves everything, then removes older checkpoints. Weights that are not finite are an error, and all stays as it is.
pub fn save(run: &Run) -> Result<()> {
    run.trainer.check_finite()?;
    remove_partial(&run.out)?;
    let partial = run.out.join(PARTIAL);
    fs::create_dir(&partial).with_context(|| Shown::path(&partial).to_string())?;
    if let Err(error) = save_parts(run, &partial) {
        let _ = fs::remove_dir_all(&partial); // the next save would do so as well
        return Err(error);
    }
    let path = run.out.join(name(run.step()));
    fs::rename(&partial, &path).with_context(|| Shown::path(&path).to_string())?;
    sync_folder(&run.out)?;
    tidy(&run.out, run.step())
}

/// Removes what there is beside the checkpoint of a step: older ones, and what a run that was killed left.
pub fn tidy(out: &Path, step: u64) -> Result<()> {
    for (_, old) in all(out)?.into_iter().filter(|(other, _)| *other < step) {
        fs::remove_dir_all(&old).with_context(|| Shown::path(&old).to_string())?;
    }
    remove_partial(out)
}

fn remove_partial(out: &Path) -> Result<()> {
    let partial = out.join(PARTIAL);
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| Shown::path(&partial).to_string())?;
    }
    Ok(())
}

fn save_parts(run: &Run, folder: &Path) -> Result<()> {
    save_model(folder, run, DType::F32)?;
    run.trainer.adamw.save(folder.join(OPTIMIZER))?;
    write(&folder.join(LOADER), run.feed.state()?)?;
    write(&folder.join(SETTINGS), serde_json::to_string_pretty(&run.settings)?)?;
    write(&folder.join(HISTORY), history::to_csv(&run.records))?;
    let parts: Vec<&str> = PARTS.into_iter().chain(run.tokenizer_files.iter().map(|(name, _)| *name)).collect();
    let of_texts = run.texts.files.iter().map(|(_, line)| line.clone());
    let lines: Vec<String> = hashes::lines(folder, &parts)?.into_iter().chain(of_texts).collect();
    write(&folder.join(HASHES), lines.join("\n") + "\n")
}

/// Writes a Hugging Face folder, which `gpt2`, `embed` and transformers open.
pub fn save_model(folder: &Path, run: &Run, dtype: DType) -> Result<()> {
    let name = match dtype {
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    };
    let mut config = run.config.clone().with_extra("dtype", name)?;
    if config.extra::<serde_json::Value>("torch_dtype")?.is_some() {
        config = config.with_extra("torch_dtype", name)?; // the older name of the same key
    }
    let weights = run.trainer.weights().iter().map(|(name, var)| {
        let weight = var.to_dtype(dtype)?;
        ensure!(all_finite(&weight)?, "{name} has values that {dtype:?} cannot hold: choose another --save-dtype");
        Ok((name, weight))
    });
    let weights = weights.collect::<Result<Vec<(&String, Tensor)>>>()?;
    fs::create_dir_all(folder).with_context(|| Shown::path(folder).to_string())?;
    for (name, bytes) in &run.tokenizer_files {
        write(&folder.join(name), bytes)?;
    }
    Ok(save_pretrained(folder, weights.iter().map(|(name, tensor)| (name, tensor)), &config)?)
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    Ok(write_file(path, |out| out.write_all(bytes.as_ref()))?)
}

/// Syncs the names in a folder to disk.
fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(folder).and_then(|folder| folder.sync_all()).with_context(|| Shown::path(folder).to_string())?;
    }
    Ok(())
}
