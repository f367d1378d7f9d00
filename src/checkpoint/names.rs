//! Names of files in a folder, and of what files say of themselves.

pub(super) const CONFIG_FILE: &str = "config.json";
pub(crate) const WEIGHTS_FILE: &str = "model.safetensors";
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";
/// The key of a safetensors file's metadata under which a single file carries its configuration.
pub(super) const CONFIG_METADATA: &str = "gpt_input_config";
/// The key of a configuration under which a header states how many rows a padded table has.
pub(super) const PADDED_VOCAB: &str = "padded_vocab_size";
