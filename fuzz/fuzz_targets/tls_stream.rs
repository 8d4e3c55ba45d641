//! TLS: a connection's end, in either role, and a peer that keeps no rule.
//!
//! The peer is rustls, so that the handshake gets somewhere, with some of its bytes changed on the way. Afterwards it has
//! the keys, and says what nobody without them could: records of any kind, whole, damaged and cut.
#![no_main]

use aws_lc_rs::aead::{AES_128_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::kx_group::X25519;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, Connection, ConnectionTrafficSecrets, DigitallySignedStruct, Error,
    ServerConfig, ServerConnection, SignatureScheme, SupportedCipherSuite,
};
use std::io::Cursor;
use std::sync::{Arc, OnceLock};
use unsocket::tls::{ClientTls, Data, Identity, ServerOptions, ServerTls, Stream, Trust};

/// What a step of the peer's may send, bytes.
const SAID_BYTES_MAX: usize = 20_000;
/// More steps than this teach nothing that fewer do not.
const STEPS_MAX: usize = 48;
/// Most that one end may keep of what is not whole: a handshake message of 64 KiB and a record.
const HELD_BYTES_MAX: usize = (64 << 10) + 2 * (17 << 10);
/// Most that may wait to be sent besides a handshake's own messages: an alert or a key update for each step.
const CONTROL_BYTES_MAX: usize = 16 << 10;

#[derive(Arbitrary, Debug)]
struct Input {
    /// The end that is attacked.
    server: bool,
    suite: u8,
    /// Any bytes, instead of a peer that shakes hands.
    raw: Option<Vec<u8>>,
    /// How the peer's handshake differs from the right one: exclusive or with its bytes at these places.
    changes: Vec<(u16, u8)>,
    /// Length of the pieces in which everything arrives.
    piece_bytes: u16,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    /// The peer seals a record with the right keys.
    Record { kind: u8, content: Vec<u8>, padding: u16, damage: Option<(u16, u8)> },
    /// The same as long as this, of the kind that carries data.
    Data { bytes: u16 },
    /// Any bytes.
    Raw(Vec<u8>),
    /// We send so much.
    Send { bytes: u16 },
    /// We say that we send nothing more.
    Close,
}

libfuzzer_sys::fuzz_target!(|input: Input| attack(input));

/// Whatever the peer sends: no panic, input is always used up, memory is bounded; what we seal opens under one sequence
/// number after the other, and nothing follows a close_notify or a fatal alert.
fn attack(input: Input) {
    let ends = ends();
    let suite = usize::from(input.suite) % ends.peers.len();
    let stream = match input.server {
        true => ends.server.accept(),
        false => ends.client.connect("a.example"),
    };
    let piece_bytes = usize::from(input.piece_bytes).max(1);
    let mut victim = Victim { stream: stream.expect("made from right files"), piece_bytes, is_over: false };
    if let Some(raw) = input.raw {
        victim.hear(&raw);
        return;
    }
    let (to_server, to_client) = &ends.peers[suite];
    let peer = match input.server {
        true => Connection::Client(
            ClientConnection::new(to_server.clone(), ServerName::try_from("a.example").unwrap()).unwrap(),
        ),
        false => Connection::Server(ServerConnection::new(to_client.clone()).unwrap()),
    };
    let Some(mut peer) = shake_hands(peer, &mut victim, &input.changes) else { return };
    for step in input.steps.into_iter().take(STEPS_MAX) {
        match step {
            Step::Record { kind, mut content, padding, damage } => {
                content.truncate(SAID_BYTES_MAX);
                let mut record = peer.send.seal(kind, &content, usize::from(padding) % SAID_BYTES_MAX);
                if let Some((at, flip)) = damage {
                    let at = usize::from(at) % record.len();
                    record[at] ^= flip;
                }
                victim.hear(&record);
            }
            Step::Data { bytes } => {
                let content = vec![7; usize::from(bytes) % SAID_BYTES_MAX];
                victim.hear(&peer.send.seal(23, &content, 0));
            }
            Step::Raw(bytes) => victim.hear(&bytes),
            Step::Send { bytes } => {
                let sealed = victim.send(usize::from(bytes));
                peer.hear(&sealed);
            }
            Step::Close => victim.stream.close(),
        }
        let control = std::mem::take(victim.stream.control());
        assert!(control.len() <= CONTROL_BYTES_MAX, "{} bytes to say", control.len());
        peer.hear(&control);
    }
}

