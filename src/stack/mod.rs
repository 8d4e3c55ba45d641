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
mod config;
mod device;
mod flow;
#[cfg(test)]
mod frames;
mod isn;
mod key;
mod ports;
mod rate;
mod reply;
mod rings;
mod secret;
mod time_wait;
mod wheel;

pub use config::{Cidr, CongestionControl, Route, StackConfig, TcpConfig};
pub use device::TxQueue;
pub use rings::RingError;

use crate::port::{Frame, PortInfo, RxChecksum};
use crate::time::Instant;
use std::net::SocketAddr;

/// Names one connection of one stack; never reused for another (the generation differs).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    /// Slot in the stack's slab; dense, so a parallel table can be indexed with it.
    pub index: u32,
    /// Counts the slot's uses.
    pub generation: u32,
}

/// Where a connection stands, as its owner needs to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// TCP's handshake is under way.
    Connecting,
    /// Bytes flow both ways.
    Open,
    /// The peer has sent FIN: what it sent before can be read, and we may still send.
    PeerFinished,
    /// Over; nothing more arrives and nothing more is sent.
    Closed(CloseCause),
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCause {
    /// Both ends finished.
    Finished,
    /// The peer sent RST.
    Reset,
    /// [`Stack::abort`] was called.
    Aborted,
    /// The peer stayed silent too long (retransmissions, keep-alive, SYN).
    TimedOut,
    /// Nobody listens there (RST in answer to our SYN).
    Refused,
    /// Our address was taken away (DHCP).
    AddressLost,
}

/// Whom a frame is for, when several workers share a port's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// The worker that owns the flow with this symmetric hash of addresses and ports.
    Flow {
        /// The hash; the owner is `hash % workers` under software steering.
        hash: u32,
    },
    /// Every worker must see it (ARP, NDP, ICMP errors): the receiver answers, the others only learn.
    Everyone,
    /// Whoever received it (ICMP echo, DHCP, strays).
    Receiver,
}

/// Counters of one stack since it was made. Every received frame is counted in exactly one of the first group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackStats {
    /// Segments handed to the connection that owns them.
    pub rx_segments: u64,
    /// ARP, NDP, ICMP, DHCP frames handed to the interface.
    pub rx_control: u64,
    /// SYNs that made a connection.
    pub rx_syn_accepted: u64,
    /// SYNs dropped: limits of connections.
    pub rx_syn_refused: u64,
    /// Segments of no flow, answered with RST.
    pub rx_rst_sent: u64,
    /// Segments of no flow, not answered: RSTs themselves, or the RST rate was used up.
    pub rx_no_flow: u64,
    /// Segments that a TIME-WAIT record answered or swallowed.
    pub rx_time_wait: u64,
    /// Frames dropped because a checksum was wrong.
    pub rx_bad_checksum: u64,
    /// Frames dropped because a header was malformed or cut short.
    pub rx_malformed: u64,
    /// IPv4 fragments of TCP and other things that the stack leaves out on purpose.
    pub rx_unsupported: u64,
    /// Frames for another MAC or IP address.
    pub rx_not_ours: u64,

    /// Connections opened (SYN-RECEIVED became ESTABLISHED, or our SYN was answered).
    pub opened: u64,
    /// Connections over, for whatever cause.
    pub closed: u64,
    /// Half-open connections dropped: their deadline, or to make room for newer ones.
    pub half_open_dropped: u64,
    /// Frames handed to the TX queue.
    pub tx_frames: u64,
}

/// Why a stack could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StackError {
    /// More addresses than smoltcp was built for.
    #[error("{given} addresses configured, at most {max} are possible (`ip`)")]
    TooManyAddresses {
        /// How many there are, the IPv6 link-local one included.
        given: usize,
        /// How many fit.
        max: usize,
    },
}

/// Why a connection could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// All connection slots are in use (`limits.connections`).
    #[error("all connection slots are in use (`limits.connections`)")]
    Full,
    /// Every ephemeral port towards that address is in use.
    #[error("no local port is free towards that address")]
    NoPort,
    /// No local address of the remote's family, or no route.
    #[error("no local address or route for that destination")]
    NoRoute,
}

