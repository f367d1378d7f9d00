//! [`EmbeddingScale`]: what token rows are multiplied by.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fields::{NUMBER, Object, number, read, stated, wrong_type};
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
/// The flag of sinusoids, and of √C elsewhere.
pub(super) const SCALE_EMBEDDING: &str = "scale_embedding";
/// Flags that mean √C.
const ROOT: [&str; 4] = [SCALE_EMBEDDING, "scale_embeddings", "rescale_embeddings", "mup_enabled"];

/// Returns whether a key is read here.
pub(super) fn reads(key: &str) -> bool {
    FACTOR.contains(&key) || ROOT.contains(&key)
}

impl EmbeddingScale {
    /// How `scale_embedding` says that the root is rounded first, where no model type says it.
    const ROUNDED: [(&str, Self); 2] = [("dtype", Self::RootInDType), ("bf16", Self::RootInBf16)];

    /// Reads it; `scale_embedding` of sinusoids belongs to them.
    pub(super) fn read(map: &Object, of_type: Self, is_sinusoidal: bool) -> Result<Self, ConfigError> {
        let factor = read(map, FACTOR, NUMBER, Value::as_f64)?;
        let mut root = is_sinusoidal.then_some(Self::None);
        for key in ROOT {
            let Some(value) = stated(map, key).filter(|_| !(is_sinusoidal && key == SCALE_EMBEDDING)) else { continue };
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
            (None, None) => of_type,
        })
    }

    pub(super) fn put(self, map: &mut Object) {
        let (key, value): (&str, Value) = match self {
            Self::None => (FACTOR[0], 1.0.into()),
            Self::Factor(factor) => (FACTOR[0], number(factor)),
            Self::Root => (SCALE_EMBEDDING, true.into()),
            rounded => {
                let name = Self::ROUNDED.iter().find(|(_, scale)| *scale == rounded).map(|(name, _)| *name);
                (SCALE_EMBEDDING, name.into())
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
