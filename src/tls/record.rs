//! Record protection in place: a record is opened where it lies and sealed where it will be sent from
//! (RFC 8446 section 5.2; for TLS 1.2 RFC 5246 section 6.2.3.3, RFC 5288 and RFC 7905).

use super::error::Violation;
use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use rustls::ConnectionTrafficSecrets;
use std::ops::Range;

/// Type, version and length.
pub(super) const HEADER_BYTES: usize = 5;
/// Most plaintext in one record, RFC 8446 section 5.1.
pub(super) const FRAGMENT_BYTES_MAX: usize = 1 << 14;
/// Most ciphertext in one record: what TLS 1.2 may add is more than what TLS 1.3 may (RFC 5246 section 6.2.3).
const CIPHERTEXT_BYTES_MAX: usize = FRAGMENT_BYTES_MAX + 2048;
/// The same in TLS 1.3 (RFC 8446 section 5.2).
const TLS13_CIPHERTEXT_BYTES_MAX: usize = FRAGMENT_BYTES_MAX + 256;
/// The largest record there can be.
pub(super) const RECORD_BYTES_MAX: usize = HEADER_BYTES + CIPHERTEXT_BYTES_MAX;

const TAG_BYTES: usize = 16;
/// The part of the nonce that TLS 1.2 sends along with AES-GCM (RFC 5288 section 3).
const EXPLICIT_NONCE_BYTES: usize = 8;
/// `legacy_record_version`: every record says TLS 1.2.
const VERSION: [u8; 2] = [3, 3];

/// What is in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContentType(pub(super) u8);

impl ContentType {
    pub(super) const ALERT: Self = ContentType(21);
    pub(super) const HANDSHAKE: Self = ContentType(22);
    pub(super) const DATA: Self = ContentType(23);
}

/// How a version of the protocol and a cipher lay out their records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// The type is inside; nothing but the sequence number makes the nonce.
    Tls13,
    /// Eight bytes of the nonce come first.
    Tls12Gcm,
    /// As in TLS 1.3, but the type is outside.
    Tls12ChaCha,
}

impl Layout {
    /// Bytes before the plaintext.
    fn lead(self) -> usize {
        if self == Layout::Tls12Gcm { HEADER_BYTES + EXPLICIT_NONCE_BYTES } else { HEADER_BYTES }
    }

    /// Bytes after the plaintext.
    fn trail(self) -> usize {
        if self == Layout::Tls13 { 1 + TAG_BYTES } else { TAG_BYTES }
    }
}

/// One direction's key, and how many records it was used for.
struct Protection {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
    layout: Layout,
}

impl Protection {
    fn new(sequence: u64, secrets: &ConnectionTrafficSecrets, tls13: bool) -> Option<Self> {
        let (algorithm, key, iv): (&'static Algorithm, _, _) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return None,
        };
        let layout = match (tls13, algorithm == &CHACHA20_POLY1305) {
            (true, _) => Layout::Tls13,
            (false, false) => Layout::Tls12Gcm,
            (false, true) => Layout::Tls12ChaCha,
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).ok()?);
        Some(Protection { key, iv: iv.as_ref().try_into().ok()?, sequence, layout })
    }

    /// The nonce of the next record: the IV with the sequence number in its last eight bytes (RFC 8446 section 5.3).
    fn nonce(&self) -> [u8; NONCE_LEN] {
        let mut nonce = self.iv;
        for (byte, sequence) in nonce[NONCE_LEN - 8..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= sequence;
        }
        nonce
    }

    /// TLS 1.2's additional data: what the header says of the plaintext.
    fn tls12_aad(&self, kind: ContentType, plain_bytes: usize) -> [u8; 13] {
        let mut aad = [0; 13];
        aad[..8].copy_from_slice(&self.sequence.to_be_bytes());
        aad[8] = kind.0;
        aad[9..11].copy_from_slice(&VERSION);
        aad[11..].copy_from_slice(&(plain_bytes as u16).to_be_bytes());
        aad
    }
}

/// Opens what the peer sends.
pub(super) struct Opener(Protection);

impl Opener {
    /// With the secrets of an established connection; `None` for a cipher that is not offered.
    pub(super) fn new((sequence, secrets): &(u64, ConnectionTrafficSecrets), tls13: bool) -> Option<Self> {
        Protection::new(*sequence, secrets, tls13).map(Opener)
    }

