//! The two halves of a connection at once: received bytes lent in place, and the send ring to answer into.
//!
//! smoltcp lends the receive ring through a closure that borrows the whole socket, so a handler could not write to
//! the send ring of the same connection while it reads. Here, once, the two are taken apart.
//!
//! Giving ring memory back has to be vouched for too, and is for the same reason done here.
#![allow(unsafe_code)] // The rings under a socket: lent apart from it, emptied, given back.

use super::ConnId;
use super::conn::{OtherSlots, Slab, Slot};
use super::key::FlowKey;
use super::rings::RingPool;
use crate::time::Instant;
use smoltcp::socket::tcp::Socket;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// The sending half of one connection: its send ring. Through it the other connections' sending halves can be
/// reached, so that what one connection receives can be sent to others while it is lent.
pub struct SendHalf<'a> {
    id: ConnId,
    key: &'a FlowKey,
    socket: &'a mut Socket<'static>,
    flags: SlotFlags<'a>,
    now: Instant,
    others: Option<Others<'a>>,
}

/// The rest of the stack, as far as sending concerns it.
struct Others<'a> {
    slots: OtherSlots<'a>,
    dirty: &'a mut VecDeque<u32>,
}

/// What a write changes in the slot beside the socket.
struct SlotFlags<'a> {
    write_blocked: &'a mut bool,
    rings_touched: &'a mut bool,
    progress_at: &'a mut Instant,
}

impl SlotFlags<'_> {
    fn reborrow(&mut self) -> SlotFlags<'_> {
        SlotFlags {
            write_blocked: self.write_blocked,
            rings_touched: self.rings_touched,
            progress_at: self.progress_at,
        }
    }
}

impl<'a> SendHalf<'a> {
    /// The sending half of the slot that an id names, which becomes dirty.
    #[inline]
    pub(super) fn of(
        slab: &'a mut Slab,
        dirty: &'a mut VecDeque<u32>,
        id: ConnId,
        now: Instant,
    ) -> Option<Self> {
        let (slot, slots) = slab.split(id)?;
        if !core::mem::replace(&mut slot.dirty, true) {
            dirty.push_back(id.index);
        }
        Some(SendHalf::of_slot(slot, id, now, Some(Others { slots, dirty })))
    }

    fn of_slot(slot: &'a mut Slot, id: ConnId, now: Instant, others: Option<Others<'a>>) -> Self {
        let (key, socket, flags) = split(slot);
        SendHalf { id, key, socket, flags, now, others }
    }

    /// The same half, lent for less long.
    pub fn reborrow(&mut self) -> SendHalf<'_> {
        let others = self.others.as_mut();
        SendHalf {
            id: self.id,
            key: self.key,
            socket: self.socket,
            flags: self.flags.reborrow(),
            now: self.now,
            others: others.map(|others| Others { slots: others.slots.reborrow(), dirty: others.dirty }),
        }
    }

    /// The sending half of another connection (or of this one); `None` for an id that was released. From a half
    /// that came from here only itself can be reached.
    pub fn other(&mut self, id: ConnId) -> Option<SendHalf<'_>> {
        if id == self.id {
            return Some(self.reborrow());
        }
        let Others { slots, dirty } = self.others.as_mut()?;
        let slot = slots.find_mut(id)?;
        if !core::mem::replace(&mut slot.dirty, true) {
            dirty.push_back(id.index);
        }
        Some(SendHalf::of_slot(slot, id, self.now, None))
    }

    /// The peer's address.
    pub fn peer(&self) -> SocketAddr {
        self.key.remote()
    }

    /// Our address.
    pub fn local(&self) -> SocketAddr {
        self.key.local()
    }

    /// Free bytes in the send ring; 0 when the connection cannot send (any more).
    #[inline]
    pub fn free_bytes(&self) -> usize {
        if self.socket.may_send() { self.socket.send_capacity() - self.socket.send_queue() } else { 0 }
    }

    /// Bytes queued or in flight, not yet acknowledged.
    pub fn queued_bytes(&self) -> usize {
        self.socket.send_queue()
    }

    /// Queues as much of `bytes` as fits; returns how much. Whoever got less than it asked for is made ready
    /// when at least half of the ring is free again.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let was_empty = self.socket.send_queue() == 0;
        // The only error is a connection that cannot send (any more): nothing was queued.
        let queued = self.socket.send_slice(bytes).unwrap_or(0);
        if queued < bytes.len() {
            *self.flags.write_blocked = true;
        }
        self.note_queued(queued, was_empty);
        queued
    }

    /// Lets `fill` write `len` bytes where they will be sent from, and queues them; `false`, without a call, when
    /// the ring has no contiguous run of that length just now. Then [`SendHalf::write`] takes what fits.
    #[inline]
    pub fn write_in_place(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        let was_empty = self.socket.send_queue() == 0;
        let filled = self.socket.send(|ring| match ring.get_mut(..len) {
            Some(place) => {
                fill(place);
                (len, true)
            }
            None => (0, false),
        });
        let filled = filled.unwrap_or(false);
        self.note_queued(if filled { len } else { 0 }, was_empty);
        filled
    }

    /// Asks to be made ready when at least half of the ring is free again, like a write that did not fit.
    pub fn want_room(&mut self) {
        *self.flags.write_blocked = true;
    }

    fn note_queued(&mut self, bytes: usize, was_empty: bool) {
        if bytes > 0 {
            *self.flags.rings_touched = true;
            if was_empty {
                // From now on we wait for an acknowledgement: the user timeout counts from here.
                *self.flags.progress_at = self.now;
            }
        }
    }
}

