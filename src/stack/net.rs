//! smoltcp interfaces: one for each path MTU in use, all with the same addresses, routes and neighbours.
//!
//! smoltcp takes the segment size from the interface, so a connection whose path turns out narrower (ICMP
//! "fragmentation needed", RFC 1191; ICMPv6 "packet too big", RFC 8201) moves to an interface with a smaller MTU.
//!
//! Each of them has a twin that makes large segments of TCP over IPv4, which the port cuts, or the TX queue for it: smoltcp
//! learns only once, when an interface is made, whether it may. A connection's turn takes the twin when there is room for
//! them.

use super::classify::PathMtu;
use super::config::{Cidr, Route, StackConfig};
use super::device::Listener;
use super::egress::SEGMENTS_PER_PASS;
use super::{StackError, cut, isn};
use crate::port::{ETHERNET_HEADER_BYTES, PortInfo};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Checksum, DeviceCapabilities, Medium};
use smoltcp::time::Instant as StackInstant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;

/// Most addresses of one interface: smoltcp's build-time limit (feature `iface-max-addr-count-8`).
pub(super) const ADDRS_MAX: usize = 8;
/// Most routes of one interface: smoltcp's build-time limit (feature `iface-max-route-count-128`).
pub(super) const ROUTES_MAX: usize = 128;
/// Bytes of the headers of IPv4 and TCP, without options.
const IPV4_TCP_BYTES: usize = 40;

/// Segments in a large one at most: two of them use up a connection's share of one pass.
pub(super) const CUT_SEGMENTS_MAX: usize = SEGMENTS_PER_PASS / 2;
/// Peers that take smaller segments than this, in bytes of payload, get no large ones: there are NICs that cut none under 256
/// bytes. It is what those get who name no size (RFC 9293 section 3.7.1).
pub const CUT_SEGMENT_BYTES_MIN: usize = 536;

/// MTUs that a narrower path is rounded down to (the plateaus of RFC 1191 section 7.1, below Ethernet's).
const PATH_MTUS: [usize; 8] = [8166, 4352, 2002, 1492, 1400, 1280, 1006, 576];
/// Least MTU of IPv6, RFC 8200 section 5.
const IPV6_MTU_MIN: usize = 1280;

/// One smoltcp interface with its capabilities.
pub(super) struct Net {
    pub(super) iface: Interface,
    pub(super) caps: DeviceCapabilities,
    /// The most segments that one frame becomes, with segments as long as the MTU permits: 1 where none is cut.
    pub(super) segments_max: usize,
    /// The TX queue fills in checksums of TCP: the port does not, and smoltcp does not know those of what is cut.
    pub(super) fills_in: bool,
    mtu: usize,
}

/// All interfaces of a stack. The first has the port's MTU and is never removed.
pub(super) struct Nets {
    nets: Vec<Net>,
    mac: [u8; 6],
    addrs: Vec<Cidr>,
    routes: Vec<Route>,
    checksums_by_device: bool,
    checksums_unread: bool,
    /// The largest frame that is cut. Every second interface is the twin of that before it.
    cut_frame_bytes_max: usize,
}

