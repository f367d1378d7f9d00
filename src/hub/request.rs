//! What is asked of a server, and the ways in which it can fail to send it.

use std::io::Read;
use std::ops::Range;
use std::time::Duration;

use ureq::Body;
use ureq::http::header::HeaderMap;

use super::answer::{About, Ask, Requests, parse_content_range, strong_etag, text};
use crate::error::FetchError;

/// A failure, and whether a retry may help.
#[derive(Debug)]
pub(super) enum Failure {
    Final(FetchError),
    /// `pause` is what the server asks for (`Retry-After`).
    Passing {
        error: FetchError,
        pause: Option<Duration>,
    },
}

impl Failure {
    pub(super) fn error(&self) -> &FetchError {
        match self {
            Self::Final(error) | Self::Passing { error, .. } => error,
        }
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Unreachable { .. }
            | FetchError::Answer { .. }
            | FetchError::Cut { .. }
            | FetchError::TimedOut { .. } => Self::Passing { error, pause: None },
            error => Self::Final(error),
        }
    }
}

impl From<Failure> for FetchError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Final(error) | Failure::Passing { error, .. } => error,
        }
    }
}

/// Returns whether the cache may stand in for a server that does not describe a file: it does not answer, refuses, or
/// is no hub. huggingface_hub asks no server further either. A revision that does not exist is none of these.
pub(super) fn is_undescribed(error: &FetchError) -> bool {
    matches!(
        error,
        FetchError::Unreachable { .. }
            | FetchError::TimedOut { .. }
            | FetchError::Tls { .. }
            | FetchError::Status { .. }
            | FetchError::NoHeader { .. }
    )
}

/// Identifies the content of a file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Version {
    pub(super) n_bytes: u64,
    /// Strong.
    pub(super) etag: Option<String>,
}

/// Describes a version of a file, for an error.
fn shown_version(etag: Option<&str>, n_bytes: Option<u64>) -> String {
    let n_bytes = n_bytes.map_or("unknown".to_string(), |n_bytes| n_bytes.to_string());
    format!("ETag {}, {n_bytes} bytes", etag.unwrap_or("none"))
}

/// A file that a hub has described completely.
#[derive(Clone, Debug)]
pub(super) struct Described {
    pub(super) commit: String,
    pub(super) etag: String,
    pub(super) n_bytes: u64,
    pub(super) if_range: Option<String>,
}

impl Described {
    /// Refuses what cannot be the name of a file in the cache.
    fn new(about: About) -> Result<Self, FetchError> {
        let missing = |header| move || FetchError::NoHeader { header };
        let commit = about.commit.ok_or_else(missing("X-Repo-Commit"))?;
        let etag = about.etag.ok_or_else(missing("ETag"))?;
        let n_bytes = about.n_bytes.ok_or_else(missing("Content-Length"))?;
        for (header, value) in [("X-Repo-Commit", &commit), ("ETag", &etag)] {
            if !is_plain(value) {
                return Err(FetchError::BadHeader { header, value: value.to_string() });
            }
        }
        Ok(Self { commit, etag, n_bytes, if_range: about.if_range })
    }
}

/// Returns whether a server's word can name a file: letters, digits, `-`, `_` and, inside, `.`; at most 128 bytes.
pub(super) fn is_plain(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=128).contains(&name.len())
        && name.bytes().all(known)
        && !name.starts_with('.')
        && !name.ends_with('.')
        && !name.ends_with(".incomplete")
}

/// Where a body continues a file.
pub(super) struct Rest {
    /// The place of its first byte: that asked for, or 0 from a server that sends all again.
    pub(super) start: u64,
    pub(super) body: Body,
}

