//! Large TCP segments that a device cuts: net_tap, and what comes out of it at the kernel's end.

use crate::frames::{self, Netns, TCP};
use crate::memif::pattern;
use crate::setup::{PATIENCE, config, open_one};
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::time::Instant;
use unsocket::port::dpdk::{Checksums, DpdkConfig};
use unsocket::port::{Frame, Port};

const OURS: Ipv4Addr = Ipv4Addr::new(10, 73, 0, 2);
const HOST: Ipv4Addr = Ipv4Addr::new(10, 73, 0, 1);
const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);
const FIRST: u32 = u32::MAX - 5_000;
const PSH_ACK: u8 = 0x18;
const PAYLOAD_BYTES: usize = 40_001;

pub(crate) fn cut() {
    cut_for(None);
}

pub(crate) fn cut_in_a_vlan() {
    cut_for(Some(7));
}

/// Sends one large segment, and reads off the kernel's end of the device what became of it.
fn cut_for(vlan: Option<u16>) {
    let netns = Netns::new();
    netns.enter();
    let mut port = open_one(&DpdkConfig { vlan, ..config("dpdk:net_tap0,iface=theirs") });
    netns.ip("link set theirs up");
    let mut listener =
        open_one(&DpdkConfig { tso: false, ..config("dpdk:net_af_packet0,iface=theirs,framecnt=1024") });
    assert!(port.summary().to_string().contains("tx-tso"), "{}", port.summary());
    assert_eq!(listener.info().tso_frame_bytes_max, None);

    let payload = pattern(1, PAYLOAD_BYTES);
    let mut segment = frames::tcp((80, 40_000), FIRST, 1, PSH_ACK, 0);
    segment[16..18].fill(0);
    segment.extend(&payload);
    let whole = frames::ipv4(MACS, (OURS, HOST), TCP, &segment);
    assert!(Some(whole.len()) <= port.info().tso_frame_bytes_max);
    let mut frame = port.alloc_large().expect("a large frame");
    Frame::set_len(&mut frame, whole.len());
    frame.bytes_mut().copy_from_slice(&whole);
    frame.set_segment_bytes(NonZeroU16::new(1000).unwrap());
    let mut burst = VecDeque::from([frame]);
    let deadline = Instant::now() + PATIENCE;
    while port.tx_burst(&mut burst) == 0 {
        assert!(Instant::now() < deadline, "the frame was not taken, {:?}", port.stats());
    }
    assert_eq!((port.stats().tx_cut_frames, port.stats().tx_errors), (1, 0));

    let (mut next, mut received) = (FIRST, Vec::new());
    while received.len() < PAYLOAD_BYTES {
        assert!(Instant::now() < deadline, "{} bytes came", received.len());
        listener.rx_burst(&mut burst, 32);
        for frame in burst.drain(..) {
            let bytes = untagged(frame.bytes(), vlan);
            if let Some(bytes) = bytes.filter(|bytes| bytes.get(23) == Some(&TCP)) {
                let left = PAYLOAD_BYTES - received.len();
                received.extend(check(&bytes, next, left.min(1000), left <= 1000));
                next = FIRST.wrapping_add(received.len() as u32);
            }
            listener.release(frame);
        }
    }
    assert!(received == payload);
}

/// The frame without its tag; `None` when it is of another VLAN than expected, or of none.
fn untagged(frame: &[u8], vlan: Option<u16>) -> Option<Vec<u8>> {
    match vlan {
        None => Some(frame.to_vec()),
        Some(id) => {
            let tag = [&[0x81, 0x00][..], &id.to_be_bytes()].concat();
            (frame.get(12..16)? == tag).then(|| [&frame[..12], &frame[16..]].concat())
        }
    }
}

/// Checks one of the pieces, and gives its payload.
fn check(frame: &[u8], sequence: u32, payload_bytes: usize, is_last: bool) -> Vec<u8> {
    let (header, segment) = frame[14..].split_at(20);
    assert_eq!(frame[..12], [MACS.1, MACS.0].concat());
    assert_eq!(usize::from(u16::from_be_bytes([header[2], header[3]])), 40 + payload_bytes);
    assert_eq!(frames::checksum(0, header), 0, "the IPv4 header's checksum");
    let pseudo_header = frames::sum_of_addresses(&OURS.octets(), &HOST.octets());
    let length = segment.len() as u32 + u32::from(TCP);
    assert_eq!(frames::checksum(pseudo_header + length, segment), 0, "the TCP checksum");
    assert_eq!(u32::from_be_bytes(segment[4..8].try_into().unwrap()), sequence);
    let expected = if is_last { PSH_ACK } else { 0x10 };
    assert_eq!(segment[13], expected, "PSH on the last one alone");
    segment[20..].to_vec()
}

/// Large frames are another mempool's than small ones, and neither takes from the other.
pub(crate) fn exhaustion() {
    let netns = Netns::new();
    netns.enter();
    let mut port = open_one(&config("dpdk:net_tap0,iface=theirs"));
    let mut large: VecDeque<_> = std::iter::from_fn(|| port.alloc_large()).collect();
    assert_eq!(large.len(), 255);
    assert_eq!(port.stats().alloc_failed, 0, "small frames go instead");
    let small = port.alloc().expect("a small frame");
    port.release(small);
    large.drain(..).for_each(|frame| port.release(frame));
    // What was released goes back in batches, and with the next burst.
    port.rx_burst(&mut VecDeque::new(), 32);
    large.extend(std::iter::from_fn(|| port.alloc_large()));
    assert_eq!(large.len(), 255);
    large.drain(..).for_each(|frame| port.release(frame));

    // A frame that the device cannot cut is lost and counted, and there are no more.
    let mut wrong = port.alloc_large().expect("a large frame");
    Frame::set_len(&mut wrong, 20_000);
    wrong.bytes_mut().fill(0);
    wrong.set_segment_bytes(NonZeroU16::new(1000).unwrap());
    assert_eq!(port.tx_burst(&mut VecDeque::from([wrong])), 1);
    let stats = port.stats();
    assert_eq!((stats.tx_errors, stats.tx_frames, stats.tx_cut_frames), (1, 0, 0));
    assert!(port.alloc_large().is_none() && port.alloc().is_some());

    for config in [
        DpdkConfig { tso: false, ..config("dpdk:net_tap1,iface=others") },
        DpdkConfig { checksums: Checksums::Trust, ..config("dpdk:net_tap2,iface=trusted") },
    ] {
        let mut without = open_one(&config);
        assert_eq!(without.info().tso_frame_bytes_max, None);
        assert!(without.alloc_large().is_none());
        assert!(!without.summary().to_string().contains("tx-tso"));
    }
}
