//! The factors of token rows on their way in, and of logits on their way out.

use candle_core::DType;
use half::{bf16, f16};

use super::fields::{brief, stated};
use super::input::GptInputConfig;
use super::model_type;
use super::scale::EmbeddingScale;
use super::words::{self, About, UNSCALED_HEAD};
use crate::error::ConfigError;

/// Factors of logits whose names do not say so.
const LOGITS: [&str; 4] =
    ["lm_head_multiplier", "output_multiplier", "output_multiplier_scale", "mup_width_multiplier"];

impl GptInputConfig {
    /// Returns the factor of token rows in tables of `dtype`, if they have one.
    pub(crate) fn embed_scale(&self, dtype: DType) -> Option<f64> {
        let root = (self.n_embd as f64).sqrt();
        let rounded = |dtype| match dtype {
            DType::BF16 => bf16::from_f32(root as f32).to_f64(),
            DType::F16 => f16::from_f32(root as f32).to_f64(),
            _ => f64::from(root as f32), // the number is one of f32, whatever the tables are
        };
        let of_positions = self.position.scales_embedding().then_some(root);
        match self.embedding_scale {
            EmbeddingScale::None => of_positions,
            EmbeddingScale::Factor(factor) => Some(factor * of_positions.unwrap_or(1.0)),
            EmbeddingScale::Root => Some(root),
            EmbeddingScale::RootInBf16 => Some(rounded(DType::BF16)),
            EmbeddingScale::RootInDType => Some(rounded(dtype)),
        }
    }

    /// Checks that the model neither scales nor caps its logits, which a head does not do.
    ///
    /// # Errors
    /// [`ConfigError::Unsupported`] with the key that says so.
    pub(crate) fn plain_logits(&self) -> Result<(), ConfigError> {
        let refused = |key: &str, value: String| {
            Err(ConfigError::Unsupported { key: key.to_string(), value, instead: UNSCALED_HEAD })
        };
        for key in LOGITS {
            if let Some(value) = stated(&self.extra, key).filter(|value| value.as_f64() != Some(1.0)) {
                return refused(key, brief(value));
            }
        }
        let model_type = self.model_type();
        words::refuse(&self.extra, About::Logits, model_type)?;
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
