//! Close codes and close frames, RFC 6455 section 7.4.

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
    /// 1013: try again later.
    pub const TRY_AGAIN_LATER: CloseCode = CloseCode(1013);

    /// Whether a peer may put this code into a close frame: 1000-1003, 1007-1014, 3000-4999.
    pub const fn may_be_sent(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

/// What a close frame said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close<'a> {
    /// Its code; [`CloseCode::NO_STATUS`] when the frame was empty.
    pub code: CloseCode,
    /// Its reason, at most 123 bytes.
    pub reason: &'a str,
}
