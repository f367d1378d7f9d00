//! Names of files in a folder, and of keys in headers.

pub(crate) const CONFIG_FILE: &str = "config.json";
pub(super) const WEIGHTS_FILE: &str = "model.safetensors";
pub(super) const INDEX_FILE: &str = "model.safetensors.index.json";
/// transformers' names of weights, in the order in which it looks.
pub(crate) const WEIGHTS_NAMES: [&str; 4] =
    [WEIGHTS_FILE, INDEX_FILE, "pytorch_model.bin", "pytorch_model.bin.index.json"];
/// The metadata key under which a single safetensors file holds its configuration.
pub(super) const CONFIG_METADATA: &str = "gpt_input_config";
