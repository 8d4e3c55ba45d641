//! The slab of connections: what the stack keeps of each one beside smoltcp's socket.

use super::classify::TcpInfo;
use super::key::FlowKey;
use super::late_ack::{BEHIND_MAX, is_just_outside};
use super::rings::RingPair;
use super::{CloseCause, ConnId, Status};
use crate::time::Instant;
use smoltcp::iface::{SocketHandle, SocketSet, SocketStorage};
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::time::{Duration as StackDuration, Instant as StackInstant};

/// No slot: the end of a linked list.
const NONE: u32 = u32::MAX;

/// Where a slot stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nobody's.
    Free,
    /// A SYN came; the owner does not know of it yet.
    HalfOpen,
    /// We sent a SYN.
    Connecting,
    /// The handshake is done; smoltcp's state says the rest.
    Live,
    /// Over.
    Closed(CloseCause),
}

/// How far the peer's bytes have arrived, in its sequence numbers.
///
/// smoltcp puts segments that came early into the receive ring behind the queued bytes and does not say so. Memory
/// of an empty-looking ring may be given back only when there are none: `contiguous == farthest`. Segments that lie
/// beyond the ring are not taken and do not count, so `farthest` is never more than a ring ahead.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Received {
    contiguous: u32,
    farthest: u32,
}

impl Received {
    /// Nothing yet, after a SYN with sequence number `seq`.
    pub(super) fn after_syn(seq: u32) -> Self {
        let next = seq.wrapping_add(1);
        Received { contiguous: next, farthest: next }
    }

    /// Whether the peer's SYN has come. One with the last number of all leaves zeros, as none does: the next one counts then.
    pub(super) fn has_begun(&self) -> bool {
        self.contiguous | self.farthest != 0
    }

    /// The number expected next, before a FIN is counted.
    pub(super) fn next(&self) -> u32 {
        self.contiguous
    }

    /// `segment` was fed to a socket with a receive ring of `ring_bytes`, and made the queue grow by `grown` bytes.
    #[inline]
    pub(super) fn advance(&mut self, grown: usize, segment: &TcpInfo, ring_bytes: usize) {
        // RFC 9293 section 3.4: sequence numbers are compared modulo 2^32.
        let starts_ahead = segment.seq.wrapping_sub(self.contiguous);
        if (starts_ahead as i32) >= 0 && (starts_ahead as usize) < ring_bytes {
            // What hangs over the window's end was cut off.
            let end_ahead = (starts_ahead as usize + usize::from(segment.payload_len)).min(ring_bytes);
            let end = self.contiguous.wrapping_add(end_ahead as u32);
            if (end.wrapping_sub(self.farthest) as i32) > 0 {
                self.farthest = end;
            }
        }
        self.contiguous = self.contiguous.wrapping_add(grown as u32);
        if (self.contiguous.wrapping_sub(self.farthest) as i32) > 0 {
            self.farthest = self.contiguous;
        }
    }

    /// Whether bytes may lie in the ring beyond a gap.
    pub(super) fn has_gap(&self) -> bool {
        self.contiguous != self.farthest
    }
}

/// One connection. The fields of the per-segment path come first.
pub(super) struct Slot {
    pub(super) generation: u32,
    pub(super) phase: Phase,
    /// In the ready queue.
    pub(super) ready: bool,
    /// In the dirty list.
    pub(super) dirty: bool,
    /// The owner has not released it.
    pub(super) owned: bool,
    /// The owner was told that the send ring is full.
    pub(super) write_blocked: bool,
    /// In the list of those who wait for a neighbour's address.
    pub(super) awaits_neighbor: bool,
    /// A segment came, or the owner read or wrote, since the rings were last looked at for reclaim.
    pub(super) rings_touched: bool,
    /// It may send segments that the port cuts.
    pub(super) large_segments: bool,
    /// The interface it uses, by path MTU.
    pub(super) net: u8,
    /// Keep-alive probes sent since the peer was last heard.
    pub(super) probes: u32,
    /// When the peer was last heard, or we began to wait for it.
    pub(super) progress_at: Instant,
    /// When the owner wants to be called; far future for never.
    pub(super) owner_deadline: Instant,
    /// When the handshake or the closing must be over; far future for never.
    pub(super) closing_deadline: Instant,
    /// smoltcp's socket, alone in its set.
    pub(super) set: SocketSet<'static>,
    handle: SocketHandle,
    pub(super) key: FlowKey,
    /// The memory under the socket's rings.
    pub(super) rings: Option<RingPair>,
    /// How far the peer's bytes have arrived.
    pub(super) received: Received,
    /// The window field of the segment that came last.
    pub(super) window: u16,
    /// Sequence number of the first byte in the send ring: RFC 9293's SND.UNA once the handshake is done.
    pub(super) unacknowledged: u32,
    half_open_prev: u32,
    half_open_next: u32,
}

