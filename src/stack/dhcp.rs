//! DHCPv4: an address, its router and their lease, RFC 2131.
//!
//! The client has an interface of its own that runs on real time: on the stack clock, which runs faster, every lease
//! would be renewed and would expire too early.
//!
//! When the lease is lost or brings another address, connections from the old address cannot go on: they are closed
//! at once with [`CloseCause::AddressLost`], without a segment, as it would come from an address that is not ours.

use super::conn::Phase;
use super::device::{Listener, OneFrame, TxQueue};
use super::net::is_host_address;
use super::secret::derive_key;
use super::{Cidr, CloseCause, Stack};
use crate::port::{ETHERNET_HEADER_BYTES, Frame};
use crate::time::{Duration, Instant};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, DeviceCapabilities, Medium};
use smoltcp::socket::dhcpv4::{Event, RetryConfig, Socket};
use smoltcp::time::{Duration as StackDuration, Instant as StackInstant};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};
use std::net::{IpAddr, Ipv4Addr};

/// Least time between two attempts to send.
pub(super) const RETRY: Duration = Duration::from_millis(10);
/// How long the first answer may take before the message is sent again; real time, as all of the client's.
const FIRST_TIMEOUT: StackDuration = StackDuration::from_secs(4);

/// What a DHCP server gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Our address.
    pub addr: Cidr,
    /// The default router.
    pub router: Option<IpAddr>,
    /// DNS servers.
    pub dns: [Option<Ipv4Addr>; 3],
}

/// The DHCP client of one stack.
pub(super) struct Dhcp {
    iface: Interface,
    caps: DeviceCapabilities,
    set: SocketSet<'static>,
    handle: SocketHandle,
    lease: Option<Lease>,
    /// When it next has something to send.
    next_at: Instant,
    /// When it was last let send: frames that come meanwhile do not put off what is due.
    tried_at: Instant,
}

impl Dhcp {
    pub(super) fn new(mac: [u8; 6], mtu: usize, secret: &[u8; 32], now: Instant) -> Self {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        caps.max_transmission_unit = mtu + ETHERNET_HEADER_BYTES;
        // Received ones are verified (or believed: a kernel's own server leaves them to its device) before smoltcp sees the frame.
        caps.checksum.udp = Checksum::Tx;
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
        let key = derive_key(secret, "dhcp");
        config.random_seed =
            u64::from_le_bytes([key[0], key[1], key[2], key[3], key[4], key[5], key[6], key[7]]);
        let iface = Interface::new(config, &mut Listener { rx: None, caps: &caps }, real(now));
        let mut set = SocketSet::new(Vec::new());
        let mut socket = Socket::new();
        // RFC 2131 section 4.1: the first message is sent again after about four seconds.
        let mut retries = RetryConfig::default();
        retries.discover_timeout = FIRST_TIMEOUT;
        retries.initial_request_timeout = FIRST_TIMEOUT;
        socket.set_retry_config(retries);
        let handle = set.add(socket);
        Dhcp { iface, caps, set, handle, lease: None, next_at: now, tried_at: Instant::ZERO }
    }

    fn learn(&mut self, frame: &[u8], now: Instant) {
        let mut device = Listener { rx: Some(frame), caps: &self.caps };
        self.iface.poll_ingress_single(real(now), &mut device, &mut self.set);
    }

    /// Looks up when it next has something to send.
    fn rest(&mut self, now: Instant) {
        self.next_at = next_try(self.iface.poll_at(real(now), &self.set), self.tried_at);
    }

