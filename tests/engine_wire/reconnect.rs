//! Connections that are opened again when they end.

use crate::app::{App, Happened};
use crate::world::{World, server_addr};
use unsocket::engine::{Backoff, Connect};
use unsocket::time::Duration;
use unsocket::ws::CloseCode;

fn backoff() -> Option<Backoff> {
    Some(Backoff::new(Duration::from_millis(100), Duration::from_secs(2), Some(3)))
}

fn connect(world: &mut World, port: u16) {
    let mut addr = server_addr();
    addr.set_port(port);
    let connect = Connect { reconnect: backoff(), token: 5, ..Connect::new(addr, "/") };
    world.client.with_context(|_, context| context.connect(connect));
}

fn opened(world: &World) -> usize {
    world.client.handler().opened().len()
}

#[test]
fn a_connection_that_the_server_ends_is_opened_again() {
    let server = App::new().on_message(|conn, _| conn.close(CloseCode::GOING_AWAY, "again"));
    let client = App::new().on_open(|conn| {
        assert_eq!(*conn.session(), 5);
        conn.send_text("close me");
    });
    let mut world = World::new(server, client);
    connect(&mut world, 80);
    // More often than attempts may fail in a row: none of them fails.
    world.run_until(Duration::from_secs(10), |world| opened(world) == 6);
    let closed = world.client.handler().closed();
    assert!(closed >= 5, "{closed}");
}

#[test]
fn a_connection_that_we_close_is_not() {
    let client = App::new().on_open(|conn| conn.close(CloseCode::NORMAL, "enough"));
    let mut world = World::new(App::new(), client);
    connect(&mut world, 80);
    world.run_until(Duration::from_secs(10), |world| world.client.handler().closed() == 1);
    world.run_for(Duration::from_secs(20));
    assert_eq!(opened(&world), 1);
}

#[test]
fn attempts_that_fail_wait_longer_each_time_and_come_to_an_end() {
    let mut world = World::new(App::new(), App::new());
    connect(&mut world, 81);
    let mut times = Vec::new();
    world.run_until(Duration::from_secs(20), |world| {
        let failed = world.client.report().engine.connects_failed as usize;
        if failed > times.len() {
            times.push(world.now);
        }
        failed == 4
    });
    world.run_for(Duration::from_secs(20));
    assert_eq!(world.client.report().engine.connects_failed, 4, "the first and three more");
    for (pair, most_millis) in times.windows(2).zip([100, 200, 400]) {
        let wait = (pair[1] - pair[0]).as_millis();
        assert!((most_millis / 2..=most_millis + 20).contains(&wait), "{wait} of {most_millis} ms");
    }
}

#[test]
fn a_worker_that_drains_opens_nothing_again() {
    let mut world = World::new(App::new(), App::new());
    connect(&mut world, 80);
    world.run_until(Duration::from_secs(5), |world| opened(world) == 1);
    world.client_handle.drain();
    world.run_for(Duration::from_secs(20));
    assert_eq!(opened(&world), 1);
    assert!(matches!(world.client.handler().log.last(), Some(Happened::Closed { .. })));
}
