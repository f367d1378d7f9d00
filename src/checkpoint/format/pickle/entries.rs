//! The entries of dicts and lists, and the texts of their keys.

use std::borrow::Cow;

use super::value::{Id, Value};
use super::{Pickle, short};

/// The key of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Key {
    /// A key of a dict that has a text.
    Of(Id),
    /// A place in a list.
    At(usize),
    /// The place of an entry whose key has no text, in a dict.
    Unnamed(usize),
}

impl Pickle {
    /// Returns the entries of a dict, a list or a tuple.
    pub(in super::super) fn entries(&self, id: Id) -> impl Iterator<Item = (Key, Id)> {
        let of_dict = self.pairs(id).unwrap_or_default().iter().enumerate().map(|(i, &(key, value))| {
            let has_text = !matches!(
                self.get(key),
                Value::Opaque
                    | Value::Tuple(_)
                    | Value::List(_)
                    | Value::Dict(_)
                    | Value::Call { .. }
                    | Value::Persistent(_)
            );
            (if has_text { Key::Of(key) } else { Key::Unnamed(i) }, value)
        });
        let of_list = self.items(id).unwrap_or_default().iter().enumerate().map(|(i, &value)| (Key::At(i), value));
        of_dict.chain(of_list)
    }

    /// Returns the text of a key, as Python prints it; for a key without one, its place.
    pub(in super::super) fn text(&self, key: Key) -> Cow<'_, str> {
        let id = match key {
            Key::Of(id) => id,
            Key::At(place) => return place.to_string().into(),
            Key::Unnamed(place) => return format!("<key {place}>").into(),
        };
        match self.get(id) {
            Value::Str(text) | Value::Bytes(text) | Value::Global(text) => Cow::Borrowed(text),
            Value::Int(number) => number.to_string().into(),
            Value::Float(number) => float(*number).into(),
            Value::Bool(true) => "True".into(),
            Value::Bool(false) => "False".into(),
            _ => "None".into(),
        }
    }

    /// Joins the texts of keys by dots, each shortened for printing.
    pub(in super::super) fn path(&self, keys: &[Key]) -> String {
        keys.iter().map(|&key| short(&self.text(key))).collect::<Vec<_>>().join(".")
    }
}

/// Returns a number as Python's `repr` writes it.
fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_string();
    }
    let text = format!("{number:?}");
    match text.split_once('e') {
        None => text,
        Some((digits, exponent)) => match exponent.strip_prefix('-') {
            Some(exponent) => format!("{digits}e-{exponent:0>2}"),
            None => format!("{digits}e+{exponent:0>2}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_printed_as_python_prints_them() {
        for (number, expected) in [
            (1.5, "1.5"),
            (2., "2.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-2.5e-300, "-2.5e-300"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(float(number), expected);
        }
    }
}
