//! ICMP and ICMPv6: what routers say of a path, and what of it can be believed.

use super::super::key::FlowKey;
use super::{Class, Malformed, PROTOCOL_TCP, PathMtu, Unsupported, ipv6_addrs, is_ipv4_mapped};

const ICMP_LEN: usize = 8;

pub(super) fn icmpv4(message: &[u8], offset: usize, to_group: bool) -> Class {
    let Some((header, quote)) = message.split_first_chunk::<ICMP_LEN>() else {
        return Malformed::IcmpHeader.into();
    };
    if to_group {
        return Class::NotOurs;
    }
    // Destination unreachable, fragmentation needed and DF set (RFC 792).
    if header[..2] != [3, 4] {
        return Class::Icmp;
    }
    let Some(packet) = quote.first_chunk::<20>() else { return Malformed::IcmpQuote.into() };
    let header_len = usize::from(packet[0] & 0x0f) * 4;
    if packet[0] >> 4 != 4 || header_len < 20 {
        return Malformed::IcmpQuote.into();
    }
    let fragment_offset = u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff;
    if packet[9] != PROTOCOL_TCP || fragment_offset != 0 {
        return Unsupported::IcmpQuote.into();
    }
    let Some((local_port, remote_port, seq)) = quoted_tcp(quote.get(header_len..)) else {
        return Malformed::IcmpQuote.into();
    };
    let local = [packet[12], packet[13], packet[14], packet[15]];
    let remote = [packet[16], packet[17], packet[18], packet[19]];
    Class::PathMtu(PathMtu {
        key: FlowKey::ipv4(local, remote, local_port, remote_port),
        seq,
        mtu: u32::from(u16::from_be_bytes([header[6], header[7]])),
        packet_bytes: u16::from_be_bytes([packet[2], packet[3]]),
        icmp_offset: offset as u16,
        icmp_len: message.len() as u16,
    })
}

pub(super) fn icmpv6(message: &[u8], offset: usize, to_group: bool) -> Class {
    let Some((header, quote)) = message.split_first_chunk::<ICMP_LEN>() else {
        return Malformed::IcmpHeader.into();
    };
    match (header[0], header[1]) {
        (133..=137, _) => return Class::Ndp,
        // Packet too big (RFC 4443 section 3.2).
        (2, 0) => {}
        _ => return Class::Icmp,
    }
    if to_group {
        return Class::NotOurs;
    }
    let Some((packet, segment)) = quote.split_first_chunk::<40>() else {
        return Malformed::IcmpQuote.into();
    };
    if packet[0] >> 4 != 6 {
        return Malformed::IcmpQuote.into();
    }
    // We send no extension headers, so TCP follows at once or the packet was not ours.
    let (local, remote) = ipv6_addrs(packet);
    if packet[6] != PROTOCOL_TCP || is_ipv4_mapped(&local) || is_ipv4_mapped(&remote) {
        return Unsupported::IcmpQuote.into();
    }
    let Some((local_port, remote_port, seq)) = quoted_tcp(Some(segment)) else {
        return Malformed::IcmpQuote.into();
    };
    Class::PathMtu(PathMtu {
        key: FlowKey::ipv6(&local, &remote, local_port, remote_port),
        seq,
        mtu: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
        packet_bytes: u16::from_be_bytes([packet[4], packet[5]]).saturating_add(40),
        icmp_offset: offset as u16,
        icmp_len: message.len() as u16,
    })
}

/// Source port, destination port and sequence number: the 8 bytes that every ICMP error quotes.
fn quoted_tcp(segment: Option<&[u8]>) -> Option<(u16, u16, u32)> {
    let header = segment?.first_chunk::<8>()?;
    Some((
        u16::from_be_bytes([header[0], header[1]]),
        u16::from_be_bytes([header[2], header[3]]),
        u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
    ))
}
