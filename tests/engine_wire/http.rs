//! Plain HTTP and the opening handshake on one port.

use crate::app::App;
use crate::world::{RawWorld, UPGRADE, server_config};
use std::sync::Arc;
use unsocket::engine::{Deadlines, EngineConfig, Limits, Upgrade};
use unsocket::http::{Answer, Routes};
use unsocket::stack::Status;
use unsocket::time::Duration;

const GET: &str = "GET / HTTP/1.1\r\nHost: 10.1.0.1\r\n\r\n";

fn config() -> EngineConfig {
    let mut routes = Routes::default();
    routes.insert("/", Answer::text("page"));
    routes.insert("/big", Answer::new("application/octet-stream", vec![b'x'; 300_000]));
    routes.insert_healthz();
    routes.insert_upgrade("/chat");
    EngineConfig { routes: Arc::new(routes), ..server_config() }
}

fn world() -> RawWorld {
    RawWorld::new(config(), App::echo())
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or(answer)
}

#[test]
fn pages_and_an_upgrade_on_one_connection() {
    let mut world = world();
    let conn = world.open();
    let page = world.ask(conn, GET);
    assert_eq!(status(&page), "200");
    assert!(page.ends_with("\r\n\r\npage"), "{page}");
    assert_eq!(status(&world.ask(conn, "GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n")), "404");
    let accepted = world.ask(conn, UPGRADE);
    assert_eq!(status(&accepted), "101");
    assert!(accepted.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{accepted}");
    assert_eq!(world.exchange(conn, b"\x81\x82\0\0\0\0hi"), b"\x81\x02hi");
    assert_eq!(world.server.report().engine.http_requests, 3);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let mut world = world();
    let conn = world.open();
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345";
    let requests = format!("{GET}{post}HEAD / HTTP/1.1\r\nHost: a\r\n\r\n{GET}{UPGRADE}");
    let mut bytes = requests.into_bytes();
    bytes.extend_from_slice(b"\x81\x82\0\0\0\0hi");
    let answers = world.exchange(conn, &bytes);
    assert!(answers.ends_with(b"\r\n\r\n\x81\x02hi"));
    let answers = String::from_utf8_lossy(&answers);
    let statuses: Vec<&str> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "405", "200", "200", "101"]);
}

#[test]
fn a_request_cut_at_every_byte_is_the_same_request() {
    let mut world = world();
    let request = format!("{GET}{UPGRADE}");
    for cut in 1..request.len() {
        let conn = world.open();
        let mut answer = world.ask(conn, &request[..cut]);
        answer += &world.ask(conn, &request[cut..]);
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("HTTP/1.1 101 "), "{cut}: {answer}");
        world.raw.abort(conn);
    }
    let conn = world.open();
    let mut answer = String::new();
    for byte in request.chars() {
        answer += &world.ask(conn, byte.encode_utf8(&mut [0; 4]));
    }
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("HTTP/1.1 101 "), "{answer}");
}

#[test]
fn an_answer_larger_than_the_ring_arrives_whole() {
    let mut world = world();
    let conn = world.open();
    let mut answer = world.ask(conn, "GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
    for _ in 0..1_000 {
        world.step();
        answer += &String::from_utf8_lossy(&world.raw.receive(conn));
    }
    assert_eq!(answer.split("\r\n\r\n").nth(1).map(str::len), Some(300_000));
    assert_eq!(world.server.report().engine.memory_bytes, 0);
}

#[test]
fn a_peer_that_asks_and_does_not_read_is_not_read_from() {
    let mut world = world();
    let conn = world.open();
    let requests = "GET /big HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100);
    for _ in 0..2_000 {
        world.raw.send(conn, requests.as_bytes());
        world.step();
    }
    let report = world.server.report().engine;
    assert!(report.http_requests <= 2, "{report:?}");
    assert!(report.memory_bytes < 700_000, "{report:?}");
}

#[test]
fn what_is_wrong_is_answered_and_closed() {
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "y".repeat(20_000));
    for (request, expected) in [
        ("NOT HTTP\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        (long.as_str(), "431"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n", "413"),
        (&UPGRADE.replace("Version: 13", "Version: 12"), "426"),
        (&UPGRADE.replace("dGhl", "d"), "400"),
        (&UPGRADE.replace("GET", "POST"), "405"),
        (&UPGRADE.replace("\r\n\r\n", "\r\nContent-Length: 3\r\n\r\nabc"), "400"),
    ] {
        let mut world = world();
        let conn = world.open();
        let answer = world.ask(conn, request);
        assert_eq!(status(&answer), expected, "{request}\n{answer}");
        assert_eq!(world.raw.status(conn), Some(Status::PeerFinished), "{request}");
        if expected == "426" {
            assert!(answer.contains("Sec-WebSocket-Version: 13\r\n"), "{answer}");
        }
        world.raw.finish(conn);
        world.run_for(Duration::from_millis(50));
        assert_eq!(world.server.report().engine.sessions, 0);
        assert_eq!(world.server.report().engine.opened, 0);
    }
}

