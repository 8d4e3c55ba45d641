//! Bytes across: loss, full queues, windows, rings.

use super::host::{Host, Pair, Raw, arp_of_raw, config, seen, segments};
use crate::stack::{CloseCause, CongestionControl, ConnId, SendHalf, Status};
use crate::time::{Duration, Instant};
use smoltcp::wire::TcpControl;

/// `len` bytes that differ from place to place.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

/// Sends `data` from `a` to `b` through the send ring and checks that it arrives.
fn transfer(pair: &mut Pair, to: &str, data: &[u8]) {
    let (client, server) = pair.connect(to);
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
}

#[test]
fn a_megabyte_arrives_with_either_congestion_control() {
    for congestion in [CongestionControl::Cubic, CongestionControl::None] {
        let mut ours = config(&["10.0.0.1/24"]);
        ours.tcp.congestion = congestion;
        let mut pair = Pair::new(&ours, &config(&["10.0.0.2/24"]));
        pair.b.stack.listen(80);
        transfer(&mut pair, "10.0.0.2:80", &pattern(1 << 20));
    }
}

#[test]
fn a_megabyte_arrives_in_spite_of_loss_and_duplicates() {
    let mut pair = Pair::on_link();
    let mut count = 0u32;
    pair.filter = Box::new(move |_| {
        count = count.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        count >> 24 > 5
    });
    transfer(&mut pair, "[fd00::2]:80", &pattern(1 << 20));
}

#[test]
fn with_many_connections_those_of_a_burst_are_known_before_it() {
    let [mut a, mut b] =
        [["10.0.0.1/24", "fd00::1/64"], ["10.0.0.2/24", "fd00::2/64"]].map(|addrs| config(&addrs));
    (a.tcp.connections_max, b.tcp.connections_max) = (1_000, 1_000);
    let mut pair = Pair::new(&a, &b);
    pair.b.stack.listen(80);
    let few = pair.connect("10.0.0.2:80");
    pair.a.send(few.0, b"few");
    pair.run(Duration::from_millis(10));
    assert_eq!((pair.b.receive(few.1).as_slice(), pair.b.stack.expected()), (&b"few"[..], &[][..]));

    let many: Vec<_> = (0..600).map(|i| pair.connect(["10.0.0.2:80", "[fd00::2]:80"][i % 2])).collect();
    for &(client, _) in &many[..3] {
        pair.a.send(client, b"many");
    }
    pair.step();
    pair.step();
    let senders: Vec<u32> = many[..3].iter().map(|(_, server)| server.index).collect();
    assert_eq!(pair.b.stack.expected(), senders);
    for &(_, server) in &many[..3] {
        assert_eq!(pair.b.receive(server), b"many");
    }
}

/// Writes a burst of messages to `id` in one turn, each in one of the ways there are, as far as there is room: the bytes that
/// were queued go to `sent`.
fn write_in_many_ways(half: &mut SendHalf<'_>, id: ConnId, random: &mut u32, sent: &mut Vec<u8>) {
    let mut next = |below: u32| {
        *random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*random >> 8) % below
    };
    for _ in 0..next(40) {
        let len = [next(30), next(3_000), 0][next(3) as usize] as usize;
        let message: Vec<u8> = (0..len).map(|i| (sent.len() + i) as u8 ^ (i >> 8) as u8).collect();
        let (free, queued) = (half.free_bytes(), half.queued_bytes());
        let taken = match next(5) {
            0 => half.write(&message),
            1 => half.other(id).map_or(0, |mut same| same.write(&message)),
            2 => half.reborrow().write_in_place(len, |place| place.copy_from_slice(&message)) as usize * len,
            _ => half.write_in_place(len, |place| place.copy_from_slice(&message)) as usize * len,
        };
        assert_eq!((half.free_bytes(), half.queued_bytes()), (free - taken, queued + taken));
        sent.extend_from_slice(&message[..taken]);
    }
}

