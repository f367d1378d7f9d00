//! [`Journal`]: `corpus.partial.json`, by which a writer that was stopped goes on.
//!
//! The first line is the `corpus.json` of a corpus without files. Each shard appends a line before its files get their
//! names, so these are known as the writer's own, and the journal of many shards is not written again for each.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::about::{self, About, AboutFile, JOURNAL_FILE};
use super::names;
use crate::error::{CorpusError, Result};
use crate::files;

/// What the corpus has with a shard.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    /// The shard.
    pub(super) file: AboutFile,
    /// The documents that are in files as a whole.
    pub(super) n_documents: u64,
    /// The documents given that are in no file, because they have no ids.
    pub(super) n_left_out: u64,
    /// The ids of the next document that are in files.
    pub(super) n_taken: u64,
}

/// The file, which a writer holds by a lock.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// Where the next line begins.
    end: u64,
}

/// What a journal says.
pub(super) struct Written {
    /// The corpus without files.
    pub(super) begun: About,
    pub(super) steps: Vec<Step>,
    /// Where the last step begins.
    last: u64,
}

impl Journal {
    /// Opens the journal of a folder, if there is one.
    pub(super) fn open(folder: &Path) -> Result<Option<(Self, Written)>, CorpusError> {
        let path = folder.join(JOURNAL_FILE);
        let mut file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CorpusError::writing(&path)(error)),
        };
        // Where there are no locks, writers at the same time can fail, but nothing of others is replaced.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(CorpusError::InUse { path });
        }
        let bytes = about::read_whole(&mut file, &path)?;
        // A kill may have cut the last line.
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let mut lines = bytes[..end].split_inclusive(|byte| *byte == b'\n');
        let begun = About::parse(lines.next().unwrap_or_default(), &path)?;
        let refused = |error: serde_json::Error| CorpusError::About { path: path.clone(), reason: error.to_string() };
        let (mut steps, mut last) = (Vec::new(), 0);
        for line in lines {
            let step: Step = serde_json::from_slice(line).map_err(refused)?;
            step.file.check_name(&path)?;
            steps.push(step);
            last = (end - line.len()) as u64;
        }
        Ok(Some((Self { path, file, end: end as u64 }, Written { begun, steps, last })))
    }

    /// Begins the journal of a folder.
    pub(super) fn create(folder: &Path, begun: &About) -> Result<Self> {
        let path = folder.join(JOURNAL_FILE);
        names::must_be_free(&path)?;
        files::write_file(&path, |out| {
            serde_json::to_writer(&mut *out, begun)?;
            out.write_all(b"\n")
        })?;
        match Self::open(folder)? {
            Some((journal, _)) => Ok(journal),
            None => Err(CorpusError::InUse { path }.into()),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes back the last step.
    pub(super) fn forget_last(&mut self, written: &mut Written) {
        self.end = written.last;
        written.steps.pop();
    }

    /// Appends a step, which is on disk when this returns.
    pub(super) fn append(&mut self, step: &Step) -> Result<(), CorpusError> {
        let io = CorpusError::writing(&self.path);
        let mut line = serde_json::to_vec(step).map_err(|error| io(error.into()))?;
        line.push(b'\n');
        let file = &mut self.file;
        file.set_len(self.end).and_then(|()| file.seek(SeekFrom::Start(self.end))).map_err(io)?;
        file.write_all(&line).and_then(|()| file.sync_data()).map_err(io)?;
        self.end += line.len() as u64;
        Ok(())
    }

    /// Removes it, once `corpus.json` is there.
    pub(super) fn remove(self) -> Result<(), CorpusError> {
        fs::remove_file(&self.path).map_err(CorpusError::writing(&self.path))
    }
}
