//! One HTTP request: redirects, versions, and the ways in which a server can fail to send the bytes.

use std::fmt;
use std::io::{self, Read};
use std::ops::Range;
use std::time::{Duration, Instant};

use ureq::http::header::HeaderMap;
use ureq::http::{Response, Uri};
use ureq::{Agent, Body, Timeout};

use crate::error::FetchError;

const MAX_REDIRECTS: usize = 5;
/// The limit for connecting, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The limit for each wait for more bytes.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

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

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Unreachable { .. } | FetchError::Cut { .. } | FetchError::TimedOut { .. } => {
                Self::Passing { error, pause: None }
            }
            error => Self::Final(error),
        }
    }
}

/// Identifies the content of a file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Version {
    pub(super) n_bytes: u64,
    /// Strong: a weak ETag does not promise the same bytes.
    pub(super) etag: Option<String>,
}

impl Version {
    fn describe(&self) -> String {
        let etag = self.etag.as_deref().unwrap_or("none");
        format!("ETag {etag}, {} bytes", self.n_bytes)
    }
}

/// A secret that `Debug` does not show.
#[derive(Clone)]
pub(super) struct Token(pub(super) String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// The settings that all requests share.
#[derive(Clone, Debug)]
pub(super) struct Requests {
    agent: Agent,
    pub(super) token: Option<Token>,
    /// How long one request may take, redirects and body included.
    pub(super) timeout: Duration,
}

impl Requests {
    pub(super) fn new(timeout: Duration) -> Self {
        let agent = Agent::config_builder()
            // `answer` follows redirects, since it decides where the token goes.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_read(Some(READ_TIMEOUT))
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: agent.into(), token: None, timeout }
    }

    /// Fetches a non-empty range. Returns its bytes and their version, which must equal `known` if that is given.
    pub(super) fn range(
        &self,
        url: &str,
        range: &Range<u64>,
        known: Option<&Version>,
    ) -> Result<(Version, Vec<u8>), Failure> {
        let mut response = self.answer(url, Some(range), known.and_then(|known| known.etag.as_deref()))?;
        let headers = response.headers();
        let etag = text(headers, "etag").filter(|etag| etag.starts_with('"')).map(str::to_string);
        let changed = |was: &Version, n_bytes: u64| {
            let is = Version { n_bytes, etag: etag.clone() };
            Failure::Final(FetchError::Changed { was: was.describe(), is: is.describe() })
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
        let content_range = text(headers, "content-range").unwrap_or("no Content-Range").to_string();
        let Some((sent, n_bytes)) = parse_content_range(&content_range) else {
            return Err(FetchError::WrongRange { wanted: range.clone(), got: content_range }.into());
        };
        let version = Version { n_bytes, etag: etag.clone() };
        if let Some(known) = known.filter(|known| **known != version) {
            return Err(changed(known, n_bytes));
        }
        if sent != *range {
            return Err(FetchError::WrongRange { wanted: range.clone(), got: content_range }.into());
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
        let mut response = self.answer(url, None, None)?;
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

    /// Sends a request, follows its redirects, and returns the first answer that is not a redirect.
    fn answer(
        &self,
        first: &str,
        range: Option<&Range<u64>>,
        if_range: Option<&str>,
    ) -> Result<Response<Body>, FetchError> {
        let start = Instant::now();
        let mut url = first.to_string();
        if origin(&url).is_none() {
            return Err(FetchError::Address);
        }
        for _ in 0..=MAX_REDIRECTS {
            let Some(left) = self.timeout.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) else {
                return Err(FetchError::TimedOut { timeout: self.timeout });
            };
            let request = self.agent.get(&url).config().timeout_global(Some(left)).build();
            // Compressed bytes would not be those of the file.
            let mut request = request.header("Accept-Encoding", "identity");
            if let Some(range) = range {
                request = request.header("Range", format!("bytes={}-{}", range.start, range.end - 1));
            }
            if let Some(etag) = if_range {
                request = request.header("If-Range", etag);
            }
            if let Some(Token(token)) = self.token.as_ref().filter(|_| origin(&url) == origin(first)) {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            let response = request.call().map_err(|error| self.unanswered(error))?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let to = text(response.headers(), "location").unwrap_or_default();
            url = redirected(&url, to).ok_or_else(|| FetchError::BadRedirect { to: to.escape_debug().to_string() })?;
        }
        Err(FetchError::TooManyRedirects { max: MAX_REDIRECTS })
    }

    /// Reads at most `max_bytes + 1` bytes. Returns them, and the error that cut them short, if any.
    fn body(&self, body: &mut Body, max_bytes: u64) -> (Vec<u8>, Option<FetchError>) {
        let mut bytes = Vec::new();
        let read = body.as_reader().take(max_bytes.saturating_add(1)).read_to_end(&mut bytes);
        (bytes, read.err().map(|error| self.unanswered(error.into())))
    }

    fn unanswered(&self, error: ureq::Error) -> FetchError {
        match error {
            ureq::Error::Timeout(Timeout::Connect) => FetchError::TimedOut { timeout: CONNECT_TIMEOUT },
            ureq::Error::Timeout(Timeout::PerRead) => FetchError::TimedOut { timeout: READ_TIMEOUT },
            ureq::Error::Timeout(_) => FetchError::TimedOut { timeout: self.timeout },
            ureq::Error::Http(_) | ureq::Error::BadUri(_) => FetchError::Request { source: error.into() },
            ureq::Error::Tls(_) | ureq::Error::Rustls(_) => FetchError::Tls { source: error.into() },
            ureq::Error::Io(io) if io.kind() == io::ErrorKind::InvalidData => FetchError::Tls { source: io.into() },
            error => FetchError::Unreachable { source: error.into() },
        }
    }
}

/// Turns an error status into a failure: transient, with the pause that the server asks for, or final.
fn refused(status: u16, headers: &HeaderMap) -> Failure {
    match status {
        404 => FetchError::NotFound.into(),
        408 | 429 | 500 | 502 | 503 | 504 => {
            let pause = text(headers, "retry-after").and_then(|seconds| seconds.parse().ok());
            Failure::Passing { error: FetchError::Status { status }, pause: pause.map(Duration::from_secs) }
        }
        status => FetchError::Status { status }.into(),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Parses `bytes 0-99/1000` into the range and the length of the file.
fn parse_content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, last) = range.split_once('-')?;
    let (start, end, total) = (start.parse().ok()?, last.parse::<u64>().ok()?.checked_add(1)?, total.parse().ok()?);
    (start < end && end <= total).then_some((start..end, total))
}

/// Returns scheme, host and port of an http or https URL.
///
/// Returns `None` for a URL with a user name, which the client would send as a credential.
fn origin(url: &str) -> Option<(String, String)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    matches!(&scheme[..], "http" | "https").then_some(())?;
    let authority = uri.authority()?.as_str().to_ascii_lowercase();
    (!authority.contains('@')).then_some((scheme, authority))
}

/// Returns the target of a redirect from `url`: a full URL or a path on the same server, never from https to http.
fn redirected(url: &str, to: &str) -> Option<String> {
    let (scheme, authority) = origin(url)?;
    let target = match to {
        _ if to.starts_with("//") => format!("{scheme}:{to}"),
        _ if to.starts_with('/') => format!("{scheme}://{authority}{to}"),
        _ => to.to_string(),
    };
    let (to_scheme, _) = origin(&target)?;
    (to_scheme == "https" || scheme == "http").then_some(target)
}
