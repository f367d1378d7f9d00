//! How large what a configuration states may be: it is text, and a few digits must not take the memory of the machine.

use super::input::GptInputConfig;
use super::position::{DebertaConfig, PositionScheme, ShawConfig, T5Config};
use super::text_limits::MAX_LAYERS;
use crate::error::ConfigError;

/// Heads of a block.
const MAX_HEADS: usize = 1 << 16;
/// Numbers of a head.
const MAX_HEAD_DIM: usize = 1 << 16;
/// Rows of a table of distances.
const MAX_DISTANCES: usize = 1 << 20;
/// Elements of a table of sinusoids, which is computed and not in a file.
const MAX_SINUSOIDS: usize = 1 << 28;

impl GptInputConfig {
    pub(super) fn check_limits(&self) -> Result<(), ConfigError> {
        let fits = |name, value: usize, fits: bool, expected| match fits {
            true => Ok(()),
            false => Err(ConfigError::OutOfRange { name, value: value as f64, expected }),
        };
        let at_most = |name, value, most, expected| fits(name, value, value <= most, expected);
        at_most("n_layer", self.n_layer, MAX_LAYERS, "at most 16384")?;
        at_most("n_head", self.n_head, MAX_HEADS, "at most 65536")?;
        at_most("head_dim", self.head_dim.unwrap_or(0), MAX_HEAD_DIM, "at most 65536")?;
        let rows = "at most 1048576";
        match self.position {
            PositionScheme::Sinusoidal(_) => {
                let n_elements = self.n_positions.saturating_mul(self.n_embd);
                let expected = "few enough for a table of sinusoids: n_positions times n_embd is at most 268435456";
                fits("n_positions", self.n_positions, n_elements <= MAX_SINUSOIDS, expected)
            }
            PositionScheme::Shaw(ShawConfig { left, right, .. }) => {
                at_most("left_max_position_embeddings", left, MAX_DISTANCES, rows)?;
                at_most("right_max_position_embeddings", right, MAX_DISTANCES, rows)
            }
            PositionScheme::T5(T5Config { num_buckets, .. }) => {
                at_most("relative_attention_num_buckets", num_buckets, MAX_DISTANCES, rows)
            }
            PositionScheme::Deberta(DebertaConfig { position_buckets, max_relative_positions, .. }) => {
                let (name, n) = match position_buckets {
                    Some(n) => ("position_buckets", n),
                    None => ("max_relative_positions", max_relative_positions),
                };
                at_most(name, n, MAX_DISTANCES, rows)
            }
            _ => Ok(()),
        }
    }
}
