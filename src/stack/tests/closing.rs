//! Closings: orderly, abrupt, half-way, and what is remembered afterwards.

use super::host::{Host, Pair, Raw, arp_of_raw, config, segments};
use crate::stack::key::FlowKey;
use crate::stack::{CloseCause, ConnId, Status};
use crate::time::{Duration, Instant};
use smoltcp::wire::TcpControl;

#[test]
fn both_ends_finish_and_everything_is_freed() {
    let mut pair = Pair::on_link();
    let (client, server) = pair.connect("10.0.0.2:80");
    pair.a.send(client, b"last words");
    pair.a.stack.finish(client);
    pair.run(Duration::from_millis(50));
    assert_eq!(pair.b.receive(server), b"last words");
    assert_eq!(pair.b.stack.status(server), Some(Status::PeerFinished));
    pair.b.send(server, b"and mine");
    pair.b.stack.release(server);
    assert_eq!(pair.b.stack.status(server), None);
    pair.run(Duration::from_millis(50));
    assert_eq!(pair.a.receive(client), b"and mine");
    assert_eq!(pair.a.stack.status(client), Some(Status::Closed(CloseCause::Finished)));
    pair.a.stack.release(client);
    pair.run(Duration::from_millis(50));
    assert_eq!((pair.a.stack.connections(), pair.b.stack.connections()), (0, 0));
    // Who closed first remembers.
    assert_eq!((pair.a.stack.time_wait_records(), pair.b.stack.time_wait_records()), (1, 0));
    // And forgets in the next burst, although no segment of that connection comes.
    pair.run(Duration::from_secs(61));
    pair.step();
    assert_eq!(pair.a.stack.time_wait_records(), 0);
}

#[test]
fn an_abort_is_a_reset_to_the_peer() {
    let mut pair = Pair::on_link();
    let (client, server) = pair.connect("10.0.0.2:80");
    pair.a.stack.abort(client);
    assert_eq!(pair.a.stack.status(client), Some(Status::Closed(CloseCause::Aborted)));
    pair.run(Duration::from_millis(50));
    assert_eq!(pair.b.stack.status(server), Some(Status::Closed(CloseCause::Reset)));
    pair.a.stack.release(client);
    pair.b.stack.release(server);
    pair.run(Duration::from_millis(50));
    assert_eq!((pair.a.stack.connections(), pair.b.stack.connections()), (0, 0));
    assert_eq!(pair.a.stack.stats().closed, 1);
}

#[test]
fn after_a_reset_the_same_addresses_connect_again() {
    let mut host = Host::new(2, &config(&["10.0.0.2/24"]));
    host.stack.listen(80);
    host.burst(Instant::ZERO, &[arp_of_raw()]);
    for round in 0..3u64 {
        let at = |ms| Instant::from_millis(round * 100 + ms);
        let seq = 1000 * round as u32;
        let answer = segments(&host.burst(at(1), &[Raw::syn(5000, seq).frame()]));
        assert!(answer[0].syn, "round {round}");
        let ack = Some(answer[0].seq.wrapping_add(1));
        let done = Raw { control: TcpControl::None, seq: seq + 1, ack, ..Raw::syn(5000, 0) };
        host.burst(at(2), &[done.frame()]);
        let reset = Raw { control: TcpControl::Rst, seq: seq + 1, ack, ..Raw::syn(5000, 0) };
        host.burst(at(3), &[reset.frame()]);
        let id = *host.ready.last().unwrap();
        assert_eq!(host.stack.status(id), Some(Status::Closed(CloseCause::Reset)));
        // The owner is slow to let go: the 4-tuple is free all the same.
    }
    assert_eq!(host.stack.connections(), 3);
    let ids: std::collections::BTreeSet<_> = host.ready.iter().copied().collect();
    for id in ids {
        host.stack.release(id);
    }
    host.burst(Instant::from_millis(400), &[]);
    assert_eq!(host.stack.connections(), 0);
}

