//! [`PositionScheme`]: how a model knows where its tokens stand, as a `config.json` says it.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};

use super::rotary::RotaryConfig;
use super::{as_usize, brief, take};
use crate::error::ConfigError;

const KEY: &str = "position_embedding_type";
const LAYOUT: &str = "sinusoidal_layout";
const EXPECTED: &str = "learned (absolute), sinusoidal, none, transformer-xl, rope, alibi, t5, shaw or deberta";

/// How a model knows where its tokens stand; plain data. What computes with it are the types of
/// [`position`](crate::position).
///
/// In a `config.json` the key `position_embedding_type` names it (`absolute`, or no such key, is [`Learned`](Self::Learned));
/// its numbers have the names that the `config.json` of a model with that scheme gives them, shown at each field.
///
/// ```
/// use candle_gpt_input::GptInputConfig;
/// use candle_gpt_input::position::PositionScheme;
///
/// let config = GptInputConfig::from_json(r#"{"position_embedding_type": "t5", "relative_attention_num_buckets": 8}"#)?;
/// assert_eq!(config.position, PositionScheme::T5 { num_buckets: 8, max_distance: 128, bidirectional: false });
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub enum PositionScheme {
    /// A learned row for each position, added to the input: the GPTs.
    #[default]
    Learned,
    /// A fixed row of sines and cosines for each position, added to the input.
    Sinusoidal {
        /// `sinusoidal_layout`: `interleaved`, `halves` or `tensor2tensor`.
        layout: SinusoidalLayout,
    },
    /// No positions: what a causal mask tells is all the model knows (arXiv:2305.19466).
    None,
    /// Transformer-XL: scores of content and of distance, with learned u, v and a projection in each block.
    TransformerXl,
    /// Rotary: queries and keys are rotated by their positions.
    Rotary(RotaryConfig),
    /// ALiBi: a penalty that grows with the distance, each head with a slope of its own.
    Alibi,
    /// T5: a learned number for each bucket of distances and each head, the same in all blocks.
    T5 {
        /// `relative_attention_num_buckets`.
        num_buckets: usize,
        /// `relative_attention_max_distance`: all distances from here on share a bucket.
        max_distance: usize,
        /// Whether later keys have buckets of their own; `is_decoder: true` says no.
        bidirectional: bool,
    },
    /// Shaw: a learned vector for each clipped distance, added to the keys and, if wanted, to the values; own ones in each
    /// block.
    Shaw {
        /// `left_max_position_embeddings`: distances to the left are clipped to this.
        left: usize,
        /// `right_max_position_embeddings`: distances to the right are clipped to this.
        right: usize,
        /// `relative_value`: whether the values have vectors too.
        values: bool,
    },
    /// DeBERTa: content and distance attend to each other, with one table of distances and projections in each block.
    Deberta {
        /// `position_buckets`: logarithmic buckets a side; `None` (-1 in the file) gives every distance its own row.
        position_buckets: Option<usize>,
        /// `max_relative_positions`: distances are clipped to this.
        max_relative_positions: usize,
        /// `pos_att_type` has `c2p`: queries attend to distances.
        c2p: bool,
        /// `pos_att_type` has `p2c`: distances attend to keys.
        p2c: bool,
    },
}

/// How the sines and cosines of sinusoidal positions lie in a row; three are in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SinusoidalLayout {
    /// sin, cos, sin, cos, …: the paper, DistilBERT.
    #[default]
    Interleaved,
    /// All sines, then all cosines: Marian, Pegasus, Transformer-XL.
    Halves,
    /// All sines, then all cosines, of frequencies that reach 1/10000: tensor2tensor, fairseq, M2M-100.
    Tensor2Tensor,
}

impl SinusoidalLayout {
    const ALL: [(&str, Self); 3] =
        [("interleaved", Self::Interleaved), ("halves", Self::Halves), ("tensor2tensor", Self::Tensor2Tensor)];
}

/// A learned table of a scheme: where it is in a file, how large, and how it starts.
#[derive(Clone, Debug)]
pub(crate) struct TableSpec {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    /// Drawn like the other tables, or else zeros.
    pub(crate) drawn: bool,
}

impl PositionScheme {
    /// The names of all schemes, each as [`FromStr`] reads it: with the numbers of the paper or the model it comes from.
    pub const NAMES: [&str; 9] =
        ["learned", "sinusoidal", "transformer-xl", "rope", "alibi", "t5", "shaw", "deberta", "none"];

