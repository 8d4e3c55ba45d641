//! `Sec-WebSocket-Extensions` (RFC 6455 section 9.1) and the parameters of permessage-deflate (RFC 7692 section 7.1).

use httparse::Header;
use std::borrow::Cow;

/// The extension's name (RFC 7692 section 7).
pub(super) const NAME: &[u8] = b"permessage-deflate";

/// A `Sec-WebSocket-Extensions` header that does not conform to the grammar of RFC 6455 section 9.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Sec-WebSocket-Extensions is not a list of extensions (RFC 6455 section 9.1)")]
pub struct Malformed;

/// The parameters of one offer, or of the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Parameters {
    /// What the server sends does not refer to earlier messages (section 7.1.1.1).
    pub(super) server_no_context_takeover: bool,
    /// What the client sends does not (section 7.1.1.2).
    pub(super) client_no_context_takeover: bool,
    /// The server's window, bits (section 7.1.2.1).
    pub(super) server_max_window_bits: Option<u8>,
    /// The client's window, bits (section 7.1.2.2); in an offer it may have no value.
    pub(super) client_max_window_bits: Option<Option<u8>>,
}

/// What is wrong with the parameters of permessage-deflate: a server declines such an offer, a client fails the
/// connection (RFC 7692 section 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unacceptable;

/// One extension of the list.
pub(super) struct Extension {
    pub(super) is_deflate: bool,
    pub(super) parameters: Result<Parameters, Unacceptable>,
}

