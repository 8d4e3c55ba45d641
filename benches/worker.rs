//! What one server worker costs per message, and the floor below it in the same run.
//!
//! `cargo bench --bench worker`. The groups:
//!
//! * `server/...`: the server's time for a batch of messages that arrive over the wire, each on another of 1,000
//!   connections; only the server's polls are timed. `engine` is the whole engine with the echo application, `smoltcp`
//!   the floor (see `floor`): the difference is what WebSocket, timers, limits and counters cost.
//! * `pair/...`: server and client on two threads, 1,000 connections with one message on its way each: the time per
//!   message is the inverse of the rate. `unsocket bench` does the same with the engine.

#![allow(missing_docs, reason = "criterion's macro makes a public function without any")]

mod floor;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use floor::{Echo as FloorEcho, End, Loop, Role};
use smoltcp::time::Instant as SmoltcpInstant;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant as Clock};
use unsocket::apps::Echo;
use unsocket::engine::{
    Conn, ConnRef, Connect, Deadlines, EngineConfig, Handler, NoWake, SendOutcome, Wake, Worker, seats,
};
use unsocket::port::wire::{self, WireConfig, WirePort};
use unsocket::stack::{CongestionControl, StackConfig, TcpConfig};
use unsocket::time::Instant;
use unsocket::ws::Message;

const CONNECTIONS: usize = 1_000;
/// How far the made-up clock goes on per poll.
const STEP_MICROS: u64 = 10;
/// Payload of each message in bytes, and how many messages are a batch: about as many segments each.
const BATCHES: [(usize, usize); 3] = [(20, 32), (1 << 10, 32), (16 << 10, 3)];

/// Two ends that are polled in turn by one thread.
trait Pair {
    /// Puts `count` messages on the next `count` connections on their way.
    fn send(&mut self, count: usize);
    /// One poll of the client.
    fn poll_client(&mut self);
    /// One poll of the server.
    fn poll_server(&mut self);
    /// Whole replies so far.
    fn replies(&self) -> u64;

    /// Sends a batch and waits for all its replies; returns the server's time.
    fn batch(&mut self, count: usize) -> Duration {
        let due = self.replies() + count as u64;
        self.send(count);
        let mut spent = Duration::ZERO;
        while self.replies() < due {
            self.poll_client();
            let begun = Clock::now();
            self.poll_server();
            spent += begun.elapsed();
        }
        spent
    }
}

/// The client of the engine pair: counts replies.
#[derive(Default)]
struct Counter {
    open: Vec<ConnRef>,
    replies: u64,
}

impl Handler for Counter {
    type Session = ();

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        self.open.push(conn.id());
    }

    fn on_message(&mut self, _conn: &mut Conn<'_, Self>, _message: Message<'_>) {
        self.replies += 1;
    }
}

struct EnginePair {
    server: Worker<WirePort, Echo>,
    client: Worker<WirePort, Counter>,
    now: Instant,
    next: usize,
    message: Vec<u8>,
}

impl EnginePair {
    fn new(size: usize) -> Self {
        let (a, b) = wire::pair(&WireConfig::default()).unwrap();
        let server_config = EngineConfig { listen: vec![80], ..config("10.0.0.1/24") };
        let mut pair = EnginePair {
            server: worker(&server_config, a, Echo),
            client: worker(&config("10.0.0.2/24"), b, Counter::default()),
            now: Instant::from_millis(1),
            next: 0,
            message: vec![0x55; size],
        };
        pair.client.with_context(|_, context| {
            for _ in 0..CONNECTIONS {
                context.connect(Connect::new("10.0.0.1:80".parse().unwrap(), "/"));
            }
        });
        while pair.client.handler().open.len() < CONNECTIONS {
            pair.poll_client();
            pair.poll_server();
        }
        pair
    }
}

fn config(addr: &str) -> EngineConfig {
    EngineConfig {
        stack: StackConfig {
            addrs: vec![addr.parse().unwrap()],
            tcp: TcpConfig { congestion: CongestionControl::None, ..TcpConfig::default() },
            ..StackConfig::default()
        },
        deadlines: Deadlines { tick: None, ..Deadlines::default() },
        ..EngineConfig::default()
    }
}

fn worker<H: Handler>(config: &EngineConfig, port: WirePort, handler: H) -> Worker<WirePort, H> {
    let wakers: Vec<Arc<dyn Wake>> = vec![Arc::new(NoWake)];
    let (_, seats) = seats(config, 1500, [7; 32], wakers).unwrap();
    let seat = seats.into_iter().next().unwrap();
    Worker::new(config, seat, port, handler, Instant::from_millis(1)).unwrap()
}

