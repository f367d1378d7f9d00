//! The configuration that a training script saves with the weights.

use serde_json::{Map, Value as Json};

use super::super::super::budget::Budget;
use super::super::super::bytes::Parse;
use super::super::super::names::CONFIG_METADATA;
use super::super::super::stored::Contents;
use super::super::pickle::{Id, Pickle, Value};

/// Its keys: nanoGPT's, and build-nanogpt's for a dataclass. The first that states a dimension is read.
const PLACES: [&str; 2] = ["model_args", "config"];
/// Names of dimensions in scripts.
const DIMENSIONS: [&str; 14] = [
    "vocab_size",
    "block_size",
    "n_positions",
    "context_length",
    "max_position_embeddings",
    "n_embd",
    "emb_dim",
    "hidden_size",
    "n_layer",
    "n_layers",
    "num_hidden_layers",
    "n_head",
    "n_heads",
    "num_attention_heads",
];
/// How many values are kept, how deep, and how long a text: a value may be used again and again. One beyond that is kept
/// as a text that says so, for its key to be refused where it matters.
const MAX_VALUES: usize = 4096;
const MAX_NESTING: usize = 8;
const MAX_TEXT: usize = 1024;

/// Adds the configuration to the metadata, if the pickle has one: all of its keys, for the reader of every `config.json`.
pub(super) fn read(budget: &Budget, pickle: &Pickle, contents: &mut Contents) -> Parse<()> {
    for place in PLACES {
        let Some((_, value)) = pickle.named(pickle.root()).find(|(name, _)| *name == place) else { continue };
        let Json::Object(config) = json(pickle, value, MAX_NESTING, &mut { MAX_VALUES }) else { continue };
        if DIMENSIONS.iter().any(|name| config.get(*name).is_some_and(Json::is_i64)) {
            return contents.note(budget, CONFIG_METADATA, Json::Object(config).to_string());
        }
    }
    Ok(())
}

/// Returns a value as JSON: a dict or the attributes of an object as an object. What JSON lacks is a text.
fn json(pickle: &Pickle, id: Id, nesting: usize, n_left: &mut usize) -> Json {
    let (Some(left), Some(inner)) = (n_left.checked_sub(1), nesting.checked_sub(1)) else {
        return "more than is kept of a configuration".into();
    };
    *n_left = left;
    match pickle.get(id) {
        Value::None => Json::Null,
        Value::Bool(flag) => (*flag).into(),
        Value::Int(number) => (*number).into(),
        Value::Float(number) if number.is_finite() => (*number).into(),
        Value::Float(number) => number.to_string().into(),
        Value::Str(text) => text.chars().take(MAX_TEXT).collect::<String>().into(),
        Value::Tuple(_) | Value::List(_) => {
            let items = pickle.items(id).unwrap_or_default();
            Json::Array(items.iter().take(left).map(|&item| json(pickle, item, inner, n_left)).collect())
        }
        other => {
            let fields = pickle.attributes(id).chain(pickle.named(id)).take(left);
            let name = |name: &str| name.chars().take(MAX_TEXT).collect::<String>();
            let map: Map<_, _> = fields.map(|(key, value)| (name(key), json(pickle, value, inner, n_left))).collect();
            match (other, map.is_empty()) {
                (Value::Dict(_), _) | (_, false) => map.into(),
                _ => name(pickle.called(id).unwrap_or("an object")).into(),
            }
        }
    }
}