/// TCP/IP for one worker.
pub struct Stack {}

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
        let _ = (config, info, secret, now);
        todo!()
    }

    /// Accepts connections to TCP port `port` from now on.
    pub fn listen(&mut self, port: u16) {
        let _ = port;
        todo!()
    }

    /// Stops accepting on every port; a SYN is then answered with RST. Connections go on.
    pub fn stop_listening(&mut self) {
        todo!()
    }

    /// Opens a connection; watch its [`Status`].
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub fn connect(&mut self, remote: SocketAddr) -> Result<ConnId, ConnectError> {
        let _ = remote;
        todo!()
    }

    /// Begins a burst: the time that holds until the next one.
    pub fn begin(&mut self, now: Instant) {
        let _ = now;
        todo!()
    }

    /// Whom a frame is for; needed only with several workers.
    pub fn audience(&self, frame: &[u8]) -> Audience {
        let _ = frame;
        todo!()
    }

    /// Feeds one received frame. `tx` must have room ([`TxQueue::has_room`]): every frame may cause an answer.
    pub fn ingress<F: Frame>(&mut self, frame: &[u8], checksum: RxChecksum, tx: &mut TxQueue<F>) {
        let _ = (frame, checksum, tx);
        todo!()
    }

    /// Feeds a frame that another worker received and answered: learn from it, answer nothing.
    pub fn learn(&mut self, frame: &[u8]) {
        let _ = frame;
        todo!()
    }

    /// Fires what is due: retransmissions become dirty, deadlines become ready.
    pub fn timers(&mut self) {
        todo!()
    }

    /// The next connection that its owner should look at, each once however often it became ready.
    /// New connections appear here first with [`Status::Open`].
    pub fn next_ready(&mut self) -> Option<ConnId> {
        todo!()
    }

    /// Puts a connection back at the end of the ready queue (its share of this burst was used up).
    pub fn mark_ready(&mut self, id: ConnId) {
        let _ = id;
        todo!()
    }

    /// Whether connections are waiting in the ready queue.
    pub fn has_ready(&self) -> bool {
        todo!()
    }

    /// Sends what the dirty connections have, as far as `tx` has room; the rest stays dirty.
    pub fn egress<F: Frame>(&mut self, tx: &mut TxQueue<F>) {
        let _ = tx;
        todo!()
    }

    /// When [`Stack::timers`] or [`Stack::egress`] next has something to do; `None` when only a frame can wake it.
    pub fn next_deadline(&self) -> Option<Instant> {
        todo!()
    }

    /// Where a connection stands; `None` for an id that was released.
    pub fn status(&self, id: ConnId) -> Option<Status> {
        let _ = id;
        todo!()
    }

    /// The peer's address. Panics on a released id.
    pub fn peer(&self, id: ConnId) -> SocketAddr {
        let _ = id;
        todo!()
    }

    /// Our address. Panics on a released id.
    pub fn local(&self, id: ConnId) -> SocketAddr {
        let _ = id;
        todo!()
    }

    /// Lends the received bytes (the longest run that is contiguous in the ring; the rest comes with the next
    /// call) together with the connection's sending half. `f` returns how many bytes it used up.
    /// `None` when there are no bytes.
    pub fn with_received<R>(
        &mut self,
        id: ConnId,
        f: impl FnOnce(&mut [u8], &mut SendHalf<'_>) -> (usize, R),
    ) -> Option<R> {
        let _ = (id, f);
        todo!()
    }

    /// Bytes received and not used up yet.
    pub fn received_bytes(&self, id: ConnId) -> usize {
        let _ = id;
        todo!()
    }

    /// The connection's sending half.
    pub fn sender(&mut self, id: ConnId) -> SendHalf<'_> {
        let _ = id;
        todo!()
    }

    /// Makes the connection ready at `deadline` (it replaces the one before); `None` for never. Cheap: lazily armed.
    pub fn set_deadline(&mut self, id: ConnId, deadline: Option<Instant>) {
        let _ = (id, deadline);
        todo!()
    }

    /// Sends FIN after what is queued. The peer may go on sending.
    pub fn finish(&mut self, id: ConnId) {
        let _ = id;
        todo!()
    }

    /// Sends RST and drops what is queued.
    pub fn abort(&mut self, id: ConnId) {
        let _ = id;
        todo!()
    }

    /// The owner is done with the connection: the id is invalid from here on and never ready again. One that is still
    /// open is finished first; TCP's closing then goes on without an owner, under deadlines.
    pub fn release(&mut self, id: ConnId) {
        let _ = id;
        todo!()
    }

    /// Connections in the slab: open, half-open and closing (TIME-WAIT records apart).
    pub fn connections(&self) -> usize {
        todo!()
    }

    /// Counters.
    pub fn stats(&self) -> &StackStats {
        todo!()
    }
}

/// The sending half of one connection: its send ring.
pub struct SendHalf<'a> {
    _stack: core::marker::PhantomData<&'a mut Stack>,
}

impl SendHalf<'_> {
    /// Free bytes in the send ring; 0 when the connection cannot send (any more).
    pub fn free_bytes(&self) -> usize {
        todo!()
    }

    /// Bytes queued or in flight, not yet acknowledged.
    pub fn queued_bytes(&self) -> usize {
        todo!()
    }

    /// Queues as much of `bytes` as fits; returns how much. Whoever got less than it asked for is made ready
    /// when at least half of the ring is free again.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let _ = bytes;
        todo!()
    }

    /// Queues all of `head` and `body`, or nothing: for a frame that fits whole. Returns whether it did.
    pub fn write_whole(&mut self, head: &[u8], body: &[u8]) -> bool {
        let _ = (head, body);
        todo!()
    }
}
