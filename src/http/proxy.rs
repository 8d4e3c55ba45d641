//! The PROXY protocol, versions 1 and 2: what a proxy in front says of the client it speaks for
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>). Sans-IO, receiving side only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header that is taken, bytes. Version 1 ends at 107; version 2 could declare 65,551 and a proxy's optional
/// fields rarely pass a few hundred.
pub const PROXY_HEADER_BYTES_MAX: usize = 4_096;

const V1_BYTES_MAX: usize = 107;
const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED_BYTES: usize = 16;

/// A header that came whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Its length, bytes; the client's own bytes follow.
    pub bytes: usize,
    /// The client; `None` when the proxy speaks for itself (a health check) or does not know.
    pub client: Option<SocketAddr>,
}

/// Why bytes are no PROXY header. Nothing that follows can be trusted: the connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// Neither version's first bytes.
    #[error("the connection does not begin with a PROXY header, although its peer is listed as a proxy")]
    Missing,
    /// A version 1 line that is too long or not of the form that section 2.1 gives.
    #[error("the PROXY line is malformed (section 2.1)")]
    Line,
    /// A version, command, family or protocol that section 2.2 does not have for TCP.
    #[error("the binary PROXY header says something unknown (section 2.2)")]
    Unknown,
    /// The declared length is too short for its addresses, or over [`PROXY_HEADER_BYTES_MAX`].
    #[error("the binary PROXY header's length of {declared} bytes is out of range")]
    Length {
        /// What it declares, bytes.
        declared: usize,
    },
}

/// Reads a header off the beginning of a connection; `None` while more bytes are needed. At most
/// [`PROXY_HEADER_BYTES_MAX`] bytes are ever asked for.
///
/// # Errors
/// See [`ProxyError`]; more bytes would not change it.
pub fn parse_proxy_header(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    if bytes.starts_with(V2_START) {
        return version_2(bytes);
    }
    if bytes.starts_with(V1_START) {
        return version_1(bytes);
    }
    let may_become_one = V1_START.starts_with(bytes) || V2_START.starts_with(bytes);
    if may_become_one { Ok(None) } else { Err(ProxyError::Missing) }
}

fn version_1(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    let within = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = within.windows(2).position(|pair| pair == b"\r\n") else {
        // The longest line is whole by then.
        return if bytes.len() < V1_BYTES_MAX { Ok(None) } else { Err(ProxyError::Line) };
    };
    let line = str::from_utf8(&within[V1_START.len()..end]).map_err(|_| ProxyError::Line)?;
    let header = |client| Ok(Some(ProxyHeader { bytes: end + 2, client }));
    let mut words = line.split(' ');
    let family = words.next();
    if family == Some("UNKNOWN") {
        // What follows is to be ignored.
        return header(None);
    }
    let (Some(source), Some(destination), Some(source_port), Some(destination_port), None) =
        (words.next(), words.next(), words.next(), words.next(), words.next())
    else {
        return Err(ProxyError::Line);
    };
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            Some("TCP4") => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            Some("TCP6") => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let port = |text: &str| -> Option<u16> {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        plain.then(|| text.parse().ok())?
    };
    match (address(source), address(destination), port(source_port), port(destination_port)) {
        (Some(source), Some(_), Some(port), Some(_)) => header(Some(SocketAddr::new(source, port))),
        _ => Err(ProxyError::Line),
    }
}

