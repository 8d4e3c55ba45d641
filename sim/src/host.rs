//! One unsocket server or client: its workers, as their launcher would run them, on queues of a simulated NIC.

use crate::app::App;
use crate::book::{Book, Violation};
use crate::nic::{BurstMode, Queue, SimPort};
use crate::packet::{End, Segment};
use crate::rng::Rng;
use crate::scenario::{HostPlan, Scenario, Steer};
use crate::tls;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use unsocket::engine::{
    Burst, ConnectTls, Deadlines, EngineConfig, Handle, Limits, Progress, RateLimits, RatePolicy, Wake,
    Worker, seats,
};
use unsocket::port::PortInfo;
use unsocket::stack::{Cidr, Route, StackConfig, TcpConfig};
use unsocket::time::{Duration, Instant};

pub(crate) const PORT: u16 = 80;
pub(crate) const TLS_PORT: u16 = 443;
pub(crate) const CONNECTIONS_MAX: usize = 64;
pub(crate) const HALF_OPEN_MAX: usize = 32;
pub(crate) const MEMORY_BYTES_MAX: usize = 512 << 20;

/// Wakes a worker that sleeps.
#[derive(Default)]
struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A worker's place, whether there is a worker in it or not.
pub(crate) struct Seated {
    pub(crate) worker: Option<Worker<SimPort, App>>,
    pub(crate) queue: Rc<RefCell<Queue>>,
    pub(crate) asleep: bool,
    /// When it is polled next, in the world's time.
    pub(crate) poll_at: Option<Instant>,
    bell: Arc<Bell>,
    /// Bursts in a row that were busy and moved nothing.
    pub(crate) idle_polls: u32,
    /// Its last burst had frames for other workers.
    pub(crate) handed_over: bool,
    /// Counters of what moves, as of the last burst.
    moved: [u64; 5],
}

pub(crate) struct Host {
    pub(crate) plan: HostPlan,
    pub(crate) mac: [u8; 6],
    pub(crate) addr: IpAddr,
    pub(crate) seats: Vec<Seated>,
    pub(crate) handle: Handle,
    pub(crate) offset: Rc<Cell<Duration>>,
    pub(crate) frozen: bool,
    pub(crate) crashed: bool,
    pub(crate) drained: bool,
    pub(crate) incarnation: u64,
    /// When a worker last had more half-open connections than it keeps.
    pub(crate) evicted_at: Option<Instant>,
    /// Which queue a flow is on: the one it was last sent from.
    flows: BTreeMap<(End, End), usize>,
    rng: Rng,
    frame_bytes_max: usize,
    config: EngineConfig,
    /// What its connections with TLS begin with, as a client.
    pub(crate) client_tls: Option<ConnectTls>,
    pub(crate) index: usize,
    seed: u64,
    book: Rc<RefCell<Book>>,
}

/// The address of a node on a segment.
pub(crate) fn address(ipv6: bool, segment: usize, node: usize) -> IpAddr {
    if ipv6 {
        Ipv6Addr::new(0xfd00, 0, 0, segment as u16, 0, 0, 0, node as u16 + 1).into()
    } else {
        Ipv4Addr::new(10, 0, segment as u8, node as u8 + 1).into()
    }
}

/// The router's place among the addresses.
pub(crate) const ROUTER: usize = 253;

