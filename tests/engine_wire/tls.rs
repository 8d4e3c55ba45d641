//! `wss://`: both ends ours, and against rustls by itself.

use crate::app::{App, Happened};
use crate::pki;
use crate::tls_peer::{self, Peer, frame, unmasked};
use crate::world::{RawWorld, World, connect_tls, tls_server_config};
use rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use unsocket::engine::{
    Cause, ConnectFailure, ConnectTls, Deadlines, EngineConfig, Limits, SendOutcome, Upgrade,
};
use unsocket::time::Duration;
use unsocket::tls::{ClientAuth, ServerOptions, ServerTls, TlsError, Violation};
use unsocket::ws::CloseCode;

fn raw_world(app: App) -> RawWorld {
    RawWorld::new(tls_server_config(), app)
}

fn raw_world_with(client_auth: ClientAuth, app: App) -> RawWorld {
    let tls = Some(pki::server(client_auth));
    RawWorld::new(EngineConfig { tls, ..tls_server_config() }, app)
}

fn authorities() -> std::path::PathBuf {
    pki::folder().join("ca.pem")
}

/// Bytes that differ wherever they are shifted.
fn pattern(len: usize) -> Vec<u8> {
    (0u32..).map(|i| (i * 31 + i / 251) as u8).take(len).collect()
}

#[test]
fn a_message_comes_back_through_tls() {
    let client = App::new().on_open(|conn| {
        assert_eq!(conn.tls().unwrap().version, "TLS 1.3");
        assert_eq!(conn.send_text("hello"), SendOutcome::Sent);
    });
    let mut world = World::with_tls(App::echo(), client);
    world.open(1);
    world.run_until(Duration::from_secs(1), |world| world.client.handler().messages == 1);
    assert_eq!(world.client.handler().texts(), ["hello"]);
    let conn = world.client.handler().opened()[0];
    world.client.with_context(|_, context| context.close(conn, CloseCode::NORMAL, "bye"));
    world.run_until(Duration::from_secs(5), |world| world.server.handler().closed() == 1);
    assert_eq!(world.server.handler().how_it_closed(), (1000, "bye".into(), true, Cause::Peer));
    for report in [world.server.report(), world.client.report()] {
        assert_eq!((report.engine.tls_handshakes, report.engine.tls_failed), (1, 0));
    }
}

#[test]
fn messages_of_every_size_come_back_through_tls() {
    // Around the header's forms, a record's most, and the rings.
    let sizes = [0, 1, 125, 126, 16_363, 16_384, 16_385, 65_514, 65_535, 65_536, 200_000, 1 << 20];
    let sent = Rc::new(RefCell::new(sizes.into_iter()));
    let (next, received) = (sent.clone(), Rc::new(RefCell::new(Vec::new())));
    let kept = received.clone();
    let client = App::new()
        .without_messages()
        .on_open(move |conn| {
            conn.send_binary(&pattern(sent.borrow_mut().next().unwrap()));
        })
        .on_message(move |conn, message| {
            let len = message.as_bytes().len();
            assert!(message.as_bytes() == pattern(len), "{len} bytes differ");
            kept.borrow_mut().push(len);
            if let Some(len) = next.borrow_mut().next() {
                conn.send_binary(&pattern(len));
            }
        });
    let mut world = World::with_tls(App::echo().without_messages(), client);
    world.open(1);
    world.run_until(Duration::from_secs(60), |_| received.borrow().len() == sizes.len());
    assert_eq!(*received.borrow(), sizes);
}

#[test]
fn every_cipher_of_both_versions_works() {
    for suite in ALL_CIPHER_SUITES {
        // The certificates' keys are ECDSA's.
        if format!("{:?}", suite.suite()).contains("_RSA_") {
            continue;
        }
        let mut world = raw_world(App::echo());
        let mut peer = Peer::upgraded(&mut world, tls_peer::config(&[*suite], None));
        for len in [0, 1, 100, 5_000, 40_000] {
            let echoed = peer.ask(&mut world, &frame(2, &pattern(len)));
            assert!(echoed == unmasked(2, &pattern(len)), "{suite:?}: {len} bytes differ");
        }
        assert_eq!(peer.error, None);
    }
}