    /// Its name in a configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Learned => "learned",
            Self::Sinusoidal { .. } => "sinusoidal",
            Self::None => "none",
            Self::TransformerXl => "transformer-xl",
            Self::Rotary(_) => "rope",
            Self::Alibi => "alibi",
            Self::T5 { .. } => "t5",
            Self::Shaw { .. } => "shaw",
            Self::Deberta { .. } => "deberta",
        }
    }

    /// Reads the scheme out of a `config.json`, whose keys it takes; `None` if it states none.
    pub(super) fn take(map: &mut Map<String, Value>) -> Result<Option<Self>, ConfigError> {
        let Some(stated) = map.get(KEY).filter(|value| !value.is_null()) else {
            // Models that know one scheme only do not name it.
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
            Self::T5 { num_buckets, max_distance, bidirectional } => Self::T5 {
                num_buckets: count("relative_attention_num_buckets")?.unwrap_or(num_buckets),
                max_distance: count("relative_attention_max_distance")?.unwrap_or(max_distance),
                bidirectional: take(map, &["is_decoder"], "true or false", Value::as_bool)?
                    .map_or(bidirectional, |is_decoder| !is_decoder),
            },
            Self::Shaw { left, right, values } => Self::Shaw {
                left: count("left_max_position_embeddings")?.unwrap_or(left),
                right: count("right_max_position_embeddings")?.unwrap_or(right),
                values: take(map, &["relative_value"], "true or false", Value::as_bool)?.unwrap_or(values),
            },
            Self::Deberta { max_relative_positions, position_buckets, .. } => {
                Self::take_deberta(map, max_relative_positions, position_buckets)?
            }
            Self::Sinusoidal { .. } => {
                let layout = |value: &Value| {
                    SinusoidalLayout::ALL
                        .iter()
                        .find(|(name, _)| Some(*name) == value.as_str())
                        .map(|(_, layout)| *layout)
                };
                let expected = "interleaved, halves or tensor2tensor";
                Self::Sinusoidal { layout: take(map, &[LAYOUT], expected, layout)?.unwrap_or_default() }
            }
            Self::Rotary(_) => Self::Rotary(RotaryConfig::take(map)?),
            other => other,
        }))
    }

    fn take_deberta(
        map: &mut Map<String, Value>,
        max_relative_positions: usize,
        position_buckets: Option<usize>,
    ) -> Result<Self, ConfigError> {
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
        Ok(Self::Deberta {
            position_buckets: take(map, &["position_buckets"], whole, optional)?.unwrap_or(position_buckets),
            max_relative_positions: stated.unwrap_or(max_relative_positions),
            c2p,
            p2c,
        })
    }

    /// Writes what [`take`](Self::take) reads.
    pub(super) fn put(&self, map: &mut Map<String, Value>) {
        if *self == Self::Learned {
            // Such a key was in the file, or it is not needed; another scheme's was taken out when it was read.
            if map.get(KEY).and_then(Value::as_str).is_some_and(|name| name.parse() != Ok(Self::Learned)) {
                map.remove(KEY);
            }
            return;
        }
        map.insert(KEY.to_string(), self.name().into());
        let mut put = |key: &str, value: Value| map.insert(key.to_string(), value);
        match self {
            Self::Sinusoidal { layout } => {
                let name = SinusoidalLayout::ALL.iter().find(|(_, known)| known == layout).map(|(name, _)| *name);
                put(LAYOUT, name.into());
            }
            &Self::T5 { num_buckets, max_distance, bidirectional } => {
                put("relative_attention_num_buckets", num_buckets.into());
                put("relative_attention_max_distance", max_distance.into());
                put("is_decoder", (!bidirectional).into());
            }
            &Self::Shaw { left, right, values } => {
                put("left_max_position_embeddings", left.into());
                put("right_max_position_embeddings", right.into());
                put("relative_value", values.into());
            }
            &Self::Deberta { position_buckets, max_relative_positions, c2p, p2c } => {
                put("position_buckets", position_buckets.map_or(Value::from(-1), Value::from));
                put("max_relative_positions", max_relative_positions.into());
                let kinds = [(c2p, "c2p"), (p2c, "p2c")];
                put("pos_att_type", kinds.iter().filter(|(on, _)| *on).map(|(_, kind)| *kind).collect());
            }
            Self::Rotary(rotary) => rotary.put(map),
            Self::Learned | Self::None | Self::TransformerXl | Self::Alibi => {}
        }
    }

    /// Checks the numbers of the scheme, and that the dimensions of the model suit it.
    pub(super) fn validate(&self, n_embd: usize, n_head: usize) -> Result<(), ConfigError> {
        let at_least = |name, value: usize, least: usize, expected| match value < least {
            true => Err(ConfigError::OutOfRange { name, value: value as f64, expected }),
            false => Ok(()),
        };
        match self {
            Self::Learned | Self::None => return Ok(()),
            Self::Sinusoidal { layout } => {
                let least = if *layout == SinusoidalLayout::Tensor2Tensor { 4 } else { 1 };
                return at_least("n_embd", n_embd, least, "at least 4, as tensor2tensor's frequencies need");
            }
            _ => {}
        }
        if n_head == 0 || !n_embd.is_multiple_of(n_head) {
            return Err(ConfigError::OutOfRange {
                name: "n_head",
                value: n_head as f64,
                expected: "a divisor of n_embd",
            });
        }
        match self {
            &Self::T5 { num_buckets, max_distance, bidirectional } => {
                let least = if bidirectional { 4 } else { 2 };
                let name = "relative_attention_num_buckets";
                at_least(name, num_buckets, least, "at least 2 for each direction")?;
                let max_exact = num_buckets / least;
                let name = "relative_attention_max_distance";
                at_least(name, max_distance, max_exact + 1, "more than the distances that have a bucket of their own")
            }
            &Self::Deberta { position_buckets, max_relative_positions, .. } => {
                at_least("max_relative_positions", max_relative_positions, 1, "at least 1")?;
                let Some(buckets) = position_buckets else { return Ok(()) };
                at_least("position_buckets", buckets, 2, "at least 2, or -1 for none")?;
                let expected = "more than half of position_buckets and 1";
                at_least("max_relative_positions", max_relative_positions, buckets / 2 + 2, expected)
            }
            Self::Rotary(rotary) => rotary.validate(n_embd / n_head),
            _ => Ok(()),
        }
    }

    /// The learned tables of the scheme, by the names under which they are kept beside `wte.weight`.
    pub(crate) fn tables(&self, n_positions: usize, n_embd: usize, n_head: usize, n_layer: usize) -> Vec<TableSpec> {
        let head_dim = n_embd.checked_div(n_head).unwrap_or(0);
        let table = |name: String, shape: &[usize], drawn| TableSpec { name, shape: shape.to_vec(), drawn };
        let in_blocks = |tables: &[(&str, &[usize], bool)]| {
            let of_block = |i: usize| {
                tables.iter().map(move |(name, shape, drawn)| table(format!("h.{i}.attn.{name}"), shape, *drawn))
            };
            (0..n_layer).flat_map(of_block).collect::<Vec<_>>()
        };
        match *self {
            Self::Learned => vec![table("wpe.weight".to_string(), &[n_positions, n_embd], true)],
            Self::T5 { num_buckets, .. } => {
                vec![table("relative_attention_bias.weight".to_string(), &[num_buckets, n_head], true)]
            }
            Self::TransformerXl => in_blocks(&[
                ("r_net.weight", &[n_embd, n_embd], true),
                ("r_w_bias", &[n_head, head_dim], true),
                ("r_r_bias", &[n_head, head_dim], true),
            ]),
            Self::Shaw { left, right, values } => {
                let shape: &[usize] = &[left + right + 1, head_dim];
                let all: [(&str, &[usize], bool); 2] =
                    [("distance_embedding.weight", shape, true), ("distance_embedding_value.weight", shape, true)];
                in_blocks(if values { &all } else { &all[..1] })
            }
            Self::Deberta { position_buckets, max_relative_positions, c2p, p2c } => {
                let span = position_buckets.unwrap_or(max_relative_positions);
                let mut tables = vec![table("rel_embeddings.weight".to_string(), &[2 * span, n_embd], true)];
                let (weight, bias): (&[usize], &[usize]) = (&[n_embd, n_embd], &[n_embd]);
                let mut block: Vec<(&str, &[usize], bool)> = Vec::new();
                if c2p {
                    block.extend([("pos_key_proj.weight", weight, true), ("pos_key_proj.bias", bias, false)]);
                }
                if p2c {
                    block.extend([("pos_query_proj.weight", weight, true), ("pos_query_proj.bias", bias, false)]);
                }
                tables.extend(in_blocks(&block));
                tables
            }
            Self::Sinusoidal { .. } | Self::None | Self::Rotary(_) | Self::Alibi => Vec::new(),
        }
    }
}

impl fmt::Display for PositionScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PositionScheme {
    type Err = ConfigError;

    /// A scheme by its name, or a name that other code bases have for it, with the numbers it is published with.
    fn from_str(name: &str) -> Result<Self, ConfigError> {
        Ok(match name {
            "learned" | "absolute" | "learned_absolute" => Self::Learned,
            "sinusoidal" => Self::Sinusoidal { layout: SinusoidalLayout::default() },
            "none" | "nope" => Self::None,
            "transformer-xl" | "transfo-xl" => Self::TransformerXl,
            "rope" | "rotary" => Self::Rotary(RotaryConfig::default()),
            "alibi" => Self::Alibi,
            "t5" => Self::T5 { num_buckets: 32, max_distance: 128, bidirectional: false },
            "shaw" | "relative_key" => Self::Shaw { left: 16, right: 16, values: name == "shaw" },
            "deberta" => {
                Self::Deberta { position_buckets: Some(256), max_relative_positions: 512, c2p: true, p2c: true }
            }
            _ => return Err(ConfigError::UnknownPosition { name: name.to_string(), known: Self::NAMES.join(", ") }),
        })
    }
}
