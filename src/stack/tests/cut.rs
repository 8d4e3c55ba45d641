//! What a device does that cuts large TCP segments, and fills in TCP checksums.

use crate::port::ETHERNET_HEADER_BYTES;
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpAddress, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, TcpSeqNumber,
};
use std::num::NonZeroU16;

/// The frames that leave the device for one that it was given.
pub(super) fn cut(frame: &[u8], segment_bytes: Option<NonZeroU16>) -> Vec<Vec<u8>> {
    let Some(segment_bytes) = segment_bytes.map(|bytes| usize::from(bytes.get())) else {
        let mut frame = frame.to_vec();
        fill_in(&mut frame);
        return vec![frame];
    };
    let packet = Ipv4Packet::new_checked(&frame[ETHERNET_HEADER_BYTES..]).expect("IPv4 alone is cut");
    assert!(packet.verify_checksum() && packet.dont_frag());
    assert_eq!(packet.next_header(), IpProtocol::Tcp);
    assert_eq!(
        usize::from(packet.total_len()),
        frame.len() - ETHERNET_HEADER_BYTES,
        "the length can be said"
    );
    let segment = TcpPacket::new_checked(packet.payload()).expect("a whole segment");
    let (seq, ident, payload) = (segment.seq_number(), packet.ident(), segment.payload());
    assert!(payload.len() > segment_bytes, "nothing to cut");
    assert!(!segment.syn() && !segment.rst() && !segment.urg());
    let headers_bytes = frame.len() - payload.len();
    let parts = payload.chunks(segment_bytes).enumerate();
    let count = payload.len().div_ceil(segment_bytes);
    parts
        .map(|(index, part)| {
            let mut frame = [&frame[..headers_bytes], part].concat();
            let total = (frame.len() - ETHERNET_HEADER_BYTES) as u16;
            let mut packet = Ipv4Packet::new_unchecked(&mut frame[ETHERNET_HEADER_BYTES..]);
            packet.set_total_len(total);
            packet.set_ident(ident.wrapping_add(index as u16));
            packet.fill_checksum();
            let mut segment = TcpPacket::new_unchecked(packet.payload_mut());
            segment.set_seq_number(TcpSeqNumber(seq.0.wrapping_add((index * segment_bytes) as i32)));
            if index + 1 < count {
                segment.set_fin(false);
                segment.set_psh(false);
            }
            fill_in(&mut frame);
            frame
        })
        .collect()
}

/// Fills in a frame's TCP checksum, if it has one.
fn fill_in(frame: &mut [u8]) {
    let mut ethernet = EthernetFrame::new_unchecked(frame);
    match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => {
            let mut packet = Ipv4Packet::new_unchecked(ethernet.payload_mut());
            let (src, dst) = (IpAddress::from(packet.src_addr()), IpAddress::from(packet.dst_addr()));
            if packet.next_header() == IpProtocol::Tcp {
                TcpPacket::new_unchecked(packet.payload_mut()).fill_checksum(&src, &dst);
            }
        }
        EthernetProtocol::Ipv6 => {
            let mut packet = Ipv6Packet::new_unchecked(ethernet.payload_mut());
            let (src, dst) = (IpAddress::from(packet.src_addr()), IpAddress::from(packet.dst_addr()));
            if packet.next_header() == IpProtocol::Tcp {
                TcpPacket::new_unchecked(packet.payload_mut()).fill_checksum(&src, &dst);
            }
        }
        _ => {}
    }
}
