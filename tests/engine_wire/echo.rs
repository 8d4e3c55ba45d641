//! Messages there and back.

use crate::app::{App, Happened};
use crate::world::World;
use std::cell::Cell;
use std::rc::Rc;
use unsocket::engine::SendOutcome;
use unsocket::time::Duration;
use unsocket::ws::{Message, Role};

/// Bytes that differ wherever they are shifted, and are UTF-8.
fn pattern(len: usize) -> String {
    (0u32..).map(|i| char::from(b'!' + (i * 31 + i / 94 % 7) as u8 % 94)).take(len).collect()
}

/// The client sends `messages` one after the other and compares what comes back.
fn echoes(messages: Vec<(bool, String)>) {
    let count = messages.len();
    let messages = Rc::new(messages);
    let next = Rc::new(Cell::new(0));
    let send = |messages: &Rc<Vec<(bool, String)>>, next: &Rc<Cell<usize>>| {
        let (messages, next) = (messages.clone(), next.clone());
        move |conn: &mut unsocket::engine::Conn<'_, App>| {
            if let Some((is_text, payload)) = messages.get(next.get()) {
                let outcome =
                    if *is_text { conn.send_text(payload) } else { conn.send_binary(payload.as_bytes()) };
                assert!(matches!(outcome, SendOutcome::Sent | SendOutcome::Queued), "{outcome:?}");
            }
        }
    };
    let send_next = send(&messages, &next);
    let expected = (messages.clone(), next.clone());
    let client =
        App::new().without_messages().on_open(send(&messages, &next)).on_message(move |conn, message| {
            let (is_text, payload) = &expected.0[expected.1.get()];
            assert_eq!(matches!(message, Message::Text(_)), *is_text);
            assert!(message.as_bytes() == payload.as_bytes(), "message {} differs", expected.1.get());
            expected.1.set(expected.1.get() + 1);
            send_next(conn);
        });
    let mut world = World::new(App::echo().without_messages(), client);
    world.open(1);
    world.run_until(Duration::from_secs(120), |_| next.get() == count);
    for report in [world.server.report(), world.client.report()] {
        assert_eq!((report.engine.messages_in, report.engine.messages_out), (count as u64, count as u64));
        assert_eq!(report.engine.memory_bytes, 0, "nothing is kept");
        assert_eq!(report.engine.dropped_slow_reader + report.engine.dropped_memory, 0);
    }
}

#[test]
fn a_message_comes_back() {
    let client = App::new().on_open(|conn| {
        assert_eq!(conn.role(), Role::Client);
        assert_eq!(conn.send_text("hello"), SendOutcome::Sent);
    });
    let mut world = World::new(App::echo(), client);
    world.open(1);
    world.run_until(Duration::from_secs(1), |world| world.client.handler().messages == 1);
    assert_eq!(world.client.handler().texts(), ["hello"]);
    assert_eq!(world.server.handler().texts(), ["hello"]);
}

#[test]
fn messages_of_every_length_form_and_size_come_back() {
    let sizes = [0, 1, 2, 20, 124, 125, 126, 127, 1_000, 1_460, 16_384, 65_535, 65_536, 65_537, 200_001];
    let both = |len: usize| [true, false].map(|is_text| (is_text, pattern(len)));
    echoes(sizes.into_iter().flat_map(both).collect());
}

#[test]
fn messages_of_megabytes_come_back() {
    echoes(vec![(true, pattern(1 << 20)), (false, pattern((16 << 20) - 1)), (true, pattern(16 << 20))]);
}

#[test]
fn messages_that_wrap_the_rings_at_every_place_come_back() {
    // 65,535 bytes of ring and frames of 997 + 4..8 bytes: the wrap falls into headers, too.
    echoes((0..600).map(|i| (i % 2 == 0, pattern(990 + i % 13))).collect());
}

