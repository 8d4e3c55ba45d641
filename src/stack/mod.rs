//! TCP/IP for one worker: a flow table over smoltcp, one socket set per connection.
//!
//! Call order within one burst, all at the one `now` given to [`Stack::begin`]:
//!
//! 1. [`Stack::begin`], then [`Stack::ingress`] for every received frame,
//! 2. [`Stack::timers`],
//! 3. drain [`Stack::next_ready`]: those connections have bytes, room, a deadline or a changed [`Status`],
//! 4. [`Stack::egress`] once, then hand the [`TxQueue`] to the port,
//! 5. sleep until traffic or [`Stack::next_deadline`].

mod classify;
mod clock;
mod config;
mod conn;
mod cut;
mod device;
mod dhcp;
mod egress;
mod error;
mod expect;
mod flow;
#[cfg(test)]
mod frames;
mod ingress;
mod isn;
mod key;
mod late_ack;
mod lend;
mod merge;
mod neighbors;
mod net;
mod ports;
mod rate;
mod reply;
mod resolver;
mod rings;
mod secret;
mod share;
mod status;
#[cfg(test)]
mod tests;
mod time_wait;
mod timers;
mod wheel;

pub use config::{Cidr, CongestionControl, Route, StackConfig, TcpConfig};
pub use device::TxQueue;
pub use dhcp::Lease;
pub use egress::SEGMENTS_PER_PASS;
pub use error::{ConnectError, StackError};
pub use lend::SendHalf;
pub use net::CUT_SEGMENT_BYTES_MIN;
pub use resolver::{ADDRS_PER_NAME_MAX, DNS_SERVERS_MAX, LOOKUP_TIMEOUT, LOOKUPS_MAX, LookupError};
pub use rings::RingError;
pub(crate) use rings::prefetch;
pub use share::Share;
pub use status::{CloseCause, ConnId, Onward, StackStats, Status};

use crate::port::PortInfo;
use crate::time::{Duration, Instant};
use classify::Class;
use clock::StackClock;
use conn::{Phase, Slab};
use dhcp::Dhcp;
use flow::FlowTable;
use isn::SequenceNumbers;
use key::FlowKey;
use merge::Merger;
use neighbors::Neighbors;
use net::Nets;
use ports::EphemeralPorts;
use rate::TokenBucket;
use resolver::Resolver;
use rings::RingPool;
use smoltcp::socket::tcp;
use smoltcp::time::Instant as StackInstant;
use smoltcp::wire::{IpAddress, IpEndpoint};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use time_wait::TimeWait;
use wheel::TimerWheel;

/// TCP/IP for one worker.
pub struct Stack {
    // Per burst.
    now: Instant,
    stack_now: StackInstant,
    // Per segment.
    flows: FlowTable,
    slab: Slab,
    nets: Nets,
    wheel: TimerWheel,
    merger: Merger,
    ready: VecDeque<u32>,
    dirty: VecDeque<u32>,
    /// Quiet connections whose rings' pages go back, a few in each burst.
    reclaims: VecDeque<u32>,
    /// Connections that close without an owner, the oldest at the front: (slot, generation). Some are gone.
    orphans: VecDeque<(u32, u32)>,
    rx_checksum_trusted: bool,
    stats: StackStats,
    // Per connection.
    clock: StackClock,
    /// No timer that a segment starts runs out sooner: the retransmission floor or the keep-alive interval.
    least_wake: Duration,
    tcp: TcpConfig,
    rings: RingPool,
    /// The connections of the burst that comes next.
    expected: Vec<u32>,
    isn: SequenceNumbers,
    ports: EphemeralPorts,
    share: Option<Share>,
    has_exception_path: bool,
    time_wait: TimeWait,
    listening: Vec<u16>,
    // Rarely.
    neighbors: Neighbors,
    dhcp: Option<Dhcp>,
    resolver: Option<Resolver>,
    rst_rate: TokenBucket,
    time_wait_rate: TokenBucket,
}

/// Orphans that may be remembered beyond the connections there are: those that have gone are forgotten in one go.
const ORPHANS_REMEMBERED_MAX: usize = 1_024;

