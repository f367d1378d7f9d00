//! [`CorpusError`]: why files of token ids cannot be opened or written.

use std::io;
use std::path::{Path, PathBuf};

use super::foreign::ForeignFormat;
use super::shown::Shown;

/// Says why files of token ids cannot be opened, read or written.
///
/// ```
/// use candle_gpt_input::Error;
/// use candle_gpt_input::data::corpus::{Corpus, CorpusOptions};
/// use candle_gpt_input::error::CorpusError;
///
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("train.bin");
/// std::fs::write(&path, [1, 0, 2, 0])?;
/// let error = Corpus::open(&[&path], &CorpusOptions::default()).unwrap_err();
/// assert!(matches!(error, Error::Corpus(CorpusError::NoWidth { .. })));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CorpusError {
    /// A file that cannot be read or written. The source says why.
    #[error("cannot {action} {path}", path = Shown::path(path))]
    #[non_exhaustive]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A folder, pattern or list without files of ids.
    #[error("{path}: no files of token ids: name .bin files, a Megatron prefix, .txt files, or a folder of one kind",
        path = Shown::path(path))]
    #[non_exhaustive]
    NoFiles {
        /// The folder or pattern.
        path: PathBuf,
    },
    /// A pattern that is malformed.
    #[error("{pattern}: {reason} (character {at} of the pattern)", pattern = Shown::name(pattern))]
    #[non_exhaustive]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong.
        reason: &'static str,
        /// Where.
        at: usize,
    },
    /// A folder or pattern that would mix texts for training with those that are held out.
    #[error(
        "{path}: holds both {held_out} and {other}: name the files for training, such as with a pattern",
        path = Shown::path(path),
        held_out = Shown::name(held_out),
        other = Shown::name(other)
    )]
    #[non_exhaustive]
    HeldOut {
        /// The folder or pattern.
        path: PathBuf,
        /// A file for validation or tests, by its name.
        held_out: String,
        /// Another file.
        other: String,
    },
    /// A file of bare ids, whose width was not stated.
    #[error("{path}: bare ids may have 16 or 32 bits: state which (`--id-bits 16` for nanoGPT's train.bin)",
        path = Shown::path(path))]
    #[non_exhaustive]
    NoWidth {
        /// The file.
        path: PathBuf,
    },
    /// A number of bits that no supported id has.
    #[error("ids of {got} bits are not supported: use 16 or 32", got = Shown::name(got))]
    #[non_exhaustive]
    IdBits {
        /// The text or number given.
        got: String,
    },
    /// A file that is not a whole number of ids long.
    #[error("{path}: {n_bytes} bytes are not a whole number of ids of {id_bits} bits: it is truncated, or has others",
        path = Shown::path(path))]
    #[non_exhaustive]
    PartOfId {
        /// The file.
        path: PathBuf,
        /// Its length.
        n_bytes: u64,
        /// The width of an id.
        id_bits: u32,
    },
    /// A file whose length is not what its header or index states.
    #[error(
        "{path}: {n_stated} ids need {n_needed} bytes, but the file has {n_bytes}: copy or write it again",
        path = Shown::path(path)
    )]
    #[non_exhaustive]
    Length {
        /// The file.
        path: PathBuf,
        /// The number of ids that it should hold.
        n_stated: i128,
        /// The bytes that it should have.
        n_needed: i128,
        /// The bytes that it has.
        n_bytes: u64,
    },
    /// A file without ids.
    #[error("{path}: it holds no ids", path = Shown::path(path))]
    #[non_exhaustive]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A file of a version that is not supported.
    #[error("{path}: version {version} of {format} is not supported: expected {expected}", path = Shown::path(path))]
    #[non_exhaustive]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: &'static str,
        /// Its version.
        version: i128,
        /// The version that is supported.
        expected: u64,
    },
    /// A file that a big-endian machine has written.
    #[error("{path}: {format} in big-endian order: write it on a little-endian machine", path = Shown::path(path))]
    #[non_exhaustive]
    BigEndian {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: &'static str,
    },
    /// A file of another kind.
    #[error(
        "{path}: this is {}",
        format.in_place_of_a_text(),
        path = Shown::path(path)
    )]
    #[non_exhaustive]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is.
        format: ForeignFormat,
    },
    /// A file that is neither of a known format nor a text.
    #[error(
        "{path}: this looks binary, not text: name a file of bare token ids .bin, .u16 or .u32, and state their width \
         (`--id-bits 16`)",
        path = Shown::path(path)
    )]
    #[non_exhaustive]
    Binary {
        /// The file.
        path: PathBuf,
    },
    /// Lines of JSON, which hold texts and are none.
    #[error(
        "{path}: this is JSON, not text: `tokenize` writes the texts in its lines as a corpus (`cargo run --release \
         --example tokenize -- FILE --out FOLDER`)",
        path = Shown::path(path)
    )]
    #[non_exhaustive]
    JsonLines {
        /// The file.
        path: PathBuf,
    },
    /// A file for evaluations, whose ids are those of examples.
    #[error("{path}: holds examples for llm.c's evaluation, not a corpus", path = Shown::path(path))]
    #[non_exhaustive]
    Evaluation {
        /// The file.
        path: PathBuf,
    },
    /// An index whose ids are of a type that no vocabulary needs.
    #[error("{path}: its ids are {name} (code {code}): use i32 (4) or u16 (8)", path = Shown::path(path))]
    #[non_exhaustive]
    DType {
        /// The index.
        path: PathBuf,
        /// Megatron's code.
        code: u8,
        /// The name of the type.
        name: &'static str,
    },
    /// A damaged index.
    #[error("{path}: the index is damaged: {reason}", path = Shown::path(path), reason = Shown::text(reason))]
    #[non_exhaustive]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// One of the two files of a Megatron corpus without the other.
    #[error("{path} is missing: the ids and the index of a Megatron corpus belong together", path = Shown::path(path))]
    #[non_exhaustive]
    MissingPart {
        /// The missing file.
        path: PathBuf,
    },
    /// Files of unequal kinds.
    #[error(
        "{path} holds {kind}, but {other} {other_kind}: a corpus is of one kind",
        path = Shown::path(path),
        kind = Shown::name(kind),
        other = Shown::path(other),
        other_kind = Shown::name(other_kind)
    )]
    #[non_exhaustive]
    Mixed {
        /// A file.
        path: PathBuf,
        /// Its kind.
        kind: String,
        /// A file before it.
        other: PathBuf,
        /// The kind of that file.
        other_kind: String,
    },
    /// A `corpus.json` or `meta.pkl` that cannot be used.
    #[error("{path}: {reason}", path = Shown::path(path), reason = Shown::text(reason))]
    #[non_exhaustive]
    About {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file that is not the one that `corpus.json` describes.
    #[error(
        "{path}: its corpus states {what} {stated}, but it has {found}: copy it again, or empty the folder and write \
         the corpus again",
        path = Shown::path(path),
        stated = Shown::name(stated),
        found = Shown::name(found)
    )]
    #[non_exhaustive]
    Differs {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// The stated value.
        stated: String,
        /// The value found.
        found: String,
    },
    /// A file that is stated, and is not there.
    #[error(
        "{path} is missing, but its corpus states it: put it back, or empty the folder and write the corpus again",
        path = Shown::path(path)
    )]
    #[non_exhaustive]
    Missing {
        /// The missing file.
        path: PathBuf,
    },
    /// A corpus whose writing has not ended.
    #[error(
        "{path} is of a corpus that is not written to its end: write it again with the same options (`tokenize` goes \
         on where it was), or empty the folder",
        path = Shown::path(path)
    )]
    #[non_exhaustive]
    Unfinished {
        /// The file that says so.
        path: PathBuf,
    },
    /// A corpus that another process is writing.
    #[error("{path}: another process writes this corpus: wait for it, or choose another folder",
        path = Shown::path(path))]
    #[non_exhaustive]
    InUse {
        /// The file that the other process holds.
        path: PathBuf,
    },
    /// A file with a name that a writer gives, which no `corpus.json` states.
    #[error(
        "{path} is there, and is of no corpus that could be gone on with: choose another folder, or empty this one",
        path = Shown::path(path)
    )]
    #[non_exhaustive]
    Occupied {
        /// The file.
        path: PathBuf,
    },
    /// A format that is read only.
    #[error("a corpus is not written in the format {format}: use nanogpt, llmc or megatron")]
    #[non_exhaustive]
    NotWritten {
        /// The format.
        format: &'static str,
    },
    /// An id outside the vocabulary, in a file.
    #[error(
        "{path}: token id {id} at [{at}] is outside the vocabulary of {vocab_size}: are its width and tokenizer right?",
        path = Shown::path(path)
    )]
    #[non_exhaustive]
    TokenOutOfRange {
        /// The file.
        path: PathBuf,
        /// The id.
        id: u32,
        /// Its number among the ids of the file, from 0.
        at: usize,
        /// The size of the vocabulary.
        vocab_size: usize,
    },
    /// More ids than this machine can number.
    #[error("{path}: with this file the corpus has more ids than this machine can count", path = Shown::path(path))]
    #[non_exhaustive]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A folder of shards that were written in another way, or from other texts.
    #[error(
        "{path} is of a corpus with {what} {stated}, not {given}: choose another folder, or empty this one",
        path = Shown::path(path),
        stated = Shown::name(stated),
        given = Shown::name(given)
    )]
    #[non_exhaustive]
    OtherCorpus {
        /// The file that says so.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// What the file states.
        stated: String,
        /// What was asked for.
        given: String,
    },
    /// A shard of a size that its format does not have.
    #[error("shards of {n_tokens} tokens are not supported in the format {format}: use 1 to {most}")]
    #[non_exhaustive]
    ShardTokens {
        /// The number given.
        n_tokens: u64,
        /// The format.
        format: &'static str,
        /// The largest number.
        most: u64,
    },
    /// An id that does not fit the vocabulary of the corpus that is written.
    #[error("token id {id} is outside the vocabulary of {vocab_size} that the corpus states")]
    #[non_exhaustive]
    OtherId {
        /// The id.
        id: u32,
        /// The size of the vocabulary.
        vocab_size: usize,
    },
    /// Ids of another tokenizer.
    #[error(
        "{path}: the ids are those of the tokenizer {stated}, but {given} is given: choose the one that wrote them \
         (`--tokenizer`), or, if both are the same, write its name here",
        path = Shown::path(path),
        stated = Shown::name(stated),
        given = Shown::name(given)
    )]
    #[non_exhaustive]
    OtherTokenizer {
        /// The `corpus.json` that states the tokenizer.
        path: PathBuf,
        /// What identifies it there.
        stated: String,
        /// What identifies the given one.
        given: String,
    },
    /// A vocabulary with more ids than a table has rows.
    #[error(
        "{path}: the ids are of a vocabulary of {vocab_size}, but the model's table has {n_rows} rows: choose the \
         tokenizer and the model that belong to the corpus",
        path = Shown::path(path)
    )]
    #[non_exhaustive]
    OtherVocabulary {
        /// The first file of the corpus.
        path: PathBuf,
        /// The size that is stated beside it.
        vocab_size: usize,
        /// The rows of the table.
        n_rows: usize,
    },
    /// A text as a corpus in a build without the feature `tokenizer`.
    #[error("{path}: a text needs the feature `tokenizer`: turn it on, or name files of ids", path = Shown::path(path))]
    #[non_exhaustive]
    NoTokenizer {
        /// The file.
        path: PathBuf,
    },
}

impl CorpusError {
    /// Returns what makes an error of a file that cannot be read.
    pub(crate) fn reading(path: &Path) -> impl Fn(io::Error) -> Self + Copy {
        move |source| Self::Io { action: "read", path: path.to_path_buf(), source }
    }

    /// Returns what makes an error of a file that cannot be written.
    pub(crate) fn writing(path: &Path) -> impl Fn(io::Error) -> Self + Copy {
        move |source| Self::Io { action: "write", path: path.to_path_buf(), source }
    }
}