fn config(scenario: &Scenario, plan: &HostPlan, addr: IpAddr, segment: usize) -> EngineConfig {
    let seconds = Duration::from_secs;
    let patient = scenario.gentle;
    let [bytes_per_second, messages_per_second] = plan.reads_per_second.unwrap_or([0; 2]);
    let prefix = if scenario.ipv6 { 64 } else { 24 };
    let default_route = Cidr {
        addr: if scenario.ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() },
        prefix: 0,
    };
    let routes = if scenario.has_router() {
        vec![Route { to: default_route, via: address(scenario.ipv6, segment, ROUTER) }]
    } else {
        Vec::new()
    };
    let tcp = TcpConfig {
        recv_buffer_bytes: plan.recv_buffer_bytes,
        send_buffer_bytes: plan.send_buffer_bytes,
        congestion: plan.congestion,
        min_rto: plan.min_rto,
        user_timeout: seconds(if patient { 300 } else { 30 }),
        syn_timeout: seconds(if patient { 200 } else { 10 }),
        fin_wait2_timeout: seconds(20),
        time_wait: seconds(30),
        time_wait_max: 256,
        half_open_max: HALF_OPEN_MAX,
        ..TcpConfig::default()
    };
    EngineConfig {
        listen: if plan.is_server { vec![PORT] } else { Vec::new() },
        listen_tls: if plan.is_server && scenario.tls { vec![TLS_PORT] } else { Vec::new() },
        tls: (plan.is_server && scenario.tls).then(tls::server),
        stack: StackConfig { addrs: vec![Cidr { addr, prefix }], routes, tcp, ..StackConfig::default() },
        limits: Limits {
            connections_max: CONNECTIONS_MAX,
            overflow_bytes_max: plan.overflow_bytes_max,
            overflow_bytes_high_water: plan.high_water,
            memory_bytes_max: MEMORY_BYTES_MAX,
            // Its clients ping as they please; what a flood of pings comes to is tested apart.
            rates: RateLimits {
                bytes_per_second,
                messages_per_second,
                control_frames_per_second: 0,
                policy: RatePolicy::Delay,
            },
            ..Limits::default()
        },
        deadlines: Deadlines {
            handshake: seconds(if patient { 200 } else { 10 }),
            // A close frame waits behind megabytes that may have to be sent again every 12 s, a window each time.
            close: seconds(if patient { 1_500 } else { 5 }),
            idle: plan.idle,
            ping: plan.ping,
            pong: seconds(if patient { 200 } else { 10 }),
            drain: seconds(if patient { 1_600 } else { 10 }),
            tick: Some(plan.tick),
            ..Deadlines::default()
        },
        slow_reader: plan.slow_reader,
        deflate: plan.deflate,
        burst: Burst {
            rx_frames: plan.rx_frames,
            tx_frames: plan.tx_frames,
            connection_bytes: plan.connection_bytes,
            connection_messages: plan.connection_messages,
            ..Burst::default()
        },
        ..EngineConfig::default()
    }
}

impl Host {
    pub(crate) fn new(scenario: &Scenario, index: usize, book: &Rc<RefCell<Book>>, now: Instant) -> Self {
        let plan = scenario.hosts[index].clone();
        let segment = usize::from(plan.off_link);
        let addr = address(scenario.ipv6, segment, index);
        let config = config(scenario, &plan, addr, segment);
        let offset = Rc::new(Cell::new(plan.clock_offset));
        let mac = [2, 0, 0, 0, 0, index as u8 + 1];
        let (handle, _) = seats(&config, plan.mtu, [0; 32], Vec::new()).expect("a configuration that works");
        let mut host = Host {
            mac,
            addr,
            seats: Vec::new(),
            handle,
            offset,
            frozen: false,
            crashed: false,
            drained: false,
            incarnation: 0,
            evicted_at: None,
            flows: BTreeMap::new(),
            rng: Rng::new(scenario.seed, "steering", index as u64),
            frame_bytes_max: plan.mtu + 14,
            config,
            client_tls: (scenario.tls && !plan.is_server).then(tls::client),
            index,
            seed: scenario.seed,
            book: book.clone(),
            plan,
        };
        host.start(now);
        host
    }

