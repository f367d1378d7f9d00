//! The errors of other libraries.

/// The error of another library, as the source of one of ours.
pub(super) type Cause = Box<dyn std::error::Error + Send + Sync>;
