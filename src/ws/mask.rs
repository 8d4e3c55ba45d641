//! Masking in place, RFC 6455 section 5.3.

/// XORs `data` with `key`, starting at byte `phase % 4` of the key; returns the phase after the last byte.
pub fn apply(data: &mut [u8], key: [u8; 4], phase: usize) -> usize {
    for (i, byte) in data.iter_mut().enumerate() {
        *byte ^= key[(phase + i) & 3];
    }
    (phase + data.len()) & 3
}