#[test]
fn whatever_a_turn_writes_arrives_in_order() {
    let mut pair = Pair::on_link();
    let (client, server) = pair.connect("10.0.0.2:80");
    let (mut random, mut sent, mut received) = (7, Vec::new(), Vec::new());
    for _ in 0..2_000 {
        // Half of the turns answer what came.
        pair.b.stack.sender(server).unwrap().write(b"?");
        pair.step();
        let stack = &mut pair.a.stack;
        match stack.received_bytes(client) {
            0 => write_in_many_ways(&mut stack.sender(client).unwrap(), client, &mut random, &mut sent),
            _ => stack
                .with_received(client, |bytes, half| {
                    write_in_many_ways(half, client, &mut random, &mut sent);
                    (bytes.len(), ())
                })
                .unwrap(),
        }
        pair.now += Duration::from_micros(50);
        pair.step();
        received.extend(pair.b.receive(server));
    }
    pair.run(Duration::from_secs(1));
    received.extend(pair.b.receive(server));
    assert!(sent.len() > 4 * 65_536, "the ring was filled several times: {} bytes", sent.len());
    assert!(received == sent, "{} of {} bytes arrived", received.len(), sent.len());
}

#[test]
fn a_full_tx_queue_loses_no_wake_up() {
    let mut pair = Pair::on_link();
    let (client, server) = pair.connect("10.0.0.2:80");
    let data = pattern(40_000);
    pair.a.send(client, &data);
    let (mut received, mut answers) = (Vec::new(), Vec::new());
    for _ in 0..200 {
        // Room for a single frame, burst after burst: what is left must stay dirty.
        let frames = pair.a.burst_with_room(pair.now, &answers, 1);
        assert!(frames.len() <= 1);
        pair.now += Duration::from_micros(10);
        answers = pair.b.burst(pair.now, &frames);
        received.extend(pair.b.receive(server));
        pair.now += Duration::from_micros(10);
    }
    assert!(received == data, "{} of {} bytes arrived", received.len(), data.len());
}

#[test]
fn the_retransmission_floor_is_min_rto() {
    for floor_ms in [20, 200] {
        let mut ours = config(&["10.0.0.1/24"]);
        ours.tcp.min_rto = Duration::from_millis(floor_ms);
        let mut pair = Pair::new(&ours, &config(&["10.0.0.2/24"]));
        pair.b.stack.listen(80);
        let (client, _) = pair.connect("10.0.0.2:80");
        // One round trip, so that the estimator has measured.
        pair.a.send(client, b"measure");
        pair.run(Duration::from_millis(100));
        pair.a.send(client, b"lost");
        let lost_at = pair.now;
        let frames = pair.a.burst(pair.now, &[]);
        assert_eq!(segments(&frames)[0].payload, 4);
        let mut again_at = None;
        for tick in 1..=3 * floor_ms {
            let at = lost_at + Duration::from_millis(tick);
            if segments(&pair.a.burst(at, &[])).iter().any(|segment| segment.payload == 4) {
                again_at = Some(tick);
                break;
            }
        }
        let again_at = again_at.expect("a retransmission");
        assert!((floor_ms..=floor_ms + 2).contains(&again_at), "after {again_at} ms, floor {floor_ms} ms");
    }
}

