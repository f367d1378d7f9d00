//! The configuration that a training script saves with the weights.

use serde_json::{Map, Value as Json};

use super::super::super::budget::Budget;
use super::super::super::bytes::Parse;
use super::super::super::names::CONFIG_METADATA;
use super::super::super::stored::Contents;
use super::super::pickle::{Id, Pickle, Value};

/// Its keys: nanoGPT's, and build-nanogpt's for a dataclass. The first that has known fields is read.
const PLACES: [&str; 2] = ["model_args", "config"];

/// The dimensions: our name, and the names that scripts use.
const DIMENSIONS: [(&str, &[&str]); 5] = [
    ("vocab_size", &["vocab_size"]),
    ("n_positions", &["block_size", "n_positions", "context_length", "max_position_embeddings"]),
    ("n_embd", &["n_embd", "emb_dim", "hidden_size"]),
    ("n_layer", &["n_layer", "n_layers", "num_hidden_layers"]),
    ("n_head", &["n_head", "n_heads", "num_attention_heads"]),
];
/// The probability of dropout on the embeddings; nanoGPT has one for all layers.
const DROPOUT: (&str, &[&str]) = ("embd_pdrop", &["embd_pdrop", "dropout", "drop_rate"]);

/// Adds the configuration to the metadata, if the pickle has one.
pub(super) fn read(budget: &Budget, pickle: &Pickle, contents: &mut Contents) -> Parse<()> {
    for place in PLACES {
        let Some((_, value)) = pickle.named(pickle.root()).find(|(name, _)| *name == place) else { continue };
        let config = config_of(pickle, value);
        if !config.is_empty() {
            return contents.note(budget, CONFIG_METADATA, Json::Object(config).to_string());
        }
    }
    Ok(())
}

/// Returns the known fields of a dict or an object.
fn config_of(pickle: &Pickle, object: Id) -> Map<String, Json> {
    let fields = || pickle.attributes(object).chain(pickle.named(object));
    let find = |names: &[&str]| names.iter().find_map(|name| fields().find(|(field, _)| field == name));
    let mut config = Map::new();
    for (name, names) in DIMENSIONS {
        if let Some(number) = find(names).and_then(|(_, value)| pickle.int(value)) {
            config.insert(name.to_string(), number.into());
        }
    }
    // Dropout alone does not describe a model.
    if let (false, Some((_, value))) = (config.is_empty(), find(DROPOUT.1)) {
        let dropout = match pickle.get(value) {
            Value::Float(number) => Json::from(*number),
            Value::Int(number) => Json::from(*number),
            _ => return config,
        };
        config.insert(DROPOUT.0.to_string(), dropout);
    }
    config
}
