//! The `virtio_net_hdr` in front of every frame, and the checksums that are left to the other side of it
//! (virtio 1.2, section 5.1.6).

use crate::port::{ETHERNET_HEADER_BYTES, RxChecksum};
use std::num::NonZeroU16;

/// `struct virtio_net_hdr`: flags, GSO type, header length, GSO size, checksum start, checksum offset; in host byte order.
pub(super) const VNET_HEADER_BYTES: usize = 10;
const GSO_TYPE: usize = 1;
const HEADERS_BYTES: usize = 2;
const GSO_SIZE: usize = 4;
const CSUM_START: usize = 6;
const CSUM_OFFSET: usize = 8;
/// The checksum from `csum_start` on is not filled in yet: its field holds the pseudo-header's sum.
const F_NEEDS_CSUM: u8 = 1;
/// A TCP segment over IPv4 that is to be cut (`VIRTIO_NET_HDR_GSO_TCPV4`).
const GSO_TCPV4: u8 = 1;
/// The device has verified the checksum.
const F_DATA_VALID: u8 = 2;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const IPV4_HEADER_BYTES: usize = 20;
const IPV6_HEADER_BYTES: usize = 40;
const PROTOCOL_HOP_BY_HOP: u8 = 0;
const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_ICMPV6: u8 = 58;

/// What the header of a received frame says of its checksum. A checksum that the kernel has not filled in yet is as good as
/// a right one: the segment comes from this machine's memory.
pub(super) fn rx_checksum(buffer: &[u8]) -> RxChecksum {
    match buffer.first() {
        Some(flags) if flags & (F_NEEDS_CSUM | F_DATA_VALID) != 0 => RxChecksum::Good,
        _ => RxChecksum::Unknown,
    }
}

/// Fills in the header of a frame to send (`buffer` is header and frame), and the checksums that the kernel cannot be left
/// to fill in: IPv4 headers and ICMP. TCP and UDP get their pseudo-header's sum; the kernel adds the rest when the
/// segment leaves this machine, and never when it stays. A large TCP segment over IPv4 is cut into segments of
/// `segment_bytes` of payload, likewise.
pub(super) fn prepare_tx(buffer: &mut [u8], segment_bytes: Option<NonZeroU16>) {
    let Some((header, frame)) = buffer.split_at_mut_checked(VNET_HEADER_BYTES) else { return };
    header.fill(0);
    let Some((start, offset)) = leave_checksum(frame) else { return };
    header[0] = F_NEEDS_CSUM;
    header[CSUM_START..CSUM_START + 2].copy_from_slice(&start.to_ne_bytes());
    header[CSUM_OFFSET..CSUM_OFFSET + 2].copy_from_slice(&offset.to_ne_bytes());
    let Some(segment_bytes) = segment_bytes else { return };
    // RFC 9293, section 3.1: the data offset says where the payload begins.
    let Some(data_offset) = frame.get(usize::from(start) + 12) else { return };
    let headers_bytes = start + u16::from(data_offset >> 4) * 4;
    header[GSO_TYPE] = GSO_TCPV4;
    header[HEADERS_BYTES..HEADERS_BYTES + 2].copy_from_slice(&headers_bytes.to_ne_bytes());
    header[GSO_SIZE..GSO_SIZE + 2].copy_from_slice(&segment_bytes.get().to_ne_bytes());
}

/// Returns where the kernel shall start to sum, and where (from there) the checksum goes; `None` when nothing is left to it.
fn leave_checksum(frame: &mut [u8]) -> Option<(u16, u16)> {
    let (ethernet, packet) = frame.split_at_mut_checked(ETHERNET_HEADER_BYTES)?;
    let (mut protocol, mut at, end, addresses) = match u16::from_be_bytes([ethernet[12], ethernet[13]]) {
        ETHERTYPE_IPV4 => {
            let header_bytes = usize::from(packet.first()? & 0x0f) * 4;
            let header = packet.get_mut(..header_bytes.max(IPV4_HEADER_BYTES))?;
            put(header, 10, 0)?;
            let checksum = !fold(sum(header));
            put(header, 10, checksum)?;
            // More fragments, or not the first one: the segment is not whole here.
            if u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0 {
                return None;
            }
            let end = usize::from(u16::from_be_bytes([header[2], header[3]]));
            (header[9], header.len(), end, sum(&header[12..20]))
        }
        ETHERTYPE_IPV6 => {
            let header = packet.get(..IPV6_HEADER_BYTES)?;
            let end = IPV6_HEADER_BYTES + usize::from(u16::from_be_bytes([header[4], header[5]]));
            (header[6], IPV6_HEADER_BYTES, end, sum(&header[8..40]))
        }
        _ => return None,
    };
    if protocol == PROTOCOL_HOP_BY_HOP && at == IPV6_HEADER_BYTES {
        let option = packet.get(at..at + 2)?;
        protocol = option[0];
        at += (usize::from(option[1]) + 1) * 8;
    }
    let segment = packet.get_mut(at..end)?;
    // RFC 9293, section 3.1 and RFC 8200, section 8.1: addresses, length and protocol.
    let pseudo_header = addresses + segment.len() as u64 + u64::from(protocol);
    match protocol {
        PROTOCOL_TCP => {
            put(segment, 16, fold(pseudo_header))?;
            Some(((ETHERNET_HEADER_BYTES + at) as u16, 16))
        }
        PROTOCOL_UDP => {
            put(segment, 6, fold(pseudo_header))?;
            Some(((ETHERNET_HEADER_BYTES + at) as u16, 6))
        }
        PROTOCOL_ICMP | PROTOCOL_ICMPV6 => {
            let pseudo_header = if protocol == PROTOCOL_ICMPV6 { pseudo_header } else { 0 };
            put(segment, 2, 0)?;
            let checksum = !fold(pseudo_header + sum(segment));
            put(segment, 2, checksum)?;
            None
        }
        _ => None,
    }
}

