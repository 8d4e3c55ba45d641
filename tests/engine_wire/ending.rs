//! Drain and stop, and control from outside.

use crate::app::App;
use crate::closing::frame;
use crate::world::{RawWorld, UPGRADE, World, server_config};
use unsocket::engine::{Cause, ConnRef, Deadlines, EngineConfig, HandleError, Limits};
use unsocket::stack::{CloseCause, Status};
use unsocket::time::Duration;
use unsocket::ws::{CloseCode, Message};

const MS: fn(u64) -> Duration = Duration::from_millis;

#[test]
fn a_drain_closes_with_1001_sends_what_was_accepted_and_ends() {
    let server = App::new().on_message(|conn, _| {
        conn.send_binary(&[1; 500_000]);
    });
    let mut world = World::new(server, App::new().without_messages());
    world.open(5);
    let conns = world.client.handler().opened();
    for conn in &conns {
        world.client_handle.send(*conn, Message::Text("go")).unwrap();
    }
    world.run_until(MS(1_000), |world| world.server.handler().messages == 5);
    world.server_handle.drain();
    world.run_until(MS(5_000), |world| world.client.handler().closed() == 5);
    assert_eq!(world.client.handler().message_bytes, 5 * 500_000);
    for happened in &world.server.handler().log {
        if let crate::app::Happened::Closed { code, clean, cause, .. } = happened {
            assert_eq!((*code, *clean, *cause), (1001, true, Cause::Drain));
        }
    }
    let mut ended = false;
    for _ in 0..10_000 {
        ended |= world.server.poll(world.now).ended;
        world.step();
    }
    assert!(ended);
    assert_eq!(world.server.report().engine.sessions, 0);
}

#[test]
fn while_draining_nobody_is_accepted_and_half_requests_end() {
    let mut world = RawWorld::new(server_config(), App::new());
    let (open, half, idle) = (world.upgraded(), world.open(), world.open());
    world.ask(half, "GET / HTTP/1.1\r\n");
    world.handle.drain();
    world.run_for(MS(5));
    assert!(world.raw.receive(open).starts_with(b"\x88\x13\x03\xe9"));
    for conn in [half, idle] {
        assert_eq!(world.raw.status(conn), Some(Status::PeerFinished));
    }
    let late = world.raw.connect(crate::world::server_addr());
    world.run_for(MS(5));
    assert!(matches!(world.raw.status(late), Some(Status::Closed(_))), "refused");
}

