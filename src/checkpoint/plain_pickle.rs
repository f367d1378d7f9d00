//! [`PlainPickle`]: numbers in pickles that hold no tensors, such as nanoGPT's `meta.pkl`.

use std::path::Path;

use super::bytes::{ByteFile, Header};
use super::format::Pickle;
use crate::error::{CheckpointError, Result};

/// A pickled dict. It is read and never executed.
pub(crate) struct PlainPickle(Pickle);

impl PlainPickle {
    /// Reads a file.
    ///
    /// # Errors
    /// [`CheckpointError`] if the file cannot be read, or is not a pickle.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = ByteFile::open(path)?;
        let read = Pickle::read(&mut Header::new(&file, 0, file.n_bytes));
        let pickle = read.map_err(|error| {
            let (reason, source) = error.into_reason();
            CheckpointError::InvalidFile { path: path.to_path_buf(), format: "pickle", reason, source }
        })?;
        Ok(Self(pickle))
    }

    /// Returns the integer under a key.
    pub(crate) fn integer(&self, key: &str) -> Option<i64> {
        // As in a dict of Python, the last of equal keys counts.
        let found = self.0.named(self.0.root()).filter(|(name, _)| *name == key).last();
        found.and_then(|(_, value)| self.0.int(value))
    }

    /// Returns the names and integers of the dict under a key. It has none if there is no such dict.
    pub(crate) fn integers(&self, key: &str) -> impl Iterator<Item = (&str, i64)> {
        let found = self.0.named(self.0.root()).filter(|(name, _)| *name == key).last();
        let pairs = found.into_iter().flat_map(|(_, value)| self.0.named(value));
        pairs.filter_map(|(name, value)| Some((name, self.0.int(value)?)))
    }
}