impl Requests {
    /// Asks a hub to describe a file. `None`: the repository has none of this name, in the returned commit.
    pub(super) fn about(&self, url: &str) -> Result<(Option<Described>, Option<String>), Failure> {
        // Some servers answer `HEAD` wrongly, so it is the first byte that is asked for.
        let ask = Ask { range: Some((0, Some(1))), only_about: true, ..Ask::default() };
        let (response, about) = self.answer(url, &ask)?;
        match response.status().as_u16() {
            // A redirect is returned if it says all.
            200 | 206 | 300..400 => {}
            416 if about.n_bytes == Some(0) => {}
            404 if is_entry(response.headers()) => {
                return Ok((None, about.commit.filter(|commit| is_plain(commit))));
            }
            status => return Err(refused(status, response.headers())),
        }
        let described = Described::new(about)?;
        let commit = described.commit.clone();
        Ok((Some(described), Some(commit)))
    }

    /// Asks for a described file from byte `start` on. The caller watches the time.
    pub(super) fn rest(&self, url: &str, start: u64, known: &Described) -> Result<Rest, Failure> {
        let resumed = start > 0;
        let ask = Ask {
            range: resumed.then_some((start, None)),
            if_range: known.if_range.as_deref().filter(|_| resumed),
            untimed_body: true,
            ..Ask::default()
        };
        let (response, about) = self.answer(url, &ask)?;
        let is_same = |about: &About| {
            about.commit.as_ref() == Some(&known.commit)
                && about.etag.as_ref() == Some(&known.etag)
                && about.n_bytes.is_none_or(|n_bytes| n_bytes == known.n_bytes)
        };
        let range = text(response.headers(), "content-range");
        let start = match (response.status().as_u16(), range) {
            (200 | 206 | 416, _) if !is_same(&about) => {
                let was = shown_version(Some(&known.etag), Some(known.n_bytes));
                return Err(FetchError::Changed { was, is: shown_version(about.etag.as_deref(), about.n_bytes) }.into());
            }
            (200, None) => 0,
            (200 | 206, range) => {
                let wanted = start..known.n_bytes;
                let range = range.unwrap_or("no Content-Range");
                if parse_content_range(range) != Some((wanted.clone(), known.n_bytes)) {
                    return Err(FetchError::WrongRange { wanted, got: range.to_string() }.into());
                }
                start
            }
            (status, _) => return Err(refused(status, response.headers())),
        };
        let (wanted, announced) = (known.n_bytes - start, response.body().content_length());
        if let Some(announced) = announced.filter(|announced| *announced != wanted) {
            return Err(FetchError::WrongLength { wanted, announced }.into());
        }
        Ok(Rest { start, body: response.into_body() })
    }

    /// Fetches a non-empty range. Returns its bytes and their version, which must equal `known` if that is given.
    pub(super) fn range(
        &self,
        url: &str,
        range: &Range<u64>,
        known: Option<&Version>,
    ) -> Result<(Version, Vec<u8>), Failure> {
        let if_range = known.and_then(|known| known.etag.as_deref());
        let ask = Ask { range: Some((range.start, Some(range.end))), if_range, ..Ask::default() };
        let (mut response, _) = self.answer(url, &ask)?;
        let headers = response.headers();
        let etag = strong_etag(headers);
        let changed = |known: &Version, n_bytes: u64| {
            let was = shown_version(known.etag.as_deref(), Some(known.n_bytes));
            Failure::Final(FetchError::Changed { was, is: shown_version(etag.as_deref(), Some(n_bytes)) })
        };
        match (response.status().as_u16(), known) {
            (206, _) => {}
            // With `If-Range` a server sends all of a changed file. A server without range support always does.
            (200, Some(known)) if known.etag != etag => {
                let n_bytes = response.body().content_length().unwrap_or(0);
                return Err(changed(known, n_bytes));
            }
            (200 | 416, None) | (200, Some(_)) => return Err(FetchError::NoRanges.into()),
            (412 | 416, Some(known)) => return Err(changed(known, 0)),
            (status, _) => return Err(refused(status, headers)),
        }
        let content_range = text(headers, "content-range").unwrap_or("no Content-Range");
        let wrong = || FetchError::WrongRange { wanted: range.clone(), got: content_range.to_string() };
        let (sent, n_bytes) = parse_content_range(content_range).ok_or_else(wrong)?;
        let version = Version { n_bytes, etag: etag.clone() };
        if let Some(known) = known.filter(|known| **known != version) {
            return Err(changed(known, n_bytes));
        }
        if sent != *range {
            return Err(wrong().into());
        }
        let wanted = range.end - range.start;
        match self.body(response.body_mut(), wanted) {
            (bytes, _) if bytes.len() as u64 > wanted => Err(FetchError::TooLong { wanted }.into()),
            (bytes, _) if bytes.len() as u64 == wanted => Ok((version, bytes)),
            (_, Some(error @ FetchError::TimedOut { .. })) => Err(error.into()),
            (bytes, _) => Err(FetchError::Cut { got: bytes.len() as u64, wanted }.into()),
        }
    }

