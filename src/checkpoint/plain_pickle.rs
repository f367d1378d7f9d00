//! Numbers in pickles that hold no tensors, such as nanoGPT's `meta.pkl`.

use std::path::Path;

use super::bytes::{ByteFile, Header};
use super::format::Pickle;
use crate::error::{CheckpointError, Result};

/// Returns an integer that a pickled dict has under a key. The pickle is read and never executed.
///
/// # Errors
/// [`CheckpointError`] if the file cannot be read, or is not a pickle.
pub(crate) fn pickled_integer(path: &Path, key: &str) -> Result<Option<i64>> {
    let file = ByteFile::open(path)?;
    let read = Pickle::read(&mut Header::new(&file, 0, file.n_bytes));
    let pickle = read.map_err(|error| {
        let (reason, source) = error.into_reason();
        CheckpointError::InvalidFile { path: path.to_path_buf(), format: "pickle", reason, source }
    })?;
    // As in a dict of Python, the last of equal keys counts.
    let found = pickle.named(pickle.root()).filter(|(name, _)| *name == key).last();
    Ok(found.and_then(|(_, value)| pickle.int(value)))
}
