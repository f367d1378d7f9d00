//! The errors of other libraries.

use std::error::Error;

use super::shown::{Shown, is_one_line};

/// The error of another library, as the source of one of ours. [`cause`] makes it.
pub(super) type Cause = Box<dyn Error + Send + Sync>;

/// Keeps the error of another library. One whose text is more than a line, or holds control characters, which a file
/// may have put there, becomes its escaped text.
pub(crate) fn cause(error: impl Into<Cause>) -> Cause {
    let error = error.into();
    let text = error.to_string();
    if is_one_line(&text) { error } else { Shown::text(&text).to_string().into() }
}
