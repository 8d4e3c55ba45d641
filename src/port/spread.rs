//! Which queue of a device, and so which worker, the segments of a flow belong to.
//!
//! Both rules are pure functions of a flow's addresses and ports, so that everybody who steers agrees without asking: the
//! device, each worker, and who chooses the source port of an outgoing connection.

use std::net::{IpAddr, SocketAddr};

/// One end of a flow: the address as two words, IPv4 ones IPv4-mapped (RFC 4291 section 2.5.5.2), and the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// High and low half of the address.
    pub addr: [u64; 2],
    /// The port.
    pub port: u16,
}

/// A hash of a flow that both of its directions share, for steering by `hash % workers`.
///
/// It has no key and is the same on every machine: whoever steers must agree. Peers can choose colliding flows,
/// so it is no hash for a table.
#[inline]
pub fn flow_hash(one: End, other: End) -> u32 {
    let end = |End { addr: [high, low], port }: End| {
        let folded = (high ^ (u64::from(port) << 48)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
        mix(folded ^ low)
    };
    (mix(end(one).wrapping_add(end(other))) >> 32) as u32
}

/// The finaliser of splitmix64: every input bit reaches every output bit.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// What a device's receive-side scaling hashes of the TCP segments of one IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hashed {
    /// Nothing: all go where a hash of 0 goes.
    Nothing,
    /// Source and destination address.
    Addresses,
    /// Addresses and ports.
    AddressesAndPorts,
}

/// Receive-side scaling as a device is set up for it: a Toeplitz hash whose low bits choose from a table of queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rss {
    key: Vec<u8>,
    table: Vec<u16>,
    ipv4: Hashed,
    ipv6: Hashed,
}

impl Rss {
    /// With this key and redirection table. `None` for a table without entries.
    pub fn new(key: Vec<u8>, table: Vec<u16>, ipv4: Hashed, ipv6: Hashed) -> Option<Self> {
        (!table.is_empty()).then_some(Rss { key, table, ipv4, ipv6 })
    }

    /// The hash of segments from `remote` to `local`, as the device computes it; `None` where it hashes nothing.
    pub fn hash(&self, remote: SocketAddr, local: SocketAddr) -> Option<u32> {
        let mut input = [0; 36];
        let addresses = match (remote.ip(), local.ip()) {
            (IpAddr::V4(remote), IpAddr::V4(local)) => {
                input[..4].copy_from_slice(&remote.octets());
                input[4..8].copy_from_slice(&local.octets());
                8
            }
            (IpAddr::V6(remote), IpAddr::V6(local)) => {
                input[..16].copy_from_slice(&remote.octets());
                input[16..32].copy_from_slice(&local.octets());
                32
            }
            _ => return None,
        };
        input[addresses..addresses + 2].copy_from_slice(&remote.port().to_be_bytes());
        input[addresses + 2..addresses + 4].copy_from_slice(&local.port().to_be_bytes());
        let hashed = if addresses == 8 { self.ipv4 } else { self.ipv6 };
        let bytes = match hashed {
            Hashed::Nothing => return None,
            Hashed::Addresses => addresses,
            Hashed::AddressesAndPorts => addresses + 4,
        };
        Some(toeplitz(&self.key, &input[..bytes]))
    }

    /// The queue on which the device puts segments from `remote` to `local`.
    pub fn queue(&self, remote: SocketAddr, local: SocketAddr) -> u16 {
        let hash = self.hash(remote, local).unwrap_or(0);
        self.table[hash as usize % self.table.len()]
    }
}

/// The Toeplitz hash of `input` (addresses then ports, in network order) under `key`, as NICs compute it. A key that is
/// too short goes on with zeros.
fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let key_at = |at: usize| u64::from(key.get(at).copied().unwrap_or(0));
    // Five bytes of key: the 32-bit windows that begin at each bit of the byte at hand.
    let mut window = (0..4).fold(0, |window, at| window << 8 | key_at(at));
    let mut hash = 0;
    for (at, byte) in input.iter().enumerate() {
        window = (window << 8 | key_at(at + 4)) & 0xff_ffff_ffff;
        for bit in 0..8 {
            if byte & (0x80 >> bit) != 0 {
                hash ^= (window >> (8 - bit)) as u32;
            }
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of Microsoft's "Verifying the RSS Hash Calculation".
    const KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
        0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
        0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    fn rss(hashed: Hashed) -> Rss {
        Rss::new(KEY.to_vec(), vec![0, 1, 2, 3], hashed, hashed).unwrap()
    }

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_hash_agrees_with_the_published_table() {
        for (remote, local, addresses, ports) in [
            ("66.9.149.187:2794", "161.142.100.80:1766", 0x323e_8fc2, 0x51cc_c178),
            ("199.92.111.2:14230", "65.69.140.83:4739", 0xd718_262a, 0xc626_b0ea),
            ("[3ffe:2501:200:1fff::7]:2794", "[3ffe:2501:200:3::1]:1766", 0x2cc1_8cd5, 0x4020_7d3d),
        ] {
            let (remote, local) = (addr(remote), addr(local));
            assert_eq!(rss(Hashed::Addresses).hash(remote, local), Some(addresses), "{remote}");
            assert_eq!(rss(Hashed::AddressesAndPorts).hash(remote, local), Some(ports), "{remote}");
            assert_eq!(rss(Hashed::Nothing).hash(remote, local), None);
        }
    }

    #[test]
    fn the_low_bits_choose_from_the_table() {
        let (remote, local) = (addr("66.9.149.187:2794"), addr("161.142.100.80:1766"));
        let table: Vec<u16> = (0..128).map(|at| at % 5).collect();
        let rss = Rss::new(KEY.to_vec(), table, Hashed::AddressesAndPorts, Hashed::Nothing).unwrap();
        assert_eq!(rss.queue(remote, local), (0x51cc_c178 % 128 % 5) as u16);
        assert_eq!(rss.queue(addr("[::1]:1"), addr("[::2]:2")), 0);
        assert_eq!(Rss::new(Vec::new(), Vec::new(), Hashed::Nothing, Hashed::Nothing), None);
    }

    #[test]
    fn both_directions_hash_alike_under_a_key_that_repeats_every_16_bits() {
        let hashed = Hashed::AddressesAndPorts;
        let symmetric = Rss::new([0x6d, 0x5a].repeat(20), vec![0], hashed, hashed).unwrap();
        for (remote, local, other) in [
            ("10.0.0.1:50000", "10.0.7.2:80", "10.0.0.1:50001"),
            ("[fd73::1]:50000", "[fd73::2]:80", "[fd73::1]:50001"),
        ] {
            let hash = symmetric.hash(addr(remote), addr(local));
            assert_eq!(hash, symmetric.hash(addr(local), addr(remote)));
            assert_ne!(hash, symmetric.hash(addr(other), addr(local)));
        }
    }

    #[test]
    fn both_directions_have_one_flow_hash() {
        let (one, other) = (End { addr: [0, 7], port: 80 }, End { addr: [0, 9], port: 50_000 });
        assert_eq!(flow_hash(one, other), flow_hash(other, one));
        assert_ne!(flow_hash(one, other), flow_hash(End { port: 81, ..one }, other));
    }
}