#[test]
fn a_window_that_stays_closed_after_our_fin_is_not_probed() {
    // The peer acknowledges part of what we sent with a closed window, then all of it, the FIN too.
    let mut host = Host::new(2, &config(&["10.0.0.2/24"]));
    host.stack.listen(80);
    host.burst(Instant::ZERO, &[arp_of_raw()]);
    let answer = segments(&host.burst(Instant::from_millis(1), &[Raw::syn(5000, 99).frame()]));
    let ours = answer[0].seq.wrapping_add(1);
    let segment = |ack, window| Raw {
        control: TcpControl::None,
        seq: 100,
        ack: Some(ack),
        window,
        ..Raw::syn(5000, 0)
    };
    host.burst(Instant::from_millis(2), &[segment(ours, 64_000).frame()]);
    let id = host.ready[0];
    host.send(id, &[7; 200]);
    host.stack.release(id);
    let fin = segments(&host.burst(Instant::from_millis(3), &[]));
    assert!(fin[0].fin);
    let partly = Raw { window: 0, ..raw(TcpControl::None, 100, ours.wrapping_add(100)) };
    let wholly = Raw { window: 0, ..raw(TcpControl::None, 100, ours.wrapping_add(201)) };
    let mut sent = host.burst(Instant::from_millis(4), &[partly.frame(), wholly.frame()]).len();
    for tick in 0..500 {
        sent += host.burst(Instant::from_millis(5 + 10 * tick), &[]).len();
    }
    assert!(sent <= 1, "{sent} segments to a peer that has everything");
}

/// A host with an open connection from the raw peer's port 5000, whose next seq is 100: (host, id, our next seq).
fn open() -> (Host, ConnId, u32) {
    let mut host = Host::new(2, &config(&["10.0.0.2/24"]));
    host.stack.listen(80);
    host.burst(Instant::ZERO, &[arp_of_raw()]);
    let answer = segments(&host.burst(Instant::from_millis(1), &[Raw::syn(5000, 99).frame()]));
    let ours = answer[0].seq.wrapping_add(1);
    host.burst(Instant::from_millis(2), &[raw(TcpControl::None, 100, ours).frame()]);
    let id = host.ready[0];
    assert_eq!(host.stack.status(id), Some(Status::Open));
    (host, id, ours)
}

/// A segment of that connection's peer.
fn raw(control: TcpControl, seq: u32, ack: u32) -> Raw<'static> {
    Raw { control, seq, ack: Some(ack), ..Raw::syn(5000, 0) }
}

/// A host in whose TIME-WAIT the raw peer's port 5000 is: (host, our next seq, its next seq).
fn time_wait() -> (Host, u32, u32) {
    let (mut host, id, ours) = open();
    host.stack.release(id);
    let fin = segments(&host.burst(Instant::from_millis(3), &[]));
    assert!(fin[0].fin);
    let ours = ours.wrapping_add(1);
    let ack = segments(&host.burst(Instant::from_millis(4), &[raw(TcpControl::Fin, 100, ours).frame()]));
    assert_eq!((ack.len(), ack[0].ack), (1, 101));
    assert_eq!((host.stack.connections(), host.stack.time_wait_records()), (0, 1));
    (host, ours, 101)
}

#[test]
fn time_wait_acknowledges_a_repeated_fin() {
    let (mut host, ours, theirs) = time_wait();
    let fin = Raw { control: TcpControl::Fin, seq: theirs - 1, ack: Some(ours), ..Raw::syn(5000, 0) };
    let answer = segments(&host.burst(Instant::from_millis(10), &[fin.frame()]));
    assert_eq!(answer.len(), 1);
    assert_eq!((answer[0].seq, answer[0].ack, answer[0].rst), (ours, theirs, false));
}

#[test]
fn time_wait_ignores_a_reset() {
    // RFC 1337: an RST must not assassinate TIME-WAIT.
    let (mut host, _, theirs) = time_wait();
    let reset = Raw { control: TcpControl::Rst, seq: theirs, ..Raw::syn(5000, 0) };
    assert!(host.burst(Instant::from_millis(10), &[reset.frame()]).is_empty());
    assert_eq!(host.stack.time_wait_records(), 1);
}

#[test]
fn time_wait_gives_way_to_a_newer_connection() {
    // RFC 6191 and RFC 9293 section 3.10.7.4: a SYN beyond the old sequence numbers opens at once.
    let (mut host, ours, theirs) = time_wait();
    let answer = segments(&host.burst(Instant::from_millis(10), &[Raw::syn(5000, theirs + 1000).frame()]));
    assert!(answer[0].syn);
    assert!((answer[0].seq.wrapping_sub(ours) as i32) > 0, "the new numbers are above the old ones");
    assert_eq!(host.stack.time_wait_records(), 0);
    assert_eq!(host.stack.connections(), 1);
}

