//! Large segments, for a port that cuts them and for one that does not.

use super::host::{Host, Pair, Raw, arp_of_raw, config, plain_port, seen, segments};
use super::paths::too_big;
use crate::port::PortInfo;
use crate::stack::{CongestionControl, ConnId, StackConfig, Status};
use crate::time::{Duration, Instant};
use proptest::prelude::*;
use smoltcp::wire::{EthernetFrame, Ipv4Packet, TcpControl, TcpPacket};
use std::cell::RefCell;
use std::rc::Rc;

/// The largest frame of a TAP device.
const FRAME_BYTES_MAX: usize = 65_549;
/// Segments that one connection sends in a pass at most.
const SHARE: usize = 64;

/// A port that fills in checksums and cuts TCP segments over IPv4.
fn cutting_port(id: u8) -> PortInfo {
    PortInfo { tso_frame_bytes_max: Some(FRAME_BYTES_MAX), tx_checksum_offload: true, ..plain_port(id) }
}

/// Ports by who cuts, and who fills in checksums: the port both, the stack both, the stack and the port.
fn ports(id: u8) -> [PortInfo; 3] {
    [cutting_port(id), plain_port(id), PortInfo { tx_checksum_offload: true, ..plain_port(id) }]
}

/// Large segments that were cut, by whomever.
fn cut_count(host: &Host) -> usize {
    host.plug.was_cut.len() + host.stack.stats().tx_cut as usize
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

/// `a` on a port that cuts segments, with no congestion control and a send ring of 1 MiB; `b` on an ordinary one, with the
/// largest MTU that it receives.
fn pair(ours: &StackConfig, theirs: &StackConfig) -> Pair {
    pair_on(&cutting_port(1), ours, theirs)
}

/// The same with `a` on another port.
fn pair_on(port: &PortInfo, ours: &StackConfig, theirs: &StackConfig) -> Pair {
    let mut ours = ours.clone();
    ours.tcp.congestion = CongestionControl::None;
    ours.tcp.send_buffer_bytes = 1 << 20;
    let mut pair = Pair::new(&ours, theirs);
    pair.a = Host::on_port(port.clone(), &ours);
    pair.b.stack.listen(80);
    pair
}

fn on_link() -> Pair {
    pair(&config(&["10.0.0.1/24", "fd00::1/64"]), &config(&["10.0.0.2/24", "fd00::2/64"]))
}

/// Writes all of `data`, as the ring has room, until the other end has it.
fn transfer(pair: &mut Pair, client: ConnId, server: ConnId, data: &[u8]) {
    let (mut sent, mut received) = (0, Vec::new());
    for _ in 0..1_000_000 {
        sent += pair.a.stack.sender(client).unwrap().write(&data[sent..]);
        pair.step();
        pair.now += Duration::from_micros(50);
        received.extend(pair.b.receive(server));
        if received.len() == data.len() {
            break;
        }
    }
    assert!(received == data, "{} of {} bytes arrived", received.len(), data.len());
    assert_eq!(pair.b.stack.stats().rx_bad_checksum, 0);
}

/// What is said of a segment's end: PSH and FIN.
fn ends(frame: &[u8]) -> (bool, bool) {
    let packet = Ipv4Packet::new_checked(EthernetFrame::new_checked(frame).unwrap().payload()).unwrap();
    let segment = TcpPacket::new_checked(packet.payload()).unwrap();
    (segment.psh(), segment.fin())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_cut_arrives_as_if_it_had_been_sent_in_small_segments(
        bytes in prop_oneof![1usize..4_000, 4_000usize..65_000],
        peer_mtu in prop_oneof![Just(1500usize), 576usize..1500],
        port in 0usize..3,
    ) {
        let theirs = StackConfig { mtu: Some(peer_mtu), ..config(&["10.0.0.2/24"]) };
        let mut pair = pair_on(&ports(1)[port], &config(&["10.0.0.1/24"]), &theirs);
        let (client, server) = pair.connect("10.0.0.2:80");
        let data = pattern(bytes);
        pair.a.send(client, &data);
        pair.a.stack.finish(client);
        let frames = Rc::new(RefCell::new(Vec::new()));
        let kept = frames.clone();
        pair.filter = Box::new(move |frame| {
            kept.borrow_mut().push(frame.to_vec());
            true
        });
        pair.run(Duration::from_secs(1));
        prop_assert!(pair.b.receive(server) == data);
        prop_assert_eq!(pair.b.stack.status(server), Some(Status::PeerFinished));
        prop_assert_eq!(pair.b.stack.stats().rx_bad_checksum, 0);

        let mss = peer_mtu - 40;
        let frames = frames.borrow();
        let sent: Vec<_> = frames
            .iter()
            .filter_map(|frame| seen(frame).filter(|segment| segment.payload > 0).map(|seen| (frame, seen)))
            .collect();
        let mut next = sent[0].1.seq;
        for (index, (frame, segment)) in sent.iter().enumerate() {
            prop_assert_eq!(segment.seq, next, "contiguous");
            next = next.wrapping_add(segment.payload as u32);
            prop_assert!(segment.payload <= mss);
            let is_last = index + 1 == sent.len();
            prop_assert_eq!(ends(frame).1, is_last, "FIN on the last segment alone");
        }
        for (frame_bytes, segment_bytes) in &pair.a.plug.was_cut {
            prop_assert_eq!(*segment_bytes, mss);
            prop_assert!((frame_bytes - 54).div_ceil(mss) <= SHARE);
        }
        // Below that a frame would become more segments than one connection sends in a pass.
        let is_cut = bytes > mss && mss >= 32 * 1460 / SHARE;
        prop_assert_eq!(cut_count(&pair.a) > 0, is_cut);
        prop_assert!(pair.a.plug.was_cut.is_empty() == (port > 0 || !is_cut), "by whom it should be");
    }
}

#[test]
fn push_stands_on_the_last_segment_alone() {
    let mut pair = on_link();
    let (client, _) = pair.connect("10.0.0.2:80");
    pair.a.send(client, &pattern(10 * 1460));
    let frames = pair.a.burst(pair.now, &[]);
    let pushed: Vec<_> = frames.iter().map(|frame| ends(frame).0).collect();
    assert_eq!(pushed, [vec![false; 9], vec![true]].concat());
    assert_eq!(pair.a.plug.was_cut, [(14_654, 1460)]);
}

#[test]
fn a_segment_that_fits_is_sent_in_a_small_frame() {
    let mut pair = on_link();
    let (client, server) = pair.connect("10.0.0.2:80");
    for bytes in [1, 1459, 1460] {
        pair.a.send(client, &pattern(bytes));
        pair.run(Duration::from_millis(50));
        assert_eq!(pair.b.receive(server), pattern(bytes));
    }
    assert!(pair.a.plug.was_cut.is_empty());
}

#[test]
fn ipv6_is_not_cut() {
    // smoltcp 0.14 would drop what is larger than the MTU, and say that it was sent.
    let mut pair = on_link();
    let (client, server) = pair.connect("[fd00::2]:80");
    transfer(&mut pair, client, server, &pattern(200_000));
    assert!(pair.a.plug.was_cut.is_empty());
}

#[test]
fn jumbo_segments_are_cut_too() {
    let ours = config(&["10.0.0.1/24"]);
    let mut pair = pair(&ours, &config(&["10.0.0.2/24"]));
    pair.a = Host::on_port(PortInfo { mtu: 9000, ..cutting_port(1) }, &ours);
    let (client, server) = pair.connect("10.0.0.2:80");
    transfer(&mut pair, client, server, &pattern(1 << 20));
    // The other end takes 1460.
    assert!(pair.a.plug.was_cut.iter().all(|(_, segment_bytes)| *segment_bytes == 1460));
    assert!(pair.a.plug.was_cut.iter().any(|(frame_bytes, _)| *frame_bytes > 16_000));
}

#[test]
fn a_megabyte_arrives_in_spite_of_loss_with_either_congestion_control() {
    let controls = [CongestionControl::Cubic, CongestionControl::None];
    for (congestion, port) in controls.into_iter().flat_map(|one| ports(1).map(|port| (one, port))) {
        let mut ours = config(&["10.0.0.1/24"]);
        ours.tcp.congestion = congestion;
        let mut pair = Pair::new(&ours, &config(&["10.0.0.2/24"]));
        pair.a = Host::on_port(port, &ours);
        pair.b.stack.listen(80);
        let (client, server) = pair.connect("10.0.0.2:80");
        let mut count = 0u32;
        pair.filter = Box::new(move |_| {
            count = count.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            count >> 24 > 5
        });
        transfer(&mut pair, client, server, &pattern(1 << 20));
        assert!(cut_count(&pair.a) > 10, "{congestion:?}");
    }
}

#[test]
fn no_more_than_the_congestion_window_is_sent() {
    // RFC 5681 section 3.1, as smoltcp starts: 2,048 bytes.
    let ours = config(&["10.0.0.1/24"]);
    let mut pair = Pair::new(&ours, &config(&["10.0.0.2/24"]));
    pair.a = Host::on_port(cutting_port(1), &ours);
    pair.b.stack.listen(80);
    let (client, _) = pair.connect("10.0.0.2:80");
    pair.a.send(client, &pattern(60_000));
    let sent: usize = segments(&pair.a.burst(pair.now, &[])).iter().map(|segment| segment.payload).sum();
    assert!((1460..=4 * 1460).contains(&sent), "{sent} bytes at once");
}

/// A connection by hand to a host that cuts segments; the host, and the sequence number that it starts with.
fn by_hand(window: u16) -> (Host, u32, ConnId) {
    let mut config = config(&["10.0.0.2/24"]);
    config.tcp.congestion = CongestionControl::None;
    config.tcp.send_buffer_bytes = 1 << 20;
    let mut host = Host::on_port(cutting_port(2), &config);
    let (ours, id) = open_by_hand(&mut host, window);
    (host, ours, id)
}

/// Opens a connection to a host by hand; the sequence number that it starts with.
pub(super) fn open_by_hand(host: &mut Host, window: u16) -> (u32, ConnId) {
    host.stack.listen(80);
    host.burst(Instant::ZERO, &[arp_of_raw()]);
    let answer = segments(&host.burst(Instant::from_millis(1), &[Raw::syn(5000, 99).frame()]));
    let ours = answer[0].seq.wrapping_add(1);
    let ack = Raw { control: TcpControl::None, seq: 100, ack: Some(ours), window, ..Raw::syn(5000, 0) };
    host.burst(Instant::from_millis(2), &[ack.frame()]);
    (ours, host.ready[0])
}

#[test]
fn a_window_smaller_than_a_large_segment_is_kept_to() {
    // Scaled by 7: 80 is 10,240 bytes, 7 segments and 20 bytes.
    let (mut host, ours, id) = by_hand(80);
    host.send(id, &pattern(200_000));
    let sent = segments(&host.burst(Instant::from_millis(3), &[]));
    assert_eq!(sent.iter().map(|segment| segment.payload).sum::<usize>(), 10_240);
    assert_eq!(host.plug.was_cut, [(10_294, 1460)]);
    // It closes, and opens by less than a segment.
    let ack = |ack: u32, window| Raw {
        control: TcpControl::None,
        seq: 100,
        ack: Some(ours.wrapping_add(ack)),
        window,
        ..Raw::syn(5000, 0)
    };
    assert!(segments(&host.burst(Instant::from_millis(4), &[ack(10_240, 0).frame()])).is_empty());
    let sent = segments(&host.burst(Instant::from_millis(5), &[ack(10_240, 8).frame()]));
    assert_eq!(sent.iter().map(|segment| segment.payload).collect::<Vec<_>>(), [1024]);
}

#[test]
fn nobody_gets_more_than_its_share_of_a_pass() {
    let (mut host, ours, id) = by_hand(u16::MAX);
    host.send(id, &pattern(1_000_000));
    let mut bytes = 0;
    for ms in 3..10 {
        let sent = segments(&host.burst(Instant::from_millis(ms), &[]));
        assert!(sent.len() <= SHARE, "{} segments", sent.len());
        assert_eq!(sent[0].seq, ours.wrapping_add(bytes));
        bytes += sent.iter().map(|segment| segment.payload as u32).sum::<u32>();
    }
    assert_eq!(bytes as usize, 7 * SHARE * 1460, "and no less");
    assert!(host.plug.was_cut.iter().all(|cut| *cut == (32 * 1460 + 54, 1460)), "whole segments");
}

#[test]
fn what_the_stack_cuts_is_a_share_of_a_pass_and_fits_the_queue() {
    let mut config = config(&["10.0.0.2/24"]);
    config.tcp.congestion = CongestionControl::None;
    config.tcp.send_buffer_bytes = 1 << 20;
    for (room, large) in [(256, true), (SHARE, true), (SHARE - 1, false), (1, false)] {
        let mut host = Host::on_port(plain_port(2), &config);
        let (ours, id) = open_by_hand(&mut host, u16::MAX);
        host.send(id, &pattern(1_000_000));
        let (mut now, mut bytes) = (Instant::from_millis(3), 0);
        for _ in 0..4 {
            let sent = segments(&host.burst_with_room(now, &[], room));
            assert!((1..=SHARE.min(room)).contains(&sent.len()), "{} segments, room for {room}", sent.len());
            assert_eq!(sent[0].seq, ours.wrapping_add(bytes));
            bytes += sent.iter().map(|segment| segment.payload as u32).sum::<u32>();
            now += Duration::from_millis(1);
        }
        assert_eq!(host.stack.stats().tx_cut > 0, large, "room for {room}");
    }
}

#[test]
fn what_is_lost_is_sent_again() {
    let (mut host, ours, id) = by_hand(u16::MAX);
    host.send(id, &pattern(40_000));
    let sent = segments(&host.burst(Instant::from_millis(3), &[]));
    assert_eq!(sent.len(), 28);
    // The first ten arrive; duplicates of their acknowledgement ask for the next one (RFC 5681 section 3.2).
    let ack = Raw {
        control: TcpControl::None,
        seq: 100,
        ack: Some(ours.wrapping_add(14_600)),
        window: 1000,
        ..Raw::syn(5000, 0)
    };
    let again = segments(&host.burst(Instant::from_millis(4), &vec![ack.frame(); 4]));
    assert_eq!(
        again.iter().map(|segment| (segment.seq, segment.payload)).collect::<Vec<_>>(),
        [(ours.wrapping_add(14_600), 1460)]
    );
    // And with the retransmission timer, all of the rest.
    let cut_before = host.plug.was_cut.len();
    let again = segments(&host.burst(Instant::from_millis(2_000), &[]));
    assert_eq!(again[0].seq, ours.wrapping_add(14_600));
    assert_eq!(again.iter().map(|segment| segment.payload).sum::<usize>(), 40_000 - 14_600);
    assert!(host.plug.was_cut.len() > cut_before);
}

#[test]
fn a_narrower_path_shrinks_the_segments_that_are_cut() {
    let mut pair = on_link();
    let (client, server) = pair.connect("10.0.0.2:80");
    let data = pattern(60_000);
    pair.a.send(client, &data);
    let sent = pair.a.burst(pair.now, &[]);
    // A router on the way carries 1300 bytes and says so of the first one; everything larger is lost.
    let report = too_big(&sent[0], 1300);
    pair.filter = Box::new(|frame| frame.len() <= 14 + 1300);
    pair.a.plug.was_cut.clear();
    pair.a.burst(pair.now, &[report]);
    pair.run(Duration::from_secs(3));
    assert_eq!(pair.b.receive(server), data);
    assert_eq!(pair.a.stack.stats().paths_narrowed, 1);
    assert!(!pair.a.plug.was_cut.is_empty());
    assert!(pair.a.plug.was_cut.iter().all(|(bytes, segment)| *segment == 1240 && (bytes - 54) <= 32 * 1240));
}

#[test]
fn without_large_frames_small_ones_go_out() {
    let mut pair = on_link();
    let (client, server) = pair.connect("10.0.0.2:80");
    // A device may hold on to what it has sent until other frames push it out.
    pair.a.plug.keeps_large = true;
    pair.a.set_large_frames(3);
    let data = pattern(1 << 20);
    transfer(&mut pair, client, server, &data);
    let cut = pair.a.plug.was_cut.len();
    assert!(cut > 0);
    // When it gives them back, they are used again.
    pair.a.plug.keeps_large = false;
    pair.a.set_large_frames(3);
    transfer(&mut pair, client, server, &data);
    assert!(pair.a.plug.was_cut.len() > cut + 3);
    assert_eq!(pair.a.stack.stats().tx_answers_lost, 0);
}

#[test]
fn who_finds_the_large_frames_used_up_waits_for_the_next_pass() {
    let mut pair = on_link();
    pair.a.set_large_frames(2);
    let connections: Vec<_> = (0..4).map(|_| pair.connect("10.0.0.2:80")).collect();
    for (client, _) in &connections {
        pair.a.send(*client, &pattern(40_000));
    }
    pair.run(Duration::from_millis(50));
    for (_, server) in connections {
        assert_eq!(pair.b.receive(server), pattern(40_000));
    }
    assert_eq!(pair.a.plug.was_cut, [(40_054, 1460); 4]);
}

#[test]
fn a_neighbor_stays_known_on_either_interface() {
    let mut pair = on_link();
    let (client, server) = pair.connect("10.0.0.2:80");
    // An entry lives for 60 s of stack time: 12 s at the default floor.
    for round in 0..20 {
        pair.a.set_large_frames(if round % 2 == 0 { 100 } else { 0 });
        pair.a.send(client, &pattern(20_000));
        pair.run(Duration::from_secs(7));
        assert_eq!(pair.b.receive(server), pattern(20_000), "round {round}");
    }
    assert!(!pair.a.plug.was_cut.is_empty());
}
