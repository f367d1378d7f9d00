//! What opening, listing, loading and converting may take: memory and time by the bytes that are really there.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::memory;

/// What a call took.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    pub n_bytes: usize,
    pub time: Duration,
}

/// Calls `f`; returns its result, and what it took.
pub fn measured<T>(f: impl FnOnce() -> T) -> (T, Spent) {
    let ((result, time), n_bytes) = memory::peak(|| {
        let start = Clock::now();
        let result = f();
        (result, start.elapsed())
    });
    (result, Spent { n_bytes, time })
}

impl Spent {
    /// Fails if the call took more than `n_there` bytes of files and `n_asked` bytes of requested tensors allow.
    pub fn check(self, n_there: u64, n_asked: u64) -> Result<(), String> {
        let most = (64 << 20) + 24 * n_there + n_asked;
        let longest = Duration::from_secs(1) + Duration::from_micros(n_there + n_asked);
        match self.n_bytes as u64 > most || self.time > longest {
            true => Err(format!("{self:?} for {n_there} bytes of files and {n_asked} of tensors")),
            false => Ok(()),
        }
    }
}

/// Returns how many bytes of a file, or of the files in a folder, are on disk.
pub fn n_there(path: &Path) -> u64 {
    if path.is_dir() {
        return fs::read_dir(path).unwrap().map(|entry| n_there(&entry.unwrap().path())).sum();
    }
    let metadata = fs::metadata(path).unwrap();
    #[cfg(unix)]
    let n_on_disk = match std::os::unix::fs::MetadataExt::blocks(&metadata) {
        0 => metadata.len(),
        n_blocks => n_blocks * 512,
    };
    #[cfg(not(unix))]
    let n_on_disk = metadata.len();
    n_on_disk.min(metadata.len())
}

/// The processor's time of this thread where the system tells it, so that a busy machine does not count.
struct Clock(Instant, Option<Duration>);

impl Clock {
    fn now() -> Self {
        Self(Instant::now(), Self::of_thread())
    }

    fn elapsed(&self) -> Duration {
        match (self.1, Self::of_thread()) {
            (Some(start), Some(end)) => end - start,
            _ => self.0.elapsed(),
        }
    }

    fn of_thread() -> Option<Duration> {
        let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        Some(Duration::from_nanos(text.split_whitespace().next()?.parse().ok()?))
    }
}
