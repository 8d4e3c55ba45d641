//! What TLS costs: records, handshakes, memory, and how long a handshake keeps the others waiting.
//!
//! `cargo bench --bench tls` prints a table; without `--bench` (as tests run it) everything is done a few times and the
//! figures mean nothing.

#![allow(missing_docs, reason = "a program, not a library")]

use std::sync::Arc;
use std::time::{Duration, Instant as Clock};
use unsocket::apps::Echo;
use unsocket::engine::{
    Burst, Closed, Conn, ConnRef, Connect, ConnectTls, Context, EngineConfig, Handler, NoWake, Wake, Worker,
    seats,
};
use unsocket::port::wire::{self, WireConfig, WirePort};
use unsocket::stack::StackConfig;
use unsocket::time::Instant;
use unsocket::tls::{self, ClientTls, Data, ServerTls, Stream};
use unsocket::ws::{CloseCode, Message};

const NAME: &str = "bench.test";

fn main() {
    let real = std::env::args().any(|argument| argument == "--bench");
    let times = |count: usize| if real { count } else { count.div_ceil(1_000) };
    let (server, client) = tls::pair(NAME).unwrap();
    records(&server, &client, times(200_000));
    handshakes(&server, &client, times(2_000));
    memory(&server, &client, times(10_000));
    gaps(Arc::new(server), &client.without_sessions(), times(2_000));
}

/// Two ends with their handshake done.
fn established(server: &ServerTls, client: &ClientTls) -> (Stream, Stream) {
    let (mut server, mut client) = (server.accept().unwrap(), client.connect(NAME).unwrap());
    shake(&mut server, &mut client);
    (server, client)
}

/// Carries what both ends have to say; returns the time that each of them took.
fn shake(server: &mut Stream, client: &mut Stream) -> [Duration; 2] {
    let mut spent = [Duration::ZERO; 2];
    while server.control_bytes() + client.control_bytes() > 0 {
        let mut to_server = std::mem::take(client.control());
        spent[0] += timed(|| receive(server, &mut to_server));
        let mut to_client = std::mem::take(server.control());
        spent[1] += timed(|| receive(client, &mut to_client));
    }
    assert!(!server.is_handshaking() && !client.is_handshaking());
    spent
}

fn timed(f: impl FnOnce()) -> Duration {
    let begun = Clock::now();
    f();
    begun.elapsed()
}

fn receive(stream: &mut Stream, mut bytes: &mut [u8]) {
    while !bytes.is_empty() {
        let step = stream.receive(bytes).unwrap();
        bytes = &mut bytes[step.taken..];
    }
}

/// One record sealed and opened again.
fn records(server: &ServerTls, client: &ClientTls, count: usize) {
    let (mut server, mut client) = established(server, client);
    for size in [20, 125, 1 << 10, 16 << 10] {
        let payload = vec![7; size];
        let (_, record_bytes) = server.next_record(size).unwrap();
        let mut record = vec![0; record_bytes];
        let rounds = (count * 64 / (64 + size / 32)).max(1);
        let (mut seal, mut open) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..rounds {
            seal += timed(|| server.seal(&mut record, |place| place.copy_from_slice(&payload)));
            open += timed(|| {
                let step = client.receive(&mut record).unwrap();
                assert!(matches!(step.data, Data::Shown(range) if range.len() == size));
            });
        }
        let per = |spent: Duration| spent.as_nanos() as f64 / rounds as f64;
        println!("record of {size:>5} B          seal {:>6.0} ns   open {:>6.0} ns", per(seal), per(open));
    }
}

/// Handshakes with clients that know no earlier session, and with one that does.
fn handshakes(server: &ServerTls, client: &ClientTls, count: usize) {
    established(server, client);
    for (kind, client) in [("full", client.without_sessions()), ("resumed", client.clone())] {
        let (mut spent, mut worst) = ([Duration::ZERO; 2], Duration::ZERO);
        for _ in 0..count {
            let mut server = server.accept().unwrap();
            let hello = Clock::now();
            let mut client = client.connect(NAME).unwrap();
            let hello = hello.elapsed();
            let times = shake(&mut server, &mut client);
            assert_eq!(server.agreed().unwrap().resumed, kind == "resumed");
            spent = [spent[0] + times[0], spent[1] + hello + times[1]];
            worst = worst.max(times[0]);
        }
        let [server, client] = spent.map(|spent| spent.as_secs_f64() * 1e6 / count as f64);
        let worst = worst.as_secs_f64() * 1e6;
        println!(
            "{kind:<7} handshake    server {server:>6.1} us   client {client:>6.1} us   server's worst {worst:>6.1} us"
        );
    }
}

