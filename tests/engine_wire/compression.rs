//! Messages that are compressed on their way, and what that costs.

use crate::app::{App, Happened};
use crate::world::{World, client_config, server_config};
use std::cell::Cell;
use std::rc::Rc;
use unsocket::engine::{Cause, Compress, EngineConfig, Limits, RateLimits, RatePolicy};
use unsocket::time::Duration;
use unsocket::ws::deflate::DeflateConfig;
use unsocket::ws::{self, Message, ProtocolError};

fn deflate(takeover: bool) -> DeflateConfig {
    DeflateConfig {
        threshold_bytes: 20,
        send_takeover: takeover,
        receive_takeover: takeover,
        ..DeflateConfig::default()
    }
}

/// A world whose server and client want what they are given.
fn world(server: Option<DeflateConfig>, client: Option<DeflateConfig>, apps: [App; 2]) -> World {
    let [server_app, client_app] = apps;
    World::with(
        EngineConfig { deflate: server, ..server_config() },
        EngineConfig { deflate: client, ..client_config() },
        server_app,
        client_app,
    )
}

/// Text of which nothing repeats within 64 bytes, and all of it after that.
fn quote(number: usize) -> String {
    let symbols = ["AAPL", "MSFT", "NVDA", "ORCL"];
    format!(
        r#"{{"type":"quote","symbol":"{}","bid":{}.25,"ask":{}.5,"venue":"XNAS","sequence":{number}}}"#,
        symbols[number % 4],
        number * 37 % 1009,
        number * 41 % 1013,
    )
}

/// Sends `messages` there and back, one after the other; the bytes that the server received and sent.
fn echo(server: Option<DeflateConfig>, client: Option<DeflateConfig>, messages: Vec<String>) -> [u64; 2] {
    let count = messages.len();
    let messages = Rc::new(messages);
    let next = Rc::new(Cell::new(0));
    let app = {
        let first = messages.clone();
        let next = next.clone();
        App::new()
            .without_messages()
            .on_open(move |conn| {
                conn.send_text(&first[0]);
            })
            .on_message(move |conn, message| {
                assert!(message == Message::Text(&messages[next.get()]), "message {} differs", next.get());
                next.set(next.get() + 1);
                if let Some(message) = messages.get(next.get()) {
                    conn.send_text(message);
                }
            })
    };
    let mut world = world(server, client, [App::echo().without_messages(), app]);
    world.open(1);
    world.run_until(Duration::from_secs(60), |_| next.get() == count);
    let report = world.server.report().engine;
    assert_eq!((report.messages_in, report.messages_out), (count as u64, count as u64));
    [world.client.report().engine.message_bytes_out, report.message_bytes_out]
}

#[test]
fn messages_come_back_whatever_both_ends_want() {
    let messages: Vec<String> = [1, 19, 20, 100, 1_000, 70_000, 300_000, 3_000]
        .into_iter()
        .enumerate()
        .map(|(at, length)| (at..).map(quote).flat_map(|quote| quote.into_bytes()).take(length).collect())
        .map(|bytes: Vec<u8>| String::from_utf8(bytes).unwrap())
        .collect();
    let plain_bytes: usize = messages.iter().map(String::len).sum();
    let narrow = DeflateConfig { send_window_bits: 9, receive_window_bits: 9, level: 6, ..deflate(true) };
    let wide = DeflateConfig { send_window_bits: 15, receive_window_bits: 15, ..deflate(true) };
    let wants = [None, Some(deflate(false)), Some(deflate(true)), Some(narrow), Some(wide)];
    for server in wants {
        for client in wants {
            let sent = echo(server, client, messages.clone());
            let both = server.is_some() && client.is_some();
            for bytes in sent {
                assert_eq!(bytes < plain_bytes as u64 / 2, both, "{server:?} {client:?}: {sent:?}");
            }
        }
    }
}

#[test]
fn context_takeover_makes_small_messages_smaller() {
    let quotes: Vec<String> = (0..200).map(quote).collect();
    let [without, _] = echo(Some(deflate(false)), Some(deflate(false)), quotes.clone());
    let [_, with] = echo(Some(deflate(true)), Some(deflate(true)), quotes);
    assert!(with * 2 < without, "{with} bytes with, {without} without");
}

