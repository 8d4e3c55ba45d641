//! How many connections each peer has on this worker.

use super::topics::KeyedHash;
use hashbrown::HashMap;
use std::net::IpAddr;

/// Who counts as one peer: an IPv4 address, or an IPv6 network of 64 bits, of which one subscriber has all addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Peer {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl Peer {
    fn of(addr: IpAddr) -> Self {
        match addr.to_canonical() {
            IpAddr::V4(addr) => Peer::V4(addr.octets()),
            IpAddr::V6(addr) => {
                let [a, b, c, d, e, f, g, h, ..] = addr.octets();
                Peer::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// See the module. Invariant: no count is 0, so there are never more entries than connections.
pub(super) struct Peers {
    counts: HashMap<Peer, u32, KeyedHash>,
    per_peer_max: u32,
}

impl Peers {
    /// At most `per_peer_max` connections of one peer; 0 for any number, and then nothing is counted.
    pub(super) fn new(per_peer_max: u32, key: [u8; 16]) -> Self {
        Peers { counts: HashMap::with_hasher(KeyedHash { key }), per_peer_max }
    }

    /// Counts a connection; `false`, and nothing is counted, when the peer has as many as it may.
    pub(super) fn enter(&mut self, addr: IpAddr) -> bool {
        if self.per_peer_max == 0 {
            return true;
        }
        let count = self.counts.entry(Peer::of(addr)).or_insert(0);
        if *count >= self.per_peer_max {
            return false;
        }
        *count += 1;
        true
    }

    /// A connection that was counted is over.
    pub(super) fn leave(&mut self, addr: IpAddr) {
        let peer = Peer::of(addr);
        if let Some(count) = self.counts.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_and_an_ipv6_network_are_one_peer_each() {
        let mut peers = Peers::new(2, [7; 16]);
        let addr = |text: &str| text.parse::<IpAddr>().unwrap();
        for (one, same, other) in [
            ("10.0.0.1", "::ffff:10.0.0.1", "10.0.0.2"),
            ("fd00:0:0:1::1", "fd00:0:0:1:ffff::9", "fd00:0:0:2::1"),
        ] {
            assert!(peers.enter(addr(one)) && peers.enter(addr(same)));
            assert!(!peers.enter(addr(one)) && !peers.enter(addr(same)));
            assert!(peers.enter(addr(other)));
            peers.leave(addr(same));
            assert!(peers.enter(addr(one)));
            for gone in [one, one, other] {
                peers.leave(addr(gone));
            }
        }
        assert!(peers.counts.is_empty());
    }

    #[test]
    fn without_a_limit_nothing_is_kept() {
        let mut peers = Peers::new(0, [7; 16]);
        for _ in 0..1_000 {
            assert!(peers.enter("10.0.0.1".parse().unwrap()));
        }
        peers.leave("10.0.0.1".parse().unwrap());
        assert!(peers.counts.is_empty());
    }
}
