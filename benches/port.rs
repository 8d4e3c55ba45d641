//! What a frame costs on the wire port: on one thread (the instructions) and between two (the cache lines).
//!
//! `cargo bench --bench port`. The figures of the two-thread benches depend on which cores share a cache; they pin
//! themselves to the first two cores of the process.

#![allow(missing_docs, reason = "criterion's macro makes a public function without any")]

use core_affinity::{CoreId, get_core_ids, set_for_current};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use unsocket::port::wire::{WireConfig, WireFrame, WirePort, pair};
use unsocket::port::{Frame, Port};

const FRAME_BYTES: usize = 74;
const BURST: usize = 32;

fn fill(port: &mut WirePort, burst: &mut VecDeque<WireFrame>, count: usize) {
    while burst.len() < count {
        let Some(mut frame) = port.alloc() else { break };
        frame.set_len(FRAME_BYTES);
        frame.bytes_mut()[..8].copy_from_slice(&count.to_le_bytes());
        burst.push_back(frame);
    }
}

/// Pins this thread to the `index`-th core that the process started with, if it had so many.
fn pin(index: usize) {
    static CORES: OnceLock<Vec<CoreId>> = OnceLock::new();
    if let Some(core) = CORES.get_or_init(|| get_core_ids().unwrap_or_default()).get(index) {
        set_for_current(*core);
    }
}

/// Runs `work` on a second, pinned thread until `measure` has returned.
fn beside<R>(work: impl FnOnce(&AtomicBool) + Send, measure: impl FnOnce() -> R) -> R {
    pin(0);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(1);
            work(&stop);
        });
        let result = measure();
        stop.store(true, Ordering::Relaxed);
        result
    })
}

fn one_thread(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wire/one_thread");
    for burst_frames in [1, BURST, 256] {
        group.throughput(Throughput::Elements(burst_frames as u64));
        group.bench_function(BenchmarkId::new("send_receive_release", burst_frames), |bencher| {
            let (mut a, mut b) = pair(&WireConfig::default()).expect("a wire");
            let mut burst = VecDeque::with_capacity(burst_frames);
            bencher.iter(|| {
                fill(&mut a, &mut burst, burst_frames);
                a.tx_burst(&mut burst);
                b.rx_burst(&mut burst, burst_frames);
                for frame in burst.drain(..) {
                    black_box(frame.bytes()[0]);
                    b.release(frame);
                }
            });
        });
    }
    group.bench_function("empty_poll", |bencher| {
        let (_a, mut b) = pair(&WireConfig::default()).expect("a wire");
        let mut burst = VecDeque::new();
        bencher.iter(|| b.rx_burst(&mut burst, BURST));
    });
    group.finish();
}

/// One frame there and back: latency.
fn round_trip(criterion: &mut Criterion) {
    criterion.bench_function("wire/two_threads/round_trip", |bencher| {
        bencher.iter_custom(|rounds| {
            let (mut a, mut b) = pair(&WireConfig::default()).expect("a wire");
            let echo = |stop: &AtomicBool| {
                let mut burst = VecDeque::with_capacity(BURST);
                while !stop.load(Ordering::Relaxed) {
                    b.rx_burst(&mut burst, BURST);
                    b.tx_burst(&mut burst);
                }
            };
            beside(echo, || {
                let mut burst = VecDeque::with_capacity(BURST);
                fill(&mut a, &mut burst, 1);
                let started = Instant::now();
                for _ in 0..rounds {
                    a.tx_burst(&mut burst);
                    while a.rx_burst(&mut burst, BURST) == 0 {
                        std::hint::spin_loop();
                    }
                }
                started.elapsed()
            })
        });
    });
}

/// Many frames under way: throughput per frame, one way and echoed.
fn streams(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wire/two_threads");
    group.throughput(Throughput::Elements(1));
    group.bench_function("one_way", |bencher| {
        bencher.iter_custom(|frames| {
            let (mut a, mut b) = pair(&WireConfig::default()).expect("a wire");
            let sink = |stop: &AtomicBool| {
                let mut burst = VecDeque::with_capacity(BURST);
                while !stop.load(Ordering::Relaxed) {
                    b.rx_burst(&mut burst, BURST);
                    for frame in burst.drain(..) {
                        black_box(frame.bytes()[0]);
                        b.release(frame);
                    }
                }
            };
            beside(sink, || stream(&mut a, frames, false))
        });
    });
    group.bench_function("echo", |bencher| {
        bencher.iter_custom(|frames| {
            let (mut a, mut b) = pair(&WireConfig::default()).expect("a wire");
            let echo = |stop: &AtomicBool| {
                let (mut burst, mut answers) =
                    (VecDeque::with_capacity(BURST), VecDeque::with_capacity(BURST));
                while !stop.load(Ordering::Relaxed) {
                    b.rx_burst(&mut burst, BURST);
                    for frame in burst.drain(..) {
                        if let Some(mut answer) = b.alloc() {
                            answer.set_len(FRAME_BYTES);
                            answer.bytes_mut().copy_from_slice(frame.bytes());
                            answers.push_back(answer);
                        }
                        b.release(frame);
                    }
                    b.tx_burst(&mut answers);
                }
            };
            beside(echo, || stream(&mut a, frames, true))
        });
    });
    group.finish();
}

/// Sends `frames` in bursts, at most 512 not yet answered when they are `echoed`.
fn stream(port: &mut WirePort, frames: u64, echoed: bool) -> Duration {
    let (mut outgoing, mut received) = (VecDeque::with_capacity(BURST), VecDeque::with_capacity(BURST));
    let (mut sent, mut answered) = (0u64, 0u64);
    let started = Instant::now();
    while sent < frames || (echoed && answered < frames) {
        if sent < frames && (!echoed || sent - answered < 512) {
            fill(port, &mut outgoing, BURST);
            sent += port.tx_burst(&mut outgoing) as u64;
        }
        answered += port.rx_burst(&mut received, BURST) as u64;
        received.drain(..).for_each(|frame| port.release(frame));
    }
    started.elapsed()
}

criterion_group!(benches, one_thread, round_trip, streams);
criterion_main!(benches);
