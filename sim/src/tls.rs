//! TLS in a world: the same certificate in every process, of a kind whose signatures all have one length, so that the
//! seed decides on every length. The bytes themselves it does not: handshakes draw their own randomness.

use crate::host::TLS_PORT;
use crate::packet::{Resolution, Segment};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, SerialNumber};
use rustix::fs::{MemfdFlags, memfd_create};
use std::borrow::Cow;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use unsocket::engine::ConnectTls;
use unsocket::tls::{ClientTls, Identity, ServerOptions, ServerTls, Trust};

const NAME: &str = "simulated.example";
/// What stands before the 32 bytes of an Ed25519 key in PKCS#8: RFC 8410 section 7.
const PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// A server's, with tickets of its own.
pub(crate) fn server() -> Arc<ServerTls> {
    let file = certificate();
    let identities = vec![Identity { certificate: file.to_owned(), key: file.to_owned() }];
    let options = ServerOptions { identities, ..ServerOptions::default() };
    Arc::new(ServerTls::load(options).expect("the certificate was just made"))
}

/// A client's, that has no sessions to resume yet.
pub(crate) fn client() -> ConnectTls {
    let trust = Trust::File(certificate().to_owned());
    let config = ClientTls::load(&trust, None).expect("the certificate was just made");
    ConnectTls { config, server_name: NAME.to_owned() }
}

/// The file with certificate and key: it is in memory alone.
fn certificate() -> &'static Path {
    static FILE: OnceLock<(OwnedFd, PathBuf)> = OnceLock::new();
    let (_, path) = FILE.get_or_init(|| {
        let key = [&PKCS8[..], &[7; 32]].concat();
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key.as_slice().into(), &PKCS_ED25519)
            .expect("32 bytes are a key");
        let mut params = CertificateParams::new([NAME.to_owned()]).expect("a name");
        params.serial_number = Some(SerialNumber::from(1u64));
        let made = params.self_signed(&key).expect("a certificate");
        let memory = memfd_create("certificate", MemfdFlags::CLOEXEC).expect("memory for a file");
        let path = PathBuf::from(format!("/proc/self/fd/{}", memory.as_raw_fd()));
        std::fs::write(&path, made.pem() + &key.serialize_pem()).expect("room in it");
        (memory, path)
    });
    path
}

/// What of a frame is the same in each run: all of it, or its header and length when it may carry what TLS made.
pub(crate) fn what_a_seed_decides(frame: &[u8]) -> Cow<'_, [u8]> {
    if Resolution::parse(frame).is_some() {
        return Cow::Borrowed(frame);
    }
    // What damage or an ICMP message makes of a frame with TLS is not told from what it makes of others.
    let len = (frame.len() as u64).to_le_bytes();
    match Segment::parse(frame).filter(|_| Segment::is_whole(frame)) {
        None => Cow::Owned(len.to_vec()),
        Some(segment) if [segment.from.port, segment.to.port].contains(&TLS_PORT) => {
            let Segment { from, to, seq, ack, flags, window, .. } = segment;
            let numbers = [seq, ack, flags.into(), window.into(), from.port.into(), to.port.into()];
            Cow::Owned(numbers.iter().flat_map(|number| number.to_le_bytes()).chain(len).collect())
        }
        Some(_) => Cow::Borrowed(frame),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{ACK, End};

    fn frame(port: u16, payload: &[u8]) -> Vec<u8> {
        let end = |port| End { addr: [10, 0, 0, 1].into(), port };
        let (from, to) = (end(port), end(50_000));
        Segment { from, to, seq: 1, ack: 2, flags: ACK, window: 3, payload }.frame([[2; 6], [4; 6]])
    }

    #[test]
    fn a_seed_decides_on_the_bytes_of_plain_text_and_on_the_length_of_the_rest() {
        let plain = frame(80, b"one");
        assert_eq!(what_a_seed_decides(&plain), plain);
        let [one, two, longer] = [&b"one"[..], b"two", b"three"].map(|payload| frame(TLS_PORT, payload));
        assert_eq!(what_a_seed_decides(&one), what_a_seed_decides(&two));
        assert_ne!(what_a_seed_decides(&one), what_a_seed_decides(&longer));
        // Damage may have made a TLS segment another one.
        let mut damaged = plain.clone();
        damaged[55] ^= 1;
        assert_eq!(what_a_seed_decides(&damaged).len(), 8);
    }
}
