//! The round trip of one cache line between two cores: what any two threads that talk through memory pay at least.

use super::crew;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Round trips of one measurement.
const TRIPS: u64 = 20_000;
/// Measurements, of which the least is taken: whatever else the machine does only adds.
const ROUNDS: usize = 5;

/// The round trip between two cores in nanoseconds; `None` when a thread cannot be pinned to one of them.
pub fn round_trip_ns(a: usize, b: usize) -> Option<f64> {
    let (ball, ready) = (crossbeam_utils::CachePadded::new(AtomicU64::new(0)), Barrier::new(2));
    let wait_for = |value| {
        while ball.load(Ordering::Acquire) != value {
            std::hint::spin_loop();
        }
    };
    let rounds = || (0..ROUNDS as u64).map(|round| round * 2 * TRIPS);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let pinned = crew::pin(b).is_ok();
            for base in rounds() {
                ready.wait();
                for trip in 0..TRIPS {
                    wait_for(base + 2 * trip + 1);
                    ball.store(base + 2 * trip + 2, Ordering::Release);
                }
            }
            pinned
        });
        let this = scope.spawn(|| {
            let pinned = crew::pin(a).is_ok();
            let best = rounds().map(|base| {
                ready.wait();
                let begun = Instant::now();
                for trip in 0..TRIPS {
                    ball.store(base + 2 * trip + 1, Ordering::Release);
                    wait_for(base + 2 * trip + 2);
                }
                begun.elapsed().as_nanos() as f64 / TRIPS as f64
            });
            (pinned, best.fold(f64::INFINITY, f64::min))
        });
        let (pinned, best) = this.join().ok()?;
        (pinned && other.join().ok()?).then_some(best)
    })
}
