//! Rotary positions in a `config.json`: read in all the forms that transformers has had for them, and written in its last.

use std::collections::BTreeMap;

use serde_json::Value;

use super::RotaryConfig;
use super::scaling::{Llama3Scaling, LongRopeScaling, RotaryScaling, YarnScaling};
use crate::config::fields::{NUMBER, Object, WHOLE, as_text, as_usize, contradiction, flag, read, stated, wrong_type};
use crate::config::model_type::{Rotation, rotation};
use crate::error::ConfigError;

const PARAMETERS: &str = "rope_parameters";
/// The key before version 5 of transformers, when `rope_theta` stood beside it.
const SCALING: &str = "rope_scaling";
const THETA: &[&str] = &["rope_theta", "rotary_emb_base", "global_rope_theta"];
/// The base in layers of a sliding window, where they have one of their own (Gemma 3, ModernBERT).
const SLIDING_THETA: &[&str] = &["rope_local_base_freq", "local_rope_theta"];
const PARTIAL: &[&str] = &["partial_rotary_factor", "rotary_pct", "rope_pct", "rotary_emb_fraction"];
const INTERLEAVE: &[&str] = &["rope_interleave", "rotary_emb_interleaved"];
const ROTARY_DIM: &str = "rotary_dim";
/// GPT-J's way to say that it rotates.
const ROTARY: &str = "rotary";
const ORIGINAL: &str = "original_max_position_embeddings";
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";
const KINDS: &str = "default, linear, dynamic, yarn, llama3, longrope or proportional";

/// Every key that is read here.
pub(in crate::config) const KEYS: &[&str] = &[
    PARAMETERS,
    SCALING,
    "rope_theta",
    "rotary_emb_base",
    "global_rope_theta",
    "rope_local_base_freq",
    "local_rope_theta",
    "partial_rotary_factor",
    "rotary_pct",
    "rope_pct",
    "rotary_emb_fraction",
    "rope_interleave",
    "rotary_emb_interleaved",
    ROTARY_DIM,
    ROTARY,
    ORIGINAL,
];

/// Keys that change a rotation in ways that are not computed here, and the values that change nothing.
const UNSUPPORTED: [(&str, f64); 6] = [
    ("rope_ratio", 1.0),
    ("rope_condense_ratio", 1.0),
    ("rotary_scaling_factor", 1.0),
    ("rotary_emb_scale_base", 0.0),
    ("partial_rotary_factors", 1.0),
    ("global_head_dim", 0.0),
];
/// The same inside of `rope_parameters`.
const UNSUPPORTED_INSIDE: [(&str, f64); 3] = [("alpha", 1.0), ("short_mscale", 1.0), ("long_mscale", 1.0)];

/// The rotation of all layers, or one for each type of layer; `None` for a type that is not rotated.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) enum Rotations {
    One(RotaryConfig),
    ByLayerType(BTreeMap<String, Option<RotaryConfig>>),
}

impl Rotations {
    /// The key that says that positions are rotary, if one does.
    pub(in crate::config) fn stated(map: &Object) -> Option<(&'static str, &Value)> {
        let keys = [PARAMETERS, SCALING, ROTARY_DIM, ROTARY].into_iter();
        let keys = keys.chain([THETA, SLIDING_THETA, PARTIAL].into_iter().flatten().copied());
        // `rotary: false`, and 0 for a part or a number of dimensions, say the opposite.
        let says_so = |value: &Value| value.as_bool() != Some(false) && value.as_f64() != Some(0.0);
        keys.filter_map(|key| Some((key, stated(map, key)?))).find(|(key, value)| *key == SCALING || says_so(value))
    }

