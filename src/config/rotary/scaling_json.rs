//! Reads and writes [`RotaryScaling`] in `rope_parameters`.

use serde_json::Value;

use super::json::{ORIGINAL, PARAMETERS};
use super::scaling::{Llama3Scaling, LongRopeScaling, RotaryScaling, YarnScaling};
use crate::config::fields::{NUMBER, Object, WHOLE, as_text, as_usize, flag, number as finite_or_text, read, stated};
use crate::error::ConfigError;

const KINDS: &str = "default, linear, dynamic, yarn, llama3, longrope or proportional";

impl RotaryScaling {
    pub(super) fn read(map: &Object, beside: Option<usize>, n_positions: Option<usize>) -> Result<Self, ConfigError> {
        let kind = match read(map, &["rope_type"], "a name", as_text)? {
            Some(kind) => Some(kind),
            None => read(map, &["type"], "a name", as_text)?,
        };
        if let (None, Some(_)) = (&kind, stated(map, "factor")) {
            return Err(ConfigError::Needed { key: "rope_type", by: format!("`factor` in `{PARAMETERS}`") });
        }
        let kind = kind.unwrap_or_else(|| "default".to_string());
        let number = |key: &'static str| read(map, &[key], NUMBER, Value::as_f64);
        let missing = |key| ConfigError::MissingKey { within: PARAMETERS, kind: kind.clone(), key };
        let factor = || number("factor")?.ok_or(missing("factor"));
        let trained_on = match beside {
            Some(n) => Some(n),
            None => read(map, &[ORIGINAL], WHOLE, as_usize)?,
        };
        let length = || ConfigError::Needed { key: "max_position_embeddings", by: format!("`rope_type` {kind}") };
        if matches!(kind.as_str(), "yarn" | "llama3" | "longrope" | "su") && trained_on.is_none() {
            n_positions.ok_or_else(length)?;
        }
        Ok(match kind.as_str() {
            "default" => Self::None,
            "linear" => Self::Linear { factor: factor()? },
            "dynamic" => {
                n_positions.ok_or_else(length)?;
                Self::Dynamic { factor: factor()? }
            }
            // Phi-3 once called its longrope `su`, and `yarn` too.
            "yarn" | "longrope" | "su" if kind != "yarn" || stated(map, "short_factor").is_some() => {
                let list = |key| numbers(map, key)?.ok_or(missing(key));
                let factor = number("factor")?;
                if factor.is_none() && number("attention_factor")?.is_none() {
                    n_positions.ok_or_else(length)?;
                }
                Self::LongRope(LongRopeScaling {
                    factor,
                    attention_factor: number("attention_factor")?,
                    original_max_position_embeddings: trained_on,
                    ..LongRopeScaling::new(list("short_factor")?, list("long_factor")?)
                })
            }
            "yarn" => {
                // A factor of null is the quotient of the two lengths.
                let factor = match (map.get("factor"), n_positions) {
                    (Some(Value::Null), Some(n)) => n as f64 / trained_on.unwrap_or(n) as f64,
                    (Some(Value::Null), None) => return Err(length()),
                    _ => factor()?,
                };
                let default = YarnScaling::new(factor);
                Self::Yarn(YarnScaling {
                    beta_fast: number("beta_fast")?.filter(|beta| *beta != 0.0).unwrap_or(default.beta_fast),
                    beta_slow: number("beta_slow")?.filter(|beta| *beta != 0.0).unwrap_or(default.beta_slow),
                    attention_factor: number("attention_factor")?,
                    mscale: number("mscale")?,
                    mscale_all_dim: number("mscale_all_dim")?,
                    truncate: flag(map, &["truncate"])?.unwrap_or(default.truncate),
                    original_max_position_embeddings: trained_on,
                    ..default
                })
            }
            "llama3" => {
                let default = Llama3Scaling::new(factor()?);
                Self::Llama3(Llama3Scaling {
                    low_freq_factor: number("low_freq_factor")?.unwrap_or(default.low_freq_factor),
                    high_freq_factor: number("high_freq_factor")?.unwrap_or(default.high_freq_factor),
                    original_max_position_embeddings: trained_on,
                    ..default
                })
            }
            "proportional" => Self::Proportional { factor: number("factor")?.unwrap_or(1.0) },
            _ => {
                return Err(ConfigError::FieldType { key: "rope_type".to_string(), got: kind, expected: KINDS });
            }
        })
    }

    pub(super) fn put(&self, map: &mut Object) {
        let list = |factors: &[f64]| Value::Array(factors.iter().copied().map(finite_or_text).collect());
        let (kind, numbers, trained_on): (&str, Vec<(&str, Option<f64>)>, _) = match self {
            Self::None => ("default", vec![], None),
            Self::Linear { factor } => ("linear", vec![("factor", Some(*factor))], None),
            Self::Dynamic { factor } => ("dynamic", vec![("factor", Some(*factor))], None),
            Self::Proportional { factor } => ("proportional", vec![("factor", Some(*factor))], None),
            Self::Yarn(yarn) => {
                map.insert("truncate".to_string(), yarn.truncate.into());
                let numbers = vec![
                    ("factor", Some(yarn.factor)),
                    ("beta_fast", Some(yarn.beta_fast)),
                    ("beta_slow", Some(yarn.beta_slow)),
                    ("attention_factor", yarn.attention_factor),
                    ("mscale", yarn.mscale),
                    ("mscale_all_dim", yarn.mscale_all_dim),
                ];
                ("yarn", numbers, yarn.original_max_position_embeddings)
            }
            Self::Llama3(llama3) => {
                let numbers = vec![
                    ("factor", Some(llama3.factor)),
                    ("low_freq_factor", Some(llama3.low_freq_factor)),
                    ("high_freq_factor", Some(llama3.high_freq_factor)),
                ];
                ("llama3", numbers, llama3.original_max_position_embeddings)
            }
            Self::LongRope(longrope) => {
                map.insert("short_factor".to_string(), list(&longrope.short_factor));
                map.insert("long_factor".to_string(), list(&longrope.long_factor));
                let numbers = vec![("factor", longrope.factor), ("attention_factor", longrope.attention_factor)];
                ("longrope", numbers, longrope.original_max_position_embeddings)
            }
        };
        map.insert("rope_type".to_string(), kind.into());
        map.extend(numbers.into_iter().filter_map(|(key, value)| Some((key.to_string(), finite_or_text(value?)))));
        map.extend(trained_on.map(|n| (ORIGINAL.to_string(), n.into())));
    }
}

fn numbers(map: &Object, key: &'static str) -> Result<Option<Vec<f64>>, ConfigError> {
    let list = |value: &Value| value.as_array()?.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>();
    read(map, &[key], "a list of numbers", list)
}
