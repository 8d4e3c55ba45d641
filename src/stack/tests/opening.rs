//! Handshakes: ours, the peer's, and those that lead nowhere.

use super::host::{Host, Pair, Raw, arp_of_raw, config, segments};
use crate::stack::{CloseCause, ConnId, StackError, Status};
use crate::time::{Duration, Instant};
use smoltcp::wire::TcpControl;

fn listener() -> Host {
    let mut host = Host::new(2, &config(&["10.0.0.2/24"]));
    host.stack.listen(80);
    host.burst(Instant::ZERO, &[arp_of_raw()]);
    host
}

#[test]
fn connects_over_both_families() {
    let mut pair = Pair::on_link();
    for to in ["10.0.0.2:80", "[fd00::2]:80"] {
        let (client, server) = pair.connect(to);
        assert_eq!(pair.a.stack.peer(client), Some(to.parse().unwrap()));
        assert_eq!(pair.b.stack.local(server), Some(to.parse().unwrap()));
    }
    assert_eq!(pair.b.stack.connections(), 2);
    assert_eq!(pair.b.stack.stats().opened, 2);
}

#[test]
fn a_closed_port_refuses() {
    let mut pair = Pair::on_link();
    let client = pair.a.stack.connect("10.0.0.2:81".parse().unwrap()).unwrap();
    pair.run(Duration::from_millis(50));
    assert_eq!(pair.a.stack.status(client), Some(Status::Closed(CloseCause::Refused)));
    assert_eq!(pair.b.stack.stats().rx_rst_sent, 1);
    assert_eq!(pair.b.stack.connections(), 0);
}

#[test]
fn resets_for_unknown_flows_are_limited() {
    let mut config = config(&["10.0.0.2/24"]);
    config.tcp.rst_per_second_max = 10;
    let mut host = Host::new(2, &config);
    host.burst(Instant::ZERO, &[arp_of_raw()]);
    let frames: Vec<_> = (1..=100).map(|port| Raw::syn(port, 1).frame()).collect();
    let answers = segments(&host.burst(Instant::from_millis(1), &frames));
    assert!((1..=10).contains(&answers.len()), "{} answers", answers.len());
    assert!(answers.iter().all(|segment| segment.rst));
    let stats = host.stack.stats();
    assert_eq!(stats.rx_rst_sent + stats.rx_no_flow, 100);
}

#[test]
fn a_connection_that_nobody_answers_times_out() {
    let mut pair = Pair::on_link();
    pair.filter = Box::new(|_| false);
    let client = pair.a.stack.connect("10.0.0.2:80".parse().unwrap()).unwrap();
    pair.run(Duration::from_secs(11));
    assert_eq!(pair.a.stack.status(client), Some(Status::Closed(CloseCause::TimedOut)));
    pair.a.stack.release(client);
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.a.stack.connections(), 0);
}

#[test]
fn beside_an_ipv6_address_there_is_a_link_local_one() {
    let addrs = |given: &[&str]| -> Vec<String> {
        Host::new(2, &config(given)).stack.addrs().iter().map(|cidr| cidr.addr.to_string()).collect()
    };
    // RFC 4291 appendix A: the MAC address with its local bit turned and ff:fe in its middle.
    assert_eq!(addrs(&["10.0.0.2/24", "fd00::2/64"]), ["10.0.0.2", "fd00::2", "fe80::ff:fe00:2"]);
    assert_eq!(addrs(&["fe80::7/64"]), ["fe80::7"]);
    assert_eq!(addrs(&["10.0.0.2/24"]), ["10.0.0.2"]);
}

