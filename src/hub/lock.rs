//! Lets one process at a time fetch a content, by the locks that huggingface_hub takes.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::layout::create_parent;

const PAUSE: Duration = Duration::from_millis(50);

/// Takes a lock, which lasts until the file is closed. `None`: the file system has no locks.
///
/// Waits as long as `progress` changes at least once in `patience`, and calls `waiting` once if it must wait.
pub(super) fn acquired(
    path: &Path,
    patience: Duration,
    progress: impl Fn() -> u64,
    waiting: impl FnOnce(),
) -> io::Result<Option<File>> {
    create_parent(path)?;
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    let (mut waiting, mut seen, mut since) = (Some(waiting), None, Instant::now());
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        if let Some(waiting) = waiting.take() {
            waiting();
        }
        let now = Some(progress());
        if now != seen {
            (seen, since) = (now, Instant::now());
        } else if since.elapsed() >= patience {
            let reason = "another process holds this lock and fetches nothing: end it, or try again later";
            return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
        }
        sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_holder_is_waited_for_while_it_gets_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b.lock");
        let take = |n: &dyn Fn() -> u64| acquired(&path, Duration::from_millis(200), n, || {});
        let held = take(&|| 0).unwrap();
        let error = take(&|| 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let (n, held) = (Cell::new(0), Cell::new(held));
        let grows = || {
            n.set(n.get() + 1);
            if n.get() == 12 {
                held.take();
            }
            n.get()
        };
        assert!(take(&grows).unwrap().is_some());
        assert!(n.get() >= 12);
    }
}
