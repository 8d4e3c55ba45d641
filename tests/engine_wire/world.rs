//! Hosts on wires, polled in turn on a virtual clock.

use crate::app::App;
use crate::pki;
use std::net::SocketAddr;
use std::sync::Arc;
use unsocket::engine::{Connect, ConnectTls, EngineConfig, Handle, NoWake, Progress, Wake, Worker, seats};
use unsocket::port::wire::{self, WireConfig, WirePort};
use unsocket::port::{Frame, Port};
use unsocket::stack::{ConnId, Stack, StackConfig, Status, TxQueue};
use unsocket::time::{Duration, Instant};
use unsocket::tls::ClientAuth;

pub(crate) const PORT: u16 = 80;
/// What one turn of all hosts costs on the virtual clock while there is something to do.
const STEP: Duration = Duration::from_micros(5);

/// The server's address.
pub(crate) fn server_addr() -> SocketAddr {
    "10.1.0.1:80".parse().unwrap()
}

/// A server's configuration: one address, one port.
pub(crate) fn server_config() -> EngineConfig {
    EngineConfig { listen: vec![PORT], stack: stack_config("10.1.0.1/24"), ..EngineConfig::default() }
}

/// The server's address where TLS is spoken.
pub(crate) fn tls_server_addr() -> SocketAddr {
    "10.1.0.1:443".parse().unwrap()
}

/// A server's configuration with TLS on a port of its own, and without on the usual one.
pub(crate) fn tls_server_config() -> EngineConfig {
    EngineConfig { listen_tls: vec![443], tls: Some(pki::server(ClientAuth::None)), ..server_config() }
}

/// A client's TLS for it.
pub(crate) fn connect_tls() -> ConnectTls {
    ConnectTls { config: pki::client(None), server_name: "one.test".into() }
}

/// A client's configuration.
pub(crate) fn client_config() -> EngineConfig {
    EngineConfig { stack: stack_config("10.1.0.2/24"), ..EngineConfig::default() }
}

fn stack_config(addr: &str) -> StackConfig {
    StackConfig { addrs: vec![addr.parse().unwrap()], ..StackConfig::default() }
}

/// What is polled in a world.
pub(crate) trait Host {
    fn poll(&mut self, now: Instant) -> Progress;
}

impl Host for Worker<WirePort, App> {
    fn poll(&mut self, now: Instant) -> Progress {
        Worker::poll(self, now)
    }
}

/// A server and a client worker, joined by one wire.
pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) server: Worker<WirePort, App>,
    pub(crate) client: Worker<WirePort, App>,
    pub(crate) server_handle: Handle,
    pub(crate) client_handle: Handle,
    /// Cleared to freeze the client: its host is not polled.
    pub(crate) client_runs: bool,
    /// How far the clock jumps at most when nobody has anything to do.
    pub(crate) jump_max: Duration,
    /// What the client's connections speak.
    pub(crate) tls: Option<ConnectTls>,
}

impl World {
    pub(crate) fn new(server: App, client: App) -> Self {
        World::with(server_config(), client_config(), server, client)
    }

    pub(crate) fn with(
        server_config: EngineConfig,
        client_config: EngineConfig,
        server: App,
        client: App,
    ) -> Self {
        let now = Instant::from_millis(1_000);
        let (a, b) = wire::pair(&WireConfig::default()).unwrap();
        let (server_handle, server) = worker(&server_config, 1, a, server, now);
        let (client_handle, client) = worker(&client_config, 2, b, client, now);
        World {
            now,
            server,
            client,
            server_handle,
            client_handle,
            client_runs: true,
            jump_max: Duration::from_secs(1),
            tls: None,
        }
    }

    /// As [`World::new`], with TLS in between.
    pub(crate) fn with_tls(server: App, client: App) -> Self {
        let mut world = World::with(tls_server_config(), client_config(), server, client);
        world.tls = Some(connect_tls());
        world
    }