impl Pair for EnginePair {
    fn send(&mut self, count: usize) {
        let EnginePair { client, next, message, .. } = self;
        client.with_context(|counter, context| {
            for _ in 0..count {
                let outcome = context.send(counter.open[*next], Message::Binary(message));
                assert_eq!(outcome, SendOutcome::Sent);
                *next = (*next + 1) % CONNECTIONS;
            }
        });
    }

    fn poll_client(&mut self) {
        self.client.poll(self.now);
    }

    fn poll_server(&mut self) {
        self.now += Duration::from_micros(STEP_MICROS);
        self.server.poll(self.now);
    }

    fn replies(&self) -> u64 {
        self.client.handler().replies
    }
}

/// The client of the floor pair: counts replies.
struct FloorCounter {
    size: usize,
    bytes: u64,
}

impl Role for FloorCounter {
    fn on_bytes(&mut self, _connection: usize, socket: &mut smoltcp::socket::tcp::Socket<'static>) {
        while let Ok(length @ 1..) = socket.recv(|bytes| (bytes.len(), bytes.len())) {
            self.bytes += length as u64;
        }
    }
}

struct FloorPair {
    server: End<FloorEcho>,
    client: End<FloorCounter>,
    now: SmoltcpInstant,
    next: usize,
    message: Vec<u8>,
}

impl FloorPair {
    fn new(size: usize) -> Self {
        let (a, b) = wire::pair(&WireConfig::default()).unwrap();
        let mut pair = FloorPair {
            server: End::server(a, FloorEcho::new()),
            client: End::client(b, FloorCounter { size, bytes: 0 }),
            now: SmoltcpInstant::ZERO,
            next: 0,
            message: vec![0x55; size],
        };
        pair.client.connect(CONNECTIONS);
        open(|count| {
            pair.client.mark_all();
            for _ in 0..count {
                pair.poll_client();
                pair.poll_server();
            }
            pair.client.open()
        });
        pair
    }
}

/// Polls until all connections are open: the first SYNs wait for ARP, and smoltcp asks once a second.
fn open(mut poll: impl FnMut(usize) -> usize) {
    while poll(1_000) < CONNECTIONS {}
}

impl Pair for FloorPair {
    fn send(&mut self, count: usize) {
        for _ in 0..count {
            self.client.send(self.next, &self.message);
            self.next = (self.next + 1) % CONNECTIONS;
        }
    }

    fn poll_client(&mut self) {
        self.client.poll(self.now, 64);
    }

    fn poll_server(&mut self) {
        self.now += smoltcp::time::Duration::from_micros(STEP_MICROS);
        self.server.poll(self.now, 64);
    }

    fn replies(&self) -> u64 {
        self.client.role.bytes / self.client.role.size as u64
    }
}

fn server(c: &mut Criterion) {
    for (size, count) in BATCHES {
        let mut group = c.benchmark_group(format!("server/{size} B x {count}"));
        group.throughput(Throughput::Elements(count as u64));
        time_batches(&mut group, "engine", count, || EnginePair::new(size));
        time_batches(&mut group, "smoltcp", count, || FloorPair::new(size));
        group.finish();
    }
}

/// `make` is called only if the benchmark was not filtered out.
fn time_batches<P: Pair>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    count: usize,
    make: impl Fn() -> P,
) {
    let mut pair = None;
    group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
        let pair = pair.get_or_insert_with(&make);
        bencher.iter_custom(|batches| (0..batches).map(|_| pair.batch(count)).sum());
    });
}

/// The floor on two threads, as `unsocket bench` runs the engine.
fn pair(c: &mut Criterion) {
    let size = 20;
    let (a, b) = wire::pair(&WireConfig::default()).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let epoch = Clock::now();
    let now = move || SmoltcpInstant::from_micros(epoch.elapsed().as_micros() as i64);
    let server = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut server = End::server(a, FloorEcho::new());
            while !stop.load(Ordering::Relaxed) {
                server.poll(now(), 64);
            }
        }
    });
    let mut client = End::client(b, Loop::new(CONNECTIONS, size));
    client.connect(CONNECTIONS);
    open(|count| {
        client.mark_all();
        for _ in 0..count {
            client.poll(now(), 64);
        }
        client.open()
    });
    (0..CONNECTIONS).for_each(|index| client.send(index, &vec![0x55; size]));
    let mut group = c.benchmark_group(format!("pair/{size} B"));
    group.throughput(Throughput::Elements(1));
    group.bench_function("smoltcp", |bencher| {
        bencher.iter_custom(|messages| {
            let due = client.role.replies + messages;
            let begun = Clock::now();
            while client.role.replies < due {
                client.poll(now(), 64);
            }
            begun.elapsed()
        });
    });
    group.finish();
    stop.store(true, Ordering::Relaxed);
    server.join().unwrap();
}

criterion_group!(benches, server, pair);
criterion_main!(benches);
