//! [`GptInputConfig`]: the dimensions of an input layer, as Hugging Face's `config.json` spells them.

mod builders;
mod fields;
mod position;
mod rotary;

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{CheckpointError, ConfigError, Error, Result};
use fields::{as_usize, brief, take};

pub(crate) use builders::builders;
pub use position::{DebertaConfig, PositionScheme, ShawConfig, SinusoidalConfig, SinusoidalLayout, T5Config};
pub use rotary::{Llama3Scaling, RotaryConfig, RotaryScaling, YarnScaling};

/// Name, `n_layer`, `n_head`, `n_embd`; vocabulary (50257) and positions (1024) are the same for all four.
const GPT2_SIZES: [(&str, usize, usize, usize); 4] =
    [("gpt2", 12, 12, 768), ("gpt2-medium", 24, 16, 1024), ("gpt2-large", 36, 20, 1280), ("gpt2-xl", 48, 25, 1600)];

/// The tutorial's input stage (*Build a Large Language Model From Scratch*, chapter 2).
const TUTORIAL: &str = "tutorial";

// The field's own name first, then the names that other code bases use for it. `n_ctx` is not among them: GPT-2 files
// carry both `n_positions` and `n_ctx`.
const VOCAB_SIZE: &[&str] = &["vocab_size"];
const N_POSITIONS: &[&str] = &["n_positions", "block_size", "context_length", "max_position_embeddings"];
const N_EMBD: &[&str] = &["n_embd", "hidden_size", "emb_dim"];
const N_LAYER: &[&str] = &["n_layer", "num_hidden_layers", "n_layers"];
const N_HEAD: &[&str] = &["n_head", "num_attention_heads", "n_heads"];
const EMBD_PDROP: &[&str] = &["embd_pdrop"];
const INITIALIZER_RANGE: &[&str] = &["initializer_range"];

/// Holds the input layer's part of a GPT-2 configuration; [`extra`](Self::extra) returns everything else in the file.
///
/// Reads and writes Hugging Face's `config.json`. Other names are accepted on input: `block_size`, `context_length` and
/// `max_position_embeddings` for `n_positions`, `hidden_size` and `emb_dim` for `n_embd`. A field that the file leaves
/// out has the default of `transformers.GPT2Config`, as in [`default`](Self::default): GPT-2 small.
///
/// Later versions may add fields. Start from [`new`](Self::new), [`preset`](Self::preset) or
/// [`default`](Self::default), and change fields in place or by their `with_…` methods.
///
/// ```
/// use candle_gpt_input::GptInputConfig;
///
/// let config = GptInputConfig::from_json(r#"{"vocab_size": 50257, "context_length": 256, "emb_dim": 768}"#)?;
/// assert_eq!((config.vocab_size, config.n_positions, config.n_embd), (50257, 256, 768));
/// assert_eq!(GptInputConfig::preset("gpt2-xl")?.n_embd, 1600);
/// assert_eq!(GptInputConfig::default().with_embd_pdrop(0.0).n_positions, 1024);
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "Keys", try_from = "Keys")]
#[non_exhaustive]
#[doc(alias = "GPT2Config", alias = "AutoConfig", alias = "PretrainedConfig")]
pub struct GptInputConfig {
    /// V: rows of `wte`.
    #[doc(alias = "num_embeddings")]
    pub vocab_size: usize,
    /// P: rows of `wpe`, the longest sequence. For schemes without a table, the length that the model is trained on.
    #[doc(alias = "max_position_embeddings", alias = "block_size", alias = "context_length")]
    pub n_positions: usize,
    /// C: width of both tables.
    #[doc(alias = "hidden_size", alias = "emb_dim", alias = "embedding_dim")]
    pub n_embd: usize,
    /// Number of transformer blocks. Some relative schemes have tables in each block.
    pub n_layer: usize,
    /// Number of attention heads, which schemes inside attention need.
    pub n_head: usize,
    /// How the model encodes positions.
    #[doc(alias = "position_embedding_type")]
    pub position: PositionScheme,
    /// Probability of dropout on the sum of the embeddings in training.
    pub embd_pdrop: f64,
    /// Standard deviation of newly drawn tables.
    pub initializer_range: f64,
    /// Every other key of the file, unchanged.
    pub(crate) extra: Map<String, Value>,
}

builders!(GptInputConfig {
    with_vocab_size(vocab_size: usize),
    with_n_positions(n_positions: usize),
    with_n_embd(n_embd: usize),
    with_n_layer(n_layer: usize),
    with_n_head(n_head: usize),
    with_position(position: PositionScheme),
    with_embd_pdrop(embd_pdrop: f64),
    with_initializer_range(initializer_range: f64),
});