#[test]
fn no_timestamps_are_offered_or_answered() {
    // smoltcp has neither PAWS nor RTT measurement from them: twelve bytes a segment for nothing.
    let mut host = listener();
    let answer = &segments(&host.burst(Instant::from_millis(1), &[Raw::syn(5000, 7).frame()]))[0];
    assert!(answer.syn);
    let mut kinds = answer.options.iter();
    while let Some(&kind) = kinds.next() {
        assert_ne!(kind, 8, "a timestamp option in {:?}", answer.options);
        if kind > 1 {
            let len = *kinds.next().unwrap();
            kinds.nth(usize::from(len) - 3);
        }
    }
}

#[test]
fn initial_sequence_numbers_are_keyed_and_move_with_time() {
    let mut first = listener();
    let mut again = listener();
    let syn = |host: &mut Host, port, ms| {
        segments(&host.burst(Instant::from_millis(ms), &[Raw::syn(port, 7).frame()]))[0].seq
    };
    let one = syn(&mut first, 5000, 100);
    // Same secret, same 4-tuple, same time: the same number. RFC 6528 section 3: ISN = M + F(4-tuple, secret).
    assert_eq!(one, syn(&mut again, 5000, 100));
    // Another port: unrelated.
    let other = syn(&mut first, 5001, 100);
    assert!(one.abs_diff(other) > 1_000);
    // The same 4-tuple later: M has moved by one every 4 microseconds.
    let mut later = listener();
    assert_eq!(syn(&mut later, 5000, 500).wrapping_sub(one), 100_000);
}

#[test]
fn a_reset_in_syn_received_frees_the_slot() {
    let mut host = listener();
    host.burst(Instant::from_millis(1), &[Raw::syn(5000, 7).frame()]);
    assert_eq!(host.stack.connections(), 1);
    let reset = Raw { control: TcpControl::Rst, seq: 8, ..Raw::syn(5000, 8) };
    host.burst(Instant::from_millis(2), &[reset.frame()]);
    assert_eq!(host.stack.connections(), 0);
    assert!(host.ready.is_empty());
}

#[test]
fn a_syn_with_a_bad_checksum_leaves_nothing() {
    let mut host = listener();
    let mut frame = Raw::syn(5000, 7).frame();
    let last = frame.len() - 1;
    frame[last] ^= 1;
    assert!(host.burst(Instant::from_millis(1), &[frame]).is_empty());
    assert_eq!(host.stack.connections(), 0);
    assert_eq!(host.stack.stats().rx_bad_checksum, 1);
}

#[test]
fn half_open_connections_are_bounded_and_the_oldest_makes_room() {
    let mut config = config(&["10.0.0.2/24"]);
    config.tcp.half_open_max = 8;
    let mut host = Host::new(2, &config);
    host.stack.listen(80);
    host.burst(Instant::ZERO, &[arp_of_raw()]);
    for port in 1..=1000 {
        host.burst(Instant::from_micros(u64::from(port)), &[Raw::syn(port, 7).frame()]);
        assert!(host.stack.half_open() <= 8);
    }
    assert_eq!(host.stack.connections(), 8);
    // Nobody completes: the deadline frees them all.
    host.burst(Instant::from_millis(11_000), &[]);
    assert_eq!(host.stack.connections(), 0);
    assert_eq!(host.stack.stats().half_open_dropped, 1000);
}

/// The SYN from `port`, and the acknowledgement of the answer.
fn complete(host: &mut Host, port: u16, now: Instant) {
    let answer = segments(&host.burst(now, &[Raw::syn(port, 7).frame()]));
    let ack = Some(answer[0].seq.wrapping_add(1));
    let done = Raw { control: TcpControl::None, seq: 8, ack, ..Raw::syn(port, 0) };
    host.burst(now, &[done.frame()]);
}

#[test]
fn a_table_full_of_open_connections_drops_the_syn() {
    let mut config = config(&["10.0.0.2/24"]);
    config.tcp.connections_max = 4;
    let mut host = Host::new(2, &config);
    host.stack.listen(80);
    host.burst(Instant::ZERO, &[arp_of_raw()]);
    for port in 1..=4 {
        complete(&mut host, port, Instant::from_millis(1));
    }
    let frames: Vec<_> = (5..=10).map(|port| Raw::syn(port, 7).frame()).collect();
    host.burst(Instant::from_millis(1), &frames);
    assert_eq!((host.stack.connections(), host.stack.half_open()), (4, 0));
    assert_eq!(host.stack.stats().rx_syn_refused, 6);
}