    /// Opens one whole record in place. Returns what it contains and where in `record` that lies.
    pub(super) fn open(&mut self, record: &mut [u8]) -> Result<(ContentType, Range<usize>), Violation> {
        let Protection { key, layout, sequence, .. } = &self.0;
        let (layout, sequence) = (*layout, *sequence);
        let (lead, overhead) = (layout.lead(), layout.lead() + TAG_BYTES);
        let Some(plain_bytes) = record.len().checked_sub(overhead) else { return Err(Violation::BadRecord) };
        let (header, body) = record.split_at_mut(HEADER_BYTES);
        let outer = ContentType(header[0]);
        let mut nonce = self.0.nonce();
        let opened = match layout {
            Layout::Tls13 => {
                if outer != ContentType::DATA {
                    // After the handshake every record is protected and says so (RFC 8446 section 5).
                    return Err(Violation::UnexpectedMessage);
                }
                if body.len() > TLS13_CIPHERTEXT_BYTES_MAX {
                    return Err(Violation::RecordOverflow);
                }
                let aad: [u8; HEADER_BYTES] = header.try_into().unwrap_or_default();
                key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), body)
            }
            Layout::Tls12Gcm => {
                let (explicit, body) = body.split_at_mut(EXPLICIT_NONCE_BYTES);
                nonce[NONCE_LEN - EXPLICIT_NONCE_BYTES..].copy_from_slice(explicit);
                let aad = Aad::from(self.0.tls12_aad(outer, plain_bytes));
                key.open_in_place(Nonce::assume_unique_for_key(nonce), aad, body)
            }
            Layout::Tls12ChaCha => {
                let aad = Aad::from(self.0.tls12_aad(outer, plain_bytes));
                key.open_in_place(Nonce::assume_unique_for_key(nonce), aad, body)
            }
        };
        let plain = opened.map_err(|_| Violation::BadRecord)?;
        // The connection would have to run for centuries: no wrap is possible, and none may happen.
        self.0.sequence = sequence.checked_add(1).ok_or(Violation::KeysExhausted)?;
        let (kind, len) = if layout == Layout::Tls13 {
            // RFC 8446 section 5.4: the type and all padding count; the last byte that is not padding is the type, and
            // there must be one.
            if plain.len() > FRAGMENT_BYTES_MAX + 1 {
                return Err(Violation::RecordOverflow);
            }
            let end = plain.iter().rposition(|byte| *byte != 0).ok_or(Violation::UnexpectedMessage)?;
            (ContentType(plain[end]), end)
        } else {
            (outer, plain.len())
        };
        if len > FRAGMENT_BYTES_MAX {
            return Err(Violation::RecordOverflow);
        }
        Ok((kind, lead..lead + len))
    }
}

/// Seals what we send.
pub(super) struct Sealer {
    protection: Protection,
    /// Records after which the key must not be used any more.
    sequence_max: u64,
}

impl Sealer {
    /// With the secrets of an established connection; `None` for a cipher that is not offered. `records_max` is how
    /// many records the cipher's key is good for.
    pub(super) fn new(
        (sequence, secrets): &(u64, ConnectionTrafficSecrets),
        tls13: bool,
        records_max: u64,
    ) -> Option<Self> {
        let protection = Protection::new(*sequence, secrets, tls13)?;
        // A few records stay in reserve for a key update and alerts.
        let sequence_max = records_max.min(u64::MAX - 1024).saturating_sub(1024).max(1);
        Some(Sealer { protection, sequence_max })
    }

    /// What a record adds to its plaintext, bytes.
    pub(super) fn overhead(&self) -> usize {
        self.protection.layout.lead() + self.protection.layout.trail()
    }

    /// Whether the key has done its work (RFC 8446 section 5.5).
    pub(super) fn is_exhausted(&self) -> bool {
        self.protection.sequence >= self.sequence_max
    }

    /// Makes one record in `place`, which is as long as the plaintext and [`Sealer::overhead`] together; `fill` writes
    /// the plaintext, of at most [`FRAGMENT_BYTES_MAX`] bytes.
    pub(super) fn seal(&mut self, kind: ContentType, place: &mut [u8], fill: impl FnOnce(&mut [u8])) {
        let layout = self.protection.layout;
        let (lead, overhead) = (layout.lead(), self.overhead());
        let plain_bytes = place.len().saturating_sub(overhead);
        debug_assert!(place.len() >= overhead && plain_bytes <= FRAGMENT_BYTES_MAX);
        let nonce = self.protection.nonce();
        let outer = if layout == Layout::Tls13 { ContentType::DATA } else { kind };
        let [major, minor] = VERSION;
        let [high, low] = ((place.len() - HEADER_BYTES) as u16).to_be_bytes();
        let header = [outer.0, major, minor, high, low];
        place[..HEADER_BYTES].copy_from_slice(&header);
        if layout == Layout::Tls12Gcm {
            place[HEADER_BYTES..lead].copy_from_slice(&nonce[NONCE_LEN - EXPLICIT_NONCE_BYTES..]);
        }
        fill(&mut place[lead..lead + plain_bytes]);
        let (body, tag_place) = place[lead..].split_at_mut(plain_bytes + layout.trail() - TAG_BYTES);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = if layout == Layout::Tls13 {
            body[plain_bytes] = kind.0;
            self.protection.key.seal_in_place_separate_tag(nonce, Aad::from(header), body)
        } else {
            let aad = Aad::from(self.protection.tls12_aad(kind, plain_bytes));
            self.protection.key.seal_in_place_separate_tag(nonce, aad, body)
        };
        match tag {
            Ok(tag) => tag_place.copy_from_slice(tag.as_ref()),
            // It fails for inputs beyond 2^36 bytes only. Were it ever to fail, nothing readable may leave.
            Err(_) => place[lead..].fill(0),
        }
        self.protection.sequence += 1;
    }
}

/// The length of the record that begins here, header included; `None` as long as the header is not whole.
///
/// # Errors
/// No such record can be.
pub(super) fn record_bytes(bytes: &[u8]) -> Result<Option<usize>, Violation> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let [kind, major, _, high, low] = *header;
    // RFC 5246 section 6.2.1 and RFC 8446 section 5.1: the types 20 to 23, and versions 3.x.
    if !(20..=23).contains(&kind) || major != 3 {
        return Err(Violation::UnexpectedMessage);
    }
    let len = usize::from(u16::from_be_bytes([high, low]));
    if len > CIPHERTEXT_BYTES_MAX {
        return Err(Violation::RecordOverflow);
    }
    Ok(Some(HEADER_BYTES + len))
}
