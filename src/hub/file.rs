//! A file behind HTTP range requests: coalesced, several at once, tried again with growing pauses, kept on disk.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use super::cache::RangeCache;
use super::request::{Failure, Requests, Token, Version};
use crate::checkpoint::ByteRanges;
use crate::error::{FetchError, HubError, Result};

/// Ranges that are no further apart are one request: the headers of another cost about as much.
const MAX_GAP_BYTES: u64 = 512;
/// No further ranges join a request of this size, so that the rest can come at the same time.
const MAX_JOINED_BYTES: u64 = 1 << 18;
/// A range that is longer comes in several requests, at the same time.
const MAX_REQUEST_BYTES: u64 = 2 << 20;
/// Requests at once.
const MAX_CONNECTIONS: usize = 8;
/// How often a range is asked for, and how long the first pause is; each is twice the one before.
const MAX_TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause that a server may ask for.
const MAX_PAUSE: Duration = Duration::from_secs(20);
/// How long one request may take, unless told otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Opens files of servers. Clones share their connections.
///
/// A token goes to the server that it is meant for, and not to where that one redirects. At most five redirections are
/// followed, to http or https, and never from https to http. What fails in passing (no connection, a body cut short, status
/// 408, 429, 500, 502, 503 or 504) is tried four times, with growing pauses or those that the server asks for.
#[derive(Clone, Debug)]
pub struct Client {
    requests: Requests,
    cache: Option<PathBuf>,
}

impl Client {
    /// Asks without a token and keeps nothing.
    pub fn new() -> Self {
        Self { requests: Requests::new(TIMEOUT), cache: None }
    }

    /// Sends `Authorization: Bearer TOKEN` with each request, to the server that it is addressed to.
    #[must_use]
    pub fn with_token(mut self, token: &str) -> Self {
        self.requests.token = Some(Token(token.to_string()));
        self
    }

    /// Keeps ranges below this folder, if the server says by an `ETag` which content they are of.
    #[must_use]
    pub fn with_cache(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache = Some(folder.into());
        self
    }

    /// Sets how long a request may take, with its redirections and its body: 60 s unless told otherwise. No further try
    /// begins after that time. A connection takes at most 10 s, and the next bytes of an answer 20 s.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.requests.timeout = timeout;
        self
    }

    /// Opens the file at `url`: asks for its first byte, which tells the length, the version, and whether the server serves
    /// ranges.
    ///
    /// # Errors
    /// [`HubError::Fetch`].
    pub fn open(&self, url: &str) -> Result<RemoteFile> {
        let n_requests = AtomicUsize::new(0);
        let (version, first) =
            self.tried(&n_requests, || self.requests.range(url, &(0..1), None)).map_err(failed(url))?;
        let Version { etag, n_bytes } = &version;
        let root = self.cache.as_deref().zip(etag.as_deref());
        let cache = root.and_then(|(root, etag): (&Path, &str)| RangeCache::new(root, url, etag, *n_bytes));
        let (client, url, n_bytes_fetched) = (self.clone(), url.to_string(), AtomicU64::new(first.len() as u64));
        Ok(RemoteFile { client, url, version, cache, n_requests, n_bytes_fetched })
    }

    /// Reads the whole file at `url`, at most `max_bytes` of it.
    ///
    /// # Errors
    /// [`HubError::Fetch`], with [`FetchError::TooLarge`] for a larger file.
    pub fn read(&self, url: &str, max_bytes: u64) -> Result<Vec<u8>> {
        Ok(self.tried(&AtomicUsize::new(0), || self.requests.whole(url, max_bytes)).map_err(failed(url))?)
    }

    /// Tries until an answer comes, the failure is for good, or it was tried often or long enough.
    fn tried<T>(&self, n_requests: &AtomicUsize, get: impl Fn() -> Result<T, Failure>) -> Result<T, FetchError> {
        n_requests.fetch_add(1, Ordering::Relaxed);
        let start = Instant::now();
        let mut n_tries = 1;
        loop {
            let (error, asked) = match get() {
                Ok(answer) => return Ok(answer),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing { error, pause }) => (error, pause),
            };
            let pause = asked.map_or(FIRST_PAUSE * 2u32.pow(n_tries - 1), |asked| asked.min(MAX_PAUSE));
            if n_tries == MAX_TRIES || start.elapsed() + pause >= self.requests.timeout {
                return Err(error);
            }
            sleep(pause);
            n_tries += 1;
        }
    }
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

fn failed(url: &str) -> impl FnOnce(FetchError) -> HubError {
    |source| HubError::Fetch { url: url.to_string(), source }
}

