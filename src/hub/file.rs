//! A remote file, read by HTTP range requests that are joined, run in parallel, retried and cached on disk.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use super::answer::{Requests, Token};
use super::cache::RangeCache;
use super::request::{Failure, Version};
use crate::checkpoint::ByteRanges;
use crate::error::{FetchError, HubError, Result};

/// Ranges this close are fetched in one request: the headers of a second one cost about as much.
const MAX_GAP_BYTES: u64 = 512;
/// The largest request that ranges are joined into, so that further ranges are fetched in parallel.
const MAX_JOINED_BYTES: u64 = 1 << 18;
/// A longer range is split into parallel requests.
const MAX_REQUEST_BYTES: u64 = 2 << 20;
/// Requests in parallel.
const MAX_CONNECTIONS: usize = 8;
/// Tries of one request.
const MAX_TRIES: u32 = 4;
/// The pause before the second try; each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause taken when a server asks for one.
const MAX_PAUSE: Duration = Duration::from_secs(20);
/// The default limit of one request.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Opens and reads files on HTTP servers. Clones share their connections. [`Repo`](super::Repo) downloads by it.
///
/// The access token is sent only to the server of the URL, never to a redirect target on another server. At most five
/// redirects are followed, to http or https, and never from https to http.
///
/// Transient failures (no connection, a timeout, a body cut short, status 408, 429, 500, 502, 503 or 504) are tried up
/// to four times. The pauses grow, unless the server asks for a certain one.
///
/// ```no_run
/// use candle_gpt_input::checkpoint::ByteRanges;
/// use candle_gpt_input::hub::Client;
///
/// let client = Client::new().with_cache("/tmp/ranges");
/// let file = client.open("https://huggingface.co/openai-community/gpt2/resolve/main/model.safetensors")?;
/// assert_eq!(file.fetched(), (1, 1)); // one request for one byte, which tells the length
/// let header_bytes = file.read(&[0..8])?; // fetched, or read from the cache
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    pub(super) requests: Requests,
    cache: Option<PathBuf>,
}

impl Client {
    /// Returns a client without a token or a cache.
    pub fn new() -> Self {
        Self { requests: Requests::new(TIMEOUT), cache: None }
    }

    /// Sends `Authorization: Bearer TOKEN` with each request, except to a redirect target on another server.
    #[must_use]
    pub fn with_token(mut self, token: &str) -> Self {
        self.requests.token = Some(Token(token.to_string()));
        self
    }

    /// Keeps fetched ranges below `folder`, if the server identifies the content by a strong `ETag`.
    #[must_use]
    pub fn with_cache(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache = Some(folder.into());
        self
    }

    /// Sets how long a request may take, redirects and body included. The default is 60 s.
    ///
    /// The body of a download may take longer, as long as each such time brings 64 KiB of it.
    ///
    /// No further try begins after that time. Connecting is limited to 10 s, and each wait for more bytes to 20 s.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.requests.timeout = timeout;
        self
    }

    /// Opens the file at `url`.
    ///
    /// Fetches its first byte, which shows the length, the version, and whether the server supports ranges.
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

    /// Reads the whole file at `url`, which may have at most `max_bytes` bytes.
    ///
    /// # Errors
    /// [`HubError::Fetch`], with [`FetchError::TooLarge`] for a larger file.
    pub fn read(&self, url: &str, max_bytes: u64) -> Result<Vec<u8>> {
        Ok(self.tried(&AtomicUsize::new(0), || self.requests.whole(url, max_bytes)).map_err(failed(url))?)
    }

    /// Retries `get` until it answers, fails permanently, or exhausts its tries or its time.
    pub(super) fn tried<T>(
        &self,
        n_requests: &AtomicUsize,
        mut get: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        n_requests.fetch_add(1, Ordering::Relaxed);
        let start = Instant::now();
        let mut n_tries = 1;
        loop {
            let result = get();
            let Err(Failure::Passing { pause: asked, .. }) = &result else { return result };
            let pause = asked.map_or(FIRST_PAUSE * 2u32.pow(n_tries - 1), |asked| asked.min(MAX_PAUSE));
            if n_tries == MAX_TRIES || start.elapsed() + pause >= self.requests.timeout {
                return result;
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

fn failed(url: &str) -> impl FnOnce(Failure) -> HubError {
    |failure| HubError::Fetch { url: url.to_string(), source: failure.into() }
}

/// Reads byte ranges of a file on a server.
///
/// All bytes are of one version: once the file changes, reads fail with [`FetchError::Changed`].
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
    /// Returns the numbers of requests and of bytes fetched so far. A request with its retries and redirects counts
    /// once.
    pub fn fetched(&self) -> (usize, u64) {
        (self.n_requests.load(Ordering::Relaxed), self.n_bytes_fetched.load(Ordering::Relaxed))
    }

    /// Removes the cached ranges of this version, as for a server that sent wrong bytes. Returns their folder, if there
    /// were any.
    pub fn forget(&self) -> Option<PathBuf> {
        self.cache.as_ref()?.forget()
    }

    fn fetch(&self, range: &Range<u64>) -> Result<Vec<u8>, FetchError> {
        let Client { requests, .. } = &self.client;
        let get = || requests.range(&self.url, range, Some(&self.version));
        let (_, bytes) = self.client.tried(&self.n_requests, get)?;
        self.n_bytes_fetched.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }

    /// Fetches all ranges, `MAX_CONNECTIONS` at a time. Starts no further request after the first failure.
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

/// Turns ascending ranges into requests: joins those that lie near each other, splits long ones.
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

/// Extracts the bytes of `range` from the requests that cover it.
fn piece_of(range: &Range<u64>, requests: &[Range<u64>], fetched: &[Vec<u8>]) -> Vec<u8> {
    let mut piece = Vec::new();
    let first = requests.partition_point(|request| request.end <= range.start);
    for (request, bytes) in
        requests.iter().zip(fetched).skip(first).take_while(|(request, _)| request.start < range.end)
    {
        // Both ends lie in bytes in memory, so they fit in a `usize`.
        let at = |place: u64| (place.clamp(request.start, request.end) - request.start) as usize;
        piece.extend_from_slice(&bytes[at(range.start)..at(range.end)]);
    }
    piece
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
