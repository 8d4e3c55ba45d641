//! The two halves of a connection at once: received bytes lent in place, and the send ring to answer into.
//!
//! smoltcp lends the receive ring through a closure that borrows the whole socket, so a handler could not write to
//! the send ring of the same connection while it reads. Here, once, the two are taken apart.
//!
//! Many replies of one turn go into the send ring one behind the other, and are queued in it all at once: to smoltcp
//! they are one write.
//!
//! Giving ring memory back has to be vouched for too, and is for the same reason done here.
#![allow(unsafe_code)] // The rings under a socket: lent apart from it, filled ahead, emptied, given back.

use super::ConnId;
use super::conn::{Slab, Slot};
use super::rings::RingPool;
use crate::time::Instant;
use core::ptr::NonNull;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// The sending half of one connection: its send ring. Through it the other connections' sending halves can be
/// reached, so that what one connection receives can be sent to others while it is lent.
pub struct SendHalf<'a> {
    /// Names a connection that its owner has not released: looked up when the half is made, and nothing is released
    /// as long as it lives.
    id: ConnId,
    slab: &'a mut Slab,
    dirty: &'a mut VecDeque<u32>,
    now: Instant,
    ahead: Ahead,
}

/// Free places of a send ring right behind the bytes that were queued last, and how many of them are written.
///
/// Invariant: `written <= free`; if there are any, the `free` bytes from `start` on are of the ring of the socket that the
/// half names, and nobody else reads or writes them before they are queued.
struct Ahead {
    start: NonNull<u8>,
    free: usize,
    written: usize,
}

impl Ahead {
    const NOTHING: Ahead = Ahead { start: NonNull::dangling(), free: 0, written: 0 };
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
        let slot = slab.find_mut(id)?;
        if !core::mem::replace(&mut slot.dirty, true) {
            dirty.push_back(id.index);
        }
        Some(SendHalf { id, slab, dirty, now, ahead: Ahead::NOTHING })
    }

    /// The same half, lent for less long.
    #[inline]
    pub fn reborrow(&mut self) -> SendHalf<'_> {
        self.queue_written();
        SendHalf { id: self.id, slab: self.slab, dirty: self.dirty, now: self.now, ahead: Ahead::NOTHING }
    }

    /// The sending half of another connection (or of this one); `None` for an id that was released.
    pub fn other(&mut self, id: ConnId) -> Option<SendHalf<'_>> {
        self.queue_written();
        SendHalf::of(self.slab, self.dirty, id, self.now)
    }

    /// The peer's address.
    pub fn peer(&self) -> SocketAddr {
        self.slot().key.remote()
    }

    /// Our address.
    pub fn local(&self) -> SocketAddr {
        self.slot().key.local()
    }

    /// Free bytes in the send ring; 0 when the connection cannot send (any more).
    #[inline]
    pub fn free_bytes(&self) -> usize {
        let socket = self.slot().socket();
        if socket.may_send() { socket.send_capacity() - self.queued_bytes() } else { 0 }
    }

    /// Bytes queued or in flight, not yet acknowledged.
    pub fn queued_bytes(&self) -> usize {
        self.slot().socket().send_queue() + self.ahead.written
    }

    /// Queues as much of `bytes` as fits; returns how much. Whoever got less than it asked for is made ready
    /// when at least half of the ring is free again.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        self.queue_written();
        let slot = self.slot_mut();
        let socket = slot.socket_mut();
        let was_empty = socket.send_queue() == 0;
        // The only error is a connection that cannot send (any more): nothing was queued.
        let queued = socket.send_slice(bytes).unwrap_or(0);
        if queued < bytes.len() {
            slot.write_blocked = true;
        }
        self.note_queued(queued, was_empty);
        queued
    }

    /// Lets `fill` write `len` bytes where they will be sent from, and queues them; `false`, without a call, when
    /// the ring has no contiguous run of that length just now. Then [`SendHalf::write`] takes what fits.
    #[inline]
    pub fn write_in_place(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        let Ahead { start, free, written } = self.ahead;
        if len > free - written {
            return self.write_at_once(len, fill);
        }
        let place = start.as_ptr().wrapping_add(written);
        // SAFETY: the places from `start` on are `free` bytes of the send ring, and so many of them are left (`Ahead`);
        // the slice ends with the call of `fill`, which cannot reach the half.
        fill(unsafe { core::slice::from_raw_parts_mut(place, len) });
        self.ahead.written += len;
        true
    }

    /// [`SendHalf::write_in_place`] through the socket, of the first in a turn and of what finds no place behind it.
    #[inline]
    fn write_at_once(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        self.queue_written();
        let socket = self.slot_mut().socket_mut();
        let was_empty = socket.send_queue() == 0;
        let ahead = socket.send(|ring| match ring.split_at_mut_checked(len) {
            Some((place, behind)) => {
                fill(place);
                (len, Some(Ahead { start: NonNull::from_mut(behind).cast(), free: behind.len(), written: 0 }))
            }
            None => (0, None),
        });
        // The only error is a connection that cannot send (any more).
        let Ok(Some(ahead)) = ahead else { return false };
        self.ahead = ahead;
        self.note_queued(len, was_empty);
        true
    }

    /// Queues what was written ahead. Whatever looks at the socket or lends it to others comes after this.
    #[inline]
    fn queue_written(&mut self) {
        let Ahead { written, .. } = self.ahead;
        self.ahead = Ahead::NOTHING;
        if written > 0 {
            self.queue(written);
        }
    }

    /// Queues so many bytes that lie in the ring behind those that were queued last.
    #[inline(never)]
    fn queue(&mut self, bytes: usize) {
        let socket = self.slot_mut().socket_mut();
        let was_empty = socket.send_queue() == 0;
        // They are in the first free places still: acknowledgements alone empty a ring, and no segment comes while the half
        // has the slab. So this cannot fail, nor take fewer.
        let queued = socket.send(|_| (bytes, ()));
        debug_assert_eq!(queued, Ok(()), "a connection that could send still can");
        self.note_queued(bytes, was_empty);
    }

    /// Asks to be made ready when at least half of the ring is free again, like a write that did not fit.
    pub fn want_room(&mut self) {
        self.slot_mut().write_blocked = true;
    }

    #[inline]
    fn note_queued(&mut self, bytes: usize, was_empty: bool) {
        if bytes > 0 {
            let now = self.now;
            let slot = self.slot_mut();
            slot.rings_touched = true;
            if was_empty {
                // From now on we wait for an acknowledgement: the user timeout counts from here.
                slot.progress_at = now;
            }
        }
    }

    #[inline]
    fn slot(&self) -> &Slot {
        self.slab.slot(self.id.index)
    }

    #[inline]
    fn slot_mut(&mut self) -> &mut Slot {
        self.slab.slot_mut(self.id.index)
    }
}