/// A file on a server, of which ranges are read; its version is that of the first answer.
///
/// [`Checkpoint::from_ranges`](crate::checkpoint::Checkpoint::from_ranges) opens it.
#[derive(Debug)]
pub struct RemoteFile {
    client: Client,
    url: String,
    version: Version,
    cache: Option<RangeCache>,
    n_requests: AtomicUsize,
    n_bytes_fetched: AtomicU64,
}

impl RemoteFile {
    /// How many requests it took so far, tries and redirections not counted twice, and how many bytes they brought.
    pub fn fetched(&self) -> (usize, u64) {
        (self.n_requests.load(Ordering::Relaxed), self.n_bytes_fetched.load(Ordering::Relaxed))
    }

    fn fetch(&self, range: &Range<u64>) -> Result<Vec<u8>, FetchError> {
        let Client { requests, .. } = &self.client;
        let get = || requests.range(&self.url, range, Some(&self.version));
        let (_, bytes) = self.client.tried(&self.n_requests, get)?;
        self.n_bytes_fetched.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }

    /// All ranges, `MAX_CONNECTIONS` at a time; nothing new is begun after the first failure.
    fn fetch_all(&self, ranges: &[Range<u64>]) -> Result<Vec<Vec<u8>>, FetchError> {
        let next = AtomicUsize::new(0);
        let results: Vec<_> = ranges.iter().map(|_| Mutex::new(Vec::new())).collect();
        let failed = Mutex::new(None);
        let work = || {
            while let Some((range, result)) = {
                let i = next.fetch_add(1, Ordering::Relaxed);
                ranges.get(i).zip(results.get(i))
            } {
                match self.fetch(range) {
                    Ok(bytes) => *lock(result) = bytes,
                    Err(error) => {
                        next.store(ranges.len(), Ordering::Relaxed);
                        lock(&failed).get_or_insert(error);
                    }
                }
            }
        };
        scope(|scope| {
            (1..ranges.len().min(MAX_CONNECTIONS)).for_each(|_| drop(scope.spawn(work)));
            work();
        });
        match lock(&failed).take() {
            Some(error) => Err(error),
            None => Ok(results.iter().map(|result| std::mem::take(&mut *lock(result))).collect()),
        }
    }
}

impl ByteRanges for RemoteFile {
    fn name(&self) -> String {
        self.url.clone()
    }

    fn n_bytes(&self) -> u64 {
        self.version.n_bytes
    }

    fn read(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Vec<u8>>> {
        let kept: Vec<_> = ranges.iter().map(|range| self.cache.as_ref()?.get(range)).collect();
        let missing = ranges.iter().zip(&kept).filter(|(_, kept)| kept.is_none()).map(|(range, _)| range);
        let asked = requests_for(missing);
        let fetched = self.fetch_all(&asked).map_err(io::Error::other)?;
        let piece = |(range, kept): (&Range<u64>, Option<Vec<u8>>)| {
            kept.unwrap_or_else(|| {
                let bytes = piece_of(range, &asked, &fetched);
                if let Some(cache) = &self.cache {
                    cache.put(range, &bytes);
                }
                bytes
            })
        };
        Ok(ranges.iter().zip(kept).map(piece).collect())
    }
}

/// Ascending ranges as requests: those that lie near each other as one, those that are long as several.
fn requests_for<'a>(ranges: impl Iterator<Item = &'a Range<u64>>) -> Vec<Range<u64>> {
    let mut requests: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match requests.last_mut() {
            Some(last) if range.start - last.end <= MAX_GAP_BYTES && range.end - last.start <= MAX_JOINED_BYTES => {
                last.end = range.end;
            }
            _ => {
                let mut rest = range.clone();
                while rest.end - rest.start > MAX_REQUEST_BYTES {
                    let middle = rest.start + MAX_REQUEST_BYTES;
                    requests.push(rest.start..middle);
                    rest.start = middle;
                }
                requests.push(rest);
            }
        }
    }
    requests
}

/// The bytes of `range` out of the requests that cover it.
fn piece_of(range: &Range<u64>, requests: &[Range<u64>], fetched: &[Vec<u8>]) -> Vec<u8> {
    let mut piece = Vec::new();
    let first = requests.partition_point(|request| request.end <= range.start);
    for (request, bytes) in
        requests.iter().zip(fetched).skip(first).take_while(|(request, _)| request.start < range.end)
    {
        // Both ends lie in bytes that are in memory.
        let at = |place: u64| (place.clamp(request.start, request.end) - request.start) as usize;
        piece.extend_from_slice(&bytes[at(range.start)..at(range.end)]);
    }
    piece
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
