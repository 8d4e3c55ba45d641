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

use super::key::FlowKey;
use smoltcp::wire::{Icmpv4Packet, Icmpv6Packet, IpAddress, Ipv4Packet, TcpPacket};
use std::net::Ipv6Addr;

/// What a received frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A TCP segment with sound headers.
    Tcp(TcpInfo),
    /// A router says that one of our segments was too big (RFC 1191, RFC 8201).
    PathMtu(PathMtu),
    /// ARP for Ethernet and IPv4.
    Arp,
    /// IPv6 neighbour and router discovery (RFC 4861, ICMPv6 types 133 to 137).
    Ndp,
    /// Any other ICMP or ICMPv6 message.
    Icmp,
    /// UDP from a DHCPv4 server to a client.
    Dhcp,
    /// A datagram from a DNS server's port.
    Dns,
    /// For another station.
    NotOurs,
    /// Headers are wrong or cut short.
    Malformed(Malformed),
    /// Sound as far as it was read, but left out on purpose.
    Unsupported(Unsupported),
}

/// Why a frame is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Shorter than an Ethernet header.
    EthernetHeader,
    /// The source MAC address is a group address.
    SourceMac,
    /// ARP packet cut short.
    ArpPacket,
    /// IPv4 header cut short, of another version, or shorter than 20 bytes.
    Ipv4Header,
    /// IPv4 total length is under the header's or over the frame's.
    Ipv4Length,
    /// IPv6 header cut short or of another version.
    Ipv6Header,
    /// IPv6 payload length is over the frame's.
    Ipv6Length,
    /// Hop-by-hop header cut short, or one of its options is.
    Ipv6Option,
    /// The IP source is a group address, IPv4-mapped, the destination itself, or (TCP) unspecified.
    SourceAddress,
    /// TCP header cut short or shorter than 20 bytes.
    TcpHeader,
    /// A port is 0.
    TcpPort,
    /// More than one of SYN, FIN and RST.
    TcpFlags,
    /// A TCP option is cut short or has the wrong length.
    TcpOption,
    /// UDP header cut short, or its length does not fit.
    UdpHeader,
    /// ICMP header cut short.
    IcmpHeader,
    /// The packet quoted in an ICMP error is cut short before the TCP sequence number.
    IcmpQuote,
}

/// Why a sound frame is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsupported {
    /// Neither ARP nor IP.
    EtherType,
    /// ARP for something else than Ethernet and IPv4.
    ArpKind,
    /// A fragment of an IPv4 packet.
    Ipv4Fragment,
    /// IPv6 from the unspecified address: a duplicate address probe (RFC 4862), which smoltcp leaves unanswered.
    Ipv6Unspecified,
    /// A hop-by-hop option that asks to discard the packet when it is not understood (RFC 8200 section 4.2).
    Ipv6Option,
    /// Neither TCP, ICMP nor DHCP; IPv6 fragments and extension headers other than a first hop-by-hop are among them.
    Protocol,
    /// An ICMP error about a packet that is not the start of a TCP segment.
    IcmpQuote,
}

/// The flags of a TCP header (RFC 9293 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TcpFlags(u8);

impl TcpFlags {
    const FIN: u8 = 0x01;
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;

    /// Synchronise: the segment opens a connection.
    pub(crate) fn syn(self) -> bool {
        self.0 & Self::SYN != 0
    }

    /// The acknowledgement number counts.
    pub(crate) fn ack(self) -> bool {
        self.0 & Self::ACK != 0
    }

    /// The sender is finished.
    pub(crate) fn fin(self) -> bool {
        self.0 & Self::FIN != 0
    }

    /// Reset.
    pub(crate) fn rst(self) -> bool {
        self.0 & Self::RST != 0
    }

    /// Whether the segment asks for a connection: SYN alone.
    pub(crate) fn is_opening(self) -> bool {
        self.0 & (Self::SYN | Self::FIN | Self::RST | Self::ACK) == Self::SYN
    }

    fn are_consistent(self) -> bool {
        (self.0 & (Self::SYN | Self::FIN | Self::RST)).count_ones() <= 1
    }
}