impl Stack {
    /// A stack on a port. `secret` keys sequence numbers, hashes and port choice: random, per worker.
    ///
    /// # Errors
    /// When the configuration does not fit the port or the stack's fixed limits.
    pub fn new(
        config: &StackConfig,
        info: &PortInfo,
        secret: [u8; 32],
        now: Instant,
    ) -> Result<Self, StackError> {
        let clock = StackClock::new(config.tcp.min_rto);
        let stack_now = clock.to_stack(now);
        let tcp = config.tcp.clone();
        let nets = Nets::new(config, info, stack_now)?;
        let resolves = config.dhcp || !config.dns.is_empty();
        let resolver = resolves.then(|| Resolver::new(&config.dns, &nets, info.mtu, &secret, now));
        Ok(Stack {
            now,
            stack_now,
            flows: FlowTable::new(tcp.connections_max, &secret),
            slab: Slab::new(tcp.connections_max),
            nets,
            wheel: TimerWheel::new(tcp.connections_max, now),
            merger: Merger::new(),
            ready: VecDeque::new(),
            dirty: VecDeque::new(),
            reclaims: VecDeque::new(),
            orphans: VecDeque::new(),
            rx_checksum_trusted: info.rx_checksum_trusted,
            stats: StackStats::default(),
            clock,
            least_wake: tcp.keep_alive.map_or(clock.min_rto(), |interval| interval.min(clock.min_rto())),
            expected: Vec::new(),
            rings: RingPool::new(tcp.connections_max, tcp.recv_ring_bytes(), tcp.send_buffer_bytes)?,
            isn: SequenceNumbers::new(&secret),
            ports: EphemeralPorts::new(&secret),
            share: config.share.clone(),
            has_exception_path: config.has_exception_path,
            time_wait: TimeWait::new(tcp.time_wait_max, tcp.time_wait, &secret),
            listening: Vec::new(),
            neighbors: Neighbors::new(clock),
            dhcp: config.dhcp.then(|| Dhcp::new(info.mac, info.mtu, &secret, now)),
            resolver,
            rst_rate: TokenBucket::new(tcp.rst_per_second_max, now),
            time_wait_rate: TokenBucket::new(tcp.rst_per_second_max, now),
            tcp,
        })
    }

    /// Accepts connections to TCP port `port` from now on.
    pub fn listen(&mut self, port: u16) {
        if !self.listening.contains(&port) {
            self.listening.push(port);
        }
    }

    /// Stops accepting on every port; a SYN is then answered with RST, and so is the last step of a handshake that
    /// has begun. Connections go on.
    pub fn stop_listening(&mut self) {
        self.listening.clear();
        while let Some(oldest) = self.slab.oldest_half_open() {
            self.stats.half_open_dropped += 1;
            self.remove(oldest);
        }
    }

    /// From now on a connection whose FIN the peer has acknowledged waits for the peer's no longer than `timeout`, and
    /// is then reset. For the end of a service: who has said all, and knows that it came, need not wait for silence.
    pub fn hurry_closing(&mut self, timeout: Duration) {
        self.tcp.fin_wait2_timeout = self.tcp.fin_wait2_timeout.min(timeout);
        let deadline = self.now + self.tcp.fin_wait2_timeout;
        let closing: Vec<u32> = self
            .slab
            .indices()
            .filter(|&index| self.slab.slot(index).socket().state() == tcp::State::FinWait2)
            .collect();
        for index in closing {
            let slot = self.slab.slot_mut(index);
            slot.closing_deadline = slot.closing_deadline.min(deadline);
            self.schedule(index, deadline);
        }
    }

    /// Opens a connection; watch its [`Status`].
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub fn connect(&mut self, remote: SocketAddr) -> Result<ConnId, ConnectError> {
        let source = self.nets.source_for(remote.ip()).ok_or(ConnectError::NoRoute)?;
        self.connect_from(source, remote)
    }

