//! The name of a flow.

use crate::port::spread::{End, flow_hash};
use core::fmt;
use core::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The 4-tuple of a flow from our side; IPv4 addresses are IPv4-mapped (RFC 4291 section 2.5.5.2). 40 bytes.
///
/// Addresses are kept as two words, high and low, because they are made, compared and hashed for every segment:
/// bytes written one by one and read back as words cost more than all the rest of it.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct FlowKey {
    remote: [u64; 2],
    local: [u64; 2],
    /// The remote port above the local one, written as it is read: a word read back from two halves waits until both
    /// stores, and all before them, have left for the cache.
    ports: u32,
}

impl FlowKey {
    /// The flow between two endpoints of one address family.
    pub(crate) fn new(local: SocketAddr, remote: SocketAddr) -> Self {
        let octets = |addr: IpAddr| match addr {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        FlowKey {
            remote: words(&octets(remote.ip())),
            local: words(&octets(local.ip())),
            ports: ports(local.port(), remote.port()),
        }
    }

    /// The flow between two IPv4 endpoints, addresses as they stand in a header.
    pub(crate) fn ipv4(local: [u8; 4], remote: [u8; 4], local_port: u16, remote_port: u16) -> Self {
        let mapped = |addr| [0, IPV4_MAPPED << 32 | u64::from(u32::from_be_bytes(addr))];
        FlowKey { remote: mapped(remote), local: mapped(local), ports: ports(local_port, remote_port) }
    }

    /// The flow between two IPv6 endpoints, addresses as they stand in a header. They must not be IPv4-mapped, or the
    /// key is an IPv4 flow's.
    pub(crate) fn ipv6(local: &[u8; 16], remote: &[u8; 16], local_port: u16, remote_port: u16) -> Self {
        FlowKey { remote: words(remote), local: words(local), ports: ports(local_port, remote_port) }
    }

    /// The flow with another port of ours.
    pub(crate) fn with_local_port(self, local_port: u16) -> Self {
        FlowKey { ports: ports(local_port, self.remote_port()), ..self }
    }

    /// Our end.
    pub(crate) fn local(&self) -> SocketAddr {
        SocketAddr::new(address(self.local), self.local_port())
    }

    /// The peer's end.
    pub(crate) fn remote(&self) -> SocketAddr {
        SocketAddr::new(address(self.remote), self.remote_port())
    }

    /// Our port.
    pub(crate) fn local_port(&self) -> u16 {
        self.ports as u16
    }

    /// The peer's port.
    pub(crate) fn remote_port(&self) -> u16 {
        (self.ports >> 16) as u16
    }

    /// Whether the addresses are IPv4.
    pub(crate) fn is_ipv4(&self) -> bool {
        is_ipv4_mapped(self.local)
    }

    /// Addresses and ports, the same on every machine.
    pub(crate) fn to_bytes(self) -> [u8; 36] {
        let mut bytes = [0; 36];
        for (place, word) in bytes.chunks_exact_mut(8).zip([self.local, self.remote].concat()) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        bytes[32..].copy_from_slice(&self.ports.to_be_bytes());
        bytes
    }

    /// The same flow as its peer sees it.
    #[cfg(test)]
    pub(crate) fn reversed(&self) -> Self {
        FlowKey { remote: self.local, local: self.remote, ports: self.ports.rotate_left(16) }
    }
}

impl Hash for FlowKey {
    /// Word by word: half the cost of hashing the fields as slices.
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.remote[0]);
        state.write_u64(self.remote[1]);
        state.write_u64(self.local[0]);
        state.write_u64(self.local[1]);
        state.write_u32(self.ports);
    }
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} <-> {}", self.local(), self.remote())
    }
}

/// The hash by which workers share flows where no device steers.
pub(crate) fn symmetric_hash(key: &FlowKey) -> u32 {
    flow_hash(
        End { addr: key.remote, port: key.remote_port() },
        End { addr: key.local, port: key.local_port() },
    )
}

/// The upper half of the low word of an IPv4-mapped address.
const IPV4_MAPPED: u64 = 0xffff;

fn is_ipv4_mapped([high, low]: [u64; 2]) -> bool {
    high == 0 && low >> 32 == IPV4_MAPPED
}

fn ports(local: u16, remote: u16) -> u32 {
    u32::from(remote) << 16 | u32::from(local)
}

fn words(addr: &[u8; 16]) -> [u64; 2] {
    let whole = u128::from_be_bytes(*addr);
    [(whole >> 64) as u64, whole as u64]
}

fn address(words @ [high, low]: [u64; 2]) -> IpAddr {
    if is_ipv4_mapped(words) {
        return Ipv4Addr::from(low as u32).into();
    }
    Ipv6Addr::from(u128::from(high) << 64 | u128::from(low)).into()
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

    const HASH_V4: u32 = 3_019_875_461;
    const HASH_V6: u32 = 241_616_169;

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