#[test]
fn many_connections_with_many_messages_in_flight() {
    const CONNECTIONS: usize = 100;
    const IN_FLIGHT: usize = 16;
    const ROUNDS: usize = 20;
    let client = App::new()
        .without_messages()
        .on_open(|conn| {
            for i in 0..IN_FLIGHT {
                conn.send_text(&i.to_string());
            }
        })
        .on_message(|conn, message| {
            let Message::Text(text) = message else { panic!("binary") };
            let number: usize = text.parse().unwrap();
            // In order, per connection: the session counts.
            let token = *conn.session() as usize;
            assert_eq!(token % 1_000_000, number, "out of order");
            *conn.session() += 1;
            if number + IN_FLIGHT < IN_FLIGHT * ROUNDS {
                conn.send_text(&(number + IN_FLIGHT).to_string());
            }
        });
    let mut world = World::new(App::echo().without_messages(), client);
    for connection in 0..CONNECTIONS {
        world.connect("/", connection as u64 * 1_000_000);
    }
    world.run_until(Duration::from_secs(10), |world| {
        world.client.handler().messages == CONNECTIONS * IN_FLIGHT * ROUNDS
    });
    assert_eq!(world.server.report().engine.open, CONNECTIONS as u64);
    assert_eq!(world.server.report().engine.memory_bytes, 0);
}

#[test]
fn a_message_in_fragments_arrives_whole() {
    let client = App::new().on_open(|conn| {
        assert_eq!(conn.send_fragment(Message::Text("Hel"), false), SendOutcome::Sent);
        // A whole message waits for the end of the one under way; a ping need not.
        assert_eq!(conn.send_binary(b"next"), SendOutcome::Queued);
        assert_eq!(conn.ping(b"now"), SendOutcome::Sent);
        assert_eq!(conn.send_fragment(Message::Text("lo"), false), SendOutcome::Sent);
        assert_eq!(conn.send_fragment(Message::Text("!"), true), SendOutcome::Sent);
        assert_eq!(conn.send_text("last"), SendOutcome::Queued);
    });
    let mut world = World::new(App::new(), client);
    world.open(1);
    world.run_until(Duration::from_secs(1), |world| world.server.handler().messages == 3);
    let conn = world.server.handler().opened()[0];
    assert_eq!(
        world.server.handler().log[1..],
        [
            Happened::Text(conn, "Hello!".into()),
            Happened::Binary(conn, b"next".to_vec()),
            Happened::Text(conn, "last".into()),
        ]
    );
    world.run_until(Duration::from_secs(1), |world| {
        world
            .client
            .handler()
            .log
            .contains(&Happened::Pong(world.client.handler().opened()[0], b"now".to_vec()))
    });
    let client = world.client.handler().opened()[0];
    assert!(world.client.handler().log.contains(&Happened::Drained(client)), "what was held has gone");
    assert_eq!(world.client.report().engine.memory_bytes, 0);
}

#[test]
fn a_fragmented_message_of_megabytes_paced_by_on_drain() {
    const PART: usize = 10_000;
    const PARTS: usize = 400;
    let sent = Rc::new(Cell::new(0));
    let go_on = |sent: Rc<Cell<usize>>| {
        move |conn: &mut unsocket::engine::Conn<'_, App>| {
            while sent.get() < PARTS {
                let part = vec![sent.get() as u8; PART];
                match conn.send_fragment(Message::Binary(&part), sent.get() + 1 == PARTS) {
                    SendOutcome::Sent | SendOutcome::Queued => sent.set(sent.get() + 1),
                    SendOutcome::Dropped => return,
                    SendOutcome::Closed => panic!("closed"),
                }
            }
        }
    };
    let client = App::new().on_open(go_on(sent.clone())).on_drain(go_on(sent.clone()));
    let mut world = World::new(App::new(), client);
    world.open(1);
    world.run_until(Duration::from_secs(30), |world| world.server.handler().messages == 1);
    let Some(Happened::Binary(_, message)) = world.server.handler().log.last() else { panic!() };
    let expected: Vec<u8> = (0..PARTS).flat_map(|part| vec![part as u8; PART]).collect();
    assert!(*message == expected);
    assert_eq!(world.client.report().engine.dropped_slow_reader, 0, "a part that must wait is not a drop");
}

#[test]
fn the_server_pushes_and_pings() {
    let server = App::new().on_open(|conn| {
        conn.ping(b"are you there");
        conn.send_text("welcome");
    });
    let mut world = World::new(server, App::new());
    world.open(1);
    world.run_until(Duration::from_secs(1), |world| world.server.handler().log.len() == 2);
    let conn = world.server.handler().opened()[0];
    assert_eq!(world.server.handler().log[1], Happened::Pong(conn, b"are you there".to_vec()));
    assert_eq!(world.client.handler().texts(), ["welcome"]);
}
