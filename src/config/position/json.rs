//! Reads and writes position schemes in a `config.json`.

use serde_json::Value;

use super::{DebertaConfig, PositionScheme, ShawConfig, SinusoidalConfig, SinusoidalLayout, T5Config};
use crate::config::fields::{Object, WHOLE, as_usize, brief, contradiction, flag, read, stated, wrong_type};
use crate::config::model_type::{Own, ignores_absolute, names_its_scheme, own_positions};
use crate::config::rotary::{self, Rotations};
use crate::config::scale::SCALE_EMBEDDING;
use crate::config::words::{self, About};
use crate::error::ConfigError;

const KEY: &str = "position_embedding_type";
const EXPECTED: &str = "learned (absolute), sinusoidal, none, transformer-xl, rope, alibi, t5, shaw or deberta";
const ALIBI: &[&str] = &["alibi", "use_alibi"];
/// The architecture of a GGUF whose positions are not known.
const ARCHITECTURE: &str = "general.architecture";
/// MPT's object of what belongs to attention.
const ATTN_CONFIG: &str = "attn_config";
const NUM_BUCKETS: &str = "relative_attention_num_buckets";
const MAX_DISTANCE: &str = "relative_attention_max_distance";
const IS_DECODER: &str = "is_decoder";
const LEFT: &str = "left_max_position_embeddings";
const RIGHT: &str = "right_max_position_embeddings";
const VALUES: &str = "relative_value";
const BUCKETS: &str = "position_buckets";
const MAX_RELATIVE: &str = "max_relative_positions";
const POS_ATT_TYPE: &str = "pos_att_type";

/// The keys that are read here, besides those of [`ALIBI`] and of rotary positions.
const KEYS: [&str; 12] = [
    KEY,
    ATTN_CONFIG,
    SinusoidalLayout::KEY,
    NUM_BUCKETS,
    MAX_DISTANCE,
    IS_DECODER,
    LEFT,
    RIGHT,
    VALUES,
    BUCKETS,
    MAX_RELATIVE,
    POS_ATT_TYPE,
];

/// Those that a scheme has to be named for.
const PARAMETERS: [&str; 8] =
    [SinusoidalLayout::KEY, NUM_BUCKETS, MAX_DISTANCE, LEFT, RIGHT, BUCKETS, MAX_RELATIVE, POS_ATT_TYPE];

impl PositionScheme {
    /// Returns whether a key of a `config.json` belongs to positions.
    pub(in crate::config) fn reads(key: &str) -> bool {
        KEYS.contains(&key) || ALIBI.contains(&key) || rotary::reads(key)
    }

    /// Reads the scheme out of the keys of a `config.json`, or else by the type of the model; `None` if neither says it.
    /// `rest` are its other keys.
    pub(in crate::config) fn read(
        map: &Object,
        rest: &Object,
        model_type: Option<&str>,
        n_positions: Option<usize>,
    ) -> Result<Option<Self>, ConfigError> {
        words::refuse(rest, About::Positions, model_type)?;
        if let Some((key, value)) = rest.get_key_value(ARCHITECTURE) {
            return Err(ConfigError::Unsupported {
                key: key.clone(),
                value: brief(value),
                instead: "state what it does in a configuration of your own (`CheckpointOptions::with_config_json`)",
            });
        }
        let scheme = Self::read_known(map, rest, model_type, n_positions)?;
        let off = rest.iter().find(|(key, value)| {
            *value == &Value::Bool(false)
                && words::about(key, true) == Some(About::Positions)
                && words::says_learned(key)
        });
        match off {
            Some((key, value)) if matches!(scheme, None | Some(Self::Learned)) => Err(ConfigError::Unsupported {
                key: key.clone(),
                value: brief(value),
                instead: "state `position_embedding_type` in its place",
            }),
            _ => Ok(scheme),
        }
    }

