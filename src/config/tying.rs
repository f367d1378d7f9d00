//! Whether the output head is the token table.

use serde_json::Value;

use super::fields::{YES_OR_NO, stated, wrong_type};
use super::input::GptInputConfig;
use super::model_type;
use crate::error::ConfigError;

const KEY: &str = "tie_word_embeddings";

/// Types of models with rotary positions whose head is tied where no key says so. Others with rotary positions have
/// one of their own (`tie_word_embeddings` of their classes in transformers 5.24).
const TIED: [&str; 31] = [
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3_text",
    "gemma3n_text",
    "vaultgemma",
    "recurrent_gemma",
    "starcoder2",
    "falcon",
    "RW",
    "RefinedWeb",
    "RefinedWebModel",
    "cohere",
    "cohere2",
    "ernie4_5",
    "ernie4_5_moe",
    "smollm3",
    "lfm2",
    "lfm2_moe",
    "minicpm",
    "minicpm3",
    "modernbert",
    "modernbert-decoder",
    "nomic_bert",
    "csm",
    "gpt_neox_japanese",
    "gte",
    "jetmoe",
    "jina_embeddings_v3",
    "moonshine",
    "youtu",
];
/// Types of models without rotary positions whose head is not tied.
const UNTIED: [&str; 8] = ["dbrx", "fsmt", "imagegpt", "mamba2", "reformer", "rembert", "rwkv", "xlstm"];

impl GptInputConfig {
    /// Returns whether the output head is the token table: the key `tie_word_embeddings`, or else the default of the
    /// `model_type` in transformers.
    ///
    /// ```
    /// # use candle_gpt_input::GptInputConfig;
    /// assert!(GptInputConfig::default().tie_word_embeddings()); // GPT-2
    /// assert!(!GptInputConfig::from_json(r#"{"tie_word_embeddings": false}"#)?.tie_word_embeddings());
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    #[must_use]
    pub fn tie_word_embeddings(&self) -> bool {
        let of_type = || {
            let model_type = self.model_type();
            let is_in = |list: &[&str]| model_type.is_some_and(|model_type| list.contains(&model_type));
            is_in(&TIED) || model_type::rotation(model_type).is_none() && !is_in(&UNTIED)
        };
        self.stated_tying().and_then(Value::as_bool).unwrap_or_else(of_type)
    }

    /// Returns the same with this value for the key, which is written only if it would read otherwise.
    pub(crate) fn with_tying(mut self, is_tied: bool) -> Self {
        if self.tie_word_embeddings() != is_tied {
            self.extra.insert(KEY.to_string(), is_tied.into());
        }
        self
    }

    fn stated_tying(&self) -> Option<&Value> {
        stated(&self.extra, KEY).or_else(|| self.around(KEY).filter(|value| !value.is_null()))
    }

    pub(super) fn check_tying(&self) -> Result<(), ConfigError> {
        match self.stated_tying() {
            Some(value) if !value.is_boolean() => Err(wrong_type(KEY, value, YES_OR_NO)),
            _ => Ok(()),
        }
    }
}
