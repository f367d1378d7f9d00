//! [`RotaryScaling`]: how rotary frequencies are changed for long sequences.

use serde::{Deserialize, Serialize};

use crate::config::builders::builders;

/// Scales rotary frequencies for long sequences: `rope_type` and its parameters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
#[non_exhaustive]
#[doc(alias = "rope_scaling", alias = "rope_type")]
pub enum RotaryScaling {
    /// `default`: no scaling.
    #[default]
    #[serde(rename = "default")]
    None,
    /// `linear`: all frequencies are divided (position interpolation, arXiv:2306.15595).
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// `dynamic`: the base grows with the sequence once that is longer than `n_positions` (NTK-aware).
    Dynamic {
        /// The scaling factor.
        factor: f64,
    },
    /// `yarn`: low frequencies are divided and high ones kept, with a ramp between (arXiv:2309.00071).
    Yarn(YarnScaling),
    /// `llama3`: as YaRN, by wavelength (arXiv:2407.21783, transformers' implementation).
    Llama3(Llama3Scaling),
    /// `longrope`, once called `su`: each frequency is divided by a factor of its own, from one of two lists
    /// (arXiv:2402.13753).
    #[doc(alias = "su")]
    LongRope(LongRopeScaling),
    /// `proportional`: the whole head has frequencies, of which the last are 0 with a `partial_rotary_factor` (Gemma
    /// 4).
    Proportional {
        /// What all frequencies are divided by.
        factor: f64,
    },
}

/// Holds the parameters of YaRN, by their names in `rope_parameters`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct YarnScaling {
    /// The divisor of low frequencies.
    pub factor: f64,
    /// The length the model was trained on; `None` means `n_positions`.
    pub original_max_position_embeddings: Option<usize>,
    /// Frequencies with more turns than this over that length are kept.
    pub beta_fast: f64,
    /// Frequencies with fewer turns than this are divided.
    pub beta_slow: f64,
    /// The factor of cosines and sines; `None` means the paper's 0.1 ln(factor) + 1.
    pub attention_factor: Option<f64>,
    /// With `mscale_all_dim`: makes the factor a quotient of two such terms (DeepSeek), with this one in the numerator.
    pub mscale: Option<f64>,
    /// The term in the denominator.
    pub mscale_all_dim: Option<f64>,
    /// Whether the ends of the ramp are rounded to whole dimensions.
    pub truncate: bool,
}

impl YarnScaling {
    /// Returns YaRN with this factor and the paper's other parameters: `beta_fast` 32, `beta_slow` 1.
    #[must_use]
    pub fn new(factor: f64) -> Self {
        Self {
            factor,
            original_max_position_embeddings: None,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: None,
            mscale: None,
            mscale_all_dim: None,
            truncate: true,
        }
    }
}

builders!(YarnScaling {
    with_original_max_position_embeddings(original_max_position_embeddings: usize, Some),
    with_beta_fast(beta_fast: f64),
    with_beta_slow(beta_slow: f64),
    with_attention_factor(attention_factor: f64, Some),
    with_mscale(mscale: f64, Some),
    with_mscale_all_dim(mscale_all_dim: f64, Some),
    with_truncate(truncate: bool),
});

impl From<YarnScaling> for RotaryScaling {
    fn from(yarn: YarnScaling) -> Self {
        Self::Yarn(yarn)
    }
}

/// Holds the parameters of Llama 3's scaling, by their names in `rope_parameters`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Llama3Scaling {
    /// The divisor of low frequencies.
    pub factor: f64,
    /// Wavelengths above the trained length divided by this belong to low frequencies.
    pub low_freq_factor: f64,
    /// Wavelengths below the trained length divided by this belong to high frequencies, which are kept.
    pub high_freq_factor: f64,
    /// The length the model was trained on; `None` means `n_positions`.
    pub original_max_position_embeddings: Option<usize>,
}

impl Llama3Scaling {
    /// Returns the scaling with this factor and Llama 3's other parameters: `low_freq_factor` 1, `high_freq_factor` 4.
    ///
    /// ```
    /// use candle_gpt_input::position::{Llama3Scaling, RotaryScaling};
    ///
    /// let llama3 = Llama3Scaling::new(8.0).with_original_max_position_embeddings(8192);
    /// assert_eq!((llama3.low_freq_factor, llama3.high_freq_factor), (1.0, 4.0));
    /// let scaling = RotaryScaling::from(llama3);
    /// ```
    #[must_use]
    pub fn new(factor: f64) -> Self {
        Self { factor, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position_embeddings: None }
    }
}

builders!(Llama3Scaling {
    with_low_freq_factor(low_freq_factor: f64),
    with_high_freq_factor(high_freq_factor: f64),
    with_original_max_position_embeddings(original_max_position_embeddings: usize, Some),
});

impl From<Llama3Scaling> for RotaryScaling {
    fn from(llama3: Llama3Scaling) -> Self {
        Self::Llama3(llama3)
    }
}

/// Holds the parameters of LongRoPE, by their names in `rope_parameters`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LongRopeScaling {
    /// What each frequency is divided by in sequences up to the trained length.
    pub short_factor: Vec<f64>,
    /// What each frequency is divided by in longer ones.
    pub long_factor: Vec<f64>,
    /// How much longer sequences may be than the trained length; the quotient of the two lengths if not given.
    pub factor: Option<f64>,
    /// What cosines and sines are multiplied by; √(1 + ln(factor) / ln(trained length)) if not given.
    pub attention_factor: Option<f64>,
    /// The length the model was trained on; `None` means `n_positions`.
    pub original_max_position_embeddings: Option<usize>,
}

impl LongRopeScaling {
    /// Returns LongRoPE by these factors, one for each pair of dimensions that is rotated.
    #[must_use]
    pub fn new(short_factor: Vec<f64>, long_factor: Vec<f64>) -> Self {
        Self { short_factor, long_factor, factor: None, attention_factor: None, original_max_position_embeddings: None }
    }
}

builders!(LongRopeScaling {
    with_factor(factor: f64, Some),
    with_attention_factor(attention_factor: f64, Some),
    with_original_max_position_embeddings(original_max_position_embeddings: usize, Some),
});

impl From<LongRopeScaling> for RotaryScaling {
    fn from(longrope: LongRopeScaling) -> Self {
        Self::LongRope(longrope)
    }
}
