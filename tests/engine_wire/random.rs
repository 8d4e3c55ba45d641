//! Random peers: garbage that must not harm, and random talk of which nothing may be lost.

use crate::app::{App, Happened};
use crate::closing::frame;
use crate::world::{RawWorld, UPGRADE, World, client_config, server_config};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use unsocket::engine::{Conn, ConnRef, Deadlines, EngineConfig, Limits};
use unsocket::time::Duration;
use unsocket::ws::{CloseCode, Message};

/// xorshift64: the same seed, the same run.
#[derive(Clone, Copy)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// What a broken or hostile peer may send: something valid with a few bytes changed, cut or repeated.
fn garbage(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..=random.below(6) {
        match random.below(8) {
            0 => bytes.extend_from_slice(UPGRADE.as_bytes()),
            1 => bytes.extend_from_slice(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\n1234567"),
            2 => bytes.extend(frame(0x81, b"text")),
            3 => bytes.extend(frame(0x01 + random.below(16) as u8 * 16, b"fragment")),
            4 => bytes.extend(frame(0x89, &[0; 125])),
            5 => bytes.extend(frame(0x88, b"\x03\xe8")),
            6 => bytes.extend([0x82, 0xFF, 0, 0, 0, 0, 0, 1, 0, 0, 9, 9, 9, 9]),
            _ => bytes.extend((0..random.below(300)).map(|_| 0u8).collect::<Vec<_>>()),
        }
    }
    for _ in 0..random.below(4) {
        let at = random.below(bytes.len().max(1) as u64) as usize;
        match (random.below(3), bytes.get_mut(at)) {
            (0, Some(byte)) => *byte ^= 1 << random.below(8),
            (1, _) => bytes.truncate(at),
            _ => bytes.extend_from_within(at.min(bytes.len())..),
        }
    }
    bytes
}

#[test]
fn garbage_harms_nobody() {
    let deadlines = Deadlines {
        handshake: Duration::from_millis(200),
        http_keep_alive: Duration::from_millis(200),
        close: Duration::from_millis(200),
        idle: Some(Duration::from_millis(400)),
        ..Deadlines::default()
    };
    let mut world = RawWorld::new(EngineConfig { deadlines, ..server_config() }, App::echo());
    let mut random = Random(0x5EED);
    for _ in 0..400 {
        let conn = world.open();
        if random.below(2) == 0 {
            world.exchange(conn, UPGRADE.as_bytes());
        }
        let bytes = garbage(&mut random);
        let cut = random.below(bytes.len() as u64 + 1) as usize;
        world.raw.send(conn, &bytes[..cut]);
        world.step();
        world.raw.receive(conn);
        world.raw.send(conn, &bytes[cut..]);
        match random.below(4) {
            0 => world.raw.abort(conn),
            1 => world.raw.finish(conn),
            _ => {}
        }
        world.run_for(Duration::from_millis(random.below(3)));
    }
    world.run_for(Duration::from_secs(2));
    let report = world.server.report().engine;
    assert_eq!((report.sessions, report.open, report.memory_bytes), (0, 0, 0), "{report:?}");
    assert!(
        report.protocol_errors > 10 && report.closed_clean > 10 && report.http_requests > 200,
        "{report:?}"
    );
    let polite = world.upgraded();
    assert_eq!(world.exchange(polite, &frame(0x81, b"hi")), b"\x81\x02hi");
}

/// What one end of a connection has received.
#[derive(Default)]
struct Heard {
    next: HashMap<ConnRef, u32>,
}

/// Checks that message follows message, each whole.
fn listener(heard: &Rc<RefCell<Heard>>) -> App {
    let heard = heard.clone();
    App::new().without_messages().on_message(move |conn: &mut Conn<'_, App>, message| {
        let bytes = message.as_bytes();
        let number = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let mut heard = heard.borrow_mut();
        let next = heard.next.entry(conn.id()).or_default();
        assert_eq!(number, *next, "lost, repeated or out of order");
        assert!(bytes[4..].iter().all(|&byte| byte == number as u8), "bytes of another message");
        *next += 1;
    })
}

/// One end of a connection, as the test drives it.
#[derive(Clone, Copy)]
struct Speaker {
    conn: ConnRef,
    peer: ConnRef,
    said: u32,
    closed: bool,
}

