//! The little that must be known of packets to leave checksums to a device.

use crate::port::spread::{self, End};
use crate::port::{ETHERNET_HEADER_BYTES, RxChecksum};
use ::dpdk::{IpVersion, L4Checksum, RxChecksum as Found, TxOffload};
use std::net::Ipv4Addr;

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const IPV4_HEADER_BYTES: usize = 20;
const IPV6_HEADER_BYTES: usize = 40;
const TCP_HEADER_BYTES: usize = 20;
const PROTOCOL_TCP: u8 = 6;

/// One verdict out of the device's two. Some devices verify TCP and leave the IPv4 header out.
#[inline]
pub(super) fn rx_checksum(ip: Found, l4: Found, frame: &[u8]) -> RxChecksum {
    match (ip, l4) {
        (Found::Bad, _) | (_, Found::Bad) => RxChecksum::Bad,
        (_, Found::Unknown) => RxChecksum::Unknown,
        (Found::Good | Found::NotNeeded, _) => RxChecksum::Good,
        (Found::Unknown, _) if ipv4_header_is_good(frame) => RxChecksum::Good,
        (Found::Unknown, _) => RxChecksum::Bad,
    }
}

/// Whether the frame's IPv4 header, if it has one, sums up to what it should (RFC 1071).
fn ipv4_header_is_good(frame: &[u8]) -> bool {
    if frame.get(12..14) != Some(&ETHERTYPE_IPV4) {
        return true;
    }
    let header_bytes = usize::from(frame.get(ETHERNET_HEADER_BYTES).map_or(0, |first| first & 0x0f)) * 4;
    let Some(header) = frame.get(ETHERNET_HEADER_BYTES..ETHERNET_HEADER_BYTES + header_bytes) else {
        return false;
    };
    let sum: u32 = header.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    header_bytes >= IPV4_HEADER_BYTES && (sum & 0xffff) + (sum >> 16) == 0xffff
}

/// The hash of a whole TCP segment's flow.
pub(super) fn flow_hash(frame: &[u8]) -> Option<u32> {
    let TxOffload { ip, l3_bytes, .. } = tcp_checksum_offload(frame)?;
    let packet = frame.get(ETHERNET_HEADER_BYTES..)?;
    let ports = packet.get(usize::from(l3_bytes)..)?.first_chunk::<4>()?;
    let [source, destination] = match ip {
        IpVersion::V4 => [12, 16].map(|at| packet.get(at..)?.first_chunk::<4>().copied().map(ipv4_words)),
        IpVersion::V6 => [8, 24].map(|at| packet.get(at..)?.first_chunk::<16>().copied().map(words)),
    };
    let end = |addr, high, low| End { addr, port: u16::from_be_bytes([high, low]) };
    Some(spread::flow_hash(end(source?, ports[0], ports[1]), end(destination?, ports[2], ports[3])))
}

fn words(addr: [u8; 16]) -> [u64; 2] {
    let whole = u128::from_be_bytes(addr);
    [(whole >> 64) as u64, whole as u64]
}

fn ipv4_words(addr: [u8; 4]) -> [u64; 2] {
    words(Ipv4Addr::from(addr).to_ipv6_mapped().octets())
}

