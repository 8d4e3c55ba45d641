//! Several workers on each side, with a device on each side that puts frames on any queue.

use crate::app::App;
use crate::world::{client_config, server_addr, server_config};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use unsocket::engine::{Connect, EngineConfig, Handle, NoWake, Wake, Worker, seats};
use unsocket::port::spread::{End, Hashed, Rss, flow_hash};
use unsocket::port::wire::{self, WireConfig, WireFrame, WirePort};
use unsocket::port::{Frame, Port, PortInfo, PortStats};
use unsocket::time::{Duration, Instant};

/// How a device spreads frames over its queues.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Spread {
    /// All on the first: a device with one receive queue.
    First,
    /// Anywhere, anew for each frame.
    Random,
    /// By RSS, and it says how.
    Rss,
    /// As the workers' own hash has it, like the other end of a memif.
    FlowHash,
    /// By RSS with another key than it says.
    OtherKey,
}

/// A queue that says how its device spreads flows.
pub(crate) struct Nic {
    queue: WirePort,
    info: PortInfo,
}

impl Port for Nic {
    type Frame = WireFrame;

    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn rx_burst(&mut self, burst: &mut VecDeque<WireFrame>, max: usize) -> usize {
        self.queue.rx_burst(burst, max)
    }

    fn alloc(&mut self) -> Option<WireFrame> {
        self.queue.alloc()
    }

    fn tx_burst(&mut self, burst: &mut VecDeque<WireFrame>) -> usize {
        self.queue.tx_burst(burst)
    }

    fn release(&mut self, frame: WireFrame) {
        self.queue.release(frame);
    }

    fn stats(&self) -> PortStats {
        self.queue.stats()
    }
}

fn rss(key: [u8; 2], queues: usize) -> Rss {
    let table = (0..128).map(|at| at % queues as u16).collect();
    Rss::new(key.repeat(20), table, Hashed::AddressesAndPorts, Hashed::AddressesAndPorts).unwrap()
}

/// Source and destination of a TCP segment over IPv4.
fn endpoints(frame: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let end = |addr: usize, port: usize| {
        let addr: [u8; 4] = frame[addr..addr + 4].try_into().unwrap();
        SocketAddr::from((addr, u16::from_be_bytes([frame[port], frame[port + 1]])))
    };
    (frame[12..14] == [8, 0] && frame[23] == 6).then(|| (end(26, 34), end(30, 36)))
}

/// The key under which both directions of a flow hash alike.
const KEY: [u8; 2] = [0x6d, 0x5a];

fn end(addr: SocketAddr) -> End {
    let IpAddr::V4(v4) = addr.ip() else { panic!("IPv4 only") };
    End { addr: [0, 0xffff_0000_0000 | u64::from(v4.to_bits())], port: addr.port() }
}

/// One side: the workers of one host on one device.
pub(crate) struct Side {
    pub(crate) workers: Vec<Worker<Nic, App>>,
    pub(crate) handle: Handle,
    /// The switch's ends of the queues.
    cables: Vec<WirePort>,
    spread: Spread,
}

pub(crate) struct Crowd {
    pub(crate) now: Instant,
    pub(crate) server: Side,
    pub(crate) client: Side,
    random: u64,
}

impl Side {
    fn new(
        config: &EngineConfig,
        workers: usize,
        spread: Spread,
        app: impl Fn(usize) -> App,
        mac: u8,
    ) -> Self {
        let macs = [[2, 0, 0, 0, 0, mac], [2, 0, 0, 0, 0, 0xEE]];
        let (ports, cables) = wire::queues(workers, &WireConfig { macs, ..WireConfig::default() }).unwrap();
        let wakers: Vec<Arc<dyn Wake>> = ports.iter().map(|_| Arc::new(NoWake) as Arc<dyn Wake>).collect();
        let (handle, seats) = seats(config, 1500, [mac; 32], wakers).unwrap();
        let now = Instant::from_millis(1_000);
        let says_how = matches!(spread, Spread::Rss | Spread::OtherKey);
        let worker = |(index, (queue, seat)): (usize, (WirePort, _))| {
            let rss = says_how.then(|| Arc::new(rss(KEY, workers)));
            let info = PortInfo { rss, ..queue.info().clone() };
            Worker::new(config, seat, Nic { queue, info }, app(index), now).unwrap()
        };
        let workers = ports.into_iter().zip(seats).enumerate().map(worker).collect();
        Side { workers, handle, cables, spread }
    }

