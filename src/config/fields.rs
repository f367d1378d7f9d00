//! Reads fields of a JSON object under any of their names.

use serde_json::{Map, Value};

use crate::error::ConfigError;

/// Removes every spelling of a field from `map`. Those present must agree.
pub(super) fn take<T: PartialEq>(
    map: &mut Map<String, Value>,
    names: &[&'static str],
    expected: &'static str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Option<T>, ConfigError> {
    let mut found: Option<(T, &'static str, Value)> = None;
    for name in names {
        let Some(value) = map.remove(*name).filter(|value| !value.is_null()) else { continue };
        let Some(number) = read(&value) else {
            return Err(ConfigError::FieldType { key: name.to_string(), got: brief(&value), expected });
        };
        match &found {
            Some((first_number, first, first_value)) if *first_number != number => {
                return Err(ConfigError::Contradiction {
                    first,
                    first_value: first_value.to_string(),
                    second: name,
                    second_value: value.to_string(),
                });
            }
            Some(_) => {}
            None => found = Some((number, name, value)),
        }
    }
    Ok(found.map(|(number, ..)| number))
}

pub(super) fn as_usize(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|n| usize::try_from(n).ok())
}

/// Formats a JSON value, shortened for an error message.
pub(super) fn brief(value: &Value) -> String {
    match value {
        Value::Array(_) => "an array".to_string(),
        Value::Object(_) => "an object".to_string(),
        scalar => scalar.to_string().chars().take(40).collect(),
    }
}
