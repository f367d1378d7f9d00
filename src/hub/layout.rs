//! Where huggingface_hub's cache keeps the files of a repository.
//!
//! ```text
//! models--org--name/blobs/ETAG                       a file's content
//! models--org--name/snapshots/COMMIT/config.json     a link to it
//! models--org--name/refs/main                        the commit that the branch named last
//! models--org--name/.no_exist/COMMIT/FILE            the commit has no such file
//! .locks/models--org--name/ETAG.lock                 held while the content is fetched
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::request::is_plain;
use crate::files::whole;

/// Marks a folder that backups may leave out, as <https://bford.info/cachedir/> has it.
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n";
/// Commits are short; a longer file in `refs` is no reference.
const MAX_REF_BYTES: u64 = 1 << 10;

/// The folders of one repository in a cache.
#[derive(Debug)]
pub(super) struct Layout {
    root: PathBuf,
    name: String,
}

impl Layout {
    pub(super) fn new(root: &Path, repo: &str) -> Self {
        Self { root: root.to_path_buf(), name: format!("models--{}", repo.replace('/', "--")) }
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.root.join(&self.name)
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.folder().join("blobs").join(etag)
    }

    pub(super) fn lock(&self, etag: &str) -> PathBuf {
        self.root.join(".locks").join(&self.name).join(format!("{etag}.lock"))
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder().join("snapshots").join(commit)
    }

    pub(super) fn pointer(&self, commit: &str, file: &str) -> PathBuf {
        joined(self.snapshot(commit), file)
    }

    pub(super) fn no_exist(&self, commit: &str, file: &str) -> PathBuf {
        joined(self.folder().join(".no_exist").join(commit), file)
    }

    /// Returns the commit that a revision named when it was fetched last; a revision that is a commit names itself.
    pub(super) fn commit_of(&self, revision: &str) -> Option<String> {
        let path = joined(self.folder().join("refs"), revision);
        let commit = small_text(&path, MAX_REF_BYTES).unwrap_or_else(|| revision.to_string());
        (is_plain(&commit) && self.snapshot(&commit).is_dir()).then_some(commit)
    }

    /// Notes the commit that a revision names.
    pub(super) fn write_ref(&self, revision: &str, commit: &str) -> io::Result<()> {
        if revision == commit {
            return Ok(());
        }
        let path = joined(self.folder().join("refs"), revision);
        if fs::read_to_string(&path).is_ok_and(|text| text == commit) {
            return Ok(());
        }
        create_parent(&path)?;
        whole(&path, |file| file.write_all(commit.as_bytes()))
    }

    /// Notes that a commit has no file of this name.
    pub(super) fn write_no_exist(&self, commit: &str, file: &str) -> io::Result<()> {
        let path = self.no_exist(commit, file);
        create_parent(&path)?;
        fs::write(path, "")
    }

    /// Marks the root of the cache, unless it is marked. A cache works without.
    pub(super) fn write_tag(&self) {
        let path = self.root.join("CACHEDIR.TAG");
        if !path.exists() {
            let _ = fs::write(path, TAG);
        }
    }

    /// Makes the file of a snapshot point to its content. Where links cannot be made, or are not wanted, it gets the
    /// content itself.
    pub(super) fn link(&self, etag: &str, commit: &str, file: &str, with_links: bool) -> io::Result<()> {
        let (blob, pointer) = (self.blob(etag), self.pointer(commit, file));
        create_parent(&pointer)?;
        // Links are relative, so that the cache can be moved. The snapshot's folders are below that of the repository.
        let up = "../".repeat(2 + file.split('/').count() - 1);
        let target = format!("{up}blobs/{etag}");
        let is_linked = || fs::read_link(&pointer).is_ok_and(|to| to == Path::new(&target));
        // Others may do the same meanwhile, and readers may come: what is right is never removed.
        let links = || symlink(&target, &pointer).is_ok() || is_linked();
        if is_linked() || with_links && links() {
            return Ok(());
        }
        if with_links || pointer.is_symlink() {
            remove(&pointer)?;
            if with_links && links() {
                return Ok(());
            }
        }
        let mut content = File::open(&blob)?;
        whole(&pointer, |file| io::copy(&mut content, file).map(drop))
    }
}

/// Returns whether a name is that of a file in a repository: words between slashes that every system takes for names.
pub(super) fn is_file_name(name: &str) -> bool {
    let is_word = |word: &str| {
        (1..=200).contains(&word.len())
            && !word.chars().all(|c| c == '.')
            && !word.contains(|c: char| c.is_control() || "\\:*?\"<>|".contains(c))
    };
    name.len() <= 1024 && name.split('/').all(is_word)
}

pub(super) fn create_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

/// Reads the text of a regular file that has at most `max_bytes`, without spaces around it.
pub(super) fn small_text(path: &Path, max_bytes: u64) -> Option<String> {
    let is_small = fs::metadata(path).is_ok_and(|about| about.is_file() && about.len() <= max_bytes);
    let text = is_small.then(|| fs::read_to_string(path).ok()).flatten()?;
    Some(text.trim().to_string())
}

/// Removes a file or a link, if there is one.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn joined(folder: PathBuf, name: &str) -> PathBuf {
    name.split('/').fold(folder, |folder, word| folder.join(word))
}

#[cfg(unix)]
fn symlink(target: &str, at: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, at)
}

#[cfg(windows)]
fn symlink(target: &str, at: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target.replace('/', "\\"), at)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_: &str, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_their_folder() {
        for name in ["config.json", "onnx/model.onnx", "a b.txt", "refs/pr/1", ".gitattributes", "ü"] {
            assert!(is_file_name(name), "{name}");
        }
        for name in ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\\b", "C:x", "a\nb", "a\0", &"a".repeat(201)] {
            assert!(!is_file_name(name), "{name}");
        }
    }

    #[test]
    fn a_snapshot_points_to_its_content() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path(), "org/name");
        assert_eq!(layout.blob("e"), root.path().join("models--org--name/blobs/e"));
        assert_eq!(layout.lock("e"), root.path().join(".locks/models--org--name/e.lock"));
        create_parent(&layout.blob("e")).unwrap();
        fs::write(layout.blob("e"), "content").unwrap();
        for (file, with_links) in [("a", true), ("b/c", true), ("d", false), ("a", true), ("e/f", false)] {
            layout.link("e", "0123", file, with_links).unwrap();
            let pointer = layout.pointer("0123", file);
            assert_eq!(fs::read_to_string(&pointer).unwrap(), "content", "{file}");
            assert_eq!(pointer.is_symlink(), cfg!(unix) && with_links, "{file}");
        }
        assert_eq!(layout.commit_of("main"), None);
        layout.write_ref("main", "0123").unwrap();
        layout.write_ref("refs/pr/1", "0123").unwrap();
        for revision in ["main", "refs/pr/1", "0123"] {
            assert_eq!(layout.commit_of(revision).as_deref(), Some("0123"));
        }
        for wrong in ["../0123", "/etc", "9999", ""] {
            fs::write(layout.folder().join("refs/main"), wrong).unwrap();
            assert_eq!(layout.commit_of("main"), None, "{wrong}");
        }
    }
}
