//! [`HubError`] and [`FetchError`]: why files of a repository could not be fetched.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::cause::Cause;
use super::shown::Shown;

/// Says why files of a repository could not be fetched.
///
/// ```
/// use candle_gpt_input::Error;
/// use candle_gpt_input::error::HubError;
/// use candle_gpt_input::hub::{Client, Repo};
///
/// let error = Repo::new(Client::new(), "https://huggingface.co", "a/b/c").unwrap_err();
/// assert!(matches!(error, Error::Hub(HubError::RepoName { .. })));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A name that no repository can have.
    #[error("`{name}` is not the name of a repository: write it as in openai-community/gpt2", name = Shown::name(name))]
    RepoName {
        /// The given name.
        name: String,
    },
    /// A file that could not be fetched.
    #[error("cannot fetch {url}", url = Shown::text(url))]
    Fetch {
        /// Its address.
        url: String,
        /// Why it could not be fetched.
        source: FetchError,
    },
    /// A file that the server does not describe, and the cache does not have.
    #[error(
        "cannot fetch {url}, and the cache {cache} does not have it",
        url = Shown::text(url),
        cache = Shown::path(cache)
    )]
    NotCached {
        /// Its address.
        url: String,
        /// The folder of the cache.
        cache: PathBuf,
        /// Why the server does not describe it.
        source: Arc<FetchError>,
    },
    /// A name that no file of a repository can have.
    #[error("`{file}` is not the name of a file in a repository", file = Shown::name(file))]
    FileName {
        /// The given name.
        file: String,
    },
    /// A name that no branch, tag or commit can have.
    #[error("`{revision}` is not a branch, a tag or a commit", revision = Shown::name(revision))]
    Revision {
        /// The given name.
        revision: String,
    },
    /// A download without a folder for it.
    #[error("downloads need a cache: set `Repo::with_cache`, or HF_HUB_CACHE if there is no home folder")]
    NoCache,
    /// A file that is not in the cache, where only the cache is to be used.
    #[error(
        "`{file}` of {repo} (revision {revision}) is not in the cache {cache}: download it without HF_HUB_OFFLINE",
        repo = Shown::name(repo),
        revision = Shown::name(revision),
        file = Shown::name(file),
        cache = Shown::path(cache)
    )]
    Offline {
        /// The repository.
        repo: String,
        /// The branch, tag or commit.
        revision: String,
        /// The file.
        file: String,
        /// The folder of the cache.
        cache: PathBuf,
    },
    /// A broken file in the cache, which has been removed, where only the cache is to be used.
    #[error(
        "{path} was removed from the cache, for it was broken ({reason}): download it again without HF_HUB_OFFLINE",
        path = Shown::path(path),
        reason = Shown::text(reason)
    )]
    Broken {
        /// Where it was.
        path: PathBuf,
        /// What was wrong with it.
        reason: String,
    },
    /// Remote weights that could not be opened. Ranges of them were in the cache and have been removed.
    #[error(
        "the weights cannot be opened; their cached ranges in {folder} were removed: try again",
        folder = Shown::path(folder)
    )]
    DroppedRanges {
        /// Where the ranges were.
        folder: PathBuf,
        /// Why the weights could not be opened.
        source: Cause,
    },
    /// A download of no file that the repository has.
    #[error("{url} has none of the files", url = Shown::text(url))]
    NothingFetched {
        /// The address of its files.
        url: String,
    },
    /// A repository without weights of a known name.
    #[error(
        "{url} has neither model.safetensors nor pytorch_model.bin, nor an index of either: choose another \
         repository",
        url = Shown::text(url)
    )]
    NoWeights {
        /// The address of its files.
        url: String,
    },
    /// An index of shards that names no input tables.
    #[error("{url} names no input tables: open all its weights", url = Shown::text(url))]
    NoInputTables {
        /// The address of the index.
        url: String,
    },
}

