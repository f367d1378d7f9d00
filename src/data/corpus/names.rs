//! The names that a writer gives its files, which those of others must not have.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

use super::CorpusFormat;
use super::about::About;
use crate::error::CorpusError;

/// Returns the name of a file of ids.
pub(super) fn of_shard(format: CorpusFormat, number: usize) -> String {
    match format {
        CorpusFormat::NanoGpt => "train.bin".to_string(),
        _ => format!("train_{number:06}.bin"),
    }
}

/// Returns whether a file of ids, or an index, of any format and number has this name.
fn is_of_shard(name: &str) -> bool {
    let stem = name.strip_suffix(".bin").or_else(|| name.strip_suffix(".idx"));
    stem.and_then(|stem| stem.strip_prefix("train")).is_some_and(|number| {
        number.is_empty() || number.strip_prefix('_').is_some_and(|digits| digits.bytes().all(|c| c.is_ascii_digit()))
    })
}

/// Checks that a folder has no files of ids but those stated, which other readers would take as parts of the corpus.
pub(super) fn only_stated(folder: &Path, about: &About) -> Result<(), CorpusError> {
    let io = CorpusError::reading(folder);
    let stated: HashSet<&str> = about.files.iter().map(|file| file.name.as_str()).collect();
    let is_foreign = |name: &OsString| {
        name.to_str().is_some_and(|name| {
            let ids = name.strip_suffix(".idx").filter(|_| about.format == CorpusFormat::Megatron);
            let ids = ids.map_or(name.to_string(), |stem| format!("{stem}.bin"));
            is_of_shard(name) && !stated.contains(ids.as_str())
        })
    };
    for entry in fs::read_dir(folder).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        if is_foreign(&name) {
            return Err(CorpusError::Occupied { path: folder.join(name) });
        }
    }
    Ok(())
}

/// Returns whether there is something at a path, also a link to nothing.
pub(super) fn is_there(path: &Path) -> Result<bool, CorpusError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(CorpusError::reading(path)(error)),
    }
}

/// Checks that nothing is at a path, for what is there is not the writer's.
pub(super) fn must_be_free(path: &Path) -> Result<(), CorpusError> {
    match is_there(path)? {
        true => Err(CorpusError::Occupied { path: path.to_path_buf() }),
        false => Ok(()),
    }
}
