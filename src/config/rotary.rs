//! [`RotaryConfig`]: the numbers of rotary positions, as `rope_parameters` of a `config.json` gives them.

use serde_json::{Map, Value};

use super::fields::{as_usize, brief, take};
use crate::error::ConfigError;

const PARAMETERS: &str = "rope_parameters";
/// What it was called before version 5 of transformers, when `rope_theta` stood beside it.
const SCALING: &str = "rope_scaling";
const THETA: [&str; 2] = ["rope_theta", "rotary_emb_base"];
const PARTIAL: [&str; 2] = ["partial_rotary_factor", "rotary_pct"];
const INTERLEAVE: &str = "rope_interleave";
const NUMBER: &str = "a number";

/// The numbers of rotary positions.
#[derive(Clone, Debug, PartialEq)]
pub struct RotaryConfig {
    /// `rope_theta`: the base of the frequencies.
    pub rope_theta: f64,
    /// `rope_interleave`: pairs are neighbours (GPT-J), not halves apart (Llama, GPT-NeoX).
    pub interleaved: bool,
    /// `partial_rotary_factor`: the first part of each head that is rotated.
    pub partial_rotary_factor: f64,
    /// How the frequencies are changed for longer sequences than the model was trained on.
    pub scaling: RotaryScaling,
}

/// How rotary frequencies are changed for long sequences: `rope_type` and what goes with it.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum RotaryScaling {
    /// `default`: not at all.
    #[default]
    None,
    /// `linear`: all are divided (position interpolation, arXiv:2306.15595).
    Linear {
        /// By what.
        factor: f64,
    },
    /// `dynamic`: the base grows with the sequence, once it is longer than `n_positions` (NTK-aware).
    Dynamic {
        /// How much.
        factor: f64,
    },
    /// `yarn`: low frequencies are divided, high ones stay, with a ramp between (arXiv:2309.00071).
    Yarn {
        /// By what low frequencies are divided.
        factor: f64,
        /// The length the model was trained on; `n_positions` if not given.
        original_max_position_embeddings: Option<usize>,
        /// Frequencies that turn more often than this in that length stay.
        beta_fast: f64,
        /// Frequencies that turn less often than this are divided.
        beta_slow: f64,
        /// By what cosines and sines are multiplied; the paper's 0.1 ln(factor) + 1 if not given.
        attention_factor: Option<f64>,
        /// (`mscale`, `mscale_all_dim`): the same as a quotient of two such terms (DeepSeek).
        mscale: Option<(f64, f64)>,
        /// Whether the ends of the ramp are whole dimensions.
        truncate: bool,
    },
    /// `llama3`: as YaRN, by wavelength (arXiv:2407.21783, transformers' implementation).
    Llama3 {
        /// By what low frequencies are divided.
        factor: f64,
        /// Wavelengths above the trained length over this are divided.
        low_freq_factor: f64,
        /// Wavelengths below the trained length over this stay.
        high_freq_factor: f64,
        /// The length the model was trained on; `n_positions` if not given.
        original_max_position_embeddings: Option<usize>,
    },
}

impl Default for RotaryConfig {
    /// The paper's: base 10000, whole heads, halves.
    fn default() -> Self {
        Self { rope_theta: 10000.0, interleaved: false, partial_rotary_factor: 1.0, scaling: RotaryScaling::None }
    }
}

impl RotaryConfig {
    /// Whether a configuration has keys of rotary positions.
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
            RotaryScaling::Yarn { factor, attention_factor, mscale, .. } => {
                let numbers = [attention_factor, mscale.map(|pair| pair.0), mscale.map(|pair| pair.1)];
                for (name, number) in ["attention_factor", "mscale", "mscale_all_dim"].into_iter().zip(numbers) {
                    let number = number.unwrap_or(1.0);
                    check(name, number, number.is_finite(), "a finite number")?;
                }
                factor
            }
            RotaryScaling::Dynamic { factor } => {
                check("head_dim", head_dim as f64, dim > 2, "large enough for dynamic scaling: more than 2 rotated")?;
                factor
            }
            RotaryScaling::Llama3 { factor, low_freq_factor, high_freq_factor, .. } => {
                let fits = high_freq_factor > low_freq_factor && low_freq_factor > 0.0;
                check("high_freq_factor", high_freq_factor, fits, "more than low_freq_factor, which is above 0")?;
                factor
            }
        };
        check("factor", factor, factor.is_finite() && factor >= 1.0, "at least 1")
    }

    /// How many numbers of a head are rotated, before an odd number is rounded up.
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
            "yarn" => Self::Yarn {
                factor: needed(number("factor")?)?,
                beta_fast: number("beta_fast")?.unwrap_or(32.0),
                beta_slow: number("beta_slow")?.unwrap_or(1.0),
                attention_factor: number("attention_factor")?,
                mscale: number("mscale")?.zip(number("mscale_all_dim")?),
                truncate: take(map, &["truncate"], "true or false", Value::as_bool)?.unwrap_or(true),
                original_max_position_embeddings: original(map)?,
            },
            "llama3" => Self::Llama3 {
                factor: needed(number("factor")?)?,
                low_freq_factor: number("low_freq_factor")?.unwrap_or(1.0),
                high_freq_factor: number("high_freq_factor")?.unwrap_or(4.0),
                original_max_position_embeddings: original(map)?,
            },
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
            Self::Yarn { factor, beta_fast, beta_slow, attention_factor, mscale, .. } => (
                "yarn",
                vec![
                    ("factor", Some(factor)),
                    ("beta_fast", Some(beta_fast)),
                    ("beta_slow", Some(beta_slow)),
                    ("attention_factor", attention_factor),
                    ("mscale", mscale.map(|pair| pair.0)),
                    ("mscale_all_dim", mscale.map(|pair| pair.1)),
                ],
            ),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, .. } => (
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
        if let Self::Yarn { truncate, .. } = self {
            map.insert("truncate".to_string(), (*truncate).into());
        }
        if let Self::Yarn { original_max_position_embeddings: Some(n), .. }
        | Self::Llama3 { original_max_position_embeddings: Some(n), .. } = self
        {
            map.insert(ORIGINAL.to_string(), (*n).into());
        }
    }
}

const ORIGINAL: &str = "original_max_position_embeddings";

fn original(map: &mut Map<String, Value>) -> Result<Option<usize>, ConfigError> {
    take(map, &[ORIGINAL], "a whole number", as_usize)
}