impl Drop for SendHalf<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.ahead.written > 0 {
            self.queue(self.ahead.written);
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
    let slot = half.slot_mut();
    if !slot.socket().can_recv() {
        return None;
    }
    slot.rings_touched = true;
    let (start, len) = slot.socket_mut().recv(|ring| (0, (ring.as_mut_ptr(), ring.len()))).ok()?;
    // SAFETY: `start` and `len` describe a slice that smoltcp has just lent us from the receive ring, whose memory
    // outlives the slot's connection (`RingPair`). While `bytes` lives, the sockets are reached only through
    // `SendHalf`, whose methods call `send`, `send_slice`, `may_send`, `send_queue` and `send_capacity`, of this slot's
    // or, by `SendHalf::other`, of another's, and write to a send ring ahead: these touch a send ring and the socket's own
    // fields, never a receive ring's memory. No frame is fed to a socket and no slot freed meanwhile, as the half holds the one `&mut Slab`. `f` cannot
    // keep either: their lifetimes are its call's.
    let bytes = unsafe { core::slice::from_raw_parts_mut(start, len) };
    let (used, result) = f(bytes, &mut half);
    let used = used.min(len);
    // The same bytes are still in front, so this cannot fail nor give less.
    let _ = half.slot_mut().socket_mut().recv(|_| (used, ()));
    Some(result)
}

/// Gives the pages of a quiet connection's rings back, and the page tables that it shares with connections which are
/// all as quiet. Does nothing when bytes lie in the rings.
pub(super) fn reclaim(slab: &Slab, pool: &RingPool, index: u32) -> bool {
    let slot = slab.slot(index);
    if !are_empty(slot) {
        return false;
    }
    let Some(rings) = &slot.rings else { return false };
    // SAFETY: a stack has one pool, so the rings are from it. Both queues are empty and no segment that came early
    // lies beyond a gap, so smoltcp reads no byte before it has written it again. Slices of the rings are lent by
    // `lend` alone, which holds the slab mutably as long as they live.
    unsafe { pool.reclaim(rings) };
    for table in pool.shared_tables(rings) {
        // From the back: whoever came together goes to rest in order, so the last is the one most likely awake.
        let rest = |index: u32| slab.get(index).is_none_or(|slot| !slot.rings_touched && are_empty(slot));
        if table.slots.clone().rev().all(rest) {
            // SAFETY: as above for every slot of the slab, and it has all rings that are lent at their own numbers
            // (`Slab::insert`); where it has none, or a free one, nobody has the rings.
            unsafe { pool.reclaim_table(&table) };
        }
    }
    true
}

/// Whether no byte in a slot's rings will be read before it is written again. Free slots have none.
fn are_empty(slot: &Slot) -> bool {
    if slot.rings.is_none() {
        return true;
    }
    let socket = slot.socket();
    socket.recv_queue() == 0 && socket.send_queue() == 0 && !slot.received.has_gap()
}

/// Frees a slot: drops its socket and gives its rings back.
pub(super) fn close(slab: &mut Slab, pool: &mut RingPool, index: u32) {
    if let Some(rings) = slab.remove(index) {
        // SAFETY: a stack has one pool, so the rings are from it. `Slab::remove` has dropped the socket, and with it
        // both buffers that were lent with the rings.
        unsafe { pool.give_back(rings) };
    }
}