    /// Takes what the workers have sent.
    fn collect(&mut self, frames: &mut VecDeque<Vec<u8>>) {
        for cable in &mut self.cables {
            let mut burst = VecDeque::new();
            while cable.rx_burst(&mut burst, 64) > 0 {
                for frame in burst.drain(..) {
                    frames.push_back(frame.bytes().to_vec());
                    cable.release(frame);
                }
            }
        }
    }

    /// Puts a frame on one of the queues.
    fn deliver(&mut self, bytes: &[u8], random: u64) {
        let queues = self.cables.len();
        let queue = match self.spread {
            Spread::First => 0,
            Spread::Random => random as usize % queues,
            Spread::Rss | Spread::OtherKey | Spread::FlowHash => endpoints(bytes).map_or(0, |(from, to)| {
                let queue = match self.spread {
                    Spread::Rss => rss(KEY, queues).queue(from, to).into(),
                    Spread::FlowHash => flow_hash(end(from), end(to)) as usize,
                    _ => rss([0x12, 0x34], queues).queue(from, to).into(),
                };
                queue % queues
            }),
        };
        let cable = &mut self.cables[queue];
        let Some(mut frame): Option<WireFrame> = cable.alloc() else { return };
        frame.set_len(bytes.len());
        frame.bytes_mut().copy_from_slice(bytes);
        let mut burst = VecDeque::from([frame]);
        cable.tx_burst(&mut burst);
        for frame in burst {
            cable.release(frame);
        }
    }

    /// The sum of one counter over all workers.
    pub(crate) fn sum(&self, counter: impl Fn(&unsocket::engine::WorkerStats) -> u64) -> u64 {
        self.workers.iter().map(|worker| counter(&worker.report().engine)).sum()
    }
}

impl Crowd {
    pub(crate) fn new(
        workers: [usize; 2],
        spread: Spread,
        server: impl Fn(usize) -> App,
        client: impl Fn(usize) -> App,
    ) -> Self {
        Crowd::with_config(&server_config(), workers, spread, server, client)
    }

    pub(crate) fn with_config(
        config: &EngineConfig,
        [server_workers, client_workers]: [usize; 2],
        spread: Spread,
        server: impl Fn(usize) -> App,
        client: impl Fn(usize) -> App,
    ) -> Self {
        Crowd {
            now: Instant::from_millis(1_000),
            server: Side::new(config, server_workers, spread, server, 1),
            client: Side::new(&client_config(), client_workers, spread, client, 2),
            random: 0x9E37_79B9_7F4A_7C15,
        }
    }

    /// Has each client worker open `count` connections.
    pub(crate) fn connect(&mut self, count: usize, target: &str) {
        for worker in &mut self.client.workers {
            for token in 0..count as u64 {
                let connect = Connect { token, ..Connect::new(server_addr(), target) };
                worker.with_context(|_, context| context.connect(connect));
            }
        }
    }

    pub(crate) fn step(&mut self) {
        let mut busy = false;
        let mut next = self.now + Duration::from_millis(5);
        for worker in self.server.workers.iter_mut().chain(&mut self.client.workers) {
            let progress = worker.poll(self.now);
            busy |= progress.busy;
            next = next.min(progress.deadline.unwrap_or(next));
        }
        let (mut to_client, mut to_server) = (VecDeque::new(), VecDeque::new());
        self.server.collect(&mut to_client);
        self.client.collect(&mut to_server);
        busy |= !to_client.is_empty() || !to_server.is_empty();
        for (side, frames) in [(&mut self.client, to_client), (&mut self.server, to_server)] {
            for frame in frames {
                // xorshift64: any sequence will do, as long as it is the same each time.
                self.random ^= self.random << 13;
                self.random ^= self.random >> 7;
                self.random ^= self.random << 17;
                side.deliver(&frame, self.random >> 20);
            }
        }
        let step = self.now + Duration::from_micros(5);
        self.now = if busy { step } else { next.max(step) };
    }

    #[track_caller]
    pub(crate) fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Crowd) -> bool) {
        let end = self.now + limit;
        while !done(self) {
            let reports = |side: &Side| {
                side.workers.iter().map(|worker| format!("{:?}\n", worker.report())).collect::<String>()
            };
            assert!(
                self.now < end,
                "not done in {limit:?}\n{}{}",
                reports(&self.server),
                reports(&self.client)
            );
            self.step();
        }
    }
}
