//! [`Switch`]: replaces the checkpoint of a folder, which opens at every moment as the old one or as the new one.
//!
//! One rename or removal decides. What comes before it can be undone, and what comes after it can be finished, by the
//! next writer; [`Journal`] says what that is.
//!
//! 1. The journal is claimed, still empty. Other writers wait for it.
//! 2. The file that decides, `model.safetensors` or the index of shards, is completed as `.NAME.partial`.
//! 3. The journal is written.
//! 4. New shards are written, under names that no file has.
//! 5. The file that decides gets its name. An index decides once there is no `model.safetensors`, which is read first.
//! 6. `config.json` is written, for which the journal stands until then.
//! 7. The old checkpoint's shards are removed, and last the journal.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::names::{CONFIG_FILE, INDEX_FILE, WEIGHTS_FILE};
use super::sharded::{ShardIndex, is_inside, text_of};
use crate::error::CheckpointError;
use crate::files::{Partial, folder_of, partial_of, remove_leftover, sync_folder, write_file};

/// The name for which the journal is the `.NAME.partial`.
const JOURNAL: &str = "checkpoint.journal";

/// What a writer leaves to the next one.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Journal {
    config: Option<String>,
    /// The shards of the new checkpoint; none if it is one file.
    new: BTreeSet<String>,
    /// The shards of the old checkpoint.
    old: BTreeSet<String>,
}

impl Journal {
    /// Reads a journal; `None` if there is none, or if nothing is decided because it is not written yet.
    fn read(at: &Path) -> Option<Self> {
        serde_json::from_str(&text_of(at).ok()?).ok()
    }

    fn is_decided(&self, folder: &Path) -> bool {
        let decides = if self.new.is_empty() { WEIGHTS_FILE } else { INDEX_FILE };
        let is_pending = partial_of(&folder.join(decides)).is_ok_and(|partial| is_there(&partial));
        !is_pending && (self.new.is_empty() || !is_there(&folder.join(WEIGHTS_FILE)))
    }

    /// Removes the new shards, and once it is decided the old ones, except those that the folder's index still uses.
    /// Beside `model.safetensors`, which is read first, an index of nothing else is removed with them.
    fn remove_unused(&self, folder: &Path, is_decided: bool) -> io::Result<()> {
        let old = is_decided.then_some(&self.old).into_iter().flatten();
        let mut unused: BTreeSet<&str> = self.new.iter().chain(old).map(String::as_str).collect();
        let index_path = folder.join(INDEX_FILE);
        if is_there(&index_path) {
            // An index that cannot be read may use any of them.
            let Ok(index) = ShardIndex::open(&index_path) else { return Ok(()) };
            let used = index.shards();
            if !folder.join(WEIGHTS_FILE).is_file() {
                unused.retain(|name| !used.contains(name));
            } else if used.is_subset(&unused) {
                fs::remove_file(&index_path)?;
            }
        }
        for name in unused {
            let path = folder.join(name);
            // The names come from a file, and no other file may be lost by them.
            let is_shard = is_inside(name) && name.ends_with(".safetensors") && name != WEIGHTS_FILE;
            let is_within = || Some(folder_of(&path).canonicalize().ok()?.starts_with(folder.canonicalize().ok()?));
            if is_shard && is_there(&path) && is_within() == Some(true) {
                fs::remove_file(&path)?;
            }
        }
        sync_folder(folder)
    }
}

/// A folder whose checkpoint is being replaced. Dropped before it is decided, it leaves the folder as it was.
#[derive(Debug)]
pub(super) struct Switch {
    /// The file that decides; dropped before the journal, once the journal is empty.
    pending: Option<Partial>,
    journal: Partial,
    folder: PathBuf,
    config: Option<String>,
    is_sharded: bool,
}

impl Switch {
    /// Waits for other writers of the folder, and finishes or undoes what a killed one left.
    pub(super) fn begin(folder: &Path, config: Option<String>) -> Result<Self, CheckpointError> {
        fs::create_dir_all(folder).map_err(CheckpointError::creating(folder))?;
        let claimed = || {
            let mut journal = Partial::create_after(&folder.join(JOURNAL), settle)?;
            journal.complete()?;
            Ok(Self { pending: None, journal, folder: folder.to_path_buf(), config, is_sharded: false })
        };
        let switch = claimed().map_err(CheckpointError::writing(folder))?;
        sweep(folder);
        Ok(switch)
    }

    /// Replaces the checkpoint by one file of weights.
    pub(super) fn replace_by_file(
        mut self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), CheckpointError> {
        let path = self.folder.join(WEIGHTS_FILE);
        self.prepare(&path, BTreeSet::new(), write).map_err(CheckpointError::writing(&path))?;
        self.decide()
    }