/// What an idle connection holds: the growth of the process, without what its peer holds.
fn memory(server: &ServerTls, client: &ClientTls, count: usize) {
    // What the allocator keeps from before is used up first.
    let warm: Vec<_> = (0..count.min(200)).map(|_| established(server, client)).collect();
    for role in ["server", "client"] {
        let before = resident_bytes();
        let kept: Vec<Stream> = (0..count)
            .map(|_| {
                let (mut server, mut client) = established(server, client);
                server.reclaim();
                client.reclaim();
                if role == "server" { server } else { client }
            })
            .collect();
        let grown = resident_bytes().saturating_sub(before);
        println!(
            "idle {role}                {:>6.0} B a connection, of {count}",
            grown as f64 / count as f64
        );
        drop(kept);
    }
    drop(warm);
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size()
}

/// A client that keeps one message on its way, and opens and closes connections beside.
struct Crowd {
    remote: std::net::SocketAddr,
    tls: Option<ConnectTls>,
    steady: Option<ConnRef>,
    opened: usize,
    wanted: usize,
}

impl Crowd {
    fn connect(&self, context: &mut Context<'_, Self>) {
        context.connect(Connect { tls: self.tls.clone(), ..Connect::new(self.remote, "/") });
    }
}

impl Handler for Crowd {
    type Session = ();

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        if self.steady.is_none() {
            self.steady = Some(conn.id());
            conn.send_binary(&[1; 20]);
        } else {
            self.opened += 1;
            conn.close(CloseCode::NORMAL, "");
        }
    }

    fn on_message(&mut self, conn: &mut Conn<'_, Self>, message: Message<'_>) {
        conn.send(message);
    }

    fn on_close(&mut self, _conn: &mut Conn<'_, Self>, _closed: &Closed<'_>) {}
}

/// How long one burst of a server takes, which is how long everybody else waits: without handshakes, with one at a time,
/// with as many as come.
fn gaps(server: Arc<ServerTls>, client: &ClientTls, handshakes: usize) {
    for (what, count, per_burst) in [
        ("no handshakes", 0, 1),
        ("burst.tls_handshakes = 1", handshakes, 1),
        ("burst.tls_handshakes = 64", handshakes, 64),
    ] {
        let mut spent = gap(&server, client, count, per_burst, handshakes);
        spent.sort_unstable();
        let at = |share: f64| spent[((spent.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
        println!(
            "{what:<26} a busy burst p50 {:>6.1} us   p99 {:>6.1} us   p99.9 {:>7.1} us   worst {:>7.1} us   of {}",
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0),
            spent.len()
        );
    }
}

/// The time of each busy poll of a server.
fn gap(
    server_tls: &Arc<ServerTls>,
    client_tls: &ClientTls,
    handshakes: usize,
    per_burst: usize,
    least: usize,
) -> Vec<Duration> {
    let burst = Burst { tls_handshakes: per_burst, ..Burst::default() };
    let stack = |addr: &str| StackConfig { addrs: vec![addr.parse().unwrap()], ..StackConfig::default() };
    let server_config = EngineConfig {
        listen_tls: vec![443],
        tls: Some(server_tls.clone()),
        stack: stack("10.0.0.1/24"),
        burst,
        ..EngineConfig::default()
    };
    // The client's bursts are not looked at: it may do many.
    let client_config = EngineConfig {
        stack: stack("10.0.0.2/24"),
        burst: Burst { tls_handshakes: 64, ..Burst::default() },
        ..EngineConfig::default()
    };
    let (a, b) = wire::pair(&WireConfig::default()).unwrap();
    let mut now = Instant::from_millis(1_000);
    let mut server = worker(&server_config, a, Echo, now);
    let tls = Some(ConnectTls { config: client_tls.clone(), server_name: NAME.to_owned() });
    let remote = "10.0.0.1:443".parse().unwrap();
    let crowd = Crowd { remote, tls, steady: None, opened: 0, wanted: 0 };
    let mut client = worker(&client_config, b, crowd, now);
    client.with_context(|crowd, context| crowd.connect(context));

    let mut spent = Vec::new();
    while client.handler().opened < handshakes || spent.len() < least {
        client.with_context(|crowd, context| {
            // Sixteen at once, each a session of its own.
            while crowd.steady.is_some() && crowd.wanted < handshakes && crowd.wanted < crowd.opened + 16 {
                crowd.wanted += 1;
                crowd.connect(context);
            }
        });
        client.poll(now);
        let begun = Clock::now();
        let busy = server.poll(now).busy;
        let took = begun.elapsed();
        if busy && client.handler().steady.is_some() {
            spent.push(took);
        }
        now += Duration::from_micros(10);
    }
    spent
}

fn worker<H: Handler>(
    config: &EngineConfig,
    port: WirePort,
    handler: H,
    now: Instant,
) -> Worker<WirePort, H> {
    let wakers: Vec<Arc<dyn Wake>> = vec![Arc::new(NoWake)];
    let (_, seats) = seats(config, 1_500, [7; 32], wakers).unwrap();
    Worker::new(config, seats.into_iter().next().unwrap(), port, handler, now).unwrap()
}
