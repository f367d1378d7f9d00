//! Reads fields of a JSON object under any of their names.

use serde_json::{Map, Value};

use crate::error::ConfigError;

pub(super) const NUMBER: &str = "a number";
pub(super) const WHOLE: &str = "a whole number";
pub(super) const YES_OR_NO: &str = "true or false";

/// A JSON object, as serde_json has it.
pub(super) type Object = Map<String, Value>;

/// Reads a field under all of its names; all that are there must agree. `null` counts as absent.
pub(super) fn read<T: PartialEq>(
    map: &Object,
    names: &[&'static str],
    expected: &'static str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Option<T>, ConfigError> {
    let mut found: Option<(T, &'static str, &Value)> = None;
    for name in names {
        let Some(value) = stated(map, name) else { continue };
        let Some(number) = read(value) else { return Err(wrong_type(name, value, expected)) };
        match &found {
            Some((first_number, first, first_value)) if *first_number != number => {
                return Err(contradiction((first, first_value), (name, value)));
            }
            Some(_) => {}
            None => found = Some((number, name, value)),
        }
    }
    Ok(found.map(|(number, ..)| number))
}

/// Reads a flag.
pub(super) fn flag(map: &Object, names: &[&'static str]) -> Result<Option<bool>, ConfigError> {
    read(map, names, YES_OR_NO, Value::as_bool)
}

/// Returns the value of a key; `null` counts as absent.
pub(super) fn stated<'a>(map: &'a Object, key: &str) -> Option<&'a Value> {
    map.get(key).filter(|value| !value.is_null())
}

/// Writes a field under every name that the object has it under, or else under the first.
pub(super) fn write(map: &mut Object, names: &[&'static str], value: &Value) {
    let mut is_there = false;
    for name in names {
        if let Some(old) = map.get_mut(*name) {
            old.clone_from(value);
            is_there = true;
        }
    }
    if let (false, Some(name)) = (is_there, names.first()) {
        map.insert(name.to_string(), value.clone());
    }
}

pub(super) fn wrong_type(key: &str, value: &Value, expected: &'static str) -> ConfigError {
    ConfigError::FieldType { key: key.to_string(), got: brief(value), expected }
}

pub(super) fn contradiction(
    (first, first_value): (&'static str, &Value),
    (second, second_value): (&'static str, &Value),
) -> ConfigError {
    ConfigError::Contradiction { first, first_value: brief(first_value), second, second_value: brief(second_value) }
}

/// Returns the error of a key that models of a type need.
pub(super) fn needed(key: &'static str, model_type: Option<&str>) -> ConfigError {
    ConfigError::Needed { key, by: format!("a model of type {}", model_type.unwrap_or_default()) }
}

/// Returns a number for a file; one that is not finite as a text, which is refused where it is read.
pub(super) fn number(value: f64) -> Value {
    if value.is_finite() { value.into() } else { value.to_string().into() }
}

pub(super) fn as_usize(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|n| usize::try_from(n).ok())
}

pub(super) fn as_text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_string)
}

/// Formats a JSON value, shortened for an error message.
pub(super) fn brief(value: &Value) -> String {
    match value {
        Value::Array(_) => "an array".to_string(),
        Value::Object(_) => "an object".to_string(),
        scalar => scalar.to_string().chars().take(40).collect(),
    }
}