/// The end that is attacked.
struct Victim {
    stream: Stream,
    piece_bytes: usize,
    is_over: bool,
}

impl Victim {
    /// What arrives: more of it is shown with each piece, until it is taken.
    fn hear(&mut self, arriving: &[u8]) {
        let mut waiting = Vec::new();
        for piece in arriving.chunks(self.piece_bytes) {
            waiting.extend_from_slice(piece);
            while !waiting.is_empty() {
                let shown_bytes = waiting.len();
                let step = match self.stream.receive(&mut waiting) {
                    Ok(step) => step,
                    Err(_) => {
                        assert!(!self.is_over, "it fails once");
                        self.is_over = true;
                        assert!(!self.stream.can_send());
                        waiting.clear();
                        break;
                    }
                };
                assert!((1..=shown_bytes).contains(&step.taken), "took {} of {shown_bytes}", step.taken);
                match step.data {
                    Data::Nothing => {}
                    Data::Shown(data) => assert!(!data.is_empty() && data.end <= step.taken),
                    Data::Held(data) => {
                        let held = self.stream.take_held();
                        assert!(!data.is_empty() && data.end <= held.len());
                        self.stream.put_held(held);
                    }
                }
                waiting.drain(..step.taken);
                assert!(
                    self.stream.held_bytes() <= HELD_BYTES_MAX,
                    "{} bytes held",
                    self.stream.held_bytes()
                );
            }
        }
    }

    /// Seals so much into a send buffer that has room for it.
    fn send(&mut self, bytes: usize) -> Vec<u8> {
        let mut sealed = std::mem::take(self.stream.control());
        let mut left = bytes.min(self.stream.room(bytes + 64));
        while left > 0 {
            let Some((plain, record)) = self.stream.next_record(left) else { break };
            let start = sealed.len();
            sealed.resize(start + record, 0);
            self.stream.seal(&mut sealed[start..], |place| place.fill(7));
            left -= plain;
        }
        sealed
    }
}

/// Passes what both ends say, the peer's with changes; `None` when they do not come together.
fn shake_hands(mut peer: Connection, victim: &mut Victim, changes: &[(u16, u8)]) -> Option<Peer> {
    let mut said_bytes = 0;
    // Neither end needs more turns than this, right or wrong.
    for _ in 0..8 {
        let mut said = Vec::new();
        while peer.wants_write() {
            peer.write_tls(&mut said).ok()?;
        }
        for (at, flip) in changes {
            if let Some(byte) = usize::from(*at).checked_sub(said_bytes).and_then(|at| said.get_mut(at)) {
                *byte ^= flip;
            }
        }
        said_bytes += said.len();
        victim.hear(&said);
        let mut answer = Cursor::new(std::mem::take(victim.stream.control()));
        let answer_bytes = answer.get_ref().len() as u64;
        while answer.position() < answer_bytes {
            peer.read_tls(&mut answer).ok()?;
            peer.process_new_packets().ok()?;
        }
        if victim.is_over {
            return None;
        }
        if !peer.is_handshaking() && !victim.stream.is_handshaking() && !peer.wants_write() {
            break;
        }
    }
    let is_done = !peer.is_handshaking() && !victim.stream.is_handshaking();
    is_done.then(|| Peer::new(peer))
}

/// The peer once it has the keys.
struct Peer {
    send: Protection,
    receive: Protection,
    /// The victim has said its last, or has taken keys that this peer cannot follow.
    is_over: bool,
    is_lost: bool,
}

impl Peer {
    fn new(connection: Connection) -> Peer {
        let tls13 = connection.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3);
        let secrets = connection.dangerous_extract_secrets().expect("it is asked for");
        let [send, receive] = [secrets.tx, secrets.rx].map(|secrets| Protection::new(secrets, tls13));
        Peer { send, receive, is_over: false, is_lost: false }
    }

    /// Opens whatever the victim sends.
    fn hear(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.is_lost {
            assert!(!self.is_over, "it says more after its last");
            let record_bytes = 5 + usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
            let (record, rest) = bytes.split_at(record_bytes);
            bytes = rest;
            let (kind, content) = self.receive.open(record);
            assert!(content.len() <= 1 << 14);
            match (kind, &content[..]) {
                (23, _) => assert!(content.iter().all(|byte| *byte == 7)),
                // A key update.
                (22, [24, 0, 0, 1, 0]) if self.receive.tls13 => self.is_lost = true,
                // No renegotiation.
                (21, [1, 100]) if !self.receive.tls13 => {}
                (21, [1, 0] | [2, _]) => self.is_over = true,
                other => panic!("it said {other:?}"),
            }
        }
    }
}

