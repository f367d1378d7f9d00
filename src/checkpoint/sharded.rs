//! [`ShardIndex`]: the `model.safetensors.index.json` that says which shard holds which tensor.
//!
//! The index decides. A shard may hold more, such as an older tensor of a name that another shard has: nothing of that
//! is listed, loaded or converted. A file is one shard, however many names or links lead to it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};

use super::bytes::{ByteFile, ParseError};
use super::keys::{Found, Wanted, find_tables};
use super::weight_map;
use crate::error::{CheckpointError, Result, Shown, cause, foreign_json, utf8};

/// Says which shard of a sharded checkpoint holds which tensor.
///
/// ```
/// use candle_gpt_input::checkpoint::ShardIndex;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("model.safetensors.index.json");
/// let json = r#"{"weight_map": {"wte.weight": "1.safetensors", "wpe.weight": "1.safetensors", "bias": "2.safetensors"}}"#;
/// std::fs::write(&path, json)?;
/// let index = ShardIndex::open(&path)?; // the shards need not exist yet
/// assert!(index.shards().into_iter().eq(["1.safetensors", "2.safetensors"]));
/// assert!(index.shards_of_input_tables().into_iter().eq(["1.safetensors"]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ShardIndex {
    path: PathBuf,
    folder: PathBuf,
    weight_map: BTreeMap<String, String>,
}

/// A file of an index.
pub(super) struct ShardFile<'a> {
    pub(super) path: PathBuf,
    /// The names that the index assigns to it, sorted.
    pub(super) names: Vec<&'a str>,
}

