//! `wss://`: both ends ours, and against rustls by itself.

use crate::app::App;
use crate::world::World;
use unsocket::engine::{Cause, SendOutcome};
use unsocket::time::Duration;

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
    world.client.with_context(|_, context| context.close(conn, unsocket::ws::CloseCode::NORMAL, "bye"));
    world.run_until(Duration::from_secs(5), |world| world.server.handler().closed() == 1);
    assert_eq!(world.server.handler().how_it_closed(), (1000, "bye".into(), true, Cause::Peer));
    for report in [world.server.report(), world.client.report()] {
        assert_eq!((report.engine.tls_handshakes, report.engine.tls_failed), (1, 0));
    }
}
