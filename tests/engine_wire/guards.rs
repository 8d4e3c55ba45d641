//! Who may open a WebSocket, and what the application is told of the request.

use crate::app::App;
use crate::world::{RawWorld, UPGRADE, server_config};
use std::sync::Arc;
use unsocket::engine::guards::{Claims, Guard, Jwt, JwtAlgorithm, JwtOptions, Origins, Tokens};
use unsocket::engine::{EngineConfig, Limits, Refusal, Request, Upgrade};
use unsocket::stack::{CloseCause, Status};
use unsocket::time::{Duration, Instant};

/// The upgrade request to this target, with further header lines.
fn upgrade(target: &str, headers: &str) -> String {
    UPGRADE.replace("/chat", target).replace("\r\n\r\n", &format!("\r\n{headers}\r\n"))
}

/// The answer of a server that is configured so to one request.
fn answer(config: &EngineConfig, request: &str) -> String {
    let mut world = RawWorld::new(config.clone(), App::new());
    let conn = world.open();
    world.ask(conn, request)
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or(answer)
}

#[test]
fn pages_of_other_hosts_open_no_websocket() {
    let origins = Origins::Own { also: vec!["https://good.example".into()] };
    let config = EngineConfig { origins, ..server_config() };
    for (origin, expected) in [
        ("", "101"),
        ("Origin: http://10.1.0.1\r\n", "101"),
        ("oRIGIN: HTTPS://GOOD.EXAMPLE\r\n", "101"),
        ("Origin: https://evil.example\r\n", "403"),
        ("Origin: null\r\n", "403"),
        ("Origin: https://good.example.evil.example\r\n", "403"),
        ("Origin: https://good.example\r\nOrigin: https://good.example\r\n", "403"),
    ] {
        assert_eq!(status(&answer(&config, &upgrade("/", origin))), expected, "{origin}");
    }
}

#[test]
fn without_a_token_nobody_comes_in() {
    let tokens = ["0123456789abcdef".to_owned(), "fedcba9876543210".to_owned()];
    let guard = Tokens::new(&tokens, Some("t".into())).unwrap();
    let config = EngineConfig { guards: vec![Arc::new(guard)], ..server_config() };
    for (target, headers, expected) in [
        ("/", "Authorization: Bearer 0123456789abcdef\r\n", "101"),
        ("/", "authorization: bearer  fedcba9876543210\r\n", "101"),
        ("/?t=0123456789abcdef", "", "101"),
        ("/?a=1&t=fedcba9876543210&b=", "", "101"),
        // The header goes before the query.
        ("/?t=0123456789abcdef", "Authorization: Bearer wrong\r\n", "401"),
        ("/", "", "401"),
        ("/", "Authorization: Bearer 0123456789abcdeF\r\n", "401"),
        ("/", "Authorization: Basic 0123456789abcdef\r\n", "401"),
        ("/?t=0123456789abcdef&t=0123456789abcdef", "", "401"),
        ("/?x=0123456789abcdef", "", "401"),
        ("/", "Authorization: Bearer 0123456789abcdef\r\nAuthorization: Bearer 0123456789abcdef\r\n", "401"),
    ] {
        let answer = answer(&config, &upgrade(target, headers));
        assert_eq!(status(&answer), expected, "{target} {headers}");
        assert_eq!(answer.contains("WWW-Authenticate: Bearer"), expected == "401", "{answer}");
    }
}

/// HS256 with the secret below; in force from 1,000,000,000 s to an hour later; the subject is `alice`.
const TOKEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbGljZSIsImF1ZCI6WyJmZWVkIiwib3RoZXIiXSwia\
    XNzIjoiaHR0cHM6Ly9pc3N1ZXIuZXhhbXBsZSIsIm5iZiI6MTAwMDAwMDAwMCwiZXhwIjoxMDAwMDAzNjAwfQ.4jmT\
    G0oA8hFyReshEmcQk_HknhDbhOKwLHX7fam3hXQ";

