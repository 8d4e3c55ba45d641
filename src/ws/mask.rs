//! Masking in place, RFC 6455 section 5.3.
//!
//! A short message is done in a few pieces, without a loop. The rest is
//! one loop over 8-byte words, which the compiler vectorises for whatever the build's target has; on x86-64 the
//! same loop is compiled again for AVX2 and chosen at run time where that pays (`benches/codec.rs`). A copy for
//! AVX-512 was no faster at any size from 20 B to 64 KiB on Zen 5, so there is none.
#![allow(unsafe_code)] // the call of that copy, after the check that the processor has the instructions

/// From this many bytes on, asking the processor what it can do costs less than it saves.
#[cfg(target_arch = "x86_64")]
const SIMD_BYTES_MIN: usize = 256;

/// Up to here bytes are gone through in pieces.
const SHORT_BYTES_MAX: usize = 63;

/// XORs `data` with `key`, starting at byte `phase % 4` of the key; returns the phase after the last byte, so
/// that a payload can be masked in pieces.
#[inline(always)]
pub fn apply(data: &mut [u8], key: [u8; 4], phase: usize) -> usize {
    let next_phase = phase.wrapping_add(data.len()) & 3;
    let key = turned(u32::from_ne_bytes(key), phase);
    if data.len() <= SHORT_BYTES_MAX {
        short(data, key)
    } else {
        long(data, key)
    }
    next_phase
}

/// Copies what [`apply`] has most likely just written, or is about to mask.
///
/// A short payload is read in the pieces in which it was written: a processor passes a word on from a store to a load only
/// when all of it comes from one store, and else waits until that store and all before it have reached the cache.
///
/// # Panics
/// When the two are of different lengths.
#[inline(always)]
pub(crate) fn copy(to: &mut [u8], from: &[u8]) {
    if from.len() > SHORT_BYTES_MAX {
        return to.copy_from_slice(from);
    }
    assert_eq!(to.len(), from.len(), "a copy is as long as what is copied");
    let (to, from) = copy_piece::<32>(to, from);
    let (to, from) = copy_piece::<16>(to, from);
    let (to, from) = copy_piece::<8>(to, from);
    let (to, from) = copy_piece::<4>(to, from);
    let (to, from) = copy_piece::<2>(to, from);
    copy_piece::<1>(to, from);
}

/// Copies the first `N` bytes if the length's bit `N` is set; the rest.
#[inline(always)]
fn copy_piece<'a, 'b, const N: usize>(to: &'a mut [u8], from: &'b [u8]) -> (&'a mut [u8], &'b [u8]) {
    if from.len() & N == 0 {
        return (to, from);
    }
    match (to.split_first_chunk_mut::<N>(), from.split_first_chunk::<N>()) {
        (Some((place, to)), Some((bytes, from))) => {
            *place = *bytes;
            (to, from)
        }
        _ => Default::default(),
    }
}

/// The key whose first byte in memory is byte `phase % 4` of `key`'s.
#[inline(always)]
fn turned(key: u32, phase: usize) -> u32 {
    // Little end first: first byte first.
    u32::from_le(key).rotate_right(8 * (phase & 3) as u32).to_le()
}

/// XORs up to [`SHORT_BYTES_MAX`] bytes with `key`'s bytes repeated.
#[inline(always)]
fn short(data: &mut [u8], key: u32) {
    let data = mask_piece::<32>(data, key);
    let data = mask_piece::<16>(data, key);
    let data = mask_piece::<8>(data, key);
    let data = mask_piece::<4>(data, key);
    let two = data.len() & 2;
    let data = mask_piece::<2>(data, key);
    mask_piece::<1>(data, turned(key, two));
}

/// XORs the first `N` bytes if the length's bit `N` is set; the rest.
#[inline(always)]
fn mask_piece<const N: usize>(data: &mut [u8], key: u32) -> &mut [u8] {
    if data.len() & N == 0 {
        return data;
    }
    let Some((piece, rest)) = data.split_first_chunk_mut::<N>() else { return Default::default() };
    *piece = masked(*piece, key);
    rest
}