/// One direction's key; written from RFC 8446 section 5.2, RFC 5288 and RFC 7905 alone.
struct Protection {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
    tls13: bool,
    /// Bytes of the nonce in front, TLS 1.2's AES-GCM alone.
    explicit: usize,
}

impl Protection {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets), tls13: bool) -> Protection {
        let (algorithm, key, iv, gcm) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv, true),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv, false),
            _ => panic!("a suite that the peer does not offer"),
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).unwrap());
        let iv = iv.as_ref().try_into().unwrap();
        Protection { key, iv, sequence, tls13, explicit: if gcm && !tls13 { 8 } else { 0 } }
    }

    fn nonce(&self) -> [u8; 12] {
        let mut nonce = self.iv;
        for (byte, sequence) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= sequence;
        }
        nonce
    }

    fn aad(&self, kind: u8, plain_bytes: usize, record_bytes: usize) -> Vec<u8> {
        let length = |bytes: usize| (bytes as u16).to_be_bytes();
        if self.tls13 {
            return [&[23, 3, 3][..], &length(record_bytes)].concat();
        }
        [&self.sequence.to_be_bytes()[..], &[kind, 3, 3], &length(plain_bytes)].concat()
    }

    fn seal(&mut self, kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
        let mut body = content.to_vec();
        if self.tls13 {
            body.push(kind);
            body.resize(body.len() + padding, 0);
        }
        let record_bytes = self.explicit + body.len() + 16;
        let aad = Aad::from(self.aad(kind, body.len(), record_bytes));
        let nonce = self.nonce();
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut body)
            .expect("it is short");
        self.sequence += 1;
        let outer = if self.tls13 { 23 } else { kind };
        let header = [&[outer, 3, 3][..], &(record_bytes as u16).to_be_bytes()].concat();
        [&header, &nonce[12 - self.explicit..], &body].concat()
    }

    fn open(&mut self, record: &[u8]) -> (u8, Vec<u8>) {
        let outer = record[0];
        let plain_bytes = record.len() - 5 - self.explicit - 16;
        let aad = Aad::from(self.aad(outer, plain_bytes, record.len() - 5));
        let nonce = Nonce::assume_unique_for_key(self.nonce());
        let mut body = record[5 + self.explicit..].to_vec();
        let opened = self.key.open_in_place(nonce, aad, &mut body);
        let plain = opened.expect("what it seals opens, with the next sequence number").to_vec();
        self.sequence += 1;
        match plain.split_last() {
            Some((kind, content)) if self.tls13 => (*kind, content.to_vec()),
            _ => (outer, plain),
        }
    }
}

/// What all connections are made from, once.
struct Ends {
    server: ServerTls,
    client: ClientTls,
    /// For each suite a peer for either end.
    peers: Vec<(Arc<ClientConfig>, Arc<ServerConfig>)>,
}

fn ends() -> &'static Ends {
    static ENDS: OnceLock<Ends> = OnceLock::new();
    ENDS.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        let folder = std::env::temp_dir().join(format!("tls_stream.{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| folder.join(name));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let options = ServerOptions {
            identities: vec![Identity { certificate: certificate.clone(), key }],
            ..ServerOptions::default()
        };
        let server = ServerTls::load(options).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let client = ClientTls::load(&Trust::Anybody, None).unwrap().without_sessions();
        let suites = [
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        ];
        let chain = vec![made.cert.der().clone()];
        let key = made.signing_key.serialize_der();
        let peers = suites.map(|suite| peer(suite, &chain, &key)).to_vec();
        Ends { server, client, peers }
    })
}

fn peer(
    suite: SupportedCipherSuite,
    chain: &[CertificateDer<'static>],
    key: &[u8],
) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let mut provider = default_provider();
    provider.cipher_suites = vec![suite];
    // The cheapest one: what is looked at is the messages.
    provider.kx_groups = vec![X25519];
    let provider = Arc::new(provider);
    let versions = [suite.version()];
    let mut client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    client.resumption = rustls::client::Resumption::disabled();
    client.enable_secret_extraction = true;
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.to_vec(), PrivateKeyDer::Pkcs8(key.to_vec().into()))
        .unwrap();
    server.enable_secret_extraction = true;
    (Arc::new(client), Arc::new(server))
}

/// Believes everybody: it is the other end that is looked at.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