fn talk(seed: u64) {
    let mut random = Random(seed);
    println!("seed {seed:#x}");
    let (at_server, at_client) = (Rc::default(), Rc::default());
    let limits = Limits {
        overflow_bytes_max: 8 << 20,
        overflow_bytes_high_water: 1 + random.below(100_000) as usize,
        ..Limits::default()
    };
    let mut configs = [server_config(), client_config()];
    for config in &mut configs {
        config.limits = limits;
        config.burst.connection_messages = 1 + random.below(20) as usize;
        config.burst.connection_bytes = 1 + random.below(5_000) as usize;
        config.burst.rx_frames = 1 + random.below(64) as usize;
        config.burst.tx_frames = 1 + random.below(256) as usize;
        config.stack.tcp.recv_buffer_bytes = [4_096, 16_384, 65_535][random.below(3) as usize];
        config.stack.tcp.send_buffer_bytes = [4_096, 16_384, 65_536][random.below(3) as usize];
    }
    let [server, client] = configs;
    let mut world = World::with(server, client, listener(&at_server), listener(&at_client));
    world.jump_max = Duration::from_millis(1);
    world.open(4);
    // Opened in the same order on both sides: one wire keeps order.
    let pairs: Vec<_> =
        world.server.handler().opened().into_iter().zip(world.client.handler().opened()).collect();
    let mut servers: Vec<Speaker> =
        pairs.iter().map(|&(conn, peer)| Speaker { conn, peer, said: 0, closed: false }).collect();
    let mut clients: Vec<Speaker> =
        pairs.iter().map(|&(peer, conn)| Speaker { conn, peer, said: 0, closed: false }).collect();

    for turn in 0..300 {
        let (speakers, handle) = match random.below(2) {
            0 => (&mut servers, &world.server_handle),
            _ => (&mut clients, &world.client_handle),
        };
        let speaker = &mut speakers[random.below(4) as usize];
        if !speaker.closed {
            if turn > 150 && random.below(60) == 0 {
                handle.close(speaker.conn, CloseCode(4000), "enough").unwrap();
                speaker.closed = true;
            } else {
                let len = [0, 10, 200, 3_000, 70_000, 200_000][random.below(6) as usize];
                let mut message = speaker.said.to_le_bytes().to_vec();
                message.resize(4 + random.below(len + 1) as usize, speaker.said as u8);
                handle.send(speaker.conn, Message::Binary(&message)).unwrap();
                speaker.said += 1;
            }
        }
        world.client_runs = random.below(10) > 0;
        for _ in 0..random.below(30) {
            world.step();
        }
    }
    world.client_runs = true;
    world.jump_max = Duration::from_secs(1);
    for (handle, speakers) in [(&world.server_handle, &mut servers), (&world.client_handle, &mut clients)] {
        for speaker in speakers.iter_mut().filter(|speaker| !speaker.closed) {
            handle.close(speaker.conn, CloseCode(4000), "enough").unwrap();
        }
    }
    world.run_until(Duration::from_secs(60), |world| {
        world.server.handler().closed() == 4 && world.client.handler().closed() == 4
    });
    world.run_for(Duration::from_secs(10));
    for (worker, speakers, heard) in
        [(&world.server, &clients, &at_server), (&world.client, &servers, &at_client)]
    {
        let report = worker.report().engine;
        let ends: Vec<_> =
            worker.handler().log.iter().filter(|h| matches!(h, Happened::Closed { .. })).collect();
        assert_eq!((report.sessions, report.memory_bytes, report.closed_unclean), (0, 0, 0), "{ends:?}");
        assert_eq!(report.dropped_slow_reader + report.dropped_memory, 0);
        let heard: &Rc<RefCell<Heard>> = heard;
        for speaker in speakers {
            let heard = heard.borrow().next.get(&speaker.peer).copied().unwrap_or(0);
            assert!(heard <= speaker.said);
        }
    }
    // Nobody who closed of its own accord, first, loses what it had said before.
    let said: u64 = [&servers, &clients].iter().flat_map(|s| s.iter()).map(|s| u64::from(s.said)).sum();
    let sent = world.server.report().engine.messages_out + world.client.report().engine.messages_out;
    let late = world.server.report().engine.dropped_closed + world.client.report().engine.dropped_closed;
    assert_eq!(said, sent + late, "each message was accepted, or came after the end");
}

#[test]
fn random_talk_arrives_in_order_and_ends_cleanly() {
    for seed in 1..=20u64 {
        talk(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed));
    }
}
