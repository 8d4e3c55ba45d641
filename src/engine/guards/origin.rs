//! `Origin`: which web pages may open a WebSocket, RFC 6455 section 10.2.

/// Which `Origin` values may open a WebSocket. A browser sends exactly one with every request that a page makes;
/// whoever is no browser need not send any, and may then open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origins {
    /// Any: right where nothing depends on who the user is (no cookies, nothing internal).
    #[default]
    Any,
    /// The server's own, which is that of the `Host` header, and those listed (`scheme://host[:port]`).
    Own {
        /// Further origins, compared without case.
        also: Vec<String>,
    },
}

impl Origins {
    /// Whether a request with these `Origin` headers, to this `Host`, may open a WebSocket.
    pub(in crate::engine) fn allow<'a>(
        &self,
        mut origins: impl Iterator<Item = &'a [u8]>,
        host: &str,
    ) -> bool {
        match (self, origins.next(), origins.next()) {
            (_, None, _) => true,
            // Two are no browser's; which one would count?
            (_, Some(_), Some(_)) => false,
            (Origins::Any, Some(_), None) => true,
            (Origins::Own { also }, Some(origin), None) => str::from_utf8(origin).is_ok_and(|origin| {
                is_own(origin, host) || also.iter().any(|allowed| is_same(allowed, origin))
            }),
        }
    }
}

/// Whether an origin is that of a page which `host` serves. The scheme may be either: behind a proxy that ends TLS the
/// page's is `https` and ours is not.
fn is_own(origin: &str, host: &str) -> bool {
    let Some((_, authority, default_port)) = parts(origin) else { return false };
    !authority.is_empty() && is_same_host(authority, host, default_port)
}

/// Whether two origins are one (RFC 6454 section 5). Browsers leave the scheme's own port out.
fn is_same(one: &str, other: &str) -> bool {
    match (parts(one), parts(other)) {
        (Some((scheme, host, port)), Some((other_scheme, other_host, _))) => {
            scheme == other_scheme && is_same_host(host, other_host, port)
        }
        // Not of the web, e.g. of a browser's extension.
        _ => one.eq_ignore_ascii_case(other),
    }
}

fn is_same_host(one: &str, other: &str, default_port: &str) -> bool {
    let [one, other] = [one, other].map(|host| host.strip_suffix(default_port).unwrap_or(host));
    one.eq_ignore_ascii_case(other)
}

/// Scheme, authority and the scheme's own port of an origin of the web.
fn parts(origin: &str) -> Option<(&'static str, &str, &'static str)> {
    [("http://", ":80"), ("https://", ":443")].into_iter().find_map(|(scheme, port)| {
        let (start, authority) = origin.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some((scheme, authority, port))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(origins: &Origins, given: &[&str], host: &str) -> bool {
        origins.allow(given.iter().map(|text| text.as_bytes()), host)
    }

    #[test]
    fn pages_of_the_host_itself_may() {
        let own = Origins::Own { also: Vec::new() };
        for (origin, host) in [
            ("http://example.org", "example.org"),
            ("https://example.org", "EXAMPLE.org"),
            ("HTTP://example.org:80", "example.org"),
            ("http://example.org", "example.org:80"),
            ("https://example.org", "example.org:443"),
            ("http://example.org:8080", "example.org:8080"),
            ("http://[fd73::2]", "[fd73::2]"),
        ] {
            assert!(allows(&own, &[origin], host), "{origin} {host}");
        }
    }

    #[test]
    fn pages_of_others_may_not() {
        let own = Origins::Own { also: Vec::new() };
        for (origin, host) in [
            ("http://evil.example", "example.org"),
            ("http://example.org.evil.example", "example.org"),
            ("http://example.org:8080", "example.org"),
            ("http://example.org", "example.org:8080"),
            ("https://example.org:80", "example.org"),
            ("null", "example.org"),
            ("file://", ""),
            ("http://", ""),
            ("example.org", "example.org"),
            ("ws://example.org", "example.org"),
            ("", "example.org"),
        ] {
            assert!(!allows(&own, &[origin], host), "{origin} {host}");
        }
    }

    #[test]
    fn those_listed_may_and_those_without_any() {
        let listed = Origins::Own { also: vec!["https://app.example".into()] };
        assert!(allows(&listed, &["https://APP.example"], "example.org"));
        let with_port = Origins::Own { also: vec!["https://app.example:443".into()] };
        assert!(allows(&with_port, &["https://app.example"], "example.org"));
        assert!(!allows(&with_port, &["https://app.example:80"], "example.org"));
        assert!(!allows(&listed, &["http://app.example"], "example.org"));
        assert!(allows(&listed, &["http://example.org"], "example.org"));
        assert!(allows(&listed, &[], "example.org"));
        let twice = ["https://app.example", "https://app.example"];
        assert!(!allows(&listed, &twice, "example.org") && !allows(&Origins::Any, &twice, "example.org"));
        assert!(allows(&Origins::Any, &["http://evil.example"], "example.org"));
        assert!(!listed.allow([&b"\xff"[..]].into_iter(), "example.org"));
    }
}