#[test]
fn time_wait_does_not_give_way_to_an_old_syn() {
    let (mut host, ours, theirs) = time_wait();
    let answer = segments(&host.burst(Instant::from_millis(10), &[Raw::syn(5000, theirs - 50).frame()]));
    assert!(answer.iter().all(|segment| !segment.syn && (segment.seq, segment.ack) == (ours, theirs)));
    assert_eq!(host.stack.connections(), 0);
}

#[test]
fn a_client_that_forgot_its_connections_may_use_a_port_again() {
    // Another process at the client's address: its sequence numbers begin anywhere, half of them below the old ones.
    for lead in [0x1000, 0x7fff_0000] {
        let mut pair = Pair::on_link();
        let id = pair.a.stack.connect("10.0.0.2:80".parse().unwrap()).unwrap();
        let flow = FlowKey::new("10.0.0.2:80".parse().unwrap(), pair.a.stack.local(id).unwrap());
        let isn = pair.a.stack.slab.slot(id.index).unacknowledged;
        pair.b.stack.time_wait.insert(Instant::ZERO, flow, 77, isn.wrapping_add(lead));
        let started = pair.now;
        while pair.a.stack.status(id) == Some(Status::Connecting) {
            pair.run(Duration::from_millis(10));
            assert!(pair.now < started + Duration::from_secs(2), "longer than one retransmission");
        }
        assert_eq!(pair.a.stack.status(id), Some(Status::Open));
        assert_eq!(pair.b.stack.time_wait_records(), 0);
        assert_eq!(pair.b.stack.stats().rx_syn_accepted, 1);
    }
}

#[test]
fn time_wait_gives_way_although_its_owner_has_not_let_go() {
    // The peer's FIN and its new SYN come in one burst: smoltcp's socket is still there, and would say nothing.
    for later in [true, false] {
        let (mut host, id, ours) = open();
        host.stack.finish(id);
        assert!(segments(&host.burst(Instant::from_millis(3), &[]))[0].fin);
        let fin = raw(TcpControl::Fin, 100, ours.wrapping_add(1)).frame();
        let syn = Raw::syn(5000, if later { 5_000 } else { 50 }).frame();
        let answers = segments(&host.burst(Instant::from_millis(4), &[fin, syn]));
        assert_eq!(host.stack.status(id), Some(Status::Closed(CloseCause::Finished)));
        let opened = answers.iter().find(|segment| segment.syn);
        // RFC 6191: only a later number is surely no old duplicate.
        assert_eq!(opened.is_some(), later, "{answers:?}");
        if let Some(opened) = opened {
            assert!((opened.seq.wrapping_sub(ours) as i32) > 0, "the new numbers are above the old ones");
            let done = raw(TcpControl::None, 5_001, opened.seq.wrapping_add(1)).frame();
            host.burst(Instant::from_millis(5), &[done]);
            let again = *host.ready.last().unwrap();
            assert_eq!(host.stack.status(again), Some(Status::Open));
            assert_eq!(host.stack.connections(), 2);
        }
        host.stack.release(id);
        host.burst(Instant::from_millis(6), &[]);
        assert_eq!(host.stack.connections(), usize::from(later));
    }
}

#[test]
fn a_peer_that_was_restarted_is_challenged_and_comes_in() {
    // RFC 5961 section 4.2: whoever still has the connection is not disturbed, whoever lost it says so with RST.
    let (mut host, id, ours) = open();
    host.burst(Instant::from_millis(500), &[]);
    let syn = Raw::syn(5000, 70_000).frame();
    let challenge = segments(&host.burst(Instant::from_millis(1_000), &[syn.clone(), syn.clone()]));
    assert_eq!(challenge.len(), 1, "challenges are limited (RFC 5961 section 7): {challenge:?}");
    assert_eq!((challenge[0].seq, challenge[0].ack), (ours, 100));
    assert!(!challenge[0].rst && !challenge[0].syn);
    assert_eq!(host.stack.status(id), Some(Status::Open));
    // RFC 9293 section 3.10.7.3: in SYN-SENT an unacceptable acknowledgement is answered with RST at its number.
    host.burst(Instant::from_millis(1_001), &[Raw { ack: None, ..raw(TcpControl::Rst, 100, 0) }.frame()]);
    assert_eq!(host.stack.status(id), Some(Status::Closed(CloseCause::Reset)));
    let answer = segments(&host.burst(Instant::from_millis(2_000), &[syn]));
    assert!(answer.iter().any(|segment| segment.syn && segment.ack == 70_001), "{answer:?}");
}

