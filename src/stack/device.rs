//! The frames on their way out, and smoltcp's view of one frame of a burst.

use crate::port::{Frame, Port};
use std::collections::VecDeque;

/// Frames waiting for the port, and spare ones ready to be filled.
pub struct TxQueue<F> {
    pending: VecDeque<F>,
    spare: Vec<F>,
    pending_max: usize,
}

impl<F: Frame> TxQueue<F> {
    /// A queue that holds at most `pending_max` unsent frames.
    pub fn new(pending_max: usize) -> Self {
        TxQueue {
            pending: VecDeque::with_capacity(pending_max),
            spare: Vec::with_capacity(pending_max),
            pending_max,
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
        !self.spare.is_empty() && self.pending.len() < self.pending_max
    }

    /// Fills one frame of `len` bytes with `fill` and queues it; `None` without room.
    pub fn push<R>(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        if !self.has_room() {
            return None;
        }
        let mut frame = self.spare.pop()?;
        frame.set_len(len);
        let result = fill(frame.bytes_mut());
        self.pending.push_back(frame);
        Some(result)
    }

    /// Frames not yet sent.
    pub fn pending(&self) -> usize {
        self.pending.len()
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