impl Nets {
    pub(super) fn new(config: &StackConfig, info: &PortInfo, now: StackInstant) -> Result<Self, StackError> {
        let mtu = config.mtu.unwrap_or(info.mtu).min(info.mtu);
        if !(576..=9000).contains(&mtu) {
            return Err(StackError::Mtu { mtu });
        }
        let addrs = with_link_local(&config.addrs, info.mac);
        let (addrs_max, routes_max) = (ADDRS_MAX - by_dhcp(config), ROUTES_MAX - by_dhcp(config));
        if addrs.len() > addrs_max {
            return Err(StackError::TooManyAddresses { given: addrs.len(), max: addrs_max });
        }
        if config.routes.len() > routes_max {
            return Err(StackError::TooManyRoutes { given: config.routes.len(), max: routes_max });
        }
        if mtu < IPV6_MTU_MIN && addrs.iter().any(|cidr| cidr.addr.is_ipv6()) {
            return Err(StackError::Ipv6Mtu { mtu });
        }
        if let Some(bad) = addrs.iter().find(|cidr| !is_host_address(cidr.addr)) {
            return Err(StackError::Address { addr: bad.addr });
        }
        if let Some(bad) = config.routes.iter().find(|route| !is_host_address(route.via)) {
            return Err(StackError::Address { addr: bad.via });
        }
        if let Some(bad) = config.routes.iter().find(|route| route.to.addr.is_ipv4() != route.via.is_ipv4()) {
            return Err(StackError::RouteFamilies { to: bad.to, via: bad.via });
        }
        let default_routers =
            config.routes.iter().filter(|route| route.to.prefix == 0).map(|route| route.via);
        let mut managed = addrs.iter().map(|cidr| cidr.addr).chain(default_routers).filter(IpAddr::is_ipv4);
        if config.dhcp
            && let Some(addr) = managed.next()
        {
            return Err(StackError::BesideDhcp { addr });
        }
        let mut nets = Nets {
            nets: Vec::with_capacity(1),
            mac: info.mac,
            addrs,
            routes: config.routes.clone(),
            checksums_by_device: info.tx_checksum_offload,
            checksums_unread: info.tx_checksum_offload && info.rx_checksum_trusted,
            cut_frame_bytes_max: info
                .tso_frame_bytes_max
                .filter(|_| info.tx_checksum_offload)
                .unwrap_or(cut::FRAME_BYTES_MAX),
        };
        nets.add(mtu, now);
        Ok(nets)
    }

    /// Gives another interface our addresses and routes.
    pub(super) fn configure(&self, iface: &mut Interface) {
        apply(iface, &self.addrs, &self.routes);
    }

    /// The interface with the port's MTU: it answers ARP, NDP and ICMP.
    pub(super) fn main(&mut self) -> &mut Net {
        &mut self.nets[0]
    }

    pub(super) fn get(&mut self, index: u8) -> &mut Net {
        &mut self.nets[usize::from(index)]
    }

    /// The interface of the same path MTU that makes large segments, or the one that does not.
    #[inline]
    pub(super) fn twin(index: u8, large: bool) -> u8 {
        index & !1 | u8::from(large)
    }

    /// Whether connections over IPv4 with a peer that takes segments of up to `segment_bytes` send large ones. No frame may
    /// become more segments than are a connection's share of one pass, however small the peer wants them.
    pub(super) fn cuts_for(&self, segment_bytes: usize) -> bool {
        let cut_bytes_max = self.nets.iter().map(Net::cut_bytes_max).max().unwrap_or(0);
        segment_bytes >= CUT_SEGMENT_BYTES_MIN && cut_bytes_max <= SEGMENTS_PER_PASS * segment_bytes
    }

    pub(super) fn mac(&self) -> [u8; 6] {
        self.mac
    }

    pub(super) fn addrs(&self) -> &[Cidr] {
        &self.addrs
    }

    pub(super) fn owns(&self, addr: IpAddr) -> bool {
        self.addrs.iter().any(|cidr| cidr.addr == addr)
    }

    /// Whether segments may come from `addr`: not one of ours, nor a loopback or broadcast address
    /// (RFC 1122 sections 3.2.1.3 and 4.2.3.10).
    pub(super) fn may_be_a_peer(&self, addr: IpAddr) -> bool {
        let is_broadcast = |cidr: &Cidr| match (IpCidr::new(cidr.addr.into(), cidr.prefix), addr) {
            (IpCidr::Ipv4(network), IpAddr::V4(addr)) => network.broadcast() == Some(addr),
            _ => false,
        };
        !addr.is_loopback() && !self.owns(addr) && !self.addrs.iter().any(is_broadcast)
    }

    /// The address to use towards `remote`; `None` without an address of its family or a way there.
    pub(super) fn source_for(&self, remote: IpAddr) -> Option<IpAddr> {
        let next_hop = self.next_hop(remote)?;
        self.addrs.iter().find(|cidr| contains(cidr, next_hop)).map(|cidr| cidr.addr)
    }

    /// The neighbour that frames for `remote` go to: itself or a router; `None` without a way there.
    pub(super) fn next_hop(&self, remote: IpAddr) -> Option<IpAddr> {
        if self.addrs.iter().any(|cidr| contains(cidr, remote)) {
            return Some(remote);
        }
        let routes = self.routes.iter().filter(|route| contains(&route.to, remote));
        routes.max_by_key(|route| route.to.prefix).map(|route| route.via)
    }

