//! What a frame can be, and what was read of it.

use super::super::key::FlowKey;
use super::ipv6_addrs;
use crate::port::ETHERNET_HEADER_BYTES;
use smoltcp::wire::{Icmpv4Packet, Icmpv6Packet, IpAddress, Ipv4Packet, TcpOption, TcpPacket};
use std::net::Ipv6Addr;

/// A TCP header without options.
const TCP_HEADER_BYTES: usize = 20;
/// What may be sent to who does not say how much it takes, bytes of payload (RFC 9293 section 3.7.1).
const SEGMENT_BYTES_DEFAULT: usize = 536;

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TcpFlags(pub(super) u8);

impl TcpFlags {
    const FIN: u8 = 0x01;
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    const PSH: u8 = 0x08;
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

    /// The sender has nothing more to send just now.
    pub(crate) fn psh(self) -> bool {
        self.0 & Self::PSH != 0
    }

    /// Whether the segment is one of an open connection, with nothing out of the ordinary about it.
    pub(crate) fn is_data(self) -> bool {
        self.0 & !Self::PSH == Self::ACK
    }

    /// Whether the segment asks for a connection: SYN alone.
    pub(crate) fn is_opening(self) -> bool {
        self.0 & (Self::SYN | Self::FIN | Self::RST | Self::ACK) == Self::SYN
    }

    pub(super) fn are_consistent(self) -> bool {
        (self.0 & (Self::SYN | Self::FIN | Self::RST)).count_ones() <= 1
    }
}

/// The headers of one TCP segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

    /// The largest segment that the sender of this SYN takes, in bytes of payload (RFC 9293 section 3.7.1): what the last of
    /// such options in the frame that this was read from says, as smoltcp reads them, or 536.
    pub(crate) fn segment_bytes_max(&self, frame: &[u8]) -> usize {
        let options = usize::from(self.tcp_offset) + TCP_HEADER_BYTES..usize::from(self.payload_offset);
        let mut options = frame.get(options).unwrap_or_default();
        let mut bytes = SEGMENT_BYTES_DEFAULT;
        while let Ok((rest, option)) = TcpOption::parse(options) {
            match option {
                TcpOption::EndOfList => break,
                TcpOption::MaxSegmentSize(told) => bytes = usize::from(told),
                _ => {}
            }
            options = rest;
        }
        bytes
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
    pub(super) icmp_offset: u16,
    pub(super) icmp_len: u16,
}

impl PathMtu {
    /// Whether the IPv4 header's and the ICMP checksum of the frame that this was read from are right.
    pub(crate) fn checksum_is_good(&self, frame: &[u8]) -> bool {
        let start = usize::from(self.icmp_offset);
        let Some(message) = frame.get(start..start + usize::from(self.icmp_len)) else { return false };
        if self.key.is_ipv4() {
            ipv4_header_is_good(frame, &self.key) && Icmpv4Packet::new_unchecked(message).verify_checksum()
        } else {
            let Some((_, header)) = frame.split_first_chunk::<ETHERNET_HEADER_BYTES>() else { return false };
            let Some(header) = header.first_chunk::<40>() else { return false };
            let (src, dst) = ipv6_addrs(header);
            Icmpv6Packet::new_unchecked(message).verify_checksum(&Ipv6Addr::from(src), &Ipv6Addr::from(dst))
        }
    }
}

fn ipv4_header_is_good(frame: &[u8], key: &FlowKey) -> bool {
    !key.is_ipv4()
        || frame
            .get(ETHERNET_HEADER_BYTES..)
            .and_then(|packet| Ipv4Packet::new_checked(packet).ok())
            .is_some_and(|packet| packet.verify_checksum())
}