impl Default for GptInputConfig {
    /// Returns `transformers.GPT2Config()`: the smallest of the four GPT-2s.
    fn default() -> Self {
        Self::new(50257, 1024, 768)
    }
}

impl GptInputConfig {
    /// Returns a configuration with these dimensions and otherwise the defaults of `transformers.GPT2Config`.
    ///
    /// Checks nothing: every function of the crate that takes a configuration calls [`validate`](Self::validate).
    #[must_use]
    pub fn new(vocab_size: usize, n_positions: usize, n_embd: usize) -> Self {
        let mut extra = Map::new();
        extra.insert("model_type".to_string(), "gpt2".into());
        Self {
            vocab_size,
            n_positions,
            n_embd,
            n_layer: 12,
            n_head: 12,
            position: PositionScheme::Learned,
            embd_pdrop: 0.1,
            initializer_range: 0.02,
            extra,
        }
    }

    /// Returns the configuration named `gpt2`, `gpt2-medium`, `gpt2-large`, `gpt2-xl` or `tutorial`.
    ///
    /// `tutorial` is the book's input stage: vocabulary 50257, 4 positions, 256 dimensions, tables drawn from N(0, 1),
    /// no dropout.
    ///
    /// ```
    /// # use candle_gpt_input::GptInputConfig;
    /// let tutorial = GptInputConfig::preset("tutorial")?;
    /// assert_eq!((tutorial.n_positions, tutorial.n_embd, tutorial.initializer_range), (4, 256, 1.0));
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ConfigError::UnknownPreset`] for any other name.
    pub fn preset(name: &str) -> Result<Self> {
        if name == TUTORIAL {
            let input_only = Self::new(50257, 4, 256).with_n_layer(0).with_n_head(1).with_embd_pdrop(0.0);
            return Ok(input_only.with_initializer_range(1.0));
        }
        match GPT2_SIZES.iter().find(|(known, ..)| *known == name) {
            Some(&(_, n_layer, n_head, n_embd)) => {
                Ok(Self::default().with_n_layer(n_layer).with_n_head(n_head).with_n_embd(n_embd))
            }
            None => {
                let known: Vec<_> = GPT2_SIZES.iter().map(|(name, ..)| *name).chain([TUTORIAL]).collect();
                Err(ConfigError::UnknownPreset { name: name.to_string(), known: known.join(", ") }.into())
            }
        }
    }

    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    /// [`ConfigError`] if the text is not a JSON object, a field has the wrong JSON type, two spellings of a field
    /// disagree, or a value is out of range.
    pub fn from_json(text: &str) -> Result<Self> {
        Ok(Self::parse(text)?)
    }

    fn parse(text: &str) -> Result<Self, ConfigError> {
        let config = ConfigFile::parse(text)?.resolve();
        config.check()?;
        Ok(config)
    }

    /// Reads a `config.json`.
    ///
    /// # Errors
    /// - [`CheckpointError::Io`] if the file cannot be read
    /// - [`CheckpointError::Config`], with the path, if [`from_json`](Self::from_json) refuses the text
    #[doc(alias = "from_pretrained")]
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(CheckpointError::reading(path))?;
        Ok(Self::parse(&text).map_err(CheckpointError::config_in(path))?)
    }

    /// Returns the text of a `config.json`, which [`from_json`](Self::from_json) reads back to an equal value.
    #[doc(alias = "save_pretrained", alias = "to_json_string")]
    #[must_use]
    pub fn to_json(&self) -> String {
        format!("{:#}", Value::Object(Keys::from(self.clone()).0))
    }

    /// Returns the value of a key that no field holds, such as `eos_token_id`, or `None` if there is no such key.
    ///
    /// ```
    /// # use candle_gpt_input::GptInputConfig;
    /// let config = GptInputConfig::from_json(r#"{"eos_token_id": 50256, "n_inner": null}"#)?;
    /// assert_eq!(config.extra::<u32>("eos_token_id")?, Some(50256));
    /// assert_eq!(config.extra::<Option<u32>>("n_inner")?, Some(None));
    /// assert_eq!(config.extra::<f64>("attn_pdrop")?, None);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ConfigError::FieldType`] if the value cannot be read as a `T`.
    pub fn extra<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let read = |value: &Value| {
            T::deserialize(value).map_err(|_| ConfigError::FieldType {
                key: key.to_string(),
                got: brief(value),
                expected: std::any::type_name::<T>(),
            })
        };
        Ok(self.extra.get(key).map(read).transpose()?)
    }

    /// Sets a key that no field holds, for [`to_json`](Self::to_json) to write. A field with the same key overwrites
    /// it.
    ///
    /// ```
    /// # use candle_gpt_input::GptInputConfig;
    /// let config = GptInputConfig::default().with_extra("eos_token_id", 50256)?;
    /// assert_eq!(config.extra::<u32>("eos_token_id")?, Some(50256));
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ConfigError::Json`] if JSON cannot express `value`.
    pub fn with_extra(mut self, key: &str, value: impl Serialize) -> Result<Self> {
        let value = serde_json::to_value(value).map_err(|error| ConfigError::Json { source: error.into() })?;
        self.extra.insert(key.to_string(), value);
        Ok(self)
    }

    /// Checks that dimensions are at least 1, that probabilities and deviations are in range, and that the scheme fits
    /// the dimensions.
    ///
    /// ```
    /// # use candle_gpt_input::GptInputConfig;
    /// assert!(GptInputConfig::new(50257, 1024, 768).validate().is_ok());
    /// assert!(GptInputConfig::new(50257, 1024, 0).validate().is_err());
    /// ```
    ///
    /// # Errors
    /// [`ConfigError::Zero`] or [`ConfigError::OutOfRange`], naming the field.
    pub fn validate(&self) -> Result<()> {
        Ok(self.check()?)
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        for (name, value) in
            [("vocab_size", self.vocab_size), ("n_positions", self.n_positions), ("n_embd", self.n_embd)]
        {
            if value == 0 {
                return Err(ConfigError::Zero { name });
            }
        }
        if !(0.0..=1.0).contains(&self.embd_pdrop) {
            let expected = "a probability between 0 and 1";
            return Err(ConfigError::OutOfRange { name: "embd_pdrop", value: self.embd_pdrop, expected });
        }
        if !(self.initializer_range.is_finite() && self.initializer_range >= 0.0) {
            let expected = "a finite number of at least 0";
            return Err(ConfigError::OutOfRange { name: "initializer_range", value: self.initializer_range, expected });
        }
        self.position.validate(self.n_embd, self.n_head)
    }
}

