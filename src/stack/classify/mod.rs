//! What a received frame is, before smoltcp sees it: the flow of a TCP segment, and everything else by kind.
//!
//! A segment that is handed to the wrong connection makes smoltcp answer with RST, so what counts as a segment here
//! must be what smoltcp's own parsers accept: IP options, hop-by-hop options, Ethernet padding, TCP options and flags
//! are skipped or refused as smoltcp does it. Where this is stricter it drops what no honest peer sends: TCP to a
//! group MAC address (RFC 1122 section 4.2.3.10), group source MACs, segments from their own destination, and
//! IPv4-mapped addresses inside IPv6 packets (they would alias IPv4 flows).
//!
//! Checksums are not looked at here; [`TcpInfo::checksum_is_good`] and [`PathMtu::checksum_is_good`] do that for
//! whoever acts on a frame without smoltcp. Whether the destination is one of our addresses is the stack's to ask.

mod class;
mod icmp;
#[cfg(test)]
mod tests;
mod udp;

pub(crate) use class::{Class, Malformed, PathMtu, TcpFlags, TcpInfo, Unsupported};

use super::key::FlowKey;
use crate::port::ETHERNET_HEADER_BYTES;
use icmp::{icmpv4, icmpv6};
use udp::udp;
pub(crate) use udp::{udp_checksum_is_good, udp_source};

const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;

/// Says what a frame is. Reads headers only, never past the frame's end, and never panics.
#[inline]
pub(crate) fn classify(frame: &[u8], our_mac: [u8; 6]) -> Class {
    let Some((header, packet)) = frame.split_first_chunk::<ETHERNET_HEADER_BYTES>() else {
        return Malformed::EthernetHeader.into();
    };
    let to_group = header[0] & 1 != 0;
    if !to_group && header[..6] != our_mac {
        return Class::NotOurs;
    }
    if header[6] & 1 != 0 {
        return Malformed::SourceMac.into();
    }
    match u16::from_be_bytes([header[12], header[13]]) {
        0x0800 => ipv4(packet, to_group),
        0x86dd => ipv6(packet, to_group),
        0x0806 => arp(packet),
        _ => Unsupported::EtherType.into(),
    }
}

impl From<Malformed> for Class {
    fn from(reason: Malformed) -> Self {
        Class::Malformed(reason)
    }
}

impl From<Unsupported> for Class {
    fn from(reason: Unsupported) -> Self {
        Class::Unsupported(reason)
    }
}

fn arp(packet: &[u8]) -> Class {
    let Some(header) = packet.first_chunk::<8>() else { return Malformed::ArpPacket.into() };
    let addrs_len = 2 * (usize::from(header[4]) + usize::from(header[5]));
    if packet.len() < header.len() + addrs_len {
        return Malformed::ArpPacket.into();
    }
    // Hardware Ethernet, protocol IPv4, 6-byte and 4-byte addresses (RFC 826).
    if header[..6] != [0, 1, 0x08, 0, 6, 4] {
        return Unsupported::ArpKind.into();
    }
    Class::Arp
}

#[inline]
fn ipv4(packet: &[u8], to_group: bool) -> Class {
    let Some(header) = packet.first_chunk::<20>() else { return Malformed::Ipv4Header.into() };
    let header_len = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || header_len < 20 {
        return Malformed::Ipv4Header.into();
    }
    // What follows the total length is Ethernet's padding.
    let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let Some(payload) = packet.get(header_len..total_len) else { return Malformed::Ipv4Length.into() };
    // More-fragments flag or an offset.
    if u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0 {
        return Unsupported::Ipv4Fragment.into();
    }
    let src = [header[12], header[13], header[14], header[15]];
    let dst = [header[16], header[17], header[18], header[19]];
    if src[0] >> 4 == 0xe || src == [255; 4] || src == dst {
        return Malformed::SourceAddress.into();
    }
    let offset = ETHERNET_HEADER_BYTES + header_len;
    match header[9] {
        PROTOCOL_TCP if to_group => Class::NotOurs,
        PROTOCOL_TCP if src == [0; 4] => Malformed::SourceAddress.into(),
        PROTOCOL_TCP => {
            tcp(payload, offset, |local_port, remote_port| FlowKey::ipv4(dst, src, local_port, remote_port))
        }
        PROTOCOL_ICMP => icmpv4(payload, offset, to_group),
        // A server has an address: smoltcp would try to answer to none.
        PROTOCOL_UDP if src == [0; 4] && matches!(udp(payload), Class::Dhcp | Class::Dns) => {
            Malformed::SourceAddress.into()
        }
        PROTOCOL_UDP => udp(payload),
        _ => Unsupported::Protocol.into(),
    }
}

