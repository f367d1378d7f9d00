//! Reads one field of a line of JSON, and skips the others, whatever they hold.

use std::borrow::Cow;
use std::fmt;

use anyhow::{Result, anyhow};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What a line has under a key. Of equal keys the last counts, as in Python.
pub enum Field<'a> {
    Text(Cow<'a, str>),
    /// A number, a list or the like.
    Other,
    Missing,
}

/// Reads the field of an object.
///
/// Of other fields, numbers are not parsed and lists are skipped without recursion: none is too large or too deep. `NaN`
/// and infinities, which Python writes, are skipped too.
pub fn of<'a>(line: &'a [u8], key: &str) -> Result<Field<'a>> {
    let line = line.trim_ascii_end();
    let field = parse(line, key).or_else(|error| match without_python_numbers(line) {
        Some(line) => parse(&line, key).map(Field::into_owned),
        None => Err(error),
    });
    field.map_err(|error| {
        if error.is_eof() || !line.trim_ascii_start().starts_with(b"{") {
            return anyhow!("this line is not one object: `jq -c .`, or `jq -c '.[]'` for a list, writes one a line");
        }
        let place = format!(" at line {} column {}", error.line(), error.column());
        let text = error.to_string().replace(&place, "");
        // The place of a line of JSON lines is its own.
        match text.contains("hex escape") {
            true => anyhow!(
                "{text} (column {}): half of a surrogate pair, such as \\ud83d alone, is no character: write \\ufffd \
                 in its place",
                error.column()
            ),
            false => anyhow!("{text} (column {})", error.column()),
        }
    })
}

fn parse<'a>(line: &'a [u8], key: &str) -> serde_json::Result<Field<'a>> {
    let mut json = serde_json::Deserializer::from_slice(line);
    let field = json.deserialize_map(Object { key })?;
    json.end().map(|()| field)
}

/// Writes null for each `NaN`, `Infinity` and `-Infinity` outside texts. `None` if there is none.
fn without_python_numbers(line: &[u8]) -> Option<Vec<u8>> {
    let (mut written, mut rest, mut in_text) = (Vec::new(), line, false);
    while let [first, after @ ..] = rest {
        let words: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];
        let n_skipped = match (in_text, words.into_iter().find(|word| rest.starts_with(word))) {
            (false, Some(word)) => {
                written.extend_from_slice(b"null");
                rest = &rest[word.len()..];
                continue;
            }
            (true, _) if *first == b'\\' && !after.is_empty() => 2,
            _ => 1,
        };
        in_text ^= *first == b'"';
        written.extend_from_slice(&rest[..n_skipped]);
        rest = &rest[n_skipped..];
    }
    (written != line).then_some(written)
}

impl Field<'_> {
    fn into_owned<'a>(self) -> Field<'a> {
        match self {
            Self::Text(text) => Field::Text(Cow::Owned(text.into_owned())),
            Self::Other => Field::Other,
            Self::Missing => Field::Missing,
        }
    }
}

struct Object<'k> {
    key: &'k str,
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = Field<'de>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = Field::Missing;
        while let Some(is_it) = map.next_key_seed(Key { key: self.key })? {
            match is_it {
                true => found = map.next_value_seed(Value)?,
                false => map.next_value().map(|IgnoredAny| ())?,
            }
        }
        Ok(found)
    }
}

/// Whether a key is the one that is looked for.
struct Key<'k> {
    key: &'k str,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        json.deserialize_bytes(self) // others may be no texts
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_bytes<E>(self, key: &[u8]) -> Result<bool, E> {
        Ok(key == self.key.as_bytes())
    }
}

struct Value;

impl<'de> DeserializeSeed<'de> for Value {
    type Value = Field<'de>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Field<'de>, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value {
    type Value = Field<'de>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Field<'de>, E> {
        Ok(Field::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Field<'de>, E> {
        Ok(Field::Text(Cow::Owned(text.to_string())))
    }

    fn visit_unit<E>(self) -> Result<Field<'de>, E> {
        Ok(Field::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Field<'de>, E> {
        Ok(Field::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Field<'de>, E> {
        Ok(Field::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Field<'de>, E> {
        Ok(Field::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Field<'de>, E> {
        Ok(Field::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Field<'de>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Field::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Field<'de>, A::Error> {
        while map.next_key_seed(Key { key: "" })?.is_some() {
            map.next_value::<IgnoredAny>()?;
        }
        Ok(Field::Other)
    }
}