fn version_2(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    const LOCAL: u8 = 0x20;
    const PROXY: u8 = 0x21;
    const UNSPECIFIED: u8 = 0x00;
    const TCP_OVER_IPV4: u8 = 0x11;
    const TCP_OVER_IPV6: u8 = 0x21;
    // Section 2.2: UDP and Unix sockets are valid, and whoever does not take them treats them as unspecified.
    const OTHERS: [u8; 4] = [0x12, 0x22, 0x31, 0x32];
    // What can be refused is refused before more is waited for.
    let command = bytes.get(12).copied();
    if command.is_some_and(|command| !matches!(command, LOCAL | PROXY)) {
        return Err(ProxyError::Unknown);
    }
    let family = bytes.get(13).copied();
    let known = [UNSPECIFIED, TCP_OVER_IPV4, TCP_OVER_IPV6];
    if command == Some(PROXY)
        && family.is_some_and(|family| !known.contains(&family) && !OTHERS.contains(&family))
    {
        return Err(ProxyError::Unknown);
    }
    let Some(&[_, _, high, low]) = bytes.get(12..V2_FIXED_BYTES).and_then(|four| four.first_chunk::<4>())
    else {
        return Ok(None);
    };
    let declared = usize::from(u16::from_be_bytes([high, low]));
    let addresses_bytes = match (command, family) {
        (Some(PROXY), Some(TCP_OVER_IPV4)) => 12,
        (Some(PROXY), Some(TCP_OVER_IPV6)) => 36,
        _ => 0,
    };
    let whole = V2_FIXED_BYTES + declared;
    if declared < addresses_bytes || whole > PROXY_HEADER_BYTES_MAX {
        return Err(ProxyError::Length { declared });
    }
    let Some(fields) = bytes.get(V2_FIXED_BYTES..whole) else { return Ok(None) };
    let client = match fields {
        &[a, b, c, d, _, _, _, _, high, low, ..] if addresses_bytes == 12 => {
            Some(SocketAddr::new(IpAddr::from([a, b, c, d]), u16::from_be_bytes([high, low])))
        }
        fields if addresses_bytes == 36 => {
            let address = fields.first_chunk::<16>().copied();
            let port = fields.get(32..34).and_then(|two| two.first_chunk::<2>()).copied();
            address
                .zip(port)
                .map(|(address, port)| SocketAddr::new(IpAddr::from(address), u16::from_be_bytes(port)))
        }
        _ => None,
    };
    Ok(Some(ProxyHeader { bytes: whole, client }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A binary header with these fields behind the fixed part.
    fn binary(command: u8, family: u8, fields: &[u8]) -> Vec<u8> {
        let mut bytes = V2_START.to_vec();
        bytes.extend([command, family]);
        bytes.extend((fields.len() as u16).to_be_bytes());
        bytes.extend(fields);
        bytes
    }

    fn ipv6_fields() -> Vec<u8> {
        let address = |last: u8| [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
        [&address(1)[..], &address(2)[..], &[0x12, 0x34, 0, 80]].concat()
    }

    /// Good headers and the clients that they tell of.
    fn examples() -> Vec<(Vec<u8>, Option<SocketAddr>)> {
        let client = |text: &str| Some(text.parse().unwrap());
        let tlv = [0xc0, 0, 2, 7, 7];
        vec![
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 56324 443\r\n".to_vec(), client("192.0.2.1:56324")),
            (b"PROXY TCP6 fd00::1 fd00::2 1 80\r\n".to_vec(), client("[fd00::1]:1")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n".to_vec(), None),
            (binary(0x21, 0x11, &[192, 0, 2, 1, 10, 0, 0, 1, 0xdc, 4, 1, 0xbb]), client("192.0.2.1:56324")),
            (binary(0x21, 0x21, &ipv6_fields()), client("[fd00::1]:4660")),
            (binary(0x21, 0x21, &[&ipv6_fields()[..], &tlv[..]].concat()), client("[fd00::1]:4660")),
            (binary(0x20, 0x00, &[]), None),
            (binary(0x20, 0x11, &[1; 12]), None),
            (binary(0x21, 0x00, &tlv), None),
            (binary(0x21, 0x12, &[1; 12]), None),
            (binary(0x21, 0x31, &[b'/'; 216]), None),
        ]
    }

    #[test]
    fn a_header_cut_at_any_byte_is_the_same_header() {
        for (header, client) in examples() {
            let mut stream = header.clone();
            stream.extend(b"GET / HTTP/1.1\r\n");
            for cut in 0..header.len() {
                assert_eq!(parse_proxy_header(&stream[..cut]), Ok(None), "{cut} of {header:?}");
            }
            for end in header.len()..=stream.len() {
                let read = parse_proxy_header(&stream[..end]);
                assert_eq!(read, Ok(Some(ProxyHeader { bytes: header.len(), client })), "{header:?}");
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused_with_its_cause() {
        let long_line = format!("PROXY UNKNOWN {}\r\n", "x".repeat(107));
        for line in [
            "PROXY TCP4 192.0.2.1 10.0.0.1 56324\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 56324 443 1\r\n",
            "PROXY TCP4  192.0.2.1 10.0.0.1 56324 443\r\n",
            "PROXY TCP4 fd00::1 10.0.0.1 56324 443\r\n",
            "PROXY TCP6 192.0.2.1 fd00::1 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 65536 443\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 +1 443\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 01 443\r\n",
            "PROXY UDP4 192.0.2.1 10.0.0.1 1 443\r\n",
            "PROXY \r\n",
            &long_line,
        ] {
            assert_eq!(parse_proxy_header(line.as_bytes()), Err(ProxyError::Line), "{line}");
        }
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01", b"PROXX", b"\r\n\r\n\0\r\nQUIT\r"] {
            assert_eq!(parse_proxy_header(bytes), Err(ProxyError::Missing), "{bytes:?}");
        }
        for (command, family) in [(0x11, 0x11), (0x22, 0x11), (0x21, 0x13), (0x21, 0x41), (0x21, 0x99)] {
            assert_eq!(parse_proxy_header(&binary(command, family, &[0; 40])), Err(ProxyError::Unknown));
        }
        assert_eq!(
            parse_proxy_header(&binary(0x21, 0x11, &[0; 11])),
            Err(ProxyError::Length { declared: 11 })
        );
        assert_eq!(
            parse_proxy_header(&binary(0x21, 0x21, &[0; 35])),
            Err(ProxyError::Length { declared: 35 })
        );
        // Refused by its declaration, before any of it has come.
        let huge = &binary(0x21, 0x11, &[0; 5_000])[..16];
        assert_eq!(parse_proxy_header(huge), Err(ProxyError::Length { declared: 5_000 }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(start in 0_usize..3, rest in prop::collection::vec(any::<u8>(), 0..5_000)) {
            let bytes = [[V1_START, V2_START, b""][start], &rest].concat();
            match parse_proxy_header(&bytes) {
                Ok(Some(header)) => prop_assert!(header.bytes <= bytes.len()),
                Ok(None) => prop_assert!(bytes.len() < PROXY_HEADER_BYTES_MAX, "more than it may ask for"),
                Err(_) => {}
            }
        }

        /// A verdict never changes with what comes later: a header stays that header, an error an error.
        #[test]
        fn more_bytes_change_no_verdict(rest in prop::collection::vec(any::<u8>(), 0..200), v2 in any::<bool>()) {
            let bytes = [if v2 { V2_START } else { V1_START }, &rest].concat();
            let whole = parse_proxy_header(&bytes);
            for cut in 0..bytes.len() {
                match parse_proxy_header(&bytes[..cut]) {
                    Ok(None) => {}
                    verdict => prop_assert_eq!(&verdict, &whole, "at {}", cut),
                }
            }
        }
    }
}