/// The headers of one TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TcpInfo {
    /// The flow: the destination is local.
    pub(crate) key: FlowKey,
    /// Sequence number of the first byte (or of the SYN).
    pub(crate) seq: u32,
    /// Acknowledgement number; counts only with [`TcpFlags::ack`].
    pub(crate) ack: u32,
    /// Window, not scaled.
    pub(crate) window: u16,
    /// Payload, bytes.
    pub(crate) payload_len: u16,
    /// Where the TCP header starts in the frame.
    pub(crate) tcp_offset: u16,
    /// Where the payload starts in the frame.
    pub(crate) payload_offset: u16,
    /// Flags.
    pub(crate) flags: TcpFlags,
}

impl TcpInfo {
    /// The sequence number that follows the segment.
    pub(crate) fn end_seq(&self) -> u32 {
        let len = u32::from(self.payload_len) + u32::from(self.flags.syn()) + u32::from(self.flags.fin());
        self.seq.wrapping_add(len)
    }

    /// Whether the IPv4 header's and the TCP checksum of the frame that this was read from are right.
    pub(crate) fn checksum_is_good(&self, frame: &[u8]) -> bool {
        let end = usize::from(self.payload_offset) + usize::from(self.payload_len);
        let Some(segment) = frame.get(usize::from(self.tcp_offset)..end) else { return false };
        ipv4_header_is_good(frame, &self.key)
            && TcpPacket::new_unchecked(segment).verify_checksum(
                &IpAddress::from(self.key.remote().ip()),
                &IpAddress::from(self.key.local().ip()),
            )
    }
}

/// A router's word that a segment of ours did not fit its next link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PathMtu {
    /// The flow of the segment that was dropped: its source is local.
    pub(crate) key: FlowKey,
    /// Sequence number of that segment: one that is not in flight was made up (RFC 5927 section 4.1).
    pub(crate) seq: u32,
    /// The next link's MTU, bytes; 0 from routers older than RFC 1191. Not checked for sense.
    pub(crate) mtu: u32,
    /// Length of the packet that was dropped, bytes, as the quote says.
    pub(crate) packet_bytes: u16,
    icmp_offset: u16,
    icmp_len: u16,
}

impl PathMtu {
    /// Whether the IPv4 header's and the ICMP checksum of the frame that this was read from are right.
    pub(crate) fn checksum_is_good(&self, frame: &[u8]) -> bool {
        let start = usize::from(self.icmp_offset);
        let Some(message) = frame.get(start..start + usize::from(self.icmp_len)) else { return false };
        if self.key.is_ipv4() {
            ipv4_header_is_good(frame, &self.key) && Icmpv4Packet::new_unchecked(message).verify_checksum()
        } else {
            let Some((_, header)) = frame.split_first_chunk::<ETHERNET_LEN>() else { return false };
            let Some(header) = header.first_chunk::<40>() else { return false };
            let (src, dst) = ipv6_addrs(header);
            Icmpv6Packet::new_unchecked(message).verify_checksum(&Ipv6Addr::from(src), &Ipv6Addr::from(dst))
        }
    }
}

fn ipv4_header_is_good(frame: &[u8], key: &FlowKey) -> bool {
    !key.is_ipv4()
        || frame
            .get(ETHERNET_LEN..)
            .and_then(|packet| Ipv4Packet::new_checked(packet).ok())
            .is_some_and(|packet| packet.verify_checksum())
}

const ETHERNET_LEN: usize = 14;
const ICMP_LEN: usize = 8;
const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;