    /// Has the client open a connection to `target` on the server.
    pub(crate) fn connect(&mut self, target: &str, token: u64) {
        let (addr, tls) =
            (if self.tls.is_some() { tls_server_addr() } else { server_addr() }, self.tls.clone());
        let connect = Connect { token, tls, ..Connect::new(addr, target) };
        self.client.with_context(|_, context| context.connect(connect));
    }

    /// Polls both hosts once; when neither had anything to do the clock jumps to what comes next.
    pub(crate) fn step(&mut self) {
        let server = self.server.poll(self.now);
        let client = if self.client_runs {
            self.client.poll(self.now)
        } else {
            Progress { busy: false, ended: false, deadline: None }
        };
        let next = if server.busy || client.busy {
            self.now + STEP
        } else {
            let far = self.now + self.jump_max;
            [server.deadline, client.deadline].into_iter().flatten().min().unwrap_or(far).min(far)
        };
        self.now = next.max(self.now + STEP);
    }

    /// Goes on until `done`, for at most `limit` of virtual time.
    #[track_caller]
    pub(crate) fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&World) -> bool) {
        let end = self.now + limit;
        while !done(self) {
            assert!(
                self.now < end,
                "not done in {limit:?}\nserver: {:?}\nclient: {:?}\nserver report: {:?}\nclient report: {:?}",
                last(&self.server.handler().log),
                last(&self.client.handler().log),
                self.server.report(),
                self.client.report(),
            );
            self.step();
        }
    }

    /// Goes on for `time`.
    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    /// Opens `count` connections, with the tokens 0, 1, ...
    #[track_caller]
    pub(crate) fn open(&mut self, count: usize) {
        for token in 0..count {
            self.connect("/", token as u64);
        }
        self.run_until(Duration::from_secs(5), |world| {
            world.client.handler().opened().len() == count && world.server.handler().opened().len() == count
        });
    }
}

fn last(log: &[crate::app::Happened]) -> &[crate::app::Happened] {
    &log[log.len().saturating_sub(5)..]
}

/// One worker by itself.
pub(crate) fn worker<P: Port>(
    config: &EngineConfig,
    secret: u8,
    port: P,
    app: App,
    now: Instant,
) -> (Handle, Worker<P, App>) {
    let wakers: Vec<Arc<dyn Wake>> = vec![Arc::new(NoWake)];
    let (handle, seats) = seats(config, 1500, [secret; 32], wakers).unwrap();
    let seat = seats.into_iter().next().unwrap();
    (handle, Worker::new(config, seat, port, app, now).unwrap())
}

/// A host that speaks TCP and nothing above it: what it sends and receives are bytes.
pub(crate) struct RawHost {
    port: WirePort,
    stack: Stack,
    tx: TxQueue<<WirePort as Port>::Frame>,
    rx: std::collections::VecDeque<<WirePort as Port>::Frame>,
}

impl RawHost {
    pub(crate) fn new(port: WirePort, now: Instant) -> Self {
        let stack = Stack::new(&stack_config("10.1.0.2/24"), port.info(), [9; 32], now).unwrap();
        let tx = TxQueue::new(256, port.info());
        RawHost { port, stack, tx, rx: Default::default() }
    }

    pub(crate) fn connect(&mut self, to: SocketAddr) -> ConnId {
        self.stack.connect(to).unwrap()
    }

    pub(crate) fn status(&self, conn: ConnId) -> Option<Status> {
        self.stack.status(conn)
    }

    /// Sends as much as fits; returns how much.
    pub(crate) fn send(&mut self, conn: ConnId, bytes: &[u8]) -> usize {
        self.stack.sender(conn).map_or(0, |mut half| half.write(bytes))
    }

    /// Takes what came.
    pub(crate) fn receive(&mut self, conn: ConnId) -> Vec<u8> {
        let mut received = Vec::new();
        while let Some(bytes) = self.stack.with_received(conn, |bytes, _| (bytes.len(), bytes.to_vec())) {
            received.extend(bytes);
        }
        received
    }

    pub(crate) fn finish(&mut self, conn: ConnId) {
        self.stack.finish(conn);
    }

