//! What a world consists of, drawn from its seed: hosts, connections, faults, adversaries, and when each begins.

use crate::letter::Side;
use std::collections::BTreeSet;
use std::time::Duration;
use unsocket::engine::SlowReader;
use unsocket::stack::CongestionControl;
use unsocket::ws::deflate::DeflateConfig;

/// How long what a fault left behind may trouble connections that begin after it: half-dead ones, timers backed off.
const AFTERMATH: Duration = Duration::from_secs(10);
/// How long after a fault a connection may die of it: longer than any deadline of a harsh world.
const LINGERING: Duration = Duration::from_secs(120);

/// What is left out of a world: how a failing one is made smaller. Nothing else changes by it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Without {
    /// Faults, by number.
    pub faults: BTreeSet<usize>,
    /// Connections, by number.
    pub conns: BTreeSet<usize>,
    /// Adversaries, by number.
    pub adversaries: BTreeSet<usize>,
    /// Hosts, by number, with all that is theirs: connections, faults, adversaries that aim at them.
    pub hosts: BTreeSet<usize>,
    /// How often the number of messages of each connection is halved.
    pub halved: u32,
    /// What would begin after this much of the world's time.
    pub after: Option<Duration>,
}

/// A whole world.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    /// When faults and new connections end.
    pub(crate) horizon: Duration,
    /// No fault of this world excuses a connection that is lost.
    pub(crate) gentle: bool,
    pub(crate) ipv6: bool,
    /// Some connections have TLS.
    pub(crate) tls: bool,
    pub(crate) hosts: Vec<HostPlan>,
    pub(crate) conns: Vec<ConnPlan>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) adversaries: Vec<Adversary>,
    pub(crate) without: Without,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Steer {
    /// The device keeps a flow on the queue that it was first sent from.
    Device,
    /// Every frame lands on the first queue.
    Single,
    /// Flows land on any queue.
    Anywhere,
}

/// One unsocket server or client.
#[derive(Clone, Debug)]
pub(crate) struct HostPlan {
    pub(crate) is_server: bool,
    /// Beyond the router.
    pub(crate) off_link: bool,
    pub(crate) workers: usize,
    pub(crate) steer: Steer,
    pub(crate) mtu: usize,
    pub(crate) recv_buffer_bytes: usize,
    pub(crate) send_buffer_bytes: usize,
    pub(crate) congestion: CongestionControl,
    pub(crate) min_rto: Duration,
    pub(crate) overflow_bytes_max: usize,
    pub(crate) high_water: usize,
    pub(crate) slow_reader: SlowReader,
    pub(crate) deflate: Option<DeflateConfig>,
    pub(crate) idle: Option<Duration>,
    pub(crate) ping: Option<Duration>,
    pub(crate) tick: Duration,
    pub(crate) rx_frames: usize,
    pub(crate) tx_frames: usize,
    pub(crate) connection_bytes: usize,
    pub(crate) connection_messages: usize,
    pub(crate) rx_ring: usize,
    pub(crate) clock_offset: Duration,
    pub(crate) link_delay: Duration,
    /// How fast each client is read from at most: bytes and messages a second.
    pub(crate) reads_per_second: Option<[u64; 2]>,
    /// When the server is drained, if it is.
    pub(crate) drain_at: Option<Duration>,
}

/// What the server does on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Serving {
    Echo,
    /// Takes everything and says nothing.
    Sink,
    /// Sends this many messages of its own accord.
    Push {
        count: u64,
    },
    Refuse {
        status: u16,
    },
    /// Closes after this many messages, the last of which it echoes.
    CloseAfter {
        count: u64,
        code: u16,
    },
}

