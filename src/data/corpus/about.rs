//! [`About`]: `corpus.json`, which states what the files of a corpus hold.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{CorpusFormat, IdBits};
use crate::error::CorpusError;
use crate::files;

/// The name of the file.
pub(super) const ABOUT_FILE: &str = "corpus.json";
/// The largest one that is read.
const MAX_BYTES: u64 = 256 << 20;
const VERSION: u32 = 1;

/// States what the files of a corpus hold, as `corpus.json` beside them does.
///
/// When a corpus is opened, lengths and counts are held against it; checksums with
/// [`CorpusOptions::verify`](super::CorpusOptions::verify).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct About {
    /// The version of this file: 1.
    pub version: u32,
    /// The kind of files.
    pub format: CorpusFormat,
    /// The width of an id.
    pub id_bits: IdBits,
    /// The size of the vocabulary.
    pub vocab_size: usize,
    /// What identifies the tokenizer, such as the SHA-256 of its tokens.
    pub tokenizer: String,
    /// The token at the end or beginning of each document, if there is one.
    pub end_of_text: Option<u32>,
    /// The number of ids in all files.
    pub n_tokens: u64,
    /// The number of documents in all files.
    pub n_documents: u64,
    /// The files, in their order. A Megatron corpus has two for each: `.bin` and `.idx`.
    pub files: Vec<AboutFile>,
}

/// States what one file of a corpus holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AboutFile {
    /// Its name, in the folder of `corpus.json`.
    pub name: String,
    /// Its length.
    pub n_bytes: u64,
    /// The number of its ids.
    pub n_tokens: u64,
    /// The CRC-32 of its bytes.
    pub crc32: u32,
    /// The CRC-32 of the index beside it, of a Megatron corpus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index_crc32: Option<u32>,
}

impl AboutFile {
    /// Describes a file. A Megatron corpus has the checksum of its index too.
    pub fn new(name: impl Into<String>, n_bytes: u64, n_tokens: u64, crc32: u32, index_crc32: Option<u32>) -> Self {
        Self { name: name.into(), n_bytes, n_tokens, crc32, index_crc32 }
    }
}

impl About {
    /// Describes a corpus without files; [`files`](Self::files), [`n_tokens`](Self::n_tokens) and
    /// [`n_documents`](Self::n_documents) are to be filled in.
    pub fn new(
        format: CorpusFormat,
        vocab_size: usize,
        tokenizer: impl Into<String>,
        end_of_text: Option<u32>,
    ) -> Self {
        Self {
            version: VERSION,
            format,
            id_bits: super::write::id_bits(format, vocab_size),
            vocab_size,
            tokenizer: tokenizer.into(),
            end_of_text,
            n_tokens: 0,
            n_documents: 0,
            files: Vec::new(),
        }
    }

    /// Reads the `corpus.json` of a folder, if there is one.
    pub(super) fn of_folder(folder: &Path) -> Result<Option<Self>, CorpusError> {
        let path = folder.join(ABOUT_FILE);
        let refused = |reason: String| CorpusError::About { path: path.clone(), reason };
        match fs::metadata(&path) {
            Ok(about) if about.len() > MAX_BYTES => return Err(refused(format!("{} bytes are too many", about.len()))),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CorpusError::reading(&path)(error)),
        }
        let bytes = fs::read(&path).map_err(CorpusError::reading(&path))?;
        let about: Self = serde_json::from_slice(&bytes).map_err(|error| refused(error.to_string()))?;
        if about.version != VERSION {
            return Err(refused(format!("version {} is not supported: expected {VERSION}", about.version)));
        }
        if about.files.is_empty() {
            return Err(refused("it names no files".to_string()));
        }
        let is_name = |name: &str| !name.is_empty() && Path::new(name).file_name().is_some_and(|last| last == name);
        if let Some(file) = about.files.iter().find(|file| !is_name(&file.name)) {
            return Err(refused(format!("{:?} is not the name of a file", file.name)));
        }
        let n_tokens = about.files.iter().map(|file| u128::from(file.n_tokens)).sum::<u128>();
        if n_tokens != u128::from(about.n_tokens) {
            return Err(refused(format!("its files have {n_tokens} ids, but it states {}", about.n_tokens)));
        }
        Ok(Some(about))
    }

    /// Writes `corpus.json` to a folder, whole or not at all.
    ///
    /// # Errors
    /// [`CheckpointError::Io`](crate::error::CheckpointError::Io) if it cannot be written.
    pub fn save(&self, folder: impl AsRef<Path>) -> crate::error::Result<()> {
        files::write_file(&folder.as_ref().join(ABOUT_FILE), |out| {
            serde_json::to_writer_pretty(&mut *out, self)?;
            out.write_all(b"\n")
        })?;
        Ok(())
    }

    /// Returns what is stated of a file.
    pub(super) fn file(&self, path: &Path) -> Option<&AboutFile> {
        self.files.iter().find(|file| path.file_name().is_some_and(|name| *name == *file.name))
    }
}
