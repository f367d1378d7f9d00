//! What a run begins with: fresh weights, a model that is there, or its own checkpoint.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::Device;
use candle_gpt_input::GptInputConfig;
use candle_gpt_input::checkpoint::Checkpoint;
use candle_gpt_input::error::Shown;
use candle_gpt_input::rng::Generator;
use candle_gpt_input::tokenizer::Tokenizer;
use candle_nn::VarMap;

use crate::corpora::{self, Files};
use crate::own_files::own;
use crate::settings::Settings;
use crate::{cli, initial, input, texts};

/// Weights, configuration and tokenizer.
pub struct Start {
    pub varmap: VarMap,
    pub config: GptInputConfig,
    pub tokenizer: Tokenizer,
    /// The tokenizer's files, if the model has one of its own.
    pub tokenizer_files: Files,
}

impl Start {
    /// Draws a new model, whose tokenizer is that of the settings, of the first corpus, or GPT-2's.
    pub fn fresh(settings: &Settings, generator: &Generator, device: &Device) -> Result<Self> {
        let (tokenizer, tokenizer_files) = match &settings.tokenizer {
            Some(path) => (Tokenizer::open(path)?, corpora::files_of(path)?),
            None => texts::tokenizer(settings)?.unwrap_or_else(|| (Tokenizer::gpt2().clone(), Files::new())),
        };
        let config = settings.config(corpora::n_ids(&tokenizer)?)?;
        let varmap = initial::draw(&config, generator, device)?;
        Ok(Self { varmap, config, tokenizer, tokenizer_files })
    }

    /// Reads a whole GPT-2, and the given tokenizer or its own, inside or beside it.
    pub fn read(weights: &Path, tokenizer: Option<&Path>, device: &Device) -> Result<Self> {
        let checkpoint = Checkpoint::open(weights)?;
        Self::of(&checkpoint, weights, tokenizer, device).with_context(|| Shown::path(weights).to_string())
    }

    fn of(checkpoint: &Checkpoint, weights: &Path, tokenizer: Option<&Path>, device: &Device) -> Result<Self> {
        let (varmap, config) = initial::read(checkpoint, device)?;
        cli::note_heads(checkpoint)?;
        if let Some(path) = tokenizer {
            let whose = Shown::path(path).to_string();
            let tokenizer =
                input::fitting(Tokenizer::open(path)?, &whose, config.vocab_size, "choose another --tokenizer")?;
            return Ok(Self { varmap, config, tokenizer, tokenizer_files: corpora::files_of(path)? });
        }
        let advice = "put its own tokenizer.json beside the weights";
        let mut tokenizer_files = Vec::new();
        let own = own(checkpoint, weights).map(|found| {
            found.map(|(tokenizer, files)| {
                tokenizer_files = files;
                tokenizer
            })
        });
        let tokenizer = input::own_or_gpt2(own, config.vocab_size, advice)?;
        Ok(Self { varmap, config, tokenizer, tokenizer_files })
    }
}

/// Returns the folder or file of the model that these settings begin from, which may be downloaded first, and what it
/// is called.
pub fn model(settings: &Settings) -> Result<Option<(PathBuf, String)>> {
    let path = settings.init_from.as_deref();
    let Some(name) = settings.source.hub.clone().or(path.map(|path| Shown::path(path).to_string())) else {
        return Ok(None);
    };
    Ok(Some((settings.source.folder(path.unwrap_or(Path::new("")), false, true)?, name)))
}