#[test]
fn a_flood_that_fills_the_table_does_not_lock_out_who_answers() {
    // Fewer slots than `half_open_max`: the flood meets the table's end before its own.
    let mut config = config(&["10.0.0.2/24"]);
    config.tcp.connections_max = 4;
    let mut host = Host::new(2, &config);
    host.stack.listen(80);
    host.burst(Instant::ZERO, &[arp_of_raw()]);
    let flood: Vec<_> = (1..=100).map(|port| Raw::syn(port, 7).frame()).collect();
    host.burst(Instant::from_millis(1), &flood);
    complete(&mut host, 5000, Instant::from_millis(2));
    assert_eq!((host.stack.stats().opened, host.ready.len()), (1, 1));
    assert!(host.stack.connections() <= 4);
}

#[test]
fn a_syn_from_a_broadcast_address_or_from_ours_is_dropped() {
    let mut host = Host::new(2, &config(&["10.0.0.2/24", "10.0.0.3/24"]));
    host.stack.listen(80);
    host.burst(Instant::ZERO, &[arp_of_raw()]);
    // RFC 1122 section 4.2.3.10, and RFC 1122 section 3.2.1.3: neither can be a sender's.
    for from in ["10.0.0.255:5000", "10.0.0.3:5000", "127.0.0.1:5000"] {
        let syn = Raw { from: from.parse().unwrap(), ..Raw::syn(5000, 7) };
        assert!(segments(&host.burst(Instant::from_millis(1), &[syn.frame()])).is_empty(), "{from}");
        assert_eq!(host.stack.connections(), 0, "{from}");
    }
    assert_eq!(host.stack.stats().rx_malformed, 3);
}

#[test]
fn after_stop_listening_a_syn_is_refused() {
    let mut host = listener();
    host.stack.stop_listening();
    let answers = segments(&host.burst(Instant::from_millis(1), &[Raw::syn(5000, 7).frame()]));
    assert!(answers[0].rst);
}

#[test]
fn stop_listening_ends_the_handshakes_under_way() {
    let mut host = listener();
    complete(&mut host, 5000, Instant::from_millis(1));
    let answer = segments(&host.burst(Instant::from_millis(2), &[Raw::syn(5001, 7).frame()]));
    host.stack.stop_listening();
    // A flood's would otherwise hold up whoever waits until nothing is left.
    assert_eq!((host.stack.connections(), host.stack.half_open()), (1, 0));
    let ack = Some(answer[0].seq.wrapping_add(1));
    let done = Raw { control: TcpControl::None, seq: 8, ack, ..Raw::syn(5001, 0) };
    let answers = segments(&host.burst(Instant::from_millis(3), &[done.frame()]));
    assert!(answers[0].rst);
    assert_eq!((host.stack.stats().opened, host.ready.len()), (1, 1));
}

