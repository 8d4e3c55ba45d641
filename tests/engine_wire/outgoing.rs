//! A client with thousands of connections on one worker.

use crate::app::App;
use crate::world::{World, client_config, connect_tls, server_addr, tls_server_addr, tls_server_config};
use unsocket::engine::{Connect, ConnectFailure, ConnectTls};
use unsocket::stack::LookupError;
use unsocket::time::Duration;
use unsocket::ws::CloseCode;

const CONNECTIONS: usize = 5_000;
/// One in so many speaks TLS.
const TLS_EVERY: usize = 50;

fn all_done(world: &World, count: impl Fn(&World) -> usize) -> bool {
    count(world) == CONNECTIONS
}

#[test]
fn five_thousand_connections_of_one_worker_talk_at_once() {
    let client = App::new().without_messages().on_open(|conn| {
        let token = conn.session().to_string();
        conn.send_text(&token);
    });
    let client = client.on_message(|conn, message| {
        assert_eq!(message.as_bytes(), conn.session().to_string().as_bytes(), "its own echo");
    });
    let mut world = World::with(tls_server_config(), client_config(), App::echo().without_messages(), client);
    let tls: ConnectTls = connect_tls();
    for token in 0..CONNECTIONS {
        let secure = token % TLS_EVERY == 0;
        let (addr, tls) = if secure { (tls_server_addr(), Some(tls.clone())) } else { (server_addr(), None) };
        let connect = Connect { token: token as u64, tls, ..Connect::new(addr, "/") };
        world.client.with_context(|_, context| context.connect(connect));
    }
    world.run_until(Duration::from_secs(30), |world| {
        all_done(world, |world| world.client.report().engine.messages_in as usize)
    });
    let report = world.client.report().engine;
    assert_eq!((report.sessions, report.connects_failed), (CONNECTIONS as u64, 0));
    assert_eq!(report.tls_handshakes as usize, CONNECTIONS / TLS_EVERY);
    // And every one of them again.
    for conn in world.client.handler().opened() {
        world.client.with_context(|_, context| context.close(conn, CloseCode::NORMAL, "enough"));
    }
    world
        .run_until(Duration::from_secs(30), |world| all_done(world, |world| world.server.handler().closed()));
    assert_eq!(world.server.report().engine.closed_unclean, 0);
}

#[test]
fn a_name_that_cannot_be_looked_up_fails_as_any_attempt() {
    let mut world = World::new(App::new(), App::new());
    let connect = Connect { token: 3, ..Connect::by_name("feed.example", 80, "/") };
    world.client.with_context(|_, context| context.connect(connect));
    world.run_until(Duration::from_secs(1), |world| world.client.report().engine.connects_failed == 1);
    let failed = format!("{:?}", world.client.handler().log);
    let expected = ConnectFailure::Lookup { name: "feed.example".into(), cause: LookupError::NoServer };
    assert!(failed.contains(&format!("{expected:?}")), "{failed}");
}

#[test]
fn whoever_asked_for_a_connection_before_a_drain_hears_that_there_is_none() {
    // More than one burst opens, with TLS (one each) and without.
    for tls in [None, Some(connect_tls())] {
        let mut world = World::with(tls_server_config(), client_config(), App::new(), App::new());
        let asked = 2 * client_config().burst.mailbox_commands;
        for token in 0..asked as u64 {
            let connect = Connect { token, tls: tls.clone(), ..Connect::new(tls_server_addr(), "/") };
            world.client_handle.connect(connect).expect("room in the mailbox");
        }
        world.client_handle.drain();
        let bursts = (1..10).find(|_| world.client.poll(world.now).ended);
        assert!(bursts.is_some(), "the worker waits for nothing else");
        let report = world.client.report().engine;
        assert_eq!((report.connects_failed, report.sessions), (asked as u64, 0));
    }
}