#[inline(always)]
fn masked<const N: usize>(mut bytes: [u8; N], key: u32) -> [u8; N] {
    words(&mut bytes, key);
    bytes
}

#[inline(always)]
fn twice(key: u32) -> u64 {
    u64::from(key) << 32 | u64::from(key)
}

/// [`words`], with SIMD where that pays. Apart, so that a short message is masked within its caller.
#[inline(never)]
fn long(data: &mut [u8], key: u32) {
    #[cfg(target_arch = "x86_64")]
    if data.len() >= SIMD_BYTES_MIN {
        simd(data, key);
        return;
    }
    words(data, key);
}

/// XORs `data` with `key`'s bytes repeated.
#[inline(always)]
fn words(data: &mut [u8], key: u32) {
    let (words, rest) = data.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ twice(key)).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(twice(key).to_ne_bytes()) {
        *byte ^= key;
    }
}

/// [`words`] with the widest vectors that pay on this processor.
#[cfg(target_arch = "x86_64")]
fn simd(data: &mut [u8], key: u32) {
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, as just checked; the function has no other requirement.
        unsafe { words_avx2(data, key) }
    } else {
        words(data, key);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn words_avx2(data: &mut [u8], key: u32) {
    words(data, key);
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    /// The algorithm as RFC 6455 section 5.3 writes it.
    fn byte_loop(data: &mut [u8], key: [u8; 4], phase: usize) {
        for (i, byte) in data.iter_mut().enumerate() {
            *byte ^= key[(phase + i) % 4];
        }
    }

    /// Each implementation against the byte loop: every length up to past all thresholds, phase and alignment.
    fn check(implementation: fn(&mut [u8], [u8; 4], usize) -> usize) {
        let original: Vec<u8> = (0..700u32).map(|i| (i * 167 + 13) as u8).collect();
        for length in (0..300).chain(505..520) {
            for phase in 0..4 {
                // The start moves through a cache line as the length does, with every phase at every residue.
                for start in [length % 64, (length * 7 + phase * 16 + 5) % 64] {
                    let mut expected = original.clone();
                    byte_loop(&mut expected[start..start + length], KEY, phase);
                    let mut actual = original.clone();
                    let next = implementation(&mut actual[start..start + length], KEY, phase);
                    assert_eq!(actual, expected, "length {length}, phase {phase}, start {start}");
                    assert_eq!(next, (phase + length) % 4);
                }
            }
        }
    }

    /// Calls an implementation that takes the key already rotated.
    fn rotated(implementation: fn(&mut [u8], u32), data: &mut [u8], phase: usize) -> usize {
        let mut key = KEY;
        key.rotate_left(phase);
        implementation(data, u32::from_ne_bytes(key));
        (phase + data.len()) % 4
    }

    #[test]
    fn apply_equals_the_byte_loop() {
        check(apply);
    }

    #[test]
    fn words_equal_the_byte_loop() {
        check(|data, _, phase| rotated(words, data, phase));
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn vectors_equal_the_byte_loop() {
        check(|data, _, phase| rotated(simd, data, phase));
    }

    #[test]
    fn any_start_inside_a_line_gives_the_same() {
        let mut buffer = [0u8; 64 + 333];
        for start in 0..64 {
            for phase in 0..4 {
                buffer.fill(0);
                apply(&mut buffer[start..start + 333], KEY, phase);
                for (i, &byte) in buffer.iter().enumerate() {
                    let inside = (start..start + 333).contains(&i);
                    let expected = if inside { KEY[(i - start + phase) % 4] } else { 0 };
                    assert_eq!(byte, expected);
                }
            }
        }
    }

    #[test]
    fn masking_in_pieces_equals_masking_at_once() {
        let original: Vec<u8> = (0..1000u32).map(|i| (i * 31) as u8).collect();
        let mut whole = original.clone();
        apply(&mut whole, KEY, 0);
        for piece in 1..=300 {
            let mut pieces = original.clone();
            let mut phase = 0;
            for chunk in pieces.chunks_mut(piece) {
                phase = apply(chunk, KEY, phase);
            }
            assert_eq!(pieces, whole, "pieces of {piece}");
        }
    }
}
