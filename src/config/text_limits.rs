//! How large the text of a `config.json` may be, and what it parses to.

use crate::error::ConfigError;

/// Bytes of a `config.json`, objects and lists in it, and how deep they are nested. Those of models have a few
/// kilobytes; an empty object takes a hundred times its text.
pub(super) const MAX_CONFIG_BYTES: u64 = 2 << 20;
const MAX_CONTAINERS: usize = 1 << 13;
const MAX_NESTING: usize = 16;

/// Blocks of a model, for each of which a list may have an element.
pub(super) const MAX_LAYERS: usize = 1 << 14;

/// Refuses a text that would take much more memory than its length, before it is parsed.
pub(super) fn check_text(text: &str) -> Result<(), ConfigError> {
    let refused = |reason: String| Err(ConfigError::Json { source: reason.into() });
    if text.len() as u64 > MAX_CONFIG_BYTES {
        return refused(format!("{} bytes, more than the {MAX_CONFIG_BYTES} of a configuration", text.len()));
    }
    let (mut n_containers, mut depth, mut in_text, mut escaped) = (0, 0usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_text,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => (n_containers, depth) = (n_containers + 1, depth + 1),
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        if n_containers > MAX_CONTAINERS {
            return refused(format!("more than {MAX_CONTAINERS} objects and lists"));
        }
        if depth > MAX_NESTING {
            return refused(format!("objects and lists nested deeper than {MAX_NESTING}"));
        }
    }
    Ok(())
}