/// Checks that every `Sec-WebSocket-Extensions` header conforms to the grammar.
///
/// # Errors
/// One does not: whoever received it fails the connection (RFC 6455 section 9.1).
pub fn check_grammar(headers: &[Header<'_>]) -> Result<(), Malformed> {
    read(headers, |_| ())
}

/// Calls `each` for every extension in their order, over all headers.
pub(super) fn read(headers: &[Header<'_>], mut each: impl FnMut(Extension)) -> Result<(), Malformed> {
    for header in headers {
        if header.name.eq_ignore_ascii_case("Sec-WebSocket-Extensions") {
            read_list(&mut Scanner { rest: header.value }, &mut each)?;
        }
    }
    Ok(())
}

/// `1#extension` (RFC 7230 section 7): elements between commas, empty ones are left out.
fn read_list(scanner: &mut Scanner<'_>, each: &mut impl FnMut(Extension)) -> Result<(), Malformed> {
    loop {
        scanner.skip_space();
        if !scanner.at_end() && !scanner.next_is(b',') {
            each(read_extension(scanner)?);
        }
        if scanner.at_end() {
            return Ok(());
        }
        if !scanner.take(b',') {
            return Err(Malformed);
        }
    }
}

/// `extension = extension-token *( ";" extension-param )`
fn read_extension(scanner: &mut Scanner<'_>) -> Result<Extension, Malformed> {
    let name = scanner.token()?;
    let mut parameters = Ok(Parameters::default());
    loop {
        scanner.skip_space();
        if !scanner.take(b';') {
            return Ok(Extension { is_deflate: name == NAME, parameters });
        }
        scanner.skip_space();
        let name = scanner.token()?;
        scanner.skip_space();
        let value = if scanner.take(b'=') {
            scanner.skip_space();
            Some(scanner.value()?)
        } else {
            None
        };
        parameters = parameters.and_then(|known: Parameters| known.with(name, value.as_deref()));
    }
}

impl Parameters {
    /// With one more parameter, which must be known, new and of the right form (RFC 7692 section 7.1).
    fn with(mut self, name: &[u8], value: Option<&[u8]>) -> Result<Self, Unacceptable> {
        let is_new = match (name, value) {
            (b"server_no_context_takeover", None) => {
                !std::mem::replace(&mut self.server_no_context_takeover, true)
            }
            (b"client_no_context_takeover", None) => {
                !std::mem::replace(&mut self.client_no_context_takeover, true)
            }
            (b"server_max_window_bits", Some(bits)) => {
                self.server_max_window_bits.replace(window_bits(bits)?).is_none()
            }
            (b"client_max_window_bits", None) => self.client_max_window_bits.replace(None).is_none(),
            (b"client_max_window_bits", Some(bits)) => {
                self.client_max_window_bits.replace(Some(window_bits(bits)?)).is_none()
            }
            _ => false,
        };
        is_new.then_some(self).ok_or(Unacceptable)
    }
}

/// "A decimal integer value without leading zeroes between 8 to 15, inclusive" (RFC 7692 section 7.1.2.1).
fn window_bits(text: &[u8]) -> Result<u8, Unacceptable> {
    match text {
        [digit @ b'8'..=b'9'] => Ok(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Ok(10 + digit - b'0'),
        _ => Err(Unacceptable),
    }
}

/// What is left of a header's value.
struct Scanner<'a> {
    rest: &'a [u8],
}

impl<'a> Scanner<'a> {
    fn at_end(&self) -> bool {
        self.rest.is_empty()
    }

    fn next_is(&self, byte: u8) -> bool {
        self.rest.first() == Some(&byte)
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.rest.strip_prefix(&[byte]);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }

    fn token(&mut self) -> Result<&'a [u8], Malformed> {
        let end = self.rest.iter().position(|&byte| !is_token_byte(byte)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        if token.is_empty() { Err(Malformed) } else { Ok(token) }
    }

    /// `token | quoted-string`; what is quoted must be a token, too, once unescaped (RFC 6455 section 9.1).
    fn value(&mut self) -> Result<Cow<'a, [u8]>, Malformed> {
        if !self.take(b'"') {
            return self.token().map(Cow::Borrowed);
        }
        let mut text = Vec::new();
        loop {
            let (&byte, rest) = self.rest.split_first().ok_or(Malformed)?;
            self.rest = rest;
            match byte {
                b'"' if text.is_empty() => return Err(Malformed),
                b'"' => return Ok(Cow::Owned(text)),
                b'\\' => continue_escaped(&mut self.rest, &mut text)?,
                byte if is_token_byte(byte) => text.push(byte),
                _ => return Err(Malformed),
            }
        }
    }
}

/// The byte after a backslash stands for itself (RFC 7230 section 3.2.6).
fn continue_escaped(rest: &mut &[u8], text: &mut Vec<u8>) -> Result<(), Malformed> {
    let (&byte, after) = rest.split_first().ok_or(Malformed)?;
    *rest = after;
    text.push(byte);
    if is_token_byte(byte) { Ok(()) } else { Err(Malformed) }
}

/// RFC 9110 section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether an extension is permessage-deflate, and its parameters.
    type Read = (bool, Result<Parameters, Unacceptable>);

    fn list(value: &str) -> Result<Vec<Read>, Malformed> {
        let headers = [Header { name: "sec-websocket-extensions", value: value.as_bytes() }];
        let mut found = Vec::new();
        read(&headers, |extension| found.push((extension.is_deflate, extension.parameters)))?;
        Ok(found)
    }

    /// The parameters of the one extension in `value`.
    fn one(value: &str) -> Result<Parameters, Unacceptable> {
        let mut found = list(value).unwrap();
        assert_eq!((found.len(), found[0].0), (1, true), "{value}");
        found.remove(0).1
    }

    const NONE: Parameters = Parameters {
        server_no_context_takeover: false,
        client_no_context_takeover: false,
        server_max_window_bits: None,
        client_max_window_bits: None,
    };

    #[test]
    fn the_offers_of_section_7_1() {
        assert_eq!(one("permessage-deflate"), Ok(NONE));
        let client = Some(None);
        assert_eq!(
            one("permessage-deflate; client_max_window_bits; server_max_window_bits=10"),
            Ok(Parameters { client_max_window_bits: client, server_max_window_bits: Some(10), ..NONE })
        );
        let both = list(
            "permessage-deflate; client_max_window_bits; server_max_window_bits=10, \
             permessage-deflate; client_max_window_bits",
        );
        let second = Parameters { client_max_window_bits: client, ..NONE };
        let first = Parameters { server_max_window_bits: Some(10), ..second };
        assert_eq!(both, Ok(vec![(true, Ok(first)), (true, Ok(second))]));
    }

    #[test]
    fn windows_are_8_to_15_without_leading_zeroes() {
        for bits in 8..=15u8 {
            for value in [format!("{bits}"), format!("\"{bits}\""), format!("\"\\{bits}\"")] {
                let with = |name: &str| one(&format!("permessage-deflate;{name}={value}")).unwrap();
                assert_eq!(with("server_max_window_bits").server_max_window_bits, Some(bits));
                assert_eq!(with("client_max_window_bits").client_max_window_bits, Some(Some(bits)));
            }
        }
        for wrong in ["7", "16", "08", "015", "1", "0", "-9", "9.0", "0x9", "99999999999999999999", "nine"] {
            for name in ["server_max_window_bits", "client_max_window_bits"] {
                assert_eq!(one(&format!("permessage-deflate; {name}={wrong}")), Err(Unacceptable), "{wrong}");
            }
        }
    }

    #[test]
    fn unknown_repeated_and_misshapen_parameters_are_not_accepted() {
        for wrong in [
            "unknown",
            "server_no_context_takeover=1",
            "client_no_context_takeover=true",
            "server_max_window_bits",
            "Server_No_Context_Takeover",
            "server_no_context_takeover; server_no_context_takeover",
            "client_no_context_takeover; client_no_context_takeover",
            "server_max_window_bits=9; server_max_window_bits=9",
            "client_max_window_bits; client_max_window_bits=9",
        ] {
            assert_eq!(one(&format!("permessage-deflate; {wrong}")), Err(Unacceptable), "{wrong}");
        }
    }

    #[test]
    fn the_grammar_is_that_of_rfc_6455() {
        assert_eq!(list(""), Ok(vec![]));
        assert_eq!(
            list(" , ,foo;a;b=c;d=\"e\\f\" ,, bar ,"),
            Ok(vec![(false, Err(Unacceptable)), (false, Ok(NONE))])
        );
        for wrong in [
            ";",
            "a b",
            "a;",
            "a; ;b",
            "a;b=",
            "a;b=\"",
            "a;b=\"\"",
            "a;b=\"c d\"",
            "a;b=\"c\\",
            "a;b=\"c\\\"\"",
            "a=b",
            "a;b=c=d",
            "a;b=\"c\"d",
            "\"a\"",
            "é",
            "a/b",
            "a;b;",
        ] {
            assert_eq!(list(wrong), Err(Malformed), "{wrong}");
        }
    }

    #[test]
    fn several_headers_are_one_list() {
        let header =
            |value: &'static str| Header { name: "Sec-WebSocket-Extensions", value: value.as_bytes() };
        let mut count = 0;
        assert_eq!(read(&[header("a"), header("permessage-deflate, b")], |_| count += 1), Ok(()));
        assert_eq!(count, 3);
        assert_eq!(check_grammar(&[header("a"), header(";")]), Err(Malformed));
    }
}
