//! Acknowledgements that smoltcp would not look at.
//!
//! smoltcp drops a segment outside the window with its acknowledgement (RFC 9293 section 3.10.7.4), and after a
//! retransmission timeout it sends from, and acknowledges with, the oldest unacknowledged sequence number instead of
//! SND.NXT. So two ends whose timers expired together each take the other's segments for old ones, learn nothing from them,
//! and repeat what has long arrived until the user timeout. A window that shrinks by less than its scaling factor
//! ends likewise: the peer's SND.NXT is then beyond it (RFC 7323 section 2.4).
//!
//! The way out: such a segment's acknowledgement is shown to smoltcp first, on its own, at the expected number.

use super::classify::TcpInfo;
use super::key::FlowKey;
use crate::port::ETHERNET_HEADER_BYTES;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpAddress, IpProtocol, IpRepr,
    TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};

const FRAME_LEN_MAX: usize = ETHERNET_HEADER_BYTES + 40 + 20;
/// How far behind the expected number a segment may lie: a window without scaling, or what an attacker off the path
/// has to hit anyhow.
pub(super) const BEHIND_MAX: u32 = 1 << 16;
/// How far beyond the window one may lie: as far as a scaled window can shrink (RFC 7323 section 2.3: a shift of 14).
const BEYOND_MAX: u32 = 1 << 14;

/// Whether a segment lies just outside the window, when `next` is the number expected next in a receive ring of
/// `capacity` bytes of which `free` are. Its acknowledgement counts, its bytes do not.
#[inline]
pub(super) fn is_just_outside(segment: &TcpInfo, next: u32, capacity: usize, free: usize) -> bool {
    let flags = segment.flags;
    if !flags.ack() || flags.syn() || flags.rst() {
        return false;
    }
    let len = u32::from(segment.payload_len) + u32::from(flags.fin());
    let behind = next.wrapping_sub(segment.seq);
    if behind == 0 && (len + BEYOND_MAX) as usize <= free {
        // The common case: what was expected, and far from the window's end.
        return false;
    }
    if behind != 0 && behind < BEHIND_MAX {
        return len <= behind;
    }
    let beyond = segment.seq.wrapping_sub(next);
    // A window is told in units of 2^shift bytes, rounded down.
    let shift = (usize::BITS - capacity.leading_zeros()).saturating_sub(16);
    let window = free.saturating_sub((1 << shift) - 1);
    beyond <= BEYOND_MAX && beyond + len > 0 && (beyond + len) as usize > window
}

/// A frame with an acknowledgement and nothing else.
pub(super) struct BareAck {
    bytes: [u8; FRAME_LEN_MAX],
    len: usize,
}

impl BareAck {
    /// The peer of `key` acknowledges all before `ack`, at its sequence number `seq`, with a window field of `window`.
    /// `mac` is ours; the frame never leaves this process.
    pub(super) fn new(key: &FlowKey, mac: [u8; 6], seq: u32, ack: u32, window: u16) -> Self {
        let tcp = TcpRepr {
            src_port: key.remote_port(),
            dst_port: key.local_port(),
            control: TcpControl::None,
            seq_number: TcpSeqNumber(seq as i32),
            ack_number: Some(TcpSeqNumber(ack as i32)),
            window_len: window,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        };
        let (from, to) = (IpAddress::from(key.remote().ip()), IpAddress::from(key.local().ip()));
        let ip = IpRepr::new(from, to, IpProtocol::Tcp, tcp.buffer_len(), 64);
        let mut bytes = [0; FRAME_LEN_MAX];
        let tcp_at = ETHERNET_HEADER_BYTES + ip.header_len();
        let len = tcp_at + tcp.buffer_len();
        let ethertype = if key.is_ipv4() { EthernetProtocol::Ipv4 } else { EthernetProtocol::Ipv6 };
        let mac = EthernetAddress(mac);
        EthernetRepr { src_addr: mac, dst_addr: mac, ethertype }
            .emit(&mut EthernetFrame::new_unchecked(&mut bytes[..]));
        let checksums = ChecksumCapabilities::default();
        ip.emit(&mut bytes[ETHERNET_HEADER_BYTES..tcp_at], &checksums);
        tcp.emit(&mut TcpPacket::new_unchecked(&mut bytes[tcp_at..len]), &from, &to, &checksums);
        BareAck { bytes, len }
    }

    pub(super) fn frame(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
