//! Where batches come from: texts, as PyTorch's DataLoader orders them, or a blend of corpora.

use std::path::Path;
use std::slice::from_ref;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use candle_gpt_input::data::{
    Batch, Blend, BlendState, Boundaries, Coverage, Loader, LoaderConfig, Seeding, Tail, Tokens, Windows,
};
use candle_gpt_input::error::Shown;
use candle_gpt_input::ranks::{Ranks, share};
use candle_gpt_input::rng::{Generator, GeneratorState};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::settings::Settings;
use crate::texts::{Part, Texts};

pub enum Feed {
    Texts(Loader),
    Corpora {
        blend: Blend,
        names: Vec<String>,
        /// That of dropout. The blend draws nothing from it.
        generator: Generator,
    },
}

/// What a checkpoint keeps of corpora.
#[derive(Deserialize, Serialize)]
struct CorporaState {
    blend: BlendState,
    generator: GeneratorState,
}

/// What a run has seen of a corpus.
#[derive(Clone, Debug, Serialize)]
pub struct Seen {
    pub corpus: String,
    /// Its share of the windows.
    pub share: f64,
    #[serde(flatten)]
    pub coverage: Coverage,
}

impl Feed {
    /// Makes batches of whole windows, side by side, in a new order each epoch.
    ///
    /// A batch has the micro-batches of this rank; those of all ranks, joined, are what one process would have.
    pub fn new(
        texts: &Texts,
        settings: &Settings,
        generator: &Generator,
        device: &Device,
        ranks: &dyn Ranks,
    ) -> Result<Self> {
        let n_micro = share(settings.micro_batches, ranks.size())?;
        let config = windows_of(settings).with_batch_size(settings.batch_size.saturating_mul(n_micro));
        if settings.corpus.is_empty() {
            let text = texts.training.first().context("there is no text to train on")?;
            let loader = Loader::new(&text.tokens, config, Seeding::Global(generator.clone()), device)
                .and_then(|loader| loader.shard(ranks.rank(), ranks.size()));
            return Ok(Self::Texts(loader.context("the text to train on")?));
        }
        let (seed, parts) = (settings.seed, &texts.training);
        for Part { name, tokens, .. } in parts {
            let blend = Blend::exhaustive(from_ref(tokens), config.clone(), seed, device).context(name.clone())?;
            if config.boundaries == Boundaries::Mark {
                let coverage = &blend.coverage()[0];
                ensure!(
                    coverage.n_without_target < coverage.n_tokens,
                    "{name}: none of its {} documents has a second token to predict: use --boundaries ignore",
                    tokens.n_documents()
                );
            }
        }
        let blend = match settings.corpus.iter().any(|share| share.weight().is_ok_and(|weight| weight.is_some())) {
            true => {
                let parts: Vec<_> = parts.iter().map(|part| (part.tokens.clone(), part.weight)).collect();
                Blend::new(&parts, config, seed, device)
            }
            false => {
                let parts: Vec<_> = parts.iter().map(|part| part.tokens.clone()).collect();
                Blend::exhaustive(&parts, config, seed, device)
            }
        };
        let names = parts.iter().map(|part| part.name.clone()).collect();
        let blend = blend?.shard(ranks.rank(), ranks.size())?;
        Ok(Self::Corpora { blend, names, generator: generator.clone() })
    }

    /// Says what there is to train on.
    pub fn lines(&self, n_validation: usize) -> Vec<String> {
        match self {
            Self::Texts(loader) => {
                let (n_tokens, n_batches) = (loader.windows().tokens().n_tokens(), loader.n_batches());
                vec![format!("{n_tokens} tokens, {n_batches} steps an epoch; {n_validation} for evaluation")]
            }
            Self::Corpora { blend, names, .. } => {
                let of_corpora = names.iter().zip(blend.corpora()).zip(blend.weights());
                let line = |((name, windows), share): ((&String, &Windows), &f64)| {
                    let (n_tokens, n_documents) = (windows.tokens().n_tokens(), windows.tokens().n_documents());
                    let n_windows = windows.n_windows();
                    format!(
                        "{name}: {n_tokens} tokens in {n_documents} documents, {n_windows} windows, share {share:.4}"
                    )
                };
                of_corpora.map(line).chain([format!("{n_validation} tokens for evaluation")]).collect()
            }
        }
    }

