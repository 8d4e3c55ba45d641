//! The name of a flow, and the hash that steers it to its worker.

use core::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The 4-tuple of a flow from our side; IPv4 addresses are IPv4-mapped (RFC 4291 section 2.5.5.2). 36 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct FlowKey {
    pub(super) remote: [u8; 16],
    pub(super) local: [u8; 16],
    pub(super) remote_port: u16,
    pub(super) local_port: u16,
}

impl FlowKey {
    /// The flow between two endpoints of one address family.
    pub(crate) fn new(local: SocketAddr, remote: SocketAddr) -> Self {
        let octets = |addr: IpAddr| match addr {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        FlowKey {
            remote: octets(remote.ip()),
            local: octets(local.ip()),
            remote_port: remote.port(),
            local_port: local.port(),
        }
    }

    /// Our end.
    pub(crate) fn local(&self) -> SocketAddr {
        SocketAddr::new(Ipv6Addr::from(self.local).to_canonical(), self.local_port)
    }

    /// The peer's end.
    pub(crate) fn remote(&self) -> SocketAddr {
        SocketAddr::new(Ipv6Addr::from(self.remote).to_canonical(), self.remote_port)
    }

    /// Whether the addresses are IPv4.
    pub(crate) fn is_ipv4(&self) -> bool {
        self.local[..12] == MAPPED_PREFIX
    }

    /// The 36 bytes of the key, the same on every machine.
    pub(crate) fn to_bytes(self) -> [u8; 36] {
        let mut bytes = [0; 36];
        bytes[..16].copy_from_slice(&self.local);
        bytes[16..32].copy_from_slice(&self.remote);
        bytes[32..34].copy_from_slice(&self.local_port.to_be_bytes());
        bytes[34..].copy_from_slice(&self.remote_port.to_be_bytes());
        bytes
    }

    /// The same flow as its peer sees it.
    #[cfg(test)]
    pub(crate) fn reversed(&self) -> Self {
        FlowKey {
            remote: self.local,
            local: self.remote,
            remote_port: self.local_port,
            local_port: self.remote_port,
        }
    }

    /// The flow between two IPv4 endpoints.
    pub(super) fn ipv4(local: [u8; 4], remote: [u8; 4], local_port: u16, remote_port: u16) -> Self {
        FlowKey { remote: mapped(remote), local: mapped(local), remote_port, local_port }
    }
}

impl Hash for FlowKey {
    /// Word by word: half the cost of hashing the fields as slices.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [remote_high, remote_low] = words(&self.remote);
        let [local_high, local_low] = words(&self.local);
        state.write_u64(remote_high);
        state.write_u64(remote_low);
        state.write_u64(local_high);
        state.write_u64(local_low);
        state.write_u32(u32::from(self.remote_port) << 16 | u32::from(self.local_port));
    }
}

/// A hash of a flow that both of its directions share, for steering by `hash % workers`.
///
/// It has no key and is the same on every machine: whoever steers must agree. Peers can choose colliding flows,
/// so it is no hash for a table.
pub(crate) fn symmetric_hash(key: &FlowKey) -> u32 {
    let end = |addr: &[u8; 16], port: u16| {
        let [high, low] = words(addr);
        mix(high ^ mix(low ^ u64::from(port).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    };
    let sum = end(&key.remote, key.remote_port).wrapping_add(end(&key.local, key.local_port));
    (mix(sum) >> 32) as u32
}

/// The finaliser of splitmix64: every input bit reaches every output bit.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn words(addr: &[u8; 16]) -> [u64; 2] {
    let whole = u128::from_be_bytes(*addr);
    [(whole >> 64) as u64, whole as u64]
}

/// What IPv4-mapped addresses begin with.
pub(super) const MAPPED_PREFIX: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

fn mapped(addr: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = addr;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::super::frames::{ours_v4, ours_v6, peer_v4, peer_v6};
    use super::*;

    #[test]
    fn the_symmetric_hash_is_the_same_everywhere() {
        // Software steering relies on these values when different builds share a wire.
        assert_eq!(symmetric_hash(&FlowKey::new(ours_v4(), peer_v4())), HASH_V4);
        assert_eq!(symmetric_hash(&FlowKey::new(ours_v6(), peer_v6())), HASH_V6);
    }

    const HASH_V4: u32 = 2_903_242_303;
    const HASH_V6: u32 = 3_596_981_189;

    #[test]
    fn the_symmetric_hash_spreads_neighbouring_flows() {
        for workers in [2_usize, 3, 4, 7, 16] {
            let mut by_port = vec![0_u32; workers];
            let mut by_addr = vec![0_u32; workers];
            for n in 0..8_192_u16 {
                let port = FlowKey::new(ours_v4(), SocketAddr::new(peer_v4().ip(), 32_768 + n));
                by_port[symmetric_hash(&port) as usize % workers] += 1;
                let [high, low] = n.to_be_bytes();
                let addr = FlowKey::new(ours_v4(), SocketAddr::from(([10, 1, high, low], 40_000)));
                by_addr[symmetric_hash(&addr) as usize % workers] += 1;
            }
            let fair = 8_192.0 / workers as f64;
            for count in by_port.into_iter().chain(by_addr) {
                // Five standard deviations.
                assert!((f64::from(count) - fair).abs() < 5.0 * fair.sqrt(), "{count} of {fair}");
            }
        }
    }
}