#[test]
fn an_upgrade_elsewhere_is_a_plain_request() {
    let mut world = world();
    let conn = world.open();
    assert_eq!(status(&world.ask(conn, &UPGRADE.replace("/chat", "/elsewhere"))), "404");
}

#[test]
fn the_application_refuses_or_chooses_a_subprotocol() {
    let app = || {
        App::new().on_upgrade(|request| match request.query() {
            "refuse" => Upgrade::refuse(401, "who are you?\n").header("WWW-Authenticate", "Basic"),
            "unoffered" => Upgrade::accept(0).protocol("other"),
            "smuggle" => Upgrade::accept(0).header("X", "a\r\nY: b"),
            _ => {
                assert_eq!(request.protocols().collect::<Vec<_>>(), ["chat", "superchat"]);
                assert_eq!(request.header("hOsT"), Some(&b"10.1.0.1"[..]));
                assert_eq!(request.peer().ip().to_string(), "10.1.0.2");
                assert_eq!(request.local().to_string(), "10.1.0.1:80");
                Upgrade::accept(0).protocol("superchat").header("X-Answer", "42")
            }
        })
    };
    let offering = UPGRADE.replace("\r\n\r\n", "\r\nSec-WebSocket-Protocol: chat, superchat\r\n\r\n");
    for (query, expected, holds) in [
        ("refuse", "401", "WWW-Authenticate: Basic\r\n"),
        ("unoffered", "500", "Connection: close\r\n"),
        ("smuggle", "500", "Connection: close\r\n"),
        ("", "101", "Sec-WebSocket-Protocol: superchat\r\nX-Answer: 42\r\n"),
    ] {
        let mut world = RawWorld::new(config(), app());
        let conn = world.open();
        let answer = world.ask(conn, &offering.replace("/chat", &format!("/chat?{query}")));
        assert_eq!(status(&answer), expected, "{answer}");
        assert!(answer.contains(holds), "{answer}");
    }
}

#[test]
fn over_the_limit_of_connections_a_request_gets_503() {
    let limits = Limits { connections_max: 2, ..Limits::default() };
    let mut world = RawWorld::new(EngineConfig { limits, ..config() }, App::new());
    let first = world.upgraded();
    world.upgraded();
    let third = world.open();
    let answer = world.ask(third, UPGRADE);
    assert_eq!(status(&answer), "503");
    assert!(answer.contains("Retry-After: 1\r\n"), "{answer}");
    assert_eq!(world.server.report().engine.refused_busy, 1);
    world.raw.abort(first);
    world.raw.finish(third);
    world.run_for(Duration::from_millis(50));
    world.upgraded();
}

#[test]
fn slow_heads_and_idle_connections_are_closed() {
    let deadlines = Deadlines {
        handshake: Duration::from_millis(300),
        http_keep_alive: Duration::from_millis(600),
        ..Deadlines::default()
    };
    let mut world = RawWorld::new(EngineConfig { deadlines, ..config() }, App::new());

    // Nothing at all: closed without a word.
    let silent = world.open();
    // A byte now and then does not put the deadline off.
    let slow = world.open();
    let mut answer = String::new();
    for byte in "GET / HTTP/1.1\r\n".chars().cycle().take(60) {
        answer += &world.ask(slow, byte.encode_utf8(&mut [0; 4]));
        world.run_for(Duration::from_millis(10));
        if !answer.is_empty() {
            break;
        }
    }
    assert_eq!(status(&answer), "408");
    world.run_for(Duration::from_millis(100));
    assert_eq!(world.raw.status(silent), Some(Status::PeerFinished));
    assert!(world.raw.receive(silent).is_empty());

    // Between two requests there is more time, and it ends, too.
    let kept = world.open();
    assert_eq!(status(&world.ask(kept, GET)), "200");
    world.run_for(Duration::from_millis(400));
    assert_eq!(status(&world.ask(kept, GET)), "200");
    world.run_for(Duration::from_millis(700));
    assert_eq!(world.raw.status(kept), Some(Status::PeerFinished));
}

#[test]
fn a_slow_download_goes_on_as_long_as_it_goes_on() {
    let deadlines = Deadlines {
        handshake: Duration::from_millis(300),
        http_keep_alive: Duration::from_millis(300),
        close: Duration::from_millis(300),
        ..Deadlines::default()
    };
    for request in ["GET /big HTTP/1.1\r\nHost: a\r\n\r\n", "GET /big HTTP/1.0\r\n\r\n"] {
        let mut world = RawWorld::new(EngineConfig { deadlines, ..config() }, App::new());
        let conn = world.open();
        world.raw.send(conn, request.as_bytes());
        let mut received = 0;
        for _ in 0..20 {
            world.run_for(Duration::from_millis(150));
            received += world.raw.receive(conn).len();
        }
        assert!(received > 300_000, "{received} bytes after {request}");

        // Whoever takes nothing more is cut off.
        let conn = world.open();
        world.raw.send(conn, request.as_bytes());
        world.run_for(Duration::from_millis(1_500));
        assert!(matches!(world.raw.status(conn), Some(Status::Closed(_))), "{:?}", world.raw.status(conn));
    }
}