    /// Starts with empty state.
    pub(crate) fn start(&mut self, now: Instant) {
        self.incarnation += 1;
        self.crashed = false;
        // Tickets of before are worth nothing to it.
        self.config.tls = self.config.tls.as_ref().map(|_| tls::server());
        self.client_tls = self.client_tls.as_ref().map(|_| tls::client());
        self.flows.clear();
        let purpose = self.index as u64 | self.incarnation << 32;
        let mut secret = [0; 32];
        Rng::new(self.seed, "secret", purpose).fill(&mut secret);
        let bells: Vec<Arc<Bell>> = (0..self.plan.workers).map(|_| Arc::default()).collect();
        let wakers = bells.iter().map(|bell| bell.clone() as Arc<dyn Wake>).collect();
        let (handle, seats) =
            seats(&self.config, self.plan.mtu, secret, wakers).expect("a configuration that works");
        self.handle = handle;
        self.seats.clear();
        for (at, (seat, bell)) in seats.into_iter().zip(bells).enumerate() {
            let info = PortInfo {
                name: format!("sim{}/{at}", self.index),
                mac: self.mac,
                mtu: self.plan.mtu,
                frame_bytes_max: self.frame_bytes_max,
                tso_frame_bytes_max: None,
                tx_checksum_offload: false,
                rx_checksum_trusted: false,
                rss: None,
            };
            // Every place of the ring can be filled while the worker holds all it may.
            let frames = self.plan.rx_ring + self.plan.rx_frames + 2 * self.plan.tx_frames;
            let port = SimPort::new(
                info,
                frames,
                self.plan.rx_ring,
                Rng::new(self.seed, "queue", purpose << 8 | at as u64),
            );
            let queue = port.queue.clone();
            let publisher = self.incarnation_bits() | at as u64;
            let app =
                App::new(self.book.clone(), self.offset.clone(), publisher, self.plan.overflow_bytes_max);
            let worker = Worker::new(&self.config, seat, port, app, self.local(now))
                .expect("a configuration that works");
            self.seats.push(Seated {
                worker: Some(worker),
                queue,
                asleep: false,
                poll_at: None,
                bell,
                idle_polls: 0,
                handed_over: false,
                moved: [0; 5],
            });
        }
    }

    /// What tells this host since its last start from all others, in the numbers of its publishers.
    fn incarnation_bits(&self) -> u64 {
        (self.index as u64) << 16 | self.incarnation << 4
    }

    /// This host's time.
    pub(crate) fn local(&self, now: Instant) -> Instant {
        now + self.offset.get()
    }

    /// Everything is gone at once. Frames must not be.
    pub(crate) fn crash(&mut self) -> Result<(), Violation> {
        self.crashed = true;
        for at in 0..self.seats.len() {
            self.leave(at)?;
            self.seats[at].poll_at = None;
        }
        Ok(())
    }

    /// This host is left out of the world.
    pub(crate) fn never_starts(&mut self) {
        self.crashed = true;
        self.seats.iter_mut().for_each(|seat| seat.worker = None);
    }

    /// A worker ends: every frame must be back.
    pub(crate) fn leave(&mut self, at: usize) -> Result<(), Violation> {
        let seat = &mut self.seats[at];
        if let Some(worker) = seat.worker.take() {
            let engine = worker.report().engine;
            let dropped = engine.dropped_slow_reader + engine.dropped_memory + engine.publishes_not_forwarded;
            let publisher = self.incarnation_bits() | at as u64;
            self.book.borrow_mut().counted_dropped(publisher, dropped);
        }
        let seat = &mut self.seats[at];
        let queue = seat.queue.borrow();
        if queue.leaked > 0 || queue.held() > 0 {
            return Err(Violation {
                oracle: "no frame leaks",
                what: format!(
                    "host {} worker {at} ended: {} frames held, {} lost in memory",
                    self.index,
                    queue.held(),
                    queue.leaked
                ),
            });
        }
        Ok(())
    }

    /// A frame arrives; the worker that is to look at it.
    pub(crate) fn arrive(&mut self, frame: Vec<u8>) -> usize {
        let workers = self.seats.len();
        let at = match self.plan.steer {
            Steer::Single => 0,
            // A hash that is not the engine's: most flows land on a worker that does not own them.
            Steer::Anywhere => match Segment::parse(&frame) {
                None => self.rng.size(0, workers - 1),
                Some(segment) => usize::from(segment.from.port ^ segment.to.port) * 40_503 / 7 % workers,
            },
            Steer::Device => match Segment::parse(&frame) {
                None => 0,
                Some(segment) => {
                    let spread = usize::from(segment.from.port ^ segment.from.port >> 8) % workers;
                    *self.flows.entry((segment.to, segment.from)).or_insert(spread)
                }
            },
        };
        self.seats[at].queue.borrow_mut().arrive(frame, self.frame_bytes_max);
        at
    }

