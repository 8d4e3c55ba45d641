//! Datagrams: what a DHCP or a DNS server sends.

use super::{Class, Malformed, Unsupported};
use crate::port::ETHERNET_HEADER_BYTES;
use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpAddress, Ipv4Packet, Ipv6Packet, UdpPacket};
use std::net::IpAddr;

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
    packet(frame).is_some_and(|(from, to, udp)| {
        UdpPacket::new_checked(udp).is_ok_and(|packet| packet.verify_checksum(&from, &to))
    })
}

/// Who sent the IP packet in an Ethernet frame.
pub(crate) fn udp_source(frame: &[u8]) -> Option<IpAddr> {
    packet(frame).map(|(from, _, _)| from.into())
}

/// Source, destination and what is in the IP packet of an Ethernet frame.
fn packet(frame: &[u8]) -> Option<(IpAddress, IpAddress, &[u8])> {
    let ethertype = EthernetFrame::new_checked(frame).ok()?.ethertype();
    let ip = frame.get(ETHERNET_HEADER_BYTES..)?;
    match ethertype {
        EthernetProtocol::Ipv4 => {
            let ip = Ipv4Packet::new_checked(ip).ok()?;
            Some((ip.src_addr().into(), ip.dst_addr().into(), ip.payload()))
        }
        EthernetProtocol::Ipv6 => {
            let ip = Ipv6Packet::new_checked(ip).ok()?;
            Some((ip.src_addr().into(), ip.dst_addr().into(), ip.payload()))
        }
        _ => None,
    }
}
