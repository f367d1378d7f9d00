//! Keys of which only the name is known: one that speaks of positions, of dropout on embeddings or of scales, and is
//! read nowhere, is refused by name.

use serde_json::Value;

use super::fields::{Object, brief};
use super::model_type::own_positions;
use crate::error::ConfigError;

/// What a key is about, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    Positions,
    Dropout,
    Scale,
    Logits,
}

/// Keys whose names say more than they do: those of blocks, of other modalities, of tensors that a file has anyway (the
/// report of a checkpoint names these), and those that a class of transformers has and ignores.
const HARMLESS: [&str; 18] = [
    "learned_pos_emb",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "position_id_per_seconds",
    "position_bias_max_distance",
    "position_bias_num_buckets",
    "tie_position_embeddings",
    "max_xpath_tag_unit_embeddings",
    "layernorm_embedding",
    "emb_layer_norm_before",
    "moe_token_dropout",
    "mup_width_multiplier",
    "logit_scale_init_value",
    "max_logit_scale",
    "embed_dim_multiplier",
    "attn_logit_softcapping",
    "moe_router_logit_softcapping",
    "contrastive_logits_temperature",
];
/// What to do about a model that scales or caps its logits.
pub(super) const UNSCALED_HEAD: &str = "make a head with `lm_head_unscaled`, and apply it to the logits";
/// Beginnings of words that speak of positions.
const POSITIONS: [&str; 11] =
    ["rope", "rotary", "alibi", "nope", "yarn", "ntk", "logn", "sinusoid", "position", "relative", "abspos"];
const SCALES: [&str; 8] = ["scale", "scaling", "multiplier", "mult", "norm", "normalize", "normalized", "mup"];
const CAPS: [&str; 6] = ["scale", "scaling", "multiplier", "softcap", "softcapping", "cap"];

/// Names of dimensions in files of other libraries, and ours for them. Where ours are not stated these would be lost.
const DIMENSIONS: [(&str, &str, &[&str]); 5] = [
    (
        "vocab_size",
        "state `vocab_size` in its place",
        &["n_vocab", "vocabulary_size", "num_embeddings", "num_tokens", "n_tokens"],
    ),
    (
        "n_positions",
        "state `n_positions` in its place",
        &["seq_len", "seq_length", "sequence_length", "max_sequence_length", "max_len", "ctx_len", "context_size"],
    ),
    (
        "n_embd",
        "state `n_embd` in its place",
        &["dim", "embed_dim", "embedding_dim", "model_dim", "dmodel", "embedding_size", "emb_size", "width"],
    ),
    (
        "n_layer",
        "state `n_layer` in its place",
        &["layers", "depth", "num_blocks", "n_blocks", "num_decoder_layers", "decoder_layers"],
    ),
    (
        "n_head",
        "state `n_head` in its place",
        &["heads", "nhead", "attention_heads", "num_attn_heads", "decoder_attention_heads"],
    ),
];

/// Refuses a name for a dimension that is not stated under one of ours.
pub(super) fn refuse_dimension(extra: &Object, dimension: &'static str) -> Result<(), ConfigError> {
    let Some((_, instead, names)) = DIMENSIONS.iter().find(|(ours, ..)| *ours == dimension) else { return Ok(()) };
    match names.iter().filter_map(|name| extra.get_key_value(*name)).find(|(_, value)| value.is_number()) {
        Some((key, value)) => Err(ConfigError::Unsupported { key: key.clone(), value: brief(value), instead }),
        None => Ok(()),
    }
}

/// Returns what a key is about, if its name says so. The type of the model is known, or is not.
pub(super) fn about(key: &str, is_known: bool) -> Option<About> {
    let words = words_of(key);
    let has = |list: &[&str]| words.iter().any(|word| list.contains(&word.as_str()));
    let begins = |word: &String, list: &[&str]| list.iter().any(|start| word.starts_with(start));
    let embeds = |word: &String| word.starts_with("emb");
    let drops = |word: &String| word.starts_with("drop") || word == "pdrop" || word == "embdrop";
    let speaks_of_positions = |(at, word): (usize, &String)| {
        let next = words.get(at + 1).map(String::as_str).unwrap_or_default();
        let is_short = word == "pos" && ["emb", "enc", "typ", "bias", "att"].iter().any(|it| next.starts_with(it));
        let is_other = ["positionwise", "relatives"].contains(&word.as_str());
        is_short || words.len() == 1 && word == "pos" || begins(word, &POSITIONS) && !is_other
    };
    let is_positional = words.iter().enumerate().any(speaks_of_positions);
    let is_length = words.first().is_some_and(|first| first == "max") || key.ends_with("position_ids");
    if HARMLESS.contains(&key) {
        None
    } else if words.iter().any(drops) {
        let of_input = words.iter().any(embeds) || has(&["input", "token", "tokens", "position", "positional"]);
        let is_bare = words.iter().all(|word| drops(word) || ["p", "prob", "rate"].contains(&word.as_str()));
        // A known model says under this name what it does in its blocks.
        (of_input || is_bare && !is_known).then_some(About::Dropout)
    } else if is_positional && !is_length {
        Some(About::Positions)
    } else if words.iter().any(|word| word.starts_with("logit")) && has(&CAPS) {
        Some(About::Logits)
    } else if words.iter().any(embeds) && has(&SCALES) || has(&["mup"]) {
        Some(About::Scale)
    } else {
        None
    }
}

