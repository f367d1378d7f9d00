//! One range request: redirections, versions, and everything that a server can answer instead of the bytes.

use std::io::{self, Read};
use std::ops::Range;
use std::time::Duration;

use ureq::http::header::HeaderMap;
use ureq::http::{Response, Uri};
use ureq::{Agent, Body};

const MAX_REDIRECTS: usize = 5;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For the headers, and for the body of one range.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a range did not come.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error("it is not there (status 404)")]
    NotFound,
    #[error("the server answers with status {0}")]
    Status(u16),
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    #[error("no secure connection: {0}")]
    Tls(String),
    #[error("the connection was cut after {got} of {wanted} bytes")]
    Cut { got: u64, wanted: u64 },
    #[error("the server does not serve ranges: download the file instead (without --remote)")]
    NoRanges,
    #[error("the file has changed on the server ({was}, now {is}): start again")]
    Changed { was: String, is: String },
    #[error("bytes {wanted:?} were asked for, but the server sent {got}")]
    WrongRange { wanted: Range<u64>, got: String },
    #[error("{wanted} bytes were asked for, but the server sent more")]
    TooLong { wanted: u64 },
    #[error("more than {MAX_REDIRECTS} redirections")]
    TooManyRedirects,
    #[error("a redirection to `{0}`, which is no http(s) address, or one that gives up encryption")]
    BadRedirect(String),
}

/// Whether another try may help.
#[derive(Debug)]
pub enum Failure {
    Final(RemoteError),
    /// `pause` is what the server asks for (`Retry-After`).
    Passing {
        error: RemoteError,
        pause: Option<Duration>,
    },
}

impl From<RemoteError> for Failure {
    fn from(error: RemoteError) -> Self {
        match error {
            RemoteError::Unreachable(_) | RemoteError::Cut { .. } => Self::Passing { error, pause: None },
            error => Self::Final(error),
        }
    }
}

/// Which content a file has.
#[derive(Clone, Debug, PartialEq)]
pub struct Version {
    pub n_bytes: u64,
    /// A strong one: a weak one does not promise the same bytes.
    pub etag: Option<String>,
}

impl Version {
    fn describe(&self) -> String {
        let etag = self.etag.as_deref().unwrap_or("none");
        format!("ETag {etag}, {} bytes", self.n_bytes)
    }
}

/// What requests for one file have in common.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    url: String,
    token: Option<String>,
}

