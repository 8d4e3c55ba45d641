//! Next hops: who waits for one, and routers asked again before smoltcp forgets them.
//!
//! smoltcp keeps a neighbour for 60 s of stack time after it was last heard *as a source address*, which a router
//! never is for the traffic it forwards. When its entry runs out every off-link connection stalls, and the reply
//! to the new request reaches the interface, not the sockets that wait. And after one request smoltcp sends none for
//! a second of stack time, whoever is wanted. Hence the lists here.

use super::conn::Phase;
use super::device::TxQueue;
use super::{Stack, StackClock};
use crate::port::{ETHERNET_HEADER_BYTES, Frame};
use crate::time::{Duration, Instant};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::time::Duration as StackDuration;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscRepr,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// smoltcp's lifetime of a neighbour's entry (`NeighborCache::ENTRY_LIFETIME`), stack time.
const ENTRY_LIFETIME: StackDuration = StackDuration::from_secs(60);
/// A router is asked this many times within the lifetime, so that a lost answer does not cost the entry.
const REFRESHES_PER_LIFETIME: u32 = 4;

/// A neighbour is asked for once in this time (RFC 4861 section 10, RETRANS_TIMER; RFC 1122 section 2.3.2.1).
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// Most neighbours asked for within [`ASK_INTERVAL`]; the rest waits for smoltcp's own requests.
const ASKED_MAX: usize = 256;

/// Connections that wait for a neighbour, and when the routers are asked again.
#[derive(Debug)]
pub(super) struct Neighbors {
    waiting: Vec<u32>,
    asked: Vec<(IpAddr, Instant)>,
    learned: bool,
    refresh_at: Instant,
    refresh_interval: Duration,
}

impl Neighbors {
    pub(super) fn new(clock: StackClock) -> Self {
        Neighbors {
            waiting: Vec::new(),
            asked: Vec::new(),
            learned: false,
            refresh_at: Instant::ZERO,
            refresh_interval: clock.shrink(ENTRY_LIFETIME) / REFRESHES_PER_LIFETIME,
        }
    }
}

impl Stack {
    /// An ARP or NDP frame was fed to the first interface: the others learn it too, and those who wait may go on.
    pub(super) fn learn_neighbors(&mut self, frame: &[u8]) {
        let now = self.stack_now;
        self.nets.teach_others(frame, now);
        self.learn_dhcp_neighbor(frame);
        self.learn_dns_neighbor(frame);
        self.neighbors.learned = true;
    }

    /// Puts a connection into the list of those who wait, and asks for its next hop unless that was done.
    pub(super) fn await_neighbor<F: Frame>(&mut self, index: u32, asked: bool, tx: &mut TxQueue<F>) {
        let slot = self.slab.slot_mut(index);
        if !core::mem::replace(&mut slot.awaits_neighbor, true) {
            self.neighbors.waiting.push(index);
        }
        let Some(next_hop) = self.nets.next_hop(slot.key.remote().ip()) else { return };
        let (now, recent) = (self.now, &mut self.neighbors.asked);
        recent.retain(|(_, at)| now < *at + ASK_INTERVAL);
        if recent.len() >= ASKED_MAX || recent.iter().any(|(addr, _)| *addr == next_hop) {
            return;
        }
        recent.push((next_hop, now));
        if !asked {
            self.ask(next_hop, tx);
        }
    }

    /// Once a burst after something was learned: whoever may send now becomes dirty.
    pub(super) fn wake_neighbor_waiters(&mut self) {
        if !core::mem::take(&mut self.neighbors.learned) {
            return;
        }
        let mut waiting = core::mem::take(&mut self.neighbors.waiting);
        waiting.retain(|&index| {
            let slot = self.slab.slot_mut(index);
            let net = self.nets.get(slot.net);
            let may_send = slot.phase == Phase::Free
                || net.iface.poll_at(self.stack_now, &slot.set).is_none_or(|at| at <= self.stack_now);
            if may_send {
                slot.awaits_neighbor = false;
                self.mark_dirty(index);
            }
            !may_send
        });
        self.neighbors.waiting = waiting;
    }