/// Says why a file, or a range of it, could not be fetched.
///
/// In a [`CheckpointError::Io`](super::CheckpointError::Io) it is the inner error of the `std::io::Error`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// An address that is not http or https, or contains a user name.
    #[error("not an http or https address, or one that contains a user name")]
    Address,
    /// The repository has no such branch, tag or commit.
    #[error("the repository has no such revision (status 404)")]
    NoRevision,
    /// An answer that lacks what a hub says about a file.
    #[error("the answer has no {header}: is the server a hub?")]
    NoHeader {
        /// The name of the header.
        header: &'static str,
    },
    /// A word of the server that would have to name a file in the cache, and cannot.
    #[error("the server's {header} is `{value}`, which cannot name a file in the cache", value = Shown::name(value))]
    BadHeader {
        /// The name of the header.
        header: &'static str,
        /// Its text.
        value: String,
    },
    /// A content in another encoding than asked for.
    #[error(
        "the server sends the file in the encoding {encoding}, which was not asked for",
        encoding = Shown::name(encoding)
    )]
    Encoded {
        /// The encoding.
        encoding: String,
    },
    /// A body of another length than the rest of the file has.
    #[error("{wanted} bytes of the file are left, but the server announces {announced}")]
    WrongLength {
        /// The bytes that are left.
        wanted: u64,
        /// The bytes that the answer announces.
        announced: u64,
    },
    /// A content that is not what the server described.
    #[error("what the server sent was removed, for {reason}: try again", reason = Shown::text(reason))]
    Damaged {
        /// What is wrong with it.
        reason: String,
    },
    /// A file of the cache that cannot be read or written.
    #[error("cannot use {path} in the cache", path = Shown::path(path))]
    Cache {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The server has no such file.
    #[error("the server has no such file (status 404)")]
    NotFound,
    /// The server answers with an error.
    #[error("the server answers with status {status}{}", next_step(*status))]
    Status {
        /// The status of the answer.
        status: u16,
    },
    /// A request that cannot be sent, such as one with a token that no header can hold.
    #[error("the request cannot be sent")]
    Request {
        /// The HTTP client's error.
        source: Cause,
    },
    /// No connection, or one that broke before the answer.
    #[error("the server cannot be reached")]
    Unreachable {
        /// The HTTP client's error.
        source: Cause,
    },
    /// An answer that is not HTTP, or has too long headers.
    #[error("the server's answer cannot be read")]
    Answer {
        /// The HTTP client's error.
        source: Cause,
    },
    /// No secure connection.
    #[error("no secure connection to the server")]
    Tls {
        /// The HTTP client's error.
        source: Cause,
    },
    /// An answer that took too long to begin or to complete.
    #[error("the server took longer than {timeout:?}")]
    TimedOut {
        /// How long a connection, the next bytes or a whole request may take.
        timeout: Duration,
    },
    /// A body that ended too early.
    #[error("the connection was cut after {got} of {wanted} bytes")]
    Cut {
        /// The bytes received.
        got: u64,
        /// The bytes announced or requested.
        wanted: u64,
    },
    /// A server that serves whole files only.
    #[error("the server does not serve ranges: download the file instead")]
    NoRanges,
    /// A file whose content has changed since the first answer.
    #[error(
        "the file has changed on the server ({was}, now {is}): open it again",
        was = Shown::name(was),
        is = Shown::name(is)
    )]
    Changed {
        /// The version of the first answer.
        was: String,
        /// The version now.
        is: String,
    },
    /// Other bytes than those requested.
    #[error("bytes {wanted:?} were requested, but the server sent {got}", got = Shown::name(got))]
    WrongRange {
        /// The requested range.
        wanted: Range<u64>,
        /// The range that the answer states.
        got: String,
    },
    /// More bytes than requested.
    #[error("{wanted} bytes were requested, but the server sent more")]
    TooLong {
        /// The number of bytes requested.
        wanted: u64,
    },
    /// A file that is larger than the caller's limit.
    #[error("the file has more than the {max_bytes} bytes that may be read")]
    TooLarge {
        /// The limit.
        max_bytes: u64,
    },
    /// A text that is not UTF-8.
    #[error("the file is not UTF-8 from byte {at} on")]
    NotUtf8 {
        /// The first byte that is not.
        at: usize,
    },
    /// Too many redirections in a row.
    #[error("more than {max} redirections")]
    TooManyRedirects {
        /// The number of redirections that are followed.
        max: usize,
    },
    /// A redirection that is not followed.
    #[error(
        "a redirection to `{to}`, which is not an http(s) address, contains a user name, or drops encryption",
        to = Shown::name(to)
    )]
    BadRedirect {
        /// Its target.
        to: String,
    },
}

/// Says what to do about a status.
fn next_step(status: u16) -> &'static str {
    match status {
        401 | 403 | 404 => ": it does not exist, or needs a token that may read it (HF_TOKEN)",
        _ => "",
    }
}
