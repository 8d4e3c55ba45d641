//! Keys for the keyed functions of one worker, all from its one secret.

use core::hash::Hasher;
use siphasher::sip128::{Hasher128, SipHasher24};

/// The key of one purpose: functions that share the secret learn nothing of each other's keys.
pub(crate) fn derive_key(secret: &[u8; 32], purpose: &str) -> [u8; 16] {
    let mut root = [0; 16];
    root.copy_from_slice(&secret[..16]);
    let mut hasher = SipHasher24::new_with_key(&root);
    hasher.write(&secret[16..]);
    hasher.write(purpose.as_bytes());
    hasher.finish128().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_purpose_and_every_half_of_the_secret_makes_another_key() {
        let secret = [7; 32];
        let key = derive_key(&secret, "flow table");
        assert_eq!(key, derive_key(&secret, "flow table"));
        assert_ne!(key, derive_key(&secret, "ports"));
        for at in [0, 31] {
            let mut other = secret;
            other[at] ^= 1;
            assert_ne!(key, derive_key(&other, "flow table"));
        }
    }
}
