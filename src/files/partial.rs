//! [`Partial`]: a file that is being written, and replaces its target in one step.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::CheckpointError;

/// As many links as Linux follows.
const MAX_LINKS: usize = 40;
/// Longer names are cut, for file systems allow 255 bytes. Files that so get one name wait for each other.
const MAX_NAME_BYTES: usize = 240;

/// Writes a file that appears whole or not at all, and is on disk when this returns.
pub(crate) fn write_file(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), CheckpointError> {
    let buffered = |file: &mut File| {
        let mut out = BufWriter::new(file);
        write(&mut out)?;
        out.flush()
    };
    whole(path, buffered).map_err(CheckpointError::writing(path))
}

/// Writes a file as [`write_file`] does. `write` gets the file itself, which the system can copy others to.
pub(crate) fn whole(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let mut partial = Partial::create(path)?;
    write(partial.file())?;
    partial.complete()?;
    partial.install()
}

/// A file that is being written beside its target.
///
/// It has no name until it is complete, where the system can do that; elsewhere, it is `.NAME.partial` from the start.
/// Its writer holds a lock on it. So a `.NAME.partial` without a lock was left by a killed writer, and the next one
/// removes it; one with a lock is waited for.
#[derive(Debug)]
pub(crate) struct Partial {
    file: File,
    /// What it replaces, links followed.
    target: PathBuf,
    /// Its name while it is not installed.
    at: PathBuf,
    is_named: bool,
    on_leftover: OnLeftover,
}

/// What is done with a file that a killed writer left, before it is removed.
type OnLeftover = fn(&Path) -> io::Result<()>;

impl Partial {
    /// Creates a file that is to replace `path`, or the file that `path` links to. It has that file's permissions.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        Self::create_after(path, |_| Ok(()))
    }

    /// Creates a file as [`create`](Self::create) does, and calls `on_leftover` before it removes a leftover.
    pub(crate) fn create_after(path: &Path, on_leftover: OnLeftover) -> io::Result<Self> {
        let before = match fs::metadata(path) {
            Ok(about) if about.is_file() => Some(about.permissions()),
            Ok(_) => return Err(io::Error::other("it exists and is not a regular file: choose another path")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let target = target_of(path)?;
        let at = beside(&target)?;
        let options = options_like(before.as_ref());
        let (file, is_named) = match unnamed(folder_of(&target), &options) {
            Some(file) => (file, false),
            None => (named(&at, &options, on_leftover)?, true),
        };
        let partial = Self { file, target, at, is_named, on_leftover };
        // Where there are no locks, writers at the same time can fail, but no file is damaged.
        let _ = partial.file.lock();
        #[cfg(unix)]
        if let Some(before) = before {
            partial.file.set_permissions(before)?; // the umask held bits back
        }
        Ok(partial)
    }

    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Syncs the file and [names](Self::name) it.
    pub(crate) fn complete(&mut self) -> io::Result<()> {
        self.file.sync_all()?;
        self.name()
    }

    /// Gives the file a name, for which it waits while another writer has it.
    pub(crate) fn name(&mut self) -> io::Result<()> {
        while !self.is_named {
            match link(&self.file, &self.at) {
                Ok(()) => self.is_named = true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    remove_leftover(&self.at, true, self.on_leftover)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Returns its name while it is not installed.
    pub(crate) fn at(&self) -> &Path {
        &self.at
    }

    /// Leaves the file as a killed writer would.
    pub(crate) fn keep(&mut self) {
        self.is_named = false;
    }

    /// [Replaces](Self::replace) the target, and syncs that. The file is [`complete`](Self::complete).
    pub(crate) fn install(&mut self) -> io::Result<()> {
        self.replace()?;
        sync_folder(folder_of(&self.target))
    }

    /// Replaces the target. The file has a [`name`](Self::name).
    pub(crate) fn replace(&mut self) -> io::Result<()> {
        fs::rename(&self.at, &self.target)?;
        self.is_named = false;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.is_named {
            let _ = fs::remove_file(&self.at);
        }
    }
}

/// Returns the name that a file has while it is written to replace `path`.
pub(crate) fn partial_of(path: &Path) -> io::Result<PathBuf> {
    beside(&target_of(path)?)
}

/// Removes the file that a killed writer left under this name, after `on_leftover`. Waits for a writer that lives, or
/// leaves its file alone.
pub(crate) fn remove_leftover(at: &Path, waits: bool, on_leftover: OnLeftover) -> io::Result<()> {
    let missing_is_fine = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    };
    match fs::symlink_metadata(at) {
        Ok(about) if about.is_file() => {}
        Ok(_) => {
            let reason = format!("{} exists and is not a regular file: remove it", at.display());
            return Err(io::Error::other(reason));
        }
        Err(error) => return missing_is_fine(error),
    }
    let file = match File::open(at) {
        Ok(file) => file,
        Err(error) => return missing_is_fine(error),
    };
    match waits {
        true => drop(file.lock()),
        false if file.try_lock().is_err() => return Ok(()),
        false => {}
    }
    // Its writer may have installed it meanwhile, and another one may have come.
    if !is_at(&file, at) {
        return Ok(());
    }
    on_leftover(at)?;
    fs::remove_file(at).or_else(missing_is_fine)
}

/// Syncs the names in a folder.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    match cfg!(unix) {
        true => File::open(folder)?.sync_all(),
        false => Ok(()),
    }
}

pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Follows the links at `path`, whether or not a file is at their end.
fn target_of(path: &Path) -> io::Result<PathBuf> {
    let mut target = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&target) {
            Ok(next) => target = folder_of(&target).join(next),
            Err(_) => return Ok(target),
        }
    }
    Err(io::Error::other("too many links, or a circle of them"))
}

