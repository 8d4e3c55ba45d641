//! Close codes and close frames, RFC 6455 sections 5.5.1 and 7.4.

use super::ProtocolError;
use super::frame::CONTROL_BYTES_MAX;

/// Longest reason that a close frame can carry, in bytes (RFC 6455 section 5.5: 125, less the code).
pub const REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - 2;

/// A close status code, RFC 6455 section 7.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// 1000: the purpose is fulfilled.
    pub const NORMAL: CloseCode = CloseCode(1000);
    /// 1001: an endpoint goes away.
    pub const GOING_AWAY: CloseCode = CloseCode(1001);
    /// 1002: a protocol error.
    pub const PROTOCOL_ERROR: CloseCode = CloseCode(1002);
    /// 1003: a kind of data that cannot be accepted.
    pub const UNSUPPORTED: CloseCode = CloseCode(1003);
    /// 1005: no code was in the close frame; never on the wire.
    pub const NO_STATUS: CloseCode = CloseCode(1005);
    /// 1006: no close frame came; never on the wire.
    pub const ABNORMAL: CloseCode = CloseCode(1006);
    /// 1007: text that is not UTF-8.
    pub const INVALID_PAYLOAD: CloseCode = CloseCode(1007);
    /// 1008: a policy was violated.
    pub const POLICY: CloseCode = CloseCode(1008);
    /// 1009: a message too big.
    pub const TOO_BIG: CloseCode = CloseCode(1009);
    /// 1010: the server did not negotiate a needed extension.
    pub const MANDATORY_EXTENSION: CloseCode = CloseCode(1010);
    /// 1011: an unexpected condition at the server.
    pub const INTERNAL: CloseCode = CloseCode(1011);
    /// 1012: the service restarts (IANA registry).
    pub const SERVICE_RESTART: CloseCode = CloseCode(1012);
    /// 1013: try again later (IANA registry).
    pub const TRY_AGAIN_LATER: CloseCode = CloseCode(1013);
    /// 1014: a gateway got an invalid answer from behind it (IANA registry).
    pub const BAD_GATEWAY: CloseCode = CloseCode(1014);

    /// Whether a close frame may carry this code: 1000-1003, 1007-1014 (RFC 6455 section 7.4.1 and the IANA
    /// registry), 3000-4999 (section 7.4.2).
    pub const fn may_be_sent(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

/// What a close frame said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close<'a> {
    /// Its code; [`CloseCode::NO_STATUS`] when the frame was empty.
    pub code: CloseCode,
    /// Its reason, at most [`REASON_BYTES_MAX`] bytes.
    pub reason: &'a str,
}

impl<'a> Close<'a> {
    /// Reads the payload of a close frame.
    ///
    /// # Errors
    /// A single byte, a code that may not be sent, a reason that is not UTF-8.
    pub fn decode(payload: &'a [u8]) -> Result<Self, ProtocolError> {
        match payload {
            [] => Ok(Close { code: CloseCode::NO_STATUS, reason: "" }),
            [_] => Err(ProtocolError::CloseCodeCut),
            [high, low, reason @ ..] => {
                let code = CloseCode(u16::from_be_bytes([*high, *low]));
                if !code.may_be_sent() {
                    return Err(ProtocolError::CloseCodeForbidden { code: code.0 });
                }
                let reason = core::str::from_utf8(reason).map_err(|_| ProtocolError::CloseReasonNotUtf8)?;
                Ok(Close { code, reason })
            }
        }
    }

    /// Writes the payload of a close frame into `out` and returns its length in bytes.
    ///
    /// A reason over [`REASON_BYTES_MAX`] bytes is cut before the character that does not fit. A code that may
    /// not be on the wire ([`CloseCode::NO_STATUS`], [`CloseCode::ABNORMAL`], anything that
    /// [`CloseCode::may_be_sent`] denies) gives an empty payload, which the peer reads as 1005.
    pub fn encode(&self, out: &mut [u8; CONTROL_BYTES_MAX]) -> usize {
        if !self.code.may_be_sent() {
            return 0;
        }
        let reason = &self.reason[..self.reason.floor_char_boundary(REASON_BYTES_MAX)];
        let (code, rest) = out.split_at_mut(2);
        code.copy_from_slice(&self.code.0.to_be_bytes());
        rest[..reason.len()].copy_from_slice(reason.as_bytes());
        2 + reason.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(code: u16, reason: &str) -> Vec<u8> {
        let mut out = [0xaa; CONTROL_BYTES_MAX];
        let n = Close { code: CloseCode(code), reason }.encode(&mut out);
        out[..n].to_vec()
    }

    #[test]
    fn an_empty_close_has_no_status() {
        assert_eq!(Close::decode(b""), Ok(Close { code: CloseCode::NO_STATUS, reason: "" }));
    }

    #[test]
    fn one_byte_is_not_a_code() {
        assert_eq!(Close::decode(b"\x03"), Err(ProtocolError::CloseCodeCut));
    }

    #[test]
    fn exactly_the_codes_of_section_7_4_are_accepted() {
        for code in 0..=u16::MAX {
            let allowed = (1000..=1003).contains(&code)
                || (1007..=1014).contains(&code)
                || (3000..=4999).contains(&code);
            match Close::decode(&code.to_be_bytes()) {
                Ok(close) => assert!(allowed && close.code == CloseCode(code), "{code}"),
                Err(error) => {
                    assert!(!allowed, "{code}");
                    assert_eq!(error, ProtocolError::CloseCodeForbidden { code });
                }
            }
        }
    }

    #[test]
    fn a_reason_must_be_utf8() {
        assert_eq!(Close::decode(b"\x03\xe8\xff"), Err(ProtocolError::CloseReasonNotUtf8));
        assert_eq!(
            Close::decode("\u{3}\u{0}".as_bytes()),
            Err(ProtocolError::CloseCodeForbidden { code: 0x300 })
        );
        assert_eq!(Close::decode(b"\x03\xe8bye").map(|close| close.reason), Ok("bye"));
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same() {
        for (code, reason) in [(1000, ""), (1001, "restart"), (4999, "é€😀")] {
            let payload = encoded(code, reason);
            assert_eq!(Close::decode(&payload), Ok(Close { code: CloseCode(code), reason }));
        }
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let payload = encoded(1000, &"é".repeat(100));
        assert_eq!(payload.len(), 2 + 122, "61 whole characters of two bytes");
        assert_eq!(Close::decode(&payload).map(|close| close.reason.chars().count()), Ok(61));
        assert_eq!(encoded(1000, &"x".repeat(123)).len(), 125);
        assert_eq!(encoded(1000, &"x".repeat(124)).len(), 125);
    }

    #[test]
    fn codes_that_may_not_be_sent_give_an_empty_close() {
        for code in [0, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
            assert_eq!(encoded(code, "no"), b"", "{code}");
        }
    }
}
