//! Sends a request, follows its redirects, and notes what the hub says about the file on the way.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use ureq::http::Response;
use ureq::http::header::HeaderMap;
use ureq::{Agent, Body, Timeout};

use super::address::{origin, redirected};
use crate::error::{FetchError, cause};

pub(super) const MAX_REDIRECTS: usize = 5;
/// The limit for connecting, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The limit for each wait for more bytes.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// The header in which a hub states the commit that it serves.
pub(super) const COMMIT: &str = "x-repo-commit";

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
    /// How long one request may take, redirects included.
    pub(super) timeout: Duration,
}

/// What to ask a server for.
#[derive(Default)]
pub(super) struct Ask<'a> {
    /// The first byte and, unless all others are wanted, the one after the last.
    pub(super) range: Option<(u64, Option<u64>)>,
    pub(super) if_range: Option<&'a str>,
    /// Stops at a redirect to another server if the hub has described the file by then.
    pub(super) only_about: bool,
    /// The caller watches the time that the body takes.
    pub(super) untimed_body: bool,
}

/// What a hub says about a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct About {
    pub(super) commit: Option<String>,
    /// Without quotes. That of the content if the hub knows it, else that of the answer.
    pub(super) etag: Option<String>,
    pub(super) n_bytes: Option<u64>,
    /// The strong `ETag` of the answer, which `If-Range` compares.
    pub(super) if_range: Option<String>,
    is_linked: bool,
}

impl About {
    /// Adds an answer or a redirect. Only a hub states commits; where it redirects to, ETags are others.
    fn add(&mut self, response: &Response<Body>) {
        let headers = response.headers();
        let Some(commit) = text(headers, COMMIT) else { return };
        self.commit = Some(commit.to_string());
        let own = text(headers, "etag");
        if let Some(linked) = text(headers, "x-linked-etag") {
            (self.etag, self.if_range, self.is_linked) = (Some(unquoted(linked).to_string()), None, true);
        } else if !self.is_linked && own.is_some() {
            self.etag = own.map(|etag| unquoted(etag).to_string());
            self.if_range = strong_etag(headers);
        }
        let linked = text(headers, "x-linked-size").and_then(|size| size.parse().ok());
        self.n_bytes = linked.or_else(|| length(response)).or(self.n_bytes);
    }

    pub(super) fn is_known(&self) -> bool {
        self.etag.is_some() && self.n_bytes.is_some()
    }
}

impl Requests {
    pub(super) fn new(timeout: Duration) -> Self {
        let agent = Agent::config_builder()
            // `answer` follows redirects, since it decides where the token goes.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: agent.into(), token: None, timeout }
    }

    /// Sends a request, follows its redirects, and returns the first answer that is not a redirect.
    pub(super) fn answer(&self, first: &str, ask: &Ask) -> Result<(Response<Body>, About), FetchError> {
        let start = Instant::now();
        let (mut url, mut about) = (first.to_string(), About::default());
        if origin(&url).is_none() {
            return Err(FetchError::Address);
        }
        for _ in 0..=MAX_REDIRECTS {
            let response = self.call(&url, origin(&url) == origin(first), ask, start)?;
            about.add(&response);
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return match text(response.headers(), "content-encoding") {
                    None | Some("identity" | "") => Ok((response, about)),
                    Some(encoding) => Err(FetchError::Encoded { encoding: encoding.to_string() }),
                };
            }
            let to = text(response.headers(), "location").unwrap_or_default();
            let target = redirected(&url, to).ok_or_else(|| FetchError::BadRedirect { to: to.to_string() })?;
            if ask.only_about && about.is_known() && origin(&target) != origin(&url) {
                return Ok((response, about));
            }
            url = target;
        }
        Err(FetchError::TooManyRedirects { max: MAX_REDIRECTS })
    }

    fn call(&self, url: &str, with_token: bool, ask: &Ask, start: Instant) -> Result<Response<Body>, FetchError> {
        let Some(left) = self.timeout.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) else {
            return Err(FetchError::TimedOut { timeout: self.timeout });
        };
        let config = self.agent.get(url).config();
        let config = config.timeout_connect(Some(CONNECT_TIMEOUT.min(left)));
        let config = config.timeout_per_read(Some(READ_TIMEOUT.min(left)));
        let config = match ask.untimed_body {
            false => config.timeout_global(Some(left)),
            true => {
                config.timeout_resolve(Some(left)).timeout_send_request(Some(left)).timeout_recv_response(Some(left))
            }
        };
        // Compressed bytes would not be those of the file.
        let mut request = config.build().header("Accept-Encoding", "identity");
        if let Some((start, end)) = ask.range {
            let last = end.map(|end| (end - 1).to_string()).unwrap_or_default();
            request = request.header("Range", format!("bytes={start}-{last}"));
        }
        if let Some(etag) = ask.if_range {
            request = request.header("If-Range", etag);
        }
        if let Some(Token(token)) = self.token.as_ref().filter(|_| with_token) {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        request.call().map_err(|error| self.unanswered(error))
    }

    pub(super) fn unanswered(&self, error: ureq::Error) -> FetchError {
        match error {
            ureq::Error::Timeout(Timeout::Connect) => {
                FetchError::TimedOut { timeout: CONNECT_TIMEOUT.min(self.timeout) }
            }
            ureq::Error::Timeout(Timeout::PerRead) => FetchError::TimedOut { timeout: READ_TIMEOUT.min(self.timeout) },
            ureq::Error::Timeout(_) => FetchError::TimedOut { timeout: self.timeout },
            ureq::Error::Protocol(_) | ureq::Error::LargeResponseHeader(..) => {
                FetchError::Answer { source: cause(error) }
            }
            ureq::Error::Http(_) | ureq::Error::BadUri(_) => FetchError::Request { source: cause(error) },
            ureq::Error::Tls(_) | ureq::Error::Rustls(_) => FetchError::Tls { source: cause(error) },
            ureq::Error::Io(io) if io.kind() == io::ErrorKind::InvalidData => FetchError::Tls { source: cause(io) },
            error => FetchError::Unreachable { source: cause(error) },
        }
    }
}

pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Returns the ETag of an answer if it is strong: a weak one does not promise the same bytes.
pub(super) fn strong_etag(headers: &HeaderMap) -> Option<String> {
    text(headers, "etag").filter(|etag| etag.starts_with('"')).map(str::to_string)
}

fn unquoted(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"')
}

/// Returns the length of the whole file, if an answer states it.
fn length(response: &Response<Body>) -> Option<u64> {
    let range = || text(response.headers(), "content-range");
    match response.status().as_u16() {
        200 => response.body().content_length(),
        206 => parse_content_range(range()?).map(|(_, total)| total),
        416 => range()?.strip_prefix("bytes */")?.parse().ok(),
        _ => None,
    }
}

/// Parses `bytes 0-99/1000` into the range and the length of the file.
pub(super) fn parse_content_range(text: &str) -> Option<(std::ops::Range<u64>, u64)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, last) = range.split_once('-')?;
    let (start, end, total) = (start.parse().ok()?, last.parse::<u64>().ok()?.checked_add(1)?, total.parse().ok()?);
    (start < end && end <= total).then_some((start..end, total))
}
