//! The text of a `config.json`: JSON, and the `NaN` and `Infinity` that Python's `json` writes beside it.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::fields::brief;
use super::others::Others;
use super::text_limits::check_text;
use crate::error::{ConfigError, cause};

/// What JSON has no numbers for, as Python spells it.
const NON_FINITE: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// Reads an object.
pub(super) fn parse(text: &str) -> Result<(Map<String, Value>, Others), ConfigError> {
    check_text(text)?;
    let (value, places) = match with_others(text) {
        Some(read) => read.map_err(|source| ConfigError::Json { source: cause(source) })?,
        None => {
            let value = serde_json::from_str(text).map_err(|error| ConfigError::Json { source: cause(error) })?;
            (value, Others::default())
        }
    };
    match value {
        Value::Object(map) => Ok((map, places)),
        other => Err(ConfigError::NotAnObject { got: brief(&other) }),
    }
}

/// Reads a text with every such number in it as a text of its own; `None` if it has none.
fn with_others(text: &str) -> Option<Result<(Value, Others), Box<dyn Error + Send + Sync>>> {
    // A mark that stands nowhere in the file.
    const MARK: &str = "non-finite ";
    let number = |(at, _)| text[at + MARK.len()..].split(':').next()?.parse::<usize>().ok();
    let used: BTreeSet<usize> = text.match_indices(MARK).filter_map(number).collect();
    let mark = format!("{MARK}{}: ", (0..).find(|n| !used.contains(n)).unwrap_or(0));
    let marked = marked(text, &mark)?;
    let mut value: Value = match serde_json::from_str(&marked) {
        Ok(value) => value,
        Err(error) => return Some(Err(error.into())),
    };
    // A key that is marked is no JSON: the text as it is says why.
    unmark(&mut value, &mark).map(|places| Ok((value, places)))
}

/// Replaces such numbers by marked texts; `None` if there are none.
fn marked(text: &str, mark: &str) -> Option<String> {
    let (mut out, mut has_marks) = (String::with_capacity(text.len()), false);
    let (mut in_text, mut escaped) = (false, false);
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let number = if in_text { "" } else { &rest[..number_len(rest)] };
        if !number.is_empty() {
            let is_other = is_other(number);
            has_marks |= is_other;
            let _ = if is_other { write!(out, "\"{mark}{number}\"") } else { write!(out, "{number}") };
            rest = &rest[number.len()..];
            continue;
        }
        match next {
            _ if escaped => escaped = false,
            '\\' => escaped = in_text,
            '"' => in_text = !in_text,
            _ => {}
        }
        out.push(next);
        rest = &rest[next.len_utf8()..];
    }
    has_marks.then_some(out)
}

/// Returns the length of the number or the name of one that a text begins with.
fn number_len(text: &str) -> usize {
    let name = NON_FINITE.iter().find(|name| text.starts_with(**name)).map(|name| name.len());
    let is_part = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
    let begins = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    name.unwrap_or_else(|| if begins { text.bytes().take_while(|byte| is_part(byte)).count() } else { 0 })
}

/// Returns whether a number as a file spells it is one that JSON lacks, or that 64 bits do not hold.
fn is_other(number: &str) -> bool {
    let digits = number.strip_prefix('-').unwrap_or(number);
    let is_whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let is_large =
        is_whole && !digits.starts_with('0') && number.parse::<u64>().is_err() && number.parse::<i64>().is_err();
    // What precedes the exponent is JSON's, which is stricter than Rust.
    let is_infinite = || {
        let significand = number.split(['e', 'E']).next().unwrap_or_default();
        number.parse::<f64>().is_ok_and(f64::is_infinite) && serde_json::from_str::<f64>(significand).is_ok()
    };
    NON_FINITE.contains(&number) || is_large || is_infinite()
}

/// Takes the marks out again, and returns where they were; `None` if one stands in a key, where no number may be.
fn unmark(value: &mut Value, mark: &str) -> Option<Others> {
    match value {
        Value::String(text) => match text.strip_prefix(mark) {
            Some(number) => {
                *text = number.to_string();
                Some(Others::Here)
            }
            None => Some(Others::Nowhere),
        },
        Value::Array(values) => {
            values.iter_mut().map(|value| unmark(value, mark)).collect::<Option<_>>().map(Others::of_list)
        }
        Value::Object(map) => {
            let of_key = |(key, value): (&String, &mut Value)| match key.starts_with(mark) {
                true => None,
                false => Some((key.clone(), unmark(value, mark)?)),
            };
            map.iter_mut().map(of_key).collect::<Option<_>>().map(Others::of_object)
        }
        _ => Some(Others::Nowhere),
    }
}

/// Writes an object as serde_json does, indented, with numbers where `places` says so.
pub(super) fn written(map: Map<String, Value>, places: &Others) -> String {
    let mut out = String::new();
    write_value(&mut out, &Value::Object(map), 0, places);
    out
}