    /// `Some(lease)` when the configuration changed.
    fn changed(&mut self) -> Option<Option<Lease>> {
        let lease = match self.set.get_mut::<Socket<'_>>(self.handle).poll()? {
            Event::Deconfigured => None,
            Event::Configured(config) => Some(Lease {
                addr: Cidr {
                    addr: IpAddr::V4(config.address.address()),
                    prefix: config.address.prefix_len(),
                },
                // Some servers mean "none" by 0.0.0.0; smoltcp takes nothing that is no host's for a next hop.
                router: config.router.map(IpAddr::V4).filter(|&router| is_host_address(router)),
                dns: [0, 1, 2].map(|at| config.dns_servers.get(at).copied()),
            }),
        };
        if lease == self.lease {
            return None;
        }
        self.lease = lease;
        self.iface.update_ip_addrs(|addrs| {
            addrs.clear();
            if let Some(lease) = lease {
                let _ = addrs.push(IpCidr::new(lease.addr.addr.into(), lease.addr.prefix));
            }
        });
        Some(lease)
    }
}

/// When a client that smoltcp wants to poll `at` is let send: never at once again, as with a full TX queue or an unknown
/// neighbour it would spin.
pub(super) fn next_try(at: Option<StackInstant>, tried_at: Instant) -> Instant {
    let micros = at.map_or(u64::MAX, |at| u64::try_from(at.total_micros()).unwrap_or(0));
    Instant::from_nanos(micros.saturating_mul(1_000)).max(tried_at + RETRY)
}

impl Stack {
    /// The lease in force; `None` without DHCP or before it answered.
    pub fn lease(&self) -> Option<Lease> {
        self.dhcp.as_ref()?.lease
    }

    /// Takes over the lease that another worker's stack got for the same port; `None` when it was lost.
    pub fn adopt_lease(&mut self, lease: Option<Lease>) {
        self.nets.set_ipv4(lease.map(|lease| lease.addr), lease.and_then(|lease| lease.router));
        self.configure_resolver(lease.as_ref());
        self.close_orphaned_addresses();
    }

    /// Feeds a DHCP reply.
    pub(super) fn ingress_dhcp(&mut self, frame: &[u8]) {
        let now = self.now;
        let Some(dhcp) = &mut self.dhcp else { return };
        dhcp.learn(frame, now);
        dhcp.rest(now);
        if let Some(lease) = dhcp.changed() {
            self.adopt_lease(lease);
        }
    }

    /// The client's own interface learns neighbours too: it renews its lease by unicast.
    pub(super) fn learn_dhcp_neighbor(&mut self, frame: &[u8]) {
        if let Some(dhcp) = &mut self.dhcp {
            dhcp.learn(frame, self.now);
        }
    }

    /// Sends what the client has to send.
    pub(super) fn egress_dhcp<F: Frame>(&mut self, tx: &mut TxQueue<F>) {
        let now = self.now;
        let Some(dhcp) = &mut self.dhcp else { return };
        if now < dhcp.next_at {
            return;
        }
        let mut device = OneFrame { rx: None, tx, caps: &dhcp.caps, fills_in: false, wanted: false };
        dhcp.iface.poll_egress(real(now), &mut device, &mut dhcp.set);
        dhcp.tried_at = now;
        dhcp.rest(now);
        if let Some(lease) = dhcp.changed() {
            self.adopt_lease(lease);
        }
    }

    /// When the client next has something to send.
    pub(super) fn next_dhcp(&self) -> Option<Instant> {
        self.dhcp.as_ref().map(|dhcp| dhcp.next_at)
    }

    fn close_orphaned_addresses(&mut self) {
        let lost: Vec<u32> = self
            .slab
            .indices()
            .filter(|&index| {
                let slot = self.slab.slot(index);
                !matches!(slot.phase, Phase::Closed(_)) && !self.nets.owns(slot.key.local().ip())
            })
            .collect();
        for index in lost {
            if self.slab.slot(index).phase == Phase::HalfOpen {
                self.stats.half_open_dropped += 1;
                self.remove(index);
            } else {
                self.close(index, CloseCause::AddressLost);
            }
        }
    }
}

/// Real time as smoltcp takes it.
pub(super) fn real(now: Instant) -> StackInstant {
    StackInstant::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}
