//! Every way in which a connection ends, and what both sides are told.

use crate::app::App;
use crate::world::{RawWorld, World, server_config};
use unsocket::engine::{Cause, Deadlines, EngineConfig};
use unsocket::stack::{CloseCause, Status};
use unsocket::time::Duration;
use unsocket::ws::{CloseCode, ProtocolError};

fn ended(world: &World) -> bool {
    world.server.handler().closed() == 1 && world.client.handler().closed() == 1
}

/// A masked frame with the key 0, whose payload is therefore readable.
pub(crate) fn frame(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first_byte];
    match payload.len() {
        len @ ..126 => frame.push(0x80 | len as u8),
        len @ ..0x1_0000 => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend_from_slice(payload);
    frame
}

#[track_caller]
fn all_is_given_back(world: &mut World) {
    world.run_until(Duration::from_secs(30), |world| {
        let left = |stack: &unsocket::stack::Stack| stack.connections();
        left(world.server.stack()) == 0 && left(world.client.stack()) == 0
    });
    for report in [world.server.report(), world.client.report()] {
        assert_eq!((report.engine.sessions, report.engine.open, report.engine.memory_bytes), (0, 0, 0));
    }
}

#[test]
fn the_client_closes() {
    let client = App::new().on_open(|conn| conn.close(CloseCode(4000), "done"));
    let mut world = World::new(App::new(), client);
    world.open(1);
    world.run_until(Duration::from_secs(1), ended);
    assert_eq!(world.server.handler().how_it_closed(), (4000, "done".into(), true, Cause::Peer));
    assert_eq!(world.client.handler().how_it_closed(), (4000, "done".into(), true, Cause::Local));
    all_is_given_back(&mut world);
}

#[test]
fn the_server_closes() {
    let server = App::new().on_open(|conn| conn.close(CloseCode::NORMAL, "bye"));
    let mut world = World::new(server, App::new());
    world.open(1);
    world.run_until(Duration::from_secs(1), ended);
    assert_eq!(world.server.handler().how_it_closed(), (1000, "bye".into(), true, Cause::Local));
    assert_eq!(world.client.handler().how_it_closed(), (1000, "bye".into(), true, Cause::Peer));
    all_is_given_back(&mut world);
}

#[test]
fn both_close_at_once() {
    let close = |code| App::new().on_open(move |conn| conn.close(CloseCode(code), ""));
    let mut world = World::new(close(4001), close(4002));
    world.open(1);
    world.run_until(Duration::from_secs(1), ended);
    let (server, client) = (world.server.handler().how_it_closed(), world.client.handler().how_it_closed());
    // Whose close frame came first decides; both see a clean end.
    assert!(server.2 && client.2);
    assert_eq!(server.0, if server.3 == Cause::Local { 4001 } else { 4002 });
    all_is_given_back(&mut world);
}

#[test]
fn a_close_without_a_code_is_1005_at_the_other_end() {
    let client = App::new().on_open(|conn| conn.close(CloseCode::NO_STATUS, "never sent"));
    let mut world = World::new(App::new(), client);
    world.open(1);
    world.run_until(Duration::from_secs(1), ended);
    assert_eq!(world.server.handler().how_it_closed(), (1005, String::new(), true, Cause::Peer));
}

#[test]
fn codes_that_may_not_be_sent_become_1011_and_reasons_are_cut_between_characters() {
    for code in [0, 999, 1004, 1006, 1015, 2999, 5000] {
        let client = App::new().on_open(move |conn| conn.close(CloseCode(code), &"é".repeat(100)));
        let mut world = World::new(App::new(), client);
        world.open(1);
        world.run_until(Duration::from_secs(1), ended);
        assert_eq!(
            world.server.handler().how_it_closed(),
            (1011, "é".repeat(61), true, Cause::Peer),
            "{code}"
        );
    }
}

#[test]
fn what_was_sent_before_a_close_arrives_and_what_comes_after_it_is_discarded() {
    let client = App::new().on_open(|conn| {
        conn.send_text("first");
        conn.close(CloseCode::NORMAL, "");
        assert_eq!(conn.send_text("too late"), unsocket::engine::SendOutcome::Closed);
    });
    let server = App::new().on_message(|conn, _| {
        conn.send_text("in answer");
    });
    let mut world = World::new(server, client);
    world.open(1);
    world.run_until(Duration::from_secs(1), ended);
    assert_eq!(world.server.handler().texts(), ["first"]);
    assert_eq!(world.client.handler().messages, 0);
}

#[test]
fn a_fin_without_a_close_frame_is_1006() {
    let mut world = RawWorld::new(server_config(), App::new());
    let conn = world.upgraded();
    world.raw.finish(conn);
    world.run_for(Duration::from_millis(50));
    assert_eq!(world.server.handler().how_it_closed(), (1006, String::new(), false, Cause::PeerFinished));
    assert_eq!(world.server.report().engine.sessions, 0);
}

#[test]
fn messages_before_a_fin_are_delivered() {
    let mut world = RawWorld::new(server_config(), App::new());
    let conn = world.upgraded();
    world.raw.send(conn, &frame(0x81, b"last words"));
    world.raw.finish(conn);
    world.run_for(Duration::from_millis(50));
    assert_eq!(world.server.handler().texts(), ["last words"]);
    assert_eq!(world.server.handler().how_it_closed().3, Cause::PeerFinished);
}

