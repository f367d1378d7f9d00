//! What can be wrong between this machine and a server of files.

use std::ops::Range;
use std::time::Duration;

use super::cause::Cause;

/// Why nothing came from a repository or a server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A name that no repository has.
    #[error("`{}` is no name of a repository: write it as in openai-community/gpt2", name.escape_debug())]
    RepoName {
        /// As given.
        name: String,
    },
    /// A file that could not be fetched.
    #[error("cannot fetch {}", url.escape_debug())]
    Fetch {
        /// Its address.
        url: String,
        /// What happened.
        source: FetchError,
    },
    /// A repository without weights that are opened by ranges.
    #[error(
        "{} has neither model.safetensors nor model.safetensors.index.json: choose a repository of safetensors",
        url.escape_debug()
    )]
    NoWeights {
        /// The address of its files.
        url: String,
    },
    /// An index of shards in which no input tables are.
    #[error("{} names no input tables: open all of its weights", url.escape_debug())]
    NoInputTables {
        /// The address of the index.
        url: String,
    },
}

/// Why a file, or a range of one, did not come. Inside a [`CheckpointError::Io`](super::CheckpointError::Io) it is the inner
/// error of the `std::io::Error`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// An address that is not one of the web, or has a user and a password in it.
    #[error("not an http or https address, or one with a user in it")]
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
        /// What the HTTP client says.
        source: Cause,
    },
    /// No connection, or one that broke before an answer came.
    #[error("the server cannot be reached")]
    Unreachable {
        /// What the HTTP client says.
        source: Cause,
    },
    /// No secure connection.
    #[error("no secure connection to the server")]
    Tls {
        /// What the HTTP client says.
        source: Cause,
    },
    /// An answer that took too long to come, or to come whole.
    #[error("the server took longer than {timeout:?}")]
    TimedOut {
        /// How long a connection, the next bytes or a whole request may take.
        timeout: Duration,
    },
    /// A body that ended too early.
    #[error("the connection was cut after {got} of {wanted} bytes")]
    Cut {
        /// The bytes that came.
        got: u64,
        /// Those that were announced or asked for.
        wanted: u64,
    },
    /// A server that gives files whole or not at all.
    #[error("the server does not serve ranges: download the file instead")]
    NoRanges,
    /// Another content than that of the first answer.
    #[error("the file has changed on the server ({was}, now {is}): open it again")]
    Changed {
        /// The version of the first answer.
        was: String,
        /// The version now.
        is: String,
    },
    /// Other bytes than those that were asked for.
    #[error("bytes {wanted:?} were asked for, but the server sent {got}")]
    WrongRange {
        /// What was asked for.
        wanted: Range<u64>,
        /// What the answer says of itself.
        got: String,
    },
    /// More bytes than were asked for.
    #[error("{wanted} bytes were asked for, but the server sent more")]
    TooLong {
        /// What was asked for.
        wanted: u64,
    },
    /// A file that is larger than what is taken whole.
    #[error("the file has more than the {max_bytes} bytes that are read of it")]
    TooLarge {
        /// The bound.
        max_bytes: u64,
    },
    /// A text that is not UTF-8.
    #[error("the file is not UTF-8 from byte {at} on")]
    NotUtf8 {
        /// The first byte that is not.
        at: usize,
    },
    /// One redirection after another.
    #[error("more than {max} redirections")]
    TooManyRedirects {
        /// How many are followed.
        max: usize,
    },
    /// A redirection that is not followed.
    #[error("a redirection to `{to}`, which is no http(s) address, or one with a user in it, or without encryption")]
    BadRedirect {
        /// Where to.
        to: String,
    },
}

/// What to do about a status.
fn next_step(status: u16) -> &'static str {
    match status {
        401 | 403 => ": it does not exist, or needs a token that may read it (HF_TOKEN)",
        _ => "",
    }
}