#[test]
fn a_handshake_and_frames_may_be_cut_anywhere() {
    let mut world = raw_world(App::echo());
    let mut peer = Peer::connect(&mut world, tls_peer::any(), "one.test");
    let mut echoed = Vec::new();
    let mut asked = false;
    for _ in 0..20 {
        for byte in peer.records() {
            let received = world.exchange(peer.conn, &[byte]);
            peer.take(&received);
        }
        echoed.extend(peer.plain());
        if !peer.tls.is_handshaking() && !std::mem::replace(&mut asked, true) {
            use std::io::Write;
            peer.tls.writer().write_all(crate::world::UPGRADE.as_bytes()).unwrap();
            peer.tls.writer().write_all(&frame(1, b"one byte at a time")).unwrap();
        }
    }
    assert_eq!(peer.error, None);
    assert!(echoed.starts_with(b"HTTP/1.1 101 "));
    assert!(echoed.ends_with(&unmasked(1, b"one byte at a time")));
}

#[test]
fn requests_and_frames_share_records_as_they_like() {
    let mut world = raw_world(App::echo());
    let mut peer = Peer::open(&mut world, tls_peer::any());
    // The request, and frames behind it, in one record; then frames cut by the ends of records.
    let mut plain = crate::world::UPGRADE.as_bytes().to_vec();
    let frames: Vec<u8> = (0..50).flat_map(|_| frame(1, b"abc")).collect();
    plain.extend(&frames);
    let answer = peer.ask(&mut world, &plain);
    assert!(answer.ends_with(&unmasked(1, b"abc").repeat(50)));
    let mut answer = Vec::new();
    for part in frames.chunks(7) {
        answer.extend(peer.ask(&mut world, part));
    }
    assert_eq!(answer, unmasked(1, b"abc").repeat(50));
}

#[test]
fn a_share_that_ends_inside_a_record_leaves_the_rest_for_the_next_turn() {
    let mut config = tls_server_config();
    config.burst.connection_messages = 3;
    let mut world = RawWorld::new(config, App::echo());
    let mut peer = Peer::upgraded(&mut world, tls_peer::any());
    let frames: Vec<u8> = (0..1000).flat_map(|_| frame(2, b"0123456789")).collect();
    assert_eq!(peer.ask(&mut world, &frames), unmasked(2, b"0123456789").repeat(1000));
}

#[test]
fn both_ends_say_close_notify() {
    let mut world = raw_world(App::echo());
    let mut peer = Peer::upgraded(&mut world, tls_peer::any());
    let answer = peer.ask(&mut world, &frame(8, &1000u16.to_be_bytes()));
    assert_eq!(answer, unmasked(8, &1000u16.to_be_bytes()));
    // A reader that is at the end, not one that would wait or was cut off.
    use std::io::Read;
    assert_eq!(peer.tls.reader().read(&mut [0; 8]).unwrap(), 0, "the server's close_notify");
    assert_eq!(peer.status(&world), Some(unsocket::stack::Status::PeerFinished));
}

#[test]
fn a_fin_without_close_notify_is_called_a_truncation() {
    for (close_notify, cause) in [(false, Cause::Truncated), (true, Cause::PeerFinished)] {
        let mut world = raw_world(App::echo());
        let mut peer = Peer::upgraded(&mut world, tls_peer::any());
        if close_notify {
            peer.tls.send_close_notify();
            peer.exchange(&mut world);
        }
        world.raw.finish(peer.conn);
        world.run_for(Duration::from_secs(1));
        assert_eq!(world.server.handler().how_it_closed(), (1006, String::new(), false, cause));
    }
}

#[test]
fn a_close_notify_alone_ends_the_connection() {
    let mut world = raw_world(App::echo());
    let mut peer = Peer::upgraded(&mut world, tls_peer::any());
    peer.tls.send_close_notify();
    peer.exchange(&mut world);
    assert_eq!(world.server.handler().how_it_closed().3, Cause::PeerFinished);
    use std::io::Read;
    assert_eq!(peer.tls.reader().read(&mut [0; 8]).unwrap(), 0, "the server's close_notify");
}