impl Slot {
    fn empty() -> Self {
        Slot {
            generation: 0,
            phase: Phase::Free,
            ready: false,
            dirty: false,
            owned: false,
            write_blocked: false,
            awaits_neighbor: false,
            rings_touched: false,
            large_segments: false,
            net: 0,
            probes: 0,
            progress_at: Instant::ZERO,
            owner_deadline: Instant::FAR_FUTURE,
            closing_deadline: Instant::FAR_FUTURE,
            set: SocketSet::new(vec![SocketStorage::EMPTY]),
            handle: SocketHandle::default(),
            key: FlowKey::default(),
            rings: None,
            window: 0,
            received: Received::default(),
            unacknowledged: 0,
            half_open_prev: NONE,
            half_open_next: NONE,
        }
    }

    /// The socket. A slot in use always has one.
    #[inline]
    pub(super) fn socket(&self) -> &Socket<'static> {
        self.set.get(self.handle)
    }

    /// The socket, mutable.
    #[inline]
    pub(super) fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.set.get_mut(self.handle)
    }

    /// What the owner is told.
    #[inline]
    pub(super) fn status(&self) -> Status {
        match self.phase {
            Phase::Free | Phase::HalfOpen | Phase::Connecting => Status::Connecting,
            Phase::Closed(cause) => Status::Closed(cause),
            Phase::Live => match self.socket().state() {
                State::CloseWait | State::LastAck | State::Closing => Status::PeerFinished,
                State::TimeWait => Status::Closed(CloseCause::Finished),
                _ => Status::Open,
            },
        }
    }

    /// Whether the handshake is done and the connection not over.
    #[inline]
    pub(super) fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Live)
    }

    /// The sequence number expected next from the peer: RFC 9293's RCV.NXT.
    pub(super) fn expected_next(&self) -> u32 {
        self.expected_next_in(self.socket().state())
    }

    /// The same, of a socket in this state.
    #[inline]
    fn expected_next_in(&self, state: State) -> u32 {
        let fin_came = matches!(state, State::CloseWait | State::Closing | State::LastAck | State::TimeWait);
        self.received.next().wrapping_add(u32::from(fin_came))
    }

    /// Whether a segment may be the peer's: its number is near those that `socket`, this slot's, awaits or has had, and it
    /// acknowledges nothing that was never sent (RFC 5961 section 5.2). Whoever cannot see the connection has to hit both.
    #[inline]
    pub(super) fn is_plausible(&self, socket: &Socket<'_>, segment: &TcpInfo) -> bool {
        let ring_bytes = socket.recv_capacity() as u32;
        let unacknowledged_max = socket.send_capacity() as u32;
        // RFC 9293 section 3.4: numbers are compared modulo 2^32. What is sent again may be a window behind.
        let oldest = self.received.next().wrapping_sub(ring_bytes + BEHIND_MAX);
        let is_near = segment.seq.wrapping_sub(oldest) <= 2 * ring_bytes + 2 * BEHIND_MAX;
        let oldest_ack = self.unacknowledged.wrapping_sub(unacknowledged_max + BEHIND_MAX);
        let ack_max = unacknowledged_max + BEHIND_MAX + socket.send_queue() as u32 + 1;
        let acknowledges = segment.ack.wrapping_sub(oldest_ack) <= ack_max;
        // A handshake has a deadline of its own, and its numbers are not known yet.
        is_near && acknowledges || !self.is_live()
    }

    /// Whether a segment brings an acknowledgement that `socket`, this slot's, would drop with it (see
    /// [`late_ack`](super::late_ack)).
    #[inline]
    pub(super) fn is_late_ack(&self, socket: &Socket<'_>, segment: &TcpInfo) -> bool {
        // RFC 9293 section 3.4: sequence numbers are compared modulo 2^32.
        let is_news = (segment.ack.wrapping_sub(self.unacknowledged) as i32) > 0;
        if !is_news || socket.send_queue() == 0 || !self.is_live() {
            return false;
        }
        let capacity = socket.recv_capacity();
        let free = capacity - socket.recv_queue();
        is_just_outside(segment, self.expected_next_in(socket.state()), capacity, free)
    }

    /// Whether smoltcp forgot to retransmit: bytes are unacknowledged and, as `wake_at` says, no timer runs.
    /// A fast retransmission may overrun a small window; when a zero window opens after that, it stops its timer.
    pub(super) fn retransmission_is_forgotten(&self, wake_at: Option<StackInstant>) -> bool {
        wake_at.is_none() && self.is_live() && self.socket().send_queue() > 0
    }

    /// Makes smoltcp send one keep-alive probe in the connection's next turn. Its own interval stays off: its probe
    /// carries a byte that is not the stream's, at SND.NXT - 1, which a peer that lacks the bytes before it would keep
    /// (RFC 9293 section 3.8.4). So one is asked for only when everything sent is acknowledged.
    pub(super) fn ask_for_probe(&mut self) {
        debug_assert!(!self.awaits_acknowledgement(), "a probe would lie within the stream");
        let socket = self.socket_mut();
        // Switched on, the timer stands at "now" and stays there; switched off, no further one follows.
        socket.set_keep_alive(Some(StackDuration::ZERO));
        socket.set_keep_alive(None);
    }

    /// Whether data or a FIN of ours is unacknowledged.
    pub(super) fn awaits_acknowledgement(&self) -> bool {
        let socket = self.socket();
        socket.send_queue() > 0 || matches!(socket.state(), State::FinWait1 | State::Closing | State::LastAck)
    }
}

