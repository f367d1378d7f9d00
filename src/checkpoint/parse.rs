//! Why a parser gives up.

use std::error::Error;
use std::io;

use crate::error::ForeignFormat;

/// Why a parser gave up; its caller adds the path and the format.
#[derive(Debug)]
pub(super) enum ParseError {
    Io(io::Error),
    /// What is wrong with the file.
    Invalid(String),
    /// What could not be parsed, and what the parser says.
    Unparsed(&'static str, Box<dyn Error + Send + Sync>),
    /// It is a file of another kind.
    Foreign(ForeignFormat),
    /// A class, function or opcode of a pickle that is not allowed.
    Forbidden(String),
}

impl ParseError {
    /// Returns what is wrong, and the error of the parser that said so.
    pub(super) fn into_reason(self) -> (String, Option<Box<dyn Error + Send + Sync>>) {
        match self {
            Self::Io(error) => (error.to_string(), None),
            Self::Invalid(reason) | Self::Forbidden(reason) => (reason, None),
            Self::Foreign(format) => (format.to_string(), None),
            Self::Unparsed(what, source) => (what.to_string(), Some(source)),
        }
    }

    /// Becomes an error of a JSON reader that calls a parser of ours.
    pub(super) fn in_json<E: serde::de::Error>(self) -> E {
        E::custom(self.into_reason().0)
    }
}

/// A parser's result.
pub(super) type Parse<T> = Result<T, ParseError>;

impl From<io::Error> for ParseError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Invalid("it ends too early".to_string()),
            // The error of a budget.
            io::ErrorKind::FileTooLarge => Self::Invalid(error.to_string()),
            _ => Self::Io(error),
        }
    }
}

/// Returns the error of an invalid file, with a reason.
pub(super) fn invalid<T>(reason: impl Into<String>) -> Parse<T> {
    Err(ParseError::Invalid(reason.into()))
}