#[test]
fn sessions_are_resumed() {
    let tls = connect_tls();
    let resumed = Rc::new(RefCell::new(Vec::new()));
    let seen = resumed.clone();
    let client = App::new().on_open(move |conn| {
        let agreed = conn.tls().unwrap();
        seen.borrow_mut().push(agreed.resumed);
        conn.send_text("x");
    });
    let config = tls_server_config();
    let mut world = World::with(config, crate::world::client_config(), App::echo(), client);
    world.tls = Some(tls);
    for count in 1..=3 {
        world.connect("/", 0);
        world.run_until(Duration::from_secs(5), |world| world.client.handler().messages == count);
    }
    assert_eq!(*resumed.borrow(), [false, true, true]);
    assert_eq!(world.server.report().engine.tls_resumed, 2);
}

#[test]
fn sni_chooses_the_certificate() {
    let mut world = raw_world(App::echo());
    for (name, expected) in [("one.test", "one"), ("two.test", "two")] {
        let mut peer = Peer::connect(&mut world, tls_peer::any(), name);
        peer.exchange(&mut world);
        let shown = peer.tls.peer_certificates().map(|chain| chain[0].clone());
        let file = CertificateDer::from_pem_file(pki::identity(expected).certificate).unwrap();
        assert_eq!((&peer.error, shown), (&None, Some(file)), "{name}");
    }
}

#[test]
fn alpn_is_http_1_1_or_nothing() {
    for (protocols, good) in
        [(vec![], true), (vec!["http/1.1"], true), (vec!["h2", "http/1.1"], true), (vec!["h2"], false)]
    {
        let mut world = raw_world(App::echo());
        let mut config = Arc::unwrap_or_clone(tls_peer::any());
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let mut peer = Peer::connect(&mut world, config.into(), "one.test");
        peer.exchange(&mut world);
        assert_eq!(!peer.tls.is_handshaking(), good, "{protocols:?}: {:?}", peer.error);
        if good && !protocols.is_empty() {
            assert_eq!(peer.tls.alpn_protocol(), Some(&b"http/1.1"[..]));
        }
        if !good {
            let alert = rustls::AlertDescription::NoApplicationProtocol;
            assert_eq!(peer.error, Some(rustls::Error::AlertReceived(alert)));
        }
    }
}

#[test]
fn a_certificate_of_the_client_is_seen_when_it_asks_for_a_websocket() {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let log = seen.clone();
    let app = App::echo().on_upgrade(move |request| {
        log.borrow_mut().push(request.tls().unwrap().peer_certificates.clone());
        Upgrade::accept(0)
    });
    let mut world = raw_world_with(ClientAuth::Optional { authorities: authorities() }, app);
    for identity in [None, Some("client")] {
        Peer::upgraded(&mut world, tls_peer::config(ALL_CIPHER_SUITES, identity));
    }
    let shown = CertificateDer::from_pem_file(pki::identity("client").certificate).unwrap().to_vec();
    assert_eq!(*seen.borrow(), [vec![], vec![shown]]);
}

#[test]
fn a_certificate_that_is_required_or_of_others_is_insisted_on() {
    for (identity, good) in [(None, false), (Some("other"), false), (Some("client"), true)] {
        let mut world = raw_world_with(ClientAuth::Required { authorities: authorities() }, App::echo());
        let mut peer = Peer::connect(&mut world, tls_peer::config(ALL_CIPHER_SUITES, identity), "one.test");
        peer.exchange(&mut world);
        assert_eq!(peer.error.is_none(), good, "{identity:?}: {:?}", peer.error);
        let report = world.server.report().engine;
        assert_eq!((report.tls_handshakes, report.tls_failed), (u64::from(good), u64::from(!good)));
    }
}

#[test]
fn our_client_shows_its_certificate() {
    let tls = Some(pki::server(ClientAuth::Required { authorities: authorities() }));
    let mut world = World::with(
        EngineConfig { tls, ..tls_server_config() },
        crate::world::client_config(),
        App::echo(),
        App::new(),
    );
    world.tls = Some(ConnectTls {
        config: pki::client(Some(&pki::identity("client"))),
        server_name: "two.test".into(),
    });
    world.open(1);
}

#[test]
fn keys_are_updated_when_the_peer_asks() {
    let mut world = raw_world(App::echo());
    let mut peer = Peer::upgraded(&mut world, tls_peer::any());
    for round in 0..5 {
        peer.tls.refresh_traffic_keys().unwrap();
        let text = format!("round {round}");
        assert_eq!(peer.ask(&mut world, &frame(1, text.as_bytes())), unmasked(1, text.as_bytes()));
    }
    assert_eq!(peer.error, None);
}