fn put(bytes: &mut [u8], at: usize, value: u16) -> Option<()> {
    bytes.get_mut(at..at + 2)?.copy_from_slice(&value.to_be_bytes());
    Some(())
}

/// The sum of big-endian 16-bit words, an odd byte counting as the upper half of one (RFC 1071). Cannot overflow: a frame
/// has at most 2^15 words.
fn sum(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(2);
    let whole: u64 = words.by_ref().map(|word| u64::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    whole + words.remainder().first().map_or(0, |&odd| u64::from(odd) << 8)
}

/// Folds the carries back in (RFC 1071, section 1).
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SOURCE: [u8; 4] = [10, 73, 0, 2];
    const DESTINATION: [u8; 4] = [10, 73, 0, 1];

    fn ipv4(protocol: u8, segment: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0xee; VNET_HEADER_BYTES];
        buffer.extend([0; 12]);
        buffer.extend(ETHERTYPE_IPV4.to_be_bytes());
        buffer.extend([0x45, 0]);
        buffer.extend((IPV4_HEADER_BYTES as u16 + segment.len() as u16).to_be_bytes());
        buffer.extend([0, 0, 0x40, 0, 64, protocol, 0xff, 0xff]);
        buffer.extend(SOURCE);
        buffer.extend(DESTINATION);
        buffer.extend(segment);
        buffer
    }

    fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0xee; VNET_HEADER_BYTES];
        buffer.extend([0; 12]);
        buffer.extend(ETHERTYPE_IPV6.to_be_bytes());
        buffer.extend([0x60, 0, 0, 0]);
        buffer.extend((payload.len() as u16).to_be_bytes());
        buffer.extend([next_header, 64]);
        buffer.extend([[0xfd; 16], [0xfe; 16]].concat());
        buffer.extend(payload);
        buffer
    }

    /// What the kernel does with `NEEDS_CSUM` before a frame leaves the machine.
    fn finish(buffer: &mut [u8]) {
        assert_eq!(buffer[0], F_NEEDS_CSUM);
        let field = |at: usize| usize::from(u16::from_ne_bytes([buffer[at], buffer[at + 1]]));
        let (start, offset) = (VNET_HEADER_BYTES + field(CSUM_START), field(CSUM_OFFSET));
        let checksum = !fold(sum(&buffer[start..]));
        put(&mut buffer[start..], offset, checksum).unwrap();
    }

    fn packet(buffer: &[u8]) -> &[u8] {
        &buffer[VNET_HEADER_BYTES + ETHERNET_HEADER_BYTES..]
    }

    /// RFC 1071: over data with its checksum in place, the sum is all ones.
    fn assert_right(pseudo_header: u64, bytes: &[u8]) {
        assert_eq!(fold(pseudo_header + sum(bytes)), 0xffff);
    }

    proptest! {
        #[test]
        fn tcp_and_udp_are_right_once_the_kernel_has_finished(
            payload in prop::collection::vec(any::<u8>(), 0..200),
            udp: bool,
            six: bool,
        ) {
            let protocol = if udp { PROTOCOL_UDP } else { PROTOCOL_TCP };
            let segment = [vec![0x11; 20], payload].concat();
            let mut buffer = if six { ipv6(protocol, &segment) } else { ipv4(protocol, &segment) };
            prepare_tx(&mut buffer, None);
            finish(&mut buffer);
            let length = segment.len() as u64 + u64::from(protocol);
            if six {
                let (header, segment) = packet(&buffer).split_at(IPV6_HEADER_BYTES);
                assert_right(sum(&header[8..]) + length, segment);
            } else {
                let (header, segment) = packet(&buffer).split_at(IPV4_HEADER_BYTES);
                assert_right(0, header);
                assert_right(sum(&header[12..]) + length, segment);
            }
        }

        #[test]
        fn no_frame_makes_it_panic(mut buffer in prop::collection::vec(any::<u8>(), 0..120), kind in 0..3) {
            if let Some(ethertype) = buffer.get_mut(VNET_HEADER_BYTES + 12..VNET_HEADER_BYTES + 14) {
                ethertype.copy_from_slice(&[ETHERTYPE_IPV4, ETHERTYPE_IPV6, 0x0806][kind as usize].to_be_bytes());
            }
            prepare_tx(&mut buffer.clone(), NonZeroU16::new(1460));
            prepare_tx(&mut buffer, None);
        }

        #[test]
        fn a_large_segment_says_where_it_is_cut(
            option_words in 0usize..=10,
            payload_bytes in 1usize..60_000,
            segment_bytes in 48u16..9_000,
        ) {
            let mut segment = vec![0; 20 + 4 * option_words + payload_bytes];
            segment[12] = ((5 + option_words) as u8) << 4;
            let mut buffer = ipv4(PROTOCOL_TCP, &segment);
            prepare_tx(&mut buffer, NonZeroU16::new(segment_bytes));
            let field = |at: usize| u16::from_ne_bytes([buffer[at], buffer[at + 1]]);
            let headers = ETHERNET_HEADER_BYTES + IPV4_HEADER_BYTES + 20 + 4 * option_words;
            assert_eq!((buffer[0], buffer[GSO_TYPE]), (F_NEEDS_CSUM, GSO_TCPV4));
            assert_eq!((field(HEADERS_BYTES), field(GSO_SIZE)), (headers as u16, segment_bytes));
            // The checksum's field holds the sum over the pseudo-header with the whole segment's length.
            finish(&mut buffer);
            let (header, rest) = packet(&buffer).split_at(IPV4_HEADER_BYTES);
            assert_right(sum(&header[12..]) + segment.len() as u64 + u64::from(PROTOCOL_TCP), rest);
        }
    }

    #[test]
    fn icmp_is_filled_in_here() {
        let mut buffer = ipv4(PROTOCOL_ICMP, &[0, 0, 0xff, 0xff, 1, 2, 3, 4, 5]);
        prepare_tx(&mut buffer, None);
        assert_eq!(buffer[..VNET_HEADER_BYTES], [0; VNET_HEADER_BYTES]);
        assert_right(0, &packet(&buffer)[IPV4_HEADER_BYTES..]);

        let echo = [129, 0, 0xff, 0xff, 1, 2, 3, 4];
        let mut buffer = ipv6(PROTOCOL_ICMPV6, &echo);
        prepare_tx(&mut buffer, None);
        let (header, segment) = packet(&buffer).split_at(IPV6_HEADER_BYTES);
        assert_right(sum(&header[8..]) + 8 + 58, segment);
    }

    #[test]
    fn icmpv6_behind_hop_by_hop_options_is_filled_in() {
        let report = [143, 0, 0xff, 0xff, 0, 0, 0, 0];
        let router_alert = [PROTOCOL_ICMPV6, 0, 5, 2, 0, 0, 1, 0];
        let mut buffer = ipv6(PROTOCOL_HOP_BY_HOP, &[router_alert, report].concat());
        prepare_tx(&mut buffer, None);
        let (header, payload) = packet(&buffer).split_at(IPV6_HEADER_BYTES);
        assert_right(sum(&header[8..]) + 8 + 58, &payload[8..]);
    }

    #[test]
    fn what_is_not_ip_is_left_alone() {
        let mut buffer = vec![0xee; VNET_HEADER_BYTES];
        let mut arp = vec![0x55; 42];
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        buffer.extend(&arp);
        prepare_tx(&mut buffer, None);
        assert_eq!(buffer[..VNET_HEADER_BYTES], [0; VNET_HEADER_BYTES]);
        assert_eq!(buffer[VNET_HEADER_BYTES..], arp);
    }

    #[test]
    fn padding_behind_the_packet_does_not_count() {
        let mut padded = ipv4(PROTOCOL_ICMP, &[0, 0, 0, 0]);
        padded.extend([0xaa; 18]);
        prepare_tx(&mut padded, None);
        assert_right(0, &packet(&padded)[IPV4_HEADER_BYTES..IPV4_HEADER_BYTES + 4]);
    }

    #[test]
    fn a_checksum_left_out_or_verified_is_good() {
        assert_eq!(rx_checksum(&[F_NEEDS_CSUM; 10]), RxChecksum::Good);
        assert_eq!(rx_checksum(&[F_DATA_VALID; 10]), RxChecksum::Good);
        assert_eq!(rx_checksum(&[0; 10]), RxChecksum::Unknown);
    }
}
