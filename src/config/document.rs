//! [`GptInputConfig`] as a `config.json`: text, files and serde.

use std::path::Path;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::fields::{Object, brief};
use super::file::ConfigFile;
use super::input::GptInputConfig;
use super::text;
use super::text_limits::MAX_CONFIG_BYTES;
use crate::error::{CheckpointError, ConfigError, Result, cause, model_text};

impl GptInputConfig {
    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    /// [`ConfigError`] if the text is not a JSON object, a field has the wrong JSON type, two spellings of a field
    /// disagree, or a value is out of range.
    pub fn from_json(text: &str) -> Result<Self> {
        Ok(Self::parse(text)?)
    }

    fn parse(text: &str) -> Result<Self, ConfigError> {
        let config = ConfigFile::parse(text)?.resolve()?;
        config.check()?;
        Ok(config)
    }

    /// Reads a `config.json`.
    ///
    /// # Errors
    /// - [`CheckpointError::Io`] if the file cannot be read, or is larger than 2 MiB
    /// - [`CheckpointError::Config`], with the path, if [`from_json`](Self::from_json) refuses the text
    #[doc(alias = "from_pretrained")]
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = read_text(path)?;
        Ok(Self::parse(&text).map_err(CheckpointError::config_in(path))?)
    }

    /// Returns the text of a `config.json`, which [`from_json`](Self::from_json) reads back to an equal value.
    ///
    /// Keys of a file that was read stay as the file has them, but for those of fields that were changed since.
    #[doc(alias = "save_pretrained", alias = "to_json_string")]
    #[must_use]
    pub fn to_json(&self) -> String {
        let (keys, others) = self.all_keys();
        text::written(keys, others)
    }

    /// Returns the value of a key such as `eos_token_id`, as [`to_json`](Self::to_json) writes it, or `None` if there
    /// is no such key.
    ///
    /// ```
    /// # use candle_gpt_input::GptInputConfig;
    /// let config = GptInputConfig::from_json(r#"{"eos_token_id": 50256, "n_inner": null}"#)?;
    /// assert_eq!(config.extra::<u32>("eos_token_id")?, Some(50256));
    /// assert_eq!(config.extra::<Option<u32>>("n_inner")?, Some(None));
    /// assert_eq!(config.extra::<f64>("attn_pdrop")?, None);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ConfigError::FieldType`] if the value cannot be read as a `T`.
    pub fn extra<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let read = |value: &Value| {
            T::deserialize(value).map_err(|_| ConfigError::FieldType {
                key: key.to_string(),
                got: brief(value),
                expected: std::any::type_name::<T>(),
            })
        };
        let keys = self.keys();
        Ok(keys.get(key).or_else(|| self.around(key)).map(read).transpose()?)
    }

    /// Sets a key that no field holds, for [`to_json`](Self::to_json) to write. A field with the same key overwrites
    /// it.
    ///
    /// ```
    /// # use candle_gpt_input::GptInputConfig;
    /// let config = GptInputConfig::default().with_extra("eos_token_id", 50256)?;
    /// assert_eq!(config.extra::<u32>("eos_token_id")?, Some(50256));
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ConfigError::Json`] if JSON cannot express `value`.
    pub fn with_extra(mut self, key: &str, value: impl Serialize) -> Result<Self> {
        let value = serde_json::to_value(value).map_err(|error| ConfigError::Json { source: cause(error) })?;
        self.extra.insert(key.to_string(), value);
        self.forget_others(key);
        Ok(self)
    }
}

/// Reads the text of a file; refuses one too large for a configuration.
pub(crate) fn read_text(path: &Path) -> Result<String, CheckpointError> {
    let too_large = || std::io::Error::other(format!("larger than {MAX_CONFIG_BYTES} bytes"));
    let text = model_text(path, MAX_CONFIG_BYTES).and_then(|text| text.ok_or_else(too_large));
    text.map_err(CheckpointError::reading(path))
}

impl Serialize for GptInputConfig {
    /// Writes the keys of a `config.json`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.all_keys().0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for GptInputConfig {
    /// Reads the keys of a `config.json`.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let keys = Object::deserialize(deserializer)?;
        let config = ConfigFile::from_map(keys).and_then(ConfigFile::resolve).map_err(D::Error::custom)?;
        config.check().map_err(D::Error::custom)?;
        Ok(config)
    }
}