/// All keys of a `config.json`.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Keys(Map<String, Value>);

impl From<GptInputConfig> for Keys {
    fn from(config: GptInputConfig) -> Self {
        let mut map = config.extra;
        config.position.put(&mut map);
        for (names, value) in [
            (VOCAB_SIZE, config.vocab_size),
            (N_POSITIONS, config.n_positions),
            (N_EMBD, config.n_embd),
            (N_LAYER, config.n_layer),
            (N_HEAD, config.n_head),
        ] {
            map.insert(names[0].to_string(), value.into());
        }
        map.insert(EMBD_PDROP[0].to_string(), config.embd_pdrop.into());
        map.insert(INITIALIZER_RANGE[0].to_string(), config.initializer_range.into());
        Self(map)
    }
}

impl TryFrom<Keys> for GptInputConfig {
    type Error = Error;

    fn try_from(keys: Keys) -> Result<Self> {
        let config = ConfigFile::from_map(keys.0)?.resolve();
        config.check()?;
        Ok(config)
    }
}

/// The fields that a `config.json` states. One that it leaves out is `None`, and so cannot contradict a table's shape.
#[derive(Clone, Debug)]
pub(crate) struct ConfigFile {
    pub(crate) vocab_size: Option<usize>,
    pub(crate) n_positions: Option<usize>,
    pub(crate) n_embd: Option<usize>,
    pub(crate) n_layer: Option<usize>,
    pub(crate) n_head: Option<usize>,
    pub(crate) position: Option<PositionScheme>,
    pub(crate) embd_pdrop: Option<f64>,
    pub(crate) initializer_range: Option<f64>,
    pub(crate) extra: Map<String, Value>,
}

impl ConfigFile {
    pub(crate) fn parse(text: &str) -> Result<Self, ConfigError> {
        match serde_json::from_str(text) {
            Ok(Value::Object(map)) => Self::from_map(map),
            Ok(other) => Err(ConfigError::NotAnObject { got: brief(&other) }),
            Err(error) => Err(ConfigError::Json { source: error.into() }),
        }
    }

    fn from_map(mut map: Map<String, Value>) -> Result<Self, ConfigError> {
        Ok(Self {
            vocab_size: take(&mut map, VOCAB_SIZE, "a whole number", as_usize)?,
            n_positions: take(&mut map, N_POSITIONS, "a whole number", as_usize)?,
            n_embd: take(&mut map, N_EMBD, "a whole number", as_usize)?,
            n_layer: take(&mut map, N_LAYER, "a whole number", as_usize)?,
            n_head: take(&mut map, N_HEAD, "a whole number", as_usize)?,
            position: PositionScheme::take(&mut map)?,
            embd_pdrop: take(&mut map, EMBD_PDROP, "a number", Value::as_f64)?,
            initializer_range: take(&mut map, INITIALIZER_RANGE, "a number", Value::as_f64)?,
            extra: map,
        })
    }

