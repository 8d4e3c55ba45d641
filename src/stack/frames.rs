//! Frames for the tests of this layer, built by smoltcp.

use super::key::FlowKey;
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, HardwareAddress, IpAddress, IpCidr, IpProtocol, IpRepr,
    TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};
use std::net::SocketAddr;

pub(crate) const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(crate) const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

pub(crate) fn ours_v4() -> SocketAddr {
    "10.0.0.2:80".parse().unwrap()
}

pub(crate) fn peer_v4() -> SocketAddr {
    "10.0.0.1:40000".parse().unwrap()
}

pub(crate) fn ours_v6() -> SocketAddr {
    "[fd00::2]:80".parse().unwrap()
}

pub(crate) fn peer_v6() -> SocketAddr {
    "[fd00::1]:40000".parse().unwrap()
}

/// A segment without flags, options or payload, from the peer to us.
pub(crate) fn segment<'a>() -> TcpRepr<'a> {
    TcpRepr {
        src_port: 0,
        dst_port: 0,
        control: TcpControl::None,
        seq_number: TcpSeqNumber(1_000),
        ack_number: None,
        window_len: 4_096,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    }
}

/// An Ethernet frame from the peer's MAC to ours around a packet.
pub(crate) fn ethernet(protocol: EthernetProtocol, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 14 + packet.len()];
    let mut ethernet = EthernetFrame::new_unchecked(&mut frame[..]);
    ethernet.set_dst_addr(EthernetAddress(OUR_MAC));
    ethernet.set_src_addr(EthernetAddress(PEER_MAC));
    ethernet.set_ethertype(protocol);
    ethernet.payload_mut().copy_from_slice(packet);
    frame
}

/// An IP packet with right checksums, in an Ethernet frame to us.
pub(crate) fn ip_frame(src: IpAddress, dst: IpAddress, next_header: IpProtocol, payload: &[u8]) -> Vec<u8> {
    let repr = IpRepr::new(src, dst, next_header, payload.len(), 64);
    let mut packet = vec![0; repr.buffer_len()];
    repr.emit(&mut packet[..], &ChecksumCapabilities::default());
    let header_len = repr.header_len();
    packet[header_len..].copy_from_slice(payload);
    let protocol = match src {
        IpAddress::Ipv4(_) => EthernetProtocol::Ipv4,
        IpAddress::Ipv6(_) => EthernetProtocol::Ipv6,
    };
    ethernet(protocol, &packet)
}

/// The TCP bytes of `repr` with the ports of the endpoints and a right checksum.
pub(crate) fn tcp_bytes(src: SocketAddr, dst: SocketAddr, repr: &TcpRepr<'_>) -> Vec<u8> {
    let repr = TcpRepr { src_port: src.port(), dst_port: dst.port(), ..*repr };
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(
        &mut TcpPacket::new_unchecked(&mut bytes[..]),
        &src.ip().into(),
        &dst.ip().into(),
        &ChecksumCapabilities::default(),
    );
    bytes
}

/// A TCP segment in an Ethernet frame to us.
pub(crate) fn tcp_frame(src: SocketAddr, dst: SocketAddr, repr: &TcpRepr<'_>) -> Vec<u8> {
    ip_frame(src.ip().into(), dst.ip().into(), IpProtocol::Tcp, &tcp_bytes(src, dst, repr))
}

/// The same IPv6 frame with a hop-by-hop header of these options, padded by hand to 8 n + 6 bytes.
pub(crate) fn with_hop_by_hop(frame: &[u8], options: &[u8]) -> Vec<u8> {
    assert_eq!((options.len() + 2) % 8, 0);
    let mut result = frame[..54].to_vec();
    let payload_len = u16::try_from(frame.len() - 54 + options.len() + 2).unwrap();
    result[18..20].copy_from_slice(&payload_len.to_be_bytes());
    let next = core::mem::replace(&mut result[20], 0);
    result.extend([next, u8::try_from((options.len() + 2) / 8 - 1).unwrap()]);
    result.extend(options);
    result.extend(&frame[54..]);
    result
}

/// A device that holds one received frame and keeps what is sent; checksums are of no matter to it.
pub(crate) struct OneFrame {
    pub(crate) rx: Option<Vec<u8>>,
    pub(crate) tx: Vec<Vec<u8>>,
}

pub(crate) struct Rx(Vec<u8>);
pub(crate) struct Tx<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push(frame);
        result
    }
}

impl Device for OneFrame {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Rx, Tx<'_>)> {
        self.rx.take().map(|frame| (Rx(frame), Tx(&mut self.tx)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        Some(Tx(&mut self.tx))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        caps.max_transmission_unit = 1_514;
        caps.checksum = ChecksumCapabilities::ignored();
        caps
    }
}

impl OneFrame {
    pub(crate) fn new() -> Self {
        OneFrame { rx: None, tx: Vec::new() }
    }
}

/// An interface with our addresses that knows the peer's MAC address.
pub(crate) fn interface(device: &mut OneFrame, random_seed: u64) -> Interface {
    let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(OUR_MAC)));
    config.random_seed = random_seed;
    let mut interface = Interface::new(config, device, Instant::ZERO);
    interface.update_ip_addrs(|addrs| {
        addrs.push(IpCidr::new(ours_v4().ip().into(), 24)).unwrap();
        addrs.push(IpCidr::new(ours_v6().ip().into(), 64)).unwrap();
    });
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
    arp.extend(PEER_MAC);
    arp.extend([10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2]);
    let mut solicit = vec![135, 0, 0, 0, 0, 0, 0, 0];
    solicit.extend(&FlowKey::new(ours_v6(), peer_v6()).to_bytes()[..16]);
    solicit.extend([1, 1]);
    solicit.extend(PEER_MAC);
    let mut solicit = ip_frame(peer_v6().ip().into(), ours_v6().ip().into(), IpProtocol::Icmpv6, &solicit);
    // Neighbour discovery counts only with the hop limit that no router leaves whole.
    solicit[21] = 255;
    let mut sockets = SocketSet::new(Vec::new());
    for neighbour in [ethernet(EthernetProtocol::Arp, &arp), solicit] {
        device.rx = Some(neighbour);
        interface.poll(Instant::ZERO, device, &mut sockets);
    }
    device.tx.clear();
    interface
}
