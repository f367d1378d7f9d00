//! A file behind HTTP range requests: coalesced, several at once, tried again with growing pauses, kept on disk.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

use candle_gpt_input::checkpoint::ByteRanges;

use super::cache::RangeCache;
use super::request::{Client, Failure, RemoteError, Version};

/// Ranges that are no further apart are one request: the headers of another cost about as much.
const MAX_GAP_BYTES: u64 = 512;
/// No further ranges join a request of this size, so that the rest can come at the same time.
const MAX_JOINED_BYTES: u64 = 1 << 18;
/// Requests at once.
const MAX_CONNECTIONS: usize = 8;
/// How often a range is asked for, and how long the first pause is; each is twice the one before.
const MAX_TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause that a server may ask for.
const MAX_PAUSE: Duration = Duration::from_secs(20);

/// A file on a server, of which ranges are read; its version is that of the first answer.
#[derive(Debug)]
pub struct RemoteFile {
    client: Client,
    version: Version,
    cache: Option<RangeCache>,
    n_requests: AtomicUsize,
    n_bytes_fetched: AtomicU64,
}

impl RemoteFile {
    /// Asks for the first byte of `url`, which tells the length, the version, and whether the server has ranges at all.
    ///
    /// The token goes to no other server than the first. What is fetched is kept below `cache`, if the server says by an
    /// `ETag` which content it is.
    pub fn open(url: &str, token: Option<&str>, cache: Option<&Path>) -> Result<Self, RemoteError> {
        let client = Client::new(url, token);
        let n_requests = AtomicUsize::new(0);
        let (version, first) = tried(&n_requests, || client.get(&(0..1), None))?;
        let Version { etag, n_bytes } = &version;
        let cache = cache.zip(etag.as_deref()).and_then(|(root, etag)| RangeCache::new(root, url, etag, *n_bytes));
        let n_bytes_fetched = AtomicU64::new(first.len() as u64);
        Ok(Self { client, version, cache, n_requests, n_bytes_fetched })
    }

    /// How many requests it took so far, tries and redirections not counted twice, and how many bytes they brought.
    pub fn fetched(&self) -> (usize, u64) {
        (self.n_requests.load(Ordering::Relaxed), self.n_bytes_fetched.load(Ordering::Relaxed))
    }

    fn fetch(&self, range: &Range<u64>) -> Result<Vec<u8>, RemoteError> {
        let (_, bytes) = tried(&self.n_requests, || self.client.get(range, Some(&self.version)))?;
        self.n_bytes_fetched.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }

    /// All ranges, `MAX_CONNECTIONS` at a time; nothing new is begun after the first failure.
    fn fetch_all(&self, ranges: &[Range<u64>]) -> Result<Vec<Vec<u8>>, RemoteError> {
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
        self.client.url().to_string()
    }

    fn n_bytes(&self) -> u64 {
        self.version.n_bytes
    }

    fn read(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Vec<u8>>> {
        let kept: Vec<_> = ranges.iter().map(|range| self.cache.as_ref()?.get(range)).collect();
        let joined = coalesce(ranges.iter().zip(&kept).filter(|(_, kept)| kept.is_none()).map(|(range, _)| range));
        let fetched = self.fetch_all(&joined).map_err(io::Error::other)?;
        let piece = |(range, kept): (&Range<u64>, Option<Vec<u8>>)| {
            kept.unwrap_or_else(|| {
                let at = joined.partition_point(|joined| joined.end < range.end);
                let start = (range.start - joined[at].start) as usize;
                let bytes = fetched[at][start..start + (range.end - range.start) as usize].to_vec();
                if let Some(cache) = &self.cache {
                    cache.put(range, &bytes);
                }
                bytes
            })
        };
        Ok(ranges.iter().zip(kept).map(piece).collect())
    }
}

/// Ascending ranges, those that lie near each other as one.
fn coalesce<'a>(ranges: impl Iterator<Item = &'a Range<u64>>) -> Vec<Range<u64>> {
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start - last.end <= MAX_GAP_BYTES && range.end - last.start <= MAX_JOINED_BYTES => {
                last.end = range.end;
            }
            _ => joined.push(range.clone()),
        }
    }
    joined
}

/// Tries until an answer comes, the failure is for good, or it was tried often enough.
fn tried<T>(n_requests: &AtomicUsize, get: impl Fn() -> Result<T, Failure>) -> Result<T, RemoteError> {
    n_requests.fetch_add(1, Ordering::Relaxed);
    let mut n_tries = 1;
    loop {
        match get() {
            Ok(answer) => return Ok(answer),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Passing { error, .. }) if n_tries == MAX_TRIES => return Err(error),
            Err(Failure::Passing { pause, .. }) => {
                sleep(pause.map_or(FIRST_PAUSE * 2u32.pow(n_tries - 1), |asked| asked.min(MAX_PAUSE)));
                n_tries += 1;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