#[test]
fn key_updates_without_end_are_not_borne() {
    let mut world = raw_world(App::echo());
    let mut peer = Peer::upgraded(&mut world, tls_peer::any());
    for _ in 0..100 {
        // Once the server has ended it, rustls refuses.
        let _ = peer.tls.refresh_traffic_keys();
        peer.exchange(&mut world);
    }
    assert_eq!(world.server.handler().how_it_closed().3, Cause::Tls(Violation::TooMany));
}

#[test]
fn a_slow_reader_is_told_and_gets_everything_in_order() {
    let drained = Rc::new(RefCell::new(0));
    let count = drained.clone();
    let app = App::new()
        .on_message(|conn, _| {
            let mut outcomes = Vec::new();
            for index in 0..60u8 {
                outcomes.push(conn.send_binary(&[index; 5_000]));
            }
            assert!(outcomes.contains(&SendOutcome::Sent) && outcomes.contains(&SendOutcome::Queued));
            assert!(conn.buffered() > 100_000, "{}", conn.buffered());
        })
        .on_drain(move |_| *count.borrow_mut() += 1);
    let mut world = raw_world(app);
    let mut peer = Peer::upgraded(&mut world, tls_peer::any());
    let answer = peer.ask(&mut world, &frame(1, b"go"));
    let expected: Vec<u8> = (0..60u8).flat_map(|index| unmasked(2, &[index; 5_000])).collect();
    assert!(answer == expected, "{} bytes of {}", answer.len(), expected.len());
    assert_eq!(*drained.borrow(), 1);
}

#[test]
fn what_does_not_fit_is_dropped_as_without_tls() {
    let app = App::new().on_message(|conn, _| {
        let outcomes: Vec<_> = (0..100).map(|_| conn.send_binary(&[7; 10_000])).collect();
        assert_eq!(outcomes.last(), Some(&SendOutcome::Dropped));
    });
    let limits =
        Limits { overflow_bytes_max: 100_000, overflow_bytes_high_water: 1_000, ..Limits::default() };
    let mut world = RawWorld::new(EngineConfig { limits, ..tls_server_config() }, app);
    let mut peer = Peer::upgraded(&mut world, tls_peer::any());
    let answer = peer.ask(&mut world, &frame(1, b"go"));
    assert_eq!(answer.len() % unmasked(2, &[7; 10_000]).len(), 0, "messages are whole or not there");
    assert!(world.server.report().engine.dropped_slow_reader > 50);
}

#[test]
fn a_burst_does_no_more_handshakes_than_it_may() {
    let mut world = raw_world(App::echo());
    let mut peers: Vec<_> = (0..20).map(|_| Peer::connect(&mut world, tls_peer::any(), "one.test")).collect();
    for peer in &mut peers {
        let hello = peer.records();
        assert_eq!(world.raw.send(peer.conn, &hello), hello.len());
    }
    // All hellos arrive in a burst or two; each burst answers one.
    let mut answered = 0;
    for _ in 0..100 {
        world.step();
        let now = peers.iter().filter(|peer| !world.raw.receive(peer.conn).is_empty()).count();
        assert!(now <= 1, "{now} handshakes were answered in one burst");
        answered += now;
    }
    assert_eq!(answered, peers.len());
}

#[test]
fn certificates_are_exchanged_without_touching_open_connections() {
    let folder = pki::folder().join("exchange");
    std::fs::create_dir_all(&folder).unwrap();
    let put = |name: &str| {
        let files = pki::identity(name);
        std::fs::copy(files.certificate, folder.join("server.pem")).unwrap();
        std::fs::copy(files.key, folder.join("server.key")).unwrap();
    };
    put("one");
    let identity =
        unsocket::tls::Identity { certificate: folder.join("server.pem"), key: folder.join("server.key") };
    let options = ServerOptions { identities: vec![identity], client_auth: ClientAuth::None };
    let tls = Arc::new(ServerTls::load(options).unwrap());
    assert!(!tls.has_changed());
    let mut world =
        RawWorld::new(EngineConfig { tls: Some(tls.clone()), ..tls_server_config() }, App::echo());
    let mut old = Peer::upgraded(&mut world, tls_peer::any());

    // A file that cannot be used changes nothing, and is complained of once.
    std::fs::write(folder.join("server.pem"), "no certificate at all").unwrap();
    assert!(tls.has_changed());
    let complaint = tls.reload().unwrap_err().to_string();
    assert!(complaint.contains("server.pem contains no certificate"), "{complaint}");
    assert!(!tls.has_changed());
    Peer::upgraded(&mut world, tls_peer::any());

    put("two");
    assert!(tls.has_changed());
    tls.reload().unwrap();
    let mut new = Peer::connect(&mut world, tls_peer::any(), "two.test");
    new.exchange(&mut world);
    assert_eq!(new.error, None);
    assert_eq!(old.ask(&mut world, &frame(1, b"still here")), unmasked(1, b"still here"));
}

