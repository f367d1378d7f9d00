//! `model.safetensors.index.json`: which shard holds which tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::bytes::printable;
use super::keys::{Found, find_tables};
use crate::error::{CheckpointError, Result};

/// The index of a sharded checkpoint.
#[derive(Clone, Debug)]
pub struct ShardIndex {
    path: PathBuf,
    folder: PathBuf,
    weight_map: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct IndexFile {
    weight_map: BTreeMap<String, String>,
}

impl ShardIndex {
    /// Reads an index file; the shards themselves are not looked at.
    ///
    /// # Errors
    /// [`CheckpointError::Io`], or [`CheckpointError::InvalidIndex`] if it is no index or a shard's name leaves its folder.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self::open_with(path.as_ref(), None)?)
    }

    /// Opens an index for a caller who asks for one state dict, which shards do not have.
    pub(super) fn open_with(path: &Path, state_dict: Option<&str>) -> Result<Self, CheckpointError> {
        let text = std::fs::read_to_string(path).map_err(CheckpointError::reading(path))?;
        let index = Self::parse(path, &text)?;
        match state_dict {
            None => Ok(index),
            Some(key) => Err(CheckpointError::InvalidIndex {
                path: path.to_path_buf(),
                reason: format!("shards hold no state dicts to choose `{}` among", key.escape_debug()),
                source: None,
            }),
        }
    }

    /// Reads the text of an index file that lies at `path`, or would.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, CheckpointError> {
        let path = path.to_path_buf();
        let invalid = |reason: String, source| CheckpointError::InvalidIndex { path: path.clone(), reason, source };
        let IndexFile { weight_map } = serde_json::from_str(text)
            .map_err(|error| invalid("no JSON object with a `weight_map`".to_string(), Some(printable(error))))?;
        if weight_map.is_empty() {
            return Err(invalid("its weight_map is empty".to_string(), None));
        }
        if let Some(shard) =
            weight_map.values().find(|shard| !is_plain_file_name(shard) || shard.contains(char::is_control))
        {
            return Err(invalid(format!("`{}` is not a plain file name", shard.escape_debug()), None));
        }
        if let Some(name) = weight_map.keys().find(|name| name.contains(char::is_control)) {
            return Err(invalid(format!("a tensor's name has control characters: `{}`", name.escape_debug()), None));
        }
        let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        Ok(Self { path, folder, weight_map })
    }

    /// The shards that hold the two input tables, each once: all that has to be there to load them.
    ///
    /// Empty if the index names no input tables.
    pub fn shards_of_input_tables(&self) -> BTreeSet<&str> {
        let names: Vec<&str> = self.weight_map.keys().map(String::as_str).collect();
        match find_tables(&names, None, None, true) {
            Found::Tables { wte, wpe } => [wte, &wpe].into_iter().filter_map(|name| self.shard_of(name)).collect(),
            _ => BTreeSet::new(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.weight_map.keys().map(String::as_str)
    }

    /// Every shard, each once.
    pub fn shards(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }

    pub(super) fn path_of(&self, shard: &str) -> PathBuf {
        self.folder.join(shard)
    }

    pub(super) fn shard_of(&self, name: &str) -> Option<&str> {
        self.weight_map.get(name).map(String::as_str)
    }
}

/// An index from outside must not send us out of its folder.
fn is_plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
}
