//! Names of files in a folder, and of keys in headers.

pub(super) const CONFIG_FILE: &str = "config.json";
pub(crate) const WEIGHTS_FILE: &str = "model.safetensors";
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";
/// The metadata key under which a single safetensors file holds its configuration.
pub(super) const CONFIG_METADATA: &str = "gpt_input_config";
/// The configuration key under which a header states the rows of a padded table.
pub(super) const PADDED_VOCAB: &str = "padded_vocab_size";
