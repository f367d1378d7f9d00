//! [`Shown`]: how text from outside enters a message.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::path::Path;

/// Prints a text from a file, a server or a user on one line, whatever it holds.
///
/// Control characters, line separators and marks that turn the direction of writing become escapes such as `\n` and
/// `\u{1b}`. The middle of a long text is cut out. All texts from outside pass through this in the errors and reports
/// of this crate.
///
/// ```
/// use candle_gpt_input::error::Shown;
///
/// assert_eq!(Shown::name("wte\n\u{1b}[31m").to_string(), r"wte\n\u{1b}[31m");
/// assert_eq!(Shown::name("h.0.é").to_string(), "h.0.é");
/// assert!(Shown::name(&"a".repeat(65536)).to_string().ends_with("aaa… (65536 bytes) …aaaaaaaaaaaaaaaaaaaaaaaaa"));
/// ```
#[derive(Clone, Debug)]
pub struct Shown<'a> {
    text: Cow<'a, str>,
    max_bytes: usize,
}

/// A longer name or text is cut.
const MAX_NAME_BYTES: usize = 200;
const MAX_TEXT_BYTES: usize = 2000;
/// The end of a text that is cut is this part of what remains.
const END_PART: usize = 8;

impl<'a> Shown<'a> {
    /// Prints a name: at most about 200 bytes of it.
    pub fn name(text: &'a str) -> Self {
        Self { text: text.into(), max_bytes: MAX_NAME_BYTES }
    }

    /// Prints a text of several words or names: at most about 2000 bytes of it.
    pub fn text(text: &'a str) -> Self {
        Self { text: text.into(), max_bytes: MAX_TEXT_BYTES }
    }

    /// Prints a path. Bytes that are not UTF-8 become U+FFFD.
    pub fn path(path: &'a (impl AsRef<Path> + ?Sized)) -> Self {
        Self { text: path.as_ref().to_string_lossy(), max_bytes: MAX_TEXT_BYTES }
    }
}

/// Returns whether a character is invisible and changes how others are shown: controls, line and paragraph separators,
/// marks of direction, annotations and tags. Joiners are part of the spelling in many scripts.
fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn write_escaped(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    text.chars().try_for_each(|c| if is_hostile(c) { write!(f, "{}", c.escape_default()) } else { f.write_char(c) })
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, max_bytes) = (&*self.text, self.max_bytes);
        if text.len() <= max_bytes {
            return write_escaped(f, text);
        }
        let end = max_bytes / END_PART;
        let head = &text[..text.floor_char_boundary(max_bytes - end)];
        write_escaped(f, head)?;
        write!(f, "… ({} bytes) …", text.len())?;
        write_escaped(f, &text[text.ceil_char_boundary(text.len() - end)..])
    }
}

/// Returns whether a text is one line without control characters, as every message is.
pub(crate) fn is_one_line(text: &str) -> bool {
    !text.contains(is_hostile)
}

/// Prints a number with an exponent where it would have many digits: `1e308`.
pub(super) fn number<T: fmt::Display + fmt::LowerExp + Copy + Into<f64>>(x: T) -> impl fmt::Display {
    let size = x.into().abs();
    let is_long = size.is_finite() && (size >= 1e16 || (size < 1e-5 && size > 0.0));
    fmt::from_fn(move |f| if is_long { write!(f, "{x:e}") } else { write!(f, "{x}") })
}
