//! Peers that do not read: what waits, what is dropped, and when to go on.

use crate::app::{App, Happened};
use crate::closing::frame;
use crate::world::{Host, RawHost, RawWorld, UPGRADE, World, server_addr, server_config, worker};
use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use unsocket::engine::{Cause, Deadlines, EngineConfig, Limits, SendOutcome, SlowReader, Worker};
use unsocket::port::wire::{self, WireConfig, WirePort};
use unsocket::port::{Port, PortInfo, PortStats};
use unsocket::time::{Duration, Instant};
use unsocket::ws::Message;

fn limited(overflow_bytes_max: usize, slow_reader: SlowReader) -> EngineConfig {
    let limits =
        Limits { overflow_bytes_max, overflow_bytes_high_water: overflow_bytes_max / 2, ..Limits::default() };
    EngineConfig { limits, slow_reader, ..server_config() }
}

#[test]
fn sent_then_queued_then_dropped_then_drained() {
    let counts = Rc::new(Cell::new([0usize; 3]));
    let server = {
        let counts = counts.clone();
        App::new().on_message(move |conn, _| {
            let mut seen = [0; 3];
            for _ in 0..400 {
                match conn.send_binary(&[7; 1_000]) {
                    SendOutcome::Sent => seen[0] += 1,
                    SendOutcome::Queued => seen[1] += 1,
                    SendOutcome::Dropped => seen[2] += 1,
                    SendOutcome::Closed => panic!("closed"),
                }
            }
            assert!(conn.buffered() > 100_000 && conn.buffered() <= 100_000 + 1_004);
            assert!(conn.unacknowledged() > 60_000);
            counts.set(seen);
        })
    };
    let mut world = RawWorld::new(limited(100_000, SlowReader::Drop), server);
    let conn = world.upgraded();
    world.raw.send(conn, &frame(0x81, b"go"));
    world.run_for(Duration::from_millis(20));
    let [sent, queued, dropped] = counts.get();
    // 64 KiB of ring; then up to 100,000 bytes, and the message that reaches over.
    assert_eq!((sent, queued, dropped), (65, 100, 235));
    let report = world.server.report().engine;
    assert_eq!((report.messages_out, report.messages_queued, report.dropped_slow_reader), (165, 100, 235));
    let mut received = 0;
    for _ in 0..10_000 {
        received += world.raw.receive(conn).len();
        world.step();
    }
    assert_eq!(received, 165 * 1_004);
    let drains = world.server.handler().log.iter().filter(|h| matches!(h, Happened::Drained(_))).count();
    assert_eq!(drains, 1);
    assert_eq!(world.server.report().engine.memory_bytes, 0);
}

#[test]
fn with_the_policy_to_close_a_slow_reader_gets_1013() {
    let server = App::new().on_message(|conn, _| {
        while conn.send_binary(&[7; 1_000]) != SendOutcome::Dropped {}
        assert_eq!(conn.send_binary(&[7; 1_000]), SendOutcome::Closed);
    });
    let mut world = RawWorld::new(limited(100_000, SlowReader::Close), server);
    let conn = world.upgraded();
    world.raw.send(conn, &frame(0x81, b"go"));
    let mut received = Vec::new();
    for _ in 0..5_000 {
        world.step();
        received.extend(world.raw.receive(conn));
    }
    assert!(received.ends_with(b"\x88\x11\x03\xf5too much unread"));
    world.exchange(conn, &frame(0x88, b"\x03\xf5"));
    let closed = world.server.handler().how_it_closed();
    assert_eq!(closed, (1013, "too much unread".into(), true, Cause::SlowReader));
}

#[test]
fn a_message_is_accepted_whatever_its_size_while_little_waits() {
    let outcomes = Rc::new(Cell::new([SendOutcome::Closed; 3]));
    let server = {
        let outcomes = outcomes.clone();
        App::new().on_open(move |conn| {
            outcomes.set([5_000_000, 10, 10].map(|len| conn.send_binary(&vec![1; len])));
        })
    };
    let mut world = RawWorld::new(limited(10_000, SlowReader::Drop), server);
    world.upgraded();
    assert_eq!(outcomes.get(), [SendOutcome::Queued, SendOutcome::Dropped, SendOutcome::Dropped]);
}