impl Client {
    pub fn new(url: &str, token: Option<&str>) -> Self {
        let agent = Agent::config_builder()
            // Redirections are followed here: where the token goes is our business.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(ANSWER_TIMEOUT))
            .timeout_recv_body(Some(ANSWER_TIMEOUT))
            .build();
        Self { agent: agent.into(), url: url.to_string(), token: token.map(str::to_string) }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// The bytes of a range that is not empty, and the version that they are of: `known`, if there is one.
    pub fn get(&self, range: &Range<u64>, known: Option<&Version>) -> Result<(Version, Vec<u8>), Failure> {
        let mut response = self.answer(range, known)?;
        let headers = response.headers();
        let etag = text(headers, "etag").filter(|etag| etag.starts_with('"')).map(str::to_string);
        let changed = |was: &Version, n_bytes: u64| {
            let is = Version { n_bytes, etag: etag.clone() };
            Failure::Final(RemoteError::Changed { was: was.describe(), is: is.describe() })
        };
        match (response.status().as_u16(), known) {
            (206, _) => {}
            // `If-Range` gives the whole of a file that has changed; so does a server without ranges.
            (200, Some(known)) if known.etag != etag => {
                let n_bytes = response.body().content_length().unwrap_or(0);
                return Err(changed(known, n_bytes));
            }
            (200 | 416, None) | (200, Some(_)) => return Err(RemoteError::NoRanges.into()),
            (412 | 416, Some(known)) => return Err(changed(known, 0)),
            (404, _) => return Err(RemoteError::NotFound.into()),
            (status @ (408 | 429 | 500 | 502 | 503 | 504), _) => {
                let pause = text(headers, "retry-after").and_then(|seconds| seconds.parse().ok());
                let pause = pause.map(Duration::from_secs);
                return Err(Failure::Passing { error: RemoteError::Status(status), pause });
            }
            (status, _) => return Err(RemoteError::Status(status).into()),
        }
        let content_range = text(headers, "content-range").unwrap_or("no Content-Range").to_string();
        let Some((sent, n_bytes)) = parse_content_range(&content_range) else {
            return Err(RemoteError::WrongRange { wanted: range.clone(), got: content_range }.into());
        };
        let version = Version { n_bytes, etag: etag.clone() };
        if let Some(known) = known.filter(|known| **known != version) {
            return Err(changed(known, n_bytes));
        }
        if sent != *range {
            return Err(RemoteError::WrongRange { wanted: range.clone(), got: content_range }.into());
        }
        Ok((version, body(response.body_mut(), range.end - range.start)?))
    }

    /// The first answer that is no redirection.
    fn answer(&self, range: &Range<u64>, known: Option<&Version>) -> Result<Response<Body>, RemoteError> {
        let mut url = self.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.agent.get(&url);
            // Compressed bytes would not be those of the range.
            request = request.header("Accept-Encoding", "identity");
            request = request.header("Range", format!("bytes={}-{}", range.start, range.end - 1));
            if let Some(etag) = known.and_then(|known| known.etag.as_deref()) {
                request = request.header("If-Range", etag);
            }
            if let Some(token) = self.token.as_ref().filter(|_| origin(&url) == origin(&self.url)) {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            let response = request.call().map_err(unanswered)?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let to = text(response.headers(), "location").unwrap_or_default();
            url = redirected(&url, to).ok_or_else(|| RemoteError::BadRedirect(to.escape_debug().to_string()))?;
        }
        Err(RemoteError::TooManyRedirects)
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn unanswered(error: ureq::Error) -> RemoteError {
    match &error {
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) => RemoteError::Tls(error.to_string()),
        ureq::Error::Io(io) if io.kind() == io::ErrorKind::InvalidData => RemoteError::Tls(error.to_string()),
        _ => RemoteError::Unreachable(error.to_string()),
    }
}

/// `bytes 0-99/1000` as the range and the length of the file.
fn parse_content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, last) = range.split_once('-')?;
    let (start, end, total) = (start.parse().ok()?, last.parse::<u64>().ok()?.checked_add(1)?, total.parse().ok()?);
    (start < end && end <= total).then_some((start..end, total))
}

/// Exactly `n` bytes.
fn body(body: &mut Body, n: u64) -> Result<Vec<u8>, RemoteError> {
    let mut bytes = Vec::new();
    let result = body.as_reader().take(n.saturating_add(1)).read_to_end(&mut bytes);
    match (bytes.len() as u64, result) {
        (got, _) if got > n => Err(RemoteError::TooLong { wanted: n }),
        (got, Ok(_)) if got == n => Ok(bytes),
        (got, _) => Err(RemoteError::Cut { got, wanted: n }),
    }
}

/// Scheme, host and port.
fn origin(url: &str) -> Option<(String, String)> {
    let uri: Uri = url.parse().ok()?;
    Some((uri.scheme_str()?.to_ascii_lowercase(), uri.authority()?.as_str().to_ascii_lowercase()))
}

/// Where a redirection from `url` leads: to a whole address or to a path on the same server, never from https to http.
fn redirected(url: &str, to: &str) -> Option<String> {
    let (scheme, authority) = origin(url)?;
    let target = match to {
        _ if to.starts_with("//") => format!("{scheme}:{to}"),
        _ if to.starts_with('/') => format!("{scheme}://{authority}{to}"),
        _ => to.to_string(),
    };
    let (to_scheme, _) = origin(&target)?;
    (to_scheme == "https" || (to_scheme == "http" && scheme == "http")).then_some(target)
}
