//! Reads files, and says why one cannot become a tokenizer.

use std::path::Path;

use serde_json::Value;
use tokenizers::ConvertError;

use crate::error::{TokenizerError, cause, model_text};

/// The largest file that is read; the largest known `tokenizer.json` has 33 MB.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// The most objects and lists in a file: parsed, they take up to a hundred times the memory of their text. An added
/// token is an object and a merge is a list; known files have at most 10 000 and 600 000.
const MAX_OBJECTS: usize = 1 << 17;
const MAX_LISTS: usize = 1 << 21;

pub(super) const REFUSED: &str = "the tokenizer library refuses it";

/// Why a file cannot become a tokenizer.
pub(super) enum Problem {
    Broken(String),
    /// What was attempted, and the library's error.
    Refused(String, tokenizers::Error),
    Unsupported(String),
}

impl Problem {
    pub(super) fn of(self, origin: String) -> TokenizerError {
        match self {
            Self::Broken(reason) => TokenizerError::Invalid { origin, reason, source: None },
            Self::Refused(reason, source) => TokenizerError::Invalid { origin, reason, source: Some(cause(source)) },
            Self::Unsupported(reason) => TokenizerError::Unsupported { origin, reason },
        }
    }
}

impl From<String> for Problem {
    fn from(reason: String) -> Self {
        Self::Broken(reason)
    }
}

impl From<ConvertError> for Problem {
    fn from(error: ConvertError) -> Self {
        use ConvertError::{ByteLevelAddPrefixSpace, ByteLevelNotLast, PostProcessorSequenceAmbiguous};
        match error {
            ByteLevelAddPrefixSpace => Self::Unsupported(
                "a `ByteLevel` pre-tokenizer with `add_prefix_space: true` behind another pre-tokenizer".to_string(),
            ),
            ByteLevelNotLast | PostProcessorSequenceAmbiguous => {
                Self::Unsupported(error.to_string().trim_end_matches(" is not supported").to_string())
            }
            other => Self::Refused(REFUSED.to_string(), other.into()),
        }
    }
}

/// Reads a text file of a bounded size.
pub(super) fn read_text(path: &Path) -> Result<String, TokenizerError> {
    let text = model_text(path, MAX_FILE_BYTES);
    text.map_err(|source| TokenizerError::Io { path: path.to_path_buf(), source })?.ok_or_else(|| {
        let problem = Problem::Unsupported(format!("it has more than {} MiB", MAX_FILE_BYTES >> 20));
        problem.of(path.display().to_string())
    })
}

/// Parses JSON of a bounded number of objects and lists.
pub(super) fn parse(text: &str) -> Result<Value, Problem> {
    let count = |bracket: u8| text.bytes().filter(|byte| *byte == bracket).count();
    if count(b'{') > MAX_OBJECTS || count(b'[') > MAX_LISTS {
        let reason = format!("it has more than {MAX_OBJECTS} objects or {MAX_LISTS} lists");
        return Err(Problem::Unsupported(reason));
    }
    serde_json::from_str(text).map_err(|error| Problem::Refused("not valid JSON".to_string(), error.into()))
}

/// Returns the beginning of a value of a file, for an error, whose text escapes control characters.
pub(super) fn shown(value: &Value) -> String {
    const MOST: usize = 40;
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
    let short: String = text.chars().take(MOST).collect();
    format!("`{short}{}`", if text.chars().nth(MOST).is_some() { "…" } else { "" })
}
