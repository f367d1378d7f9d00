//! [`RotaryConfig`]: the parameters of rotary positions.

use serde::{Deserialize, Serialize};

use super::scaling::RotaryScaling;
use crate::config::builders::builders;
use crate::error::ConfigError;

/// Holds the parameters of rotary positions. The defaults are those of Llama in transformers.
///
/// ```
/// use candle_gpt_input::position::{RotaryConfig, YarnScaling};
///
/// let yarn = YarnScaling::new(4.0).with_original_max_position_embeddings(4096);
/// let config = RotaryConfig::default().with_rope_theta(5e5).with_scaling(yarn.into());
/// assert_eq!((config.rope_theta, config.partial_rotary_factor), (5e5, 1.0));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
#[doc(alias = "rope_parameters", alias = "RopeParameters")]
pub struct RotaryConfig {
    /// `rope_theta`: the base of the frequencies.
    pub rope_theta: f64,
    /// `rope_interleave`: pairs are neighbours (GPT-J) instead of half a head apart (Llama, GPT-NeoX).
    pub interleaved: bool,
    /// `partial_rotary_factor`: the fraction of each head, from its start, that is rotated.
    pub partial_rotary_factor: f64,
    /// `rotary_dim`: how many dimensions of each head are rotated (GPT-J); `partial_rotary_factor` says it if not
    /// given.
    pub rotary_dim: Option<usize>,
    /// How the frequencies change for sequences longer than those the model was trained on.
    pub scaling: RotaryScaling,
}

builders!(RotaryConfig {
    with_rope_theta(rope_theta: f64),
    with_interleaved(interleaved: bool),
    with_partial_rotary_factor(partial_rotary_factor: f64),
    with_rotary_dim(rotary_dim: usize, Some),
    with_scaling(scaling: RotaryScaling),
});

impl Default for RotaryConfig {
    /// Returns base 10000, whole heads, pairs half a head apart, and no scaling.
    fn default() -> Self {
        Self {
            rope_theta: 10000.0,
            interleaved: false,
            partial_rotary_factor: 1.0,
            rotary_dim: None,
            scaling: RotaryScaling::None,
        }
    }
}

impl RotaryConfig {
    pub(crate) fn validate(&self, head_dim: usize) -> Result<(), ConfigError> {
        let check = |name, value: f64, fits: bool, expected| match fits {
            true => Ok(()),
            false => Err(ConfigError::OutOfRange { name, value, expected }),
        };
        check("rope_theta", self.rope_theta, self.rope_theta > 1.0 && self.rope_theta.is_finite(), "above 1")?;
        let partial = self.partial_rotary_factor;
        check("partial_rotary_factor", partial, partial > 0.0 && partial <= 1.0, "above 0 and at most 1")?;
        if let Some(n) = self.rotary_dim {
            let fits = n.is_multiple_of(2) && n >= 2 && n <= head_dim;
            check("rotary_dim", n as f64, fits, "an even number of at least 2 and at most head_dim")?;
        }
        let dim = self.rotated_dims(head_dim);
        let fits = dim >= 1 && dim.next_multiple_of(2) <= head_dim;
        check("head_dim", head_dim as f64, fits, "even, or large enough that its rotated part is not empty")?;
        let optional = |name, number: Option<f64>| {
            let number = number.unwrap_or(1.0);
            check(name, number, number.is_finite(), "a finite number")
        };
        let trained_on = |n: Option<usize>| {
            check("original_max_position_embeddings", n.unwrap_or(1) as f64, n != Some(0), "at least 1")
        };
        let factor = match &self.scaling {
            RotaryScaling::None => return Ok(()),
            RotaryScaling::Linear { factor } => *factor,
            RotaryScaling::Yarn(yarn) => {
                optional("attention_factor", yarn.attention_factor)?;
                optional("mscale", yarn.mscale)?;
                optional("mscale_all_dim", yarn.mscale_all_dim)?;
                trained_on(yarn.original_max_position_embeddings)?;
                yarn.factor
            }
            RotaryScaling::Dynamic { factor } => {
                let expected = "large enough: dynamic scaling needs more than 2 rotated elements";
                check("head_dim", head_dim as f64, dim > 2, expected)?;
                *factor
            }
            RotaryScaling::Llama3(llama3) => {
                let (low, high) = (llama3.low_freq_factor, llama3.high_freq_factor);
                check(
                    "high_freq_factor",
                    high,
                    high > low && low > 0.0,
                    "more than low_freq_factor, which is above 0",
                )?;
                trained_on(llama3.original_max_position_embeddings)?;
                llama3.factor
            }
            RotaryScaling::LongRope(longrope) => {
                let lists = [("short_factor", &longrope.short_factor), ("long_factor", &longrope.long_factor)];
                for (name, list) in lists {
                    let expected = "as long as there are rotated pairs of dimensions in a head";
                    check(name, list.len() as f64, list.len() == dim.div_ceil(2), expected)?;
                    let wrong = list.iter().find(|factor| !(factor.is_finite() && **factor > 0.0));
                    check(name, wrong.copied().unwrap_or(1.0), wrong.is_none(), "a list of numbers above 0")?;
                }
                optional("attention_factor", longrope.attention_factor)?;
                trained_on(longrope.original_max_position_embeddings)?;
                longrope.factor.unwrap_or(1.0)
            }
            RotaryScaling::Proportional { factor } => {
                let even = head_dim.is_multiple_of(2) && self.rotary_dim.is_none();
                check(
                    "head_dim",
                    head_dim as f64,
                    even,
                    "even and without `rotary_dim`, as proportional scaling needs",
                )?;
                *factor
            }
        };
        check("factor", factor, factor.is_finite() && factor >= 1.0, "at least 1")
    }

    /// Returns the number of rotated dimensions of a head, before an odd number is rounded up.
    pub(crate) fn rotated_dims(&self, head_dim: usize) -> usize {
        match (self.rotary_dim, &self.scaling) {
            (_, RotaryScaling::Proportional { .. }) => head_dim,
            (Some(n), _) => n,
            (None, _) => self.part_of(head_dim),
        }
    }

    /// Returns the number of dimensions that `partial_rotary_factor` gives.
    pub(crate) fn part_of(&self, head_dim: usize) -> usize {
        (head_dim as f64 * self.partial_rotary_factor) as usize
    }
}