    /// Fetches a whole file of at most `max_bytes`.
    pub(super) fn whole(&self, url: &str, max_bytes: u64) -> Result<Vec<u8>, Failure> {
        let (mut response, _) = self.answer(url, &Ask::default())?;
        match response.status().as_u16() {
            200 => {}
            status => return Err(refused(status, response.headers())),
        }
        let announced = response.body().content_length();
        if announced.is_some_and(|n_bytes| n_bytes > max_bytes) {
            return Err(FetchError::TooLarge { max_bytes }.into());
        }
        let (bytes, ended) = self.body(response.body_mut(), max_bytes);
        let got = bytes.len() as u64;
        match (ended, announced) {
            _ if got > max_bytes => Err(FetchError::TooLarge { max_bytes }.into()),
            (Some(error @ FetchError::TimedOut { .. }), _) => Err(error.into()),
            (_, Some(wanted)) if wanted != got => Err(FetchError::Cut { got, wanted }.into()),
            (Some(error), _) => Err(error.into()),
            (None, _) => Ok(bytes),
        }
    }

    /// Reads at most `max_bytes + 1` bytes. Returns them, and the error that cut them short, if any.
    fn body(&self, body: &mut Body, max_bytes: u64) -> (Vec<u8>, Option<FetchError>) {
        let mut bytes = Vec::new();
        let read = body.as_reader().take(max_bytes.saturating_add(1)).read_to_end(&mut bytes);
        (bytes, read.err().map(|error| self.unanswered(error.into())))
    }
}

/// Returns whether an answer of status 404 is about the file, not about the repository or the revision.
fn is_entry(headers: &HeaderMap) -> bool {
    text(headers, "x-error-code").is_none_or(|code| code == "EntryNotFound")
}

/// Turns an error status into a failure: transient, with the pause that the server asks for, or final.
fn refused(status: u16, headers: &HeaderMap) -> Failure {
    match (status, text(headers, "x-error-code")) {
        (404, Some("RevisionNotFound")) => FetchError::NoRevision.into(),
        (404, _) if is_entry(headers) => FetchError::NotFound.into(),
        (408 | 429 | 500 | 502 | 503 | 504, _) => {
            let pause = text(headers, "retry-after").and_then(|seconds| seconds.parse().ok());
            Failure::Passing { error: FetchError::Status { status }, pause: pause.map(Duration::from_secs) }
        }
        _ => FetchError::Status { status }.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_words_of_a_server_name_files() {
        for name in ["e1-config.json", "a", "0123456789abcdef", "A_b-c", &"a".repeat(128)] {
            assert!(is_plain(name), "{name}");
        }
        for name in ["", ".", "..", "../x", "/x", "a/b", "a\\b", ".x", "x.", "a b", "a:b", "ü", "a.incomplete", "a\0"]
        {
            assert!(!is_plain(name), "{name}");
        }
        assert!(!is_plain(&"a".repeat(129)));
    }
}
