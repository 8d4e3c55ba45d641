//! Ephemeral ports of outgoing connections (RFC 6056).

use super::key::FlowKey;
use super::secret::derive_key;
use core::ops::RangeInclusive;
use siphasher::sip::SipHasher24;
use std::net::{IpAddr, SocketAddr};

/// From Linux's lowest to the highest there is: 32,768 ports towards each destination.
const PORTS: RangeInclusive<u16> = 32_768..=65_535;
const PORT_COUNT: u32 = *PORTS.end() as u32 - *PORTS.start() as u32 + 1;
/// Counters that destinations share by a hash.
const COUNTERS: usize = 1_024;

/// Chooses ports by the double-hash algorithm (RFC 6056 section 3.3.4): towards one destination they follow each other,
/// so that one comes back as late as possible, from a start that only the secret tells. 2 KiB.
pub(crate) struct EphemeralPorts {
    hasher: SipHasher24,
    counters: Box<[u16; COUNTERS]>,
}

impl EphemeralPorts {
    /// Ports keyed by the worker's secret.
    pub(crate) fn new(secret: &[u8; 32]) -> Self {
        EphemeralPorts {
            hasher: SipHasher24::new_with_key(&derive_key(secret, "ephemeral ports")),
            counters: Box::new([0; COUNTERS]),
        }
    }

    /// A flow from an address of ours to a destination of the same family, with a port of ours such that the flow is
    /// free to use; `None` when none is. The common case looks at one port, the worst at every one.
    pub(crate) fn choose(
        &mut self,
        local: IpAddr,
        remote: SocketAddr,
        is_free: impl Fn(&FlowKey) -> bool,
    ) -> Option<FlowKey> {
        let towards = FlowKey::new(SocketAddr::new(local, 0), remote);
        let hash = self.hasher.hash(&towards.to_bytes());
        let offset = hash as u32 % PORT_COUNT;
        let counter = &mut self.counters[(hash >> 32) as usize % COUNTERS];
        for _ in 0..PORT_COUNT {
            // Under 2^16: the range ends there.
            let port = PORTS.start() + ((offset + u32::from(*counter)) % PORT_COUNT) as u16;
            let flow = towards.with_local_port(port);
            *counter = counter.wrapping_add(1);
            if is_free(&flow) {
                return Some(flow);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::frames::{ours_v4, ours_v6, peer_v4, peer_v6};
    use super::*;
    use std::cell::RefCell;
    use std::collections::HashSet;

    fn choose_all(ports: &mut EphemeralPorts, local: IpAddr, remote: SocketAddr) -> Vec<FlowKey> {
        let used = RefCell::new(HashSet::new());
        core::iter::from_fn(|| {
            let flow = ports.choose(local, remote, |flow| !used.borrow().contains(&flow.local_port()))?;
            used.borrow_mut().insert(flow.local_port());
            Some(flow)
        })
        .collect()
    }

    #[test]
    fn every_port_of_the_range_is_given_once_and_then_none() {
        for (ours, peer) in [(ours_v4(), peer_v4()), (ours_v6(), peer_v6())] {
            let flows = choose_all(&mut EphemeralPorts::new(&[8; 32]), ours.ip(), peer);
            assert_eq!(flows.len(), PORT_COUNT as usize);
            assert!(flows.iter().all(|flow| PORTS.contains(&flow.local_port())));
            assert!(flows.iter().all(|flow| flow.remote() == peer && flow.local().ip() == ours.ip()));
        }
    }

    #[test]
    fn a_port_comes_back_as_late_as_possible() {
        let mut ports = EphemeralPorts::new(&[8; 32]);
        let mut next = || ports.choose(ours_v4().ip(), peer_v4(), |_| true).unwrap().local_port();
        let first: HashSet<u16> = (0..PORT_COUNT).map(|_| next()).collect();
        assert_eq!(first.len(), PORT_COUNT as usize);
    }

    #[test]
    fn destinations_and_secrets_start_elsewhere() {
        let start = |secret: u8, remote| {
            let mut ports = EphemeralPorts::new(&[secret; 32]);
            ports.choose(ours_v4().ip(), remote, |_| true).unwrap().local_port()
        };
        let other = SocketAddr::new(peer_v4().ip(), 443);
        assert_eq!(start(8, peer_v4()), start(8, peer_v4()));
        assert_ne!(start(8, peer_v4()), start(8, other));
        assert_ne!(start(8, peer_v4()), start(9, peer_v4()));
    }
}