#[test]
fn a_reset_is_1006() {
    let mut world = RawWorld::new(server_config(), App::new());
    let conn = world.upgraded();
    world.raw.abort(conn);
    world.run_for(Duration::from_millis(50));
    let cause = Cause::Transport(CloseCause::Reset);
    assert_eq!(world.server.handler().how_it_closed(), (1006, String::new(), false, cause));
    assert_eq!(world.server.stack().connections(), 0);
}

#[test]
fn violations_are_answered_with_their_code_and_the_end_of_tcp() {
    let cut_text = |end: &[u8]| frame(0x81, end);
    let cases: Vec<(Vec<u8>, u16, ProtocolError)> = vec![
        (vec![0x81, 0x01, b'x'], 1002, ProtocolError::NotMasked),
        (frame(0xC1, b"x"), 1002, ProtocolError::ReservedBits),
        (frame(0x83, b"x"), 1002, ProtocolError::ReservedOpcode { opcode: 3 }),
        (frame(0x80, b"x"), 1002, ProtocolError::ContinuationUnexpected),
        (frame(0x09, b"x"), 1002, ProtocolError::ControlFragmented),
        (cut_text(b"\xff"), 1007, ProtocolError::TextNotUtf8),
        (frame(0x88, b"\x03"), 1002, ProtocolError::CloseCodeCut),
        (frame(0x88, b"\x03\xed"), 1002, ProtocolError::CloseCodeForbidden { code: 1005 }),
        (
            vec![0x82, 0xFF, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0],
            1009,
            ProtocolError::FrameTooBig { limit: 16 << 20 },
        ),
    ];
    for (bytes, code, error) in cases {
        let mut world = RawWorld::new(server_config(), App::new());
        let conn = world.upgraded();
        let answer = world.exchange(conn, &bytes);
        assert_eq!(answer[0], 0x88, "{error}");
        assert_eq!(u16::from_be_bytes([answer[2], answer[3]]), code, "{error}");
        assert_eq!(answer[4..], *error.to_string().as_bytes());
        assert_eq!(answer.len(), 2 + usize::from(answer[1]), "nothing follows the close frame");
        assert_eq!(world.raw.status(conn), Some(Status::PeerFinished), "{error}");
        let closed = world.server.handler().how_it_closed();
        assert_eq!(closed, (code, error.to_string(), false, Cause::Protocol(error)));
        assert_eq!(world.server.report().engine.protocol_errors, 1);
        // What still comes is discarded, and the end of the peer's side ends it all.
        world.exchange(conn, &[0; 50_000]);
        world.raw.finish(conn);
        world.run_for(Duration::from_millis(50));
        assert_eq!(world.server.report().engine.sessions, 0, "{error}");
    }
}

#[test]
fn a_peer_that_never_answers_our_close_is_cut_off() {
    let server = App::new().on_open(|conn| conn.close(CloseCode(4000), "go"));
    let deadlines = Deadlines { close: Duration::from_millis(300), ..Deadlines::default() };
    let mut world = RawWorld::new(EngineConfig { deadlines, ..server_config() }, server);
    let conn = world.upgraded();
    world.run_for(Duration::from_millis(200));
    assert_eq!(world.server.handler().closed(), 0);
    world.run_for(Duration::from_millis(200));
    assert_eq!(world.server.handler().how_it_closed(), (4000, "go".into(), false, Cause::Local));
    assert_eq!(world.raw.status(conn), Some(Status::Closed(CloseCause::Reset)));
    assert_eq!(world.server.report().engine.sessions, 0);
}

#[test]
fn a_peer_that_never_ends_tcp_is_let_go() {
    let deadlines = Deadlines { close: Duration::from_millis(300), ..Deadlines::default() };
    let mut world = RawWorld::new(EngineConfig { deadlines, ..server_config() }, App::new());
    let conn = world.upgraded();
    let answer = world.exchange(conn, &frame(0x88, b"\x03\xe8bye"));
    assert_eq!(answer, b"\x88\x05\x03\xe8bye");
    assert_eq!(world.server.handler().how_it_closed(), (1000, "bye".into(), true, Cause::Peer));
    assert_eq!(world.server.report().engine.sessions, 1);
    world.run_for(Duration::from_millis(400));
    assert_eq!(world.server.report().engine.sessions, 0);
}

#[test]
fn a_close_from_inside_on_message_ends_the_connection_whatever_follows() {
    let server = App::new().on_message(|conn, _| conn.close(CloseCode::POLICY, "enough"));
    let mut world = RawWorld::new(server_config(), server);
    let conn = world.upgraded();
    let mut bytes = frame(0x81, b"one");
    bytes.extend(frame(0x81, b"two"));
    bytes.extend(frame(0x89, b"ping"));
    bytes.extend(frame(0x88, b"\x03\xe8"));
    let answer = world.exchange(conn, &bytes);
    assert_eq!(answer, b"\x88\x08\x03\xf0enough");
    assert_eq!(world.server.handler().messages, 1);
    assert_eq!(world.server.handler().how_it_closed(), (1008, "enough".into(), true, Cause::Local));
}