fn write_value(out: &mut String, value: &Value, depth: usize, places: &Others) {
    let (indent, end) = ("  ".repeat(depth + 1), "  ".repeat(depth));
    match value {
        Value::String(text) if *places == Others::Here && is_other(text) => out.push_str(text),
        Value::Array(values) if !values.is_empty() => {
            for (index, value) in values.iter().enumerate() {
                let _ = write!(out, "{}\n{indent}", if index == 0 { "[" } else { "," });
                write_value(out, value, depth + 1, places.item(index));
            }
            let _ = write!(out, "\n{end}]");
        }
        Value::Object(map) if !map.is_empty() => {
            for (index, (key, value)) in map.iter().enumerate() {
                let (before, key_text) = (if index == 0 { "{" } else { "," }, Value::String(key.clone()));
                let _ = write!(out, "{before}\n{indent}{key_text}: ");
                write_value(out, value, depth + 1, places.key(key));
            }
            let _ = write!(out, "\n{end}}}");
        }
        scalar => {
            let _ = write!(out, "{scalar}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn non_finite_numbers_are_kept_as_text_and_written_as_they_were() {
        let text = r#"{
  "a": [NaN, 1, {"b/c~": -Infinity}],
  "non-finite 0: ": "a \"NaN\" in a text",
  "w": [1000000000000000019884624838656, -18446744073709551616, 18446744073709551615],
  "x": Infinity,
  "y": "Infinity",
  "z": "1000000000000000019884624838656"
}"#;
        let (map, places) = parse(text).unwrap();
        assert_eq!((map["x"].as_str(), map["a"][2]["b/c~"].as_str()), (Some("Infinity"), Some("-Infinity")));
        let is_number = |places: &Others| *places == Others::Here;
        assert!(is_number(places.key("x")) && is_number(places.key("a").item(2).key("b/c~")));
        assert!(!is_number(places.key("y")) && !is_number(places.key("w").item(2)) && !is_number(places.key("z")));
        let written = written(map.clone(), &places);
        assert_eq!(parse(&written).unwrap(), (map, places));
        let squeezed = |text: &str| text.split_whitespace().collect::<String>();
        assert_eq!(squeezed(&written), squeezed(text));
    }

    /// Each would take minutes, or a hundred times its length.
    #[test]
    fn texts_that_cost_much_are_refused() {
        let all = |n: usize, part: &dyn Fn(usize) -> String| (0..n).map(part).collect::<Vec<_>>().join(",");
        let marks = format!(r#"{{"a": [NaN, {}]}}"#, all(60_000, &|i| format!(r#""non-finite {i}: ""#)));
        let (map, places) = parse(&marks).unwrap();
        assert!(*places.key("a").item(0) == Others::Here && *places.key("a").item(1) == Others::Nowhere);
        assert_eq!(map["a"].as_array().map(Vec::len), Some(60_001));
        for (text, expected) in [
            (format!(r#"{{"a": [{}]}}"#, all(100_000, &|_| r#"{"":0}"#.into())), "more than 8192 objects and lists"),
            (format!(r#"{{"a": {}{}}}"#, "[".repeat(16), "]".repeat(16)), "nested deeper than 16"),
            (format!(r#"{{"a": "{}"}}"#, "a".repeat(3 << 20)), "more than the 2097152 of a configuration"),
        ] {
            let Err(ConfigError::Json { source }) = parse(&text) else { panic!("{expected}") };
            assert!(source.to_string().contains(expected), "{source}");
        }
        assert!(parse(r#"{"a": "[[[[[[[[[[[[[[[[[[[["}"#).is_ok(), "brackets in a text");
    }

    /// The place of each has a name as long as the key.
    #[test]
    fn any_number_of_them_is_kept() {
        let numbers = (0..100_000).map(|_| "NaN").collect::<Vec<_>>().join(",");
        let text = format!(r#"{{"{}":[{numbers}]}}"#, "k".repeat(500_000));
        let (map, places) = parse(&text).unwrap();
        let squeezed: String = written(map, &places).split_whitespace().collect();
        assert!(squeezed == text);
        // The last of two keys counts, as for Python, and what no 64 bits hold is a number of Python's.
        let (map, places) = parse(r#"{"a": NaN, "a": "NaN", "b": 1, "b": -1e400}"#).unwrap();
        assert_eq!(written(map, &places), "{\n  \"a\": \"NaN\",\n  \"b\": -1e400\n}");
    }

    #[test]
    fn other_words_are_no_json() {
        for text in [
            r#"{"a": Infinit}"#,
            r#"{"a": nan}"#,
            r#"{"a": +Infinity}"#,
            r#"{NaN: 1}"#,
            r#"{"a": NaNa}"#,
            r#"{"a": 1.e400}"#,
        ] {
            assert!(matches!(parse(text), Err(ConfigError::Json { .. })), "{text}");
        }
        assert!(matches!(parse("NaN"), Err(ConfigError::NotAnObject { .. })));
    }
}