#[test]
fn an_echo_to_a_slow_reader_is_bounded_and_loses_nothing() {
    const MESSAGES: usize = 40_000;
    let mut world = RawWorld::new(limited(20_000, SlowReader::Drop), App::echo().without_messages());
    let conn = world.upgraded();
    let sent: Vec<u8> = (0..MESSAGES as u32).flat_map(|i| frame(0x82, &i.to_be_bytes())).collect();
    let (mut at, mut received, mut memory) = (0, Vec::new(), 0);
    for turn in 0..200_000 {
        at += world.raw.send(conn, &sent[at..]);
        // It reads only now and then, and for a long while not at all.
        if turn > 3_000 && turn % 10 == 0 {
            received.extend(world.raw.receive(conn));
        }
        world.step();
        memory = memory.max(world.server.report().engine.memory_bytes);
        if turn == 3_000 {
            assert!(at < sent.len(), "TCP's window has closed");
        }
        if received.len() == MESSAGES * 6 {
            break;
        }
    }
    let expected: Vec<u8> =
        (0..MESSAGES as u32).flat_map(|i| [&[0x82, 4], &i.to_be_bytes()[..]].concat()).collect();
    assert!(received == expected, "{} of {} bytes", received.len(), expected.len());
    assert!(memory < 40_000, "{memory}");
    assert_eq!(world.server.report().engine.dropped_slow_reader, 0);
}

#[test]
fn while_we_are_behind_only_the_newest_ping_is_answered() {
    let server = App::new().on_message(|conn, _| {
        for _ in 0..80 {
            conn.send_binary(&[7; 1_000]);
        }
    });
    let mut world = RawWorld::new(limited(1 << 20, SlowReader::Drop), server);
    let conn = world.upgraded();
    let mut bytes = frame(0x81, b"go");
    for number in 0..100u8 {
        bytes.extend(frame(0x89, &[number]));
    }
    assert_eq!(world.raw.send(conn, &bytes), bytes.len());
    world.run_for(Duration::from_millis(20));
    let mut received = Vec::new();
    for _ in 0..5_000 {
        received.extend(world.raw.receive(conn));
        world.step();
    }
    let pongs: Vec<u8> = received.windows(3).filter(|w| w[..2] == [0x8A, 1]).map(|w| w[2]).collect();
    assert_eq!(pongs, [0, 99]);
    assert_eq!(world.server.report().engine.pings_in, 100);
    assert_eq!(world.server.report().engine.memory_bytes, 0);
}

#[test]
fn a_close_frame_is_never_dropped() {
    let server = App::new().on_message(|conn, _| {
        while conn.send_binary(&[7; 1_000]) != SendOutcome::Dropped {}
        conn.close(unsocket::ws::CloseCode::NORMAL, "full");
    });
    let mut world = RawWorld::new(limited(50_000, SlowReader::Drop), server);
    let conn = world.upgraded();
    let mut received = world.exchange(conn, &frame(0x81, b"go"));
    for _ in 0..5_000 {
        world.step();
        received.extend(world.raw.receive(conn));
    }
    assert!(received.ends_with(b"\x88\x06\x03\xe8full"));
}

#[test]
fn a_peer_that_reads_slowly_is_alive_and_one_that_never_reads_is_not() {
    let deadlines = Deadlines {
        ping: Some(Duration::from_millis(200)),
        pong: Duration::from_millis(200),
        idle: Some(Duration::from_secs(3_600)),
        close: Duration::from_millis(200),
        ..Deadlines::default()
    };
    let config = EngineConfig { deadlines, ..limited(10_000, SlowReader::Drop) };
    let server = || {
        App::new().on_message(|conn, _| {
            conn.send_binary(&vec![1; 2_000_000]);
        })
    };
    let mut world = RawWorld::new(config.clone(), server());
    let conn = world.upgraded();
    world.raw.send(conn, &frame(0x81, b"go"));
    for _ in 0..20 {
        world.raw.receive(conn);
        world.run_for(Duration::from_millis(100));
    }
    assert_eq!(world.server.handler().closed(), 0);

    let mut world = RawWorld::new(config, server());
    let conn = world.upgraded();
    world.raw.send(conn, &frame(0x81, b"go"));
    world.run_for(Duration::from_millis(1_000));
    assert_eq!(world.server.handler().how_it_closed().3, Cause::PongMissing);
    assert_eq!(world.server.report().engine.memory_bytes, 0);
}