    /// The routers in use.
    pub(super) fn routers(&self) -> impl Iterator<Item = IpAddr> {
        self.routes.iter().map(|route| route.via)
    }

    /// The index of an interface for the path that a router reports, made when there is none; `None` when the
    /// path is not narrower than interface `current`, or narrower than IP permits (a forged message).
    pub(super) fn narrower(&mut self, current: u8, too_big: &PathMtu, now: StackInstant) -> Option<u8> {
        let (current_mtu, is_ipv6) = (self.nets[usize::from(current)].mtu, !too_big.key.is_ipv4());
        let mtu = match too_big.mtu as usize {
            // RFC 1191 section 5: an old router does not say how much it carries. The next plateau below what it
            // dropped is tried; some count the header twice, so it is no more than we send.
            0 if !is_ipv6 => usize::from(too_big.packet_bytes).min(current_mtu).saturating_sub(1),
            mtu => mtu,
        };
        let plateau = PATH_MTUS.into_iter().find(|plateau| *plateau <= mtu)?;
        if mtu >= current_mtu || (is_ipv6 && plateau < IPV6_MTU_MIN) {
            return None;
        }
        let found = self.nets.iter().position(|net| net.mtu == plateau);
        let index = found.unwrap_or_else(|| {
            self.add(plateau, now);
            self.nets.iter().position(|net| net.mtu == plateau).unwrap_or_default()
        });
        u8::try_from(index).ok()
    }

    /// Replaces the addresses and routes of one family that DHCP manages: every IPv4 address and route.
    pub(super) fn set_ipv4(&mut self, addr: Option<Cidr>, router: Option<IpAddr>) {
        self.addrs.retain(|cidr| !cidr.addr.is_ipv4());
        self.routes.retain(|route| !(route.to.addr.is_ipv4() && route.to.prefix == 0));
        self.addrs.extend(addr);
        if let Some(via) = router {
            self.routes.push(Route { to: Cidr { addr: IpAddr::from([0, 0, 0, 0]), prefix: 0 }, via });
        }
        let (addrs, routes) = (&self.addrs, &self.routes);
        for net in &mut self.nets {
            apply(&mut net.iface, addrs, routes);
        }
    }

    /// Feeds a frame to every interface but the first, so that they learn what the first one learns.
    pub(super) fn teach_others(&mut self, frame: &[u8], now: StackInstant) {
        for net in self.nets.iter_mut().skip(1) {
            net.learn(frame, now);
        }
    }

    /// Lends a throw-away interface whose first random number is `first_u32`: how a sequence number of ours gets into
    /// a socket, see [`isn`]. It owns `local` alone. Lent and not returned, as it is some 20 KB to move.
    pub(super) fn with_first_random<R>(
        &self,
        local: IpAddr,
        first_u32: u32,
        now: StackInstant,
        f: impl FnOnce(&mut Interface, &DeviceCapabilities) -> R,
    ) -> R {
        let caps = &self.nets[0].caps;
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(self.mac)));
        config.random_seed = isn::pcg_seed_for(first_u32);
        let mut iface = Interface::new(config, &mut Listener { rx: None, caps }, now);
        let prefix = if local.is_ipv4() { 32 } else { 128 };
        apply(&mut iface, &[Cidr { addr: local, prefix }], &[]);
        f(&mut iface, caps)
    }

    /// Adds an interface for a path MTU, and its twin.
    fn add(&mut self, mtu: usize, now: StackInstant) {
        self.add_one(mtu, 1, now);
        let payload_max = self.cut_frame_bytes_max.saturating_sub(ETHERNET_HEADER_BYTES + IPV4_TCP_BYTES);
        // Whole segments: a shorter one at the end of each frame would cost as much as a long one.
        let segments = (payload_max / (mtu - IPV4_TCP_BYTES)).clamp(1, CUT_SEGMENTS_MAX);
        self.add_one(mtu, segments, now);
    }

    fn add_one(&mut self, mtu: usize, segments_max: usize, now: StackInstant) {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        caps.max_transmission_unit = mtu + ETHERNET_HEADER_BYTES;
        // Received checksums are verified (or believed) and counted before smoltcp sees the frame.
        caps.checksum.ipv4 = if self.checksums_unread { Checksum::None } else { Checksum::Tx };
        caps.checksum.tcp = if self.checksums_by_device { Checksum::None } else { Checksum::Tx };
        if segments_max > 1 {
            caps.checksum.tcp = Checksum::None;
            // Of IPv4 alone: smoltcp 0.14 drops large packets of IPv6 and says Ok.
            let bytes = ETHERNET_HEADER_BYTES + IPV4_TCP_BYTES + segments_max * (mtu - IPV4_TCP_BYTES);
            caps.segmentation.tcpv4 = NonZeroUsize::new(bytes);
        }
        let config = Config::new(HardwareAddress::Ethernet(EthernetAddress(self.mac)));
        let mut iface = Interface::new(config, &mut Listener { rx: None, caps: &caps }, now);
        apply(&mut iface, &self.addrs, &self.routes);
        let fills_in = segments_max > 1 && !self.checksums_by_device;
        self.nets.push(Net { iface, caps, segments_max, fills_in, mtu });
    }
}