    /// Opens a connection from one of our addresses.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub fn connect_from(&mut self, source: IpAddr, remote: SocketAddr) -> Result<ConnId, ConnectError> {
        let fits = self.nets.owns(source) && source.is_ipv4() == remote.is_ipv4();
        if !fits || self.nets.next_hop(remote.ip()).is_none() {
            return Err(ConnectError::NoRoute);
        }
        let (flows, time_wait, now) = (&self.flows, &self.time_wait, self.now);
        let share = &self.share;
        let is_free = |flow: &FlowKey| {
            // What answers it must come to this worker.
            share.as_ref().is_none_or(|share| share.owns(flow))
                && flows.get(flow).is_none()
                && !time_wait.contains(now, flow)
        };
        let flow = self.ports.choose(source, remote, is_free).ok_or(ConnectError::NoPort)?;
        let index = self.open(flow, Phase::Connecting).ok_or(ConnectError::Full)?;
        let isn = self.isn.generate(&flow, self.now, None);
        let local = flow.local();
        let slot = self.slab.slot_mut(index);
        slot.owned = true;
        slot.unacknowledged = isn.wrapping_add(1);
        let connected = self.nets.with_first_random(source, isn, self.stack_now, |iface, _| {
            slot.socket_mut().connect(
                iface.context(),
                IpEndpoint::new(IpAddress::from(remote.ip()), remote.port()),
                IpEndpoint::new(IpAddress::from(local.ip()), local.port()),
            )
        });
        if connected.is_err() {
            // Port 0 or an unspecified remote.
            self.remove(index);
            return Err(ConnectError::NoRoute);
        }
        self.flows.insert(flow, index);
        self.mark_dirty(index);
        Ok(self.slab.id(index))
    }

    /// Begins a burst: the time that holds until the next one.
    pub fn begin(&mut self, now: Instant) {
        self.now = now;
        self.stack_now = self.clock.to_stack(now);
    }

    /// The hash by which the device should have chosen the queue of a segment; `None` for other frames, and where no
    /// device says how it chooses.
    pub fn expected_rss_hash(&self, frame: &[u8]) -> Option<u32> {
        let rss = self.share.as_ref()?.rss.as_ref()?;
        match classify::classify(frame, self.nets.mac()) {
            Class::Tcp(segment) => rss.hash(segment.key.remote(), segment.key.local()),
            _ => None,
        }
    }

    /// The next connection that its owner should look at, each once however often it became ready.
    /// New connections appear here first with [`Status::Open`].
    #[inline]
    pub fn next_ready(&mut self) -> Option<ConnId> {
        while let Some(index) = self.ready.pop_front() {
            let slot = self.slab.slot_mut(index);
            slot.ready = false;
            if slot.owned {
                return Some(self.slab.id(index));
            }
        }
        None
    }

    /// Puts a connection back at the end of the ready queue (its share of this burst was used up).
    pub fn mark_ready(&mut self, id: ConnId) {
        if self.slab.find(id).is_some() {
            self.mark_ready_index(id.index);
        }
    }

    /// Whether connections are waiting in the ready queue.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Where a connection stands; `None` for an id that was released.
    #[inline]
    pub fn status(&self, id: ConnId) -> Option<Status> {
        self.slab.find(id).map(conn::Slot::status)
    }

    /// The peer's address; `None` for an id that was released.
    pub fn peer(&self, id: ConnId) -> Option<SocketAddr> {
        self.slab.find(id).map(|slot| slot.key.remote())
    }

    /// Our address; `None` for an id that was released.
    pub fn local(&self, id: ConnId) -> Option<SocketAddr> {
        self.slab.find(id).map(|slot| slot.key.local())
    }

    /// Lends the received bytes (the longest run that is contiguous in the ring; the rest comes with the next
    /// call) together with the connection's sending half. `f` returns how many bytes it used up.
    /// `None` when there are no bytes.
    pub fn with_received<R>(
        &mut self,
        id: ConnId,
        f: impl FnOnce(&mut [u8], &mut SendHalf<'_>) -> (usize, R),
    ) -> Option<R> {
        lend::lend(&mut self.slab, &mut self.dirty, id, self.now, f)
    }

    /// Bytes received and not used up yet.
    #[inline]
    pub fn received_bytes(&self, id: ConnId) -> usize {
        self.slab.find(id).map_or(0, |slot| slot.socket().recv_queue())
    }

    /// The connection's sending half; `None` for an id that was released.
    pub fn sender(&mut self, id: ConnId) -> Option<SendHalf<'_>> {
        SendHalf::of(&mut self.slab, &mut self.dirty, id, self.now)
    }

    /// Sends FIN after what is queued. The peer may go on sending.
    pub fn finish(&mut self, id: ConnId) {
        if let Some(slot) = self.slab.find_mut(id)
            && slot.is_live()
        {
            if !slot.awaits_acknowledgement() {
                slot.progress_at = self.now;
            }
            slot.socket_mut().close();
            self.mark_dirty(id.index);
        }
    }

    /// Sends RST and drops what is queued.
    pub fn abort(&mut self, id: ConnId) {
        if self.slab.find(id).is_some() {
            self.fail(id.index, CloseCause::Aborted);
        }
    }

    /// The owner is done with the connection: the id is invalid from here on and never ready again. One that is still
    /// open is finished first; TCP's closing then goes on without an owner, under deadlines.
    pub fn release(&mut self, id: ConnId) {
        self.finish(id);
        let Some(slot) = self.slab.find_mut(id) else { return };
        slot.owned = false;
        slot.owner_deadline = Instant::FAR_FUTURE;
        slot.generation = slot.generation.wrapping_add(1);
        self.orphans.push_back((id.index, slot.generation));
        if slot.phase == Phase::Connecting {
            self.fail(id.index, CloseCause::Aborted);
        } else if slot.closing_deadline == Instant::FAR_FUTURE {
            slot.closing_deadline = self.now + self.tcp.user_timeout;
        }
        self.discard_received(id.index);
        self.mark_dirty(id.index);
        if self.orphans.len() > ORPHANS_REMEMBERED_MAX.max(2 * self.slab.in_use()) {
            let slab = &self.slab;
            self.orphans.retain(|&orphan| is_orphan(slab, orphan));
        }
    }

    /// Makes room in a full table: whoever has closed and says nothing more would hold its slot until the user timeout.
    fn drop_oldest_orphan(&mut self) {
        while let Some(orphan) = self.orphans.pop_front() {
            if is_orphan(&self.slab, orphan) {
                self.stats.orphans_dropped += 1;
                self.remove(orphan.0);
                return;
            }
        }
    }

    /// Connections in the slab: open, half-open and closing (TIME-WAIT records apart).
    pub fn connections(&self) -> usize {
        self.slab.in_use()
    }

    /// Half-open connections among them.
    pub fn half_open(&self) -> usize {
        self.slab.half_open()
    }

    /// TIME-WAIT records; those that have run out go a few in each burst.
    pub fn time_wait_records(&self) -> usize {
        self.time_wait.len()
    }

    /// Connections that hold rings, and the address space reserved for all rings, bytes.
    pub fn rings(&self) -> (usize, usize) {
        (self.rings.in_use(), self.rings.reserved_bytes())
    }

    /// Flows that segments are given to.
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Connections for which a timer runs.
    pub fn deadlines(&self) -> usize {
        self.wheel.len()
    }

    /// Our addresses, the IPv6 link-local one included.
    pub fn addrs(&self) -> &[Cidr] {
        self.nets.addrs()
    }

    /// Counters.
    pub fn stats(&self) -> &StackStats {
        &self.stats
    }

    fn mark_dirty(&mut self, index: u32) {
        let slot = self.slab.slot_mut(index);
        if !core::mem::replace(&mut slot.dirty, true) {
            self.dirty.push_back(index);
        }
    }

    fn mark_ready_index(&mut self, index: u32) {
        let slot = self.slab.slot_mut(index);
        if !core::mem::replace(&mut slot.ready, true) {
            self.ready.push_back(index);
        }
    }

    /// Ends a connection from our side: RST to the peer, `cause` to the owner.
    fn fail(&mut self, index: u32, cause: CloseCause) {
        let slot = self.slab.slot_mut(index);
        if matches!(slot.phase, Phase::Connecting | Phase::Live) {
            slot.socket_mut().abort();
            self.close(index, cause);
            self.mark_dirty(index);
        }
    }

    /// A connection is over: its 4-tuple is free again, its owner is told. Without an owner it goes with its next
    /// turn, which sends the RST that may be due.
    fn close(&mut self, index: u32, cause: CloseCause) {
        let slot = self.slab.slot_mut(index);
        if slot.is_live() {
            self.stats.closed += 1;
        }
        slot.phase = Phase::Closed(cause);
        slot.closing_deadline = Instant::FAR_FUTURE;
        let (flow, owned) = (slot.key, slot.owned);
        self.flows.remove(&flow);
        self.mark_dirty(index);
        if owned {
            self.mark_ready_index(index);
        }
    }

    /// Frees a slot and all that hangs on it.
    fn remove(&mut self, index: u32) {
        let slot = self.slab.slot(index);
        match slot.phase {
            Phase::Free => return,
            // Its flow entry is gone already, and may be another connection's by now.
            Phase::Closed(_) => {}
            Phase::HalfOpen | Phase::Connecting => {
                self.flows.remove(&slot.key);
            }
            Phase::Live => {
                self.stats.closed += 1;
                self.flows.remove(&slot.key);
            }
        }
        self.wheel.cancel(index);
        lend::close(&mut self.slab, &mut self.rings, index);
    }

    /// A slot with a fresh socket for a handshake; `None` when connections or rings are used up.
    fn open(&mut self, flow: FlowKey, phase: Phase) -> Option<u32> {
        if self.slab.is_full() {
            return None;
        }
        let (rings, recv, send) = self.rings.take()?;
        let mut socket = tcp::Socket::new(recv, send);
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(Some(self.clock.stretch(self.tcp.ack_delay)));
        socket.set_congestion_control(match self.tcp.congestion {
            CongestionControl::Cubic => tcp::CongestionControl::Cubic,
            CongestionControl::None => tcp::CongestionControl::None,
        });
        let index = self.slab.insert(flow, socket, rings, phase, self.now);
        self.slab.slot_mut(index).closing_deadline = self.now + self.tcp.syn_timeout;
        Some(index)
    }
}

impl Drop for Stack {
    /// Sockets borrow from the rings: they go first.
    fn drop(&mut self) {
        let in_use: Vec<u32> = self.slab.indices().collect();
        for index in in_use {
            self.remove(index);
        }
    }
}

/// Whether this is still the connection that was released, on its way out.
fn is_orphan(slab: &Slab, (index, generation): (u32, u32)) -> bool {
    let slot = slab.slot(index);
    slot.generation == generation && slot.phase != Phase::Free && !slot.owned
}
