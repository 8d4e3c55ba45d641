//! How many connections each peer has, over all workers.
//!
//! The one table that workers share: RSS spreads a peer's connections over them, so none of them could tell alone. It is
//! touched when a connection is accepted and when it ends, and never in between; without a limit, never.

use super::topics::KeyedHash;
use crossbeam_utils::CachePadded;
use hashbrown::HashTable;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Parts of the table, each with a lock of its own: two workers seldom want the same one at once.
const SHARDS: usize = 64;

/// Who counts as one peer: an IPv4 address, or an IPv6 network of 64 bits, of which one subscriber has all addresses.
///
/// In the bits of an IPv6 address: the IPv4 one as it is mapped (RFC 4291 section 2.5.5.2), which no network of 64 bits is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Peer(u128);

impl Peer {
    fn of(addr: IpAddr) -> Self {
        match addr.to_canonical() {
            IpAddr::V4(addr) => Peer(addr.to_ipv6_mapped().to_bits()),
            IpAddr::V6(addr) => Peer(addr.to_bits() >> 64 << 64),
        }
    }
}

/// See the module. Invariant: no count is 0, so there are never more entries than connections.
pub(super) struct Peers {
    shards: Box<[CachePadded<Mutex<Counts>>]>,
    hash: KeyedHash,
    per_peer_max: u32,
}

type Counts = HashTable<Count>;

/// How many connections a peer has.
struct Count {
    peer: Peer,
    connections: u32,
}

impl Peers {
    /// At most `per_peer_max` connections of one peer; 0 for any number, and then nothing is counted.
    pub(super) fn new(per_peer_max: u32, key: [u8; 16]) -> Self {
        let shards = if per_peer_max == 0 { 0 } else { SHARDS };
        let counts = || CachePadded::new(Mutex::new(HashTable::new()));
        Peers { shards: (0..shards).map(|_| counts()).collect(), hash: KeyedHash { key }, per_peer_max }
    }

    /// Counts a connection; `false`, and nothing is counted, when the peer has as many as it may.
    pub(super) fn enter(&self, addr: IpAddr) -> bool {
        let peer = Peer::of(addr);
        let hash = self.hash.hash_one(peer);
        let Some(mut counts) = self.shard(hash) else { return true };
        let entry = counts.entry(hash, |count| count.peer == peer, |count| self.hash.hash_one(count.peer));
        let count = entry.or_insert(Count { peer, connections: 0 }).into_mut();
        if count.connections >= self.per_peer_max {
            return false;
        }
        count.connections += 1;
        true
    }

    /// A connection that was counted is over.
    pub(super) fn leave(&self, addr: IpAddr) {
        let peer = Peer::of(addr);
        let hash = self.hash.hash_one(peer);
        let Some(mut counts) = self.shard(hash) else { return };
        if let Ok(mut entry) = counts.find_entry(hash, |count| count.peer == peer) {
            entry.get_mut().connections -= 1;
            if entry.get().connections == 0 {
                entry.remove();
            }
        }
    }

    /// The part of the table that has the peer with this hash; `None` when nothing is counted.
    fn shard(&self, hash: u64) -> Option<MutexGuard<'_, Counts>> {
        // Not the bits by which the part's own map finds its places.
        let index = (hash >> 32) as usize % SHARDS;
        // What is done under the lock leaves the counts right wherever it stops.
        self.shards.get(index).map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    impl Peers {
        fn entries(&self) -> usize {
            self.shards.iter().map(|shard| shard.lock().unwrap().len()).sum()
        }
    }

    #[test]
    fn workers_that_count_at_once_never_let_in_too_many() {
        const PER_PEER_MAX: u32 = 3;
        let peers = Peers::new(PER_PEER_MAX, [7; 16]);
        let inside = [const { AtomicU32::new(0) }; 4];
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let (peers, inside) = (&peers, &inside);
                scope.spawn(move || {
                    for round in 0..10_000_u32 {
                        let who = (round.wrapping_mul(7) + worker) % 4;
                        let addr = IpAddr::from([10, 0, 0, who as u8]);
                        if peers.enter(addr) {
                            assert!(inside[who as usize].fetch_add(1, Ordering::SeqCst) < PER_PEER_MAX);
                            inside[who as usize].fetch_sub(1, Ordering::SeqCst);
                            peers.leave(addr);
                        }
                    }
                });
            }
        });
        assert_eq!(peers.entries(), 0);
    }

    #[test]
    fn an_ipv4_address_and_an_ipv6_network_are_one_peer_each() {
        let peers = Peers::new(2, [7; 16]);
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
        assert_eq!(peers.entries(), 0);
    }

    #[test]
    fn without_a_limit_nothing_is_kept() {
        let peers = Peers::new(0, [7; 16]);
        for _ in 0..1_000 {
            assert!(peers.enter("10.0.0.1".parse().unwrap()));
        }
        peers.leave("10.0.0.1".parse().unwrap());
        assert_eq!(peers.entries(), 0);
    }
}
