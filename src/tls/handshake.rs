//! The handshake, by rustls: bytes in, bytes out, and at its end the secrets.
//!
//! One record at a time is shown to rustls, so that it never sees application data: what follows the handshake in
//! the same burst stays for the record layer.

use super::error::TlsError;
use super::record::{RECORD_BYTES_MAX, record_bytes};
use super::traffic::{Keys, Traffic};
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{HandshakeKind, ProtocolVersion};

/// Most bytes that are kept of one handshake message: rustls takes 64 KiB (a chain of client certificates), and whoever
/// cuts that into many records pays for their headers.
const HANDSHAKE_BYTES_MAX: usize = (64 << 10) + RECORD_BYTES_MAX;

/// What was agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// `"TLS 1.3"` or `"TLS 1.2"`.
    pub version: &'static str,
    /// The cipher suite's name in the registry of IANA.
    pub cipher_suite: String,
    /// The session is that of an earlier connection: no certificate was sent.
    pub resumed: bool,
    /// Whether the peer asked for `http/1.1` by ALPN.
    pub alpn: bool,
    /// The peer's certificates, verified, its own one first; each in DER. Empty when it showed none.
    pub peer_certificates: Vec<Vec<u8>>,
}

/// A handshake under way.
pub(super) struct Handshake {
    end: End,
    /// How many of the first bytes were shown to rustls before: a message goes on in the next record.
    shown: usize,
}

/// Which end we are.
pub(super) enum End {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

/// What one call of rustls came to.
enum Step {
    Again,
    Blocked,
    Failed(rustls::Error),
}

impl Handshake {
    pub(super) fn new(end: End) -> Self {
        Handshake { end, shown: 0 }
    }

    /// A client's first message.
    pub(super) fn start(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        self.advance(&mut Vec::new(), 0, out)
    }

    /// Where the record begins that rustls has not seen.
    pub(super) fn shown(&self) -> usize {
        self.shown
    }

    /// Works on the record that follows in `held`, if it is whole, and takes off what is done with. Appends the answers
    /// to `out`, also when it fails (an alert). Returns whether there was a whole record.
    pub(super) fn take_record(&mut self, held: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<bool, TlsError> {
        let fresh = held.get(self.shown..).unwrap_or_default();
        if record_bytes(fresh)?.is_none_or(|bytes| fresh.len() < bytes) {
            return Ok(false);
        }
        self.advance(held, held.len(), out)?;
        if self.shown > HANDSHAKE_BYTES_MAX {
            return Err(TlsError::HandshakeTooLarge { limit: HANDSHAKE_BYTES_MAX });
        }
        Ok(true)
    }

    fn advance(&mut self, held: &mut Vec<u8>, mut end: usize, out: &mut Vec<u8>) -> Result<(), TlsError> {
        let outcome = loop {
            match self.step(held, &mut end, out) {
                Step::Again => {}
                Step::Blocked => break Ok(()),
                Step::Failed(error) => break Err(error.into()),
            }
        };
        if outcome.is_err() {
            // rustls may still have something to say: what it agreed to before, and an alert. It must not look at
            // anything more.
            while self.common().wants_write() && matches!(self.step(held, &mut end, out), Step::Again) {}
        }
        self.shown = end;
        outcome
    }

    fn common(&self) -> &rustls::CommonState {
        match &self.end {
            End::Server(server) => server,
            End::Client(client) => client,
        }
    }

    /// One call of rustls: it is shown the first `end` bytes of `held`, and what is done with is taken off.
    fn step(&mut self, held: &mut Vec<u8>, end: &mut usize, out: &mut Vec<u8>) -> Step {
        let shown = &mut held[..*end];
        let (discard, step) = match &mut self.end {
            End::Server(server) => step(server.process_tls_records(shown), out),
            End::Client(client) => step(client.process_tls_records(shown), out),
        };
        let discard = discard.min(*end);
        held.drain(..discard);
        *end -= discard;
        step
    }

    /// Whether everything was said and heard.
    pub(super) fn is_done(&self) -> bool {
        !self.common().is_handshaking()
    }

    /// The record layer, with the secrets of the finished handshake.
    pub(super) fn into_traffic(self) -> Result<(Traffic, Agreed), TlsError> {
        if self.shown > 0 {
            // RFC 8446 section 5.1: a message must not span a change of keys.
            return Err(super::Violation::UnexpectedMessage.into());
        }
        let common = self.common();
        let tls13 = common.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        let suite = common.negotiated_cipher_suite();
        let records_max = match suite {
            Some(rustls::SupportedCipherSuite::Tls13(suite)) => suite.common.confidentiality_limit,
            Some(rustls::SupportedCipherSuite::Tls12(suite)) => suite.common.confidentiality_limit,
            None => return Err(rustls::Error::HandshakeNotComplete.into()),
        };
        let agreed = Agreed {
            version: if tls13 { "TLS 1.3" } else { "TLS 1.2" },
            cipher_suite: suite
                .and_then(|suite| suite.suite().as_str().map(str::to_owned))
                .unwrap_or_default(),
            resumed: common.handshake_kind() == Some(HandshakeKind::Resumed),
            alpn: common.alpn_protocol().is_some(),
            peer_certificates: common
                .peer_certificates()
                .unwrap_or_default()
                .iter()
                .map(|certificate| certificate.to_vec())
                .collect(),
        };
        let (secrets, keys) = match self.end {
            End::Server(server) => {
                let (secrets, connection) = server.dangerous_into_kernel_connection()?;
                (secrets, Keys::Server(Box::new(connection)))
            }
            End::Client(client) => {
                let (secrets, connection) = client.dangerous_into_kernel_connection()?;
                (secrets, Keys::Client(Box::new(connection)))
            }
        };
        let traffic = Traffic::new(&secrets, keys, tls13, records_max)
            .ok_or_else(|| TlsError::Handshake("a cipher that was not offered".into()))?;
        Ok((traffic, agreed))
    }
}

/// Sees to one state of rustls' connection; returns how many bytes are done with.
fn step<Data>(status: UnbufferedStatus<'_, '_, Data>, out: &mut Vec<u8>) -> (usize, Step) {
    let UnbufferedStatus { discard, state } = status;
    let step = match state {
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let start = out.len();
            if let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) {
                out.resize(start + size.required_size, 0);
            }
            let written = data.encode(&mut out[start..]).unwrap_or(0);
            out.truncate(start + written);
            Step::Again
        }
        Ok(ConnectionState::TransmitTlsData(sent)) => {
            sent.done();
            Step::Again
        }
        Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => Step::Blocked,
        // Data before the handshake is over, or its end: neither is offered nor allowed here.
        Ok(_) => Step::Failed(rustls::Error::General("data before the end of the handshake".into())),
        Err(error) => Step::Failed(error),
    };
    (discard, step)
}
