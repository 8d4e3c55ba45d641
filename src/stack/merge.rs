//! Received segments of one connection that follow each other in a burst, put together: smoltcp takes one of many kilobytes at
//! the cost of a small one. Linux calls this generic receive offload.
//!
//! All but the last become one, and the last follows it: smoltcp 0.14 acknowledges at once when a *second* segment finds more than one
//! segment's worth unacknowledged, and after the delay when a single one brings it, however long that is. A sender
//! whose window is a few segments would wait for that acknowledgement.

use super::classify::TcpInfo;
use super::cut::FRAME_BYTES_MAX;
use crate::port::ETHERNET_HEADER_BYTES;
use smoltcp::wire::{Ipv4Packet, Ipv6Packet, TcpPacket, TcpSeqNumber};

/// Segments with less payload than this, in bytes, are left alone: copying them once more is all that would be gained.
pub(super) const SEGMENT_BYTES_MIN: u16 = 512;

const TCP_HEADER_BYTES: u16 = 20;
const IPV4_HEADER_BYTES: u16 = 20;
const IPV6_HEADER_BYTES: u16 = 40;

/// The segments of one connection that wait to be one.
pub(super) struct Merger {
    /// The connection's slot, while there are any.
    slot: Option<u32>,
    run: Run,
}

/// Segments one behind the other.
///
/// Invariant: the headers of the first and the `bytes` of payload of all lie at the front of `frame`, the last of them
/// with `last_bytes`; `bytes <= room`.
pub(super) struct Run {
    frame: Box<[u8]>,
    first: TcpInfo,
    bytes: usize,
    last_bytes: usize,
    segments: u32,
    room: usize,
}

impl Merger {
    pub(super) fn new() -> Self {
        Merger {
            slot: None,
            run: Run {
                frame: vec![0; FRAME_BYTES_MAX].into_boxed_slice(),
                first: TcpInfo::default(),
                bytes: 0,
                last_bytes: 0,
                segments: 0,
                room: 0,
            },
        }
    }

    /// Whether no segment waits.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.slot.is_none()
    }

    /// Whether segments of a slot's connection wait.
    #[inline]
    pub(super) fn holds(&self, slot: u32) -> bool {
        self.slot == Some(slot)
    }

    /// Takes a segment of a slot's connection that is the next in its stream, as the first of a run of at most `room` bytes of payload;
    /// whether it may be one.
    pub(super) fn begin(&mut self, slot: u32, frame: &[u8], segment: &TcpInfo, room: usize) -> bool {
        let ip_header_bytes = if segment.key.is_ipv4() { IPV4_HEADER_BYTES } else { IPV6_HEADER_BYTES };
        let headers_bytes = segment.payload_offset;
        let is_bare = segment.flags.is_data()
            && segment.tcp_offset == ETHERNET_HEADER_BYTES as u16 + ip_header_bytes
            && headers_bytes == segment.tcp_offset + TCP_HEADER_BYTES;
        // IPv4 counts its header in the packet's length of 16 bits.
        let room = room.min(FRAME_BYTES_MAX - usize::from(headers_bytes));
        let bytes = usize::from(segment.payload_len);
        if !is_bare || bytes > room {
            return false;
        }
        let end = usize::from(headers_bytes) + bytes;
        self.run.frame[..end].copy_from_slice(&frame[..end]);
        self.slot = Some(slot);
        let Run { first, bytes: all, last_bytes, segments, room: most, .. } = &mut self.run;
        (*first, *all, *last_bytes, *segments, *most) = (*segment, bytes, bytes, 1, room);
        true
    }

    /// Takes a segment that goes on where those of the same connection end; whether it did.
    pub(super) fn go_on(&mut self, slot: u32, frame: &[u8], segment: &TcpInfo) -> bool {
        let Run { frame: held, first, bytes, last_bytes, segments, room } = &mut self.run;
        let more = usize::from(segment.payload_len);
        let fits = self.slot == Some(slot)
            && segment.flags.is_data()
            && segment.seq == first.seq.wrapping_add(*bytes as u32)
            && (segment.ack, segment.window) == (first.ack, first.window)
            && (segment.tcp_offset, segment.payload_offset) == (first.tcp_offset, first.payload_offset)
            && *bytes + more <= *room;
        if fits {
            let start = usize::from(first.payload_offset);
            held[start + *bytes..][..more].copy_from_slice(&frame[start..][..more]);
            *bytes += more;
            *last_bytes = more;
            *segments += 1;
        }
        fits
    }

    /// The segments that wait and their slot, with which [`Merger::give_back`] is to be called.
    pub(super) fn take(&mut self) -> Option<(u32, Run)> {
        let slot = self.slot.take()?;
        let frame = core::mem::take(&mut self.run.frame);
        Some((slot, Run { frame, ..self.run }))
    }

    /// What [`Merger::take`] gave: its memory serves the next run.
    pub(super) fn give_back(&mut self, run: Run) {
        self.run = run;
    }
}

impl Run {
    /// Whether several segments become one.
    pub(super) fn is_merged(&self) -> bool {
        self.segments > 2
    }

    /// Calls `feed` with a segment that stands for all but the last, and then with the last.
    pub(super) fn feed(&mut self, mut feed: impl FnMut(&[u8], &TcpInfo)) {
        let front_bytes = self.bytes - self.last_bytes;
        if front_bytes > 0 {
            self.feed_part(0, front_bytes, &mut feed);
        }
        // Its headers come right before its payload: over bytes that have been fed.
        self.frame.copy_within(..usize::from(self.first.payload_offset), front_bytes);
        self.feed_part(front_bytes, self.last_bytes, &mut feed);
    }

    /// Feeds `bytes` of payload from `offset` on, the headers in front of which become theirs. Nobody looks at the checksums any more:
    /// those of each segment were, when it came.
    fn feed_part(&mut self, offset: usize, bytes: usize, feed: &mut impl FnMut(&[u8], &TcpInfo)) {
        let info = TcpInfo {
            seq: self.first.seq.wrapping_add(offset as u32),
            payload_len: bytes as u16,
            ..self.first
        };
        let end = offset + usize::from(info.payload_offset) + bytes;
        let frame = &mut self.frame[offset..end];
        let packet = &mut frame[ETHERNET_HEADER_BYTES..];
        let tcp_bytes = TCP_HEADER_BYTES + info.payload_len;
        if info.key.is_ipv4() {
            Ipv4Packet::new_unchecked(packet).set_total_len(IPV4_HEADER_BYTES + tcp_bytes);
        } else {
            Ipv6Packet::new_unchecked(packet).set_payload_len(tcp_bytes);
        }
        let segment = &mut frame[usize::from(info.tcp_offset)..];
        TcpPacket::new_unchecked(segment).set_seq_number(TcpSeqNumber(info.seq as i32));
        feed(frame, &info);
    }
}
