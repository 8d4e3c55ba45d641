//! Silence: pings, idle connections, servers that do not answer.

use crate::app::{App, Happened};
use crate::closing::frame;
use crate::world::{RawWorld, World, client_config, server_addr, server_config};
use unsocket::engine::{Cause, Connect, ConnectFailure, Deadlines, EngineConfig};
use unsocket::stack::CloseCause;
use unsocket::time::Duration;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn with(deadlines: Deadlines) -> EngineConfig {
    EngineConfig { deadlines, ..server_config() }
}

#[test]
fn an_idle_connection_is_closed_with_1001_and_any_byte_puts_it_off() {
    let deadlines = Deadlines { idle: Some(MS(500)), ping: None, close: MS(100), ..Deadlines::default() };
    let mut world = RawWorld::new(with(deadlines), App::new());
    let conn = world.upgraded();
    let message = frame(0x81, &[b'x'; 20]);
    // A message byte by byte: each of them counts.
    for byte in &message {
        world.raw.send(conn, &[*byte]);
        world.run_for(MS(400));
        assert_eq!(world.server.handler().closed(), 0);
    }
    assert_eq!(world.server.handler().messages, 1);
    world.run_for(MS(200));
    assert_eq!(world.raw.receive(conn), b"\x88\x06\x03\xe9idle");
    world.exchange(conn, &frame(0x88, b"\x03\xe9"));
    assert_eq!(world.server.handler().how_it_closed(), (1001, "idle".into(), true, Cause::Idle));
}

#[test]
fn silence_is_pinged_and_a_pong_or_any_byte_is_an_answer() {
    let deadlines =
        Deadlines { idle: Some(MS(10_000)), ping: Some(MS(300)), pong: MS(200), ..Deadlines::default() };
    let mut world = World::with(with(deadlines), client_config(), App::new(), App::new());
    world.open(1);
    world.run_for(MS(5_000));
    assert_eq!(world.server.handler().closed(), 0, "the client answers");
    let pings = world.client.report().engine.pings_in;
    assert!((14..=17).contains(&pings), "{pings}");

    let mut world = RawWorld::new(with(deadlines), App::new());
    let conn = world.upgraded();
    world.run_for(MS(350));
    assert_eq!(world.raw.receive(conn), b"\x89\x00");
    world.raw.send(conn, &[0x81]);
    world.run_for(MS(250));
    assert!(world.raw.receive(conn).is_empty(), "not pinged again yet");
    world.run_for(MS(100));
    assert_eq!(world.raw.receive(conn), b"\x89\x00");
    world.run_for(MS(200));
    let answer = world.raw.receive(conn);
    assert!(answer.starts_with(b"\x88\x15\x03\xf3"), "{answer:?}");
    world.exchange(conn, b"\x80\0\0\0\0");
    world.run_for(MS(6_000));
    assert_eq!(world.server.handler().how_it_closed().3, Cause::PongMissing);
}

#[test]
fn a_peer_that_vanished_is_found_out() {
    let deadlines =
        Deadlines { idle: None, ping: Some(MS(300)), pong: MS(300), close: MS(300), ..Deadlines::default() };
    let mut world = World::with(with(deadlines), client_config(), App::new(), App::new());
    world.open(1);
    world.client_runs = false;
    world.run_for(MS(1_500));
    let reason = "no answer to a ping".to_owned();
    assert_eq!(world.server.handler().how_it_closed(), (1011, reason, false, Cause::PongMissing));
    assert_eq!(world.server.report().engine.sessions, 0);
}

#[test]
fn connections_that_do_not_come_to_be() {
    let cases: [(&str, u16, ConnectFailure); 2] = [
        ("10.1.0.1", 81, ConnectFailure::Transport(CloseCause::Refused)),
        ("192.0.2.1", 80, ConnectFailure::Connect(unsocket::stack::ConnectError::NoRoute)),
    ];
    for (ip, port, cause) in cases {
        let mut world = World::new(App::new(), App::new());
        let remote = std::net::SocketAddr::new(ip.parse().unwrap(), port);
        let connect = Connect { token: 7, ..Connect::new(remote, "/") };
        world.client.with_context(|_, context| context.connect(connect));
        world.run_until(MS(2_000), |world| !world.client.handler().log.is_empty());
        assert_eq!(world.client.handler().log, [Happened::ConnectFailed { token: 7, cause }]);
        assert_eq!(world.client.report().engine.sessions, 0);
    }
}

#[test]
fn a_server_that_says_no_or_nothing() {
    let server = App::new().on_upgrade(|_| unsocket::engine::Upgrade::refuse(403, "no\n"));
    let mut world = World::new(server, App::new());
    world.connect("/", 1);
    world.run_until(MS(1_000), |world| !world.client.handler().log.is_empty());
    let [Happened::ConnectFailed { token: 1, cause: ConnectFailure::Refused(error) }] =
        &world.client.handler().log[..]
    else {
        panic!("{:?}", world.client.handler().log)
    };
    assert!(error.to_string().contains("403"), "{error}");

    let deadlines = Deadlines { handshake: MS(300), ..Deadlines::default() };
    let client = EngineConfig { deadlines, ..client_config() };
    // The network answers, the application does not: a worker that is polled no more after TCP's handshake.
    let mut world = World::with(server_config(), client, App::new(), App::new());
    world.connect("/", 1);
    world.client.poll(world.now);
    world.run_until(MS(100), |world| world.client.report().stack.opened == 1);
    let until = world.now + MS(400);
    while world.now < until {
        world.now += MS(1);
        world.client.poll(world.now);
    }
    assert_eq!(
        world.client.handler().log,
        [Happened::ConnectFailed { token: 1, cause: ConnectFailure::NoAnswer }]
    );
}

#[test]
fn a_request_that_cannot_be_sent_fails_at_once() {
    let mut world = World::new(App::new(), App::new());
    let connect = Connect { target: "no slash\r\n".into(), ..Connect::new(server_addr(), "/") };
    world.client.with_context(|_, context| context.connect(connect));
    world.run_until(MS(1_000), |world| !world.client.handler().log.is_empty());
    assert!(matches!(
        world.client.handler().log[..],
        [Happened::ConnectFailed { cause: ConnectFailure::Request(_), .. }]
    ));
}

#[test]
fn ticks_come_at_their_interval() {
    let deadlines = Deadlines { tick: Some(MS(250)), ..Deadlines::default() };
    let ticks = std::rc::Rc::new(std::cell::Cell::new(0));
    let count = ticks.clone();
    let server = App::new().on_tick(move |_| count.set(count.get() + 1));
    let mut world = RawWorld::new(with(deadlines), server);
    world.run_for(MS(1_100));
    assert_eq!(ticks.get(), 5);
}