/// Returns whether a file of this name is being written, or was left by a killed writer.
pub(crate) fn is_partial(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".partial")
}

fn beside(target: &Path) -> io::Result<PathBuf> {
    let Some(name) = target.file_name() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not end in the name of a file"));
    };
    let mut partial = OsString::from(".");
    if name.len() <= MAX_NAME_BYTES {
        partial.push(name);
    } else {
        let name = name.to_string_lossy();
        partial.push(&name[..name.floor_char_boundary(MAX_NAME_BYTES)]);
    }
    partial.push(".partial");
    Ok(target.with_file_name(partial))
}

/// Returns the options to create a file with at most these permissions, or with those that the umask allows.
fn options_like(before: Option<&fs::Permissions>) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
        options.mode(before.map_or(0o666, |before| before.mode() & 0o777));
    }
    #[cfg(not(unix))]
    let _ = before;
    options
}

/// Creates a file without a name, which can get one later.
#[cfg(target_os = "linux")]
fn unnamed(folder: &Path, options: &OpenOptions) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;

    let flags = i32::try_from(rustix::fs::OFlags::TMPFILE.bits()).ok()?;
    let file = options.clone().custom_flags(flags).open(folder).ok()?;
    // Without `/proc` it could get no name.
    descriptor(&file).exists().then_some(file)
}

#[cfg(target_os = "linux")]
fn link(file: &File, at: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, linkat};

    Ok(linkat(CWD, descriptor(file), CWD, at, AtFlags::SYMLINK_FOLLOW)?)
}

#[cfg(target_os = "linux")]
fn descriptor(file: &File) -> PathBuf {
    use std::os::fd::AsRawFd;

    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(not(target_os = "linux"))]
fn unnamed(_: &Path, _: &OpenOptions) -> Option<File> {
    None
}

#[cfg(not(target_os = "linux"))]
fn link(_: &File, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Creates a file under this name, once no other writer has it.
fn named(at: &Path, options: &OpenOptions, on_leftover: OnLeftover) -> io::Result<File> {
    loop {
        match options.clone().create_new(true).open(at) {
            Ok(file) => {
                let _ = file.lock();
                // Before it was locked it could be taken for one that a killed writer left.
                if is_at(&file, at) {
                    return Ok(file);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => remove_leftover(at, true, on_leftover)?,
            Err(error) => return Err(error),
        }
    }
}

/// Returns whether `path` is the name of this file.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;

    let identity = |about: fs::Metadata| (about.dev(), about.ino());
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(there)) => identity(open) == identity(there),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<OsString> {
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_has_no_name_until_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut partial = Partial::create(&path).unwrap();
        partial.file().write_all(b"new").unwrap();
        assert!(names(folder.path()).is_empty());
        partial.complete().unwrap();
        assert_eq!(names(folder.path()), [".a.partial"]);
        partial.install().unwrap();
        assert_eq!((names(folder.path()), fs::read(&path).unwrap()), (vec!["a".into()], b"new".to_vec()));
    }

    #[test]
    fn where_a_file_must_have_a_name_it_has_the_same_one() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join(".a.partial");
        fs::write(&at, "left by a kill").unwrap();
        let mut file = named(&at, &options_like(None), |_| Ok(())).unwrap();
        file.lock().unwrap();
        file.write_all(b"new").unwrap();
        assert_eq!(fs::read(&at).unwrap(), b"new");
        std::thread::scope(|scope| {
            let other = scope.spawn(|| named(&at, &options_like(None), |_| Ok(())).unwrap());
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert!(!other.is_finished(), "the other writer waits");
            fs::rename(&at, folder.path().join("a")).unwrap();
            drop(file);
            assert!(is_at(&other.join().unwrap(), &at));
        });
        assert_eq!(fs::read(folder.path().join("a")).unwrap(), b"new");
    }

    #[test]
    fn an_error_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut partial = Partial::create(&folder.path().join("a")).unwrap();
        partial.complete().unwrap();
        drop(partial);
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn long_names_have_a_name_that_fits() {
        for n in [2, 240, 242, 254] {
            let partial = beside(Path::new(&"ä".repeat(n / 2))).unwrap();
            assert!(partial.as_os_str().len() <= 249, "{n}");
        }
        assert!(beside(Path::new("..")).is_err());
    }
}