#[test]
fn an_acknowledgement_rides_on_the_reply_or_comes_after_the_delay() {
    let mut pair = Pair::on_link();
    let (client, server) = pair.connect("10.0.0.2:80");
    pair.run(Duration::from_millis(100));
    pair.a.send(client, b"ping");
    let frames = pair.a.burst(pair.now, &[]);
    // A reply written in the same burst carries the acknowledgement: one segment, not two.
    pair.b.stack.begin(pair.now);
    assert!(pair.b.burst(pair.now, &frames).is_empty(), "nothing before the handler ran");
    pair.b.receive(server);
    pair.b.send(server, b"pong");
    let replies = segments(&pair.b.burst(pair.now, &[]));
    assert_eq!(replies.len(), 1);
    assert_eq!(replies[0].payload, 4);
    // Without a reply it comes alone after the delay.
    pair.a.send(client, b"more");
    let frames = pair.a.burst(pair.now, &[]);
    assert!(segments(&pair.b.burst(pair.now, &frames)).is_empty());
    pair.b.receive(server);
    assert!(segments(&pair.b.burst(pair.now + Duration::from_millis(9), &[])).is_empty());
    assert_eq!(segments(&pair.b.burst(pair.now + Duration::from_millis(12), &[])).len(), 1);
}

/// Opens a connection by hand to a host whose receive ring is configured as `ring_bytes`, and fills far more than
/// the window while nobody reads. smoltcp 0.14 asserts (panics) here for most ring sizes from 64 KiB on.
fn overrun(ring_bytes: usize) {
    let mut config = config(&["10.0.0.2/24"]);
    config.tcp.recv_buffer_bytes = ring_bytes;
    let mut host = Host::new(2, &config);
    host.stack.listen(80);
    host.burst(Instant::ZERO, &[arp_of_raw()]);
    let answer = segments(&host.burst(Instant::from_millis(1), &[Raw::syn(5000, 99).frame()]));
    let ours = answer[0].seq.wrapping_add(1);
    let payload = pattern(1460);
    let mut seq = 100u32;
    let data =
        |seq, payload| Raw { control: TcpControl::None, seq, ack: Some(ours), payload, ..Raw::syn(5000, 0) };
    host.burst(Instant::from_millis(2), &[data(seq, &[]).frame()]);
    for _ in 0..(ring_bytes / 1460 + 200) {
        host.burst(Instant::from_millis(3), &[data(seq, &payload).frame()]);
        seq = seq.wrapping_add(1460);
    }
    let id = host.ready[0];
    let held = host.stack.received_bytes(id);
    assert!(held <= ring_bytes, "{held} bytes in a ring of {ring_bytes}");
    assert!(held >= ring_bytes / 4, "only {held} bytes in a ring of {ring_bytes}");
}

#[test]
fn a_peer_that_overruns_the_window_cannot_panic_the_stack() {
    for ring_bytes in [4_096, 65_535, 65_536, 100_000, 131_071, 131_072, 262_143, 262_144, 1 << 20] {
        overrun(ring_bytes);
    }
}

#[test]
fn a_blocked_writer_is_told_when_half_the_ring_is_free() {
    let mut pair = Pair::on_link();
    let (client, server) = pair.connect("10.0.0.2:80");
    let data = pattern(200_000);
    let written = pair.a.stack.sender(client).unwrap().write(&data);
    assert!(written < data.len());
    pair.a.ready.clear();
    for _ in 0..10_000 {
        pair.step();
        pair.now += Duration::from_micros(50);
        pair.b.receive(server);
        if !pair.a.ready.is_empty() {
            break;
        }
    }
    assert_eq!(pair.a.ready, [client]);
    let free = pair.a.stack.sender(client).unwrap().free_bytes();
    assert!(free >= 32_768, "{free} bytes free");
}

#[test]
fn a_silent_peer_is_given_up_after_the_user_timeout() {
    let mut ours = config(&["10.0.0.1/24"]);
    ours.tcp.user_timeout = Duration::from_secs(5);
    let mut pair = Pair::new(&ours, &config(&["10.0.0.2/24"]));
    pair.b.stack.listen(80);
    let (client, _) = pair.connect("10.0.0.2:80");
    // Idle for long: that is no reason to give up.
    pair.run(Duration::from_secs(100));
    assert_eq!(pair.a.stack.status(client), Some(Status::Open));
    pair.filter = Box::new(|_| false);
    pair.a.send(client, b"anybody there?");
    pair.run(Duration::from_secs(4));
    assert_eq!(pair.a.stack.status(client), Some(Status::Open));
    pair.run(Duration::from_secs(8));
    assert_eq!(pair.a.stack.status(client), Some(Status::Closed(CloseCause::TimedOut)));
}

