//! The text of a `config.json`: JSON, and the `NaN` and `Infinity` that Python's `json` writes beside it.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::fields::brief;
use super::text_limits::check_text;
use crate::error::{ConfigError, cause};

/// What JSON has no numbers for, as Python spells it.
const NON_FINITE: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// Where a file has numbers that JSON or 64 bits cannot hold: JSON pointers (RFC 6901). They are kept as text.
pub(super) type Others = BTreeSet<String>;

/// Reads an object.
pub(super) fn parse(text: &str) -> Result<(Map<String, Value>, Others), ConfigError> {
    check_text(text)?;
    let (value, places) = match with_others(text) {
        Some(read) => read.map_err(|source| ConfigError::Json { source: cause(source) })?,
        None => {
            let value = serde_json::from_str(text).map_err(|error| ConfigError::Json { source: cause(error) })?;
            (value, Others::new())
        }
    };
    match value {
        Value::Object(map) => Ok((map, places)),
        other => Err(ConfigError::NotAnObject { got: brief(&other) }),
    }
}

/// How many of these numbers are read: the place of each is kept, which may be as long as the text.
const MAX_OTHERS: usize = 16;

/// Reads a text with every such number in it as a text of its own; `None` if it has none.
fn with_others(text: &str) -> Option<Result<(Value, Others), Box<dyn Error + Send + Sync>>> {
    // A mark that stands nowhere in the file.
    const MARK: &str = "non-finite ";
    let number = |(at, _)| text[at + MARK.len()..].split(':').next()?.parse::<usize>().ok();
    let used: BTreeSet<usize> = text.match_indices(MARK).filter_map(number).collect();
    let mark = format!("{MARK}{}: ", (0..).find(|n| !used.contains(n)).unwrap_or(0));
    let (marked, n_marks) = marked(text, &mark);
    match n_marks {
        0 => return None,
        1..=MAX_OTHERS => {}
        _ => {
            return Some(
                Err(format!("more than {MAX_OTHERS} numbers are not finite or have more than 64 bits").into()),
            );
        }
    }
    let mut value: Value = match serde_json::from_str(&marked) {
        Ok(value) => value,
        Err(error) => return Some(Err(error.into())),
    };
    let mut places = Others::new();
    let is_unmarked = unmark(&mut value, &mark, &mut String::new(), &mut places);
    (is_unmarked && places.len() == n_marks).then_some(Ok((value, places)))
}