    /// Runs one burst; what it sent, and what came of it.
    pub(crate) fn poll(&mut self, at: usize, now: Instant) -> Option<(Vec<Vec<u8>>, Progress)> {
        let local = self.local(now);
        let seat = &mut self.seats[at];
        let worker = seat.worker.as_mut()?;
        let (half_open, accepted) = (worker.stack().half_open(), worker.report().stack.rx_syn_accepted);
        let progress = worker.poll(local);
        let report = worker.report();
        // What the burst would have left half-open, had the oldest not given way.
        if half_open as u64 + report.stack.rx_syn_accepted - accepted > HALF_OPEN_MAX as u64 {
            self.evicted_at = Some(now);
        }
        let moved = [
            report.port.rx_frames,
            report.port.tx_frames,
            report.engine.taken_over,
            report.engine.messages_in,
            report.engine.handed_over,
        ];
        seat.handed_over = moved[4] != seat.moved[4];
        let is_idle = progress.busy && moved == seat.moved;
        seat.idle_polls = if is_idle { seat.idle_polls + 1 } else { 0 };
        seat.moved = moved;
        let mut queue = seat.queue.borrow_mut();
        seat.asleep = false;
        Some((std::mem::take(&mut queue.tx), progress))
    }

    /// Does what the launcher does between two bursts; how long the worker sleeps, `None` for as long as nobody wakes it.
    pub(crate) fn rest(&mut self, at: usize, now: Instant, progress: &Progress) -> Option<Duration> {
        // What a burst takes. A worker that is busy with nothing polls as often as it can; the world need not.
        let seat = &mut self.seats[at];
        let cost = Duration::from_micros(2 << (seat.idle_polls / 8).min(6));
        let Some(worker) = &mut seat.worker else { return None };
        if progress.busy || !worker.prepare_sleep() {
            return Some(cost);
        }
        seat.asleep = true;
        let local = now + self.offset.get();
        let wait = progress.deadline.map(|deadline| deadline.saturating_since(local));
        [wait, worker.wait_max()].into_iter().flatten().min().map(|wait| wait.max(cost))
    }

    /// Whether something wakes a sleeping worker: a command, or, where that may be, frames from another worker.
    pub(crate) fn is_woken(&self, at: usize, by_frames: bool) -> bool {
        let seat = &self.seats[at];
        let Some(worker) = &seat.worker else { return false };
        if seat.bell.0.swap(false, Ordering::Relaxed) {
            return true;
        }
        if !by_frames || self.seats.len() == 1 {
            return false;
        }
        let fds = worker.wait_fds();
        let mut fds: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready > 0)
    }

    pub(crate) fn remember_flow(&mut self, at: usize, frame: &[u8]) {
        if self.plan.steer == Steer::Device
            && let Some(segment) = Segment::parse(frame)
        {
            self.flows.insert((segment.from, segment.to), at);
        }
    }

    pub(crate) fn set_burst(&mut self, burst: BurstMode) {
        self.seats.iter().for_each(|seat| seat.queue.borrow_mut().burst = burst);
    }

    /// Whether every connection is over.
    pub(crate) fn is_quiet(&self) -> bool {
        self.seats.iter().all(|seat| {
            seat.queue.borrow().rx.is_empty()
                && seat.worker.as_ref().is_none_or(|worker| {
                    worker.stack().connections() == 0 && worker.report().engine.sessions == 0
                })
        })
    }

    /// The state of every worker, for the reader.
    pub(crate) fn describe(&self) -> String {
        let mut text = format!("host {} ({}):", self.index, self.addr);
        for (at, seat) in self.seats.iter().enumerate() {
            let queue = seat.queue.borrow();
            match &seat.worker {
                None => text += &format!("\n  worker {at}: ended"),
                Some(worker) => {
                    let report = worker.report();
                    text += &format!(
                        "\n  worker {at}: asleep {}, next burst {:?}, {} connections, {} sessions, {} open, {} frames waiting, {} held; {:?} {:?}",
                        seat.asleep,
                        seat.poll_at,
                        worker.stack().connections(),
                        report.engine.sessions,
                        report.engine.open,
                        queue.rx.len(),
                        queue.held(),
                        report.engine,
                        report.stack
                    );
                }
            }
        }
        text
    }
}