#[test]
fn keep_alive_finds_a_dead_peer_and_keeps_a_live_one() {
    let mut ours = config(&["10.0.0.1/24"]);
    ours.tcp.keep_alive = Some(Duration::from_secs(2));
    ours.tcp.user_timeout = Duration::from_secs(5);
    let mut pair = Pair::new(&ours, &config(&["10.0.0.2/24"]));
    pair.b.stack.listen(80);
    let (client, _) = pair.connect("10.0.0.2:80");
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.a.stack.status(client), Some(Status::Open));
    pair.filter = Box::new(|_| false);
    pair.run(Duration::from_secs(10));
    assert_eq!(pair.a.stack.status(client), Some(Status::Closed(CloseCause::TimedOut)));
}

#[test]
fn idle_rings_are_given_back_but_not_with_bytes_beyond_a_gap() {
    let mut host = Host::new(2, &config(&["10.0.0.2/24"]));
    host.stack.listen(80);
    host.burst(Instant::ZERO, &[arp_of_raw()]);
    let answer = segments(&host.burst(Instant::from_millis(1), &[Raw::syn(5000, 99).frame()]));
    let ours = answer[0].seq.wrapping_add(1);
    let data =
        |seq, payload| Raw { control: TcpControl::None, seq, ack: Some(ours), payload, ..Raw::syn(5000, 0) };
    // The second segment comes first: its bytes lie in the ring while the queue is empty.
    let frames = [data(100, &[]).frame(), data(105, b"world").frame()];
    host.burst(Instant::from_millis(2), &frames);
    host.burst(Instant::from_millis(7_000), &[]);
    host.burst(Instant::from_millis(14_000), &[]);
    assert_eq!(host.stack.stats().rings_reclaimed, 0);
    host.burst(Instant::from_millis(15_000), &[data(100, b"hello").frame()]);
    let id = host.ready[0];
    assert_eq!(host.receive(id), b"helloworld");
    // Now it is empty in truth.
    host.burst(Instant::from_millis(21_000), &[]);
    host.burst(Instant::from_millis(28_000), &[]);
    assert_eq!(host.stack.stats().rings_reclaimed, 1);
    host.burst(Instant::from_millis(29_000), &[data(110, b"again").frame()]);
    assert_eq!(host.receive(id), b"again");
}

#[test]
fn a_crowd_that_falls_silent_at_once_is_looked_at_a_few_in_each_burst() {
    let mut host = Host::new(2, &config(&["10.0.0.2/24"]));
    host.stack.listen(80);
    host.burst(Instant::ZERO, &[arp_of_raw()]);
    for port in 5000..5100 {
        let now = Instant::from_millis(u64::from(port) - 4999);
        let answer = segments(&host.burst(now, &[Raw::syn(port, 99).frame()]));
        let ack = Some(answer[0].seq.wrapping_add(1));
        let data = Raw { control: TcpControl::None, seq: 100, ack, payload: b"hello", ..Raw::syn(port, 0) };
        host.burst(now, &[data.frame()]);
    }
    for id in std::mem::take(&mut host.ready) {
        host.receive(id);
    }
    host.burst(Instant::from_millis(200), &[]);
    let reclaimed = |host: &mut Host| {
        host.burst(Instant::from_millis(7_000), &[]);
        host.stack.stats().rings_reclaimed
    };
    // At one time: what is left over waits for no timer and is not looked at again and again.
    let counts: Vec<_> = (0..5).map(|_| reclaimed(&mut host)).collect();
    assert_eq!(counts, [32, 64, 96, 100, 100]);
}