/// Says what a frame is. Reads headers only, never past the frame's end, and never panics.
#[inline]
pub(crate) fn classify(frame: &[u8], our_mac: [u8; 6]) -> Class {
    let Some((header, packet)) = frame.split_first_chunk::<ETHERNET_LEN>() else {
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
    let offset = ETHERNET_LEN + header_len;
    match header[9] {
        PROTOCOL_TCP if to_group => Class::NotOurs,
        PROTOCOL_TCP if src == [0; 4] => Malformed::SourceAddress.into(),
        PROTOCOL_TCP => {
            tcp(payload, offset, |local_port, remote_port| FlowKey::ipv4(dst, src, local_port, remote_port))
        }
        PROTOCOL_ICMP => icmpv4(payload, offset, to_group),
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
    let offset = ETHERNET_LEN + header.len() + (payload_len - payload.len());
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

#[inline]
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

fn udp(datagram: &[u8]) -> Class {
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

fn icmpv4(message: &[u8], offset: usize, to_group: bool) -> Class {
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

fn icmpv6(message: &[u8], offset: usize, to_group: bool) -> Class {
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

#[cfg(test)]
mod tests {
    use super::super::frames::*;
    use super::super::key::symmetric_hash;
    use super::*;
    use proptest::prelude::*;
    use smoltcp::iface::SocketSet;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::time::Instant;
    use smoltcp::wire::{
        EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Repr, Ipv6ExtHeader, Ipv6ExtHeaderRepr,
        Ipv6HopByHopHeader, Ipv6HopByHopRepr, Ipv6OptionRepr, Ipv6Packet, Ipv6Repr, TcpControl, TcpRepr,
        TcpSeqNumber, TcpTimestampRepr,
    };
    use std::net::SocketAddr;

    fn class(frame: &[u8]) -> Class {
        classify(frame, OUR_MAC)
    }

    fn info(frame: &[u8]) -> TcpInfo {
        match class(frame) {
            Class::Tcp(info) => info,
            other => panic!("not a segment but {other:?}"),
        }
    }

    fn syn<'a>() -> TcpRepr<'a> {
        TcpRepr {
            control: TcpControl::Syn,
            max_seg_size: Some(1460),
            window_scale: Some(7),
            sack_permitted: true,
            timestamp: Some(TcpTimestampRepr::new(1, 2)),
            ..segment()
        }
    }

    fn data(payload: &[u8]) -> TcpRepr<'_> {
        TcpRepr { control: TcpControl::Psh, ack_number: Some(TcpSeqNumber(77)), payload, ..segment() }
    }

    /// Puts IPv4 options before the payload.
    fn with_ipv4_options(frame: &[u8], options: &[u8]) -> Vec<u8> {
        let mut result = frame[..34].to_vec();
        result[14] += u8::try_from(options.len() / 4).unwrap();
        let total_len = u16::try_from(frame.len() - 14 + options.len()).unwrap();
        result[16..18].copy_from_slice(&total_len.to_be_bytes());
        result.extend(options);
        result.extend(&frame[34..]);
        Ipv4Packet::new_unchecked(&mut result[14..]).fill_checksum();
        result
    }

    fn too_big_v4(quote: &[u8], mtu: u16) -> Vec<u8> {
        let mut message = vec![3, 4, 0, 0, 0, 0];
        message.extend(mtu.to_be_bytes());
        message.extend(quote);
        Icmpv4Packet::new_unchecked(&mut message[..]).fill_checksum();
        ip_frame(IpAddress::v4(10, 0, 0, 254), ours_v4().ip().into(), IpProtocol::Icmp, &message)
    }

    fn too_big_v6(quote: &[u8], mtu: u32) -> Vec<u8> {
        let router: Ipv6Addr = "fd00::fe".parse().unwrap();
        let SocketAddr::V6(ours) = ours_v6() else { unreachable!() };
        let mut message = vec![2, 0, 0, 0];
        message.extend(mtu.to_be_bytes());
        message.extend(quote);
        Icmpv6Packet::new_unchecked(&mut message[..]).fill_checksum(&router, ours.ip());
        ip_frame(router.into(), (*ours.ip()).into(), IpProtocol::Icmpv6, &message)
    }

    #[test]
    fn a_syn_yields_its_flow_and_numbers() {
        for (ours, peer) in [(ours_v4(), peer_v4()), (ours_v6(), peer_v6())] {
            let frame = tcp_frame(peer, ours, &syn());
            let info = info(&frame);
            assert_eq!(info.key, FlowKey::new(ours, peer));
            assert_eq!((info.key.local(), info.key.remote()), (ours, peer));
            assert_eq!((info.key.local_port(), info.key.remote_port()), (80, 40_000));
            assert_eq!(info.key.is_ipv4(), ours.is_ipv4());
            assert!(info.flags.syn() && !info.flags.ack() && !info.flags.fin() && !info.flags.rst());
            assert_eq!((info.seq, info.window, info.payload_len), (1_000, 4_096, 0));
            assert_eq!(info.end_seq(), 1_001);
            assert!(info.checksum_is_good(&frame));
        }
    }

    #[test]
    fn ethernet_padding_is_no_payload() {
        let mut frame = tcp_frame(peer_v4(), ours_v4(), &data(b"hello"));
        let before = info(&frame);
        frame.extend([0xaa; 32]);
        let padded = info(&frame);
        assert_eq!(before, padded);
        assert_eq!((padded.payload_len, padded.ack), (5, 77));
        let start = usize::from(padded.payload_offset);
        assert_eq!(&frame[start..start + 5], b"hello");
        assert!(padded.checksum_is_good(&frame));
    }

    #[test]
    fn ip_options_are_skipped() {
        let frame = with_ipv4_options(&tcp_frame(peer_v4(), ours_v4(), &data(b"hello")), &[1, 1, 1, 0]);
        let with_options = info(&frame);
        assert_eq!((with_options.tcp_offset, with_options.payload_offset), (38, 58));
        assert!(with_options.checksum_is_good(&frame));

        // PadN, Router Alert, and an unknown option of the kind to skip.
        let plain = tcp_frame(peer_v6(), ours_v6(), &data(b"hello"));
        for options in [&[1, 4, 0, 0, 0, 0][..], &[5, 2, 0, 0, 1, 0], &[0x3e, 4, 9, 9, 9, 9], &[0; 14]] {
            let frame = with_hop_by_hop(&plain, options);
            let skipped = info(&frame);
            assert_eq!(usize::from(skipped.tcp_offset), 54 + 2 + options.len());
            assert_eq!(skipped.payload_len, 5);
            assert!(skipped.checksum_is_good(&frame));
        }
        let discard = with_hop_by_hop(&plain, &[0x7e, 4, 9, 9, 9, 9]);
        assert_eq!(class(&discard), Class::Unsupported(Unsupported::Ipv6Option));
        let cut = with_hop_by_hop(&plain, &[1, 9, 0, 0, 0, 0]);
        assert_eq!(class(&cut), Class::Malformed(Malformed::Ipv6Option));
    }

    #[test]
    fn wrong_checksums_are_found() {
        for (ours, peer) in [(ours_v4(), peer_v4()), (ours_v6(), peer_v6())] {
            let mut frame = tcp_frame(peer, ours, &data(b"hello"));
            let info = info(&frame);
            *frame.last_mut().unwrap() ^= 1;
            assert!(!info.checksum_is_good(&frame));
            assert!(!info.checksum_is_good(&frame[..20]));
        }
        let mut frame = tcp_frame(peer_v4(), ours_v4(), &data(b"hello"));
        // The time to live is covered by the IPv4 header's checksum alone.
        frame[22] ^= 1;
        assert!(!info(&frame).checksum_is_good(&frame));
    }

    #[test]
    fn what_is_left_out_says_why() {
        let frame = tcp_frame(peer_v4(), ours_v4(), &data(b"hello"));
        let v6 = tcp_frame(peer_v6(), ours_v6(), &data(b"hello"));
        let edit = |base: &[u8], at: usize, value: u8| {
            let mut edited = base.to_vec();
            edited[at] = value;
            class(&edited)
        };
        assert_eq!(class(&[]), Class::Malformed(Malformed::EthernetHeader));
        assert_eq!(edit(&frame, 5, 9), Class::NotOurs);
        assert_eq!(edit(&frame, 0, 3), Class::NotOurs, "TCP to a group MAC address");
        assert_eq!(edit(&frame, 6, 3), Class::Malformed(Malformed::SourceMac));
        assert_eq!(edit(&frame, 12, 0x81), Class::Unsupported(Unsupported::EtherType));
        assert_eq!(edit(&frame, 14, 0x44), Class::Malformed(Malformed::Ipv4Header));
        assert_eq!(edit(&frame, 14, 0x65), Class::Malformed(Malformed::Ipv4Header));
        assert_eq!(edit(&frame, 17, 19), Class::Malformed(Malformed::Ipv4Length));
        assert_eq!(edit(&frame, 17, 46), Class::Malformed(Malformed::Ipv4Length));
        assert_eq!(edit(&frame, 20, 0x20), Class::Unsupported(Unsupported::Ipv4Fragment));
        assert_eq!(edit(&frame, 21, 1), Class::Unsupported(Unsupported::Ipv4Fragment));
        assert_eq!(edit(&frame, 23, 132), Class::Unsupported(Unsupported::Protocol));
        assert_eq!(edit(&frame, 26, 224), Class::Malformed(Malformed::SourceAddress));
        assert_eq!(edit(&frame, 29, 2), Class::Malformed(Malformed::SourceAddress), "from ourselves");
        assert_eq!(edit(&frame, 46, 0x40), Class::Malformed(Malformed::TcpHeader));
        assert_eq!(edit(&frame, 46, 0xf0), Class::Malformed(Malformed::TcpHeader));
        assert_eq!(edit(&frame, 47, 0x03), Class::Malformed(Malformed::TcpFlags));
        assert_eq!(edit(&frame, 37, 0), Class::Malformed(Malformed::TcpPort), "port 80 without its low byte");
        assert_eq!(edit(&frame, 23, 17), Class::Malformed(Malformed::UdpHeader));
        assert_eq!(class(&frame[..33]), Class::Malformed(Malformed::Ipv4Header));
        assert_eq!(edit(&v6, 14, 0x40), Class::Malformed(Malformed::Ipv6Header));
        assert_eq!(edit(&v6, 19, 255), Class::Malformed(Malformed::Ipv6Length));
        assert_eq!(edit(&v6, 20, 44), Class::Unsupported(Unsupported::Protocol), "an IPv6 fragment");
        assert_eq!(edit(&v6, 22, 0xff), Class::Malformed(Malformed::SourceAddress));
        assert_eq!(class(&v6[..53]), Class::Malformed(Malformed::Ipv6Header));

        let bad_option = with_tcp_option(&[3, 4, 0, 0]);
        assert_eq!(class(&bad_option), Class::Malformed(Malformed::TcpOption));
        let mapped: Ipv6Addr = "::ffff:10.0.0.1".parse().unwrap();
        let alias = tcp_frame(SocketAddr::new(mapped.into(), 40_000), ours_v6(), &segment());
        assert_eq!(class(&alias), Class::Malformed(Malformed::SourceAddress));
        let probe =
            ip_frame(Ipv6Addr::UNSPECIFIED.into(), ours_v6().ip().into(), IpProtocol::Icmpv6, &[135; 24]);
        assert_eq!(class(&probe), Class::Unsupported(Unsupported::Ipv6Unspecified));
    }

    /// A segment whose header ends in these four bytes of options.
    fn with_tcp_option(option: &[u8; 4]) -> Vec<u8> {
        let mut bytes = tcp_bytes(peer_v4(), ours_v4(), &segment());
        bytes[12] = 0x60;
        bytes.extend(option);
        ip_frame(peer_v4().ip().into(), ours_v4().ip().into(), IpProtocol::Tcp, &bytes)
    }

    #[test]
    fn control_frames_are_told_apart() {
        let arp = [0, 1, 8, 0, 6, 4, 0, 1].iter().copied().chain([0; 20]).collect::<Vec<_>>();
        assert_eq!(class(&ethernet(EthernetProtocol::Arp, &arp)), Class::Arp);
        assert_eq!(
            class(&ethernet(EthernetProtocol::Arp, &arp[..27])),
            Class::Malformed(Malformed::ArpPacket)
        );
        let token_ring = ethernet(EthernetProtocol::Arp, &[&[0, 6][..], &arp[2..]].concat());
        assert_eq!(class(&token_ring), Class::Unsupported(Unsupported::ArpKind));

        let (peer, ours) = (peer_v4().ip().into(), ours_v4().ip().into());
        let echo = [8, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(class(&ip_frame(peer, ours, IpProtocol::Icmp, &echo)), Class::Icmp);
        // RFC 1122 section 3.2.2.6 lets an echo request to all be dropped; answered, it multiplies (RFC 2644).
        let mut to_all = ip_frame(peer, ours, IpProtocol::Icmp, &echo);
        to_all[..6].fill(0xff);
        assert_eq!(class(&to_all), Class::NotOurs);
        assert_eq!(
            class(&ip_frame(peer, ours, IpProtocol::Icmp, &echo[..7])),
            Class::Malformed(Malformed::IcmpHeader)
        );
        let offer = [0, 67, 0, 68, 0, 8, 0, 0];
        assert_eq!(class(&ip_frame(peer, ours, IpProtocol::Udp, &offer)), Class::Dhcp);
        let query = [0, 67, 0, 53, 0, 8, 0, 0];
        assert_eq!(
            class(&ip_frame(peer, ours, IpProtocol::Udp, &query)),
            Class::Unsupported(Unsupported::Protocol)
        );

        let (peer, ours) = (peer_v6().ip().into(), ours_v6().ip().into());
        for kind in 133..=137 {
            assert_eq!(
                class(&ip_frame(peer, ours, IpProtocol::Icmpv6, &[kind, 0, 0, 0, 0, 0, 0, 0])),
                Class::Ndp
            );
        }
        assert_eq!(
            class(&ip_frame(peer, ours, IpProtocol::Icmpv6, &[128, 0, 0, 0, 0, 0, 0, 0])),
            Class::Icmp
        );
    }

    #[test]
    fn a_packet_too_big_names_our_flow_and_the_mtu() {
        // What we sent: from us to the peer.
        let sent =
            tcp_frame(ours_v4(), peer_v4(), &TcpRepr { seq_number: TcpSeqNumber(-2), ..data(&[7; 600]) });
        let frame = too_big_v4(&sent[14..14 + 28], 576);
        let Class::PathMtu(error) = class(&frame) else { panic!("{:?}", class(&frame)) };
        assert_eq!(error.key, FlowKey::new(ours_v4(), peer_v4()));
        assert_eq!((error.mtu, error.seq), (576, u32::MAX - 1));
        assert!(error.checksum_is_good(&frame));
        let mut wrong = frame.clone();
        wrong[40] ^= 1;
        assert!(!error.checksum_is_good(&wrong));
        assert!(!error.checksum_is_good(&frame[..30]));
        assert_eq!(class(&too_big_v4(&sent[14..14 + 27], 576)), Class::Malformed(Malformed::IcmpQuote));
        let mut udp = sent[14..14 + 28].to_vec();
        udp[9] = 17;
        assert_eq!(class(&too_big_v4(&udp, 576)), Class::Unsupported(Unsupported::IcmpQuote));

        let sent = tcp_frame(ours_v6(), peer_v6(), &data(&[7; 1_400]));
        let frame = too_big_v6(&sent[14..14 + 1_232], 1_280);
        let Class::PathMtu(error) = class(&frame) else { panic!("{:?}", class(&frame)) };
        assert_eq!(error.key, FlowKey::new(ours_v6(), peer_v6()));
        assert_eq!((error.mtu, error.seq), (1_280, 1_000));
        assert!(error.checksum_is_good(&frame));
        let mut wrong = frame.clone();
        *wrong.last_mut().unwrap() ^= 1;
        assert!(!error.checksum_is_good(&wrong));
        assert_eq!(class(&too_big_v6(&sent[14..14 + 47], 1_280)), Class::Malformed(Malformed::IcmpQuote));
    }

    #[test]
    fn sizes_are_what_the_flow_table_counts_on() {
        assert_eq!(size_of::<FlowKey>(), 40);
        assert!(size_of::<Class>() <= 72, "{}", size_of::<Class>());
    }

    /// What smoltcp's own parsers make of a frame: the TCP segment that would reach `process_tcp`.
    fn by_smoltcp(frame: &[u8]) -> Option<TcpInfo> {
        let caps = ChecksumCapabilities::ignored();
        let ethernet = EthernetFrame::new_checked(frame).ok()?;
        if !ethernet.dst_addr().is_multicast() && ethernet.dst_addr().0 != OUR_MAC {
            return None;
        }
        let (src, dst, payload): (IpAddress, IpAddress, &[u8]) = match ethernet.ethertype() {
            EthernetProtocol::Ipv4 => {
                let packet = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
                let repr = Ipv4Repr::parse(&packet, &caps).ok()?;
                if repr.src_addr.is_multicast() || repr.src_addr.is_broadcast() {
                    return None;
                }
                (repr.next_header == IpProtocol::Tcp).then_some(())?;
                (repr.src_addr.into(), repr.dst_addr.into(), packet.payload())
            }
            EthernetProtocol::Ipv6 => {
                let packet = Ipv6Packet::new_checked(ethernet.payload()).ok()?;
                let repr = Ipv6Repr::parse(&packet).ok()?;
                if repr.src_addr.is_multicast() || repr.src_addr.is_unspecified() {
                    return None;
                }
                let (mut next_header, mut payload) = (repr.next_header, packet.payload());
                if next_header == IpProtocol::HopByHop {
                    (next_header, payload) = hop_by_hop_by_smoltcp(payload)?;
                }
                (next_header == IpProtocol::Tcp).then_some(())?;
                (repr.src_addr.into(), repr.dst_addr.into(), payload)
            }
            _ => return None,
        };
        if src.is_unspecified() {
            return None;
        }
        let packet = TcpPacket::new_checked(payload).ok()?;
        let repr = TcpRepr::parse(&packet, &src, &dst, &caps).ok()?;
        let tcp_offset = u16::try_from(payload.as_ptr() as usize - frame.as_ptr() as usize).unwrap();
        Some(TcpInfo {
            key: FlowKey::new(
                SocketAddr::new(dst.into(), repr.dst_port),
                SocketAddr::new(src.into(), repr.src_port),
            ),
            seq: repr.seq_number.0 as u32,
            ack: packet.ack_number().0 as u32,
            window: repr.window_len,
            payload_len: u16::try_from(repr.payload.len()).unwrap(),
            tcp_offset,
            payload_offset: tcp_offset + u16::from(packet.header_len()),
            flags: TcpFlags(payload[13]),
        })
    }

    fn hop_by_hop_by_smoltcp(payload: &[u8]) -> Option<(IpProtocol, &[u8])> {
        let header = Ipv6ExtHeader::new_checked(payload).ok()?;
        let header = Ipv6ExtHeaderRepr::parse(&header).ok()?;
        let options = Ipv6HopByHopHeader::new_checked(header.data).ok()?;
        let options = Ipv6HopByHopRepr::parse(&options).ok()?;
        for option in &options.options {
            if let Ipv6OptionRepr::Unknown { type_, .. } = option
                && u8::from(*type_) & 0xc0 != 0
            {
                return None;
            }
        }
        Some((header.next_header, &payload[header.header_len() + header.data.len()..]))
    }

    /// Whether this is a frame that only `classify` refuses (see the top of the file).
    fn is_stricter(frame: &[u8], segment: &TcpInfo) -> bool {
        let (local, remote) = (segment.key.local().ip(), segment.key.remote().ip());
        let mapped_in_v6 = frame[12..14] == [0x86, 0xdd] && (local.is_ipv4() || remote.is_ipv4());
        frame[0] & 1 != 0 || frame[6] & 1 != 0 || local == remote || mapped_in_v6
    }

    /// What smoltcp's interface, without any socket, answers to a frame from a neighbour that it knows.
    fn answers(frame: &[u8]) -> Vec<Vec<u8>> {
        let mut device = OneFrame::new();
        let mut interface = interface(&mut device, 1);
        let mut sockets = SocketSet::new(Vec::new());
        device.rx = Some(frame.to_vec());
        interface.poll(Instant::ZERO, &mut device, &mut sockets);
        device.tx
    }

    fn base_frames() -> Vec<Vec<u8>> {
        let v4 = tcp_frame(peer_v4(), ours_v4(), &data(b"hello"));
        let v6 = tcp_frame(peer_v6(), ours_v6(), &data(b"hello"));
        vec![
            tcp_frame(peer_v4(), ours_v4(), &syn()),
            tcp_frame(peer_v6(), ours_v6(), &syn()),
            with_ipv4_options(&v4, &[0x94, 4, 0, 0]),
            with_hop_by_hop(&v6, &[5, 2, 0, 0, 1, 0]),
            with_hop_by_hop(&v6, &[0, 0, 0, 1, 0, 0x3e, 4, 1, 2, 3, 4, 1, 1, 0]),
            too_big_v4(&tcp_frame(ours_v4(), peer_v4(), &data(&[1; 40]))[14..], 600),
            too_big_v6(&tcp_frame(ours_v6(), peer_v6(), &data(&[1; 40]))[14..], 1_300),
            tcp_frame(
                peer_v4(),
                ours_v4(),
                &TcpRepr { sack_ranges: [Some((1, 9)), Some((20, 30)), None], ..data(b"") },
            ),
            v4,
            v6,
        ]
    }

    prop_compose! {
        /// A sound frame with some bytes of its headers changed, cut short or padded.
        fn mutated()(
            base in prop::sample::select(base_frames()),
            edits in prop::collection::vec((0_usize..110, prop_oneof![
                any::<u8>(),
                prop::sample::select(vec![0, 1, 2, 4, 5, 6, 10, 17, 58, 0x45, 0x60, 0x80, 0xff]),
            ]), 0..4),
            len in 0_usize..200,
            resize in prop::bool::weighted(0.3),
        ) -> Vec<u8> {
            let mut frame = base;
            for (at, value) in edits {
                if let Some(byte) = frame.get_mut(at) {
                    *byte = value;
                }
            }
            if resize {
                frame.resize(len, 0);
            }
            frame
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn any_bytes_have_a_class(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            class(&bytes);
            let mut addressed = ethernet(EthernetProtocol::Ipv4, &bytes);
            class(&addressed);
            addressed[12] = 0x86;
            addressed[13] = 0xdd;
            class(&addressed);
        }

        #[test]
        fn a_segment_is_what_smoltcps_parsers_accept(frame in mutated()) {
            match (class(&frame), by_smoltcp(&frame)) {
                (Class::Tcp(ours), theirs) => prop_assert_eq!(Some(ours), theirs),
                (other, Some(theirs)) => prop_assert!(is_stricter(&frame, &theirs), "{:?}", other),
                (_, None) => {}
            }
        }

        #[test]
        fn reading_checksums_never_panics(frame in mutated(), other in mutated()) {
            match class(&frame) {
                Class::Tcp(info) => { info.checksum_is_good(&other); }
                Class::PathMtu(error) => { error.checksum_is_good(&other); }
                _ => {}
            }
        }

        #[test]
        fn both_directions_share_a_hash(frame in mutated()) {
            if let Class::Tcp(info) = class(&frame) {
                prop_assert_eq!(symmetric_hash(&info.key), symmetric_hash(&info.key.reversed()));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn smoltcp_resets_exactly_the_segments_of_no_flow(frame in mutated()) {
            let answers = answers(&frame);
            let resets = answers.iter().filter(|answer| {
                matches!(classify(answer, PEER_MAC), Class::Tcp(info) if info.flags.rst())
            }).count();
            match class(&frame) {
                Class::Tcp(info)
                    if !info.flags.rst()
                        && [ours_v4().ip(), ours_v6().ip()].contains(&info.key.local().ip())
                        && [peer_v4().ip(), peer_v6().ip()].contains(&info.key.remote().ip()) =>
                {
                    prop_assert_eq!(resets, 1);
                }
                Class::Tcp(_) => {}
                _ => {
                    let strict = by_smoltcp(&frame).is_some_and(|theirs| is_stricter(&frame, &theirs));
                    prop_assert!(resets == 0 || strict);
                }
            }
        }
    }
}
