//! The frames on their way out, and smoltcp's view of one frame of a burst.

use crate::port::{Frame, Port};
use smoltcp::phy::{Device, DeviceCapabilities, RxToken, TxToken};
use smoltcp::time::Instant as StackInstant;
use std::collections::VecDeque;

/// Frames waiting for the port, and spare ones ready to be filled.
///
/// Invariant: `pending <= pending_max` and `spare <= pending_max`.
pub struct TxQueue<F> {
    pending: VecDeque<F>,
    spare: Vec<F>,
    pending_max: usize,
    pushed: u64,
    lost: u64,
}

impl<F: Frame> TxQueue<F> {
    /// A queue that holds at most `pending_max` unsent frames.
    pub fn new(pending_max: usize) -> Self {
        TxQueue {
            pending: VecDeque::with_capacity(pending_max),
            spare: Vec::with_capacity(pending_max),
            pending_max,
            pushed: 0,
            lost: 0,
        }
    }

    /// Takes frames from the port until `wanted` spares are at hand, as far as it has them.
    pub fn refill<P: Port<Frame = F>>(&mut self, port: &mut P, wanted: usize) {
        while self.spare.len() < wanted.min(self.pending_max) {
            match port.alloc() {
                Some(frame) => self.spare.push(frame),
                None => break,
            }
        }
    }

    /// Whether one more frame can be filled.
    pub fn has_room(&self) -> bool {
        self.room() > 0
    }

    /// How many more frames can be filled.
    pub fn room(&self) -> usize {
        self.spare.len().min(self.pending_max - self.pending.len())
    }

    /// Fills one frame of `len` bytes and queues it; returns whether there was room.
    pub fn push(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        let has_room = self.has_room();
        if has_room {
            self.fill(len, fill);
        } else {
            self.lost += 1;
        }
        has_room
    }

    /// Fills one frame of `len` bytes and queues it.
    ///
    /// # Panics
    /// Without room.
    fn fill<R>(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut frame = self.spare.pop().expect("the caller has asked for room");
        frame.set_len(len);
        let result = fill(frame.bytes_mut());
        self.pending.push_back(frame);
        self.pushed += 1;
        result
    }

    /// Frames not yet sent.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Frames queued since the queue was made.
    pub fn pushed(&self) -> u64 {
        self.pushed
    }

    /// Answers that found no room since the queue was made.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Hands the frames to the port; what it does not take stays first in line.
    pub fn flush<P: Port<Frame = F>>(&mut self, port: &mut P) -> usize {
        if self.pending.is_empty() { 0 } else { port.tx_burst(&mut self.pending) }
    }

    /// Gives every frame back to the port.
    pub fn clear<P: Port<Frame = F>>(&mut self, port: &mut P) {
        for frame in self.pending.drain(..).chain(self.spare.drain(..)) {
            port.release(frame);
        }
    }
}

/// smoltcp's device for one call: at most one frame to receive, and the queue to send into.
pub(super) struct OneFrame<'a, F> {
    pub(super) rx: Option<&'a [u8]>,
    pub(super) tx: &'a mut TxQueue<F>,
    pub(super) caps: &'a DeviceCapabilities,
}

impl<F: Frame> Device for OneFrame<'_, F> {
    type RxToken<'t>
        = Received<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Queued<'t, F>
    where
        Self: 't;

    fn receive(&mut self, _now: StackInstant) -> Option<(Received<'_>, Queued<'_, F>)> {
        let frame = self.rx.take()?;
        Some((Received(frame), Queued(self.tx)))
    }

    fn transmit(&mut self, _now: StackInstant) -> Option<Queued<'_, F>> {
        self.tx.has_room().then_some(Queued(self.tx))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.caps.clone()
    }
}

/// The received frame.
pub(super) struct Received<'a>(&'a [u8]);

impl RxToken for Received<'_> {
    fn consume<R, C: FnOnce(&[u8]) -> R>(self, f: C) -> R {
        f(self.0)
    }
}

/// A reserved place in the queue.
pub(super) struct Queued<'a, F>(&'a mut TxQueue<F>);

impl<F: Frame> TxToken for Queued<'_, F> {
    fn consume<R, C: FnOnce(&mut [u8]) -> R>(self, len: usize, f: C) -> R {
        if self.0.has_room() {
            return self.0.fill(len, f);
        }
        // An answer without a place (`transmit` gives tokens only with room). smoltcp's `consume` cannot fail, and not
        // to receive would let two ends that wait for each other's room wait for ever: the answer is lost, as it
        // could be on any wire, and TCP recovers.
        self.0.lost += 1;
        f(&mut vec![0; len])
    }
}

/// A device that lets smoltcp learn from a frame and discards what it would answer.
pub(super) struct Listener<'a> {
    pub(super) rx: Option<&'a [u8]>,
    pub(super) caps: &'a DeviceCapabilities,
}

impl Device for Listener<'_> {
    type RxToken<'t>
        = Received<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Discarded
    where
        Self: 't;

    fn receive(&mut self, _now: StackInstant) -> Option<(Received<'_>, Discarded)> {
        Some((Received(self.rx.take()?), Discarded))
    }

    fn transmit(&mut self, _now: StackInstant) -> Option<Discarded> {
        None
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.caps.clone()
    }
}

/// Where answers go that nobody shall see.
pub(super) struct Discarded;

impl TxToken for Discarded {
    fn consume<R, C: FnOnce(&mut [u8]) -> R>(self, len: usize, f: C) -> R {
        // Control frames only (ARP, NDP, a handshake): rare, and bounded by the MTU.
        f(&mut vec![0; len])
    }
}