    /// Reads what `map` has under [`KEYS`]; `rest` are the other keys of the file.
    pub(in crate::config) fn read(
        map: &Object,
        rest: &Object,
        n_positions: Option<usize>,
    ) -> Result<Self, ConfigError> {
        refuse(map, rest)?;
        let model_type = rest.get("model_type").and_then(Value::as_str);
        let of_type = rotation(model_type);
        let inner = parameters(map)?;
        let rotary_dim = read(map, &[ROTARY_DIM], WHOLE, as_usize)?.filter(|&n| n > 0);
        // GPT-J's keys, where nothing else is known of the model.
        let as_gptj = of_type.is_none() && (rotary_dim.is_some() || flag(map, &[ROTARY])? == Some(true));
        let of_type = of_type.unwrap_or(&Rotation::PLAIN);
        let theta = read(map, THETA, NUMBER, Value::as_f64)?;
        let partial = read(map, PARTIAL, NUMBER, Value::as_f64)?;
        let base = RotaryConfig {
            rope_theta: theta.unwrap_or(of_type.theta),
            interleaved: flag(map, INTERLEAVE)?.unwrap_or(as_gptj || of_type.interleaved),
            partial_rotary_factor: partial.unwrap_or(of_type.partial),
            rotary_dim: rotary_dim.or(of_type.rotary_dim),
            scaling: RotaryScaling::None,
        };
        if inner.values().any(Value::is_object) {
            let mut by_type = BTreeMap::new();
            for (layer_type, value) in &inner {
                let rotary = match value {
                    Value::Null => None,
                    Value::Object(parameters) => Some(one(parameters, &base, None, n_positions)?),
                    other => {
                        let key = format!("{PARAMETERS}.{layer_type}");
                        return Err(wrong_type(&key, other, "an object, as the other layer types have"));
                    }
                };
                by_type.insert(layer_type.clone(), rotary);
            }
            return Ok(Self::ByLayerType(by_type));
        }
        let trained_on = read(map, &[ORIGINAL], WHOLE, as_usize)?;
        let full = one(&inner, &base, trained_on, n_positions)?;
        let sliding_theta = read(map, SLIDING_THETA, NUMBER, Value::as_f64)?.or(of_type.sliding_theta);
        let layers = |full: Option<RotaryConfig>, sliding: RotaryConfig| {
            Self::ByLayerType(BTreeMap::from([(FULL.to_string(), full), (SLIDING.to_string(), Some(sliding))]))
        };
        if of_type.only_sliding && stated(rest, "sliding_window").is_some() {
            return Ok(layers(None, full));
        }
        let sliding = match sliding_theta {
            Some(rope_theta) => RotaryConfig { rope_theta, ..base },
            None if of_type.only_full_is_scaled => RotaryConfig { scaling: RotaryScaling::None, ..full.clone() },
            None => return Ok(Self::One(full)),
        };
        Ok(layers(Some(full), sliding))
    }

    pub(in crate::config) fn put(&self, map: &mut Object) {
        let shared = match self {
            Self::One(rotary) => {
                map.insert(PARAMETERS.to_string(), rotary.parameters().into());
                Some(rotary)
            }
            Self::ByLayerType(by_type) => {
                let of = |rotary: &Option<RotaryConfig>| rotary.as_ref().map(|rotary| Value::from(rotary.parameters()));
                let inner = by_type.iter().map(|(name, rotary)| (name.clone(), of(rotary).unwrap_or_default()));
                map.insert(PARAMETERS.to_string(), Value::Object(inner.collect()));
                by_type.values().flatten().next()
            }
        };
        let Some(shared) = shared else { return };
        map.insert(INTERLEAVE[0].to_string(), shared.interleaved.into());
        if let Some(n) = shared.rotary_dim {
            map.insert(ROTARY_DIM.to_string(), n.into());
        }
    }
}

/// `rope_parameters`, and what `rope_scaling` has besides.
fn parameters(map: &Object) -> Result<Object, ConfigError> {
    let mut inner = Object::new();
    for key in [PARAMETERS, SCALING] {
        let Some(value) = stated(map, key) else { continue };
        let Value::Object(object) = value else { return Err(wrong_type(key, value, "an object")) };
        for (name, value) in object {
            match inner.get(name) {
                Some(other) if other != value => {
                    return Err(contradiction((PARAMETERS, &map[PARAMETERS]), (SCALING, &map[SCALING])));
                }
                _ => inner.insert(name.clone(), value.clone()),
            };
        }
    }
    Ok(inner)
}

