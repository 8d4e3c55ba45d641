//! Datagrams: what a DHCP or a DNS server sends.

use super::{Class, Malformed, Unsupported};
use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpAddress, Ipv4Packet, Ipv6Packet, UdpPacket};

pub(super) fn udp(datagram: &[u8]) -> Class {
    let Some(header) = datagram.first_chunk::<8>() else { return Malformed::UdpHeader.into() };
    let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if len < header.len() || len > datagram.len() {
        return Malformed::UdpHeader.into();
    }
    match header {
        [0, 67, 0, 68, ..] => Class::Dhcp,
        [0, 53, ..] => Class::Dns,
        _ => Unsupported::Protocol.into(),
    }
}

/// Whether a UDP datagram in an Ethernet frame came as it was sent. Behind IPv6 extension headers it is not looked for, and no
/// DNS server uses them.
pub(crate) fn udp_checksum_is_good(frame: &[u8]) -> bool {
    let Ok(ethernet) = EthernetFrame::new_checked(frame) else { return false };
    let is_good = |udp: &[u8], from: IpAddress, to: IpAddress| {
        UdpPacket::new_checked(udp).is_ok_and(|packet| packet.verify_checksum(&from, &to))
    };
    match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => Ipv4Packet::new_checked(ethernet.payload())
            .is_ok_and(|ip| is_good(ip.payload(), ip.src_addr().into(), ip.dst_addr().into())),
        EthernetProtocol::Ipv6 => Ipv6Packet::new_checked(ethernet.payload())
            .is_ok_and(|ip| is_good(ip.payload(), ip.src_addr().into(), ip.dst_addr().into())),
        _ => false,
    }
}
