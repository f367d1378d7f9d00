//! How large what a configuration states may be: it is text, and a few digits must not take the memory of the machine.

use super::input::GptInputConfig;
use super::position::{DebertaConfig, PositionScheme, ShawConfig, T5Config};
use crate::error::ConfigError;

/// Blocks, and heads in each.
const MAX_LAYERS: usize = 1 << 14;
const MAX_HEADS: usize = 1 << 16;
/// Rows of a table of distances.
const MAX_DISTANCES: usize = 1 << 20;
/// Elements of a table of sinusoids, which is computed and not in a file.
const MAX_SINUSOIDS: usize = 1 << 28;
/// Bytes of a `config.json`, objects and lists in it, and how deep they are nested. Those of models have a few
/// kilobytes; an empty object takes a hundred times its text.
pub(super) const MAX_CONFIG_BYTES: u64 = 2 << 20;
const MAX_CONTAINERS: usize = 1 << 13;
const MAX_NESTING: usize = 16;

/// Refuses a text that would take much more memory than its length, before it is parsed.
pub(super) fn check_text(text: &str) -> Result<(), ConfigError> {
    let refused = |reason: String| Err(ConfigError::Json { source: reason.into() });
    if text.len() as u64 > MAX_CONFIG_BYTES {
        return refused(format!("{} bytes, more than the {MAX_CONFIG_BYTES} of a configuration", text.len()));
    }
    let (mut n_containers, mut depth, mut in_text, mut escaped) = (0, 0usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_text,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => (n_containers, depth) = (n_containers + 1, depth + 1),
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        if n_containers > MAX_CONTAINERS {
            return refused(format!("more than {MAX_CONTAINERS} objects and lists"));
        }
        if depth > MAX_NESTING {
            return refused(format!("objects and lists nested deeper than {MAX_NESTING}"));
        }
    }
    Ok(())
}

impl GptInputConfig {
    pub(super) fn check_limits(&self) -> Result<(), ConfigError> {
        let at_most = |name, value: usize, most: usize, expected| match value > most {
            true => Err(ConfigError::OutOfRange { name, value: value as f64, expected }),
            false => Ok(()),
        };
        at_most("n_layer", self.n_layer, MAX_LAYERS, "at most 16384")?;
        at_most("n_head", self.n_head, MAX_HEADS, "at most 65536")?;
        let rows = "at most 1048576";
        match self.position {
            PositionScheme::Sinusoidal(_) => {
                let n_elements = self.n_positions.saturating_mul(self.n_embd);
                let expected = "few enough for a table of sinusoids: n_positions times n_embd is at most 268435456";
                match n_elements > MAX_SINUSOIDS {
                    true => at_most("n_positions", self.n_positions, 0, expected),
                    false => Ok(()),
                }
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
