//! Several workers behind one address: every flow finds its worker.

use crate::app::App;
use crate::crowd::{Crowd, Spread};
use crate::world::server_config;
use unsocket::engine::{EngineConfig, Limits};
use unsocket::time::Duration;

const CONNECTIONS: usize = 60;
const ROUNDS: usize = 30;

fn ping_pong() -> App {
    App::new()
        .without_messages()
        .on_open(|conn| {
            conn.send_text("0");
        })
        .on_message(|conn, message| {
            let number: usize = core::str::from_utf8(message.as_bytes()).unwrap().parse().unwrap();
            if number + 1 < ROUNDS {
                conn.send_text(&(number + 1).to_string());
            }
        })
}

fn everything_echoes(workers: [usize; 2], spread: Spread) -> Crowd {
    let mut crowd = Crowd::new(workers, spread, |_| App::echo().without_messages(), |_| ping_pong());
    crowd.connect(CONNECTIONS / workers[1], "/");
    let expected = (CONNECTIONS / workers[1] * workers[1] * ROUNDS) as u64;
    crowd.run_until(Duration::from_secs(20), |crowd| crowd.client.sum(|stats| stats.messages_in) == expected);
    for side in [&crowd.server, &crowd.client] {
        assert_eq!(side.sum(|stats| stats.hand_over_dropped), 0);
        assert_eq!(side.sum(|stats| stats.closed_unclean), 0);
        for worker in &side.workers {
            assert_eq!(
                worker.report().stack.rx_rst_sent,
                0,
                "a segment came to a worker that does not own it"
            );
        }
    }
    crowd
}

#[test]
fn one_worker_has_nothing_to_steer() {
    let crowd = everything_echoes([1, 1], Spread::First);
    assert_eq!(crowd.server.sum(|stats| stats.handed_over), 0);
}

#[test]
fn one_receive_queue_and_several_workers() {
    for workers in [2, 3, 4] {
        let crowd = everything_echoes([workers, 1], Spread::First);
        assert!(crowd.server.sum(|stats| stats.handed_over) > 0);
        for worker in &crowd.server.workers {
            assert!(worker.report().engine.opened > 0, "{workers} workers share the connections");
        }
        assert_eq!(crowd.server.workers[1].report().engine.rx_frames, 0);
    }
}

#[test]
fn frames_on_any_queue_find_their_worker_on_both_sides() {
    for workers in [[2, 2], [4, 3]] {
        let crowd = everything_echoes(workers, Spread::Random);
        for side in [&crowd.server, &crowd.client] {
            assert!(side.sum(|stats| stats.taken_over) > 0);
            assert_eq!(side.sum(|stats| stats.taken_over), side.sum(|stats| stats.handed_over));
        }
    }
}

#[test]
fn a_device_that_steers_leaves_only_arp_to_hand_over() {
    for spread in [Spread::Rss, Spread::FlowHash] {
        for workers in [[3, 1], [2, 2], [2, 3]] {
            let crowd = everything_echoes(workers, spread);
            for side in [&crowd.server, &crowd.client] {
                assert_eq!(side.sum(|stats| stats.misplaced), 0, "{spread:?} {workers:?}");
                assert!(side.sum(|stats| stats.handed_over) < 20);
                assert!(side.workers.iter().all(|worker| worker.report().engine.opened > 0));
            }
        }
    }
}

#[test]
fn a_device_that_steers_otherwise_than_it_says_is_put_right() {
    let crowd = everything_echoes([3, 2], Spread::OtherKey);
    for side in [&crowd.server, &crowd.client] {
        assert!(side.sum(|stats| stats.misplaced) > 0);
        assert!(side.sum(|stats| stats.taken_over) >= side.sum(|stats| stats.misplaced));
    }
}

#[test]
fn no_worker_ends_before_the_last_one_is_done() {
    let quiet = || App::new().without_messages();
    let mut crowd = Crowd::new([3, 1], Spread::First, |_| quiet(), |_| quiet());
    crowd.connect(CONNECTIONS, "/");
    crowd.run_until(Duration::from_secs(5), |crowd| {
        crowd.client.sum(|stats| stats.opened) == CONNECTIONS as u64
    });
    crowd.server.handle.drain();
    let mut ended = [false; 3];
    for _ in 0..20_000 {
        let now = crowd.now;
        for (worker, ended) in crowd.server.workers.iter_mut().zip(&mut ended) {
            *ended |= worker.poll(now).ended;
        }
        // The first worker's queue receives for all.
        assert!(!ended.contains(&true) || crowd.server.sum(|stats| stats.sessions) == 0);
        crowd.step();
    }
    assert_eq!(ended, [true; 3]);
    assert_eq!(crowd.client.sum(|stats| stats.closed_clean), CONNECTIONS as u64);
    assert_eq!(crowd.server.sum(|stats| stats.closed_clean), CONNECTIONS as u64);
}

#[test]
fn a_peer_has_only_so_many_connections_over_all_workers() {
    const PER_PEER_MAX: u64 = 7;
    let limits = Limits { connections_per_peer_max: PER_PEER_MAX as u32, ..Limits::default() };
    let config = EngineConfig { limits, ..server_config() };
    let silent = |_| App::new().without_messages();
    let mut crowd = Crowd::with_config(&config, [3, 1], Spread::First, silent, silent);
    crowd.connect(CONNECTIONS, "/");
    let refused = CONNECTIONS as u64 - PER_PEER_MAX;
    crowd.run_until(Duration::from_secs(20), |crowd| {
        let count = |counter: fn(&unsocket::engine::WorkerStats) -> u64| crowd.server.sum(counter);
        count(|stats| stats.refused_peer) == refused && count(|stats| stats.opened) == PER_PEER_MAX
    });
    assert!(crowd.server.workers.iter().all(|worker| worker.report().engine.refused_peer > 0));
    assert_eq!(crowd.server.sum(|stats| stats.sessions), PER_PEER_MAX);
}
