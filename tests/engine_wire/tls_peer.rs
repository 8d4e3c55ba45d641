//! A TLS client that is not ours: rustls with its own record layer and buffers, over a raw host.

use crate::pki;
use crate::world::{RawWorld, UPGRADE, tls_server_addr};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedCipherSuite};
use std::io::{Read, Write};
use std::sync::Arc;
use unsocket::stack::{ConnId, Status};

/// A connection to the server where TLS is spoken.
pub(crate) struct Peer {
    pub(crate) conn: ConnId,
    pub(crate) tls: ClientConnection,
    /// What the server's TLS did wrong, as rustls sees it.
    pub(crate) error: Option<rustls::Error>,
    /// Plaintext that came.
    received: Vec<u8>,
}

/// A client's configuration with these suites alone; `identity` names the certificate it shows.
pub(crate) fn config(suites: &[SupportedCipherSuite], identity: Option<&str>) -> Arc<ClientConfig> {
    let provider = CryptoProvider { cipher_suites: suites.to_vec(), ..aws_lc_rs::default_provider() };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(pki::folder().join("ca.pem")).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let builder = ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let files = pki::identity(name);
            let chain =
                CertificateDer::pem_file_iter(files.certificate).unwrap().map(Result::unwrap).collect();
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(files.key).unwrap()).unwrap()
        }
    };
    Arc::new(config)
}

/// A client's configuration with everything that rustls has.
pub(crate) fn any() -> Arc<ClientConfig> {
    config(aws_lc_rs::DEFAULT_CIPHER_SUITES, None)
}

impl Peer {
    /// A TCP connection; nothing is sent.
    pub(crate) fn connect(world: &mut RawWorld, config: Arc<ClientConfig>, name: &str) -> Self {
        let conn = world.open_at(tls_server_addr());
        let name = ServerName::try_from(name.to_owned()).unwrap();
        Peer { conn, tls: ClientConnection::new(config, name).unwrap(), error: None, received: Vec::new() }
    }

    /// A connection on which the TLS handshake is done.
    #[track_caller]
    pub(crate) fn open(world: &mut RawWorld, config: Arc<ClientConfig>) -> Self {
        let mut peer = Peer::connect(world, config, "one.test");
        peer.exchange(world);
        assert!(!peer.tls.is_handshaking(), "{:?}", peer.error);
        peer
    }

    /// As [`Peer::open`], and the WebSocket's too.
    #[track_caller]
    pub(crate) fn upgraded(world: &mut RawWorld, config: Arc<ClientConfig>) -> Self {
        let mut peer = Peer::open(world, config);
        let answer = peer.ask(world, UPGRADE.as_bytes());
        assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
        peer
    }

    /// The records that are to be sent.
    pub(crate) fn records(&mut self) -> Vec<u8> {
        let mut records = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut records).unwrap();
        }
        records
    }

    /// Takes what the server sent.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.error.is_none() {
            self.tls.read_tls(&mut bytes).unwrap();
            self.error = self.tls.process_new_packets().err();
            // Its end is "would block", a close_notify, or the error that is kept.
            let _ = self.tls.reader().read_to_end(&mut self.received);
        }
    }

    /// Sends and receives until nothing more happens by itself.
    pub(crate) fn exchange(&mut self, world: &mut RawWorld) {
        loop {
            let records = self.records();
            let received = world.exchange(self.conn, &records);
            self.take(&received);
            if received.is_empty() && !self.tls.wants_write() {
                return;
            }
        }
    }

    /// Sends plaintext, and returns the plaintext that came back.
    pub(crate) fn ask(&mut self, world: &mut RawWorld, plain: &[u8]) -> Vec<u8> {
        let mut answer = Vec::new();
        for part in plain.chunks(16 << 10) {
            self.tls.writer().write_all(part).unwrap();
            self.exchange(world);
            answer.extend(self.plain());
        }
        answer
    }

    /// The plaintext that came.
    pub(crate) fn plain(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.received)
    }

    pub(crate) fn status(&self, world: &RawWorld) -> Option<Status> {
        world.raw.status(self.conn)
    }
}

/// A masked frame of a client, with the mask 0: the payload stands as it is.
pub(crate) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len @ 126..=65_535 => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// A server's frame.
pub(crate) fn unmasked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = frame(opcode, payload);
    frame[1] &= 0x7f;
    let end_of_head = frame.len() - payload.len();
    frame.drain(end_of_head - 4..end_of_head);
    frame
}
