//! The request target and the authority, RFC 9112 section 3.2 and RFC 3986 section 3.2.

/// What a request target says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target<'b> {
    /// Path without the query, `*` for the asterisk form.
    pub(super) path: &'b str,
    /// After the `?`, empty when there is none.
    pub(super) query: &'b str,
    /// Host and port of the absolute form; it takes the place of the `Host` header (section 3.2.2).
    pub(super) authority: Option<&'b str>,
}

/// Splits a target of any form but the authority form, which only CONNECT has; `None` when it is none of them.
pub(super) fn parse<'b>(target: &'b str, method: &str) -> Option<Target<'b>> {
    if target == "*" {
        // Section 3.2.4: only OPTIONS asks about the server as a whole.
        return (method == "OPTIONS").then_some(Target { path: "*", query: "", authority: None });
    }
    // A fragment never leaves the client, and URIs are ASCII (RFC 3986 section 2).
    if !target.is_ascii() || target.contains('#') {
        return None;
    }
    if target.starts_with('/') {
        let (path, query) = split_query(target);
        return Some(Target { path, query, authority: None });
    }
    let rest = strip_scheme(target, "http://").or_else(|| strip_scheme(target, "https://"))?;
    let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    // RFC 9110 section 4.2.1: an http URI with an empty host is invalid.
    if authority.is_empty() || authority.starts_with(':') || !is_authority(authority.as_bytes()) {
        return None;
    }
    let (path, query) = split_query(rest);
    // RFC 9112 section 3.2.1: an empty path is sent as "/".
    let path = if path.is_empty() { "/" } else { path };
    Some(Target { path, query, authority: Some(authority) })
}

/// Whether this is `host [ ":" port ]`, the value of a `Host` header. The empty one is (RFC 9110 section 7.2);
/// one with user information is not (section 4.2.4).
pub(super) fn is_authority(text: &[u8]) -> bool {
    let port = match text.strip_prefix(b"[") {
        Some(rest) => {
            let Some(end) = rest.iter().position(|&byte| byte == b']') else { return false };
            let (address, port) = rest.split_at(end);
            if address.is_empty()
                || !address.iter().all(|&b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'))
            {
                return false;
            }
            port.get(1..).unwrap_or_default()
        }
        None => {
            let end = text.iter().position(|&byte| byte == b':').unwrap_or(text.len());
            let (host, port) = text.split_at(end);
            if !host.iter().all(|&byte| is_host_byte(byte)) {
                return false;
            }
            port
        }
    };
    match port.strip_prefix(b":") {
        Some(digits) => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        None => port.is_empty(),
    }
}

/// `reg-name`: unreserved, sub-delims and the percent sign (RFC 3986 section 3.2.2).
const fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'%')
        || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=')
}

fn split_query(target: &str) -> (&str, &str) {
    target.split_once('?').unwrap_or((target, ""))
}

/// Schemes are compared without case (RFC 3986 section 3.1).
fn strip_scheme<'b>(target: &'b str, scheme: &str) -> Option<&'b str> {
    let (start, rest) = target.split_at_checked(scheme.len())?;
    start.eq_ignore_ascii_case(scheme).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(target: &str) -> Option<(&str, &str, Option<&str>)> {
        parse(target, "GET").map(|t| (t.path, t.query, t.authority))
    }

    #[test]
    fn origin_form() {
        assert_eq!(get("/"), Some(("/", "", None)));
        assert_eq!(get("/a/b%2f?x=1?2"), Some(("/a/b%2f", "x=1?2", None)));
        assert_eq!(get("//host/x"), Some(("//host/x", "", None)));
    }

    #[test]
    fn absolute_form_names_its_own_host() {
        assert_eq!(get("http://h:80/p?q"), Some(("/p", "q", Some("h:80"))));
        assert_eq!(get("HTTPS://h"), Some(("/", "", Some("h"))));
        assert_eq!(get("http://h?q"), Some(("/", "q", Some("h"))));
        assert_eq!(get("http://[fd73::2]:8080/"), Some(("/", "", Some("[fd73::2]:8080"))));
    }

    #[test]
    fn what_is_no_target() {
        for target in
            ["x", "h:80", "ws://h/", "http://", "http:///p", "http://u@h/", "/a#b", "/é", "http://:80/"]
        {
            assert_eq!(get(target), None, "{target}");
        }
    }

    #[test]
    fn asterisk_form_is_for_options_alone() {
        assert_eq!(get("*"), None);
        assert!(parse("*", "OPTIONS").is_some());
    }

    #[test]
    fn authorities() {
        for good in ["", "h", "10.73.0.2:80", "[::1]", "[fd73::2]:8080", "a-b.example:", "h:65535"] {
            assert!(is_authority(good.as_bytes()), "{good}");
        }
        for bad in ["a b", "u@h", "h/", "h:8x", "h:123456", "[::1", "[]", "[::1]x", "h:1:2", "é", "a\tb"] {
            assert!(!is_authority(bad.as_bytes()), "{bad}");
        }
    }
}