#[test]
fn memory_over_all_connections_is_bounded() {
    // What waits for slow readers.
    let limits = Limits { memory_bytes_max: 500_000, ..Limits::default() };
    let config = EngineConfig { limits, ..server_config() };
    let server = App::new().on_open(|conn| {
        conn.send_binary(&vec![1; 300_000]);
    });
    let mut world = RawWorld::new(config.clone(), server);
    world.upgraded();
    assert_eq!(world.server.report().engine.dropped_memory, 0);
    for _ in 0..3 {
        let conn = world.open();
        world.raw.send(conn, crate::world::UPGRADE.as_bytes());
        world.run_for(Duration::from_millis(1));
    }
    let report = world.server.report().engine;
    assert!(report.dropped_memory == 1 && report.memory_bytes <= 500_000, "{report:?}");

    // What is being assembled.
    let mut world = RawWorld::new(config, App::new());
    let begun = [0x02, 0xFF, 0, 0, 0, 0, 0, 0x0F, 0x42, 0x40, 0, 0, 0, 0]; // 1,000,000 bytes
    let conn = world.upgraded();
    let mut answer = world.exchange(conn, &begun);
    let payload = vec![0; 600_000];
    answer.extend(world.exchange(conn, &payload));
    assert_eq!(answer, b"\x88\x0f\x03\xf5out of memory");
    assert_eq!(world.server.handler().how_it_closed().3, Cause::MemoryShort);
    assert_eq!(world.server.report().engine.memory_bytes, 0);
}

#[test]
fn on_drain_keeps_a_push_going_at_the_speed_of_the_reader() {
    const MESSAGES: u32 = 3_000;
    let sent = Rc::new(Cell::new(0u32));
    let push = |sent: Rc<Cell<u32>>| {
        move |conn: &mut unsocket::engine::Conn<'_, App>| {
            while sent.get() < MESSAGES && conn.buffered() == 0 {
                let mut message = vec![0; 2_000];
                message[..4].copy_from_slice(&sent.get().to_be_bytes());
                assert_ne!(conn.send(Message::Binary(&message)), SendOutcome::Dropped);
                sent.set(sent.get() + 1);
            }
        }
    };
    let server = App::new().on_open(push(sent.clone())).on_drain(push(sent.clone()));
    let mut expected = 0;
    let client = App::new().without_messages().on_message(move |_, message| {
        assert_eq!(message.as_bytes()[..4], u32::to_be_bytes(expected));
        expected += 1;
    });
    let mut world = World::new(server, client);
    world.open(1);
    world.run_until(Duration::from_secs(30), |world| world.client.handler().messages == MESSAGES as usize);
    assert_eq!(world.server.report().engine.dropped_slow_reader, 0);
}

#[test]
fn two_ends_that_push_megabytes_at_each_other_do_not_wait_for_ever() {
    let push = || {
        App::new()
            .without_messages()
            .on_open(|conn| {
                for _ in 0..5 {
                    conn.send_binary(&vec![1; 3_000_000]);
                }
            })
            .on_message(|conn, message| {
                if message.as_bytes().len() > 1_000_000 {
                    // Each answers what it gets, too: both are behind, and both would like to wait.
                    conn.send_binary(&message.as_bytes()[..1_000_000]);
                }
            })
    };
    let mut world = World::new(push(), push());
    world.open(1);
    world.run_until(Duration::from_secs(10), |world| {
        let sent = world.server.report().engine.messages_out + world.client.report().engine.messages_out;
        let received = world.server.report().engine.messages_in + world.client.report().engine.messages_in;
        sent == received && received >= 3
    });
}