    pub(crate) fn abort(&mut self, conn: ConnId) {
        self.stack.abort(conn);
    }
}

impl Host for RawHost {
    fn poll(&mut self, now: Instant) -> Progress {
        self.stack.begin(now);
        self.tx.refill(&mut self.port, 256);
        let mut work = self.port.rx_burst(&mut self.rx, 64);
        while let Some(frame) = self.rx.pop_front() {
            let _ = self.stack.ingress(frame.bytes(), frame.rx_checksum(), &mut self.tx);
            self.port.release(frame);
        }
        self.stack.timers();
        while self.stack.next_ready().is_some() {}
        self.stack.egress(&mut self.tx);
        work += self.tx.flush(&mut self.port);
        Progress { busy: work > 0, ended: false, deadline: self.stack.next_deadline() }
    }
}

/// A server worker and a raw host.
pub(crate) struct RawWorld {
    pub(crate) now: Instant,
    pub(crate) server: Worker<WirePort, App>,
    pub(crate) handle: Handle,
    pub(crate) raw: RawHost,
}

impl RawWorld {
    pub(crate) fn new(config: EngineConfig, app: App) -> Self {
        let now = Instant::from_millis(1_000);
        let (a, b) = wire::pair(&WireConfig::default()).unwrap();
        let (handle, server) = worker(&config, 1, a, app, now);
        RawWorld { now, server, handle, raw: RawHost::new(b, now) }
    }

    /// Polls both once; returns whether there was anything to do.
    pub(crate) fn step(&mut self) -> bool {
        let (server, raw) = (self.server.poll(self.now), self.raw.poll(self.now));
        self.now += STEP;
        server.busy || raw.busy
    }

    /// Goes on for `time`; when there is nothing to do the clock jumps to what comes next.
    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let (server, raw) = (self.server.poll(self.now), self.raw.poll(self.now));
            let next = if server.busy || raw.busy {
                self.now + STEP
            } else {
                [server.deadline, raw.deadline].into_iter().flatten().min().unwrap_or(end).min(end)
            };
            self.now = next.max(self.now + STEP);
        }
    }

    /// A TCP connection to the server.
    #[track_caller]
    pub(crate) fn open(&mut self) -> ConnId {
        self.open_at(server_addr())
    }

    /// A TCP connection to one of the server's ports.
    #[track_caller]
    pub(crate) fn open_at(&mut self, addr: SocketAddr) -> ConnId {
        let conn = self.raw.connect(addr);
        for _ in 0..100 {
            self.step();
            if self.raw.status(conn) == Some(Status::Open) {
                return conn;
            }
        }
        panic!("no connection: {:?}", self.raw.status(conn));
    }

    /// Sends all of `bytes`, goes on until nothing more happens by itself, and returns what came back.
    pub(crate) fn exchange(&mut self, conn: ConnId, bytes: &[u8]) -> Vec<u8> {
        let mut sent = 0;
        let mut received = Vec::new();
        for _ in 0..10_000 {
            sent += self.raw.send(conn, &bytes[sent..]);
            self.step();
            received.extend(self.raw.receive(conn));
            if sent == bytes.len() {
                break;
            }
        }
        assert_eq!(sent, bytes.len(), "the server does not take what is sent");
        let mut quiet = 0;
        while quiet < 3 {
            quiet = if self.step() { 0 } else { quiet + 1 };
            received.extend(self.raw.receive(conn));
        }
        received
    }

    /// As [`RawWorld::exchange`], with text.
    pub(crate) fn ask(&mut self, conn: ConnId, request: &str) -> String {
        String::from_utf8_lossy(&self.exchange(conn, request.as_bytes())).into_owned()
    }

    /// A connection on which the opening handshake is done.
    #[track_caller]
    pub(crate) fn upgraded(&mut self) -> ConnId {
        let conn = self.open();
        let answer = self.ask(conn, UPGRADE);
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        conn
    }
}

/// An upgrade request, as RFC 6455 section 1.3 has it.
pub(crate) const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: 10.1.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