/// The source and destination of an IPv6 header.
fn ipv6_addrs(header: &[u8; 40]) -> ([u8; 16], [u8; 16]) {
    let mut src = [0; 16];
    let mut dst = [0; 16];
    src.copy_from_slice(&header[8..24]);
    dst.copy_from_slice(&header[24..]);
    (src, dst)
}

fn is_ipv4_mapped(addr: &[u8; 16]) -> bool {
    addr[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]
}

#[inline]
fn ipv6(packet: &[u8], to_group: bool) -> Class {
    let Some((header, rest)) = packet.split_first_chunk::<40>() else { return Malformed::Ipv6Header.into() };
    if header[0] >> 4 != 6 {
        return Malformed::Ipv6Header.into();
    }
    let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let Some(mut payload) = rest.get(..payload_len) else { return Malformed::Ipv6Length.into() };
    let (src, dst) = ipv6_addrs(header);
    if src[0] == 0xff || is_ipv4_mapped(&src) || src == dst {
        return Malformed::SourceAddress.into();
    }
    if is_ipv4_mapped(&dst) {
        return Class::NotOurs;
    }
    if src == [0; 16] {
        return Unsupported::Ipv6Unspecified.into();
    }
    let mut next = header[6];
    if next == HOP_BY_HOP {
        (next, payload) = match hop_by_hop(payload) {
            Ok(skipped) => skipped,
            Err(dropped) => return dropped,
        };
    }
    let offset = ETHERNET_HEADER_BYTES + header.len() + (payload_len - payload.len());
    match next {
        PROTOCOL_TCP if to_group => Class::NotOurs,
        PROTOCOL_TCP => {
            tcp(payload, offset, |local_port, remote_port| FlowKey::ipv6(&dst, &src, local_port, remote_port))
        }
        PROTOCOL_ICMPV6 => icmpv6(payload, offset, to_group),
        _ => Unsupported::Protocol.into(),
    }
}

/// Options that smoltcp stores of one hop-by-hop header; it reads one more and ignores the rest.
const HOP_BY_HOP_OPTIONS_MAX: usize = 4;

/// Skips a hop-by-hop header (RFC 8200 section 4.3): the next header and what follows, or why the packet is dropped.
fn hop_by_hop(payload: &[u8]) -> Result<(u8, &[u8]), Class> {
    const PAD_1: u8 = 0;
    const PAD_N: u8 = 1;
    const ROUTER_ALERT: u8 = 5;
    let header = payload.first_chunk::<2>().ok_or(Malformed::Ipv6Option)?;
    let header_len = usize::from(header[1]) * 8 + 8;
    let mut options = payload.get(2..header_len).ok_or(Malformed::Ipv6Option)?;
    let mut refused = false;
    for stored in 0..=HOP_BY_HOP_OPTIONS_MAX {
        let Some(&kind) = options.first() else { break };
        let option_len = match (kind, options.get(1)) {
            (PAD_1, _) => 1,
            (ROUTER_ALERT, Some(&len)) if len != 2 => return Err(Malformed::Ipv6Option.into()),
            (_, Some(&len)) => 2 + usize::from(len),
            (_, None) => return Err(Malformed::Ipv6Option.into()),
        };
        options = options.get(option_len..).ok_or(Malformed::Ipv6Option)?;
        // The two highest bits of an option that is not understood: 00 is to skip it.
        let known = matches!(kind, PAD_1 | PAD_N | ROUTER_ALERT);
        refused |= !known && kind & 0xc0 != 0 && stored < HOP_BY_HOP_OPTIONS_MAX;
    }
    if refused {
        return Err(Unsupported::Ipv6Option.into());
    }
    Ok((header[0], &payload[header_len..]))
}

