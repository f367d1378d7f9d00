//! [`PositionScheme`]: how a model encodes positions, as a `config.json` states it.

mod json;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::config::builders::builders;
use crate::config::rotary::RotaryConfig;
use crate::error::{ConfigError, Error};

/// Names a position scheme and holds its parameters. The types of [`position`](crate::position) compute with it.
///
/// In a `config.json` the key `position_embedding_type` names the scheme; `absolute`, or no scheme at all, is
/// [`Learned`](Self::Learned). Parameters have the keys of the models that use the scheme, shown at each field.
///
/// ```
/// use candle_gpt_input::GptInputConfig;
/// use candle_gpt_input::position::{PositionScheme, T5Config};
///
/// let json = r#"{"position_embedding_type": "t5", "relative_attention_num_buckets": 8}"#;
/// let config = GptInputConfig::from_json(json)?;
/// assert_eq!(config.position, PositionScheme::T5(T5Config::default().with_num_buckets(8)));
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
#[doc(alias = "position_embedding_type")]
pub enum PositionScheme {
    /// A learned row per position, added to the input, as in the GPTs.
    #[default]
    #[doc(alias = "absolute")]
    Learned,
    /// A fixed row of sines and cosines per position, added to the input.
    Sinusoidal(SinusoidalConfig),
    /// No positions: the causal mask is all that the model has (arXiv:2305.19466).
    #[doc(alias = "NoPE")]
    None,
    /// Transformer-XL: scores by content and by distance, with learned u, v and a projection in each block.
    TransformerXl,
    /// Rotary: queries and keys are rotated by their positions.
    #[serde(rename = "rope")]
    #[doc(alias = "RoPE")]
    Rotary(RotaryConfig),
    /// Rotary with numbers of their own for each type of layer (Gemma 3: `full_attention`, `sliding_attention`); `None`
    /// for layers that are not rotated.
    /// [`PositionEncoding::of_layer_type`](crate::position::PositionEncoding::of_layer_type) gives those of a type.
    #[serde(rename = "rope-by-layer-type")]
    RotaryByLayerType(BTreeMap<String, Option<RotaryConfig>>),
    /// ALiBi: a penalty that grows with the distance, with a slope per head.
    Alibi,
    /// T5: a learned bias per bucket of distances and head, shared by all blocks.
    #[doc(alias = "relative_attention_bias")]
    T5(T5Config),
    /// Shaw: a learned vector per clipped distance in each block, added to the keys and optionally to the values.
    #[doc(alias = "relative_key")]
    Shaw(ShawConfig),
    /// DeBERTa: content and distance attend to each other, with one table of distances and projections in each block.
    Deberta(DebertaConfig),
}

/// Holds the parameters of sinusoidal positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SinusoidalConfig {
    /// `sinusoidal_layout`: `interleaved`, `halves` or `tensor2tensor`.
    pub layout: SinusoidalLayout,
    /// `scale_embedding`: whether token rows are multiplied by √C before positions are added, as in the paper (section
    /// 3.4).
    pub scale_embedding: bool,
}

builders!(SinusoidalConfig { with_layout(layout: SinusoidalLayout), with_scale_embedding(scale_embedding: bool) });

/// Holds the parameters of T5's bias. The defaults are those of `transformers.T5Config`, for a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct T5Config {
    /// `relative_attention_num_buckets`.
    pub num_buckets: usize,
    /// `relative_attention_max_distance`: all distances from here on share a bucket.
    pub max_distance: usize,
    /// Whether later keys have buckets of their own; `is_decoder: true` means no.
    pub bidirectional: bool,
}

builders!(T5Config {
    with_num_buckets(num_buckets: usize),
    with_max_distance(max_distance: usize),
    with_bidirectional(bidirectional: bool),
});

impl Default for T5Config {
    /// Returns 32 buckets up to distance 128, for a decoder.
    fn default() -> Self {
        Self { num_buckets: 32, max_distance: 128, bidirectional: false }
    }
}