#[test]
fn plain_and_tls_are_served_side_by_side() {
    let mut world = raw_world(App::echo());
    Peer::upgraded(&mut world, tls_peer::any());
    world.upgraded();
    assert_eq!(world.server.report().engine.open, 2);
}

#[test]
fn a_slow_handshake_ends_with_its_deadline() {
    let deadlines = Deadlines { handshake: Duration::from_secs(2), ..Deadlines::default() };
    let mut world = RawWorld::new(EngineConfig { deadlines, ..tls_server_config() }, App::echo());
    let mut half = Vec::new();
    for _ in 0..50 {
        let mut peer = Peer::connect(&mut world, tls_peer::any(), "one.test");
        let hello = peer.records();
        let received = world.exchange(peer.conn, &hello[..hello.len() - 1]);
        assert_eq!(received, b"");
        half.push(peer);
    }
    assert_eq!(world.server.report().engine.sessions, 50);
    world.run_for(Duration::from_secs(10));
    assert_eq!(world.server.report().engine.sessions, 0);
    assert_eq!(world.server.report().engine.memory_bytes, 0);
}

#[test]
fn a_client_says_why_it_does_not_trust_a_server() {
    let wrong_name = ConnectTls { server_name: "three.test".into(), ..connect_tls() };
    let other = pki::folder().join("other-ca.pem");
    let other = unsocket::tls::ClientTls::load(&unsocket::tls::Trust::File(other), None).unwrap();
    let unknown = ConnectTls { config: other, ..connect_tls() };
    for (tls, expected) in [(wrong_name, "not valid for name"), (unknown, "UnknownIssuer")] {
        let mut world = World::with_tls(App::echo(), App::new());
        world.tls = Some(tls);
        world.connect("/", 7);
        world.run_until(Duration::from_secs(5), |world| !world.client.handler().log.is_empty());
        match &world.client.handler().log[..] {
            [
                Happened::ConnectFailed { token: 7, cause: ConnectFailure::Tls(TlsError::Certificate(why)) },
            ] => {
                assert!(why.contains(expected), "{why}");
            }
            log => panic!("{log:?}"),
        }
        // The server hears of it by an alert.
        world.run_until(Duration::from_secs(5), |world| world.server.report().engine.tls_failed == 1);
    }
}

#[test]
fn an_insecure_client_believes_anybody() {
    let mut world = World::with_tls(App::echo(), App::new());
    let config = unsocket::tls::ClientTls::load(&unsocket::tls::Trust::Anybody, None).unwrap();
    world.tls = Some(ConnectTls { config, server_name: "10.1.0.1".into() });
    world.open(1);
}

#[test]
fn files_that_cannot_be_used_say_why() {
    let load = |identity| {
        let options = ServerOptions { identities: vec![identity], client_auth: ClientAuth::None };
        ServerTls::load(options).unwrap_err().to_string()
    };
    let mixed = unsocket::tls::Identity { key: pki::identity("two").key, ..pki::identity("one") };
    let missing = unsocket::tls::Identity { key: "/nowhere/at.all".into(), ..pki::identity("one") };
    let swapped = unsocket::tls::Identity {
        certificate: pki::identity("one").key,
        key: pki::identity("one").certificate,
    };
    for (identity, expected) in [
        (mixed, "does not belong to the first certificate in"),
        (missing, "cannot read /nowhere/at.all: No such file"),
        (swapped, "one.key contains no certificate; a PEM file with `-----BEGIN CERTIFICATE-----`"),
        (pki::identity("expired"), "the certificate expired on 2002-02-03 (now: 20"),
    ] {
        let message = load(identity);
        assert!(message.contains(expected), "{message}");
    }
}
