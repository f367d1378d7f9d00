//! Rotary positions in a `config.json`: read in all the forms that transformers has had for them, and written in its
//! last.

use std::collections::BTreeMap;

use serde_json::Value;

use super::parameters::RotaryConfig;
use super::scaling::RotaryScaling;
use crate::config::fields::{
    NUMBER, Object, WHOLE, as_usize, brief, contradiction, flag, needed, number, read, stated, wrong_type,
};
use crate::config::model_type::{Rotated, Rotation, rotation};
use crate::config::text_limits::MAX_LAYERS;
use crate::config::words::{self, About};
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
/// Layers that are not rotated: one number for each layer, 0 for those, or each layer of so many.
const NO_ROPE: &str = "no_rope_layers";
const NO_ROPE_INTERVAL: &str = "no_rope_layer_interval";
/// The names of such layers, where a model has none for them.
const ROTATED: &str = "rope";
const NOT_ROTATED: &str = "no_rope";
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// Returns whether a key is read here.
pub(in crate::config) fn reads(key: &str) -> bool {
    [PARAMETERS, SCALING, ROTARY_DIM, ROTARY, ORIGINAL, NO_ROPE, NO_ROPE_INTERVAL].contains(&key)
        || [THETA, SLIDING_THETA, PARTIAL, INTERLEAVE].iter().any(|names| names.contains(&key))
}

/// Keys that change a rotation in ways that are not computed here, and the values that change nothing.
const UNSUPPORTED: [(&str, f64); 1] = [("global_head_dim", 0.0)];
/// The same inside of `rope_parameters`.
const UNSUPPORTED_INSIDE: [(&str, f64); 4] =
    [("alpha", 1.0), ("short_mscale", 1.0), ("long_mscale", 1.0), ("llama_4_scaling_beta", 0.0)];

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
        model_type: Option<&str>,
        n_positions: Option<usize>,
    ) -> Result<Self, ConfigError> {
        refuse(map, rest)?;
        let of_type = rotation(model_type);
        let inner = parameters(map)?;
        if inner.is_empty() && of_type.is_some_and(|rotation| rotation.is_scaled) {
            return Err(needed(PARAMETERS, model_type));
        }
        let rotary_dim = read(map, &[ROTARY_DIM], WHOLE, as_usize)?.filter(|&n| n > 0);
        // GPT-J's keys, where nothing else is known of the model.
        let has_theta = !inner.is_empty() || THETA.iter().any(|key| stated(map, key).is_some());
        let as_gptj = of_type.is_none() && !has_theta && (rotary_dim.is_some() || flag(map, &[ROTARY])? == Some(true));
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
        match of_type.rotated {
            Rotated::Sliding => return Ok(layers(None, full)),
            // The classes have a window where the file is silent.
            Rotated::SlidingIfAny if !rest.get("sliding_window").is_some_and(Value::is_null) => {
                return Ok(layers(None, full));
            }
            _ => {}
        }
        if leaves_some_out(map, of_type)? {
            let by_type = [(ROTATED.to_string(), Some(full)), (NOT_ROTATED.to_string(), None)];
            return Ok(Self::ByLayerType(by_type.into()));
        }
        let sliding = match sliding_theta {
            Some(rope_theta) => RotaryConfig { rope_theta, ..base },
            None if of_type.only_full_is_scaled => RotaryConfig { scaling: RotaryScaling::None, ..full.clone() },
            None => return Ok(Self::One(full)),
        };
        Ok(layers(Some(full), sliding))
    }

    pub(in crate::config) fn put(&self, map: &mut Object, model_type: Option<&str>, n_layer: usize) {
        let shared = match self {
            Self::One(rotary) => {
                if rotation(model_type).is_some_and(|of_type| of_type.rotated == Rotated::ThreeOfFour) {
                    map.insert(NO_ROPE.to_string(), vec![1; n_layer.clamp(1, MAX_LAYERS)].into());
                }
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
        for object in [inner].into_iter().chain(inner.values().filter_map(Value::as_object)) {
            check(object, &UNSUPPORTED_INSIDE)?;
            // What stands beside the object elsewhere, or speaks of positions, is not one of its parameters.
            let is_other = |key: &&String| {
                let is_length = *key == ORIGINAL || THETA.contains(&key.as_str()) || PARTIAL.contains(&key.as_str());
                !is_length && *key != "rope_type" && words::about(key, true) == Some(About::Positions)
            };
            let others = object.keys().filter(is_other).filter_map(|key| Some((key, stated(object, key)?)));
            let mut others = others.filter(|(_, value)| value.as_bool() != Some(false) && !value.is_object());
            if let Some((key, value)) = others.next() {
                return Err(refused(key, value));
            }
        }
    }
    Ok(())
}

/// Returns whether some layers are not rotated.
fn leaves_some_out(map: &Object, of_type: &Rotation) -> Result<bool, ConfigError> {
    let of_layers = |value: &Value| {
        let is_rotated = |layer: &Value| match layer {
            Value::Bool(is_rotated) => Some(*is_rotated),
            number => number.as_u64().filter(|n| *n < 2).map(|n| n == 1),
        };
        value.as_array()?.iter().map(is_rotated).collect::<Option<Vec<bool>>>()
    };
    let layers = read(map, &[NO_ROPE], "a list with 0 or 1 for each layer", of_layers)?;
    let interval =
        read(map, &[NO_ROPE_INTERVAL], "a whole number of at least 1", |value| as_usize(value).filter(|n| *n > 0))?;
    Ok(match layers.filter(|layers| !layers.is_empty()) {
        Some(layers) => layers.contains(&false),
        None => interval.is_some() || of_type.rotated == Rotated::ThreeOfFour,
    })
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
        inner.insert(THETA[0].to_string(), number(self.rope_theta));
        if self.rotary_dim.is_none() {
            inner.insert(PARTIAL[0].to_string(), number(self.partial_rotary_factor));
        }
        inner
    }
}
