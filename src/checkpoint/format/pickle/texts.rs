//! Reads the texts of a pickle, which are bytes with a length or, in protocol 0, lines.

use super::machine::Machine;
use super::value::{Id, OPAQUE, Value, get, items};
use crate::checkpoint::budget::MAX_TEXT_BYTES;
use crate::checkpoint::bytes::{Header, Parse};

const STORAGE: &str = "storage";

impl Machine<'_> {
    /// Pushes a text, or an opaque value for one that is too long for a name.
    pub(super) fn text_of(&mut self, header: &mut Header, n_bytes: u64) -> Parse<()> {
        if n_bytes > MAX_TEXT_BYTES {
            return self.opaque(header, n_bytes);
        }
        let bytes = header.bytes(n_bytes)?;
        self.text(Some(bytes))
    }

    /// Pushes bytes, or an opaque value for those that cannot be a name.
    pub(super) fn bytes_of(&mut self, header: &mut Header, n_bytes: u64) -> Parse<()> {
        if n_bytes > MAX_TEXT_BYTES {
            return self.opaque(header, n_bytes);
        }
        match String::from_utf8(header.bytes(n_bytes)?) {
            Ok(text) => self.push(Value::Bytes(text.into())),
            Err(_) => self.push_id(OPAQUE),
        }
    }

    /// Returns the bytes that a call of `_codecs.encode` makes, as protocol 2 writes them; `None` for those that cannot
    /// be a name.
    pub(super) fn encoded(&self, args: Id) -> Parse<Option<Value>> {
        let Some(&[text, encoding]) = items(&self.values, args) else { return Ok(None) };
        let (Value::Str(text), Value::Str(encoding)) = (get(&self.values, text), get(&self.values, encoding)) else {
            return Ok(None);
        };
        if &**encoding != "latin1" {
            return Ok(None);
        }
        self.budget.take_text(text.len())?;
        let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(c).ok()).collect();
        Ok(bytes.and_then(|bytes| String::from_utf8(bytes).ok()).map(|text| Value::Bytes(text.into())))
    }

    /// Pushes the text of a line: UNICODE (`V`), or STRING (`S`) of Python 2.
    pub(super) fn text_line(&mut self, opcode: u8, header: &mut Header) -> Parse<()> {
        let line = header.line_within(MAX_TEXT_BYTES)?;
        let bytes = line.and_then(|line| if opcode == b'V' { raw_unicode(&line) } else { unquoted(&line) });
        self.budget.take_text(bytes.as_ref().map_or(0, Vec::len))?;
        self.text(bytes)
    }

    /// Pushes a text that is paid for, or an opaque value for none and for one that is not UTF-8.
    fn text(&mut self, bytes: Option<Vec<u8>>) -> Parse<()> {
        match bytes.map(String::from_utf8) {
            Some(Ok(text)) => self.push(Value::Str(text.into())),
            _ => self.push_id(OPAQUE),
        }
    }

    /// Pushes the persistent value that a line names: PERSID of protocol 0, the `str` of
    /// `('storage', torch.FloatStorage, '0', 'cpu', 4)`.
    pub(super) fn persistent_line(&mut self, header: &mut Header) -> Parse<()> {
        let line = header.line_within(MAX_TEXT_BYTES)?.and_then(|line| String::from_utf8(line).ok());
        let Some((class, key, location, n_elements)) = line.as_deref().and_then(storage_parts) else {
            return self.push(Value::Persistent(OPAQUE));
        };
        let (module, name) = class.rsplit_once('.').unwrap_or(("", class));
        self.budget.take_text(STORAGE.len() + key.len() + location.len())?;
        self.text(Some(STORAGE.into()))?;
        self.global(module, name)?;
        self.text(Some(key.into()))?;
        self.text(Some(location.into()))?;
        self.int(n_elements)?;
        self.tuple_of(5)?;
        self.persistent()
    }
}