/// All connections of one stack. Slots are made on demand up to a maximum and reused.
///
/// Invariant: `in_use <= slots.len() <= max`; `slots.len() - in_use == free.len()`; the rings of the connection at an
/// index are the ring pool's slot of the same number, as both lend what was given back last.
pub(super) struct Slab {
    slots: Vec<Slot>,
    free: Vec<u32>,
    max: usize,
    half_open: usize,
    half_open_oldest: u32,
    half_open_newest: u32,
}

impl Slab {
    pub(super) fn new(max: usize) -> Self {
        Slab {
            slots: Vec::with_capacity(max),
            free: Vec::new(),
            max,
            half_open: 0,
            half_open_oldest: NONE,
            half_open_newest: NONE,
        }
    }

    pub(super) fn in_use(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.in_use() >= self.max
    }

    /// Half-open connections.
    pub(super) fn half_open(&self) -> usize {
        self.half_open
    }

    /// Takes a slot into use for a connection with a socket of its own. The caller has asked [`Slab::is_full`].
    ///
    /// # Panics
    /// When the rings' slot has another number than the connection's: [`reclaim`](super::lend::reclaim) finds the
    /// neighbours of a ring by it.
    pub(super) fn insert(
        &mut self,
        key: FlowKey,
        socket: Socket<'static>,
        rings: RingPair,
        phase: Phase,
        now: Instant,
    ) -> u32 {
        debug_assert!(!self.is_full(), "no slot is free");
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::empty());
            self.slots.len() as u32 - 1
        });
        assert_eq!(rings.slot(), index, "slab and ring pool lend in the same order");
        let slot = &mut self.slots[index as usize];
        slot.handle = slot.set.add(socket);
        slot.key = key;
        slot.rings = Some(rings);
        slot.phase = phase;
        slot.progress_at = now;
        if phase == Phase::HalfOpen {
            self.link_half_open(index);
        }
        index
    }

    /// Frees a slot; gives its rings back to the caller. The generation moves on, so old ids are dead.
    pub(super) fn remove(&mut self, index: u32) -> Option<RingPair> {
        self.leave_half_open(index);
        let slot = &mut self.slots[index as usize];
        drop(slot.set.remove(slot.handle));
        // `ready`, `dirty` and `awaits_neighbor` stay: the lists still name the index and skip it by its phase, or
        // serve the slot's next connection, which does no harm.
        slot.generation = slot.generation.wrapping_add(1);
        slot.phase = Phase::Free;
        slot.owned = false;
        slot.write_blocked = false;
        slot.rings_touched = false;
        slot.large_segments = false;
        slot.received = Received::default();
        slot.net = 0;
        slot.probes = 0;
        slot.owner_deadline = Instant::FAR_FUTURE;
        slot.closing_deadline = Instant::FAR_FUTURE;
        let rings = slot.rings.take();
        self.free.push(index);
        rings
    }

    /// The id of a slot in use.
    pub(super) fn id(&self, index: u32) -> ConnId {
        ConnId { index, generation: self.slots[index as usize].generation }
    }

    /// The slot that an id names, as long as its owner has not released it.
    #[inline]
    pub(super) fn find(&self, id: ConnId) -> Option<&Slot> {
        let slot = self.slots.get(id.index as usize)?;
        (slot.generation == id.generation && slot.owned).then_some(slot)
    }

    /// The slot that an id names, mutable.
    #[inline]
    pub(super) fn find_mut(&mut self, id: ConnId) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(id.index as usize)?;
        (slot.generation == id.generation && slot.owned).then_some(slot)
    }

    /// A slot, unless its index was never used.
    pub(super) fn get(&self, index: u32) -> Option<&Slot> {
        self.slots.get(index as usize)
    }

    #[inline]
    pub(super) fn slot(&self, index: u32) -> &Slot {
        &self.slots[index as usize]
    }

    #[inline]
    pub(super) fn slot_mut(&mut self, index: u32) -> &mut Slot {
        &mut self.slots[index as usize]
    }

    /// Indices of all slots in use.
    pub(super) fn indices(&self) -> impl Iterator<Item = u32> + use<'_> {
        (0u32..).zip(&self.slots).filter(|(_, slot)| slot.phase != Phase::Free).map(|(index, _)| index)
    }

    /// The half-open connection that has waited longest.
    pub(super) fn oldest_half_open(&self) -> Option<u32> {
        (self.half_open_oldest != NONE).then_some(self.half_open_oldest)
    }

    /// Takes a connection out of the list of half-open ones, if it is there.
    pub(super) fn leave_half_open(&mut self, index: u32) {
        if self.slots[index as usize].phase != Phase::HalfOpen {
            return;
        }
        let slot = &mut self.slots[index as usize];
        slot.phase = Phase::Live;
        let (prev, next) = (slot.half_open_prev, slot.half_open_next);
        (slot.half_open_prev, slot.half_open_next) = (NONE, NONE);
        match prev {
            NONE => self.half_open_oldest = next,
            prev => self.slots[prev as usize].half_open_next = next,
        }
        match next {
            NONE => self.half_open_newest = prev,
            next => self.slots[next as usize].half_open_prev = prev,
        }
        self.half_open -= 1;
    }

    fn link_half_open(&mut self, index: u32) {
        let newest = self.half_open_newest;
        self.slots[index as usize].half_open_prev = newest;
        match newest {
            NONE => self.half_open_oldest = index,
            newest => self.slots[newest as usize].half_open_next = index,
        }
        self.half_open_newest = index;
        self.half_open += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_stays_small() {
        // Each connection has one of both for as long as it lasts, and the second lies on the heap.
        assert_eq!((size_of::<Slot>(), size_of::<SocketStorage<'static>>()), (144, 592));
    }
}
