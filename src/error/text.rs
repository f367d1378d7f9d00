//! [`TextError`] and [`NotUtf8`]: why a text cannot be read.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::foreign::ForeignFormat;
use super::recognise::{N_HEAD, foreign_head, wide};
use super::shown::Shown;

/// Says why a text to be tokenized cannot be read.
///
/// ```
/// use candle_gpt_input::data::read_text;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("empty.txt");
/// std::fs::write(&path, "")?;
/// assert!(read_text(&path).unwrap_err().to_string().ends_with("empty.txt: the file is empty"));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A file that cannot be read. The source says why; if it is not UTF-8, it holds a [`NotUtf8`].
    #[error("cannot read {path}", path = Shown::path(path))]
    #[non_exhaustive]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error, or a [`NotUtf8`].
        source: io::Error,
    },
    /// A file without text.
    #[error("{path}: the file is empty", path = Shown::path(path))]
    #[non_exhaustive]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// Says why bytes are not a text in UTF-8, and how to make them one.
///
/// ```
/// use candle_gpt_input::data::read_text;
/// use candle_gpt_input::error::{Error, NotUtf8, TextError};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("cp1252.txt");
/// std::fs::write(&path, b"It\nisn\x92t")?;
/// let Err(Error::Text(TextError::Io { source, .. })) = read_text(&path) else { panic!() };
/// assert!(source.to_string().starts_with("byte 0x92 at 6 (line 2, column 4) is not UTF-8: convert the text"));
/// let NotUtf8::Byte { byte, at, .. } = source.downcast()? else { panic!() };
/// assert_eq!((byte, at), (0x92, 6));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotUtf8 {
    /// A byte that UTF-8 does not have there.
    #[error(
        "byte {byte:#04x} at {at} (line {line}, column {column}) is not UTF-8: convert the text, for example with \
         `iconv -f CP1252 -t UTF-8`"
    )]
    #[non_exhaustive]
    Byte {
        /// The byte.
        byte: u8,
        /// The number of bytes before it.
        at: usize,
        /// Its line, from 1.
        line: usize,
        /// Its character in the line, from 1.
        column: usize,
    },
    /// A file with zeros and bytes that UTF-8 does not have.
    #[error(
        "byte {at} begins no character, and there are zeros: this looks binary, not text (bare token ids are a \
         corpus, in a file named .bin, .u16 or .u32, with `--id-bits`)"
    )]
    #[non_exhaustive]
    Binary {
        /// The number of bytes before the first wrong one.
        at: usize,
    },
    /// A text in another encoding of Unicode.
    #[error("the text is {encoding}, not UTF-8: convert it with `iconv -f {encoding} -t UTF-8`")]
    #[non_exhaustive]
    Wide {
        /// The encoding, as iconv spells it.
        encoding: &'static str,
    },
    /// A byte order mark at the front of JSON, which may have none.
    #[error("it begins with a byte order mark: save it as UTF-8 without one")]
    ByteOrderMark,
    /// A file of another kind than the text that was asked for.
    #[error("this is {}", format.in_place_of_a_text())]
    #[non_exhaustive]
    Foreign {
        /// What it is, and what to do.
        format: ForeignFormat,
    },
}

impl From<NotUtf8> for io::Error {
    fn from(error: NotUtf8) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// Decodes a text. A byte order mark is kept, as Python's `utf-8` does.
pub(crate) fn utf8(bytes: Vec<u8>) -> Result<String, NotUtf8> {
    if let Some(encoding) = wide(&bytes) {
        return Err(NotUtf8::Wide { encoding });
    }
    String::from_utf8(bytes).map_err(|error| {
        let (at, bytes) = (error.utf8_error().valid_up_to(), error.as_bytes());
        if bytes.starts_with(b"PK\x03\x04") {
            return NotUtf8::Foreign { format: ForeignFormat::Archive { kind: "zip" } };
        }
        match foreign_head(&bytes[..bytes.len().min(N_HEAD)], bytes.len() > N_HEAD) {
            Some(ForeignFormat::Text { .. }) | None => {}
            Some(format) => return NotUtf8::Foreign { format },
        }
        if bytes.contains(&0) {
            return NotUtf8::Binary { at };
        }
        let before = std::str::from_utf8(&bytes[..at]).unwrap_or_default();
        let line = before.rsplit('\n').next().unwrap_or_default();
        let (n_before, column) = (before.matches('\n').count(), line.chars().count() + 1);
        NotUtf8::Byte { byte: bytes[at], at, line: n_before + 1, column }
    })
}

/// Reads a file of a model that is JSON or lines, or returns `None` if it has more than `most` bytes.
pub(crate) fn model_text(path: &Path, most: u64) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    let n_bytes = File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if n_bytes as u64 > most { Ok(None) } else { Ok(Some(utf8_of_model(bytes)?)) }
}

/// Decodes a file of a model that is JSON or lines: no pointer, page or archive in its place.
fn utf8_of_model(bytes: Vec<u8>) -> Result<String, NotUtf8> {
    let text = utf8(bytes)?;
    if text.starts_with('\u{feff}') {
        return Err(NotUtf8::ByteOrderMark);
    }
    match foreign_head(&text.as_bytes()[..text.len().min(N_HEAD)], text.len() > N_HEAD) {
        Some(format @ (ForeignFormat::GitLfs { .. } | ForeignFormat::Html | ForeignFormat::Xml)) => {
            Err(NotUtf8::Foreign { format })
        }
        _ => Ok(text),
    }
}