/// Returns the class, key, location and length in the `str` of a storage.
fn storage_parts(line: &str) -> Option<(&str, &str, &str, i64)> {
    let (class, rest) = line.strip_prefix("('storage', <class '")?.split_once("'>, '")?;
    let (key, rest) = rest.split_once("', '")?;
    let (location, rest) = rest.split_once("', ")?;
    let rest = rest.strip_suffix(')')?;
    let n_elements = rest.strip_suffix(", None").unwrap_or(rest).parse().ok()?;
    Some((class, key, location, n_elements))
}

/// Decodes `raw-unicode-escape` to UTF-8; `None` for what Python refuses, and for halves of surrogate pairs.
fn raw_unicode(mut line: &[u8]) -> Option<Vec<u8>> {
    let mut text = String::new();
    while let Some((&byte, rest)) = line.split_first() {
        let n_digits = match (byte, rest.first()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            (b'\\', Some(&other)) => {
                // A backslash before another one does not begin an escape, and neither does the other.
                text.extend(['\\', char::from(other)]);
                line = &rest[1..];
                continue;
            }
            _ => {
                text.push(char::from(byte)); // Latin-1
                line = rest;
                continue;
            }
        };
        text.push(char::from_u32(hexadecimal(rest.get(1..=n_digits)?)?)?);
        line = &rest[1 + n_digits..];
    }
    Some(text.into_bytes())
}

/// Decodes a literal of Python 2's `str`, with the escapes that its `repr` writes.
fn unquoted(line: &[u8]) -> Option<Vec<u8>> {
    let (&quote, rest) = line.split_first().filter(|(quote, _)| b"'\"".contains(quote))?;
    let mut left = rest.strip_suffix(&[quote])?;
    let mut text = Vec::new();
    while let Some((&byte, rest)) = left.split_first() {
        left = rest;
        if byte != b'\\' {
            text.push(byte);
            continue;
        }
        let (&escape, rest) = left.split_first()?;
        left = rest;
        text.push(match escape {
            b'\\' | b'\'' | b'"' => escape,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'x' => {
                let (digits, rest) = left.split_at_checked(2)?;
                left = rest;
                u8::try_from(hexadecimal(digits)?).ok()?
            }
            _ => return None,
        });
    }
    Some(text)
}

fn hexadecimal(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0u32, |number, &digit| Some(number.checked_mul(16)? + char::from(digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: Option<Vec<u8>>) -> Option<String> {
        bytes.map(|bytes| String::from_utf8(bytes).unwrap())
    }

    /// What `pickle.loads(b"V" + line + b"\n.")` returns.
    #[test]
    fn lines_are_raw_unicode() {
        for (line, expected) in [
            (&b"wte.weight"[..], Some("wte.weight")),
            (br"a\u005cn\u000a\U0001f600", Some("a\\n\n\u{1f600}")),
            (b"\xe9t\xe9", Some("\u{e9}t\u{e9}")),
            (br"\\u0041\n", Some(r"\\u0041\n")),
            (br"\", Some(r"\")),
            (br"\u+041", None),
            (br"\u00", None),
            (br"\ud800", None),
            (br"\U00110000", None),
            (b"", Some("")),
        ] {
            assert_eq!(text(raw_unicode(line)).as_deref(), expected, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn strings_are_literals() {
        for (line, expected) in [
            (&b"'wte.weight'"[..], Some("wte.weight")),
            (br#""it's""#, Some("it's")),
            (br"'\'\\\x41\n'", Some("'\\A\n")),
            (b"'a", None),
            (b"a", None),
            (b"'", None),
            (br"'\x4'", None),
            (br"'\q'", None),
        ] {
            assert_eq!(text(unquoted(line)).as_deref(), expected, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn a_storage_has_a_text() {
        let of = |rest: &str| format!("('storage', <class 'torch.FloatStorage'>, {rest}");
        let parts = Some(("torch.FloatStorage", "0", "cpu", 20));
        assert_eq!(storage_parts(&of("'0', 'cpu', 20)")), parts);
        assert_eq!(storage_parts(&of("'0', 'cpu', 20, None)")), parts);
        for line in ["'0', 'cpu', 20, ('1', 0, 4))", "'0', 'cpu')", "'0', 'cpu', x)", "'0', 20)"].map(of) {
            assert_eq!(storage_parts(&line), None, "{line}");
        }
    }
}
