//! How fast one client may send, and for how long it may stay.

use crate::app::App;
use crate::closing::frame;
use crate::world::{RawWorld, server_config};
use unsocket::engine::{Burst, Cause, Deadlines, EngineConfig, Limits, RateLimits, RatePolicy};
use unsocket::stack::ConnId;
use unsocket::time::Duration;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn world(rates: RateLimits) -> RawWorld {
    let limits = Limits { rates, ..Limits::default() };
    RawWorld::new(EngineConfig { limits, ..server_config() }, App::new().without_messages())
}

/// Sends all of `bytes`, however long the server takes to read them.
fn push(world: &mut RawWorld, conn: ConnId, bytes: &[u8], limit: Duration) -> Duration {
    let (start, mut sent) = (world.now, 0);
    while sent < bytes.len() {
        sent += world.raw.send(conn, &bytes[sent..]);
        world.run_for(MS(1));
        assert!(world.now - start < limit, "{sent} of {} bytes in {limit:?}", bytes.len());
    }
    world.now - start
}

#[test]
fn messages_over_the_rate_wait_in_the_clients_window() {
    let mut world = world(RateLimits { messages_per_second: 100, ..RateLimits::default() });
    let conn = world.upgraded();
    let start = world.now;
    world.exchange(conn, &frame(0x82, b"x").repeat(300));
    // A second's worth at once, the one that is over, and nothing more.
    assert_eq!(world.server.handler().messages, 101);
    for (after, at_least, at_most) in [(500, 148, 153), (1_000, 198, 203), (2_500, 300, 300)] {
        let wait = (start + MS(after)) - world.now;
        world.run_for(wait);
        let messages = world.server.handler().messages;
        assert!((at_least..=at_most).contains(&messages), "{messages} after {after} ms");
    }
    assert_eq!(world.server.handler().closed(), 0);
    assert_eq!(world.server.report().engine.dropped_rate, 0);
}

#[test]
fn bytes_over_the_rate_are_not_read() {
    let mut world = world(RateLimits { bytes_per_second: 100_000, ..RateLimits::default() });
    let conn = world.upgraded();
    // One message, far larger than what may come at once.
    let took = push(&mut world, conn, &frame(0x82, &[7; 500_000]), Duration::from_secs(10));
    // 100 kB at once, and the server's and the client's rings hold some.
    assert!(took > Duration::from_secs(2), "{took:?}");
    world.run_for(Duration::from_secs(4));
    assert_eq!((world.server.handler().messages, world.server.handler().message_bytes), (1, 500_000));
}

#[test]
fn bytes_count_however_many_are_read_at_once() {
    // A piece of a frame is read as far as it lies in the receive ring, which is much more than a turn's share here.
    let limits = Limits {
        rates: RateLimits { bytes_per_second: 100_000, ..RateLimits::default() },
        ..Limits::default()
    };
    let burst = Burst { connection_bytes: 1_024, ..Burst::default() };
    let config = EngineConfig { limits, burst, ..server_config() };
    let mut world = RawWorld::new(config, App::new().without_messages());
    let conn = world.upgraded();
    let took = push(&mut world, conn, &frame(0x82, &[7; 500_000]), Duration::from_secs(10));
    assert!(took > Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_connection_that_is_slowed_down_is_not_silent() {
    let deadlines =
        Deadlines { ping: Some(MS(500)), pong: MS(500), idle: Some(MS(3_000)), ..Deadlines::default() };
    let rates = RateLimits { bytes_per_second: 10_000, ..RateLimits::default() };
    let limits = Limits { rates, ..Limits::default() };
    let mut world = RawWorld::new(EngineConfig { limits, deadlines, ..server_config() }, App::new());
    let conn = world.upgraded();
    world.exchange(conn, &frame(0x82, &[7; 60_000]));
    world.run_for(MS(4_000));
    assert_eq!(world.server.handler().closed(), 0, "{:?}", world.server.handler().log.last());
}

#[test]
fn messages_over_the_rate_are_dropped_and_counted() {
    let rates = RateLimits { messages_per_second: 10, policy: RatePolicy::Drop, ..RateLimits::default() };
    let mut world = world(rates);
    let conn = world.upgraded();
    world.exchange(conn, &frame(0x82, b"x").repeat(50));
    assert_eq!(world.server.handler().messages, 11);
    assert_eq!(world.server.report().engine.dropped_rate, 39);
    // What was dropped does not count against what comes later.
    world.run_for(MS(1_000));
    world.exchange(conn, &frame(0x82, b"x").repeat(5));
    assert_eq!(world.server.handler().messages, 16);
}

#[test]
fn who_sends_too_fast_is_closed_with_1008() {
    for rates in [
        RateLimits { messages_per_second: 10, policy: RatePolicy::Close, ..RateLimits::default() },
        RateLimits { bytes_per_second: 1_024, policy: RatePolicy::Close, ..RateLimits::default() },
        // A ping flood, whatever the policy is.
        RateLimits { control_frames_per_second: 10, policy: RatePolicy::Drop, ..RateLimits::default() },
    ] {
        let mut world = world(rates);
        let conn = world.upgraded();
        let flood = [frame(0x89, b""), frame(0x82, &[1; 100]), frame(0x8a, b"?")].concat().repeat(20);
        let answer = world.exchange(conn, &flood);
        assert!(answer.windows(4).any(|four| four == b"\x88\x0a\x03\xf0"), "{rates:?}: {answer:?}");
        world.raw.finish(conn);
        world.run_for(MS(50));
        let (code, reason, _, cause) = world.server.handler().how_it_closed();
        assert_eq!((code, reason.as_str(), cause), (1008, "too fast", Cause::RateLimit), "{rates:?}");
    }
}

#[test]
fn a_reasonable_number_of_pings_is_answered() {
    let mut world = world(RateLimits::default());
    let conn = world.upgraded();
    for _ in 0..20 {
        world.exchange(conn, &frame(0x89, b"p").repeat(50));
        world.run_for(MS(1_000));
    }
    assert_eq!(world.server.report().engine.pings_in, 1_000);
    assert_eq!(world.server.handler().closed(), 0);
}

#[test]
fn a_connection_ends_at_its_age_however_busy_it_is() {
    let deadlines = Deadlines { lifetime: Some(MS(5_000)), ..Deadlines::default() };
    let mut world = RawWorld::new(EngineConfig { deadlines, ..server_config() }, App::echo());
    let conn = world.upgraded();
    let start = world.now;
    let mut last = Vec::new();
    while last.is_empty() || last[0] == 0x82 {
        last = world.exchange(conn, &frame(0x82, b"busy"));
        world.run_for(MS(100));
        assert!(world.now - start < MS(5_500), "still open");
    }
    assert!(world.now - start >= MS(5_000));
    assert!(last.starts_with(b"\x88") && last[2..4] == [0x03, 0xe9], "{last:?}");
    world.raw.abort(conn);
    world.run_for(MS(10));
    assert_eq!(world.server.handler().how_it_closed().3, Cause::Lifetime);
}
