//! [`PositionScheme`]: how a model knows where its tokens stand, as a `config.json` says it.

mod json;

use std::fmt;
use std::str::FromStr;

use super::rotary::RotaryConfig;
use crate::error::{ConfigError, Error};

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

    /// Checks the numbers of the scheme, and that the dimensions of the model suit it.
    pub(in crate::config) fn validate(&self, n_embd: usize, n_head: usize) -> Result<(), ConfigError> {
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
}

impl fmt::Display for PositionScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PositionScheme {
    type Err = Error;

    /// A scheme by its name, or a name that other code bases have for it, with the numbers it is published with.
    fn from_str(name: &str) -> Result<Self, Error> {
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
            _ => {
                let (name, known) = (name.to_string(), Self::NAMES.join(", "));
                return Err(ConfigError::UnknownPosition { name, known }.into());
            }
        })
    }
}
