//! One case of `scripts/count-instructions`: a closed loop on one thread at made-up times, always the same.
//!
//! `instructions CASE` carries it out and prints how many messages the polls that count have echoed; callgrind counts
//! the instructions within [`counted`]. The cases are `server/SIZE` and `generator/SIZE`, an end of the engine (with `SIZExN`
//! messages on their way on each connection), `churn-server/0`, for which a connection that comes and goes is a message, and `floor-server/SIZE` and `floor-client/SIZE`, the same end of the floor;
//! `copy/SIZE` copies a message's bytes once, for `scripts/profile`. Without a case each of the first is carried out once.

#![allow(missing_docs, reason = "a program, not a library")]

mod floor;

use floor::{Echo as FloorEcho, End, Loop};
use std::hint::black_box;
use std::sync::Arc;
use unsocket::apps::Echo;
use unsocket::bench::churn::Churn;
use unsocket::bench::client::{Client, Destination, Driven, Rounds};
use unsocket::bench::crew::{Bounds, Crew};
use unsocket::bench::generator::Generator;
use unsocket::bench::{Clock, Plan, Scenario, Stop, engine_setup};
use unsocket::engine::{EngineConfig, Handler, NoWake, Wake, Worker, seats};
use unsocket::port::wire::{self, WireConfig, WirePort};
use unsocket::stack::StackConfig;
use unsocket::time::{Duration, Instant};

const CASES: [&str; 9] = [
    "server/20",
    "server/20x16",
    "server/1024",
    "server/16384",
    "generator/20",
    "generator/20x16",
    "churn-server/0",
    "floor-server/20",
    "floor-client/20",
];
const CONNECTIONS: usize = 200;
const PORT: u16 = 80;
/// Replies before those that count: every connection has sent, every ring has been used.
const WARM_UP: u64 = 1_000;
/// How far the made-up clock goes on per poll.
const STEP: Duration = Duration::from_micros(10);
/// Bytes of payload that count, at least, and the messages that count at least and at most.
const BYTES: u64 = 16 << 20;
const MESSAGES: [u64; 2] = [1_000, 10_000];

/// The end whose polls count.
#[derive(Clone, Copy, PartialEq)]
enum Counted {
    Server,
    Client,
}

/// Callgrind counts what happens in here.
#[inline(never)]
fn counted(poll: impl FnOnce()) {
    poll();
}

/// Two ends that are polled in turn.
trait Pair {
    fn poll(&mut self, now: Instant, end: Counted);
    fn replies(&self) -> u64;
}

struct EnginePair<L: Driven> {
    server: Worker<WirePort, Echo>,
    client: Worker<WirePort, L>,
    rounds: Rounds,
    crew: Crew,
    /// The load is to open connections, not to echo messages on them.
    churns: bool,
    has_begun: bool,
}

impl EnginePair<Client> {
    /// Connections that stay, with so many messages on their way on each.
    fn new(size: usize, in_flight: u32) -> Self {
        let plan = Plan { in_flight, size: size.into(), ..plan() };
        EnginePair::with(&plan, Client::new)
    }
}

impl EnginePair<Churn> {
    /// Connections that come and go.
    fn churning() -> Self {
        let plan = Plan { scenario: Scenario::Connect { echoes: 0 }, ..plan() };
        EnginePair::with(&plan, |generator, destination| Churn::new(generator, destination, 0))
    }
}

fn plan() -> Plan {
    Plan { connections: CONNECTIONS as u32, stop: Stop::Messages(u64::MAX), ..Plan::default() }
}

impl<L: Driven> EnginePair<L> {
    fn with(plan: &Plan, client: impl FnOnce(Generator, Destination) -> L) -> Self {
        let (crew, mut generators) = Crew::new(plan, Clock::new());
        let (a, b) = wire::pair(&WireConfig::default()).unwrap();
        let config = |addr: &str| {
            let stack = StackConfig { addrs: vec![addr.parse().unwrap()], ..StackConfig::default() };
            engine_setup::config(plan, stack)
        };
        let destination = Destination {
            sources: Vec::new(),
            remotes: vec![([10, 0, 0, 1], PORT).into()],
            host: "10.0.0.1".to_owned(),
            target: "/".to_owned(),
            tls: None,
        };
        let client = client(generators.remove(0), destination);
        EnginePair {
            server: worker(&EngineConfig { listen: vec![PORT], ..config("10.0.0.1/24") }, a, Echo),
            client: worker(&config("10.0.0.2/24"), b, client),
            rounds: Rounds::default(),
            crew,
            churns: matches!(plan.scenario, Scenario::Connect { .. }),
            has_begun: false,
        }
    }
}

