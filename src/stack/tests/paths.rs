//! Next hops and path MTUs: routers that must be asked again, paths that narrow, addresses that are taken away.

use super::host::{Host, Pair, Raw, arp_of_raw, config, seen, segments};
use crate::stack::{Onward, Route, StackConfig, Status};
use crate::time::{Duration, Instant};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, IpProtocol, Ipv4Packet, Ipv4Repr,
};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// `a` on 10.0.0.0/24 reaches `b` on 10.9.0.0/24 through 10.0.0.2, which is `b` in truth: the router never appears
/// as a source address.
fn off_link() -> Pair {
    let mut ours = config(&["10.0.0.1/24"]);
    ours.routes = vec![Route { to: "0.0.0.0/0".parse().unwrap(), via: "10.0.0.2".parse().unwrap() }];
    let mut theirs = config(&["10.9.0.2/24", "10.0.0.2/24"]);
    theirs.routes = vec![];
    let mut pair = Pair::new(&ours, &theirs);
    pair.b.stack.listen(80);
    pair
}

fn arp_kind(frame: &[u8]) -> Option<ArpOperation> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    (ethernet.ethertype() == EthernetProtocol::Arp)
        .then(|| ArpPacket::new_unchecked(ethernet.payload()).operation())
}

#[test]
fn off_link_traffic_outlives_the_router_entry() {
    let mut pair = off_link();
    let (client, server) = pair.connect("10.9.0.2:80");
    // smoltcp forgets a neighbour after 60 s of stack time: 12 s at the default floor.
    for round in 0..20 {
        pair.run(Duration::from_secs(7));
        pair.a.send(client, b"still here");
        pair.run(Duration::from_millis(30));
        assert_eq!(pair.b.receive(server), b"still here", "round {round}");
    }
}

#[test]
fn a_lost_router_answer_is_asked_for_again() {
    let mut pair = off_link();
    let (client, server) = pair.connect("10.9.0.2:80");
    // No ARP answer arrives for longer than an entry lives.
    pair.filter = Box::new(|frame| arp_kind(frame).is_none());
    pair.run(Duration::from_secs(30));
    pair.a.send(client, b"stalled");
    pair.run(Duration::from_secs(2));
    assert!(pair.b.receive(server).is_empty());
    pair.filter = Box::new(|_| true);
    pair.run(Duration::from_secs(4));
    assert_eq!(pair.b.receive(server), b"stalled");
}

#[test]
fn whoever_waits_for_a_neighbor_goes_on_as_soon_as_it_answers() {
    let mut host = Host::new(2, &config(&["10.0.0.2/24"]));
    host.stack.listen(80);
    // The SYNs come before any ARP: the answers wait for the address.
    let syns: Vec<_> = (1..=20).map(|port| Raw::syn(port, 7).frame()).collect();
    let sent = host.burst(Instant::from_millis(1), &syns);
    assert_eq!(sent.iter().filter_map(|frame| arp_kind(frame)).count(), 1, "one request for all");
    assert!(segments(&sent).is_empty());
    let sent = segments(&host.burst(Instant::from_millis(2), &[arp_of_raw()]));
    assert_eq!(sent.iter().filter(|segment| segment.syn).count(), 20);
}

