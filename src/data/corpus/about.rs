//! [`About`]: `corpus.json`, which states what the files of a corpus hold.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::megatron::NARROW_BELOW;
use super::{CorpusFormat, IdBits};
use crate::error::{CheckpointError, CorpusError};
use crate::files;

/// The name of the file.
pub(super) const ABOUT_FILE: &str = "corpus.json";
/// What is there instead while the corpus is being written.
pub(super) const JOURNAL_FILE: &str = "corpus.partial.json";
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

    /// Checks that the file lies beside the one at `path`, which states it.
    pub(super) fn check_name(&self, path: &Path) -> Result<(), CorpusError> {
        match Path::new(&self.name).file_name().is_some_and(|last| *last == *self.name) {
            true => Ok(()),
            false => {
                let reason = format!("{:?} is not the name of a file", self.name);
                Err(CorpusError::About { path: path.to_path_buf(), reason })
            }
        }
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
            files,
        }
    }

    /// Sets `origin`.
    #[must_use]
    pub fn with_origin(self, origin: impl Into<String>) -> Self {
        Self { origin: origin.into(), ..self }
    }

    /// Reads the `corpus.json` of a folder, if there is one. A corpus that is not written to its end has none.
    pub(super) fn of_folder(folder: &Path) -> Result<Option<Self>, CorpusError> {
        let path = folder.join(ABOUT_FILE);
        let Some(about) = Self::read(&path)? else {
            let journal = folder.join(JOURNAL_FILE);
            return if journal.exists() { Err(CorpusError::Unfinished { path: journal }) } else { Ok(None) };
        };
        match about.files.is_empty() {
            true => Err(CorpusError::About { path, reason: "it names no files".to_string() }),
            false => Ok(Some(about)),
        }
    }

    /// Reads such a file, if there is one.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, CorpusError> {
        match File::open(path) {
            Ok(mut file) => Self::parse(&read_whole(&mut file, path)?, path)?.checked(path).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(CorpusError::reading(path)(error)),
        }
    }

    pub(super) fn parse(bytes: &[u8], path: &Path) -> Result<Self, CorpusError> {
        let refused = |reason: String| CorpusError::About { path: path.to_path_buf(), reason };
        let about: Self = serde_json::from_slice(bytes).map_err(|error| refused(error.to_string()))?;
        match about.version {
            VERSION => Ok(about),
            other => Err(refused(format!("version {other} is not supported: expected {VERSION}"))),
        }
    }

    /// Checks that it agrees with itself.
    pub(super) fn checked(self, path: &Path) -> Result<Self, CorpusError> {
        let refused = |reason: String| CorpusError::About { path: path.to_path_buf(), reason };
        self.files.iter().try_for_each(|file| file.check_name(path))?;
        let n_tokens = self.files.iter().map(|file| u128::from(file.n_tokens)).sum::<u128>();
        if n_tokens != u128::from(self.n_tokens) {
            return Err(refused(format!("its files have {n_tokens} ids, but it states {}", self.n_tokens)));
        }
        Ok(self)
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
}

/// Reads a file that describes a corpus.
pub(super) fn read_whole(file: &mut File, path: &Path) -> Result<Vec<u8>, CorpusError> {
    let mut bytes = Vec::new();
    let n_bytes = file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(CorpusError::reading(path))?;
    match n_bytes as u64 <= MAX_BYTES {
        true => Ok(bytes),
        false => {
            let reason = format!("more than {MAX_BYTES} bytes are too many");
            Err(CorpusError::About { path: path.to_path_buf(), reason })
        }
    }
}
