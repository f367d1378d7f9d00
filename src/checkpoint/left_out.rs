//! Finds what a model adds to the sum of the two tables besides, which the input layer leaves out.

use super::keys::{DOTS, module_of, split_last};
use super::report::LeftOut;
use super::role::Role;

/// The names of modules in which all that is not a table belongs to the sum: BERT's, Megatron's.
const MODULES: [&str; 3] = ["embeddings", "embedding", "embed"];
/// Buffers, which hold ids or what the configuration states.
const BUFFERS: [&str; 5] = ["position_ids", "token_type_ids", "inv_freq", "_float_tensor", "num_batches_tracked"];
const NORM: &str = "normalization of the sum";
/// Parts of names of what changes the sum, and what it is. The first that fits counts.
const PARTS: [(&str, &str); 10] = [
    ("token_type", "token types, added to the sum"),
    ("tokentype", "token types, added to the sum"),
    ("segment", "segments, added to the sum"),
    ("norm", NORM),
    ("emb_ln", NORM),
    ("ln_emb", NORM),
    ("project", "projection between tables and blocks"),
    ("mapping", "projection between tables and blocks"),
    ("pos", "more positions"),
    ("", "another embedding"),
];

/// Lists the tensors beside the tables `wte` and `wpe` that change what enters the first block.
///
/// These are the other tensors of a table's own module (a bias, an adapter), those of the module that holds both tables
/// if that is one for embeddings, and those beside them whose names say that they embed or project.
pub(super) fn left_out<'a>(
    names: impl Iterator<Item = &'a str>,
    wte: &str,
    wpe: Option<&str>,
    model_type: Option<&str>,
) -> Vec<LeftOut> {
    let modules: Vec<&str> =
        [Some(wte), wpe].into_iter().flatten().map(|name| module_of(name).unwrap_or(name)).collect();
    let parent = modules.iter().map(|module| split_last(module).0).reduce(shared_parent).unwrap_or_default();
    let holds_embeddings = MODULES.contains(&split_last(parent).1);
    let above = if holds_embeddings { split_last(parent).0 } else { parent };
    let left_out = |name: &'a str| {
        let rest = inside(name, above)?;
        let is_buffer = rest.split(DOTS).any(|part| BUFFERS.contains(&part) || part == "original_module");
        if is_buffer || matches!(Role::of(rest), Role::OutputHead) {
            return None;
        }
        if modules.iter().any(|module| inside(name, module).is_some()) {
            return Some((name, "part of a table's module, such as a bias or an adapter"));
        }
        let (head, own) = match inside(name, parent).filter(|_| holds_embeddings) {
            Some(inner) => (inner, true),
            None => (rest.split(DOTS).next().unwrap_or_default(), false),
        };
        let head = head.to_ascii_lowercase();
        let changes_the_sum = own
            || (head.contains("emb") && !["unembed", "embed_out", "rotary"].iter().any(|part| head.contains(part)))
            || ["project_in", "token_type", "tokentype", "segment"].iter().any(|part| head.contains(part))
            || inside(rest, "encoder.embedding_hidden_mapping_in").is_some();
        if !changes_the_sum {
            return None;
        }
        let lower = rest.to_ascii_lowercase();
        let what = match PARTS.iter().find(|(part, _)| lower.contains(part))?.1 {
            NORM if model_type == Some("blenderbot-small")
                && rest.split(DOTS).next() == Some("layernorm_embedding") =>
            {
                "normalization of token rows, in a decoder before positions are added"
            }
            what => what,
        };
        Some((name, what))
    };
    names.filter_map(left_out).map(|(name, what)| LeftOut { name: name.to_string(), what: what.to_string() }).collect()
}

/// Returns what follows a module's name in a tensor's, or `None` if the tensor is not inside it.
fn inside<'a>(name: &'a str, module: &str) -> Option<&'a str> {
    if module.is_empty() { Some(name) } else { name.strip_prefix(module)?.strip_prefix(DOTS) }
}

/// Returns the longest module that holds both.
fn shared_parent<'a>(mut left: &'a str, right: &'a str) -> &'a str {
    while !left.is_empty() && left != right && inside(right, left).is_none() {
        left = split_last(left).0;
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(names: &[&str]) -> Vec<String> {
        let others = names[2..].iter().copied();
        left_out(others, names[0], Some(names[1]), None).into_iter().map(|left| left.name).collect()
    }

    #[test]
    fn what_a_model_adds_is_found_by_its_place() {
        let cases: [(&[&str], &[&str]); 7] = [
            (
                &["bert.embeddings.word_embeddings.weight", "bert.embeddings.position_embeddings.weight"],
                &[
                    "bert.embeddings.token_type_embeddings.weight",
                    "bert.embeddings.LayerNorm.weight",
                    "bert.embeddings_project.weight",
                    "bert.encoder.embedding_hidden_mapping_in.bias",
                ],
            ),
            (
                &["embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"],
                &["embeddings.token_type_embeddings.weight", "embeddings.LayerNorm.gamma"],
            ),
            (
                &["model.decoder.embed_tokens.weight", "model.decoder.embed_positions.weight"],
                &["model.decoder.project_in.weight", "model.decoder.layernorm_embedding.bias"],
            ),
            (
                &[
                    "language_model.embedding.word_embeddings.weight",
                    "language_model.embedding.position_embeddings.weight",
                ],
                &["language_model.embedding.tokentype_embeddings.weight"],
            ),
            (&["token_embd.weight", "position_embd.weight"], &["token_types.weight", "token_embd_norm.bias"]),
            (&["embed.embed.W_E", "embed.pos_embed.W_pos"], &["embed.token_type_embed.W_token_type", "embed.ln.w"]),
            (
                &["transformer.wte.base_layer.weight", "transformer.wpe.weight"],
                &["transformer.wte.lora_embedding_A.default", "transformer.wte.bias"],
            ),
        ];
        let never = [
            "h.0.ln_1.weight",
            "transformer.h.0.attn.bias",
            "ln_f.weight",
            "lm_head.weight",
            "unembed.W_U",
            "out_head.weight",
            "bert.encoder.layer.0.output.LayerNorm.weight",
            "bert.embeddings.position_ids",
            "cls.predictions.bias",
            "model.decoder.layers.0.fc1.weight",
            "model.decoder.final_layer_norm.weight",
            "model.decoder.project_out.weight",
            "blk.0.attn_norm.weight",
            "output_norm.weight",
            "rotary_emb.inv_freq",
            "embed_out.weight",
            "wte2",
        ];
        for (tables, expected) in cases {
            assert_eq!(found(&[tables, expected, &never].concat()), expected);
        }
    }
}