    fn read_known(
        map: &Object,
        rest: &Object,
        model_type: Option<&str>,
        n_positions: Option<usize>,
    ) -> Result<Option<Self>, ConfigError> {
        let rotary =
            || -> Result<_, ConfigError> { Ok(Some(Rotations::read(map, rest, model_type, n_positions)?.into())) };
        let named = stated(map, KEY);
        let scheme: Option<Self> = match named {
            Some(name) => {
                Some(name.as_str().and_then(|name| name.parse().ok()).ok_or_else(|| wrong_type(KEY, name, EXPECTED))?)
            }
            None => None,
        };
        let alibi = alibi(map)?;
        let other = match alibi {
            _ if names_its_scheme(model_type) => None,
            Some(("alibi", _)) | None => Rotations::stated(map),
            _ => None,
        };
        let Some((scheme, named)) = scheme.zip(named) else {
            // Models with only one scheme do not name it. Those with ALiBi may have the keys of rotary positions as
            // well.
            return match (alibi, other) {
                (Some((_, true)), _) => Ok(Some(Self::Alibi)),
                (_, Some(_)) => rotary(),
                (_, None) => match own_positions(model_type) {
                    Some(Own::Rotary(_)) => rotary(),
                    Some(Own::Alibi) if alibi.is_none() => Ok(Some(Self::Alibi)),
                    own => match PARAMETERS.iter().find(|key| says_something(map, key)) {
                        Some(key) => Err(ConfigError::Needed { key: KEY, by: format!("`{key}`") }),
                        None => Ok(own.map(|own| if matches!(own, Own::None) { Self::None } else { Self::Learned })),
                    },
                },
            };
        };
        match (&scheme, alibi, other) {
            (Self::Alibi, ..) => {}
            (_, Some((key, true)), _) => return Err(contradiction((KEY, named), (key, &Value::Bool(true)))),
            (Self::Learned, _, Some(_)) if ignores_absolute(model_type) => return rotary(),
            (Self::Learned | Self::Sinusoidal(_), _, Some(rotary)) => return Err(contradiction((KEY, named), rotary)),
            _ => {}
        }
        let count = |key: &'static str| read(map, &[key], WHOLE, as_usize);
        Ok(Some(match scheme {
            Self::T5(T5Config { num_buckets, max_distance, bidirectional }) => Self::T5(T5Config {
                num_buckets: count(NUM_BUCKETS)?.unwrap_or(num_buckets),
                max_distance: count(MAX_DISTANCE)?.unwrap_or(max_distance),
                bidirectional: flag(map, &[IS_DECODER])?.map_or(bidirectional, |is_decoder| !is_decoder),
            }),
            Self::Shaw(ShawConfig { left, right, values }) => Self::Shaw(ShawConfig {
                left: count(LEFT)?.unwrap_or(left),
                right: count(RIGHT)?.unwrap_or(right),
                values: flag(map, &[VALUES])?.unwrap_or(values),
            }),
            Self::Deberta(default) => Self::Deberta(DebertaConfig::read(map, default)?),
            Self::Sinusoidal(default) => {
                let layout = |value: &Value| value.as_str()?.parse().ok();
                let layout: Option<SinusoidalLayout> =
                    read(map, &[SinusoidalLayout::KEY], SinusoidalLayout::EXPECTED, layout)?;
                let scale_embedding = flag(map, &[SCALE_EMBEDDING])?.unwrap_or(default.scale_embedding);
                Self::Sinusoidal(SinusoidalConfig { layout: layout.unwrap_or(default.layout), scale_embedding })
            }
            Self::Rotary(_) => return rotary(),
            other => other,
        }))
    }