/// The flow of what looks like a TCP segment right behind an IP header without options. Read from where that has it, and not
/// checked: a hint.
#[inline]
pub(super) fn likely_flow(frame: &[u8]) -> Option<FlowKey> {
    let port = |at: usize| frame.get(at..)?.first_chunk().map(|port| u16::from_be_bytes(*port));
    match frame.get(12..24)? {
        [0x08, 0x00, 0x45, .., PROTOCOL_TCP] => {
            let [src, dst] = [26, 30].map(|at| frame.get(at..)?.first_chunk::<4>());
            Some(FlowKey::ipv4(*dst?, *src?, port(36)?, port(34)?))
        }
        [0x86, 0xdd, 0x60..=0x6f, _, _, _, _, _, PROTOCOL_TCP, ..] => {
            let [src, dst] = [22, 38].map(|at| frame.get(at..)?.first_chunk::<16>());
            Some(FlowKey::ipv6(dst?, src?, port(56)?, port(54)?))
        }
        _ => None,
    }
}

/// Part of its caller whatever the compiler thinks of it: what it returns would be copied twice.
#[inline(always)]
fn tcp(segment: &[u8], tcp_offset: usize, key: impl FnOnce(u16, u16) -> FlowKey) -> Class {
    let Some(header) = segment.first_chunk::<20>() else { return Malformed::TcpHeader.into() };
    let header_len = usize::from(header[12] >> 4) * 4;
    let Some(options) = segment.get(20..header_len) else { return Malformed::TcpHeader.into() };
    let src_port = u16::from_be_bytes([header[0], header[1]]);
    let dst_port = u16::from_be_bytes([header[2], header[3]]);
    if src_port == 0 || dst_port == 0 {
        return Malformed::TcpPort.into();
    }
    let flags = TcpFlags(header[13]);
    if !flags.are_consistent() {
        return Malformed::TcpFlags.into();
    }
    if !options.is_empty() && !tcp_options_are_sound(options) {
        return Malformed::TcpOption.into();
    }
    Class::Tcp(TcpInfo {
        key: key(dst_port, src_port),
        seq: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
        ack: u32::from_be_bytes([header[8], header[9], header[10], header[11]]),
        window: u16::from_be_bytes([header[14], header[15]]),
        // Under 2^16 each: an IP payload is, and headers before it take at most 14 + 40 + 2,056 bytes.
        payload_len: (segment.len() - header_len) as u16,
        tcp_offset: tcp_offset as u16,
        payload_offset: (tcp_offset + header_len) as u16,
        flags,
    })
}

/// Whether smoltcp accepts the options (RFC 9293 section 3.1, RFC 7323, RFC 2018).
fn tcp_options_are_sound(mut options: &[u8]) -> bool {
    while let Some(&kind) = options.first() {
        let len = match kind {
            0 => return true,
            1 => 1,
            _ => {
                let Some(len) = options.get(1).map(|&len| usize::from(len)) else { return false };
                let fits = match kind {
                    2 => len == 4,
                    3 => len == 3,
                    4 => len == 2,
                    5 => len >= 10 && (len - 2) % 8 == 0,
                    _ => len >= 2,
                };
                if !fits {
                    return false;
                }
                len
            }
        };
        let Some(rest) = options.get(len..) else { return false };
        options = rest;
    }
    true
}
