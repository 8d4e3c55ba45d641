//! What the parts of the stack cost that every segment or every connection passes: `cargo bench --bench stack_parts`.
//!
//! They are private to the crate, so their files are compiled into this program.
#![allow(missing_docs, unreachable_pub)] // Nobody depends on a benchmark.
#![allow(unsafe_code)] // `RingPool::give_back` has a contract to keep.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::net::SocketAddr;

#[path = "../src/time.rs"]
#[allow(dead_code)] // Each benchmark uses a part.
mod time;

#[path = "../src/port"]
#[allow(dead_code)] // As above.
mod port {
    pub(crate) const ETHERNET_HEADER_BYTES: usize = 14;
    pub(crate) mod spread;
}

#[path = "../src/stack"]
#[allow(dead_code, unused_imports)] // As above; and their unit tests come along, but not as tests.
mod stack {
    pub(crate) mod classify;
    pub(crate) mod flow;
    mod frames;
    pub(crate) mod isn;
    pub(crate) mod key;
    pub(crate) mod rings;
    mod secret;
    pub(crate) mod wheel;
}

use stack::classify::{Class, classify};
use stack::flow::FlowTable;
use stack::isn::{SequenceNumbers, pcg_seed_for};
use stack::key::{FlowKey, symmetric_hash};
use stack::rings::RingPool;
use stack::wheel::TimerWheel;
use time::{Duration, Instant};

const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const SECRET: [u8; 32] = [42; 32];

/// An acknowledgement from 10.0.0.1:40000 to 10.0.0.2:80, padded to 60 bytes; classifying reads no checksums.
fn ipv4_segment() -> [u8; 60] {
    let mut frame = [0; 60];
    frame[..6].copy_from_slice(&OUR_MAC);
    frame[6..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 0x08, 0]);
    frame[14..34].copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame[34..50].copy_from_slice(&[0x9c, 0x40, 0, 80, 0, 0, 0, 9, 0, 0, 0, 7, 0x50, 0x10, 0x10, 0]);
    frame
}

/// The same from fd00::1 to fd00::2.
fn ipv6_segment() -> [u8; 74] {
    let mut frame = [0; 74];
    frame[..12].copy_from_slice(&ipv4_segment()[..12]);
    frame[12..22].copy_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
    frame[22..38].copy_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    frame[38..54].copy_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    frame[54..].copy_from_slice(&ipv4_segment()[34..54]);
    frame
}

fn flow(n: u32) -> FlowKey {
    let [a, b, c, d] = n.to_be_bytes();
    let local = SocketAddr::from(([10, 0, 0, 2], 80));
    FlowKey::new(local, SocketAddr::from(([10, a, b, c], 1_024 + u16::from(d))))
}

/// Every number under `count` in an order that no prefetcher foresees.
fn scattered(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(move |n| (u64::from(n) * 0x9e37_79b1 % u64::from(count)) as u32)
}

/// Frames in a burst.
const BURST: usize = 64;

fn classifying(c: &mut Criterion) {
    let mut group = c.benchmark_group("classify");
    group.throughput(Throughput::Elements(BURST as u64));
    let burst = |frame: &[u8]| {
        let seqs = black_box([frame; BURST]).map(|frame| match classify(frame, OUR_MAC) {
            Class::Tcp(segment) => segment.seq,
            _ => 0,
        });
        black_box(seqs);
    };
    let (v4, v6) = (ipv4_segment(), ipv6_segment());
    group.bench_function("64 ipv4 segments of 60 bytes", |b| b.iter(|| burst(&v4)));
    group.bench_function("64 ipv6 segments of 74 bytes", |b| b.iter(|| burst(&v6)));
    let keys: Vec<FlowKey> = (0..BURST as u32).map(flow).collect();
    group.bench_function("64 symmetric hashes", |b| {
        b.iter(|| black_box(&keys).iter().map(symmetric_hash).fold(0, u32::wrapping_add));
    });
    group.finish();
}

fn flows(c: &mut Criterion) {
    let mut group = c.benchmark_group("flow table");
    for count in [1_000, 100_000, 1_000_000] {
        let mut table = FlowTable::new(count as usize, &SECRET);
        for n in 0..count {
            table.insert(flow(n), n);
        }
        let keys: Vec<FlowKey> = scattered(count).map(flow).collect();
        group.throughput(Throughput::Elements(1));
        let mut turn = keys.iter().cycle();
        group.bench_function(BenchmarkId::new("get", count), |b| {
            b.iter(|| table.get(turn.next().unwrap_or(&keys[0])));
        });
        group.bench_function(BenchmarkId::new("remove and insert", count), |b| {
            b.iter(|| {
                let key = turn.next().unwrap_or(&keys[0]);
                if let Some(index) = table.remove(key) {
                    table.insert(*key, index);
                }
            });
        });
    }
    group.finish();
}

fn timers(c: &mut Criterion) {
    let mut group = c.benchmark_group("timer wheel");
    for count in [1_000, 100_000, 1_000_000] {
        let mut now = Instant::from_millis(1);
        let mut wheel = TimerWheel::new(count as usize, now);
        for key in 0..count {
            wheel.schedule(key, now + Duration::from_secs(3_600) + Duration::from_micros(u64::from(key)));
        }
        group.bench_function(BenchmarkId::new("loop with idle timers", count), |b| {
            b.iter(|| {
                now += Duration::from_micros(1);
                wheel.pop_due(now)
            });
        });
        let keys: Vec<u32> = scattered(count).collect();
        let mut turn = keys.iter().cycle();
        group.bench_function(BenchmarkId::new("schedule in 200 ms, loop every 1 us", count), |b| {
            b.iter(|| {
                wheel.schedule(*turn.next().unwrap_or(&0), now + Duration::from_millis(200));
                now += Duration::from_micros(1);
                while let Some(key) = wheel.pop_due(now) {
                    wheel.schedule(key, now + Duration::from_secs(3_600));
                }
            });
        });
    }
    group.finish();
}

fn connections(c: &mut Criterion) {
    let mut group = c.benchmark_group("connection");
    let mut pool = RingPool::new(10_000, 65_535, 65_536).expect("address space for 10,000 connections");
    group.bench_function("take rings and give them back", |b| {
        b.iter(|| {
            let Some((rings, recv, send)) = pool.take() else { return };
            drop((black_box(recv), black_box(send)));
            // SAFETY: Both buffers are dropped, and nothing else had them.
            unsafe { pool.give_back(rings) }
        });
    });
    let numbers = SequenceNumbers::new(&SECRET);
    let key = flow(7);
    group.bench_function("sequence number and its seed", |b| {
        b.iter(|| pcg_seed_for(numbers.generate(black_box(&key), Instant::from_millis(5), None)));
    });
    group.finish();
}

criterion_group!(benches, classifying, flows, timers, connections);
criterion_main!(benches);