#[test]
fn a_jwt_is_judged_by_the_time_that_the_launcher_tells() {
    let jwt = Jwt::new(&JwtOptions {
        algorithm: JwtAlgorithm::Hs256,
        key: b"unsocket test secret, 32 bytes..".to_vec(),
        audience: vec!["feed".into()],
        issuer: vec!["https://issuer.example".into()],
        leeway: Duration::from_secs(0),
        query_key: Some("access_token".into()),
    });
    let config = EngineConfig { guards: vec![Arc::new(jwt.unwrap())], ..server_config() };
    let app = || {
        App::new().on_upgrade(|request| {
            let claims = request.claims().expect("the guard has let it through");
            assert_eq!(claims["sub"], "alice");
            Upgrade::accept(1)
        })
    };
    let request = upgrade(&format!("/?access_token={TOKEN}"), "");
    let mut world = RawWorld::new(config, app());
    let conn = world.open();
    // Nobody has told it the time: who knows whether the token is in force?
    assert_eq!(status(&world.ask(conn, &request)), "503");
    let told_at: Instant = world.now;
    world.server.set_unix_time(told_at, Duration::from_secs(1_000_003_590));
    let conn = world.open();
    assert_eq!(status(&world.ask(conn, &request)), "101");
    world.run_for(Duration::from_secs(11));
    let conn = world.open();
    let answer = world.ask(conn, &request);
    assert_eq!(status(&answer), "401");
    assert!(answer.contains("error=\"invalid_token\"") && answer.contains("expired"), "{answer}");
}

/// Lets in whom the query names.
#[derive(Debug)]
struct Named;

impl Guard for Named {
    fn check(&self, request: &Request<'_>, _: Option<Duration>) -> Result<Option<Claims>, Refusal> {
        match request.query_value("name") {
            Some(name) => Ok(Some([("name".to_owned(), name.into())].into_iter().collect())),
            None => Err(Refusal::new(402, "who are you?").header("X-Hint", "?name=")),
        }
    }
}

#[test]
fn an_application_brings_its_own_guard() {
    let config = EngineConfig { guards: vec![Arc::new(Named)], ..server_config() };
    let refused = answer(&config, &upgrade("/", ""));
    assert_eq!(status(&refused), "402");
    assert!(refused.contains("X-Hint: ?name=\r\n") && refused.ends_with("402: who are you?\n"), "{refused}");
    let mut world = RawWorld::new(
        config,
        App::new().on_upgrade(|request| {
            let name = request.claims().and_then(|claims| claims["name"].as_str()).unwrap_or("");
            Upgrade::accept(7).header("X-Hello", name)
        }),
    );
    let conn = world.open();
    assert!(world.ask(conn, &upgrade("/?name=bob", "")).contains("X-Hello: bob\r\n"));
}

#[test]
fn the_application_sees_the_whole_request_and_answers_with_what_it_likes() {
    let app = || {
        App::new().on_upgrade(|request| {
            assert_eq!((request.path(), request.query()), ("/room/7", "a=1&b=%20&c"));
            assert_eq!((request.query_value("b"), request.query_value("c")), (Some("%20"), None));
            assert_eq!(request.cookie("session"), Some("s3=cr3t"));
            let cookies: Vec<_> = request.cookies().collect();
            assert_eq!(cookies, [("theme", "dark"), ("session", "s3=cr3t"), ("late", "1")]);
            assert_eq!(request.header("x-thing"), Some(&b"one"[..]));
            assert_eq!(request.peer().ip().to_string(), "10.1.0.2");
            assert_eq!(request.local().to_string(), "10.1.0.1:80");
            match request.protocols().find(|offered| *offered == "v2") {
                Some(chosen) => Upgrade::accept(42).protocol(chosen).header("Set-Cookie", "seen=1"),
                None => Upgrade::refuse(410, "v1 is gone\n").header("X-Try", "v2"),
            }
        })
    };
    let headers = |protocol: &str| {
        format!(
            "Cookie: theme=dark; session=s3=cr3t;odd\r\nX-Thing: one\r\nX-Thing: two\r\nCookie: late=1\r\n\
             Sec-WebSocket-Protocol: {protocol}\r\n"
        )
    };
    let ask = |protocol: &str| {
        let mut world = RawWorld::new(server_config(), app());
        let conn = world.open();
        world.ask(conn, &upgrade("/room/7?a=1&b=%20&c", &headers(protocol)))
    };
    let accepted = ask("v3, v2");
    assert_eq!(status(&accepted), "101");
    assert!(
        accepted.contains("Sec-WebSocket-Protocol: v2\r\n") && accepted.contains("Set-Cookie: seen=1\r\n")
    );
    let refused = ask("v1");
    assert_eq!(status(&refused), "410");
    assert!(refused.contains("X-Try: v2\r\n") && refused.ends_with("\r\n\r\nv1 is gone\n"), "{refused}");
}

