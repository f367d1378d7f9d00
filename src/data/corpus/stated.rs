//! [`Stated`]: what `corpus.json` states of a file, which is held against it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::about::{About, AboutFile};
use crate::error::CorpusError;
use crate::files::folder_of;

/// What is stated of a file beside it.
#[derive(Clone, Copy)]
pub(super) struct Stated<'a> {
    pub(super) about: &'a About,
    pub(super) file: &'a AboutFile,
}

/// A file, by its folder and its name.
pub(super) type Key<'a> = (&'a Path, Option<&'a OsStr>);

pub(super) type ByPath<'a> = HashMap<Key<'a>, Stated<'a>>;

pub(super) fn key(path: &Path) -> Key<'_> {
    (folder_of(path), path.file_name())
}

impl<'a> Stated<'a> {
    pub(super) fn by_path(abouts: &'a [(PathBuf, About)]) -> ByPath<'a> {
        let of_folder = |(folder, about): &'a (PathBuf, About)| {
            let of_file =
                |file: &'a AboutFile| ((folder.as_path(), Some(OsStr::new(&file.name))), Self { about, file });
            about.files.iter().map(of_file)
        };
        abouts.iter().flat_map(of_folder).collect()
    }

    pub(super) fn must_be<T: PartialEq + ToString>(
        &self,
        path: &Path,
        what: &'static str,
        stated: T,
        found: T,
    ) -> Result<(), CorpusError> {
        match stated == found {
            true => Ok(()),
            false => Err(CorpusError::Differs {
                path: path.to_path_buf(),
                what,
                stated: stated.to_string(),
                found: found.to_string(),
            }),
        }
    }

    pub(super) fn checksum(&self, path: &Path, stated: u32, bytes: &[u8]) -> Result<(), CorpusError> {
        let hex = |crc: u32| format!("{crc:08x}");
        self.must_be(path, "a CRC-32 of", hex(stated), hex(crc32fast::hash(bytes)))
    }
}