    /// Iterates over the batches of an epoch of the texts, or over those of the corpora without end.
    pub fn batches(&self) -> Box<dyn Iterator<Item = candle_gpt_input::Result<Batch>> + '_> {
        match self {
            Self::Texts(loader) => Box::new(loader.epoch()),
            Self::Corpora { blend, .. } => Box::new(blend.batches()),
        }
    }

    /// Returns how far it is, and where the generator stands, as JSON.
    pub fn state(&self) -> Result<String> {
        Ok(match self {
            Self::Texts(loader) => serde_json::to_string(&loader.state())?,
            Self::Corpora { blend, generator, .. } => {
                serde_json::to_string(&CorporaState { blend: blend.state(), generator: generator.state() })?
            }
        })
    }

    /// Moves to where a state was taken that lies at `path`.
    pub fn resume(self, path: &Path) -> Result<Self> {
        match self {
            Self::Texts(loader) => Ok(Self::Texts(loader.resume(&read_json(path)?)?)),
            Self::Corpora { blend, names, generator } => {
                let state: CorporaState = read_json(path)?;
                let blend = blend.resume(&state.blend)?;
                generator.set_state(&state.generator);
                Ok(Self::Corpora { blend, names, generator })
            }
        }
    }

    /// Returns what was seen of each corpus; nothing for texts.
    pub fn seen(&self) -> Vec<Seen> {
        let Self::Corpora { blend, names, .. } = self else { return Vec::new() };
        let of_corpora = names.iter().zip(blend.weights()).zip(blend.coverage());
        of_corpora.map(|((corpus, &share), coverage)| Seen { corpus: corpus.clone(), share, coverage }).collect()
    }
}

/// Makes a loader in which every token is a target once, but the first of each document.
pub fn validation_loader(tokens: &Tokens, settings: &Settings, device: &Device) -> Result<Loader> {
    let config = windows_of(settings).with_drop_last(false).with_tail(Tail::Keep);
    Ok(Loader::new(tokens, config, Seeding::Explicit(Generator::manual_seed(0)), device)?)
}

/// Checks that there is something to predict.
pub fn check_validation(tokens: &Tokens, settings: &Settings, device: &Device) -> Result<()> {
    let loader = validation_loader(tokens, settings, device)?;
    ensure!(
        with_targets(loader.epoch()).next().is_some(),
        "none of its {} documents has a second token to predict: use --boundaries ignore",
        tokens.n_documents()
    );
    Ok(())
}

/// Leaves out batches in which nothing is predicted, as of documents of one token: they have no mean loss.
pub fn with_targets(
    batches: impl Iterator<Item = candle_gpt_input::Result<Batch>>,
) -> impl Iterator<Item = candle_gpt_input::Result<Batch>> {
    let has_none = |mask: &Tensor| {
        let n_targets = mask.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?;
        Ok::<_, candle_core::Error>(n_targets == 0.0)
    };
    batches.filter(move |batch| {
        let mask = batch.as_ref().ok().and_then(|batch| batch.loss_mask.as_ref());
        !mask.is_some_and(|mask| has_none(mask).is_ok_and(|has_none| has_none))
    })
}

/// Texts have no boundaries: the end of text is among their tokens.
fn windows_of(settings: &Settings) -> LoaderConfig {
    let &Settings { batch_size, max_length, .. } = settings;
    let boundaries = if settings.corpus.is_empty() { Boundaries::Keep } else { settings.boundaries };
    let config = LoaderConfig::default().with_batch_size(batch_size).with_boundaries(boundaries);
    config.with_max_length(max_length).with_stride(max_length)
}

pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| Shown::path(path).to_string())?;
    serde_json::from_str(&text).with_context(|| Shown::path(path).to_string())
}