/// "Fragmentation needed" from a router on the way, about `sent`.
pub(super) fn too_big(sent: &[u8], mtu: u16) -> Vec<u8> {
    let packet = Ipv4Packet::new_checked(&sent[14..]).unwrap();
    let header = Ipv4Repr {
        src_addr: packet.src_addr(),
        dst_addr: packet.dst_addr(),
        next_header: IpProtocol::Tcp,
        payload_len: packet.payload().len(),
        hop_limit: 64,
    };
    let icmp = Icmpv4Repr::DstUnreachable {
        reason: Icmpv4DstUnreachable::FragRequired,
        header,
        data: &packet.payload()[..8],
    };
    let ip = Ipv4Repr {
        src_addr: [10, 0, 0, 7].into(),
        dst_addr: packet.src_addr(),
        next_header: IpProtocol::Icmp,
        payload_len: icmp.buffer_len(),
        hop_limit: 64,
    };
    let mut frame = vec![0; 14 + ip.buffer_len() + icmp.buffer_len()];
    let mut ethernet = EthernetFrame::new_unchecked(&mut frame);
    EthernetRepr {
        src_addr: EthernetAddress([2, 0, 0, 0, 0, 7]),
        dst_addr: EthernetAddress([2, 0, 0, 0, 0, 1]),
        ethertype: EthernetProtocol::Ipv4,
    }
    .emit(&mut ethernet);
    let checksums = ChecksumCapabilities::default();
    let mut packet = Ipv4Packet::new_unchecked(ethernet.payload_mut());
    ip.emit(&mut packet, &checksums);
    let mut icmp_packet = Icmpv4Packet::new_unchecked(packet.payload_mut());
    icmp.emit(&mut icmp_packet, &checksums);
    // RFC 1191 section 4: the next hop's MTU in the low half of the unused word.
    icmp_packet.into_inner()[6..8].copy_from_slice(&mtu.to_be_bytes());
    let start = 14 + 20;
    frame[start + 2..start + 4].fill(0);
    let mut icmp_packet = Icmpv4Packet::new_unchecked(&mut frame[start..]);
    icmp_packet.fill_checksum();
    frame
}

#[test]
fn segments_of_every_size_fit_the_mtu() {
    for (mtu, to, headers) in
        [(576, "10.0.0.2:80", 40), (1280, "[fd00::2]:80", 60), (1500, "[fd00::2]:80", 60)]
    {
        let narrow = |addrs: &[&str]| StackConfig { mtu: Some(mtu), ..config(addrs) };
        let families: &[&[&str]] = if mtu < 1280 {
            &[&["10.0.0.1/24"], &["10.0.0.2/24"]]
        } else {
            &[&["10.0.0.1/24", "fd00::1/64"], &["10.0.0.2/24", "fd00::2/64"]]
        };
        let mut pair = Pair::new(&narrow(families[0]), &config(families[1]));
        pair.b.stack.listen(80);
        let largest = Rc::new(Cell::new(0));
        let seen_largest = largest.clone();
        pair.filter = Box::new(move |frame| {
            seen_largest.set(seen_largest.get().max(frame.len() - 14));
            true
        });
        let (client, server) = pair.connect(to);
        for bytes in [1, mtu - headers, mtu - headers + 1, 10_000] {
            pair.a.send(client, &vec![1; bytes]);
            pair.b.send(server, &vec![2; bytes]);
            pair.run(Duration::from_secs(1));
            assert_eq!((pair.b.receive(server).len(), pair.a.receive(client).len()), (bytes, bytes));
        }
        // The other end has 1500: it keeps to the MSS that it was told.
        assert_eq!(largest.get(), mtu, "{to}");
    }
}

#[test]
fn a_narrower_path_shrinks_the_segments() {
    let mut pair = Pair::on_link();
    let (client, server) = pair.connect("10.0.0.2:80");
    let data = vec![3; 20_000];
    pair.a.send(client, &data);
    let sent = pair.a.burst(pair.now, &[]);
    assert_eq!(segments(&sent)[0].payload, 1460);
    // A router on the way carries 1300 bytes and says so; everything larger is lost.
    let report = too_big(&sent[0], 1300);
    pair.filter = Box::new(|frame| frame.len() <= 14 + 1300);
    let answers = pair.a.burst(pair.now, &[report]);
    assert!(segments(&answers).iter().all(|segment| segment.payload <= 1240));
    pair.run(Duration::from_secs(3));
    assert_eq!(pair.b.receive(server).len(), data.len());
    assert_eq!(pair.a.stack.stats().paths_narrowed, 1);
}

