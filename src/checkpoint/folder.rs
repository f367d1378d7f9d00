//! Finds the weights in a folder, and the configuration that belongs to them.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::bytes::ByteFile;
use super::format::Format;
use super::names::{CONFIG_FILE, CONFIG_METADATA};
use super::report::ConfigSource;
use super::weights::Weights;
use crate::config::ConfigFile;
use crate::error::{CheckpointError, ConfigError};

/// The names of weights in a folder: transformers' in the order in which it looks, then OpenAI's.
const NAMES: [&str; 5] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model.ckpt.index",
];
/// OpenAI's configuration, and the fields that Hugging Face names differently.
const HPARAMS_FILE: &str = "hparams.json";
const HPARAMS_NAMES: [(&str, &str); 2] = [("n_vocab", "vocab_size"), ("n_ctx", "n_positions")];

/// Returns the file to open for a path, and whether the path is a folder.
///
/// The file is the path itself, a folder's weights or index, or the index behind a TensorFlow checkpoint's prefix.
pub(super) fn weights_at(path: &Path) -> Result<(PathBuf, bool), CheckpointError> {
    let kind = match std::fs::metadata(path) {
        Ok(kind) => kind,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut index = path.as_os_str().to_os_string();
            index.push(".index");
            return match Path::new(&index).is_file() {
                true => Ok((index.into(), false)),
                false => Err(CheckpointError::NotFound { path: path.to_path_buf() }),
            };
        }
        Err(error) => return Err(CheckpointError::reading(path)(error)),
    };
    match kind.is_dir() {
        true => Ok((weights_in(path)?, true)),
        false => Ok((path.to_path_buf(), false)),
    }
}

/// Returns whether a file is JSON, and so an index of shards: its first byte that is not a space is a brace.
pub(super) fn is_index(path: &Path) -> bool {
    let Ok(file) = ByteFile::open(path) else { return false };
    let front = file.bytes_at(0, file.n_bytes.min(64)).unwrap_or_default();
    matches!(Format::of(&file), Ok(None)) && front.trim_ascii_start().first() == Some(&b'{')
}

/// Finds the weights of a folder: a file of a known name, or the only file of a known format.
fn weights_in(folder: &Path) -> Result<PathBuf, CheckpointError> {
    for name in NAMES {
        let path = folder.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    let io = CheckpointError::reading(folder);
    let mut others = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if let Some(format) = ByteFile::open(&path).ok().and_then(|file| Format::of(&file).ok()?) {
            others.push((path, format));
        }
    }
    // A folder may also hold an optimizer's state, which PyTorch pickles.
    if others.iter().any(|(_, format)| *format == Format::Safetensors) {
        others.retain(|(_, format)| *format == Format::Safetensors);
    }
    others.sort_by(|left, right| left.0.cmp(&right.0));
    match others.as_slice() {
        [(only, _)] => Ok(only.clone()),
        several => {
            let names: Vec<_> =
                several.iter().filter_map(|(path, _)| path.file_name()).map(|name| name.to_string_lossy()).collect();
            let found = if names.is_empty() { "none".to_string() } else { names.join(", ") };
            Err(CheckpointError::NoWeights { path: folder.to_path_buf(), found })
        }
    }
}

/// Reads the configuration that belongs to a file of weights, if there is one.
///
/// It is the `config.json` (or OpenAI's `hparams.json`) beside the file if the whole folder was opened or the file has
/// one of the names that weights have in a folder. A file of any other name may lie beside the config of another model,
/// so only the configuration inside the file counts.
pub(super) fn read_config(
    file: &Path,
    weights: &Weights,
    whole_folder: bool,
) -> Result<Option<(ConfigSource, ConfigFile)>, CheckpointError> {
    let of_a_folder = whole_folder || NAMES.iter().any(|name| file.file_name().is_some_and(|of_file| of_file == *name));
    if of_a_folder {
        for (name, parse) in [(CONFIG_FILE, ConfigFile::parse as fn(&str) -> _), (HPARAMS_FILE, parse_hparams)] {
            let beside = file.with_file_name(name);
            if beside.is_file() {
                return config_file(beside, parse).map(Some);
            }
        }
    }
    embedded_config(weights)
}

/// Reads and parses a file of configuration.
pub(super) fn config_file(
    path: PathBuf,
    parse: fn(&str) -> Result<ConfigFile, ConfigError>,
) -> Result<(ConfigSource, ConfigFile), CheckpointError> {
    let text = std::fs::read_to_string(&path).map_err(CheckpointError::reading(&path))?;
    match parse(&text) {
        Ok(config) => Ok((ConfigSource::File(path), config)),
        Err(error) => Err(CheckpointError::config_in(&path)(error)),
    }
}

/// Parses a configuration; errors name the checkpoint at `path`.
pub(super) fn parse_config(path: &Path, text: &str) -> Result<ConfigFile, CheckpointError> {
    ConfigFile::parse(text).map_err(CheckpointError::config_in(path))
}

/// Reads the configuration in the metadata of a single file, if there is one.
pub(super) fn embedded_config(weights: &Weights) -> Result<Option<(ConfigSource, ConfigFile)>, CheckpointError> {
    let Weights::File(opened) = weights else { return Ok(None) };
    let Some(text) = opened.metadata().get(CONFIG_METADATA) else { return Ok(None) };
    let config = parse_config(opened.path(), text)?;
    Ok(Some((ConfigSource::Metadata(opened.path().to_path_buf()), config)))
}

fn parse_hparams(text: &str) -> Result<ConfigFile, ConfigError> {
    let renamed = serde_json::from_str::<Map<String, Value>>(text).map(|mut map| {
        for (theirs, ours) in HPARAMS_NAMES {
            if let Some(value) = map.remove(theirs) {
                map.insert(ours.to_string(), value);
            }
        }
        Value::Object(map).to_string()
    });
    ConfigFile::parse(renamed.as_deref().unwrap_or(text))
}