#[test]
fn a_drain_does_not_wait_for_who_has_nothing_to_say() {
    let mut world = RawWorld::new(server_config(), App::new());
    // One was answered and kept alive, one never said a word, one has done its closing handshake but not its FIN,
    // and one got its FIN before the drain began.
    let (answered, silent, closed, left) = (world.open(), world.open(), world.upgraded(), world.open());
    assert!(world.ask(answered, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("HTTP/1.1 4"));
    world.ask(left, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    world.handle.drain();
    world.run_for(MS(5));
    for conn in [answered, silent, left] {
        assert_eq!(world.raw.status(conn), Some(Status::PeerFinished), "FIN at once");
    }
    assert!(world.exchange(closed, &frame(0x88, b"\x03\xe9")).starts_with(b"\x88\x13\x03\xe9"));
    // A polite peer has its half second.
    world.run_for(MS(300));
    world.raw.finish(silent);
    world.run_for(MS(5));
    assert_eq!(world.raw.status(silent), Some(Status::Closed(CloseCause::Finished)));
    assert!(!world.server.poll(world.now).ended);
    world.run_for(MS(300));
    assert!(world.server.poll(world.now).ended, "{:?}", world.server.report());
    for conn in [answered, closed, left] {
        assert_eq!(world.raw.status(conn), Some(Status::Closed(CloseCause::Reset)));
    }
}

#[test]
fn a_drain_that_takes_too_long_is_cut_off() {
    let deadlines = Deadlines { drain: MS(300), close: MS(5_000), ..Deadlines::default() };
    let mut world = RawWorld::new(EngineConfig { deadlines, ..server_config() }, App::new());
    let conn = world.upgraded();
    world.handle.drain();
    world.run_for(MS(200));
    assert_eq!(world.server.handler().closed(), 0);
    world.run_for(MS(400));
    assert!(world.server.poll(world.now).ended);
    let reason = "server going away".to_owned();
    assert_eq!(world.server.handler().how_it_closed(), (1001, reason, false, Cause::Drain));
    assert!(matches!(world.raw.status(conn), Some(Status::Closed(_))));
}

#[test]
fn a_stop_cuts_everything_off_at_once() {
    let mut world = RawWorld::new(server_config(), App::new());
    let conn = world.upgraded();
    world.handle.drain();
    world.handle.stop();
    world.run_for(MS(10));
    assert!(world.server.poll(world.now).ended);
    assert_eq!(world.server.handler().closed(), 1);
    assert!(matches!(world.raw.status(conn), Some(Status::Closed(_))));
}

#[test]
fn a_handle_sends_and_closes_and_knows_when_it_cannot() {
    let mut world = RawWorld::new(server_config(), App::new());
    let conn = world.upgraded();
    let name = world.server.handler().opened()[0];
    world.handle.send(name, Message::Text("from outside")).unwrap();
    world.run_for(MS(5));
    assert_eq!(world.raw.receive(conn), b"\x81\x0cfrom outside");
    world.handle.close(name, CloseCode(4001), "go").unwrap();
    world.run_for(MS(5));
    assert_eq!(world.exchange(conn, &frame(0x88, b"\x0f\xa1")), b"\x88\x04\x0f\xa1go");
    assert_eq!(world.server.handler().how_it_closed(), (4001, "go".into(), true, Cause::Local));

    world.raw.finish(conn);
    world.run_for(MS(50));
    world.handle.send(name, Message::Text("nobody there")).unwrap();
    world.run_for(MS(5));
    assert_eq!(world.server.report().engine.dropped_closed, 1);
    let elsewhere = ConnRef { worker: 3, ..name };
    let refused = world.handle.send(elsewhere, Message::Text("x"));
    assert_eq!(refused, Err(HandleError::NoWorker { worker: 3 }));
}

#[test]
fn a_full_mailbox_is_an_error_and_not_a_wait() {
    let limits = Limits { mailbox_commands_max: 4, ..Limits::default() };
    let mut world = RawWorld::new(EngineConfig { limits, ..server_config() }, App::new());
    for _ in 0..4 {
        world.handle.publish("t", Message::Text("x")).unwrap();
    }
    let refused = world.handle.publish("t", Message::Text("x"));
    assert_eq!(refused, Err(HandleError::Full { full: 1, workers: 1 }));
    world.step();
    world.handle.publish("t", Message::Text("x")).unwrap();
}

#[test]
fn reports_come_through_the_mailbox() {
    let mut world = RawWorld::new(server_config(), App::new());
    world.upgraded();
    let handle = world.handle.clone();
    let asking = std::thread::spawn(move || handle.reports(Duration::from_secs(5)));
    while !asking.is_finished() {
        world.step();
    }
    let reports = asking.join().unwrap();
    assert_eq!(reports.len(), 1);
    assert_eq!((reports[0].worker, reports[0].engine.open, reports[0].stack.opened), (0, 1, 1));
    assert!(reports[0].port.rx_frames > 0);
}

#[test]
fn a_connection_with_megabytes_to_parse_does_not_starve_the_others() {
    let mut world = RawWorld::new(server_config(), App::echo().without_messages());
    let (hog, polite) = (world.upgraded(), world.upgraded());
    // Tiny messages: the most work per byte.
    let flood = frame(0x82, b"").repeat(20_000);
    for round in 0..50 {
        let mut at = 0;
        while at < flood.len() {
            let sent = world.raw.send(hog, &flood[at..]);
            if sent == 0 {
                break;
            }
            at += sent;
        }
        world.raw.receive(hog);
        world.raw.send(polite, &frame(0x81, b"hello"));
        let before = world.server.report().engine.messages_in;
        let mut polls = 0;
        while world.raw.receive(polite).is_empty() {
            world.step();
            polls += 1;
            assert!(polls < 10, "starved in round {round}");
        }
        let per_poll = (world.server.report().engine.messages_in - before) / polls;
        assert!(per_poll <= 300, "one burst went through {per_poll} messages");
    }
}

#[test]
fn a_request_that_comes_with_the_drain_is_not_upgraded() {
    let deadlines = Deadlines { close: MS(5_000), ..Deadlines::default() };
    let mut world = RawWorld::new(EngineConfig { deadlines, ..server_config() }, App::new());
    let conn = world.open();
    // Accepted by TCP, not yet seen by the worker, when the drain begins.
    world.raw.send(conn, UPGRADE.as_bytes());
    world.handle.drain();
    world.run_for(MS(20));
    assert_eq!(world.server.report().engine.opened, 0);
    assert!(matches!(world.raw.status(conn), Some(Status::PeerFinished | Status::Closed(_))));
}
