//! What token rows are multiplied by on their way in, and logits on their way out.

use candle_core::DType;
use half::bf16;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::GptInputConfig;
use super::fields::{NUMBER, Object, brief, read, stated, wrong_type};
use super::model_type;
use crate::error::ConfigError;

/// What token rows are multiplied by before positions are added, in the order of operations that transformers has.
///
/// ```
/// use candle_gpt_input::GptInputConfig;
/// use candle_gpt_input::embedding::EmbeddingScale;
///
/// let granite = r#"{"model_type": "granite", "embedding_multiplier": 12.0, "hidden_size": 2048, "vocab_size": 49155,
///     "num_attention_heads": 32, "max_position_embeddings": 4096}"#;
/// assert_eq!(GptInputConfig::from_json(granite)?.embedding_scale, EmbeddingScale::Factor(12.0));
/// assert_eq!(GptInputConfig::default().embedding_scale, EmbeddingScale::None);
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
#[doc(alias("embed_scale", "embedding_multiplier", "scale_emb", "normalizer"))]
pub enum EmbeddingScale {
    /// Nothing.
    #[default]
    None,
    /// A number: Granite's `embedding_multiplier`, MiniCPM's `scale_emb`.
    Factor(f64),
    /// √C: `scale_embedding`.
    Root,
    /// √C, rounded to the dtype of the tables first: the Gemmas.
    RootInDType,
    /// √C, rounded to bf16 first: RecurrentGemma.
    RootInBf16,
}

const FACTOR: &[&str] =
    &["embedding_multiplier", "scale_emb", "embedding_scale", "embedding_multiplier_scale", "mup_embedding_multiplier"];
/// Flags that mean √C.
const ROOT: [&str; 4] = ["scale_embedding", "scale_embeddings", "rescale_embeddings", "mup_enabled"];

/// Every key that is read here.
pub(super) const KEYS: &[&str] = &[
    "embedding_multiplier",
    "scale_emb",
    "embedding_scale",
    "embedding_multiplier_scale",
    "mup_embedding_multiplier",
    "scale_embedding",
    "scale_embeddings",
    "rescale_embeddings",
    "mup_enabled",
];

impl EmbeddingScale {
    /// How `scale_embedding` says that the root is rounded first, where no model type says it.
    const ROUNDED: [(&str, Self); 2] = [("dtype", Self::RootInDType), ("bf16", Self::RootInBf16)];

    /// Reads it; `scale_embedding` of sinusoids belongs to them.
    pub(super) fn read(map: &Object, model_type: Option<&str>, is_sinusoidal: bool) -> Result<Self, ConfigError> {
        let factor = read(map, FACTOR, NUMBER, Value::as_f64)?;
        let mut root = is_sinusoidal.then_some(Self::None);
        for key in ROOT {
            let Some(value) = stated(map, key).filter(|_| !(is_sinusoidal && key == ROOT[0])) else { continue };
            let rounded = value.as_str().and_then(|text| Self::ROUNDED.iter().find(|(name, _)| *name == text));
            let this = match (value, rounded) {
                (Value::Bool(true), _) => Self::Root,
                (Value::Bool(false), _) => Self::None,
                (_, Some((_, scale))) => *scale,
                _ => return Err(wrong_type(key, value, "true or false")),
            };
            root = Some(root.filter(|root| *root != Self::None).unwrap_or(this));
        }
        Ok(match (factor, root) {
            (Some(factor), _) if factor != 1.0 => Self::Factor(factor),
            (_, Some(root)) => root,
            (Some(_), None) => Self::None,
            (None, None) => model_type::embedding_scale(model_type),
        })
    }

    pub(super) fn put(self, map: &mut Object) {
        let (key, value): (&str, Value) = match self {
            Self::None => (FACTOR[0], 1.0.into()),
            Self::Factor(factor) => (FACTOR[0], factor.into()),
            Self::Root => (ROOT[0], true.into()),
            rounded => {
                let name = Self::ROUNDED.iter().find(|(_, scale)| *scale == rounded).map(|(name, _)| *name);
                (ROOT[0], name.into())
            }
        };
        map.insert(key.to_string(), value);
    }

    pub(super) fn check(self) -> Result<(), ConfigError> {
        match self {
            Self::Factor(value) if !value.is_finite() => {
                Err(ConfigError::OutOfRange { name: FACTOR[0], value, expected: "a finite number" })
            }
            _ => Ok(()),
        }
    }
}

/// Keys of what a model does to its logits, and the value that changes nothing, if there is one besides `null`.
const LOGITS: [(&str, Option<f64>); 12] = [
    ("logits_scaling", Some(1.0)),
    ("logit_scale", Some(1.0)),
    ("lm_head_multiplier", Some(1.0)),
    ("output_multiplier", Some(1.0)),
    ("output_multiplier_scale", Some(1.0)),
    ("logits_mup_width_multiplier", Some(1.0)),
    ("mup_width_multiplier", Some(1.0)),
    ("final_logit_softcapping", None),
    ("output_logit_soft_cap", None),
    ("logits_soft_cap", None),
    ("logit_softcap", None),
    ("final_logits_soft_cap", None),
];

impl GptInputConfig {
    /// What token rows of a dtype are multiplied by; `None` for nothing.
    pub(crate) fn embed_scale(&self, dtype: DType) -> Option<f64> {
        let root = (self.n_embd as f64).sqrt();
        let of_positions = self.position.scales_embedding().then_some(root);
        match self.embedding_scale {
            EmbeddingScale::None => of_positions,
            EmbeddingScale::Factor(factor) => Some(factor * of_positions.unwrap_or(1.0)),
            EmbeddingScale::Root => Some(root),
            EmbeddingScale::RootInBf16 => Some(bf16::from_f32(root as f32).to_f64()),
            EmbeddingScale::RootInDType => Some(match dtype {
                DType::BF16 => bf16::from_f32(root as f32).to_f64(),
                DType::F16 => half::f16::from_f32(root as f32).to_f64(),
                _ => f64::from(root as f32), // the number is one of f32, whatever the tables are
            }),
        }
    }

    /// # Errors
    /// [`ConfigError::Unsupported`] if the model scales or caps its logits, which a head does not do.
    pub(crate) fn plain_logits(&self) -> Result<(), ConfigError> {
        let refused = |key: &str, value: String| {
            let instead = "make a head with `LmHead::new(layer.wte().clone())`, and apply it to the logits";
            Err(ConfigError::Unsupported { key: key.to_string(), value, instead })
        };
        for (key, same) in LOGITS {
            if let Some(value) =
                stated(&self.extra, key).filter(|value| value.as_f64().is_none() || value.as_f64() != same)
            {
                return refused(key, brief(value));
            }
        }
        let model_type = self.model_type();
        // MiniCPM divides by the width over that of the model it was tuned on.
        if let Some(base) =
            stated(&self.extra, "dim_model_base").filter(|base| base.as_u64() != Some(self.n_embd as u64))
        {
            return refused("dim_model_base", brief(base));
        }
        match model_type::logits(model_type) {
            Some((key, value)) if !self.extra.contains_key(key) => {
                refused(key, format!("{value}, as models of type {} have it", model_type.unwrap_or_default()))
            }
            _ => Ok(()),
        }
    }
}