#[test]
fn memory_for_plain_http_is_bounded_too() {
    let mut routes = unsocket::http::Routes::default();
    routes.insert("/big", unsocket::http::Answer::new("application/octet-stream", vec![b'x'; 300_000]));
    let limits = Limits { memory_bytes_max: 1_000_000, ..Limits::default() };
    let config = EngineConfig { routes: std::sync::Arc::new(routes), limits, ..server_config() };
    let mut world = RawWorld::new(config, App::new());
    // Forty who ask and do not read.
    let conns: Vec<_> = (0..40).map(|_| world.open()).collect();
    for &conn in &conns {
        world.raw.send(conn, b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
        world.run_for(Duration::from_millis(1));
    }
    let report = world.server.report().engine;
    assert!(report.memory_bytes < 1_500_000, "{report:?}");
    assert!(report.refused_busy >= 30, "{report:?}");
    let refused = String::from_utf8(world.raw.receive(conns[39])).unwrap();
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    // A request head that comes in pieces finds no memory either.
    let conn = world.open();
    assert!(world.ask(conn, "GET /big HTTP/1.1\r\nX: ").starts_with("HTTP/1.1 503 "));
}

/// A port that runs out of frames to fill.
struct Dry {
    port: WirePort,
    is_dry: Rc<Cell<bool>>,
}

impl Port for Dry {
    type Frame = <WirePort as Port>::Frame;
    fn info(&self) -> &PortInfo {
        self.port.info()
    }
    fn rx_burst(&mut self, burst: &mut VecDeque<Self::Frame>, max: usize) -> usize {
        self.port.rx_burst(burst, max)
    }
    fn alloc(&mut self) -> Option<Self::Frame> {
        if self.is_dry.get() { None } else { self.port.alloc() }
    }
    fn tx_burst(&mut self, burst: &mut VecDeque<Self::Frame>) -> usize {
        self.port.tx_burst(burst)
    }
    fn release(&mut self, frame: Self::Frame) {
        self.port.release(frame);
    }
    fn stats(&self) -> PortStats {
        self.port.stats()
    }
}

#[test]
fn a_worker_without_a_frame_to_fill_sleeps_and_goes_on_when_there_is_one() {
    let (a, b) = wire::pair(&WireConfig::default()).unwrap();
    let is_dry = Rc::new(Cell::new(false));
    let mut config = server_config();
    config.burst.tx_frames = 4;
    let now = Instant::from_millis(1_000);
    let app = App::new().on_message(|conn, _| {
        conn.send_binary(&[7; 40_000]);
    });
    let (_, mut server) = worker(&config, 1, Dry { port: a, is_dry: is_dry.clone() }, app, now);
    let mut raw = RawHost::new(b, now);
    let conn = raw.connect(server_addr());
    let mut received = Vec::new();
    let mut go = |server: &mut Worker<Dry, App>, raw: &mut RawHost, at: &mut Instant, rounds: usize| {
        for _ in 0..rounds {
            server.poll(*at);
            raw.poll(*at);
            received.extend(raw.receive(conn));
            *at += Duration::from_micros(5);
        }
        received.len()
    };
    let mut at = now;
    go(&mut server, &mut raw, &mut at, 20);
    raw.send(conn, UPGRADE.as_bytes());
    let upgraded = go(&mut server, &mut raw, &mut at, 20);
    raw.send(conn, &frame(0x82, b"go"));
    raw.poll(at);
    is_dry.set(true);
    // A few frames were at hand; the rest of the answer waits for more.
    let before = go(&mut server, &mut raw, &mut at, 50);
    assert!(before < upgraded + 40_000, "{before} bytes without frames");
    let progress = server.poll(at);
    assert!(!progress.busy, "a busy worker spins");
    let sleep = progress.deadline.expect("it has something to send") - at;
    assert!(sleep >= Duration::from_micros(50), "woken after {sleep:?}: it would spin");
    assert_eq!(server.wait_max(), Some(Duration::from_micros(50)), "no descriptor tells of a free frame");
    is_dry.set(false);
    let after = go(&mut server, &mut raw, &mut at, 1_000);
    assert_eq!(after, upgraded + 40_000 + 4);
}
