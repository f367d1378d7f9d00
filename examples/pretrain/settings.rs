//! The settings of a run, which its checkpoints keep.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use candle_gpt_input::GptInputConfig;
use candle_gpt_input::data::Boundaries;
use candle_gpt_input::data::corpus::IdBits;
use candle_gpt_input::error::Shown;
use candle_gpt_input::position::PositionScheme;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::hub::Source;
use crate::share::Share;

/// The text to train on when no other is given.
const DEFAULT_TEXT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/genesis.txt");

/// The settings that may change when a run is resumed. (With more steps the learning rate falls more slowly from there
/// on.)
const MAY_CHANGE: [&str; 4] = ["steps", "eval_every", "save_every", "patience"];

/// The settings that a model to begin from has already.
const OF_MODEL: [&str; 4] = ["n_layer", "n_head", "n_embd", "position"];

#[derive(clap::Args, Clone, Debug, Deserialize, Serialize)]
pub struct Settings {
    /// The texts to train on, separated by <|endoftext|>; the last tenth of the tokens is kept for evaluation
    #[arg(long, value_name = "F", num_args = 1.., default_value = DEFAULT_TEXT)]
    pub text_file: Vec<PathBuf>,
    /// Texts to evaluate on instead of that tenth, which is then trained on
    #[arg(long, value_name = "F", num_args = 1..)]
    #[serde(default)]
    pub validation_file: Vec<PathBuf>,
    /// Train on files of token ids instead: .bin files of nanoGPT or llm.c, a Megatron prefix, a folder, or a pattern,
    /// each a corpus with its share of the windows [default: the shares of their sizes]
    #[arg(long, value_name = "PATH[:WEIGHT]", num_args = 1.., conflicts_with_all = ["text_file", "validation_file"])]
    #[serde(default)]
    pub corpus: Vec<Share>,
    /// A corpus to evaluate on instead of the last tenth of each, which is then trained on
    #[arg(long, value_name = "PATH", requires = "corpus")]
    #[serde(default)]
    pub validation_corpus: Option<PathBuf>,
    /// Width of the ids in files without a header, such as nanoGPT's: 16 or 32
    #[arg(long, value_name = "N", requires = "corpus")]
    #[serde(default)]
    pub id_bits: Option<IdBits>,
    /// What happens between documents: attention, positions and targets stay in one (mark), no window crosses (keep),
    /// or nothing (ignore)
    #[arg(long, value_name = "B", default_value = "mark", requires = "corpus")]
    #[serde(default)]
    pub boundaries: Boundaries,
    /// The token by which documents are found where no index and no corpus.json says it: it begins one in llm.c's
    /// files, and ends one in bare ids; it is put after each text [default for texts: <|endoftext|>]
    #[arg(long, value_name = "TOKEN", requires = "corpus")]
    #[serde(default)]
    pub end_of_text: Option<String>,
    /// A tokenizer.json, or a folder with one, instead of the model's own, that of the first corpus, or GPT-2's
    #[arg(long, value_name = "FILE")]
    #[serde(default)]
    pub tokenizer: Option<PathBuf>,
    /// Begin with the weights, configuration and tokenizer of a GPT-2: a file, a folder, or an index of shards
    #[arg(long, value_name = "PATH", group = "model")]
    #[serde(default)]
    pub init_from: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    pub source: Source,
    /// Leave these as they are, such as wte,wpe,h.0-5: parts of the model by the start of their names
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    #[serde(default)]
    pub freeze: Vec<String>,
    /// Blocks
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = crate::cli::count::<usize>)]
    pub n_layer: usize,
    /// Attention heads in each
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = crate::cli::at_least_1::<usize>)]
    pub n_head: usize,
    /// Width
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = crate::cli::at_least_1::<usize>)]
    pub n_embd: usize,
    /// Tokens in a window, and positions of a fresh model; those of the model that a run begins from, if not given
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = crate::cli::at_least_1::<usize>)]
    pub max_length: usize,
    /// Windows in a batch
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = crate::cli::at_least_1::<usize>)]
    pub batch_size: usize,
    /// Batches in a step, over all ranks: their gradients are added up
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = crate::cli::at_least_1::<usize>)]
    #[serde(default = "one")]
    pub micro_batches: usize,
    /// Steps of the optimizer in all; 0 saves the fresh weights
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = crate::cli::count::<u64>)]
    pub steps: u64,
    /// The highest learning rate: reached after the warm-up, a tenth of it at the end
    #[arg(long, value_name = "LR", default_value_t = 3e-3)]
    #[serde(with = "exact")]
    pub learning_rate: f64,
    /// Steps in which the learning rate rises from nothing
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = crate::cli::count::<u64>)]
    pub warmup: u64,
    /// Weight decay of matrices; biases and norms never decay
    #[arg(long, value_name = "W", default_value_t = 0.1)]
    #[serde(with = "exact")]
    pub weight_decay: f64,
    /// The largest global norm of the gradients; 0 does not clip
    #[arg(long, value_name = "NORM", default_value_t = 1.0)]
    #[serde(with = "exact")]
    pub grad_clip: f64,
    /// The position scheme: learned, sinusoidal, transformer-xl, rope, alibi, t5, shaw, deberta or none
    #[arg(long, value_name = "SCHEME", default_value = "learned", value_parser = known_scheme)]
    #[serde(default = "learned")]
    pub position: String,
    /// The probability of dropout on embeddings, attention weights and the outputs added to the residual stream; that
    /// of the model that a run begins from, if not given
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    #[serde(with = "exact")]
    pub dropout: f64,
    /// The seed of the weights, the order of the windows and dropout, as torch.manual_seed takes it
    #[arg(long, value_name = "S", default_value_t = 123, value_parser = crate::cli::seed)]
    pub seed: u64,
    /// Evaluate every N steps
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = crate::cli::at_least_1::<u64>)]
    pub eval_every: u64,
    /// Save a checkpoint every N steps
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = crate::cli::at_least_1::<u64>)]
    pub save_every: u64,
    /// Stop after N evaluations in a row without a lower validation loss
    #[arg(long, value_name = "N", value_parser = crate::cli::at_least_1::<u64>)]
    #[serde(default)]
    pub patience: Option<u64>,
}