/// What is known to change a rotation, and is not computed here.
fn refuse(map: &Object, rest: &Object) -> Result<(), ConfigError> {
    let refused = |key: &str, value: &Value| ConfigError::Unsupported {
        key: key.to_string(),
        value: super::super::fields::brief(value),
        instead: "rotate with a `Rotary` of your own, and remove the key",
    };
    let check = |map: &Object, keys: &[(&'static str, f64)]| {
        let changes = |(key, same): &(&str, f64)| {
            let value = stated(map, key)?;
            (value.as_f64() != Some(*same) && value.as_bool() != Some(false)).then(|| refused(key, value))
        };
        keys.iter().find_map(changes).map_or(Ok(()), Err)
    };
    check(rest, &UNSUPPORTED)?;
    for key in [PARAMETERS, SCALING] {
        let Some(Value::Object(inner)) = map.get(key) else { continue };
        check(inner, &UNSUPPORTED_INSIDE)?;
        for nested in inner.values().filter_map(Value::as_object) {
            check(nested, &UNSUPPORTED_INSIDE)?;
        }
    }
    // One number a layer; 0 leaves it without rotation.
    let key = "no_rope_layers";
    match stated(rest, key) {
        Some(Value::Array(layers)) if layers.iter().all(|layer| layer.as_u64() == Some(1)) => Ok(()),
        Some(value) => Err(ConfigError::Unsupported {
            key: key.to_string(),
            value: super::super::fields::brief(value),
            instead: "leave those blocks without `rotate`, and remove the key",
        }),
        None => Ok(()),
    }
}

/// The rotation of one object of parameters. `trained_on` is what stands beside it, and comes first.
fn one(
    inner: &Object,
    base: &RotaryConfig,
    trained_on: Option<usize>,
    n_positions: Option<usize>,
) -> Result<RotaryConfig, ConfigError> {
    let theta = read(inner, THETA, NUMBER, Value::as_f64)?.unwrap_or(base.rope_theta);
    let partial = read(inner, PARTIAL, NUMBER, Value::as_f64)?;
    Ok(RotaryConfig {
        rope_theta: theta,
        partial_rotary_factor: partial.unwrap_or(base.partial_rotary_factor),
        // The number of dimensions is no fraction's to decide, unless a fraction is given for this very layer.
        rotary_dim: base.rotary_dim.filter(|_| partial.is_none()),
        scaling: RotaryScaling::read(inner, trained_on, n_positions)?,
        ..base.clone()
    })
}

impl RotaryConfig {
    fn parameters(&self) -> Object {
        let mut inner = Object::new();
        self.scaling.put(&mut inner);
        inner.insert(THETA[0].to_string(), self.rope_theta.into());
        if self.rotary_dim.is_none() {
            inner.insert(PARTIAL[0].to_string(), self.partial_rotary_factor.into());
        }
        inner
    }
}

impl RotaryScaling {
    fn read(map: &Object, beside: Option<usize>, n_positions: Option<usize>) -> Result<Self, ConfigError> {
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

    fn put(&self, map: &mut Object) {
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
                map.insert("short_factor".to_string(), longrope.short_factor.clone().into());
                map.insert("long_factor".to_string(), longrope.long_factor.clone().into());
                let numbers = vec![("factor", longrope.factor), ("attention_factor", longrope.attention_factor)];
                ("longrope", numbers, longrope.original_max_position_embeddings)
            }
        };
        map.insert("rope_type".to_string(), kind.into());
        map.extend(numbers.into_iter().filter_map(|(key, value)| Some((key.to_string(), value?.into()))));
        map.extend(trained_on.map(|n| (ORIGINAL.to_string(), n.into())));
    }
}

fn numbers(map: &Object, key: &'static str) -> Result<Option<Vec<f64>>, ConfigError> {
    let list = |value: &Value| value.as_array()?.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>();
    read(map, &[key], "a list of numbers", list)
}
