//! What other libraries say.

/// What another library says, as the source of an error.
pub(super) type Cause = Box<dyn std::error::Error + Send + Sync>;