    /// Fills what the file leaves out with the defaults of `transformers.GPT2Config`.
    pub(crate) fn resolve(self) -> GptInputConfig {
        let default = GptInputConfig::default();
        GptInputConfig {
            vocab_size: self.vocab_size.unwrap_or(default.vocab_size),
            n_positions: self.n_positions.unwrap_or(default.n_positions),
            n_embd: self.n_embd.unwrap_or(default.n_embd),
            n_layer: self.n_layer.unwrap_or(default.n_layer),
            n_head: self.n_head.unwrap_or(default.n_head),
            position: self.position.unwrap_or_default(),
            embd_pdrop: self.embd_pdrop.unwrap_or(default.embd_pdrop),
            initializer_range: self.initializer_range.unwrap_or(default.initializer_range),
            extra: self.extra,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        GptInputConfig::from_json(text).err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn presets_are_the_four_gpt2s_and_the_tutorial() -> Result<()> {
        for (name, n_layer, n_head, n_embd) in GPT2_SIZES {
            let config = GptInputConfig::preset(name)?;
            assert_eq!((config.vocab_size, config.n_positions, config.n_embd), (50257, 1024, n_embd));
            assert_eq!((config.n_layer, config.n_head), (n_layer, n_head));
            config.validate()?;
        }
        let tutorial = GptInputConfig::preset("tutorial")?;
        assert_eq!((tutorial.vocab_size, tutorial.n_positions, tutorial.n_embd), (50257, 4, 256));
        let unknown = GptInputConfig::preset("gpt3").err().map(|e| e.to_string()).unwrap_or_default();
        assert_eq!(unknown, "no preset `gpt3`: there are gpt2, gpt2-medium, gpt2-large, gpt2-xl, tutorial");
        Ok(())
    }

    #[test]
    fn every_key_survives_a_round_trip() -> Result<()> {
        let text = r#"{"activation_function": "gelu_new", "n_ctx": 77, "vocab_size": 500, "n_positions": 64,
            "n_embd": 48, "n_head": 4, "n_layer": 2, "embd_pdrop": 0.0, "initializer_range": 0.013,
            "task_specific_params": {"text-generation": {"do_sample": true}}, "n_inner": null}"#;
        let config = GptInputConfig::from_json(text)?;
        assert_eq!(config.extra.len(), 4);
        let text_as_number = config.extra::<u64>("activation_function").err().map(|error| error.to_string());
        assert_eq!(text_as_number.as_deref(), Some("config: `activation_function` is \"gelu_new\", expected u64"));
        assert_eq!(config.clone().with_extra("n_inner", 7)?.extra::<u64>("n_inner")?, Some(7));
        assert_eq!(GptInputConfig::from_json(&config.to_json())?, config);
        let expected: Value = serde_json::from_str(text).map_err(|e| ConfigError::Json { source: e.into() })?;
        assert_eq!(Value::Object(Keys::from(config).0), expected);
        Ok(())
    }

    #[test]
    fn aliases_may_repeat_a_field_but_not_contradict_it() -> Result<()> {
        let config = GptInputConfig::from_json(r#"{"hidden_size": 8, "n_embd": 8, "max_position_embeddings": 5}"#)?;
        assert_eq!((config.vocab_size, config.n_positions, config.n_embd), (50257, 5, 8));
        assert_eq!(
            error(r#"{"n_embd": 8, "emb_dim": 9}"#),
            "config: `n_embd` is 8, but `emb_dim`, another name for it, is 9"
        );
        Ok(())
    }

    #[test]
    fn bad_values_are_named() {
        assert_eq!(error(r#"{"vocab_size": 0}"#), "config: `vocab_size` must be at least 1");
        assert_eq!(error(r#"{"n_embd": -1}"#), "config: `n_embd` is -1, expected a whole number");
        assert_eq!(error(r#"{"n_positions": "1024"}"#), "config: `n_positions` is \"1024\", expected a whole number");
        assert_eq!(
            error(r#"{"embd_pdrop": 1.5}"#),
            "config: `embd_pdrop` is 1.5, which is not a probability between 0 and 1"
        );
        assert_eq!(
            error(r#"{"initializer_range": -0.1}"#),
            "config: `initializer_range` is -0.1, which is not a finite number of at least 0"
        );
        assert_eq!(error("[1]"), "config: expected a JSON object, found an array");
        assert_eq!(error("{"), "config: not valid JSON");
    }
}