/// Returns the name if a scheme has it.
fn known_scheme(name: &str) -> Result<String, candle_gpt_input::Error> {
    name.parse::<PositionScheme>().map(|_| name.to_string())
}

/// Returns the batches in a step of checkpoints written before there was a choice.
fn one() -> usize {
    1
}

/// Returns the scheme of checkpoints written before there was a choice.
fn learned() -> String {
    "learned".to_string()
}

impl Settings {
    /// Makes paths absolute: the run may be resumed in another folder. Texts that are not used are not named.
    pub fn resolve(&mut self) -> Result<()> {
        if !self.corpus.is_empty() {
            self.text_file.clear();
        }
        for path in self.text_file.iter_mut().chain(&mut self.validation_file).chain(&mut self.tokenizer) {
            *path = path.canonicalize().with_context(|| Shown::path(path).to_string())?;
        }
        // Patterns and Megatron's prefixes are the names of no files, and a model may be gone by then.
        let corpora = self.corpus.iter_mut().map(|share| &mut share.path).chain(&mut self.validation_corpus);
        for path in corpora.chain(&mut self.init_from) {
            *path = std::path::absolute(&path).with_context(|| Shown::path(path).to_string())?;
        }
        Ok(())
    }

    /// Returns the configuration of a fresh model.
    pub fn config(&self, vocab_size: usize) -> Result<GptInputConfig> {
        let config = GptInputConfig::new(vocab_size, self.max_length, self.n_embd)
            .with_n_layer(self.n_layer)
            .with_n_head(self.n_head)
            .with_position(self.position.parse()?)
            .with_extra("architectures", ["GPT2LMHeadModel"])?;
        let config = with_dropout(config, self.dropout)?;
        config.validate()?;
        check_memory(&config)?;
        Ok(config)
    }