fn worker<H: Handler>(config: &EngineConfig, port: WirePort, handler: H) -> Worker<WirePort, H> {
    let wakers: Vec<Arc<dyn Wake>> = vec![Arc::new(NoWake)];
    let (_, mut seats) = seats(config, 1500, [7; 32], wakers).unwrap();
    Worker::new(config, seats.remove(0), port, handler, Instant::ZERO).unwrap()
}

impl<L: Driven> Pair for EnginePair<L> {
    fn poll(&mut self, now: Instant, end: Counted) {
        match end {
            Counted::Server => {
                self.server.poll(now);
            }
            Counted::Client => {
                let all_are_open = self.client.report().engine.opened == CONNECTIONS as u64;
                if !self.has_begun && (all_are_open || self.churns) {
                    self.has_begun = true;
                    self.crew.window().open(Bounds { start: now, from: now, until: Instant::FAR_FUTURE });
                }
                assert!(!self.rounds.go(&mut self.client, now), "the load goes on");
                self.client.poll(now);
            }
        }
    }

    fn replies(&self) -> u64 {
        let report = self.client.report();
        if self.churns { report.stack.closed } else { report.engine.messages_in }
    }
}

struct FloorPair {
    server: End<FloorEcho>,
    client: End<Loop>,
    sent: bool,
    size: usize,
}

impl FloorPair {
    fn new(size: usize) -> Self {
        let (a, b) = wire::pair(&WireConfig::default()).unwrap();
        let mut client = End::client(b, Loop::new(CONNECTIONS, size));
        client.connect(CONNECTIONS);
        FloorPair { server: End::server(a, FloorEcho::new()), client, sent: false, size }
    }
}

impl Pair for FloorPair {
    fn poll(&mut self, now: Instant, end: Counted) {
        let now = smoltcp::time::Instant::from_micros((now.as_nanos() / 1_000) as i64);
        match end {
            Counted::Server => self.server.poll(now, 64),
            Counted::Client => {
                if !self.sent {
                    self.client.mark_all();
                    if self.client.open() == CONNECTIONS {
                        self.sent = true;
                        (0..CONNECTIONS).for_each(|index| self.client.send(index, &vec![0x55; self.size]));
                    }
                }
                self.client.poll(now, 64)
            }
        };
    }

    fn replies(&self) -> u64 {
        self.client.role.replies
    }
}

/// Runs the loop until the messages that count are back; returns how many they are.
fn run(pair: &mut impl Pair, end: Counted, size: usize) -> u64 {
    let mut now = Instant::from_millis(1);
    while pair.replies() < WARM_UP {
        pair.poll(now, Counted::Client);
        pair.poll(now, Counted::Server);
        now += STEP;
    }
    let begun = pair.replies();
    let wanted = (BYTES / size.max(1) as u64).clamp(MESSAGES[0], MESSAGES[1]);
    while pair.replies() < begun + wanted {
        for polled in [Counted::Client, Counted::Server] {
            if polled == end {
                counted(|| pair.poll(now, polled));
            } else {
                pair.poll(now, polled);
            }
        }
        now += STEP;
    }
    pair.replies() - begun
}

/// Copies `size` bytes as often as messages would count; returns how often.
fn copy(size: usize) -> u64 {
    let (from, mut to) = (vec![0x55; size], vec![0; size]);
    let copies = (BYTES / size as u64).clamp(MESSAGES[0], MESSAGES[1]);
    for _ in 0..copies {
        counted(|| black_box(&mut to[..]).copy_from_slice(black_box(&from[..])));
    }
    copies
}

fn carry_out(case: &str) {
    let (end, load) = case.split_once('/').expect("a case is END/SIZE");
    let (size, in_flight) = load.split_once('x').unwrap_or((load, "1"));
    let size: usize = size.parse().expect("a size is a number of bytes");
    let in_flight = in_flight.parse().expect("messages on their way are a number");
    let messages = match end {
        "server" => run(&mut EnginePair::new(size, in_flight), Counted::Server, size),
        "churn-server" => run(&mut EnginePair::churning(), Counted::Server, size),
        "generator" => run(&mut EnginePair::new(size, in_flight), Counted::Client, size),
        "floor-server" => run(&mut FloorPair::new(size), Counted::Server, size),
        "floor-client" => run(&mut FloorPair::new(size), Counted::Client, size),
        "copy" => copy(size),
        _ => panic!("{case}: the cases are {CASES:?}"),
    };
    println!("{case} {messages}");
}

fn main() {
    // `cargo bench` passes options of its own.
    let cases: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if cases.is_empty() {
        CASES.into_iter().for_each(carry_out);
    }
    cases.iter().for_each(|case| carry_out(case));
}
