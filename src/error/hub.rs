//! [`HubError`] and [`FetchError`]: why files of a repository could not be fetched.

use std::ops::Range;
use std::time::Duration;

use super::cause::Cause;

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
    #[error("`{}` is not the name of a repository: write it as in openai-community/gpt2", name.escape_debug())]
    RepoName {
        /// The given name.
        name: String,
    },
    /// A file that could not be fetched.
    #[error("cannot fetch {}", url.escape_debug())]
    Fetch {
        /// Its address.
        url: String,
        /// Why it could not be fetched.
        source: FetchError,
    },
    /// A repository without weights that can be read in ranges.
    #[error(
        "{} has neither model.safetensors nor model.safetensors.index.json: choose a repository of safetensors",
        url.escape_debug()
    )]
    NoWeights {
        /// The address of its files.
        url: String,
    },
    /// An index of shards that names no input tables.
    #[error("{} names no input tables: open all its weights", url.escape_debug())]
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
    #[error("the file has changed on the server ({was}, now {is}): open it again")]
    Changed {
        /// The version of the first answer.
        was: String,
        /// The version now.
        is: String,
    },
    /// Other bytes than those requested.
    #[error("bytes {wanted:?} were requested, but the server sent {got}")]
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
    #[error("a redirection to `{to}`, which is not an http(s) address, contains a user name, or drops encryption")]
    BadRedirect {
        /// Its target.
        to: String,
    },
}

/// Says what to do about a status.
fn next_step(status: u16) -> &'static str {
    match status {
        401 | 403 => ": it does not exist, or needs a token that may read it (HF_TOKEN)",
        _ => "",
    }
}
