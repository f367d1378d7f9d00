//! Brings one file into the cache: described by the hub, resumed, checked, and only then put in its place.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use super::content::{fault_of_cached, fault_of_fetched, is_hash};
use super::file::Client;
use super::layout::{Layout, create_parent, remove};
use super::lock::acquired;
use super::progress::{Dropped, Listener, Progress};
use super::request::{Described, Failure, Rest};
use crate::error::FetchError;

/// A body must bring this much in each time-out, and tries that brought this much do not count.
const MIN_PROGRESS_BYTES: u64 = 1 << 16;
const CHUNK_BYTES: usize = 1 << 18;

/// What all files of one download share.
pub(super) struct Download<'a> {
    pub(super) client: &'a Client,
    pub(super) layout: &'a Layout,
    pub(super) listener: &'a Listener,
    /// Whether snapshots hold links.
    pub(super) with_links: bool,
    /// Whether what is in the cache is fetched again.
    pub(super) again: bool,
    pub(super) n_bytes_fetched: u64,
    pub(super) dropped: Vec<Dropped>,
}

impl Download<'_> {
    /// Makes the described file part of its snapshot. Fetches what is not there.
    pub(super) fn bring(&mut self, url: &str, file: &str, known: &Described) -> Result<(), FetchError> {
        let Described { commit, etag, n_bytes, .. } = known;
        let (blob, pointer) = (self.layout.blob(etag), self.layout.pointer(commit, file));
        if self.is_there(&blob, &pointer, file, known)? {
            return Ok(());
        }
        let (lock, patience) = (self.layout.lock(etag), self.client.requests.timeout);
        let waiting = || self.listener.tell(Progress::Waiting { lock: &lock });
        let held = acquired(&lock, patience, || n_incomplete(&blob), waiting).map_err(at(&lock))?;
        // Another process may have brought it meanwhile.
        if !self.is_there(&blob, &pointer, file, known)? {
            create_parent(&blob).map_err(at(&blob))?;
            self.layout.write_tag();
            let is_resumable = held.is_some() && (is_hash(etag) || known.if_range.is_some());
            let content = loop {
                let mut part = Part::open(&blob, is_resumable)?;
                let fetched = self.fetch(url, file, known, &mut part);
                self.n_bytes_fetched += part.n_written;
                let (path, is_resumed) = (part.path.clone(), part.n_written < *n_bytes);
                part.close(fetched, *n_bytes)?;
                let Some(reason) = fault_of_fetched(&path, file, etag).map_err(at(&path))? else { break path };
                remove(&path).map_err(at(&path))?;
                // What an earlier try left may be to blame.
                if !is_resumed {
                    return Err(FetchError::Damaged { reason });
                }
            };
            fs::rename(&content, &blob).map_err(at(&blob))?;
            self.layout.link(etag, commit, file, self.with_links).map_err(at(&pointer))?;
        }
        drop(held);
        Ok(())
    }

    /// Returns whether a snapshot has the file, links to content that is there, and drops what is broken.
    fn is_there(&mut self, blob: &Path, pointer: &Path, file: &str, known: &Described) -> Result<bool, FetchError> {
        // Without links the snapshot holds the content itself.
        let is_link = fs::symlink_metadata(pointer).is_ok_and(|about| about.is_symlink());
        let content = if pointer.exists() && !is_link { pointer } else { blob };
        if fs::symlink_metadata(content).is_ok() {
            let fault = fault_of_cached(content, file, Some(&known.etag), Some(known.n_bytes)).map_err(at(content))?;
            match fault {
                None if !self.again => {
                    if content == blob {
                        let linked = self.layout.link(&known.etag, &known.commit, file, self.with_links);
                        linked.map_err(at(pointer))?;
                    }
                    return Ok(true);
                }
                None => {}
                Some(reason) => self.drop_entry(content, reason)?,
            }
        }
        if is_link && !pointer.exists() {
            self.drop_entry(pointer, "it points nowhere".to_string())?;
        }
        Ok(false)
    }

    /// Removes a broken entry, and says so.
    pub(super) fn drop_entry(&mut self, path: &Path, reason: String) -> Result<(), FetchError> {
        remove(path).map_err(at(path))?;
        let dropped = Dropped { path: path.to_path_buf(), reason };
        self.listener.tell(Progress::Dropped(&dropped));
        self.dropped.push(dropped);
        Ok(())
    }

    /// Fetches the rest of a file. Tries again as long as that brings it on.
    fn fetch(&self, url: &str, file: &str, known: &Described, part: &mut Part) -> Result<(), FetchError> {
        if part.n_bytes > known.n_bytes {
            part.restart()?;
        }
        while part.n_bytes < known.n_bytes {
            let before = part.n_written;
            let n_requests = AtomicUsize::new(0);
            match self.client.tried(&n_requests, || self.fetch_once(url, file, known, part)) {
                Ok(()) => {}
                Err(Failure::Passing { .. }) if part.n_written - before >= MIN_PROGRESS_BYTES => {}
                Err(failure) => return Err(failure.into()),
            }
        }
        Ok(())
    }

    fn fetch_once(&self, url: &str, file: &str, known: &Described, part: &mut Part) -> Result<(), Failure> {
        let requests = &self.client.requests;
        let Rest { start, mut body } = requests.rest(url, part.n_bytes, known)?;
        if start != part.n_bytes {
            part.restart()?;
        }
        let (mut body, mut chunk) = (body.as_reader(), vec![0; CHUNK_BYTES]);
        let (mut since, mut before) = (Instant::now(), part.n_bytes);
        loop {
            let left = known.n_bytes - part.n_bytes;
            match body.read(&mut chunk) {
                Ok(0) if left > 0 => return Err(FetchError::Cut { got: part.n_bytes, wanted: known.n_bytes }.into()),
                Ok(0) => return Ok(()),
                Ok(n) if n as u64 > left => return Err(FetchError::TooLong { wanted: known.n_bytes }.into()),
                Ok(n) => part.append(&chunk[..n])?,
                // A server may keep an answer open that has no length.
                Err(_) if left == 0 => return Ok(()),
                Err(error) => {
                    return Err(match requests.unanswered(error.into()) {
                        error @ FetchError::TimedOut { .. } => error,
                        _ => FetchError::Cut { got: part.n_bytes, wanted: known.n_bytes },
                    }
                    .into());
                }
            }
            self.listener.tell(Progress::Fetched { file, n_done: part.n_bytes, n_bytes: known.n_bytes });
            if since.elapsed() >= requests.timeout {
                if part.n_bytes - before < MIN_PROGRESS_BYTES && part.n_bytes < known.n_bytes {
                    return Err(FetchError::TimedOut { timeout: requests.timeout }.into());
                }
                (since, before) = (Instant::now(), part.n_bytes);
            }
        }
    }
}