    /// Returns names for this many shards that no file of the folder has.
    pub(super) fn names(&self, n_shards: usize) -> Vec<String> {
        let mut names = Vec::new();
        for generation in 1.. {
            let model = if generation == 1 { "model".to_string() } else { format!("model-{generation}") };
            names = (1..=n_shards).map(|i| format!("{model}-{i:05}-of-{n_shards:05}.safetensors")).collect();
            if !names.iter().any(|name| is_there(&self.folder.join(name))) {
                break;
            }
        }
        names
    }

    /// Prepares the index of these shards, which are then written, before [`decide`](Self::decide).
    pub(super) fn prepare_shards(&mut self, names: &[String], index: &str) -> Result<(), CheckpointError> {
        let path = self.folder.join(INDEX_FILE);
        let new = names.iter().cloned().collect();
        self.prepare(&path, new, |out| out.write_all(index.as_bytes())).map_err(CheckpointError::writing(&path))
    }

    fn prepare(
        &mut self,
        path: &Path,
        new: BTreeSet<String>,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut pending = Partial::create(path)?;
        write(pending.file())?;
        pending.complete()?;
        self.pending = Some(pending);
        self.is_sharded = !new.is_empty();
        let index = ShardIndex::open(self.folder.join(INDEX_FILE));
        let old = index.map(|index| index.shards().into_iter().map(str::to_string).collect()).unwrap_or_default();
        let journal = Journal { config: self.config.clone(), new, old };
        self.journal.file().write_all(&serde_json::to_vec(&journal)?)?;
        self.journal.file().sync_all()?;
        sync_folder(&self.folder)
    }

    /// Makes the new checkpoint that of the folder.
    pub(super) fn decide(mut self) -> Result<(), CheckpointError> {
        self.install().map_err(CheckpointError::writing(&self.folder))
    }

    fn install(&mut self) -> io::Result<()> {
        if let Some(pending) = &mut self.pending {
            pending.install()?;
        }
        let weights = self.folder.join(WEIGHTS_FILE);
        if self.is_sharded && is_there(&weights) {
            fs::remove_file(&weights)?;
            sync_folder(&self.folder)?;
        }
        settle(self.journal.at())
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if settle(self.journal.at()).is_err() {
            // The next writer tries again.
            self.journal.keep();
            self.pending.iter_mut().for_each(Partial::keep);
        }
    }
}

/// Finishes what a journal describes if it is decided, and undoes it if not. Then the journal is empty.
fn settle(at: &Path) -> io::Result<()> {
    let folder = folder_of(at);
    if let Some(journal) = Journal::read(at) {
        let is_decided = journal.is_decided(folder);
        if let Some(config) = journal.config.as_ref().filter(|_| is_decided) {
            let written = write_file(&folder.join(CONFIG_FILE), |out| out.write_all(config.as_bytes()));
            written.map_err(io::Error::other)?;
        }
        journal.remove_unused(folder, is_decided)?;
        // From here on a missing file that was to decide says nothing.
        File::options().write(true).open(at)?.set_len(0)?;
    }
    sweep(folder);
    Ok(())
}

/// Removes what killed writers left of files that are replaced here. The next one removes what is held now.
fn sweep(folder: &Path) {
    for name in [WEIGHTS_FILE, INDEX_FILE, CONFIG_FILE] {
        let _ = partial_of(&folder.join(name)).and_then(|partial| remove_leftover(&partial, false, |_| Ok(())));
    }
}

/// Finishes or undoes what a killed writer left in a folder. One that lives is not waited for.
pub(super) fn recover(folder: &Path) -> Result<(), CheckpointError> {
    let recovered = partial_of(&folder.join(JOURNAL)).and_then(|at| remove_leftover(&at, false, settle));
    recovered.map_err(CheckpointError::writing(folder))
}

/// Reads the journal of a folder as [`Journal::read`] does.
fn journal_of(folder: &Path) -> Option<Journal> {
    Journal::read(&partial_of(&folder.join(JOURNAL)).ok()?)
}

/// Returns the configuration of a folder whose new weights are decided, but whose `config.json` may be the old one.
pub(super) fn decided_config(folder: &Path) -> Option<String> {
    let journal = journal_of(folder)?;
    journal.config.as_ref().filter(|_| journal.is_decided(folder)).cloned()
}

/// Returns the shards in a folder that belong to no checkpoint yet.
pub(super) fn undecided_shards(folder: &Path) -> BTreeSet<String> {
    journal_of(folder).filter(|journal| !journal.is_decided(folder)).map(|journal| journal.new).unwrap_or_default()
}

/// Returns what changes while the checkpoint of a folder is replaced.
pub(super) fn state(folder: &Path) -> [Option<(u64, Option<SystemTime>)>; 4] {
    let about = |path: PathBuf| fs::metadata(path).ok().map(|about| (about.len(), about.modified().ok()));
    let journal = partial_of(&folder.join(JOURNAL)).unwrap_or_default();
    [about(folder.join(WEIGHTS_FILE)), about(folder.join(INDEX_FILE)), about(folder.join(CONFIG_FILE)), about(journal)]
}

fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}
