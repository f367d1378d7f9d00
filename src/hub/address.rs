//! URLs: which server they lead to, where a redirect leads, and how names are written in them.

use std::fmt::Write;

use ureq::http::Uri;

/// Returns scheme, host and port of an http or https URL.
///
/// Returns `None` for a URL with a user name, which the client would send as a credential.
pub(super) fn origin(url: &str) -> Option<(String, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let default_port = match &scheme[..] {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
    Some((scheme, authority.host().to_ascii_lowercase(), authority.port_u16().unwrap_or(default_port)))
}

/// Returns the target of a redirect from `url`: a full URL, or a path on the same server. Never from https to http.
pub(super) fn redirected(url: &str, to: &str) -> Option<String> {
    let (scheme, ..) = origin(url)?;
    let uri: Uri = url.parse().ok()?;
    let (server, path) = (uri.authority()?, uri.path());
    let is_relative = !to.split(['/', '?']).next().unwrap_or_default().contains(':');
    let target = match to {
        "" => return None,
        _ if to.starts_with("//") => format!("{scheme}:{to}"),
        _ if to.starts_with('/') => format!("{scheme}://{server}{to}"),
        _ if to.starts_with('?') => format!("{scheme}://{server}{path}{to}"),
        _ if is_relative => format!("{scheme}://{server}{}/{to}", path.rsplit_once('/')?.0),
        _ => to.to_string(),
    };
    let (to_scheme, ..) = origin(&target)?;
    (to_scheme == "https" || scheme == "http").then_some(target)
}

/// Writes a name for a URL: letters, digits, `-`, `.`, `_`, `~` and the characters in `kept` stay.
pub(super) fn encoded(name: &str, kept: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        match char::from(byte) {
            c if c.is_ascii_alphanumeric() || "-._~".contains(c) || kept.contains(c) => text.push(c),
            // Writing to a string cannot fail.
            _ => drop(write!(text, "%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_scheme_host_and_port() {
        let same = |left, right| origin(left).is_some() && origin(left) == origin(right);
        assert!(same("https://Hub.co/a", "https://hub.co:443/b") && same("http://hub.co", "HTTP://hub.co:80/"));
        for other in ["http://hub.co", "https://hub.co:444", "https://hub.co.evil.com", "https://cdn.hub.co"] {
            assert!(!same("https://hub.co", other), "{other}");
        }
        for no_server in ["", "hub.co", "/a", "ftp://hub.co", "file:///etc/passwd", "https://user@hub.co", "https:///a"]
        {
            assert_eq!(origin(no_server), None, "{no_server}");
        }
    }

    #[test]
    fn redirects_keep_to_encrypted_servers() {
        let from = "https://hub.co:1/a/b?c=d";
        for (to, target) in [
            ("/x?y", Some("https://hub.co:1/x?y")),
            ("//cdn.co/x", Some("https://cdn.co/x")),
            ("?y=z:1", Some("https://hub.co:1/a/b?y=z:1")),
            ("x?y=z:1", Some("https://hub.co:1/a/x?y=z:1")),
            ("https://cdn.co/x", Some("https://cdn.co/x")),
            ("http://hub.co:1/a/b", None),
            ("http://cdn.co/x", None),
            ("file:///etc/passwd", None),
            ("ftp://cdn.co/x", None),
            ("https://user@cdn.co/x", None),
            ("", None),
            ("http://a b", None),
        ] {
            assert_eq!(redirected(from, to).as_deref(), target, "{to}");
        }
        assert_eq!(redirected("http://hub.co/a", "https://hub.co/b").as_deref(), Some("https://hub.co/b"));
    }

    #[test]
    fn names_are_written_for_urls() {
        assert_eq!(encoded("refs/pr/1", ""), "refs%2Fpr%2F1");
        assert_eq!(encoded("a b/ü?#.json", "/"), "a%20b/%C3%BC%3F%23.json");
    }
}