#[test]
fn configuration_errors_name_the_setting() {
    let info = crate::port::PortInfo {
        name: "none".into(),
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        frame_bytes_max: 1514,
        tso_frame_bytes_max: None,
        tx_checksum_offload: false,
        rx_checksum_trusted: false,
        rss: None,
    };
    let make = |config| crate::stack::Stack::new(&config, &info, [0; 32], Instant::ZERO).err();
    // Eight IPv6 addresses are nine with the link-local one.
    let many: Vec<String> = (1..=8).map(|i| format!("fd00::{i}/64")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(matches!(make(config(&many)), Some(StackError::TooManyAddresses { given: 9, max: 8 })));
    assert!(matches!(make(config(&["224.0.0.1/24"])), Some(StackError::Address { .. })));
    let narrow = crate::stack::StackConfig { mtu: Some(500), ..config(&["10.0.0.1/24"]) };
    assert!(matches!(make(narrow), Some(StackError::Mtu { mtu: 500 })));
    let narrow = crate::stack::StackConfig { mtu: Some(1279), ..config(&["10.0.0.1/24", "fd00::1/64"]) };
    assert!(matches!(make(narrow), Some(StackError::Ipv6Mtu { mtu: 1279 })));
    // A lease would silently take the place of what is configured.
    let beside = |addrs: &[&str]| crate::stack::StackConfig { dhcp: true, ..config(addrs) };
    assert!(matches!(make(beside(&["10.0.0.1/24"])), Some(StackError::BesideDhcp { .. })));
    assert!(make(beside(&["fd00::1/64"])).is_none());
    assert!(matches!(make(beside(&many[..7])), Some(StackError::TooManyAddresses { given: 8, max: 7 })));
}

#[test]
fn a_client_comes_from_the_address_it_is_told() {
    let mut pair =
        Pair::new(&config(&["10.0.0.1/24", "10.0.0.3/24", "fd00::1/64"]), &config(&["10.0.0.2/24"]));
    pair.b.stack.listen(80);
    let remote = "10.0.0.2:80".parse().unwrap();
    for (source, expected) in
        [("10.0.0.3", true), ("10.0.0.1", true), ("10.0.0.4", false), ("fd00::1", false)]
    {
        let opened = pair.a.stack.connect_from(source.parse().unwrap(), remote);
        assert_eq!(opened.is_ok(), expected, "{source}: {opened:?}");
        let Ok(client) = opened else { continue };
        pair.run(Duration::from_millis(50));
        assert_eq!(pair.a.stack.status(client), Some(Status::Open), "{source}");
        let server = pair.b.ready.pop().unwrap();
        assert_eq!(pair.b.stack.peer(server).unwrap().ip(), source.parse::<std::net::IpAddr>().unwrap());
    }
}

#[test]
fn acknowledgements_of_what_was_never_sent_get_as_many_resets_as_strangers() {
    let mut host = listener();
    host.burst(Instant::from_millis(1), &[Raw::syn(5000, 7).frame()]);
    let wrong = Raw { control: TcpControl::None, seq: 8, ack: Some(12_345), ..Raw::syn(5000, 7) };
    let frames: Vec<_> = (0..5_000).map(|_| wrong.frame()).collect();
    let answers = segments(&host.burst(Instant::from_millis(2), &frames));
    let resets = answers.iter().filter(|answer| answer.rst).count() as u64;
    assert_eq!(resets, host.stack.stats().rx_rst_sent);
    assert!((1..=1_000).contains(&resets), "{resets}");
    assert_eq!(host.stack.half_open(), 1);
}

#[test]
fn connections_that_close_and_fall_silent_make_room_for_others() {
    let mut host = listener();
    for port in 5_000..5_256 {
        let now = Instant::from_millis(u64::from(port) - 4_990);
        let answer = segments(&host.burst(now, &[Raw::syn(port, 7).frame()]))[0].clone();
        let fin = Raw { control: TcpControl::Fin, seq: 8, ack: Some(answer.seq + 1), ..Raw::syn(port, 7) };
        host.ready.clear();
        host.burst(now, &[fin.frame()]);
        host.stack.release(host.ready[0]);
        host.burst(now, &[]);
    }
    let in_use = host.stack.connections();
    let other = Raw { from: "10.0.0.77:1234".parse().unwrap(), ..Raw::syn(1, 1) };
    let accepted = host.stack.stats().rx_syn_accepted;
    host.burst(Instant::from_millis(1_000), &[other.frame()]);
    assert_eq!(host.stack.stats().rx_syn_accepted, accepted + 1, "of {in_use} in use");
    assert_eq!((host.stack.connections(), host.stack.stats().orphans_dropped), (in_use, 1));
}

#[test]
fn numbers_are_the_peers_after_two_syns_have_met() {
    for simultaneous in [false, true] {
        let mut host = listener();
        let peer = "10.0.0.9:80".parse().unwrap();
        let id = host.stack.connect(peer).unwrap();
        let syn = segments(&host.burst(Instant::from_millis(1), &[])).remove(0);
        let ours = host.stack.local(id).unwrap();
        let ack = Some(syn.seq.wrapping_add(1));
        let raw =
            |control, seq, ack| Raw { from: peer, to: ours, control, seq, ack, ..Raw::syn(80, 0) }.frame();
        if simultaneous {
            host.burst(Instant::from_millis(2), &[raw(TcpControl::Syn, 700, None)]);
            // Somebody else's does not count any more.
            host.burst(Instant::from_millis(2), &[raw(TcpControl::Syn, 9_000, None)]);
            host.burst(Instant::from_millis(3), &[raw(TcpControl::None, 701, ack)]);
        } else {
            host.burst(Instant::from_millis(2), &[raw(TcpControl::Syn, 700, ack)]);
        }
        assert_eq!(host.stack.status(id), Some(Status::Open));
        assert_eq!(host.stack.slab.slot(id.index).expected_next(), 701, "simultaneous: {simultaneous}");
    }
}

/// A connection that a peer opened from port 5000 with sequence number 7, and the number of our first byte.
fn opened() -> (Host, ConnId, u32) {
    let mut host = listener();
    let answer = segments(&host.burst(Instant::from_millis(1), &[Raw::syn(5000, 7).frame()])).remove(0);
    let ours = answer.seq.wrapping_add(1);
    let ack = Raw { control: TcpControl::None, seq: 8, ack: Some(ours), ..Raw::syn(5000, 0) };
    host.burst(Instant::from_millis(2), &[ack.frame()]);
    let id = host.ready[0];
    (host, id, ours)
}

#[test]
fn made_up_segments_do_not_keep_a_dead_connection() {
    let (mut host, id, ours) = opened();
    let ack =
        |seq: u32, ack: u32| Raw { control: TcpControl::None, seq, ack: Some(ack), ..Raw::syn(5000, 0) };
    let window = host.stack.slab.slot(id.index).window;
    host.send(id, b"hello");
    let far = 1 << 30;
    // A right number with an acknowledgement of what was never sent, and the other way round.
    let made_up = [ack(8, ours.wrapping_add(far)), ack(8 + far, ours), ack(8_u32.wrapping_sub(far), ours)];
    let made_up = made_up.map(|raw| Raw { window: 1, ..raw }.frame());
    let until = config(&[]).tcp.user_timeout + Duration::from_secs(2);
    let mut now = Instant::from_millis(3);
    while now < Instant::ZERO + until {
        host.burst(now, &made_up);
        host.burst(now, &[arp_of_raw()]);
        now += Duration::from_millis(500);
    }
    assert_eq!(host.stack.status(id), Some(Status::Closed(CloseCause::TimedOut)));
    assert_eq!(host.stack.slab.slot(id.index).window, window);
}

#[test]
fn what_a_peer_repeats_keeps_its_connection() {
    let (mut host, id, ours) = opened();
    let data =
        Raw { control: TcpControl::Psh, seq: 8, ack: Some(ours), payload: b"again", ..Raw::syn(5000, 0) };
    host.send(id, b"hello");
    let until = config(&[]).tcp.user_timeout * 2;
    let mut now = Instant::from_millis(3);
    while now < Instant::ZERO + until {
        host.burst(now, &[arp_of_raw(), data.frame()]);
        now += Duration::from_millis(500);
    }
    assert_eq!(host.stack.status(id), Some(Status::Open), "its number is behind, but it lives");
}
