//! The names of the learned position tables in checkpoints.

use crate::config::{DebertaConfig, GptInputConfig, PositionScheme, ShawConfig, T5Config};

/// A learned table of a scheme: its name in a file, its shape, and how it is initialized.
#[derive(Clone, Debug)]
pub(crate) struct TableSpec {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    /// Whether it is drawn like the other tables; else it starts with zeros.
    pub(crate) drawn: bool,
}

/// Returns the learned tables of a configuration's scheme, by their names beside `wte.weight`.
pub(crate) fn position_tables(config: &GptInputConfig) -> Vec<TableSpec> {
    let &GptInputConfig { n_positions, n_embd, n_head, n_layer, .. } = config;
    let head_dim = config.width_of_head();
    let all_heads = n_head.saturating_mul(head_dim);
    let table = |name: String, shape: &[usize], drawn| TableSpec { name, shape: shape.to_vec(), drawn };
    let in_blocks = |tables: &[(&str, &[usize], bool)]| {
        let of_block = |i: usize| {
            tables.iter().map(move |(name, shape, drawn)| table(format!("h.{i}.attn.{name}"), shape, *drawn))
        };
        (0..n_layer).flat_map(of_block).collect::<Vec<_>>()
    };
    match config.position {
        PositionScheme::Learned => vec![table("wpe.weight".to_string(), &[n_positions, n_embd], true)],
        PositionScheme::T5(T5Config { num_buckets, .. }) => {
            vec![table("relative_attention_bias.weight".to_string(), &[num_buckets, n_head], true)]
        }
        PositionScheme::TransformerXl => in_blocks(&[
            ("r_net.weight", &[all_heads, n_embd], true),
            ("r_w_bias", &[n_head, head_dim], true),
            ("r_r_bias", &[n_head, head_dim], true),
        ]),
        PositionScheme::Shaw(ShawConfig { left, right, values }) => {
            let shape: &[usize] = &[left.saturating_add(right).saturating_add(1), head_dim];
            let all: [(&str, &[usize], bool); 2] =
                [("distance_embedding.weight", shape, true), ("distance_embedding_value.weight", shape, true)];
            in_blocks(if values { &all } else { &all[..1] })
        }
        PositionScheme::Deberta(DebertaConfig { position_buckets, max_relative_positions, c2p, p2c }) => {
            let span = position_buckets.unwrap_or(max_relative_positions);
            let mut tables = vec![table("rel_embeddings.weight".to_string(), &[span.saturating_mul(2), n_embd], true)];
            let (weight, bias): (&[usize], &[usize]) = (&[all_heads, n_embd], &[all_heads]);
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
        PositionScheme::Sinusoidal(_)
        | PositionScheme::None
        | PositionScheme::Rotary(_)
        | PositionScheme::RotaryByLayerType(_)
        | PositionScheme::Alibi => Vec::new(),
    }
}