/// Holds the parameters of Shaw's vectors. The default is 16 distances per side, for keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ShawConfig {
    /// `left_max_position_embeddings`: distances to the left are clipped to this.
    pub left: usize,
    /// `right_max_position_embeddings`: distances to the right are clipped to this.
    pub right: usize,
    /// `relative_value`: whether the values have vectors too.
    pub values: bool,
}

builders!(ShawConfig { with_left(left: usize), with_right(right: usize), with_values(values: bool) });

impl Default for ShawConfig {
    /// Returns the paper's 16 distances per side, for keys and values.
    fn default() -> Self {
        Self { left: 16, right: 16, values: true }
    }
}

/// Holds the parameters of DeBERTa's positions. The defaults are those of DeBERTa-v3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct DebertaConfig {
    /// `position_buckets`: logarithmic buckets per side; `None` (-1 in the file) gives every distance its own row.
    pub position_buckets: Option<usize>,
    /// `max_relative_positions`: distances are clipped to this.
    pub max_relative_positions: usize,
    /// `pos_att_type` has `c2p`: queries attend to distances.
    pub c2p: bool,
    /// `pos_att_type` has `p2c`: distances attend to keys.
    pub p2c: bool,
}

builders!(DebertaConfig {
    with_position_buckets(position_buckets: Option<usize>),
    with_max_relative_positions(max_relative_positions: usize),
    with_c2p(c2p: bool),
    with_p2c(p2c: bool),
});

impl Default for DebertaConfig {
    /// Returns 256 buckets per side up to distance 512, with both terms.
    fn default() -> Self {
        Self { position_buckets: Some(256), max_relative_positions: 512, c2p: true, p2c: true }
    }
}

/// Orders the sines and cosines of sinusoidal positions within a row.
///
/// ```
/// use candle_gpt_input::position::SinusoidalLayout;
///
/// assert_eq!("halves".parse::<SinusoidalLayout>()?, SinusoidalLayout::Halves);
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum SinusoidalLayout {
    /// sin, cos, sin, cos, …: the paper, DistilBERT.
    #[default]
    Interleaved,
    /// All sines, then all cosines: Marian, Pegasus, Transformer-XL.
    Halves,
    /// All sines, then all cosines, with frequencies that reach 1/10000: tensor2tensor, fairseq, M2M-100.
    Tensor2Tensor,
}

impl SinusoidalLayout {
    /// Its key in a configuration.
    const KEY: &str = "sinusoidal_layout";
    const EXPECTED: &str = "interleaved, halves or tensor2tensor";
    const ALL: [Self; 3] = [Self::Interleaved, Self::Halves, Self::Tensor2Tensor];
}

impl fmt::Display for SinusoidalLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interleaved => "interleaved",
            Self::Halves => "halves",
            Self::Tensor2Tensor => "tensor2tensor",
        })
    }
}

impl FromStr for SinusoidalLayout {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Ok(ConfigError::one_of(Self::KEY, Self::ALL, Self::EXPECTED, text)?)
    }
}

impl PositionScheme {
    /// Lists the names of all schemes. [`FromStr`] reads each with its published parameters.
    pub const NAMES: [&str; 9] =
        ["learned", "sinusoidal", "transformer-xl", "rope", "alibi", "t5", "shaw", "deberta", "none"];

    /// Returns whether token rows are multiplied by √C before positions are added.
    pub(crate) fn scales_embedding(&self) -> bool {
        matches!(self, Self::Sinusoidal(SinusoidalConfig { scale_embedding: true, .. }))
    }

    /// Returns whether it depends on the number of heads.
    pub(in crate::config) fn needs_heads(&self) -> bool {
        !matches!(self, Self::Learned | Self::None | Self::Sinusoidal(_))
    }

    /// Returns whether every block has tables of it.
    pub(in crate::config) fn is_in_blocks(&self) -> bool {
        matches!(self, Self::TransformerXl | Self::Shaw(_) | Self::Deberta(_))
    }