#[test]
fn bytes_that_nobody_has_read_outlast_a_crowd_that_rests_around_them() {
    let mut host = Host::new(2, &config(&["10.0.0.2/24"]));
    host.stack.listen(80);
    host.burst(Instant::ZERO, &[arp_of_raw()]);
    for port in 5000..5100 {
        let now = Instant::from_millis(u64::from(port) - 4999);
        let answer = segments(&host.burst(now, &[Raw::syn(port, 99).frame()]));
        let ack = Some(answer[0].seq.wrapping_add(1));
        let data = Raw { control: TcpControl::None, seq: 100, ack, payload: b"hello", ..Raw::syn(port, 0) };
        host.burst(now, &[data.frame()]);
    }
    // Some page tables have a ring with bytes beside empty ones, some have empty ones alone.
    let ids = std::mem::take(&mut host.ready);
    let is_read = |index: usize| index % 20 != 7;
    for (_, &id) in ids.iter().enumerate().filter(|&(index, _)| is_read(index)) {
        host.receive(id);
    }
    host.burst(Instant::from_millis(200), &[]);
    for millis in 7_000..7_005 {
        host.burst(Instant::from_millis(millis), &[]);
    }
    assert_eq!(host.stack.stats().rings_reclaimed, 95);
    for (_, &id) in ids.iter().enumerate().filter(|&(index, _)| !is_read(index)) {
        assert_eq!(host.receive(id), b"hello");
    }
}

#[test]
fn segments_beyond_the_window_do_not_hide_a_gap() {
    let mut host = Host::new(2, &config(&["10.0.0.2/24"]));
    host.stack.listen(80);
    host.burst(Instant::ZERO, &[arp_of_raw()]);
    let answer = segments(&host.burst(Instant::from_millis(1), &[Raw::syn(5000, 99).frame()]));
    let ack = Some(answer[0].seq.wrapping_add(1));
    let data = |seq: u32, payload| Raw { control: TcpControl::None, seq, ack, payload, ..Raw::syn(5000, 0) };
    host.burst(Instant::from_millis(2), &[data(100, &[]).frame(), data(105, b"world").frame()]);
    // Around the whole sequence space, to where the gap begins: nothing of it is taken, nothing of it may count.
    for step in [110 + (1 << 30), 110 + (1 << 31), u32::MAX - 900, 99] {
        host.burst(Instant::from_millis(3), &[data(step, b"!").frame()]);
    }
    for secs in [6, 12, 18] {
        host.burst(Instant::from_millis(secs * 1_000), &[]);
    }
    assert_eq!(host.stack.stats().rings_reclaimed, 0);
    let id = host.ready[0];
    host.burst(Instant::from_millis(20_000), &[data(100, b"hello").frame()]);
    assert_eq!(host.receive(id), b"helloworld");
    // A lie about what lies beyond does not keep the pages for ever either.
    host.burst(Instant::from_millis(20_001), &[data(110 + 100_000, b"!").frame()]);
    for secs in [26, 32, 38] {
        host.burst(Instant::from_millis(secs * 1_000), &[]);
    }
    assert_eq!(host.stack.stats().rings_reclaimed, 1);
}

#[test]
fn a_window_that_closes_over_lost_bytes_is_probed_and_the_peer_given_up() {
    let mut config = config(&["10.0.0.2/24"]);
    config.tcp.user_timeout = Duration::from_secs(20);
    let mut host = Host::new(2, &config);
    host.stack.listen(80);
    host.burst(Instant::ZERO, &[arp_of_raw()]);
    let answer = segments(&host.burst(Instant::from_millis(1), &[Raw::syn(5000, 99).frame()]));
    let ours = answer[0].seq.wrapping_add(1);
    let bare = Raw { control: TcpControl::None, seq: 100, ack: Some(ours), ..Raw::syn(5000, 0) };
    host.burst(Instant::from_millis(2), &[bare.frame()]);
    let id = host.ready[0];
    host.send(id, b"lost");
    assert_eq!(segments(&host.burst(Instant::from_millis(3), &[])).len(), 1);
    // It is lost, and the peer shrinks its window to nothing while the retransmission timer runs.
    host.burst(Instant::from_millis(4), &[Raw { window: 0, ..bare }.frame()]);
    let mut probes = 0;
    for ms in (5..40_000).step_by(10) {
        let sent = segments(&host.burst(Instant::from_millis(ms), &[]));
        probes += sent.iter().filter(|segment| !segment.rst).count();
    }
    assert!(probes > 0, "nobody asks for the window (RFC 9293 section 3.8.6.1)");
    assert_eq!(host.stack.status(id), Some(Status::Closed(CloseCause::TimedOut)));
}

