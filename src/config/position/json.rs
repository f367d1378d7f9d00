//! Reads and writes position schemes in a `config.json`.

use serde_json::{Map, Value};

use super::{DebertaConfig, PositionScheme, ShawConfig, SinusoidalConfig, SinusoidalLayout, T5Config};
use crate::config::fields::{as_usize, brief, take};
use crate::config::rotary::RotaryConfig;
use crate::error::ConfigError;

const KEY: &str = "position_embedding_type";
const SCALE: &str = "scale_embedding";
const EXPECTED: &str = "learned (absolute), sinusoidal, none, transformer-xl, rope, alibi, t5, shaw or deberta";

impl PositionScheme {
    /// Removes the keys of a scheme from a `config.json` and returns the scheme, or `None` if the file states none.
    pub(in crate::config) fn take(map: &mut Map<String, Value>) -> Result<Option<Self>, ConfigError> {
        let Some(stated) = map.get(KEY).filter(|value| !value.is_null()) else {
            // Models with only one scheme do not name it.
            if RotaryConfig::is_stated(map) {
                return Ok(Some(Self::Rotary(RotaryConfig::take(map)?)));
            }
            return Ok((map.get("alibi") == Some(&Value::Bool(true))).then_some(Self::Alibi));
        };
        let name = stated.as_str().unwrap_or_default();
        let scheme: Self = name.parse().map_err(|_| ConfigError::FieldType {
            key: KEY.to_string(),
            got: brief(stated),
            expected: EXPECTED,
        })?;
        if scheme == Self::Learned {
            return Ok(Some(scheme)); // the key stays as the file spells it
        }
        map.remove(KEY);
        let mut count = |key: &'static str| take(map, &[key], "a whole number", as_usize);
        Ok(Some(match scheme {
            Self::T5(T5Config { num_buckets, max_distance, bidirectional }) => Self::T5(T5Config {
                num_buckets: count("relative_attention_num_buckets")?.unwrap_or(num_buckets),
                max_distance: count("relative_attention_max_distance")?.unwrap_or(max_distance),
                bidirectional: take(map, &["is_decoder"], "true or false", Value::as_bool)?
                    .map_or(bidirectional, |is_decoder| !is_decoder),
            }),
            Self::Shaw(ShawConfig { left, right, values }) => Self::Shaw(ShawConfig {
                left: count("left_max_position_embeddings")?.unwrap_or(left),
                right: count("right_max_position_embeddings")?.unwrap_or(right),
                values: take(map, &["relative_value"], "true or false", Value::as_bool)?.unwrap_or(values),
            }),
            Self::Deberta(default) => Self::Deberta(DebertaConfig::take(map, default)?),
            Self::Sinusoidal(default) => {
                let layout = |value: &Value| value.as_str()?.parse().ok();
                let layout: Option<SinusoidalLayout> =
                    take(map, &[SinusoidalLayout::KEY], SinusoidalLayout::EXPECTED, layout)?;
                let scale = take(map, &[SCALE], "true or false", Value::as_bool)?;
                let scale_embedding = scale.unwrap_or(default.scale_embedding);
                Self::Sinusoidal(SinusoidalConfig { layout: layout.unwrap_or(default.layout), scale_embedding })
            }
            Self::Rotary(_) => Self::Rotary(RotaryConfig::take(map)?),
            other => other,
        }))
    }

    /// Writes what [`take`](Self::take) reads.
    pub(in crate::config) fn put(&self, map: &mut Map<String, Value>) {
        if *self == Self::Learned {
            // Keeps the file's own spelling of `learned`, and removes a key that names another scheme.
            if map.get(KEY).and_then(Value::as_str).is_some_and(|name| name.parse().ok() != Some(Self::Learned)) {
                map.remove(KEY);
            }
            return;
        }
        map.insert(KEY.to_string(), self.name().into());
        let mut put = |key: &str, value: Value| map.insert(key.to_string(), value);
        match self {
            Self::Sinusoidal(sinusoidal) => {
                put(SinusoidalLayout::KEY, sinusoidal.layout.to_string().into());
                if sinusoidal.scale_embedding {
                    put(SCALE, true.into());
                }
            }
            &Self::T5(T5Config { num_buckets, max_distance, bidirectional }) => {
                put("relative_attention_num_buckets", num_buckets.into());
                put("relative_attention_max_distance", max_distance.into());
                put("is_decoder", (!bidirectional).into());
            }
            &Self::Shaw(ShawConfig { left, right, values }) => {
                put("left_max_position_embeddings", left.into());
                put("right_max_position_embeddings", right.into());
                put("relative_value", values.into());
            }
            &Self::Deberta(DebertaConfig { position_buckets, max_relative_positions, c2p, p2c }) => {
                put("position_buckets", position_buckets.map_or(Value::from(-1), Value::from));
                put("max_relative_positions", max_relative_positions.into());
                let kinds = [(c2p, "c2p"), (p2c, "p2c")];
                put("pos_att_type", kinds.iter().filter(|(on, _)| *on).map(|(_, kind)| *kind).collect());
            }
            Self::Rotary(rotary) => rotary.put(map),
            Self::Learned | Self::None | Self::TransformerXl | Self::Alibi => {}
        }
    }
}

impl DebertaConfig {
    fn take(map: &mut Map<String, Value>, default: Self) -> Result<Self, ConfigError> {
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
        let stated = take(map, &["max_relative_positions"], whole, optional)?.flatten();
        let (c2p, p2c) = take(map, &["pos_att_type"], "a list of c2p and p2c", kinds)?.unwrap_or((true, true));
        Ok(Self {
            position_buckets: take(map, &["position_buckets"], whole, optional)?.unwrap_or(default.position_buckets),
            max_relative_positions: stated.unwrap_or(default.max_relative_positions),
            c2p,
            p2c,
        })
    }
}