    /// Returns the settings of a run that begins from a model, and the configuration that it goes on with. Given
    /// settings that the model contradicts are an error.
    pub fn of_model(&self, config: GptInputConfig, is_given: impl Fn(&str) -> bool) -> Result<(Self, GptInputConfig)> {
        check_memory(&config)?;
        let mut settings = self.clone();
        (settings.n_layer, settings.n_head, settings.n_embd) = (config.n_layer, config.n_head, config.n_embd);
        settings.position = config.position.name().to_string();
        let (given, own) = (to_map(self)?, to_map(&settings)?);
        for name in OF_MODEL.into_iter().filter(|name| is_given(name)) {
            let (given, own) = (&given[name], &own[name]);
            ensure!(given == own, "{} {given}: the model has {own}: leave the option out", option(name));
        }
        if !is_given("max_length") {
            settings.max_length = config.n_positions;
        }
        let (max_length, n_positions) = (settings.max_length, config.n_positions);
        ensure!(max_length <= n_positions, "--max-length {max_length}: the model has {n_positions} positions, no more");
        if is_given("dropout") {
            let config = with_dropout(config, self.dropout)?;
            config.validate()?;
            return Ok((settings, config));
        }
        settings.dropout = config.embd_pdrop;
        Ok((settings, config))
    }

    /// Returns the settings of a resumed run: the saved ones, replaced by those that are given and may change.
    pub fn resumed(saved: &Self, given: &Self, is_given: impl Fn(&str) -> bool) -> Result<Self> {
        let (mut settings, given) = (to_map(saved)?, to_map(given)?);
        for (name, value) in given.into_iter().filter(|(name, _)| is_given(name)) {
            let saved = settings.get(&name).with_context(|| format!("the checkpoint says nothing of {name}"))?;
            let shown = if saved.is_null() { "without it".to_string() } else { format!("with {saved}") };
            ensure!(
                *saved == value || MAY_CHANGE.contains(&name.as_str()),
                "{} {value}: this run began {shown}, which cannot change: leave the option out, or choose another \
                 --out",
                option(&name)
            );
            settings.insert(name, value);
        }
        Ok(serde_json::from_value(settings.into())?)
    }
}

fn option(name: &str) -> String {
    format!("--{}", name.replace('_', "-"))
}

fn with_dropout(config: GptInputConfig, dropout: f64) -> Result<GptInputConfig> {
    let config = config.with_embd_pdrop(dropout);
    Ok(config.with_extra("attn_pdrop", dropout)?.with_extra("resid_pdrop", dropout)?)
}

/// Checks that the weights, their gradients and the two averages of the optimizer can be allocated, at once.
fn check_memory(config: &GptInputConfig) -> Result<()> {
    let &GptInputConfig { n_layer, n_embd, n_positions, .. } = config;
    // Attention takes 4 C² weights in a block, its MLP 8 C²; biases and norms are few.
    let n_weights = || {
        let of_blocks = n_embd.checked_mul(n_embd)?.checked_mul(12)?.checked_mul(n_layer)?;
        config.n_token_rows().checked_add(n_positions)?.checked_mul(n_embd)?.checked_add(of_blocks)
    };
    let mut memory = Vec::<[f32; 4]>::new();
    let is_granted = n_weights().is_some_and(|n_weights| memory.try_reserve_exact(n_weights).is_ok());
    std::hint::black_box(&memory); // else the compiler leaves out what nobody uses
    ensure!(
        is_granted,
        "a model of n_layer {n_layer}, n_embd {n_embd} and n_positions {n_positions}, with its gradients and the \
         optimizer's state, is more than this machine can hold: choose a smaller one"
    );
    Ok(())
}

fn to_map(settings: &Settings) -> Result<Map<String, Value>> {
    match serde_json::to_value(settings)? {
        Value::Object(map) => Ok(map),
        other => anyhow::bail!("settings are {other}"),
    }
}

/// Writes numbers as text: serde_json reads numbers to within a unit in the last place, the standard library exactly.
mod exact {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
