//! Reads the text of a file.

use std::path::Path;

use crate::error::{Result, TextError, utf8};

/// Reads a text in UTF-8 from a file, to be tokenized.
///
/// A byte order mark stays at the front of the text, as with Python's `utf-8`: GPT-2's tokenizer makes three tokens of
/// it.
///
/// ```
/// use candle_gpt_input::data::read_text;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("verdict.txt");
/// std::fs::write(&path, "Every effort")?;
/// assert_eq!(read_text(&path)?, "Every effort");
///
/// std::fs::write(&path, b"caf\xe9")?; // Latin-1
/// let error = read_text(&path).unwrap_err();
/// assert!(std::error::Error::source(&error).unwrap().to_string().starts_with("byte 0xe9 at 3 (line 1, column 4)"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`TextError::Io`] if the file cannot be read or is not UTF-8, with the place of the first wrong byte;
/// [`TextError::Empty`] if it has no bytes.
pub fn read_text(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let text = std::fs::read(path).and_then(|bytes| Ok(utf8(bytes)?));
    match text.map_err(|source| TextError::Io { path: path.to_path_buf(), source })? {
        text if text.is_empty() => Err(TextError::Empty { path: path.to_path_buf() }.into()),
        text => Ok(text),
    }
}
