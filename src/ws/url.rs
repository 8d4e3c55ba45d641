//! Where a server is: a `ws://` or `wss://` URL.

use std::fmt;
use std::str::FromStr;

/// A `ws://host[:port][/path][?query]` or `wss://...` URL, RFC 6455 section 3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WsUrl {
    secure: bool,
    /// Host name or address, without the brackets of an IPv6 address.
    host: String,
    /// Host as the `Host` header has it: with brackets, with the port when it is not the scheme's own.
    authority: String,
    port: u16,
    target: String,
}

/// What is wrong with a URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// Neither `ws://` nor `wss://`.
    #[error("`{0}` must begin with ws:// or wss://, like ws://127.0.0.1:8080/echo")]
    Scheme(String),
    /// A user name or password stands in it.
    #[error("`{0}`: a ws:// URL has no user name (RFC 6455 section 3)")]
    User(String),
    /// No host.
    #[error("`{0}` names no host; wanted ws://HOST[:PORT][/path]")]
    Host(String),
    /// An IPv6 address without its brackets, or without the closing one.
    #[error("`{0}`: an IPv6 address stands in brackets, like ws://[::1]:8080/")]
    Brackets(String),
    /// The port is not a number from 1 to 65535.
    #[error("`{0}`: the port must be a number from 1 to 65535")]
    Port(String),
    /// A fragment.
    #[error("`{0}`: a ws:// URL has no #fragment (RFC 6455 section 3)")]
    Fragment(String),
    /// A character that cannot stand in a request line.
    #[error("`{0}` holds a space, a control character or one outside ASCII; percent-encode it")]
    Character(String),
}

impl WsUrl {
    /// The value of the `Host` header.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Path and query, as in the request line.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Whether it is spoken to with TLS (`wss://`).
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Host name or address, without the brackets of an IPv6 address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port: 80 or, with TLS, 443 when none is given.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for WsUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let whole = || text.to_owned();
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(UrlError::Character(whole()));
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| UrlError::Scheme(whole()))?;
        let secure = scheme.eq_ignore_ascii_case("wss");
        if !secure && !scheme.eq_ignore_ascii_case("ws") {
            return Err(UrlError::Scheme(whole()));
        }
        let default_port = if secure { 443 } else { 80 };
        if rest.contains('#') {
            return Err(UrlError::Fragment(whole()));
        }
        let (place, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if place.contains('@') {
            return Err(UrlError::User(whole()));
        }
        let (host, port) = match place.strip_prefix('[') {
            Some(bracketed) => bracketed.split_once(']').ok_or_else(|| UrlError::Brackets(whole()))?,
            None => place.split_at(place.find(':').unwrap_or(place.len())),
        };
        if host.is_empty() {
            return Err(UrlError::Host(whole()));
        }
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => default_port,
            Some(digits) if digits.contains(':') => return Err(UrlError::Brackets(whole())),
            Some(digits) => match digits.parse() {
                Ok(port) if port > 0 => port,
                _ => return Err(UrlError::Port(whole())),
            },
            None => return Err(UrlError::Port(whole())),
        };
        let bracketed = if place.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
        let authority = if port == default_port { bracketed } else { format!("{bracketed}:{port}") };
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        Ok(WsUrl { secure, host: host.to_owned(), authority, port, target })
    }
}

impl fmt::Display for WsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "wss" } else { "ws" };
        write!(f, "{scheme}://{}{}", self.authority, self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> WsUrl {
        text.parse().unwrap()
    }

    #[test]
    fn host_port_and_path_are_taken_apart() {
        let url = parse("ws://example.org:8080/echo?x=1");
        assert_eq!((url.host.as_str(), url.port), ("example.org", 8080));
        assert_eq!((url.authority(), url.target()), ("example.org:8080", "/echo?x=1"));
        assert_eq!(url.to_string(), "ws://example.org:8080/echo?x=1");
    }

    #[test]
    fn port_and_path_have_defaults() {
        let url = parse("WS://10.0.0.1");
        assert_eq!((url.port, url.authority(), url.target()), (80, "10.0.0.1", "/"));
        assert_eq!(parse("ws://a?q").target(), "/?q");
    }

    #[test]
    fn tls_has_a_scheme_and_a_port_of_its_own() {
        let url = parse("wss://a/x");
        assert_eq!((url.is_secure(), url.port(), url.authority()), (true, 443, "a"));
        assert_eq!(parse("WSS://a:80").to_string(), "wss://a:80/");
        assert_eq!(parse("ws://a:443").authority(), "a:443");
        assert!(!parse("ws://a").is_secure());
    }

    #[test]
    fn an_ipv6_address_stands_in_brackets() {
        let url = parse("ws://[fd73::2]:81/x");
        assert_eq!((url.host.as_str(), url.port, url.authority()), ("fd73::2", 81, "[fd73::2]:81"));
        assert_eq!(parse("ws://[::1]").authority(), "[::1]");
    }

    #[test]
    fn each_fault_has_its_own_error() {
        let error = |text: &str| text.parse::<WsUrl>().unwrap_err();
        assert!(matches!(error("http://a/"), UrlError::Scheme(_)));
        assert!(matches!(error("localhost:80"), UrlError::Scheme(_)));
        assert!(matches!(error("ws://u:p@a/"), UrlError::User(_)));
        assert!(matches!(error("ws:///x"), UrlError::Host(_)));
        assert!(matches!(error("ws://fd73::2:80/"), UrlError::Brackets(_)));
        assert!(matches!(error("ws://[fd73::2/"), UrlError::Brackets(_)));
        assert!(matches!(error("ws://[::1]80/"), UrlError::Port(_)));
        assert!(matches!(error("ws://a:0/"), UrlError::Port(_)));
        assert!(matches!(error("ws://a:65536/"), UrlError::Port(_)));
        assert!(matches!(error("ws://a/#x"), UrlError::Fragment(_)));
        assert!(matches!(error("ws://a/ b"), UrlError::Character(_)));
        assert!(matches!(error("ws://a/\r\nX: y"), UrlError::Character(_)));
    }
}
