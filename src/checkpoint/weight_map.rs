//! Reads the `weight_map` of an index of shards, entry by entry, in memory that its text allows.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::budget::{Budget, MAX_TEXT_BYTES};
use super::parse::ParseError;

/// Returns the map of tensors' names to shards in the JSON text of an index.
pub(super) fn read(text: &str) -> serde_json::Result<BTreeMap<String, String>> {
    let budget = Budget::of_text(text);
    let mut json = serde_json::Deserializer::from_str(text);
    let map = json.deserialize_map(Index(&budget))?;
    json.end()?;
    Ok(map)
}

/// The whole index, of which only the map is kept.
struct Index<'a>(&'a Budget);

impl<'de> Visitor<'de> for Index<'_> {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map with a `weight_map`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != "weight_map" {
                map.next_value::<IgnoredAny>()?;
            } else if found.replace(map.next_value_seed(WeightMap(self.0))?).is_some() {
                return Err(A::Error::duplicate_field("weight_map"));
            }
        }
        found.ok_or_else(|| A::Error::missing_field("weight_map"))
    }
}

struct WeightMap<'a>(&'a Budget);

impl<'de> DeserializeSeed<'de> for WeightMap<'_> {
    type Value = BTreeMap<String, String>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for WeightMap<'_> {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of tensors' names to shards")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut shards = BTreeMap::new();
        while let Some((name, shard)) = map.next_entry::<String, String>()? {
            let n_bytes = name.len().max(shard.len());
            if n_bytes as u64 > MAX_TEXT_BYTES {
                return Err(A::Error::custom(format!("a name of {n_bytes} bytes, more than {MAX_TEXT_BYTES}")));
            }
            let paid = self.0.take_node::<(String, String)>();
            let paid = paid.and_then(|()| self.0.take_text(name.len())).and_then(|()| self.0.take_text(shard.len()));
            paid.map_err(ParseError::in_json::<A::Error>)?;
            shards.insert(name, shard);
        }
        Ok(shards)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_map_is_read() {
        let read = |text: &str| read(text).map_err(|error| error.to_string());
        let map = read(r#"{"metadata": {"total_size": [1, {}]}, "weight_map": {"b": "2", "a": "1"}}"#).unwrap();
        assert_eq!(map.into_iter().collect::<Vec<_>>(), [("a", "1"), ("b", "2")].map(|(a, b)| (a.into(), b.into())));
        for (text, expected) in [
            ("{}", "missing field `weight_map`"),
            ("[]", "expected a map with a `weight_map`"),
            (r#"{"weight_map": {}, "weight_map": {}}"#, "duplicate field `weight_map`"),
            (r#"{"weight_map": {"a": 1}}"#, "expected a string"),
            (r#"{"weight_map": {}} x"#, "trailing characters"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let error = read(&format!(r#"{{"weight_map": {{"{}": "1"}}}}"#, "n".repeat(65536))).unwrap_err();
        assert!(error.contains("a name of 65536 bytes, more than 65535"), "{error}");
    }
}