    /// Writes what [`read`](Self::read) reads, in place of what is there.
    pub(in crate::config) fn put(&self, map: &mut Object, rest: &Object, model_type: Option<&str>, n_layer: usize) {
        let attn_config = map.remove(ATTN_CONFIG);
        map.retain(|key, _| !Self::reads(key));
        if let Some(Value::Object(mut attn_config)) = attn_config {
            attn_config.remove("alibi");
            attn_config.remove("rope");
            map.insert(ATTN_CONFIG.to_string(), attn_config.into());
        }
        if *self == Self::Learned && matches!(Self::read_known(map, rest, model_type, None), Ok(Some(Self::Learned))) {
            return;
        }
        map.insert(KEY.to_string(), self.name().into());
        let says_scale = map.contains_key(SCALE_EMBEDDING);
        let mut put = |key: &str, value: Value| map.insert(key.to_string(), value);
        match self {
            Self::Sinusoidal(sinusoidal) => {
                put(SinusoidalLayout::KEY, sinusoidal.layout.to_string().into());
                if sinusoidal.scale_embedding || says_scale {
                    put(SCALE_EMBEDDING, sinusoidal.scale_embedding.into());
                }
            }
            &Self::T5(T5Config { num_buckets, max_distance, bidirectional }) => {
                put(NUM_BUCKETS, num_buckets.into());
                put(MAX_DISTANCE, max_distance.into());
                put(IS_DECODER, (!bidirectional).into());
            }
            &Self::Shaw(ShawConfig { left, right, values }) => {
                put(LEFT, left.into());
                put(RIGHT, right.into());
                put(VALUES, values.into());
            }
            &Self::Deberta(DebertaConfig { position_buckets, max_relative_positions, c2p, p2c }) => {
                put(BUCKETS, position_buckets.map_or(Value::from(-1), Value::from));
                put(MAX_RELATIVE, max_relative_positions.into());
                let kinds = [(c2p, "c2p"), (p2c, "p2c")];
                put(POS_ATT_TYPE, kinds.iter().filter(|(on, _)| *on).map(|(_, kind)| *kind).collect());
            }
            Self::Rotary(rotary) => Rotations::One(rotary.clone()).put(map, model_type, n_layer),
            Self::RotaryByLayerType(by_type) => Rotations::ByLayerType(by_type.clone()).put(map, model_type, n_layer),
            Self::Learned | Self::None | Self::TransformerXl | Self::Alibi => {}
        }
    }
}

impl From<Rotations> for PositionScheme {
    fn from(rotations: Rotations) -> Self {
        match rotations {
            Rotations::One(rotary) => Self::Rotary(rotary),
            Rotations::ByLayerType(by_type) => Self::RotaryByLayerType(by_type),
        }
    }
}

/// Returns whether a key states a parameter; -1 stands for none.
fn says_something(map: &Object, key: &str) -> bool {
    stated(map, key).is_some_and(|value| value.as_i64().is_none_or(|n| n > 0))
}

/// Returns whether a file states that its model has ALiBi, and the key that does.
fn alibi(map: &Object) -> Result<Option<(&'static str, bool)>, ConfigError> {
    let flagged = flag(map, ALIBI)?.map(|on| (ALIBI[0], on));
    let Some(attn_config) = stated(map, ATTN_CONFIG) else { return Ok(flagged) };
    let Value::Object(attn_config) = attn_config else { return Ok(flagged) };
    let refused = |key: &str, value: &Value, instead| ConfigError::Unsupported {
        key: format!("{ATTN_CONFIG}.{key}"),
        value: brief(value),
        instead,
    };
    if let Some(rope) = stated(attn_config, "rope").filter(|rope| rope.as_bool() != Some(false)) {
        return Err(refused("rope", rope, "state `rope_parameters` beside it, and remove the key"));
    }
    let Some(on) = flag(attn_config, &["alibi"])? else { return Ok(flagged) };
    match stated(attn_config, "alibi_bias_max").filter(|max| on && max.as_f64() != Some(8.0)) {
        Some(max) => Err(refused("alibi_bias_max", max, "only slopes down to 2^-8 are made")),
        None => Ok(Some((ATTN_CONFIG, on))),
    }
}

impl DebertaConfig {
    fn read(map: &Object, default: Self) -> Result<Self, ConfigError> {
        let whole = "a whole number of at least 1, or -1 for none";
        let optional = |value: &Value| match value.as_i64() {
            Some(n) if n < 1 => Some(None),
            _ => as_usize(value).map(Some),
        };
        // A list, or `c2p|p2c`.
        let kinds = |value: &Value| match value {
            Value::String(text) => Some((text.contains("c2p"), text.contains("p2c"))),
            Value::Array(list) => {
                let has = |kind: &str| list.iter().any(|entry| entry.as_str() == Some(kind));
                Some((has("c2p"), has("p2c")))
            }
            _ => None,
        };
        let stated = read(map, &[MAX_RELATIVE], whole, optional)?.flatten();
        let (c2p, p2c) = read(map, &[POS_ATT_TYPE], "a list of c2p and p2c", kinds)?.unwrap_or((true, true));
        Ok(Self {
            position_buckets: read(map, &[BUCKETS], whole, optional)?.unwrap_or(default.position_buckets),
            max_relative_positions: stated.unwrap_or(default.max_relative_positions),
            c2p,
            p2c,
        })
    }
}