/// Returns whether a key that is about positions says whether there is a learned row for each.
pub(super) fn says_learned(key: &str) -> bool {
    let words = words_of(key);
    let has = |start: &str| words.iter().any(|word| word.starts_with(start));
    !has("relative") && !has("rotary") && !has("sinus") && (has("learned") || has("abs") || has("emb") || has("biased"))
}

/// Refuses the keys among `extra` that are about something here and change it.
pub(super) fn refuse(extra: &Object, what: About, model_type: Option<&str>) -> Result<(), ConfigError> {
    let is_known = model_type.is_some() && own_positions(model_type).is_some();
    let instead = match what {
        About::Positions => "state `position_embedding_type`, or what else it means, in its place",
        About::Dropout => "state `embd_pdrop` in its place",
        About::Scale => {
            "state `embedding_multiplier` or `scale_embedding` in its place, or apply it and remove the key"
        }
        About::Logits => UNSCALED_HEAD,
    };
    let is_it = |key: &String, value: &Value| {
        about(key, is_known) == Some(what) && changes(what, key, value)
            || what == About::Positions && names_scheme(value)
    };
    if let Some((key, value)) = extra.iter().find(|(key, value)| is_it(key, value)) {
        return Err(ConfigError::Unsupported { key: key.clone(), value: brief(value), instead });
    }
    // The keys of a part of the model, one object deep; one with a type is a model of its own.
    let is_model = |part: &Value| part.get("model_type").and_then(Value::as_str).is_some_and(|name| !name.is_empty());
    for (outer, part) in extra.iter().filter(|(key, part)| is_part(key, what) && !is_model(part)) {
        let mut inner = part.as_object().into_iter().flatten();
        if let Some((key, value)) = inner.find(|(key, value)| is_it(key, value)) {
            return Err(ConfigError::Unsupported { key: format!("{outer}.{key}"), value: brief(value), instead });
        }
    }
    Ok(())
}

/// Returns whether a text is the name of positions, whatever its key is called.
fn names_scheme(value: &Value) -> bool {
    const NAMES: [&str; 6] = ["rope", "rotary", "alibi", "sinusoidal", "nope", "relative_key_query"];
    value.as_str().is_some_and(|text| NAMES.contains(&text.to_ascii_lowercase().as_str()))
}

/// Returns whether an object under a key is a part of the model that says this; others have dropout of their own.
fn is_part(key: &str, what: About) -> bool {
    const PARTS: [&str; 8] = ["attention", "attn", "model", "gpt", "transformer", "decoder", "block", "blocks"];
    let words = words_of(key);
    words.iter().any(|word| word.starts_with("emb"))
        || what != About::Dropout && words.iter().any(|word| PARTS.contains(&word.as_str()))
}

/// Refuses an object that states dimensions where none stand beside it: it is the configuration.
pub(super) fn refuse_nested(extra: &Object, is_field: impl Fn(&str) -> bool) -> Result<(), ConfigError> {
    let states =
        |value: &Value| value.as_object().is_some_and(|map| map.keys().filter(|key| is_field(key)).count() > 1);
    match extra.iter().find(|(_, value)| states(value)) {
        Some((key, value)) => Err(ConfigError::Unsupported {
            key: key.clone(),
            value: brief(value),
            instead: "state its keys themselves, outside of any object",
        }),
        None => Ok(()),
    }
}

/// Returns whether a value changes anything: `null`, `false`, 0 and what is empty do not, and neither does a factor of 1.
fn changes(what: About, key: &str, value: &Value) -> bool {
    let is_factor = what != About::Positions
        || ["factor", "ratio", "scale", "pct", "percent", "fraction", "multiplier"]
            .iter()
            .any(|end| key.ends_with(end));
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => !(what == About::Positions && says_learned(key)),
        Value::Number(number) => {
            let number = number.as_f64();
            number != Some(0.0) && !(is_factor && what != About::Dropout && number == Some(1.0))
        }
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// Returns the words of a key in lower case: `usePosEmb` and `use_pos_emb` have the same.
fn words_of(key: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for c in key.chars() {
        let starts_word = c.is_ascii_uppercase() && was_lower;
        if (!c.is_ascii_alphanumeric() || starts_word) && words.last().is_some_and(|word| !word.is_empty()) {
            words.push(String::new());
        }
        if let (true, Some(word)) = (c.is_ascii_alphanumeric(), words.last_mut()) {
            word.push(c.to_ascii_lowercase());
        }
        was_lower = c.is_ascii_lowercase();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_keys_are_about() {
        for (key, expected) in [
            ("use_rope", Some(About::Positions)),
            ("useRotaryEmbeddings", Some(About::Positions)),
            ("pos_emb", Some(About::Positions)),
            ("position_encoding", Some(About::Positions)),
            ("relative_attention", Some(About::Positions)),
            ("use_dynamic_ntk", Some(About::Positions)),
            ("pos", Some(About::Positions)),
            ("emb_drop", Some(About::Dropout)),
            ("dropout_p", Some(About::Dropout)),
            ("token_dropout", Some(About::Dropout)),
            ("embed_scale", Some(About::Scale)),
            ("normalize_embeddings", Some(About::Scale)),
            ("use_mup", Some(About::Scale)),
            ("logit_cap", Some(About::Logits)),
            ("max_2d_position_embeddings", None),
            ("positionwise_conv_kernel_size", None),
            ("attention_dropout", None),
            ("resid_pdrop", None),
            ("drop_path_rate", None),
            ("europe", None),
            ("pos_token_id", None),
            ("logit_scale_init_value", None),
            ("embedding_size", None),
            ("layerdrop", None),
        ] {
            assert_eq!(about(key, false), expected, "{key}");
        }
    }
}