#[test]
fn a_fast_retransmission_that_meets_an_unknown_router_is_not_forgotten() {
    // On the narrower interface the router is not known yet: smoltcp loses the retransmission with its timer.
    let mut pair = off_link();
    let (client, server) = pair.connect("10.9.0.2:80");
    pair.filter = Box::new(|frame| frame.len() <= 14 + 1300);
    pair.a.send(client, &[3; 5000]);
    let sent = pair.a.burst(pair.now, &[]);
    pair.a.burst(pair.now, &[too_big(&sent[0], 1300)]);
    for _ in 0..5 {
        // Small segments pass; each is answered with a duplicate acknowledgement.
        pair.a.send(client, &[3; 100]);
        pair.step();
        pair.now += Duration::from_micros(100);
    }
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.b.receive(server).len(), 5500);
}

#[test]
fn absurd_path_reports_change_nothing() {
    let mut pair = Pair::on_link();
    let (client, _) = pair.connect("10.0.0.2:80");
    pair.a.send(client, &[3; 3000]);
    let sent = pair.a.burst(pair.now, &[]);
    for mtu in [1, 68, 500, 1500, 9000, u16::MAX] {
        pair.a.burst(pair.now, &[too_big(&sent[0], mtu)]);
    }
    assert_eq!(pair.a.stack.stats().paths_narrowed, 0);
}

#[test]
fn a_router_that_does_not_say_how_much_it_carries_is_tried_plateau_by_plateau() {
    // RFC 1191 section 5: next-hop MTU 0.
    let mut pair = Pair::on_link();
    let (client, server) = pair.connect("10.0.0.2:80");
    let dropped = Rc::new(RefCell::new(None));
    let router = dropped.clone();
    pair.filter = Box::new(move |frame| {
        let fits = frame.len() <= 14 + 1300;
        if !fits {
            *router.borrow_mut() = Some(frame.to_vec());
        }
        fits
    });
    let data = vec![3; 20_000];
    pair.a.send(client, &data);
    for segment_bytes in [1460, 1452, 1360] {
        // The timeout has grown to at most 12 s.
        pair.run(Duration::from_secs(13));
        let frame: Vec<u8> = dropped.take().expect("a segment that does not fit");
        assert_eq!(seen(&frame).unwrap().payload, segment_bytes);
        pair.a.burst(pair.now, &[too_big(&frame, 0)]);
    }
    pair.run(Duration::from_secs(13));
    assert_eq!(pair.b.receive(server).len(), data.len());
    assert_eq!(pair.a.stack.stats().paths_narrowed, 3);
}

#[test]
fn a_path_report_about_nothing_in_flight_changes_nothing() {
    let mut pair = Pair::on_link();
    let (client, server) = pair.connect("10.0.0.2:80");
    pair.a.send(client, &[3; 3000]);
    let sent = pair.a.burst(pair.now, &[]);
    pair.run(Duration::from_millis(1));
    // Whoever is not on the path guesses (RFC 5927 section 4.1).
    let mut guess = sent[0].clone();
    guess[14 + 20 + 4] ^= 0x40;
    pair.a.burst(pair.now, &[too_big(&guess, 1300)]);
    assert_eq!(pair.a.stack.stats().paths_narrowed, 0);
    // Acknowledged by now.
    pair.run(Duration::from_secs(2));
    assert_eq!(pair.b.receive(server).len(), 3000);
    pair.run(Duration::from_secs(2));
    pair.a.burst(pair.now, &[too_big(&sent[0], 1300)]);
    assert_eq!(pair.a.stack.stats().paths_narrowed, 0);
}

#[test]
fn fragments_options_and_strays_send_no_reset() {
    let mut pair = Pair::on_link();
    let (client, server) = pair.connect("10.0.0.2:80");
    pair.a.send(client, b"whole");
    let frame = pair.a.burst(pair.now, &[]).remove(0);
    // The same segment as a first fragment: left out on purpose.
    let mut fragment = frame.clone();
    {
        let mut packet = Ipv4Packet::new_unchecked(&mut fragment[14..]);
        packet.set_more_frags(true);
        packet.set_dont_frag(false);
        packet.fill_checksum();
    }
    assert!(pair.b.burst(pair.now, &[fragment]).is_empty());
    assert_eq!(pair.b.stack.stats().rx_unsupported, 1);
    // With Ethernet padding behind it: the IP length counts, not the frame's.
    let mut padded = frame;
    padded.extend([0xaa; 30]);
    let answers = pair.b.burst(pair.now, &[padded]);
    assert!(answers.iter().filter_map(|frame| seen(frame)).all(|segment| !segment.rst));
    assert_eq!(pair.b.receive(server), b"whole");
    assert_eq!(pair.b.stack.status(server), Some(Status::Open));
}

