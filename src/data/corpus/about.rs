//! [`About`]: `corpus.json`, which states what the files of a corpus hold.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::megatron::NARROW_BELOW;
use super::{CorpusFormat, IdBits};
use crate::error::{CheckpointError, CorpusError};
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
    /// What identifies the texts and how they were read, so that a writer that was stopped can go on.
    pub origin: String,
    /// The ids of a shard, where the format has several.
    pub shard_tokens: u64,
    /// The token at the end or beginning of each document, if there is one.
    pub end_of_text: Option<u32>,
    /// The number of ids in all files.
    pub n_tokens: u64,
    /// The number of documents in all files.
    pub n_documents: u64,
    /// While the corpus is being written: the documents given that are in no file, because they have no ids.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) n_left_out: u64,
    /// While the corpus is being written: the ids of the next document that are in complete files.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) n_taken: u64,
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

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl AboutFile {
    /// Describes a file. A Megatron corpus has the checksum of its index too.
    pub fn new(name: impl Into<String>, n_bytes: u64, n_tokens: u64, crc32: u32, index_crc32: Option<u32>) -> Self {
        Self { name: name.into(), n_bytes, n_tokens, crc32, index_crc32 }
    }
}

impl About {
    /// Describes a corpus without files, for a [`CorpusWriter`](super::CorpusWriter). Ids have the width that the
    /// format's own writer takes for a vocabulary of this size.
    pub fn new(
        format: CorpusFormat,
        vocab_size: usize,
        tokenizer: impl Into<String>,
        end_of_text: Option<u32>,
        shard_tokens: u64,
    ) -> Self {
        let id_bits = match format {
            CorpusFormat::Megatron if vocab_size >= NARROW_BELOW => IdBits::ThirtyTwo,
            _ => IdBits::of_vocabulary(vocab_size),
        };
        let (tokenizer, origin, files) = (tokenizer.into(), String::new(), Vec::new());
        let (n_tokens, n_documents, version) = (0, 0, VERSION);
        Self {
            version,
            format,
            id_bits,
            vocab_size,
            tokenizer,
            origin,
            shard_tokens,
            end_of_text,
            n_tokens,
            n_documents,
            n_left_out: 0,
            n_taken: 0,
            files,
        }
    }

    /// Sets `origin`.
    #[must_use]
    pub fn with_origin(self, origin: impl Into<String>) -> Self {
        Self { origin: origin.into(), ..self }
    }

    /// Reads the `corpus.json` of a folder, if there is one.
    pub(super) fn of_folder(folder: &Path) -> Result<Option<Self>, CorpusError> {
        let Some(about) = Self::read(&folder.join(ABOUT_FILE))? else { return Ok(None) };
        match about.files.is_empty() {
            true => {
                let (path, reason) = (folder.join(ABOUT_FILE), "it names no files".to_string());
                Err(CorpusError::About { path, reason })
            }
            false => Ok(Some(about)),
        }
    }

    /// Reads such a file, if there is one.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, CorpusError> {
        let refused = |reason: String| CorpusError::About { path: path.to_path_buf(), reason };
        match fs::metadata(path) {
            Ok(about) if about.len() > MAX_BYTES => return Err(refused(format!("{} bytes are too many", about.len()))),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CorpusError::reading(path)(error)),
        }
        let bytes = fs::read(path).map_err(CorpusError::reading(path))?;
        let about: Self = serde_json::from_slice(&bytes).map_err(|error| refused(error.to_string()))?;
        if about.version != VERSION {
            return Err(refused(format!("version {} is not supported: expected {VERSION}", about.version)));
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

    /// Writes such a file, whole or not at all.
    pub(super) fn save(&self, path: &Path) -> Result<(), CheckpointError> {
        files::write_file(path, |out| {
            serde_json::to_writer_pretty(&mut *out, self)?;
            out.write_all(b"\n")
        })
    }

    /// Refuses to go on with a corpus that was written in another way; `path` says so.
    pub(super) fn must_continue(&self, stated: &Self, path: &Path) -> Result<(), CorpusError> {
        let facts = |about: &Self| {
            [
                ("the format", about.format.to_string()),
                ("a vocabulary of", about.vocab_size.to_string()),
                ("the tokenizer", about.tokenizer.clone()),
                ("the end of text", format!("{:?}", about.end_of_text)),
                ("shards of", about.shard_tokens.to_string()),
                ("texts", about.origin.clone()),
            ]
        };
        for ((what, stated), (_, given)) in facts(stated).into_iter().zip(facts(self)) {
            if stated != given {
                return Err(CorpusError::OtherCorpus { path: path.to_path_buf(), what, stated, given });
            }
        }
        Ok(())
    }

    /// Returns what is stated of a file.
    pub(super) fn file(&self, path: &Path) -> Option<&AboutFile> {
        self.files.iter().find(|file| path.file_name().is_some_and(|name| *name == *file.name))
    }
}
