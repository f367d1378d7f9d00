//! Finds the weights in a folder, and the configuration that belongs to them.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::bytes::ByteFile;
use super::format::{Format, foreign};
use super::keys;
use super::names::{CONFIG_FILE, CONFIG_METADATA, WEIGHTS_NAMES};
use super::report::{Choice, ConfigSource};
use super::runs;
use super::switch;
use super::weights::Weights;
use crate::config::{ConfigFile, read_text};
use crate::error::{CheckpointError, ConfigError, ForeignFormat};
use crate::files::{folder_of, is_partial};

/// OpenAI's name of weights in a folder.
const OPENAI_NAME: &str = "model.ckpt.index";
/// OpenAI's configuration, and the fields that Hugging Face names differently.
const HPARAMS_FILE: &str = "hparams.json";
const HPARAMS_NAMES: [(&str, &str); 2] = [("n_vocab", "vocab_size"), ("n_ctx", "n_positions")];

/// The file to open for a path.
pub(super) struct At {
    pub(super) file: PathBuf,
    /// Whether the path is that of the folder.
    pub(super) whole_folder: bool,
    /// How the file was chosen among several.
    pub(super) choice: Option<Choice>,
}

/// Returns the file to open for a path.
///
/// The file is the path itself, a folder's weights or index, or the index behind a TensorFlow checkpoint's prefix.
pub(super) fn weights_at(path: &Path) -> Result<At, CheckpointError> {
    let alone = |file| At { file, whole_folder: false, choice: None };
    let kind = match std::fs::metadata(path) {
        Ok(kind) => kind,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut index = path.as_os_str().to_os_string();
            index.push(".index");
            return match Path::new(&index).is_file() {
                true => Ok(alone(index.into())),
                false => Err(CheckpointError::NotFound { path: path.to_path_buf() }),
            };
        }
        Err(error) => return Err(CheckpointError::reading(path)(error)),
    };
    if !kind.is_dir() {
        return Ok(alone(path.to_path_buf()));
    }
    let (folder, of_cache) = match runs::snapshot(path)? {
        Some(choice) => (choice.path.clone(), Some(choice)),
        None => (path.to_path_buf(), None),
    };
    let (file, choice) = weights_in(&folder)?;
    Ok(At { file, whole_folder: true, choice: choice.or(of_cache) })
}

/// Returns whether a file is JSON, and so an index of shards: its first byte that is not a space is a brace.
pub(super) fn is_index(path: &Path) -> bool {
    let Ok(file) = ByteFile::open(path) else { return false };
    let front = file.bytes_at(0, file.n_bytes.min(64)).unwrap_or_default();
    matches!(Format::of(&file), Ok(None)) && front.trim_ascii_start().first() == Some(&b'{')
}

/// Returns the names of weights in a folder, in the order in which they are looked for.
fn known_names() -> impl Iterator<Item = &'static str> {
    WEIGHTS_NAMES.into_iter().chain([OPENAI_NAME])
}

/// Returns the file of a folder that has one of the names of weights, if there is one.
fn named_weights(folder: &Path) -> Option<PathBuf> {
    known_names().map(|name| folder.join(name)).find(|path| path.is_file())
}