    /// When the routers are to be asked again; `None` without routers or connections.
    pub(super) fn next_router_refresh(&self) -> Option<Instant> {
        let needed = self.slab.in_use() > 0 && self.nets.routers().next().is_some();
        needed.then_some(self.neighbors.refresh_at)
    }

    /// Asks the routers for their addresses before their entries run out.
    pub(super) fn refresh_routers<F: Frame>(&mut self, tx: &mut TxQueue<F>) {
        if self.next_router_refresh().is_none_or(|at| at > self.now) {
            return;
        }
        self.neighbors.refresh_at = self.now + self.neighbors.refresh_interval;
        let mut routers: Vec<IpAddr> = self.nets.routers().collect();
        routers.sort_unstable();
        routers.dedup();
        for router in routers {
            self.ask(router, tx);
        }
    }

    /// Asks for a neighbour's address.
    fn ask<F: Frame>(&mut self, neighbor: IpAddr, tx: &mut TxQueue<F>) {
        let mac = EthernetAddress(self.nets.mac());
        match (self.nets.source_for(neighbor), neighbor) {
            (Some(IpAddr::V4(source)), IpAddr::V4(neighbor)) => push_arp_request(tx, mac, source, neighbor),
            (Some(IpAddr::V6(source)), IpAddr::V6(neighbor)) => push_solicitation(tx, mac, source, neighbor),
            _ => {}
        }
    }
}

/// Queues an ARP request, RFC 826. Without room it is left for the next refresh.
fn push_arp_request<F: Frame>(tx: &mut TxQueue<F>, mac: EthernetAddress, source: Ipv4Addr, target: Ipv4Addr) {
    let arp = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: mac,
        source_protocol_addr: source,
        target_hardware_addr: EthernetAddress::BROADCAST,
        target_protocol_addr: target,
    };
    tx.push(ETHERNET_HEADER_BYTES + arp.buffer_len(), |out| {
        let mut frame = EthernetFrame::new_unchecked(out);
        let header = EthernetRepr {
            src_addr: mac,
            dst_addr: EthernetAddress::BROADCAST,
            ethertype: EthernetProtocol::Arp,
        };
        header.emit(&mut frame);
        arp.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    });
}

/// Queues a neighbour solicitation, RFC 4861 section 4.3. Without room it is left for the next refresh.
fn push_solicitation<F: Frame>(
    tx: &mut TxQueue<F>,
    mac: EthernetAddress,
    source: Ipv6Addr,
    target: Ipv6Addr,
) {
    let icmp =
        Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr: target, lladdr: Some(mac.into()) });
    // The solicited-node multicast address, RFC 4291 section 2.7.1.
    let [.., t13, t14, t15] = target.octets();
    let destination = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, t13, t14, t15]);
    let ip = Ipv6Repr {
        src_addr: source,
        dst_addr: destination,
        next_header: IpProtocol::Icmpv6,
        payload_len: icmp.buffer_len(),
        hop_limit: 255,
    };
    tx.push(ETHERNET_HEADER_BYTES + ip.buffer_len() + icmp.buffer_len(), |out| {
        let mut frame = EthernetFrame::new_unchecked(out);
        let header = EthernetRepr {
            src_addr: mac,
            // RFC 2464 section 7.
            dst_addr: EthernetAddress([0x33, 0x33, 0xff, t13, t14, t15]),
            ethertype: EthernetProtocol::Ipv6,
        };
        header.emit(&mut frame);
        let mut packet = Ipv6Packet::new_unchecked(frame.payload_mut());
        ip.emit(&mut packet);
        icmp.emit(
            &source,
            &destination,
            &mut Icmpv6Packet::new_unchecked(packet.payload_mut()),
            &ChecksumCapabilities::default(),
        );
    });
}