#[test]
fn arp_ndp_and_ping_are_answered_over_both_families() {
    let mut pair = Pair::on_link();
    // Opening a connection resolves both ways: ARP and NDP were answered.
    pair.connect("10.0.0.2:80");
    pair.connect("[fd00::2]:80");
    let echo = Icmpv4Repr::EchoRequest { ident: 1, seq_no: 2, data: b"are you there?" };
    let ip = Ipv4Repr {
        src_addr: [10, 0, 0, 9].into(),
        dst_addr: [10, 0, 0, 2].into(),
        next_header: IpProtocol::Icmp,
        payload_len: echo.buffer_len(),
        hop_limit: 64,
    };
    let mut frame = vec![0; 14 + ip.buffer_len() + echo.buffer_len()];
    let mut ethernet = EthernetFrame::new_unchecked(&mut frame);
    EthernetRepr {
        src_addr: EthernetAddress([2, 0, 0, 0, 0, 9]),
        dst_addr: EthernetAddress([2, 0, 0, 0, 0, 2]),
        ethertype: EthernetProtocol::Ipv4,
    }
    .emit(&mut ethernet);
    let checksums = ChecksumCapabilities::default();
    let mut packet = Ipv4Packet::new_unchecked(ethernet.payload_mut());
    ip.emit(&mut packet, &checksums);
    echo.emit(&mut Icmpv4Packet::new_unchecked(packet.payload_mut()), &checksums);
    let answers = pair.b.burst(pair.now, &[arp_of_raw(), frame.clone()]);
    let replies = answers.iter().filter(|answer| {
        let packet = Ipv4Packet::new_checked(&answer[14..]);
        packet.is_ok_and(|packet| packet.next_header() == IpProtocol::Icmp)
    });
    assert_eq!(replies.count(), 1);
    assert_eq!(pair.b.onward(&frame), Onward::Done);
    assert_eq!(pair.b.onward(&arp_of_raw()), Onward::Everyone);
}

#[test]
fn who_only_learns_answers_nothing_and_can_send_afterwards() {
    let mut host = Host::new(2, &config(&["10.0.0.2/24"]));
    host.stack.listen(80);
    host.take_over(&arp_of_raw());
    let sent = host.burst(Instant::from_millis(1), &[Raw::syn(5000, 7).frame()]);
    // No ARP request of its own: the first frame is the SYN-ACK.
    assert!(segments(&sent)[0].syn);
    assert_eq!(sent.len(), 1);
}

#[test]
fn an_arp_request_for_us_is_answered_once() {
    let mut host = Host::new(2, &config(&["10.0.0.2/24"]));
    let arp = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress([2, 0, 0, 0, 0, 9]),
        source_protocol_addr: [10, 0, 0, 9].into(),
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: [10, 0, 0, 2].into(),
    };
    let mut frame = vec![0; 14 + arp.buffer_len()];
    let mut ethernet = EthernetFrame::new_unchecked(&mut frame);
    EthernetRepr {
        src_addr: EthernetAddress([2, 0, 0, 0, 0, 9]),
        dst_addr: EthernetAddress::BROADCAST,
        ethertype: EthernetProtocol::Arp,
    }
    .emit(&mut ethernet);
    arp.emit(&mut ArpPacket::new_unchecked(ethernet.payload_mut()));
    let answers = host.burst(Instant::from_millis(1), &[frame]);
    assert_eq!(answers.iter().filter_map(|frame| arp_kind(frame)).collect::<Vec<_>>(), [ArpOperation::Reply]);
}