/// What has come of a content so far, in a file of its own.
struct Part {
    path: PathBuf,
    file: File,
    n_bytes: u64,
    /// How many bytes this process wrote.
    n_written: u64,
    /// Whether a later process may go on with it.
    is_resumable: bool,
}

impl Part {
    /// Opens what an earlier try left, if the rest can be told to belong to it.
    fn open(blob: &Path, is_resumable: bool) -> Result<Self, FetchError> {
        let ending = if is_resumable { "incomplete".to_string() } else { format!("{}.incomplete", std::process::id()) };
        let mut path = blob.as_os_str().to_os_string();
        path.push(format!(".{ending}"));
        let path = PathBuf::from(path);
        let open = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(!is_resumable).open(&path)?;
            let n_bytes = file.seek(SeekFrom::End(0))?;
            Ok((file, n_bytes))
        };
        let (file, n_bytes) = open().map_err(at(&path))?;
        Ok(Self { path, file, n_bytes, n_written: 0, is_resumable })
    }

    fn restart(&mut self) -> Result<(), FetchError> {
        self.n_bytes = 0;
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(at(&self.path))
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), FetchError> {
        self.file.write_all(bytes).map_err(at(&self.path))?;
        self.n_bytes += bytes.len() as u64;
        self.n_written += bytes.len() as u64;
        Ok(())
    }

    /// Syncs a part that is whole. Keeps one that can be resumed, and removes any other.
    fn close(self, fetched: Result<(), FetchError>, n_bytes: u64) -> Result<(), FetchError> {
        let failure = match fetched.and_then(|()| self.file.sync_all().map_err(at(&self.path))) {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        let goes_on = matches!(
            failure,
            FetchError::Unreachable { .. }
                | FetchError::Answer { .. }
                | FetchError::Cut { .. }
                | FetchError::TimedOut { .. }
                | FetchError::Status { .. }
                | FetchError::Tls { .. }
        );
        if !(goes_on && self.is_resumable && (1..=n_bytes).contains(&self.n_bytes)) {
            remove(&self.path).map_err(at(&self.path))?;
        }
        Err(failure)
    }
}

/// Returns how many bytes lie in the unfinished files of a content, by whichever process.
fn n_incomplete(blob: &Path) -> u64 {
    let name = blob.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let entries = blob.parent().and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    let of_it = entries.filter(|entry| {
        let entry = entry.file_name();
        let entry = entry.to_string_lossy();
        entry.starts_with(&name) && entry.ends_with(".incomplete")
    });
    of_it.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum()
}

pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> FetchError {
    let path = path.to_path_buf();
    move |source| FetchError::Cache { path: path.clone(), source }
}