#[test]
fn fin_wait_2_has_a_deadline() {
    let mut pair = Pair::on_link();
    let (client, server) = pair.connect("10.0.0.2:80");
    // The peer acknowledges our FIN and never sends its own.
    pair.b.stack.release(server);
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.a.stack.status(client), Some(Status::PeerFinished));
    assert_eq!(pair.b.stack.connections(), 1);
    pair.run(Duration::from_secs(21));
    assert_eq!(pair.b.stack.connections(), 0);
    assert_eq!(pair.a.stack.status(client), Some(Status::Closed(CloseCause::Reset)));
}

#[test]
fn a_released_connection_still_delivers_what_was_queued() {
    let mut pair = Pair::on_link();
    let (client, server) = pair.connect("10.0.0.2:80");
    let data = vec![7; 60_000];
    pair.a.send(client, &data);
    pair.a.stack.release(client);
    pair.b.ready.clear();
    let mut received = Vec::new();
    for _ in 0..1000 {
        pair.step();
        pair.now += Duration::from_micros(100);
        received.extend(pair.b.receive(server));
    }
    assert_eq!(received.len(), data.len());
    assert_eq!(pair.b.stack.status(server), Some(Status::PeerFinished));
}

#[test]
fn bytes_for_a_released_connection_are_discarded() {
    let mut pair = Pair::on_link();
    let (client, server) = pair.connect("10.0.0.2:80");
    pair.b.stack.release(server);
    // Far more than the receive ring holds: the window stays open, nobody reads.
    let mut sent = 0;
    for _ in 0..5000 {
        sent += pair.a.stack.sender(client).unwrap().write(&[1; 4096]);
        pair.step();
        pair.now += Duration::from_micros(100);
    }
    assert!(sent > 200_000, "{sent} bytes");
    pair.a.stack.release(client);
    pair.run(Duration::from_secs(2));
    assert_eq!((pair.a.stack.connections(), pair.b.stack.connections()), (0, 0));
}

#[test]
fn ids_of_released_connections_are_dead() {
    let mut pair = Pair::on_link();
    let (client, _) = pair.connect("10.0.0.2:80");
    pair.a.stack.release(client);
    pair.run(Duration::from_secs(30));
    let (again, _) = pair.connect("10.0.0.2:80");
    assert_ne!(client, again);
    assert!(pair.a.stack.sender(client).is_none());
    assert_eq!(pair.a.stack.status(client), None);
    pair.a.stack.abort(client);
    assert_eq!(pair.a.stack.status(again), Some(Status::Open));
}

#[test]
fn an_owner_deadline_makes_ready_once() {
    let mut pair = Pair::on_link();
    let (client, _) = pair.connect("10.0.0.2:80");
    pair.run(Duration::from_secs(10));
    pair.a.ready.clear();
    let at = pair.now + Duration::from_millis(500);
    pair.a.stack.set_deadline(client, Some(at + Duration::from_secs(5)));
    pair.a.stack.set_deadline(client, Some(at));
    pair.run(Duration::from_millis(499));
    assert!(pair.a.ready.is_empty());
    pair.run(Duration::from_millis(5));
    assert_eq!(pair.a.ready, [client]);
    pair.run(Duration::from_secs(10));
    assert_eq!(pair.a.ready, [client]);
}

#[test]
fn acknowledgements_in_time_wait_take_nothing_from_the_resets() {
    let mut config = config(&["10.0.0.2/24"]);
    config.tcp.rst_per_second_max = 10;
    let mut host = Host::new(2, &config);
    host.burst(Instant::ZERO, &[arp_of_raw()]);
    let old = Raw::syn(5000, 7);
    host.stack.time_wait.insert(Instant::ZERO, crate::stack::key::FlowKey::new(old.to, old.from), 77, 900);
    // Each could be an old SYN, and is answered so.
    let old_syns: Vec<_> = (0..20).map(|_| old.frame()).collect();
    let strangers: Vec<_> = (1..=20).map(|port| Raw::syn(port, 1).frame()).collect();
    let answers = segments(&host.burst(Instant::from_millis(1), &[old_syns, strangers].concat()));
    let resets = answers.iter().filter(|answer| answer.rst).count();
    assert!(resets > 0 && answers.len() > resets, "{resets} of {}", answers.len());
    assert!(answers.len() <= 20);
}