#[test]
fn an_idle_connection_needs_no_attention() {
    let mut pair = Pair::on_link();
    let (client, server) = pair.connect("10.0.0.2:80");
    pair.a.send(client, b"once");
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.b.receive(server), b"once");
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.a.stack.next_deadline(), None);
    assert_eq!(pair.b.stack.next_deadline(), None);
}

#[test]
fn segments_are_sent_with_right_checksums() {
    let mut pair = Pair::on_link();
    let (client, _) = pair.connect("10.0.0.2:80");
    pair.a.send(client, b"checked");
    let frames = pair.a.burst(pair.now, &[]);
    assert_eq!(seen(&frames[0]).unwrap().payload, 7);
    pair.b.burst(pair.now, &frames);
    assert_eq!(pair.b.stack.stats().rx_bad_checksum, 0);
    for place in 14..frames[0].len() {
        let mut frame = frames[0].clone();
        frame[place] ^= 0x10;
        pair.b.burst(pair.now, &[frame]);
    }
    // Whatever bit is wrong, nothing but the one good segment was taken.
    let server = pair.b.ready[0];
    assert_eq!(pair.b.receive(server), b"checked");
}

#[test]
fn an_acknowledgement_counts_although_its_segment_is_old() {
    // Two ends whose retransmission timers expired together send with the numbers of what they repeat.
    let mut host = Host::new(2, &config(&["10.0.0.2/24"]));
    host.stack.listen(80);
    let at = Instant::from_millis;
    host.burst(at(1), &[arp_of_raw()]);
    let answer = segments(&host.burst(at(1), &[Raw::syn(5000, 99).frame()]));
    let ours = answer[0].seq.wrapping_add(1);
    let segment = |seq, ack, payload| Raw {
        control: TcpControl::None,
        seq,
        ack: Some(ack),
        payload,
        ..Raw::syn(5000, 0)
    };
    host.burst(at(2), &[segment(100, ours, b"").frame()]);
    let id = host.ready[0];
    host.burst(at(3), &[segment(100, ours, b"hello").frame()]);
    host.send(id, b"0123456789");
    assert_eq!(segments(&host.burst(at(4), &[]))[0].payload, 10);
    assert_eq!(host.stack.sender(id).unwrap().queued_bytes(), 10);
    // Its bytes are old, and so they are acknowledged once more; but it acknowledges six of ours.
    let answer = segments(&host.burst(at(5), &[segment(100, ours + 6, b"hello").frame()]));
    assert!(answer.iter().any(|answer| answer.ack == 105), "{answer:?}");
    assert_eq!(host.stack.sender(id).unwrap().queued_bytes(), 4);
    host.burst(at(6), &[segment(102, ours + 10, b"").frame()]);
    assert_eq!(host.stack.sender(id).unwrap().queued_bytes(), 0);
    // What was never sent cannot be acknowledged, nor can an RST or a segment from far away do it.
    host.send(id, b"0123456789");
    host.burst(at(7), &[segment(102, ours + 21, b"").frame(), segment(u32::MAX / 2, ours + 20, b"").frame()]);
    assert_eq!(host.stack.sender(id).unwrap().queued_bytes(), 10);
    assert_eq!(host.receive(id), b"hello");
    assert_eq!(host.stack.status(id), Some(Status::Open));
}