/// What the device is to do for the TCP checksum of a frame that holds a whole TCP segment.
pub(super) fn tcp_checksum_offload(frame: &[u8]) -> Option<TxOffload> {
    let packet = frame.get(ETHERNET_HEADER_BYTES..)?;
    let ethertype = frame.get(12..14)?;
    let (ip, protocol, l3_bytes) = if ethertype == ETHERTYPE_IPV4 {
        let header = packet.get(..IPV4_HEADER_BYTES)?;
        // More fragments, or not the first one: the segment is not whole here.
        if u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0 {
            return None;
        }
        (IpVersion::V4, header[9], usize::from(header[0] & 0x0f) * 4)
    } else if ethertype == ETHERTYPE_IPV6 {
        (IpVersion::V6, packet.get(..IPV6_HEADER_BYTES)?[6], IPV6_HEADER_BYTES)
    } else {
        return None;
    };
    let segment = packet.get(l3_bytes..)?;
    let l4_bytes = (segment.get(..TCP_HEADER_BYTES)?[12] >> 4) * 4;
    (protocol == PROTOCOL_TCP).then_some(TxOffload {
        ip,
        l4_checksum: L4Checksum::Tcp,
        l2_bytes: ETHERNET_HEADER_BYTES as u8,
        l3_bytes: l3_bytes as u16,
        l4_bytes,
        ..TxOffload::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A frame with an IPv4 header of right checksum and the payload behind it.
    fn ipv4(protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = [&[0; 12][..], &ETHERTYPE_IPV4].concat();
        let total = (IPV4_HEADER_BYTES + payload.len()) as u16;
        let mut header = [&[0x45, 0][..], &total.to_be_bytes(), &[0, 0], &fragment.to_be_bytes()].concat();
        header.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let sum: u32 =
            header.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
        let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        frame.extend(header);
        frame.extend(payload);
        frame
    }

    fn tcp() -> Vec<u8> {
        let mut segment = vec![0; 24];
        segment[12] = 6 << 4;
        segment
    }

    fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame =
            [&[0; 12][..], &ETHERTYPE_IPV6, &[0x60, 0, 0, 0, 0, payload.len() as u8, next_header, 64]]
                .concat();
        frame.extend([1; 32]);
        frame.extend(payload);
        frame
    }

    #[test]
    fn only_whole_tcp_segments_are_left_to_the_device() {
        let offload = tcp_checksum_offload(&ipv4(PROTOCOL_TCP, 0x4000, &tcp())).expect("TCP over IPv4");
        assert_eq!(
            (offload.ip, offload.l2_bytes, offload.l3_bytes, offload.l4_bytes),
            (IpVersion::V4, 14, 20, 24)
        );
        assert!(!offload.ipv4_checksum, "the stack fills in IPv4 headers");
        let offload = tcp_checksum_offload(&ipv6(PROTOCOL_TCP, &tcp())).expect("TCP over IPv6");
        assert_eq!((offload.ip, offload.l3_bytes), (IpVersion::V6, 40));
        for frame in [
            ipv4(17, 0, &[0; 30]),
            ipv4(PROTOCOL_TCP, 0x2000, &tcp()),
            ipv4(PROTOCOL_TCP, 0x0001, &tcp()),
            ipv4(PROTOCOL_TCP, 0, &tcp()[..19]),
            ipv6(58, &[0; 30]),
            [&[0; 12][..], &[0x08, 0x06], &[0; 40]].concat(),
        ] {
            assert_eq!(tcp_checksum_offload(&frame), None, "{frame:02x?}");
        }
    }

    #[test]
    fn both_directions_of_a_flow_have_one_hash() {
        let there = [&50_000u16.to_be_bytes()[..], &80u16.to_be_bytes(), &tcp()[4..]].concat();
        let back = [&80u16.to_be_bytes()[..], &50_000u16.to_be_bytes(), &tcp()[4..]].concat();
        let one = ipv4(PROTOCOL_TCP, 0, &there);
        let mut other = ipv4(PROTOCOL_TCP, 0, &back);
        let (client, server) = (one[26..30].to_vec(), one[30..34].to_vec());
        other[26..30].copy_from_slice(&server);
        other[30..34].copy_from_slice(&client);
        assert!(flow_hash(&one).is_some());
        assert_eq!(flow_hash(&one), flow_hash(&other));
        assert!(flow_hash(&ipv6(PROTOCOL_TCP, &there)).is_some());
        assert_eq!(flow_hash(&ipv4(17, 0, &there)), None);
    }

    #[test]
    fn one_verdict_out_of_two() {
        let good = ipv4(PROTOCOL_TCP, 0, &tcp());
        let mut bad = good.clone();
        bad[22] ^= 1;
        for (ip, l4, frame, verdict) in [
            (Found::Good, Found::Good, &good, RxChecksum::Good),
            (Found::NotNeeded, Found::NotNeeded, &good, RxChecksum::Good),
            (Found::Bad, Found::Good, &good, RxChecksum::Bad),
            (Found::Good, Found::Bad, &good, RxChecksum::Bad),
            (Found::Unknown, Found::Unknown, &good, RxChecksum::Unknown),
            (Found::Good, Found::Unknown, &good, RxChecksum::Unknown),
            (Found::Unknown, Found::Good, &good, RxChecksum::Good),
            (Found::Unknown, Found::Good, &bad, RxChecksum::Bad),
            (Found::Unknown, Found::NotNeeded, &ipv6(PROTOCOL_TCP, &tcp()), RxChecksum::Good),
        ] {
            assert_eq!(rx_checksum(ip, l4, frame), verdict, "IP {ip:?}, TCP {l4:?}");
        }
    }

    proptest! {
        #[test]
        fn no_frame_makes_it_panic_or_claim_headers_that_are_not_there(
            kind in prop::sample::select(vec![ETHERTYPE_IPV4, ETHERTYPE_IPV6, [0x08, 0x06]]),
            rest in prop::collection::vec(any::<u8>(), 0..90),
        ) {
            let frame = [&[0; 12][..], &kind, &rest].concat();
            ipv4_header_is_good(&frame);
            flow_hash(&frame);
            if let Some(offload) = tcp_checksum_offload(&frame) {
                let headers = usize::from(offload.l2_bytes) + usize::from(offload.l3_bytes) + TCP_HEADER_BYTES;
                prop_assert!(headers <= frame.len());
            }
        }
    }
}
