//! What a download tells while it works, and what it removed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Shown;

/// What [`Repo::with_progress`](super::Repo::with_progress) is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// Bytes of a file have come.
    Fetched {
        /// The name of the file in its repository.
        file: &'a str,
        /// How many of its bytes are there, those of an earlier try included.
        n_done: u64,
        /// How many it has.
        n_bytes: u64,
    },
    /// Another process fetches the same file.
    Waiting {
        /// The lock that it holds.
        lock: &'a Path,
    },
    /// A broken entry of the cache was removed.
    Dropped(&'a Dropped),
}

/// An entry of the cache that was broken and has been removed.
///
/// It displays as `PATH was removed from the cache: REASON`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dropped {
    /// Where it was.
    pub path: PathBuf,
    /// What was wrong with it.
    pub reason: String,
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was removed from the cache: {}", Shown::path(&self.path), Shown::text(&self.reason))
    }
}

/// The function that is told, if any.
#[derive(Clone, Default)]
pub(super) struct Listener(pub(super) Option<Arc<Told>>);

type Told = dyn Fn(Progress) + Send + Sync;

impl Listener {
    pub(super) fn tell(&self, progress: Progress) {
        if let Some(listener) = &self.0 {
            listener(progress);
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Listener(..)" } else { "Listener(none)" })
    }
}