/// How a client ends, once it has sent and got everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Client { code: u16 },
    Server { code: u16 },
    Both { codes: [u16; 2] },
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnPlan {
    pub(crate) client: usize,
    pub(crate) server: usize,
    pub(crate) start: Duration,
    pub(crate) serving: Serving,
    pub(crate) messages: u64,
    pub(crate) bytes_max: usize,
    /// Messages that may be unanswered.
    pub(crate) window: u64,
    pub(crate) text: f64,
    pub(crate) fragmented: f64,
    pub(crate) pings: f64,
    /// Sends on although told that messages are queued, until one is dropped.
    pub(crate) greedy: bool,
    /// Nothing is sent for so long, halfway through.
    pub(crate) pause: Duration,
    pub(crate) ending: Ending,
    pub(crate) topic: Option<u8>,
    pub(crate) tls: bool,
    /// Messages of its own accord that are compressed however short they are, or not at all.
    pub(crate) compress: [f64; 2],
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    /// The host, or its link; `None` for all.
    pub(crate) host: Option<usize>,
    pub(crate) from: Duration,
    pub(crate) until: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum FaultKind {
    Loss { rate: f64 },
    Duplication { rate: f64 },
    Reordering { rate: f64, by: Duration },
    BitFlips { rate: f64 },
    ByteChanges { rate: f64 },
    Delay { delay: Duration, jitter: Duration },
    Bandwidth { bytes_per_second: u64, queue: Duration },
    Mtu { mtu: usize },
    Partition,
    Flapping { up: Duration, down: Duration },
    TxRoom { frames: usize, every: Duration },
    NoBuffers,
    OneFrameBursts,
    RandomBursts,
    Freeze,
    Crash,
    ClockJump { by: Duration },
}

impl FaultKind {
    /// What it is called where it may cost a connection its life, the worst first.
    fn harm(self) -> Option<(u8, &'static str)> {
        Some(match self {
            FaultKind::Crash => (0, "crash"),
            FaultKind::ClockJump { .. } => (1, "clock jump"),
            FaultKind::Freeze => (2, "freeze"),
            FaultKind::Partition => (3, "partition"),
            FaultKind::Flapping { .. } => (4, "flapping"),
            FaultKind::NoBuffers => (5, "no buffers"),
            FaultKind::Mtu { .. } => (6, "narrow path"),
            FaultKind::Bandwidth { .. } => (7, "bandwidth"),
            FaultKind::Loss { .. } => (8, "loss"),
            FaultKind::BitFlips { .. } | FaultKind::ByteChanges { .. } => (9, "damage"),
            FaultKind::TxRoom { .. } => (10, "no room to send"),
            FaultKind::Duplication { .. }
            | FaultKind::Reordering { .. }
            | FaultKind::Delay { .. }
            | FaultKind::OneFrameBursts
            | FaultKind::RandomBursts => return None,
        })
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Adversary {
    /// At the port that speaks TLS; it does not.
    pub(crate) tls: bool,
    pub(crate) kind: AdversaryKind,
    pub(crate) server: usize,
    pub(crate) start: Duration,
    pub(crate) count: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AdversaryKind {
    SynBurst,
    Garbage,
    RandomFlags,
    HalfHandshake,
    SlowHead,
    /// A whole conversation in overlapping segments, through a tiny window, ended by a violation of RFC 6455.
    Overlapping,
    /// Opens, upgrades, resets, and opens the same four-tuple again at once.
    ResetAndReuse,
}

impl Scenario {
    /// Less to say, and less time to say it in.
    pub(crate) fn shrink(&mut self) {
        let Without { halved, after, .. } = self.without;
        for conn in &mut self.conns {
            conn.messages = conn.messages.checked_shr(halved).unwrap_or(0);
            match &mut conn.serving {
                Serving::Push { count } => *count = count.checked_shr(halved).unwrap_or(0),
                Serving::CloseAfter { count, .. } => *count = (*count).min(conn.messages),
                Serving::Echo | Serving::Sink | Serving::Refuse { .. } => {}
            }
        }
        if let Some(after) = after.filter(|after| *after < self.horizon) {
            self.horizon = after;
            self.faults.iter_mut().for_each(|fault| fault.until = fault.until.min(after));
            for host in &mut self.hosts {
                host.drain_at = host.drain_at.filter(|at| *at <= after);
            }
        }
    }

    pub(crate) fn has_host(&self, host: usize) -> bool {
        !self.without.hosts.contains(&host)
    }

    pub(crate) fn has_conn(&self, index: usize) -> bool {
        let conn = &self.conns[index];
        let has_hosts = self.has_host(conn.client) && self.has_host(conn.server);
        has_hosts && conn.start <= self.horizon && !self.without.conns.contains(&index)
    }

    pub(crate) fn has_fault(&self, index: usize) -> bool {
        let fault = &self.faults[index];
        let has_host = fault.host.is_none_or(|host| self.has_host(host));
        has_host && fault.from < self.horizon && !self.without.faults.contains(&index)
    }

    pub(crate) fn has_adversary(&self, index: usize) -> bool {
        let adversary = &self.adversaries[index];
        let is_there = self.has_host(adversary.server) && !self.without.adversaries.contains(&index);
        is_there && adversary.start <= self.horizon
    }

    /// The worst fault that may have cost a connection its life, or what it left behind: between two times of the
    /// world, for either of two hosts.
    pub(crate) fn worst_hit(
        &self,
        hosts: [usize; 2],
        from: Duration,
        until: Duration,
    ) -> Option<&'static str> {
        let is_hit = |fault: &&Fault| {
            // The router has a path of its own.
            let is_theirs = fault.host.is_none_or(|host| hosts.contains(&host))
                || (self.has_router() && matches!(fault.kind, FaultKind::Mtu { .. }));
            let in_time = from <= fault.until + AFTERMATH && until <= fault.until + LINGERING;
            is_theirs && fault.from <= until && in_time
        };
        let faults = (0..self.faults.len()).filter(|&index| self.has_fault(index));
        let hits = faults.map(|index| &self.faults[index]).filter(is_hit);
        hits.filter_map(|fault| fault.kind.harm()).min().map(|(_, name)| name)
    }

    /// When the last fault ends.
    pub(crate) fn whole_from(&self) -> Duration {
        let faults = (0..self.faults.len()).filter(|&index| self.has_fault(index));
        faults.map(|index| self.faults[index].until).max().unwrap_or_default()
    }

    /// Two hosts that say little, and nobody else.
    pub(crate) fn is_small(&self) -> bool {
        self.hosts.len() == 2 && self.conns.len() <= 3 && self.adversaries.is_empty()
    }

    pub(crate) fn has_router(&self) -> bool {
        self.hosts.iter().any(|host| host.off_link)
    }
}

impl ConnPlan {
    /// What the application of a side closes with, if it is its turn to.
    pub(crate) fn closing_code(&self, side: Side) -> Option<u16> {
        match (self.serving, self.ending, side) {
            (Serving::CloseAfter { code, .. }, _, Side::Server) => Some(code),
            (Serving::CloseAfter { .. }, _, Side::Client) => None,
            (_, Ending::Client { code }, Side::Client) | (_, Ending::Server { code }, Side::Server) => {
                Some(code)
            }
            (_, Ending::Both { codes }, side) => Some(codes[side as usize]),
            _ => None,
        }
    }
}