/// Replaces such numbers by marked texts, and counts them.
fn marked(text: &str, mark: &str) -> (String, usize) {
    let (mut out, mut n_marks) = (String::with_capacity(text.len()), 0);
    let (mut in_text, mut escaped) = (false, false);
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let number = if in_text { "" } else { &rest[..number_len(rest)] };
        if !number.is_empty() {
            let is_other = is_other(number);
            n_marks += usize::from(is_other);
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
    (out, n_marks)
}

/// Returns the length of the number or the name of one that a text begins with.
fn number_len(text: &str) -> usize {
    let name = NON_FINITE.iter().find(|name| text.starts_with(**name)).map(|name| name.len());
    let is_part = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
    let begins = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    name.unwrap_or_else(|| if begins { text.bytes().take_while(|byte| is_part(byte)).count() } else { 0 })
}

/// Returns whether a number as a file spells it is one that JSON lacks, or a whole number of more than 64 bits.
fn is_other(number: &str) -> bool {
    let digits = number.strip_prefix('-').unwrap_or(number);
    let is_whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let is_large =
        is_whole && !digits.starts_with('0') && number.parse::<u64>().is_err() && number.parse::<i64>().is_err();
    NON_FINITE.contains(&number) || is_large
}

/// Takes the marks out again; `false` if one stands in a key, where no number may be.
fn unmark(value: &mut Value, mark: &str, at: &mut String, places: &mut Others) -> bool {
    let n = at.len();
    match value {
        Value::String(text) => {
            if let Some(name) = text.strip_prefix(mark) {
                *text = name.to_string();
                places.insert(at.clone());
            }
        }
        Value::Array(values) => {
            for (index, value) in values.iter_mut().enumerate() {
                let _ = write!(at, "/{index}");
                if !unmark(value, mark, at, places) {
                    return false;
                }
                at.truncate(n);
            }
        }
        Value::Object(map) => {
            for (key, value) in map {
                let _ = write!(at, "/{}", token(key));
                if key.starts_with(mark) || !unmark(value, mark, at, places) {
                    return false;
                }
                at.truncate(n);
            }
        }
        _ => {}
    }
    true
}

/// Escapes a key for a JSON pointer.
fn token(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Writes an object as serde_json does, indented, with numbers where `places` says so.
pub(super) fn written(map: Map<String, Value>, places: &Others) -> String {
    let value = Value::Object(map);
    if places.is_empty() {
        return format!("{value:#}");
    }
    let mut out = String::new();
    write_value(&mut out, &value, &mut String::new(), 1, places);
    out
}

fn write_value(out: &mut String, value: &Value, at: &mut String, depth: usize, places: &Others) {
    let (n, indent) = (at.len(), "  ".repeat(depth));
    let end = "  ".repeat(depth.saturating_sub(1));
    match value {
        Value::String(text) if places.contains(at.as_str()) && is_other(text) => out.push_str(text),
        Value::Array(values) if !values.is_empty() => {
            for (index, value) in values.iter().enumerate() {
                let _ = write!(out, "{}\n{indent}", if index == 0 { "[" } else { "," });
                let _ = write!(at, "/{index}");
                write_value(out, value, at, depth + 1, places);
                at.truncate(n);
            }
            let _ = write!(out, "\n{end}]");
        }
        Value::Object(map) if !map.is_empty() => {
            for (index, (key, value)) in map.iter().enumerate() {
                let (before, key_text) = (if index == 0 { "{" } else { "," }, Value::String(key.clone()));
                let _ = write!(out, "{before}\n{indent}{key_text}: ");
                let _ = write!(at, "/{}", token(key));
                write_value(out, value, at, depth + 1, places);
                at.truncate(n);
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
        assert_eq!(places.iter().collect::<Vec<_>>(), ["/a/0", "/a/2/b~1c~0", "/w/0", "/w/1", "/x"]);
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
        assert_eq!(parse(&marks).unwrap().1.into_iter().collect::<Vec<_>>(), ["/a/0"]);
        for (text, expected) in [
            (format!(r#"{{"{}": [{}]}}"#, "k".repeat(500_000), all(100_000, &|_| "NaN".into())), "are not finite"),
            (format!(r#"{{"a": [{}]}}"#, all(100_000, &|_| r#"{"":0}"#.into())), "more than 8192 objects and lists"),
            (format!(r#"{{"a": {}{}}}"#, "[".repeat(16), "]".repeat(16)), "nested deeper than 16"),
            (format!(r#"{{"a": "{}"}}"#, "a".repeat(3 << 20)), "more than the 2097152 of a configuration"),
        ] {
            let Err(ConfigError::Json { source }) = parse(&text) else { panic!("{expected}") };
            assert!(source.to_string().contains(expected), "{source}");
        }
        assert!(parse(r#"{"a": "[[[[[[[[[[[[[[[[[[[["}"#).is_ok(), "brackets in a text");
    }

    #[test]
    fn other_words_are_no_json() {
        for text in [r#"{"a": Infinit}"#, r#"{"a": nan}"#, r#"{"a": +Infinity}"#, r#"{NaN: 1}"#, r#"{"a": NaNa}"#] {
            assert!(matches!(parse(text), Err(ConfigError::Json { .. })), "{text}");
        }
        assert!(matches!(parse("NaN"), Err(ConfigError::NotAnObject { .. })));
    }
}