impl ShardIndex {
    /// Reads an index file, but none of its shards.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] if it cannot be read; [`CheckpointError::InvalidIndex`] if it is not an index, or a
    /// shard's name leads out of its folder.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self::open_with(path.as_ref(), None)?)
    }

    /// Opens an index; refuses the choice of a state dict, which shards do not have.
    pub(super) fn open_with(path: &Path, state_dict: Option<&str>) -> Result<Self, CheckpointError> {
        let index = Self::parse(path, &text_of(path)?)?;
        match state_dict {
            None => Ok(index),
            Some(key) => Err(CheckpointError::InvalidIndex {
                path: path.to_path_buf(),
                reason: format!("it has no state dict `{}`: shards hold one state dict together", Shown::name(key)),
                source: None,
            }),
        }
    }

    /// Parses the text of an index; its shards are looked for beside `path`.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, CheckpointError> {
        let path = path.to_path_buf();
        let invalid = |reason: String, source| CheckpointError::InvalidIndex { path: path.clone(), reason, source };
        let mut weight_map = weight_map::read(text).map_err(|error| {
            // A path to any JSON leads here.
            let is_named_so = path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(".index.json"));
            match is_named_so || text.contains("\"weight_map\"") {
                true => invalid("expected a JSON object with a `weight_map`".to_string(), Some(cause(error))),
                false => CheckpointError::Foreign { path: path.clone(), format: foreign_json(text) },
            }
        })?;
        if weight_map.is_empty() {
            return Err(invalid("its weight_map is empty".to_string(), None));
        }
        for shard in weight_map.values_mut() {
            if !is_inside(shard) || shard.contains(char::is_control) {
                let shard = Shown::name(shard);
                return Err(invalid(format!("`{shard}` is not the name of a file inside the index's folder"), None));
            }
            // One spelling, without `//` and `/./`.
            let parts = Path::new(&*shard).components().map(|part| part.as_os_str().to_string_lossy());
            *shard = parts.collect::<Vec<_>>().join("/");
        }
        if let Some(name) = weight_map.keys().find(|name| name.contains(char::is_control)) {
            return Err(invalid(format!("a tensor's name has control characters: `{}`", Shown::name(name)), None));
        }
        let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        Ok(Self { path, folder, weight_map })
    }

    /// Returns the shards that hold the two input tables, which are all that loading them needs.
    ///
    /// Empty if the index names no input tables.
    pub fn shards_of_input_tables(&self) -> BTreeSet<&str> {
        let names: Vec<&str> = self.weight_map.keys().map(String::as_str).collect();
        match find_tables(&names, Wanted::default(), true) {
            Found::Tables { wte, wpe } => [wte].into_iter().chain(wpe).filter_map(|name| self.shard_of(name)).collect(),
            _ => BTreeSet::new(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.weight_map.keys().map(String::as_str)
    }

    /// Returns the file names of all shards, each once.
    pub fn shards(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }

    /// Returns the files that hold the shards, each once, in the order of the shards' names.
    pub(super) fn files(&self) -> Result<Vec<ShardFile<'_>>, CheckpointError> {
        let (mut files, mut at, mut inside) = (Vec::<ShardFile>::new(), BTreeMap::new(), BTreeSet::new());
        for (shard, names) in self.by_shard() {
            let path = self.path_within(shard, &mut inside)?;
            match at.entry(file_id(&path).map_err(CheckpointError::reading(&path))?) {
                Entry::Vacant(new) => {
                    new.insert(files.len());
                    files.push(ShardFile { path, names });
                }
                Entry::Occupied(known) => files[*known.get()].names.extend(names),
            }
        }
        files.iter_mut().for_each(|file| file.names.sort_unstable());
        Ok(files)
    }

    /// Returns the names that the index assigns to the file at `path`, sorted. Other shards may be missing.
    pub(super) fn names_in(&self, path: &Path) -> Vec<&str> {
        let Ok(id) = file_id(path) else { return Vec::new() };
        let mut shards = self.by_shard();
        shards.retain(|shard, _| file_id(&self.folder.join(shard)).is_ok_and(|of_shard| of_shard == id));
        let mut names: Vec<&str> = shards.into_values().flatten().collect();
        names.sort_unstable();
        names
    }

    /// Returns the names that each shard is to hold.
    fn by_shard(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, shard) in &self.weight_map {
            shards.entry(shard).or_default().push(name);
        }
        shards
    }

    /// Returns the path of a shard.
    ///
    /// The file may be a link, as it is in the hub's cache. Its folder must lie inside the index's, links resolved.
    pub(super) fn path_of(&self, shard: &str) -> Result<PathBuf, CheckpointError> {
        self.path_within(shard, &mut BTreeSet::new())
    }

    /// Returns the path of a shard as [`path_of`](Self::path_of) does. Each subfolder is resolved once.
    fn path_within<'a>(&self, shard: &'a str, inside: &mut BTreeSet<&'a Path>) -> Result<PathBuf, CheckpointError> {
        let path = self.folder.join(shard);
        if std::fs::metadata(&path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            return Err(CheckpointError::MissingShard { path, index: self.path.clone() });
        }
        let Some(subfolder) = Path::new(shard).parent().filter(|subfolder| !subfolder.as_os_str().is_empty()) else {
            return Ok(path);
        };
        if inside.contains(subfolder) {
            return Ok(path);
        }
        // A folder that has no name is the current one.
        let index_folder = if self.folder.as_os_str().is_empty() { Path::new(".") } else { &self.folder };
        let resolved = |folder: &Path| folder.canonicalize().map_err(CheckpointError::reading(&path));
        if resolved(&index_folder.join(subfolder))?.starts_with(resolved(index_folder)?) {
            inside.insert(subfolder);
            return Ok(path);
        }
        let reason = format!("`{}` is a link out of its folder", Shown::path(subfolder));
        Err(CheckpointError::InvalidIndex { path: self.path.clone(), reason, source: None })
    }

    pub(super) fn shard_of(&self, name: &str) -> Option<&str> {
        self.weight_map.get(name).map(String::as_str)
    }
}

/// What tells a file from all others, whatever its names and links.
#[cfg(unix)]
pub(super) type FileId = (u64, u64);
#[cfg(not(unix))]
pub(super) type FileId = PathBuf;

#[cfg(unix)]
pub(super) fn file_id(path: &Path) -> io::Result<FileId> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
pub(super) fn file_id(path: &Path) -> io::Result<FileId> {
    path.canonicalize()
}

/// Reads the text of an index, of which as much is taken into memory as is really there.
pub(super) fn text_of(path: &Path) -> Result<String, CheckpointError> {
    let file = ByteFile::open(path)?;
    let text =
        file.bytes_at(0, file.n_bytes).and_then(|bytes| utf8(bytes).map_err(|error| ParseError::Io(error.into())));
    text.map_err(|error| match error {
        ParseError::Io(source) => CheckpointError::reading(path)(source),
        other => {
            let (reason, source) = other.into_reason();
            CheckpointError::InvalidIndex { path: path.to_path_buf(), reason, source }
        }
    })
}

/// Returns whether a name stays in its folder: an index may come from an untrusted source.
pub(super) fn is_inside(name: &str) -> bool {
    let mut components = Path::new(name).components().peekable();
    components.peek().is_some() && components.all(|component| matches!(component, Component::Normal(_)))
}
