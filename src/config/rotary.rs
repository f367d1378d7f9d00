//! [`RotaryConfig`]: the parameters of rotary positions, as `rope_parameters` of a `config.json` states them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::builders::builders;
use super::fields::{as_usize, brief, take};
use crate::error::ConfigError;

const PARAMETERS: &str = "rope_parameters";
/// The key before version 5 of transformers, when `rope_theta` stood beside it.
const SCALING: &str = "rope_scaling";
const THETA: [&str; 2] = ["rope_theta", "rotary_emb_base"];
const PARTIAL: [&str; 2] = ["partial_rotary_factor", "rotary_pct"];
const INTERLEAVE: &str = "rope_interleave";
const NUMBER: &str = "a number";

/// Holds the parameters of rotary positions. The defaults are those of Llama in transformers.
///
/// ```
/// use candle_gpt_input::position::{RotaryConfig, YarnScaling};
///
/// let yarn = YarnScaling::new(4.0).with_original_max_position_embeddings(4096);
/// let config = RotaryConfig::default().with_rope_theta(5e5).with_scaling(yarn.into());
/// assert_eq!((config.rope_theta, config.partial_rotary_factor), (5e5, 1.0));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
#[doc(alias = "rope_parameters", alias = "RopeParameters")]
pub struct RotaryConfig {
    /// `rope_theta`: the base of the frequencies.
    pub rope_theta: f64,
    /// `rope_interleave`: pairs are neighbours (GPT-J) instead of half a head apart (Llama, GPT-NeoX).
    pub interleaved: bool,
    /// `partial_rotary_factor`: the fraction of each head, from its start, that is rotated.
    pub partial_rotary_factor: f64,
    /// How the frequencies change for sequences longer than those the model was trained on.
    pub scaling: RotaryScaling,
}

builders!(RotaryConfig {
    with_rope_theta(rope_theta: f64),
    with_interleaved(interleaved: bool),
    with_partial_rotary_factor(partial_rotary_factor: f64),
    with_scaling(scaling: RotaryScaling),
});

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

impl Default for RotaryConfig {
    /// Returns base 10000, whole heads, pairs half a head apart, and no scaling.
    fn default() -> Self {
        Self { rope_theta: 10000.0, interleaved: false, partial_rotary_factor: 1.0, scaling: RotaryScaling::None }
    }
}

impl RotaryConfig {
    /// Returns whether a configuration has keys of rotary positions.
    pub(super) fn is_stated(map: &Map<String, Value>) -> bool {
        [PARAMETERS, SCALING, THETA[0], THETA[1]].iter().any(|key| map.get(*key).is_some_and(|value| !value.is_null()))
    }

    pub(super) fn take(map: &mut Map<String, Value>) -> Result<Self, ConfigError> {
        let object = |value: &Value| value.as_object().cloned();
        let mut inner = Map::new();
        for key in [SCALING, PARAMETERS] {
            let Some(value) = map.remove(key).filter(|value| !value.is_null()) else { continue };
            let Some(object) = object(&value) else {
                let expected = "an object";
                return Err(ConfigError::FieldType { key: key.to_string(), got: brief(&value), expected });
            };
            inner.extend(object);
        }
        let default = Self::default();
        let theta = (take(&mut inner, &THETA, NUMBER, Value::as_f64)?, take(map, &THETA, NUMBER, Value::as_f64)?);
        let partial = (take(&mut inner, &PARTIAL, NUMBER, Value::as_f64)?, take(map, &PARTIAL, NUMBER, Value::as_f64)?);
        Ok(Self {
            rope_theta: theta.0.or(theta.1).unwrap_or(default.rope_theta),
            interleaved: take(map, &[INTERLEAVE], "true or false", Value::as_bool)?.unwrap_or(false),
            partial_rotary_factor: partial.0.or(partial.1).unwrap_or(default.partial_rotary_factor),
            scaling: RotaryScaling::take(&mut inner)?,
        })
    }

    pub(super) fn put(&self, map: &mut Map<String, Value>) {
        let mut inner = Map::new();
        self.scaling.put(&mut inner);
        inner.insert(THETA[0].to_string(), self.rope_theta.into());
        inner.insert(PARTIAL[0].to_string(), self.partial_rotary_factor.into());
        map.insert(PARAMETERS.to_string(), inner.into());
        map.insert(INTERLEAVE.to_string(), self.interleaved.into());
    }

    pub(crate) fn validate(&self, head_dim: usize) -> Result<(), ConfigError> {
        let check = |name, value: f64, fits: bool, expected| match fits {
            true => Ok(()),
            false => Err(ConfigError::OutOfRange { name, value, expected }),
        };
        check("rope_theta", self.rope_theta, self.rope_theta > 1.0 && self.rope_theta.is_finite(), "above 1")?;
        let partial = self.partial_rotary_factor;
        check("partial_rotary_factor", partial, partial > 0.0 && partial <= 1.0, "above 0 and at most 1")?;
        let dim = self.rotary_dim(head_dim);
        let fits = dim >= 1 && dim.next_multiple_of(2) <= head_dim;
        check("head_dim", head_dim as f64, fits, "even, or large enough that its rotated part is not empty")?;
        let factor = match self.scaling {
            RotaryScaling::None => return Ok(()),
            RotaryScaling::Linear { factor } => factor,
            RotaryScaling::Yarn(YarnScaling { factor, attention_factor, mscale, mscale_all_dim, .. }) => {
                let numbers = [attention_factor, mscale, mscale_all_dim];
                for (name, number) in ["attention_factor", "mscale", "mscale_all_dim"].into_iter().zip(numbers) {
                    let number = number.unwrap_or(1.0);
                    check(name, number, number.is_finite(), "a finite number")?;
                }
                factor
            }
            RotaryScaling::Dynamic { factor } => {
                let expected = "large enough: dynamic scaling needs more than 2 rotated elements";
                check("head_dim", head_dim as f64, dim > 2, expected)?;
                factor
            }
            RotaryScaling::Llama3(Llama3Scaling { factor, low_freq_factor, high_freq_factor, .. }) => {
                let fits = high_freq_factor > low_freq_factor && low_freq_factor > 0.0;
                check("high_freq_factor", high_freq_factor, fits, "more than low_freq_factor, which is above 0")?;
                factor
            }
        };
        check("factor", factor, factor.is_finite() && factor >= 1.0, "at least 1")
    }