/// Lends the received bytes (one contiguous run) of the slot that `id` names and its sending half to `f`, then takes
/// the bytes that `f` used up off the ring. `None` when there are no bytes.
#[inline]
pub(super) fn lend<R>(
    slab: &mut Slab,
    dirty: &mut VecDeque<u32>,
    id: ConnId,
    now: Instant,
    f: impl FnOnce(&mut [u8], &mut SendHalf<'_>) -> (usize, R),
) -> Option<R> {
    let mut half = SendHalf::of(slab, dirty, id, now)?;
    if !half.socket.can_recv() {
        return None;
    }
    *half.flags.rings_touched = true;
    let (start, len) = half.socket.recv(|ring| (0, (ring.as_mut_ptr(), ring.len()))).ok()?;
    // SAFETY: `start` and `len` describe a slice that smoltcp has just lent us from the receive ring, whose memory
    // outlives the slot's connection (`RingPair`). While `bytes` lives, the socket is reached only through
    // `SendHalf`, whose methods call `send`, `send_slice`, `may_send`, `send_queue` and `send_capacity`: these touch the
    // send ring and the socket's own fields, never the receive ring's memory. No frame is fed to the socket
    // meanwhile, as both borrows come from one `&mut Slab`; `SendHalf::other` reaches the slots beside this one, whose
    // rings are other memory. `f` cannot keep either: their lifetimes are its call's.
    let bytes = unsafe { core::slice::from_raw_parts_mut(start, len) };
    let (used, result) = f(bytes, &mut half);
    let used = used.min(len);
    // The same bytes are still in front, so this cannot fail nor give less.
    let _ = half.socket.recv(|_| (used, ()));
    Some(result)
}

/// Gives the pages of a quiet connection's rings back. Does nothing when bytes lie in them.
pub(super) fn reclaim(slot: &Slot, pool: &RingPool) -> bool {
    let socket = slot.socket();
    if socket.recv_queue() > 0 || socket.send_queue() > 0 || slot.received.has_gap() {
        return false;
    }
    let Some(rings) = &slot.rings else { return false };
    // SAFETY: a stack has one pool, so the rings are from it. Both queues are empty and no segment that came early
    // lies beyond a gap, so smoltcp reads no byte before it has written it again. Slices of the rings are lent by
    // `lend` alone, which holds the slot mutably as long as they live.
    unsafe { pool.reclaim(rings) };
    true
}

/// Frees a slot: drops its socket and gives its rings back.
pub(super) fn close(slab: &mut Slab, pool: &mut RingPool, index: u32) {
    if let Some(rings) = slab.remove(index) {
        // SAFETY: a stack has one pool, so the rings are from it. `Slab::remove` has dropped the socket, and with it
        // both buffers that were lent with the rings.
        unsafe { pool.give_back(rings) };
    }
}

/// A slot's flow, its socket and the fields that writing changes.
#[inline]
fn split(slot: &mut Slot) -> (&FlowKey, &mut Socket<'static>, SlotFlags<'_>) {
    let (key, socket, write_blocked, rings_touched, progress_at) = slot.for_sending();
    (key, socket, SlotFlags { write_blocked, rings_touched, progress_at })
}