#[test]
fn keep_alive_probes_come_once_an_interval_and_lie_before_the_stream() {
    let mut config = config(&["10.0.0.2/24"]);
    config.tcp.keep_alive = Some(Duration::from_secs(2));
    let mut host = Host::new(2, &config);
    host.stack.listen(80);
    let at = Instant::from_millis;
    host.burst(at(1), &[arp_of_raw()]);
    let answer = segments(&host.burst(at(1), &[Raw::syn(5000, 99).frame()]));
    let ours = answer[0].seq.wrapping_add(1);
    let ack = |ack| Raw { control: TcpControl::None, ack: Some(ack), ..Raw::syn(5000, 100) }.frame();
    host.burst(at(2), &[ack(ours)]);
    let mut probes = Vec::new();
    for ms in (10..9_000).step_by(10) {
        for probe in segments(&host.burst(at(ms), &[])) {
            assert_eq!(probe.seq, ours.wrapping_sub(1), "{probe:?}");
            probes.push(ms);
        }
    }
    assert_eq!(probes, [2010, 4010, 6010, 8010]);
    // An answer begins the count anew, and what is unacknowledged is sent again instead of probed for.
    host.burst(at(9_000), &[ack(ours)]);
    assert!(host.burst(at(10_990), &[]).is_empty());
    assert_eq!(segments(&host.burst(at(11_010), &[])).len(), 1);
    let id = host.ready[0];
    host.send(id, b"lost");
    for ms in (11_020..20_000).step_by(10) {
        for sent in segments(&host.burst(at(ms), &[])) {
            assert_eq!((sent.seq, sent.payload), (ours, 4), "{sent:?}");
        }
    }
}

#[test]
fn what_smoltcp_forgets_to_retransmit_is_sent_again() {
    for keep_alive in [None, Some(Duration::from_millis(1_000)), Some(Duration::from_secs(60))] {
        forgotten_retransmission(keep_alive);
    }
}

fn forgotten_retransmission(keep_alive: Option<Duration>) {
    let mut config = config(&["10.0.0.2/24"]);
    config.tcp.keep_alive = keep_alive;
    let mut host = Host::new(2, &config);
    host.stack.listen(80);
    let mut now = Instant::from_millis(1);
    host.burst(now, &[arp_of_raw()]);
    let answer = segments(&host.burst(now, &[Raw::syn(5000, 99).frame()]));
    let ours = answer[0].seq.wrapping_add(1);
    // Windows in units of 128 bytes.
    let ack = |ack, window| {
        Raw { control: TcpControl::None, ack: Some(ack), window, ..Raw::syn(5000, 100) }.frame()
    };
    host.burst(now, &[ack(ours, 8)]);
    let id = host.ready[0];
    host.send(id, &[7; 1460]);
    assert_eq!(segments(&host.burst(now, &[]))[0].payload, 1024);
    // The third repetition sends again, and more than the window holds.
    let again = segments(&host.burst(now, &[ack(ours, 8), ack(ours, 8), ack(ours, 8)]));
    assert!(again.iter().any(|segment| segment.payload == 1460), "{again:?}");
    host.burst(now, &[ack(ours + 1024, 0)]);
    now += Duration::from_millis(10);
    let sent = segments(&host.burst(now, &[ack(ours + 1024, 8)]));
    assert!(sent.iter().any(|segment| segment.seq == ours + 1024 && segment.payload == 436), "{sent:?}");
    // It is lost once more: from here on there is a timer.
    now += Duration::from_secs(1);
    let sent = segments(&host.burst(now, &[]));
    assert!(sent.iter().any(|segment| segment.seq == ours + 1024 && segment.payload == 436), "{sent:?}");
    host.burst(now, &[ack(ours + 1460, 8)]);
    assert_eq!(host.stack.sender(id).unwrap().queued_bytes(), 0);
}