#[test]
fn one_peer_has_only_so_many_connections() {
    let limits = Limits { connections_per_peer_max: 2, ..Limits::default() };
    let mut world = RawWorld::new(EngineConfig { limits, ..server_config() }, App::new());
    let (first, _second) = (world.upgraded(), world.upgraded());
    let third = world.open();
    world.run_for(Duration::from_millis(5));
    assert_eq!(world.raw.status(third), Some(Status::Closed(CloseCause::Reset)));
    assert_eq!(world.server.report().engine.refused_peer, 1);
    world.raw.abort(first);
    world.run_for(Duration::from_millis(5));
    world.upgraded();
    assert_eq!(world.server.report().engine.refused_peer, 1);
}

/// A server that takes the raw host for a proxy.
fn behind_a_proxy(limits: Limits) -> RawWorld {
    let proxies = vec!["10.1.0.0/30".parse().unwrap()];
    let app =
        App::new().on_upgrade(|request| Upgrade::accept(0).header("X-Peer", request.peer().to_string()));
    RawWorld::new(EngineConfig { proxies, limits, ..server_config() }, app)
}

#[test]
fn whom_a_proxy_names_is_the_peer() {
    let mut world = behind_a_proxy(Limits::default());
    let v1 = b"PROXY TCP4 192.0.2.7 10.1.0.1 4000 80\r\n".to_vec();
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    v2.extend([192, 0, 2, 7, 10, 1, 0, 1, 0x0f, 0xa0, 0, 80]);
    for header in [v1, v2] {
        let stream = [&header[..], UPGRADE.as_bytes()].concat();
        for cut in [0, 1, 11, header.len() - 1, header.len(), header.len() + 1, stream.len() - 1] {
            let conn = world.open();
            let mut answer = world.exchange(conn, &stream[..cut]);
            answer.extend(world.exchange(conn, &stream[cut..]));
            let answer = String::from_utf8(answer).unwrap();
            assert!(answer.contains("X-Peer: 192.0.2.7:4000\r\n"), "{cut}: {answer}");
            world.raw.abort(conn);
        }
    }
    // The proxy's own health check.
    let conn = world.open();
    let local = world.exchange(conn, &[&b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"[..], UPGRADE.as_bytes()].concat());
    assert!(String::from_utf8(local).unwrap().contains("X-Peer: 10.1.0.2:"));
}

#[test]
fn a_proxy_that_names_nobody_is_reset() {
    let mut world = behind_a_proxy(Limits::default());
    for bytes in [UPGRADE.as_bytes(), b"PROXY TCP4 1 2 3 4\r\n", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"] {
        let conn = world.open();
        world.exchange(conn, bytes);
        assert_eq!(world.raw.status(conn), Some(Status::Closed(CloseCause::Reset)));
    }
    // One that says nothing at all has the handshake's time.
    let silent = world.open();
    world.run_for(Duration::from_secs(11));
    assert_eq!(world.raw.status(silent), Some(Status::PeerFinished));
    assert_eq!(world.server.report().engine.refused_proxy, 3);
}

#[test]
fn who_is_no_proxy_names_nobody() {
    let header = format!("PROXY TCP4 192.0.2.7 10.1.0.1 4000 80\r\n{UPGRADE}");
    assert_eq!(status(&answer(&server_config(), &header)), "400");
}

#[test]
fn clients_behind_a_proxy_are_counted_each() {
    let limits = Limits { connections_per_peer_max: 1, ..Limits::default() };
    let mut world = behind_a_proxy(limits);
    let mut connect = |client: &str| {
        let conn = world.open();
        let answer = world.ask(conn, &format!("PROXY TCP4 {client} 10.1.0.1 4000 80\r\n{UPGRADE}"));
        answer.starts_with("HTTP/1.1 101 ")
    };
    assert!(connect("192.0.2.1") && connect("192.0.2.2"));
    assert!(!connect("192.0.2.1"));
    assert!(connect("192.0.2.3"));
}