#[test]
fn memory_of_a_connection_is_what_the_documents_say() {
    const CONNECTIONS: usize = 50;
    let wide = DeflateConfig { send_window_bits: 15, receive_window_bits: 15, ..deflate(true) };
    for (wants, new, used) in [
        (None, 0, 0),
        (Some(deflate(false)), 40, 40),
        (Some(deflate(true)), 72, 8_264),
        (Some(wide), 72, 65_608),
    ] {
        let client = App::new().without_messages().on_message(|_, _| {});
        let mut world = world(wants, wants, [App::echo().without_messages(), client]);
        world.open(CONNECTIONS);
        let bytes = |world: &World| world.server.report().engine.memory_bytes / CONNECTIONS as u64;
        // What is received is counted with the first bytes that are.
        let per_connection = bytes(&world);
        assert!(per_connection == 0 || per_connection <= new, "{wants:?}: {per_connection}");
        let big: String = (0..1_000).map(quote).collect();
        for conn in world.client.handler().opened() {
            let (big, conn) = (big.clone(), conn);
            world.client.with_context(move |_, context| {
                context.send(conn, Message::Text(&big));
            });
        }
        world.run_until(Duration::from_secs(30), |world| world.client.handler().messages == CONNECTIONS);
        assert_eq!(bytes(&world), used, "{wants:?}");
        for conn in world.client.handler().opened() {
            world.client.with_context(move |_, context| context.close(conn, ws::CloseCode::NORMAL, ""));
        }
        world.run_until(Duration::from_secs(30), |world| world.server.report().engine.sessions == 0);
        assert_eq!(world.server.report().engine.memory_bytes, 0, "all of it is given back");
    }
}

#[test]
fn a_bomb_is_closed_with_1009_and_never_lies_in_memory() {
    let client = App::new().on_open(|conn| {
        conn.send_binary(&vec![0; 1 << 20]);
    });
    let limits = Limits {
        message: ws::Limits { message_bytes_max: 100_000, ..ws::Limits::default() },
        ..Limits::default()
    };
    let mut world = World::with(
        EngineConfig { deflate: Some(deflate(true)), limits, ..server_config() },
        EngineConfig { deflate: Some(deflate(true)), ..client_config() },
        App::new(),
        client,
    );
    world.open(1);
    world.run_until(Duration::from_secs(5), |world| world.client.handler().closed() == 1);
    let (code, _, _, cause) = world.server.handler().how_it_closed();
    let limit = 100_000;
    assert_eq!((code, cause), (1009, Cause::Protocol(ProtocolError::MessageTooBig { limit })));
    assert_eq!(world.server.handler().messages, 0);
    assert!(world.client.report().engine.message_bytes_out < 20_000);
}

#[test]
fn what_a_message_inflates_to_does_not_count_against_its_senders_rate() {
    for policy in [RatePolicy::Close, RatePolicy::Drop] {
        let client = App::new().on_open(|conn| {
            for _ in 0..4 {
                conn.send_binary(&[0; 100_000]);
            }
        });
        let rates = RateLimits { bytes_per_second: 10_000, policy, ..RateLimits::default() };
        let limits = Limits { rates, ..Limits::default() };
        let mut world = World::with(
            EngineConfig { deflate: Some(deflate(true)), limits, ..server_config() },
            EngineConfig { deflate: Some(deflate(true)), ..client_config() },
            App::new().without_messages(),
            client,
        );
        world.open(1);
        world.run_until(Duration::from_millis(100), |world| world.server.handler().messages == 4);
        assert_eq!(world.server.handler().closed(), 0, "{policy:?}");
        assert!(world.client.report().engine.message_bytes_out < 10_000);
    }
}

#[test]
fn the_handler_says_what_is_compressed() {
    let text = "short and simple, short and simple";
    let client = App::new().on_open(move |conn| {
        conn.send_with(Message::Text(text), Compress::No);
        conn.send_with(Message::Text(text), Compress::Auto);
        conn.send_with(Message::Text(text), Compress::Yes);
    });
    let wants = Some(DeflateConfig { threshold_bytes: 1_000, ..deflate(false) });
    let mut world = world(wants, wants, [App::new(), client]);
    world.open(1);
    world.run_until(Duration::from_secs(1), |world| world.server.handler().messages == 3);
    assert_eq!(world.server.handler().texts(), [text; 3]);
    assert_eq!(world.client.report().engine.messages_deflated, 1);
    assert!(world.client.report().engine.deflated_bytes_saved > 5);
}

#[test]
fn what_is_published_is_part_of_every_context() {
    // Publishes and messages of its own reach a connection in turn: each may refer to all that came before.
    let server = App::new().without_messages().on_open(|conn| conn.subscribe("quotes").unwrap()).on_message(
        |conn, message| {
            conn.send(message);
            conn.publish("quotes", message);
        },
    );
    let client = App::new();
    let mut world = world(Some(deflate(true)), Some(deflate(true)), [server, client]);
    world.open(3);
    let opened = world.client.handler().opened();
    for number in 0..30 {
        let conn = opened[number % 3];
        let text = quote(number / 2);
        world.client.with_context(|_, context| {
            context.send(conn, Message::Text(&text));
        });
        // One to whom it belongs, and three that are subscribed.
        let heard = (number + 1) * 4;
        world.run_until(Duration::from_secs(1), |world| world.client.handler().messages == heard);
    }
    let wrong =
        world.client.handler().log.iter().find(|happened| matches!(happened, Happened::Closed { .. }));
    assert_eq!(wrong, None);
    assert_eq!(world.server.report().engine.messages_deflated, 120);
    let expected: Vec<String> = (0..30).flat_map(|number| vec![quote(number / 2); 4]).collect();
    assert_eq!(world.client.handler().texts(), expected);
}
