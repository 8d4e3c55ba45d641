//! One TCP segment in answer to another, without a connection: a reset, or an acknowledgement from TIME-WAIT.
//!
//! The answer goes back the way the segment came: its MAC addresses, IP addresses and ports are the segment's,
//! swapped. So it needs no route, no neighbour and no state.

use super::classify::TcpInfo;
use super::key::FlowKey;
use crate::port::ETHERNET_HEADER_BYTES;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IpAddress, IpProtocol, IpRepr, TcpControl, TcpPacket,
    TcpRepr, TcpSeqNumber,
};

const TCP_LEN: usize = 20;
/// Time to live and hop limit, as smoltcp's sockets have it (RFC 1700).
const HOP_LIMIT: u8 = 64;

/// A TCP segment without options or payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    key: FlowKey,
    control: TcpControl,
    seq: u32,
    ack: Option<u32>,
}

impl Reply {
    /// An acknowledgement, with no window: nothing more is wanted.
    pub(crate) fn acknowledge(segment: &TcpInfo, seq: u32, ack: u32) -> Self {
        Reply { key: segment.key, control: TcpControl::None, seq, ack: Some(ack) }
    }

    /// The reset that answers a segment of no connection (RFC 9293 section 3.10.7.1); `None` for a reset.
    pub(crate) fn reset(segment: &TcpInfo) -> Option<Self> {
        if segment.flags.rst() {
            return None;
        }
        let (seq, ack) = if segment.flags.ack() { (segment.ack, None) } else { (0, Some(segment.end_seq())) };
        Some(Reply { key: segment.key, control: TcpControl::Rst, seq, ack })
    }

    /// Length of the frame, bytes.
    pub(crate) fn frame_bytes(&self) -> usize {
        ETHERNET_HEADER_BYTES + self.ip().header_len() + TCP_LEN
    }

    /// Writes the frame. `received` is the frame that it answers.
    ///
    /// # Panics
    /// When `out` is not [`Self::frame_bytes`] long, or `received` is shorter than an Ethernet header.
    pub(crate) fn emit(&self, received: &[u8], out: &mut [u8]) {
        assert_eq!(out.len(), self.frame_bytes(), "the frame does not fit its buffer");
        let received = EthernetFrame::new_unchecked(received);
        let mut ethernet = EthernetFrame::new_unchecked(&mut *out);
        ethernet.set_dst_addr(received.src_addr());
        ethernet.set_src_addr(EthernetAddress(received.dst_addr().0));
        ethernet.set_ethertype(received.ethertype());
        debug_assert!(matches!(ethernet.ethertype(), EthernetProtocol::Ipv4 | EthernetProtocol::Ipv6));

        let ip = self.ip();
        let (header, segment) = out[ETHERNET_HEADER_BYTES..].split_at_mut(ip.header_len());
        ip.emit(header, &ChecksumCapabilities::default());
        self.tcp().emit(
            &mut TcpPacket::new_unchecked(segment),
            &ip.src_addr(),
            &ip.dst_addr(),
            &ChecksumCapabilities::default(),
        );
    }

    fn ip(&self) -> IpRepr {
        let (local, remote) = (self.key.local().ip(), self.key.remote().ip());
        IpRepr::new(IpAddress::from(local), IpAddress::from(remote), IpProtocol::Tcp, TCP_LEN, HOP_LIMIT)
    }

    fn tcp(&self) -> TcpRepr<'static> {
        TcpRepr {
            src_port: self.key.local_port(),
            dst_port: self.key.remote_port(),
            control: self.control,
            seq_number: TcpSeqNumber(self.seq as i32),
            ack_number: self.ack.map(|ack| TcpSeqNumber(ack as i32)),
            window_len: 0,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::classify::{Class, classify};
    use super::super::frames::*;
    use super::*;
    use std::net::SocketAddr;

    fn ends() -> [(SocketAddr, SocketAddr); 2] {
        [(ours_v4(), peer_v4()), (ours_v6(), peer_v6())]
    }

    fn info(frame: &[u8], mac: [u8; 6]) -> TcpInfo {
        match classify(frame, mac) {
            Class::Tcp(info) => info,
            other => panic!("not a segment but {other:?}"),
        }
    }

    /// The reset of a frame, as its receiver reads it.
    fn reset_of(frame: &[u8]) -> Option<TcpInfo> {
        let reply = Reply::reset(&info(frame, OUR_MAC))?;
        let mut answer = vec![0xaa; reply.frame_bytes()];
        reply.emit(frame, &mut answer);
        assert_eq!((&answer[..6], &answer[6..12]), (&PEER_MAC[..], &OUR_MAC[..]));
        let read = info(&answer, PEER_MAC);
        assert!(read.checksum_is_good(&answer));
        Some(read)
    }

    #[test]
    fn a_segment_with_ack_is_reset_at_the_number_it_acknowledges() {
        for (ours, peer) in ends() {
            let repr = TcpRepr { ack_number: Some(TcpSeqNumber(-5)), payload: b"hello", ..segment() };
            let reset = reset_of(&tcp_frame(peer, ours, &repr)).unwrap();
            assert_eq!(reset.key, FlowKey::new(peer, ours));
            assert_eq!((reset.flags.rst(), reset.flags.ack(), reset.seq), (true, false, u32::MAX - 4));
        }
    }

    #[test]
    fn a_segment_without_ack_is_reset_with_an_acknowledgement_of_all_of_it() {
        for (ours, peer) in ends() {
            for (control, len) in [(TcpControl::Syn, 1), (TcpControl::Fin, 6), (TcpControl::Psh, 5)] {
                let payload: &[u8] = if control == TcpControl::Syn { b"" } else { b"hello" };
                let repr = TcpRepr { control, payload, ..segment() };
                let reset = reset_of(&tcp_frame(peer, ours, &repr)).unwrap();
                assert_eq!((reset.flags.rst(), reset.flags.ack(), reset.seq), (true, true, 0));
                assert_eq!(reset.ack, 1_000 + len);
            }
        }
    }

    #[test]
    fn a_reset_is_not_answered() {
        let repr = TcpRepr { control: TcpControl::Rst, ..segment() };
        assert_eq!(reset_of(&tcp_frame(peer_v4(), ours_v4(), &repr)), None);
    }

    #[test]
    fn a_received_frame_with_options_and_padding_is_answered_without() {
        let plain = tcp_frame(peer_v6(), ours_v6(), &segment());
        let mut frame = with_hop_by_hop(&plain, &[5, 2, 0, 0, 1, 0]);
        frame.extend([0; 9]);
        assert!(reset_of(&frame).is_some());
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn a_buffer_of_another_length_is_refused() {
        let frame = tcp_frame(peer_v4(), ours_v4(), &segment());
        Reply::reset(&info(&frame, OUR_MAC)).unwrap().emit(&frame, &mut [0; 60]);
    }
}
