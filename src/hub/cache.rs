//! Keeps fetched ranges on disk: one file per range, one folder per version of a URL's content.

use std::fs;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::files::Partial;

/// The ranges fetched so far from one version of a file.
#[derive(Debug)]
pub(super) struct RangeCache {
    folder: PathBuf,
}

impl RangeCache {
    /// Returns the cache below `root` for the content that `etag` and the length identify, or `None` if a folder name
    /// would be too long.
    pub(super) fn new(root: &Path, url: &str, etag: &str, n_bytes: u64) -> Option<Self> {
        let (url, content) = (file_name(url), file_name(&format!("{etag}-{n_bytes}")));
        // File systems allow names of 255 bytes. A file that needs a longer one is fetched again each time.
        (url.len().max(content.len()) <= 255).then(|| Self { folder: root.join(url).join(content) })
    }

    /// Returns the bytes of a range, if exactly this range was kept.
    pub(super) fn get(&self, range: &Range<u64>) -> Option<Vec<u8>> {
        let bytes = fs::read(self.path(range)).ok()?;
        (bytes.len() as u64 == range.end - range.start).then_some(bytes)
    }

    /// Stores a range atomically. Ignores errors: a range that could not be stored is fetched again.
    ///
    /// Does not sync, which takes a hundred times as long: a range must be whole, not durable. One that a crash of the
    /// system loses or cuts is fetched again too.
    pub(super) fn put(&self, range: &Range<u64>, bytes: &[u8]) {
        let _ = fs::create_dir_all(&self.folder).and_then(|()| {
            let mut file = Partial::create(&self.path(range))?;
            file.file().write_all(bytes)?;
            file.name()?;
            file.replace()
        });
    }

    /// Removes all ranges. Returns their folder, if there were any.
    pub(super) fn forget(&self) -> Option<PathBuf> {
        fs::remove_dir_all(&self.folder).ok()?;
        Some(self.folder.clone())
    }

    fn path(&self, range: &Range<u64>) -> PathBuf {
        self.folder.join(format!("{}-{}", range.start, range.end))
    }
}

/// Returns a file name that differs for different texts: letters, digits, `-` and `.` stay, other bytes become `_` and
/// their code.
fn file_name(text: &str) -> String {
    let code = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => char::from(byte).to_string(),
        b'.' => ".".to_string(),
        byte => format!("_{byte:02x}"),
    };
    text.bytes().map(code).collect()
}
