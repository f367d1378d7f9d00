//! Whether a content is what its server described: its length, its hash, and whether its header can be read.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use ring::digest::{Algorithm, Context, SHA1_FOR_LEGACY_USE_ONLY as SHA1, SHA256};
use serde::de::IgnoredAny;

use super::MAX_TEXT_BYTES;
use crate::checkpoint::WeightsFile;
use crate::error::CheckpointError;

/// Says what is wrong with a fetched content, if anything.
///
/// The hub's ETags are hashes: SHA-256 of large files, git's SHA-1 of others. Where the ETag is none, a header that
/// cannot be read tells of damage.
pub(super) fn fault_of_fetched(path: &Path, file: &str, etag: &str) -> io::Result<Option<String>> {
    Ok(match matches_hash(path, etag)? {
        Some(true) => None,
        Some(false) => Some(format!("its bytes are not those of its ETag {etag}, a hash")),
        None => unreadable(path, file)?,
    })
}

/// Says what is wrong with a content in the cache, if anything. Hashes it only if its header cannot be read.
pub(super) fn fault_of_cached(
    path: &Path,
    file: &str,
    etag: Option<&str>,
    n_bytes: Option<u64>,
) -> io::Result<Option<String>> {
    let got = match fs::metadata(path) {
        Ok(about) if about.is_file() => about.len(),
        Ok(_) => return Ok(Some("it is not a file".to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some("it points nowhere".to_string())),
        Err(error) => return Err(error),
    };
    if let Some(n_bytes) = n_bytes.filter(|n_bytes| *n_bytes != got) {
        return Ok(Some(format!("it has {got} bytes, not {n_bytes}")));
    }
    let Some(reason) = unreadable(path, file)? else { return Ok(None) };
    let is_as_published = match etag {
        Some(etag) => matches_hash(path, etag)? == Some(true),
        None => false,
    };
    Ok((!is_as_published).then_some(reason))
}

/// Returns whether an ETag is a hash.
pub(super) fn is_hash(etag: &str) -> bool {
    matches!(etag.len(), 40 | 64) && etag.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Returns whether a file has the hash that its ETag is; `None` if the ETag is none.
fn matches_hash(path: &Path, etag: &str) -> io::Result<Option<bool>> {
    if !is_hash(etag) {
        return Ok(None);
    }
    let is = |algorithm, before: String| -> io::Result<bool> {
        Ok(hash(path, algorithm, before.as_bytes())?.eq_ignore_ascii_case(etag))
    };
    Ok(Some(match etag.len() {
        64 => is(&SHA256, String::new())?,
        // Git hashes a header with the content; some mirrors hash the content alone.
        _ => is(&SHA1, format!("blob {}\0", fs::metadata(path)?.len()))? || is(&SHA1, String::new())?,
    }))
}

fn hash(path: &Path, algorithm: &'static Algorithm, before: &[u8]) -> io::Result<String> {
    let (mut file, mut context) = (File::open(path)?, Context::new(algorithm));
    context.update(before);
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()),
            n => context.update(&buffer[..n]),
        }
    }
}

/// Says why the content of a file cannot be read, by its name. `None` for one that can, and for names that say nothing.
fn unreadable(path: &Path, file: &str) -> io::Result<Option<String>> {
    if file.ends_with(".json") {
        if fs::metadata(path)?.len() > MAX_TEXT_BYTES {
            return Ok(Some(format!("a text of more than {MAX_TEXT_BYTES} bytes")));
        }
        let Ok(text) = String::from_utf8(fs::read(path)?) else { return Ok(Some("not UTF-8".to_string())) };
        // Python's `json` writes numbers that JSON has not.
        let is_pythons = text.contains("NaN") || text.contains("Infinity");
        let error = serde_json::from_str::<IgnoredAny>(&text).err().filter(|_| !is_pythons);
        return Ok(error.map(|error| format!("not JSON: {error}")));
    }
    if file.ends_with(".safetensors") {
        return match WeightsFile::open(path) {
            Ok(_) => Ok(None),
            Err(CheckpointError::Io { source, .. }) => Err(source),
            Err(CheckpointError::InvalidFile { format, reason, .. }) => {
                Ok(Some(format!("not a valid {format} file: {reason}")))
            }
            Err(error) => Ok(Some(error.to_string())),
        };
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetched(content: &str, file: &str, etag: &str) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("content");
        fs::write(&path, content).unwrap();
        fault_of_fetched(&path, file, etag).unwrap()
    }

    /// Hashes of `abc`, from FIPS 180 and from `git hash-object`.
    #[test]
    fn hashes_are_checked() {
        let (sha256, git, sha1) = (
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f",
            "a9993e364706816aba3e25717850c26c9cd0d89d",
        );
        for etag in [sha256, git, sha1] {
            assert_eq!(fetched("abc", "x.json", etag), None, "a hash is right, whatever the content");
            assert_eq!(fetched("abd", "x", etag), Some(format!("its bytes are not those of its ETag {etag}, a hash")));
        }
    }

    #[test]
    fn without_a_hash_a_header_must_be_read() {
        assert_eq!(fetched("abc", "README.md", "e1"), None);
        for (content, is_sound) in [("{}", true), (r#"{"a": NaN}"#, true), (r#"{"a""#, false), ("{} {}", false)] {
            assert_eq!(fetched(content, "config.json", "e1").is_none(), is_sound, "{content}");
        }
        let fault = fetched("\u{1}\0\0\0\0\0\0\0x", "a.safetensors", "e1").unwrap();
        assert!(fault.starts_with("not a valid safetensors file: "), "{fault}");
    }

    #[test]
    fn what_the_cache_holds_is_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("content");
        let fault = |etag, n_bytes| fault_of_cached(&path, "x.json", etag, n_bytes).unwrap();
        assert_eq!(fault(None, None).as_deref(), Some("it points nowhere"));
        fs::write(&path, "abc").unwrap();
        assert_eq!(fault(Some("e1"), Some(4)).as_deref(), Some("it has 3 bytes, not 4"));
        assert!(fault(None, Some(3)).unwrap().starts_with("not JSON: "));
        assert_eq!(fault(Some("a9993e364706816aba3e25717850c26c9cd0d89d"), Some(3)), None);
    }
}