    /// Returns how many elements of a head are rotated, before an odd count is rounded up.
    pub(crate) fn rotary_dim(&self, head_dim: usize) -> usize {
        (head_dim as f64 * self.partial_rotary_factor) as usize
    }
}

impl RotaryScaling {
    fn take(map: &mut Map<String, Value>) -> Result<Self, ConfigError> {
        let text = |value: &Value| value.as_str().map(str::to_string);
        let kind = match take(map, &["rope_type"], "a name", text)? {
            Some(kind) => kind,
            None => take(map, &["type"], "a name", text)?.unwrap_or_else(|| "default".to_string()),
        };
        let mut number = |key: &'static str| take(map, &[key], NUMBER, Value::as_f64);
        let needed = |value: Option<f64>| {
            let (within, kind) = (PARAMETERS, kind.clone());
            value.ok_or(ConfigError::MissingKey { within, kind, key: "factor" })
        };
        Ok(match kind.as_str() {
            "default" => Self::None,
            "linear" => Self::Linear { factor: needed(number("factor")?)? },
            "dynamic" => Self::Dynamic { factor: needed(number("factor")?)? },
            "yarn" => {
                let default = YarnScaling::new(needed(number("factor")?)?);
                Self::Yarn(YarnScaling {
                    beta_fast: number("beta_fast")?.unwrap_or(default.beta_fast),
                    beta_slow: number("beta_slow")?.unwrap_or(default.beta_slow),
                    attention_factor: number("attention_factor")?,
                    mscale: number("mscale")?,
                    mscale_all_dim: number("mscale_all_dim")?,
                    truncate: take(map, &["truncate"], "true or false", Value::as_bool)?.unwrap_or(default.truncate),
                    original_max_position_embeddings: original(map)?,
                    ..default
                })
            }
            "llama3" => {
                let default = Llama3Scaling::new(needed(number("factor")?)?);
                Self::Llama3(Llama3Scaling {
                    low_freq_factor: number("low_freq_factor")?.unwrap_or(default.low_freq_factor),
                    high_freq_factor: number("high_freq_factor")?.unwrap_or(default.high_freq_factor),
                    original_max_position_embeddings: original(map)?,
                    ..default
                })
            }
            _ => {
                let expected = "default, linear, dynamic, yarn or llama3";
                return Err(ConfigError::FieldType { key: "rope_type".to_string(), got: kind, expected });
            }
        })
    }

    fn put(&self, map: &mut Map<String, Value>) {
        let (kind, numbers): (&str, Vec<(&str, Option<f64>)>) = match *self {
            Self::None => ("default", vec![]),
            Self::Linear { factor } => ("linear", vec![("factor", Some(factor))]),
            Self::Dynamic { factor } => ("dynamic", vec![("factor", Some(factor))]),
            Self::Yarn(YarnScaling {
                factor, beta_fast, beta_slow, attention_factor, mscale, mscale_all_dim, ..
            }) => (
                "yarn",
                vec![
                    ("factor", Some(factor)),
                    ("beta_fast", Some(beta_fast)),
                    ("beta_slow", Some(beta_slow)),
                    ("attention_factor", attention_factor),
                    ("mscale", mscale),
                    ("mscale_all_dim", mscale_all_dim),
                ],
            ),
            Self::Llama3(Llama3Scaling { factor, low_freq_factor, high_freq_factor, .. }) => (
                "llama3",
                vec![
                    ("factor", Some(factor)),
                    ("low_freq_factor", Some(low_freq_factor)),
                    ("high_freq_factor", Some(high_freq_factor)),
                ],
            ),
        };
        map.insert("rope_type".to_string(), kind.into());
        map.extend(numbers.into_iter().filter_map(|(key, value)| Some((key.to_string(), value?.into()))));
        if let Self::Yarn(yarn) = self {
            map.insert("truncate".to_string(), yarn.truncate.into());
        }
        if let Self::Yarn(YarnScaling { original_max_position_embeddings: Some(n), .. })
        | Self::Llama3(Llama3Scaling { original_max_position_embeddings: Some(n), .. }) = self
        {
            map.insert(ORIGINAL.to_string(), (*n).into());
        }
    }
}

const ORIGINAL: &str = "original_max_position_embeddings";

fn original(map: &mut Map<String, Value>) -> Result<Option<usize>, ConfigError> {
    take(map, &[ORIGINAL], "a whole number", as_usize)
}
