//! Ranges that were fetched before, on disk: a file a range, in a folder for one content of one URL.

use std::fs;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What one version of a file has given so far.
#[derive(Debug)]
pub(super) struct RangeCache {
    folder: PathBuf,
}

impl RangeCache {
    /// Below `root`; `etag` and the length stand for the content. `None` if there is no folder of that name.
    pub(super) fn new(root: &Path, url: &str, etag: &str, n_bytes: u64) -> Option<Self> {
        let (url, content) = (file_name(url), file_name(&format!("{etag}-{n_bytes}")));
        // File systems take names of 255 bytes: what has a longer one is fetched again each time.
        (url.len().max(content.len()) <= 255).then(|| Self { folder: root.join(url).join(content) })
    }

    /// The bytes of a range, if exactly it was kept.
    pub(super) fn get(&self, range: &Range<u64>) -> Option<Vec<u8>> {
        let bytes = fs::read(self.path(range)).ok()?;
        (bytes.len() as u64 == range.end - range.start).then_some(bytes)
    }

    /// Keeps a range, whole or not at all; a disk that is full only means that it is fetched again.
    pub(super) fn put(&self, range: &Range<u64>, bytes: &[u8]) {
        let _ = fs::create_dir_all(&self.folder).and_then(|()| {
            let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
            file.write_all(bytes)?;
            Ok(file.persist(self.path(range))?)
        });
    }

    fn path(&self, range: &Range<u64>) -> PathBuf {
        self.folder.join(format!("{}-{}", range.start, range.end))
    }
}

/// Letters, digits, `-` and `.` as they are, everything else as `_` and its code: different texts have different names.
fn file_name(text: &str) -> String {
    let code = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => char::from(byte).to_string(),
        b'.' => ".".to_string(),
        byte => format!("_{byte:02x}"),
    };
    text.bytes().map(code).collect()
}