/// Finds the weights of a folder: a file of a known name, the only file of a known format, or the newest step of a run.
fn weights_in(folder: &Path) -> Result<(PathBuf, Option<Choice>), CheckpointError> {
    if let Some(path) = named_weights(folder) {
        return Ok((path, None));
    }
    let io = CheckpointError::reading(folder);
    let (mut others, mut folders, mut names) = (Vec::new(), Vec::new(), HashSet::new());
    let undecided = switch::undecided_shards(folder);
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let path = entry.path();
        if path.is_dir() {
            folders.push(path);
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        if undecided.contains(&name) || is_partial(&name) {
            continue; // is being written
        }
        names.insert(name);
        if let Some(format) = ByteFile::open(&path).ok().and_then(|file| Format::of(&file).ok()?) {
            others.push((path, format));
        }
    }
    // A folder may also hold an optimizer's state, which PyTorch pickles.
    if others.iter().any(|(_, format)| *format == Format::Safetensors) {
        others.retain(|(_, format)| *format == Format::Safetensors);
    }
    others.sort_by(|left, right| left.0.cmp(&right.0));
    if let [(only, _)] = others.as_slice() {
        return Ok((only.clone(), None));
    }
    let files: Vec<PathBuf> = others.into_iter().map(|(path, _)| path).collect();
    if let Some(choice) = runs::newest_step(folder, &files, &names)? {
        return Ok((choice.path.clone(), Some(choice)));
    }
    let path = folder.to_path_buf();
    if files.is_empty() {
        folders.retain(|folder| named_weights(folder).is_some() || runs::is_cached_repository(folder));
        folders.sort();
    }
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let found: Vec<String> =
        files.iter().chain(files.is_empty().then_some(&folders).into_iter().flatten()).map(name).collect();
    let advice = match found.first() {
        None => {
            let foreign = foreign_in(&path, &names);
            let found = if foreign.is_empty() { "none".to_string() } else { keys::listed(&foreign) };
            return Err(CheckpointError::NoWeights { path, found });
        }
        Some(_) if files.is_empty() => "open one of these folders instead",
        Some(first) if first.contains("-of-") => {
            "add model.safetensors.index.json if they are shards of one, else open one of these files instead"
        }
        Some(_) => "open one of these files instead",
    };
    Err(CheckpointError::SeveralWeights { path, found: keys::listed(&found), advice })
}

/// Names the files of a folder that are weights in other formats, or stand for weights, with what they are.
fn foreign_in(folder: &Path, names: &HashSet<String>) -> Vec<String> {
    let mut names: Vec<&String> = names.iter().collect();
    names.sort_unstable();
    let named = names.into_iter().filter_map(|name| {
        let format = foreign::of(&ByteFile::open(&folder.join(name)).ok()?).ok()??;
        let may_be_weights = !matches!(
            format,
            ForeignFormat::Config | ForeignFormat::Json | ForeignFormat::Text { .. } | ForeignFormat::Other { .. }
        );
        may_be_weights.then(|| format!("{name} ({format})"))
    });
    // Each brings its advice.
    named.take(2).collect()
}

/// Returns the name of the configuration of the checkpoint that a folder holds. New weights would get it.
pub(super) fn config_of_weights(folder: &Path) -> Option<&'static str> {
    named_weights(folder)?;
    [CONFIG_FILE, HPARAMS_FILE].into_iter().find(|name| folder.join(name).is_file())
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
    let of_a_folder = whole_folder || known_names().any(|name| file.file_name().is_some_and(|of_file| of_file == name));
    if of_a_folder {
        if let Some(text) = switch::decided_config(folder_of(file)) {
            let source = ConfigSource::File(file.with_file_name(CONFIG_FILE));
            return placed(source, ConfigFile::parse(&text)).map(Some);
        }
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
    let text = read_text(&path)?;
    placed(ConfigSource::File(path), parse(&text))
}

/// Parses the configuration of the options.
pub(super) fn given_config(text: &str) -> Result<(ConfigSource, ConfigFile), CheckpointError> {
    placed(ConfigSource::Given, ConfigFile::parse(text))
}

/// Reads the configuration in the metadata of a single file, if there is one.
pub(super) fn embedded_config(weights: &Weights) -> Result<Option<(ConfigSource, ConfigFile)>, CheckpointError> {
    let Weights::File(opened) = weights else { return Ok(None) };
    let Some(text) = opened.metadata().get(CONFIG_METADATA) else { return Ok(None) };
    placed(ConfigSource::Metadata(opened.path().to_path_buf()), ConfigFile::parse(text)).map(Some)
}

/// Pairs a configuration with its source, whose place its error names.
fn placed(
    source: ConfigSource,
    parsed: Result<ConfigFile, ConfigError>,
) -> Result<(ConfigSource, ConfigFile), CheckpointError> {
    let config = parsed.map_err(CheckpointError::config_in(source.place()))?;
    Ok((source, config))
}

fn parse_hparams(text: &str) -> Result<ConfigFile, ConfigError> {
    ConfigFile::parse_renamed(text, &HPARAMS_NAMES)
}
