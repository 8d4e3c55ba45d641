//! Large segments of TCP over IPv4, cut into what fits the MTU: for ports that do not do it themselves.
//!
//! smoltcp makes one segment of many kilobytes, which costs it as much as a small one; what follows from that one for each of its
//! parts is a header with another length and sequence number, and a copy of its bytes. Linux calls this generic segmentation
//! offload.

use super::egress::SEGMENTS_PER_PASS;
use crate::port::{ETHERNET_HEADER_BYTES, Frame, PortInfo};
use smoltcp::wire::{IpAddress, IpProtocol, Ipv4Packet, TcpPacket};
use std::collections::VecDeque;
use std::num::NonZeroU16;

/// A frame around the largest IP packet there is, bytes.
pub(super) const FRAME_BYTES_MAX: usize = ETHERNET_HEADER_BYTES + u16::MAX as usize;

/// Cuts large segments.
pub(super) struct Cutter {
    /// The segment that is cut; nothing else is kept here.
    whole: Box<[u8]>,
    checksums: Checksums,
}

/// Those that the port leaves to us.
#[derive(Clone, Copy)]
struct Checksums {
    ipv4: bool,
    tcp: bool,
}

impl Cutter {
    /// Spare frames that must be at hand before a large segment is made.
    pub(super) const ROOM: usize = SEGMENTS_PER_PASS;

    /// What a port needs; `None` for one that cuts them itself.
    pub(super) fn for_port(info: &PortInfo) -> Option<Cutter> {
        let by_port = info.tso_frame_bytes_max.is_some() && info.tx_checksum_offload;
        (!by_port).then(|| Cutter {
            whole: vec![0; FRAME_BYTES_MAX].into_boxed_slice(),
            checksums: Checksums {
                ipv4: !(info.tx_checksum_offload && info.rx_checksum_trusted),
                tcp: !info.tx_checksum_offload,
            },
        })
    }

    /// Lets `fill` make a frame of `len` bytes and moves it, in parts of `segment_bytes` of payload, from `spare` into `pending`;
    /// how many there are.
    ///
    /// # Panics
    /// When `len` is over [`FRAME_BYTES_MAX`], or there are fewer spare frames than parts.
    pub(super) fn cut<F: Frame, R>(
        &mut self,
        len: usize,
        segment_bytes: NonZeroU16,
        fill: impl FnOnce(&mut [u8]) -> R,
        spare: &mut Vec<F>,
        pending: &mut VecDeque<F>,
    ) -> (usize, R) {
        let whole = &mut self.whole[..len];
        let result = fill(whole);
        let (head, payload) = whole.split_at(headers_bytes(whole));
        let parts = payload.len().div_ceil(segment_bytes.get().into());
        let mut offset = 0;
        for (index, part) in payload.chunks(segment_bytes.get().into()).enumerate() {
            let mut frame = spare.pop().expect("whoever made a large segment has looked for spare frames");
            frame.set_len(head.len() + part.len());
            let (head_place, place) = frame.bytes_mut().split_at_mut(head.len());
            head_place.copy_from_slice(head);
            place.copy_from_slice(part);
            let packet = &mut frame.bytes_mut()[ETHERNET_HEADER_BYTES..];
            mend(packet, offset, index + 1 == parts, self.checksums);
            pending.push_back(frame);
            offset += part.len();
        }
        (parts, result)
    }
}

/// Makes the whole segment's headers, which `packet` begins with, those of the part at `offset`.
fn mend(packet: &mut [u8], offset: usize, is_last: bool, checksums: Checksums) {
    let total_bytes = packet.len() as u16;
    let mut packet = Ipv4Packet::new_unchecked(packet);
    // The identification stays: nobody puts fragments together that may not be made (RFC 6864 section 4.1).
    packet.set_total_len(total_bytes);
    if checksums.ipv4 {
        packet.fill_checksum();
    }
    let (from, to) = (IpAddress::Ipv4(packet.src_addr()), IpAddress::Ipv4(packet.dst_addr()));
    let mut segment = TcpPacket::new_unchecked(packet.payload_mut());
    let sequence = segment.seq_number() + offset;
    segment.set_seq_number(sequence);
    if !is_last {
        segment.set_fin(false);
        segment.set_psh(false);
    }
    if checksums.tcp {
        segment.fill_checksum(&from, &to);
    }
}

/// Gives the TCP segment in an Ethernet frame over IPv4 its checksum; other frames stay as they are.
#[inline(never)]
pub(super) fn fill_tcp_checksum(frame: &mut [u8]) {
    let Some((header, packet)) = frame.split_first_chunk_mut::<ETHERNET_HEADER_BYTES>() else { return };
    let Ok(mut packet) = Ipv4Packet::new_checked(packet) else { return };
    if header[12..] != [0x08, 0x00] || packet.next_header() != IpProtocol::Tcp {
        return;
    }
    let (from, to) = (IpAddress::Ipv4(packet.src_addr()), IpAddress::Ipv4(packet.dst_addr()));
    TcpPacket::new_unchecked(packet.payload_mut()).fill_checksum(&from, &to);
}

/// Bytes of a TCP segment's headers, in an Ethernet frame over IPv4: what smoltcp made.
fn headers_bytes(frame: &[u8]) -> usize {
    let packet = Ipv4Packet::new_unchecked(&frame[ETHERNET_HEADER_BYTES..]);
    let segment = TcpPacket::new_unchecked(packet.payload());
    ETHERNET_HEADER_BYTES + usize::from(packet.header_len()) + usize::from(segment.header_len())
}
