//! [`ConfigError`]: why a configuration cannot be used.

use std::fmt;

use super::cause::Cause;
use super::shown::{Shown, number};

/// Says why a [`GptInputConfig`](crate::GptInputConfig) cannot be used.
///
/// ```
/// use candle_gpt_input::error::ConfigError;
/// use candle_gpt_input::{Error, GptInputConfig};
///
/// let error = GptInputConfig::from_json(r#"{"vocab_size": 0}"#).unwrap_err();
/// assert_eq!(error.to_string(), "config: `vocab_size` must be at least 1");
/// assert!(matches!(error, Error::Config(ConfigError::Zero { name: "vocab_size" })));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A dimension of zero.
    #[error("config: `{name}` must be at least 1")]
    Zero {
        /// The field.
        name: &'static str,
    },
    /// A value outside its range.
    #[error("config: `{name}` is {value}, which is not {expected}", value = number(*value))]
    OutOfRange {
        /// The field.
        name: &'static str,
        /// Its value.
        value: f64,
        /// The range, in words.
        expected: &'static str,
    },
    /// A field of the wrong JSON type.
    #[error("config: `{key}` is {got}, expected {expected}", key = Shown::name(key), got = Shown::name(got))]
    FieldType {
        /// The key as spelt in the file.
        key: String,
        /// The JSON value found.
        got: String,
        /// What was expected.
        expected: &'static str,
    },
    /// Two spellings of one field with different values.
    #[error(
        "config: `{first}` is {first_value}, but `{second}`, another name for it, is {second_value}",
        first_value = Shown::name(first_value),
        second_value = Shown::name(second_value)
    )]
    Contradiction {
        /// One key.
        first: &'static str,
        /// Its value.
        first_value: String,
        /// The other key.
        second: &'static str,
        /// Its value.
        second_value: String,
    },
    /// A missing field that another field makes necessary.
    #[error("config: `{within}` of type {kind} has no `{key}`", kind = Shown::name(kind))]
    MissingKey {
        /// The object that lacks it.
        within: &'static str,
        /// The type of the object, which needs the field.
        kind: String,
        /// The field.
        key: &'static str,
    },
    /// A missing field that something else needs.
    #[error("config: no `{key}`, which {by} needs: add it", by = Shown::name(by))]
    Needed {
        /// The field, as recent files spell it.
        key: &'static str,
        /// What needs it.
        by: String,
    },
    /// A key that changes the model in an unsupported way.
    #[error(
        "config: `{key}` is {value}, which is not supported: {instead}",
        key = Shown::name(key),
        value = Shown::name(value)
    )]
    Unsupported {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What to do.
        instead: &'static str,
    },
    /// JSON that is not an object.
    #[error("config: expected a JSON object, found {got}", got = Shown::name(got))]
    NotAnObject {
        /// The JSON value found.
        got: String,
    },
    /// Text that is not JSON. The source says where.
    #[error("config: not valid JSON")]
    #[non_exhaustive]
    Json {
        /// The parser's error.
        source: Cause,
    },
    /// A preset that does not exist.
    #[error("no preset `{name}`: there are {known}", name = Shown::name(name), known = Shown::text(known))]
    UnknownPreset {
        /// The name given.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A position scheme that does not exist.
    #[error("no position scheme `{name}`: there are {known}", name = Shown::name(name), known = Shown::text(known))]
    UnknownPosition {
        /// The name given.
        name: String,
        /// The names that exist.
        known: String,
    },
}

impl ConfigError {
    /// Returns the one of `all` that is written as `text`, the value of `key`.
    pub(crate) fn one_of<T: fmt::Display>(
        key: &str,
        all: impl IntoIterator<Item = T>,
        expected: &'static str,
        text: &str,
    ) -> Result<T, Self> {
        let found = all.into_iter().find(|value| value.to_string() == text);
        found.ok_or_else(|| Self::FieldType { key: key.to_string(), got: text.to_string(), expected })
    }
}
