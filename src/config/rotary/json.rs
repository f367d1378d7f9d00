//! Rotary positions in a `config.json`: read in all the forms that transformers has had for them, and written in its
//! last.

use std::collections::BTreeMap;

use serde_json::Value;

use super::parameters::RotaryConfig;
use super::scaling::RotaryScaling;
use crate::config::fields::{NUMBER, Object, WHOLE, as_usize, brief, contradiction, flag, read, stated, wrong_type};
use crate::config::model_type::{self, Rotation, rotation};
use crate::error::ConfigError;

pub(super) const PARAMETERS: &str = "rope_parameters";
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
pub(super) const ORIGINAL: &str = "original_max_position_embeddings";
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// Returns whether a key is read here.
pub(in crate::config) fn reads(key: &str) -> bool {
    [PARAMETERS, SCALING, ROTARY_DIM, ROTARY, ORIGINAL].contains(&key)
        || [THETA, SLIDING_THETA, PARTIAL, INTERLEAVE].iter().any(|names| names.contains(&key))
}

/// Keys that change a rotation in ways that are not computed here, and the values that change nothing.
const UNSUPPORTED: [(&str, f64); 7] = [
    ("general.architecture", 0.0), // a GGUF of which it is not known how its pairs lie
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
    /// Returns the key that states rotary positions, if there is one.
    pub(in crate::config) fn stated(map: &Object) -> Option<(&'static str, &Value)> {
        let keys = [PARAMETERS, SCALING, ROTARY_DIM, ROTARY].into_iter();
        let keys = keys.chain([THETA, SLIDING_THETA, PARTIAL].into_iter().flatten().copied());
        // `rotary: false`, and 0 for a part or a number of dimensions, say the opposite.
        let says_so = |value: &Value| value.as_bool() != Some(false) && value.as_f64() != Some(0.0);
        keys.filter_map(|key| Some((key, stated(map, key)?))).find(|(key, value)| *key == SCALING || says_so(value))
    }

    /// Reads the keys of `map` that [`reads`] names; `rest` are the other keys of the file.
    pub(in crate::config) fn read(
        map: &Object,
        rest: &Object,
        n_positions: Option<usize>,
    ) -> Result<Self, ConfigError> {
        refuse(map, rest)?;
        let of_type = rotation(model_type::of(rest));
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

/// Joins `rope_parameters` and `rope_scaling`.
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

/// Refuses the keys that change a rotation in ways that are not computed here.
fn refuse(map: &Object, rest: &Object) -> Result<(), ConfigError> {
    let refused = |key: &str, value: &Value| ConfigError::Unsupported {
        key: key.to_string(),
        value: brief(value),
        instead: "rotate with a `Rotary` of your own, and open the weights with a configuration without the key",
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
            value: brief(value),
            instead: "leave those blocks without `rotate`, and remove the key",
        }),
        None => Ok(()),
    }
}

/// Reads the rotation of one object of parameters. A length beside the object, `trained_on`, takes precedence.
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