    /// Returns the scheme's name in a configuration.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Learned => "learned",
            Self::Sinusoidal(_) => "sinusoidal",
            Self::None => "none",
            Self::TransformerXl => "transformer-xl",
            Self::Rotary(_) | Self::RotaryByLayerType(_) => "rope",
            Self::Alibi => "alibi",
            Self::T5(_) => "t5",
            Self::Shaw(_) => "shaw",
            Self::Deberta(_) => "deberta",
        }
    }

    /// Checks the parameters of the scheme, and that the dimensions of the model suit it.
    pub(in crate::config) fn validate(
        &self,
        n_embd: usize,
        n_head: usize,
        head_dim: Option<usize>,
    ) -> Result<(), ConfigError> {
        let at_least = |name, value: usize, least: usize, expected| match value < least {
            true => Err(ConfigError::OutOfRange { name, value: value as f64, expected }),
            false => Ok(()),
        };
        match self {
            Self::Learned | Self::None => return Ok(()),
            Self::Sinusoidal(SinusoidalConfig { layout, .. }) => {
                let least = if *layout == SinusoidalLayout::Tensor2Tensor { 4 } else { 1 };
                return at_least("n_embd", n_embd, least, "at least 4, as tensor2tensor's frequencies need");
            }
            _ => {}
        }
        if n_head == 0 || head_dim.is_none() && !n_embd.is_multiple_of(n_head) {
            return Err(ConfigError::OutOfRange {
                name: "n_head",
                value: n_head as f64,
                expected: "a divisor of n_embd",
            });
        }
        let head_dim = head_dim.unwrap_or(n_embd / n_head);
        match self {
            &Self::T5(T5Config { num_buckets, max_distance, bidirectional }) => {
                let least = if bidirectional { 4 } else { 2 };
                let name = "relative_attention_num_buckets";
                at_least(name, num_buckets, least, "at least 2 for each direction")?;
                let max_exact = num_buckets / least;
                let name = "relative_attention_max_distance";
                at_least(name, max_distance, max_exact + 1, "more than the distances that have a bucket of their own")
            }
            &Self::Deberta(DebertaConfig { position_buckets, max_relative_positions, .. }) => {
                at_least("max_relative_positions", max_relative_positions, 1, "at least 1")?;
                let Some(buckets) = position_buckets else { return Ok(()) };
                at_least("position_buckets", buckets, 2, "at least 2, or -1 for none")?;
                let expected = "more than half of position_buckets and 1";
                at_least("max_relative_positions", max_relative_positions, buckets / 2 + 2, expected)
            }
            Self::Rotary(rotary) => rotary.validate(head_dim),
            Self::RotaryByLayerType(by_type) => {
                let n_types = by_type.values().flatten().count();
                at_least("rope_parameters", n_types, 1, "parameters of at least one type of layer")?;
                by_type.values().flatten().try_for_each(|rotary| rotary.validate(head_dim))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for PositionScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PositionScheme {
    type Err = Error;

    /// Reads the name of a scheme, as this crate or another code base spells it, with its published parameters.
    fn from_str(name: &str) -> Result<Self, Error> {
        Ok(match name {
            "learned" | "absolute" | "learned_absolute" => Self::Learned,
            "sinusoidal" => Self::Sinusoidal(SinusoidalConfig::default()),
            "none" | "nope" => Self::None,
            "transformer-xl" | "transfo-xl" => Self::TransformerXl,
            "rope" | "rotary" => Self::Rotary(RotaryConfig::default()),
            "alibi" => Self::Alibi,
            "t5" => Self::T5(T5Config::default()),
            "shaw" | "relative_key" => Self::Shaw(ShawConfig::default().with_values(name == "shaw")),
            "deberta" => Self::Deberta(DebertaConfig::default()),
            _ => {
                let (name, known) = (name.to_string(), Self::NAMES.join(", "));
                return Err(ConfigError::UnknownPosition { name, known }.into());
            }
        })
    }
}
