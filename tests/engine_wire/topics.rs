//! Publish and subscribe, on one worker and across several.

use crate::app::App;
use crate::closing::frame;
use crate::crowd::{Crowd, Spread};
use crate::world::{RawWorld, World, server_config};
use std::cell::RefCell;
use std::rc::Rc;
use unsocket::engine::{EngineConfig, Limits, PublishOutcome, SubscribeError};
use unsocket::time::Duration;
use unsocket::ws::Message;

/// Subscribes everybody to the path's last part; what one says goes to that topic.
fn rooms() -> App {
    App::new()
        .on_upgrade(|request| unsocket::engine::Upgrade::accept(request.path()[1..].parse().unwrap_or(0)))
        .on_open(|conn| {
            let room = conn.session().to_string();
            conn.subscribe(&room).unwrap();
        })
        .on_message(|conn, message| {
            let room = conn.session().to_string();
            conn.publish(&room, message);
        })
}

#[test]
fn what_is_published_reaches_every_subscriber_and_nobody_else() {
    let mut world = World::new(
        rooms(),
        App::new().on_open(|conn| {
            if *conn.session() == 0 {
                conn.send_text("to room 1");
            }
        }),
    );
    // Tokens 1..=3 first, so that they are subscribed when token 0 speaks.
    for (token, room) in [(1, "/1"), (2, "/1"), (3, "/2")] {
        world.connect(room, token);
    }
    world.run_until(Duration::from_secs(1), |world| world.server.handler().opened().len() == 3);
    world.connect("/1", 0);
    world.run_until(Duration::from_secs(1), |world| world.client.handler().messages == 3);
    world.run_for(Duration::from_millis(100));
    assert_eq!(world.client.handler().texts(), ["to room 1"; 3]);
}

#[test]
fn the_outcome_counts_sent_queued_and_dropped() {
    let outcomes = Rc::new(RefCell::new(Vec::new()));
    let server = {
        let outcomes = outcomes.clone();
        App::new().on_open(|conn| conn.subscribe("all").unwrap()).on_message(move |conn, message| {
            outcomes.borrow_mut().push(match message {
                Message::Text("others") => conn.publish_to_others("all", Message::Binary(&[1; 10])),
                Message::Text("nobody") => conn.publish("none", Message::Text("x")),
                _ => conn.publish("all", Message::Binary(&[1; 30_000])),
            });
        })
    };
    let limits =
        Limits { overflow_bytes_max: 50_000, overflow_bytes_high_water: 50_000, ..Limits::default() };
    let mut world = RawWorld::new(EngineConfig { limits, ..server_config() }, server);
    let (speaker, _silent) = (world.upgraded(), world.upgraded());
    world.exchange(speaker, &frame(0x81, b"nobody"));
    world.exchange(speaker, &frame(0x81, b"others"));
    for _ in 0..12 {
        // The speaker reads what comes, the other one does not: its window, its ring, and its queue fill up.
        world.exchange(speaker, &frame(0x81, b"all"));
    }
    let outcomes = outcomes.borrow();
    let outcome = |sent, queued, dropped| PublishOutcome { sent, queued, dropped, ..Default::default() };
    assert_eq!(outcomes[0], outcome(0, 0, 0));
    assert_eq!(outcomes[1], outcome(1, 0, 0));
    assert_eq!(outcomes[2], outcome(2, 0, 0));
    assert!(outcomes.contains(&outcome(1, 1, 0)));
    assert_eq!(*outcomes.last().unwrap(), outcome(1, 0, 1));
    let dropped = outcomes.iter().map(|outcome| outcome.dropped as u64).sum::<u64>();
    assert_eq!(world.server.report().engine.dropped_slow_reader, dropped);
}

#[test]
fn whoever_has_left_or_unsubscribed_gets_nothing() {
    let server =
        App::new().on_open(|conn| conn.subscribe("all").unwrap()).on_message(|conn, message| match message {
            Message::Text("leave") => assert!(conn.unsubscribe("all") && !conn.unsubscribe("all")),
            _ => {
                conn.publish("all", message);
            }
        });
    let mut world = RawWorld::new(server_config(), server);
    let conns: Vec<_> = (0..4).map(|_| world.upgraded()).collect();
    world.exchange(conns[1], &frame(0x81, b"leave"));
    world.raw.abort(conns[2]);
    assert_eq!(world.exchange(conns[0], &frame(0x81, b"hello")), b"\x81\x05hello");
    assert_eq!(world.raw.receive(conns[3]), b"\x81\x05hello");
    assert!(world.raw.receive(conns[1]).is_empty());
}

#[test]
fn subscriptions_are_bounded() {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let server = {
        let seen = seen.clone();
        App::new().on_open(move |conn| {
            for topic in ["a", "a", "b", "c", "long name"] {
                seen.borrow_mut().push(conn.subscribe(topic));
            }
        })
    };
    let limits = Limits { topics_max: 3, subscriptions_max: 2, topic_bytes_max: 5, ..Limits::default() };
    let mut world = RawWorld::new(EngineConfig { limits, ..server_config() }, server);
    world.upgraded();
    let too_many = Err(SubscribeError::TooManySubscriptions { limit: 2 });
    let too_long = Err(SubscribeError::NameTooLong { limit: 5 });
    assert_eq!(*seen.borrow(), [Ok(()), Ok(()), Ok(()), too_many, too_long]);
}

#[test]
fn what_is_published_on_one_worker_reaches_the_subscribers_of_all() {
    const CONNECTIONS: usize = 30;
    let mut crowd = Crowd::new(
        [3, 1],
        Spread::Random,
        |_| {
            App::new().on_open(|conn| conn.subscribe("all").unwrap()).on_message(|conn, message| {
                let outcome = conn.publish("all", message);
                assert_eq!((outcome.forwarded, outcome.not_forwarded), (2, 0));
            })
        },
        |_| App::new(),
    );
    crowd.connect(CONNECTIONS, "/");
    crowd.run_until(Duration::from_secs(5), |crowd| {
        crowd.server.sum(|stats| stats.open) == CONNECTIONS as u64
    });
    assert!(crowd.server.workers.iter().all(|worker| worker.report().engine.open > 0));
    let speaker = crowd.client.workers[0].handler().opened()[0];
    crowd.client.handle.send(speaker, Message::Text("hello")).unwrap();
    crowd.run_until(Duration::from_secs(5), |crowd| {
        crowd.client.sum(|stats| stats.messages_in) == CONNECTIONS as u64
    });
    // From outside, too.
    crowd.server.handle.publish("all", Message::Binary(&[1, 2, 3])).unwrap();
    crowd.run_until(Duration::from_secs(5), |crowd| {
        crowd.client.sum(|stats| stats.messages_in) == 2 * CONNECTIONS as u64
    });
}