impl Net {
    /// Largest IP packet on this path, bytes.
    pub(super) fn mtu(&self) -> usize {
        self.mtu
    }

    /// The most payload of a large segment; 0 where there are none.
    fn cut_bytes_max(&self) -> usize {
        if self.segments_max > 1 { self.segments_max * (self.mtu - IPV4_TCP_BYTES) } else { 0 }
    }

    /// Learns from a frame and answers nothing.
    pub(super) fn learn(&mut self, frame: &[u8], now: StackInstant) {
        let mut nobody = SocketSet::new([]);
        let mut device = Listener { rx: Some(frame), caps: &self.caps };
        self.iface.poll_ingress_single(now, &mut device, &mut nobody);
    }
}

/// Addresses, and routes, that a lease will bring.
fn by_dhcp(config: &StackConfig) -> usize {
    usize::from(config.dhcp)
}

/// Sets an interface's addresses and routes. What does not fit was refused when the stack was made.
fn apply(iface: &mut Interface, addrs: &[Cidr], routes: &[Route]) {
    iface.update_ip_addrs(|list| {
        list.clear();
        for cidr in addrs {
            let _ = list.push(IpCidr::new(IpAddress::from(cidr.addr), cidr.prefix));
        }
    });
    iface.routes_mut().update(|list| {
        list.clear();
        for route in routes {
            let _ = list.push(smoltcp::iface::Route {
                cidr: IpCidr::new(IpAddress::from(route.to.addr), route.to.prefix),
                via_router: IpAddress::from(route.via),
                preferred_until: None,
                expires_at: None,
            });
        }
    });
}

/// Linux probes its neighbours from link-local addresses (RFC 4861 section 7.2.2): an interface with IPv6 needs one.
fn with_link_local(addrs: &[Cidr], mac: [u8; 6]) -> Vec<Cidr> {
    let mut all = addrs.to_vec();
    let is_link_local = |cidr: &Cidr| matches!(cidr.addr, IpAddr::V6(addr) if addr.is_unicast_link_local());
    if addrs.iter().any(|cidr| cidr.addr.is_ipv6()) && !addrs.iter().any(is_link_local) {
        // Modified EUI-64, RFC 4291 appendix A.
        let [a, b, c, d, e, f] = mac;
        let id = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
        let mut octets = [0; 16];
        octets[..2].copy_from_slice(&[0xfe, 0x80]);
        octets[8..].copy_from_slice(&id);
        all.push(Cidr { addr: IpAddr::V6(Ipv6Addr::from(octets)), prefix: 64 });
    }
    all
}

/// Whether an address can be a host's own.
pub(super) fn is_host_address(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => !(addr.is_unspecified() || addr.is_broadcast() || addr.is_multicast()),
        IpAddr::V6(addr) => !(addr.is_unspecified() || addr.is_multicast()),
    }
}

/// Whether `addr` lies in the network of `cidr`.
fn contains(cidr: &Cidr, addr: IpAddr) -> bool {
    IpAddress::from(cidr.addr).version() == IpAddress::from(addr).version()
        && IpCidr::new(IpAddress::from(cidr.addr), cidr.prefix).contains_addr(&IpAddress::from(addr))
}
