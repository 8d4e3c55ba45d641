//! The frames on their way out, and smoltcp's view of one frame of a burst.

use super::cut::{Cutter, fill_tcp_checksum};
use crate::port::{Frame, Port, PortInfo};
use smoltcp::phy::{Device, DeviceCapabilities, PacketMeta, RxToken, TxToken};
use smoltcp::time::Instant as StackInstant;
use std::collections::VecDeque;
use std::num::NonZeroU16;

/// Large frames at hand at most, of a port that cuts segments: what one pass can send in them.
const SPARE_LARGE_MAX: usize = 32;
/// Headers of a TCP segment without options over IPv4, bytes: what precedes the payload of a large segment.
const HEADERS_BYTES: usize = 14 + 20 + 20;

/// Frames waiting for the port, and spare ones ready to be filled.
///
/// Invariant: `pending <= pending_max` and `spare <= pending_max`.
pub struct TxQueue<F> {
    pending: VecDeque<F>,
    spare: Vec<F>,
    /// Frames for segments that the port cuts; empty where it does not.
    spare_large: Vec<F>,
    /// Cuts them here instead.
    cutter: Option<Cutter>,
    /// Large frames are among those that wait for the port.
    has_pending_large: bool,
    pending_max: usize,
    last_frame_bytes: usize,
    pushed: u64,
    /// Segments that the port makes of the frames queued, beyond one of each.
    cut: u64,
    /// Large segments that were cut here.
    cut_here: u64,
    lost: u64,
}

impl<F: Frame> TxQueue<F> {
    /// A queue to the port that `info` describes, for at most `pending_max` unsent frames.
    pub fn new(pending_max: usize, info: &PortInfo) -> Self {
        TxQueue {
            pending: VecDeque::with_capacity(pending_max),
            spare: Vec::with_capacity(pending_max),
            spare_large: Vec::new(),
            cutter: Cutter::for_port(info),
            has_pending_large: false,
            pending_max,
            last_frame_bytes: 0,
            pushed: 0,
            cut: 0,
            cut_here: 0,
            lost: 0,
        }
    }

    /// Takes frames from the port until `wanted` spares are at hand, as far as it has them; and large ones, where it cuts
    /// segments.
    pub fn refill<P: Port<Frame = F>>(&mut self, port: &mut P, wanted: usize) {
        while self.spare.len() < wanted.min(self.pending_max) {
            match port.alloc() {
                Some(frame) => self.spare.push(frame),
                None => break,
            }
        }
        while self.spare_large.len() < SPARE_LARGE_MAX {
            match port.alloc_large() {
                Some(frame) => self.spare_large.push(frame),
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

    /// Whether a large segment can be queued, beside the room for a frame.
    #[inline]
    pub(super) fn has_large(&self) -> bool {
        match self.cutter {
            Some(_) => self.room() >= Cutter::ROOM,
            None => !self.spare_large.is_empty(),
        }
    }

    /// Whether large frames wait for the port here, so that some will be at hand again.
    pub(super) fn has_pending_large(&self) -> bool {
        self.has_pending_large
    }

    /// Fills one frame of `len` bytes and queues it; returns whether there was room.
    pub fn push(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        let has_room = self.has_room();
        if has_room {
            fill(self.place(len));
        } else {
            self.lost += 1;
        }
        has_room
    }

    /// Queues a frame of `len` bytes for the caller to fill.
    ///
    /// # Panics
    /// Without room.
    #[inline]
    fn place(&mut self, len: usize) -> &mut [u8] {
        let mut frame = self.spare.pop().expect("the caller has asked for room");
        frame.set_len(len);
        self.last_frame_bytes = len;
        self.pushed += 1;
        self.pending.push_back(frame);
        self.pending.back_mut().map(Frame::bytes_mut).unwrap_or_default()
    }

    /// Fills one frame of `len` bytes with a segment that the port cuts, and queues it, or queues what is cut from it here;
    /// without room for it the segment is lost.
    #[inline(never)]
    fn fill_large<R>(
        &mut self,
        len: usize,
        segment_bytes: NonZeroU16,
        fill: impl FnOnce(&mut [u8]) -> R,
    ) -> R {
        if self.has_large()
            && let Some(cutter) = &mut self.cutter
        {
            let (segments, result) = cutter.cut(len, segment_bytes, fill, &mut self.spare, &mut self.pending);
            self.last_frame_bytes = len;
            self.pushed += segments as u64;
            self.cut_here += 1;
            return result;
        }
        let spare = if self.has_room() { self.spare_large.pop() } else { None };
        let Some(mut frame) = spare else {
            // Not reached: who may send large segments has looked for such a frame before.
            self.lost += 1;
            return fill(&mut vec![0; len]);
        };
        frame.set_len(len);
        let result = fill(frame.bytes_mut());
        frame.set_segment_bytes(segment_bytes);
        self.pending.push_back(frame);
        self.last_frame_bytes = len;
        self.has_pending_large = true;
        self.pushed += 1;
        let segments = len.saturating_sub(HEADERS_BYTES).div_ceil(usize::from(segment_bytes.get()));
        self.cut += segments.saturating_sub(1) as u64;
        result
    }

    /// Frames not yet sent.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Length of the frame queued last, bytes.
    #[inline]
    pub(super) fn last_frame_bytes(&self) -> usize {
        self.last_frame_bytes
    }

    /// Frames queued since the queue was made.
    pub fn pushed(&self) -> u64 {
        self.pushed
    }

    /// Segments queued since the queue was made: those that the port cuts out of a frame count one by one.
    #[inline]
    pub(super) fn segments(&self) -> u64 {
        self.pushed + self.cut
    }

    /// Large segments that were cut since the queue was made, as the port does not.
    pub fn cut_here(&self) -> u64 {
        self.cut_here
    }

    /// Answers that found no room since the queue was made.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Hands the frames to the port; what it does not take stays first in line.
    pub fn flush<P: Port<Frame = F>>(&mut self, port: &mut P) -> usize {
        if self.pending.is_empty() {
            return 0;
        }
        let sent = port.tx_burst(&mut self.pending);
        self.has_pending_large &= !self.pending.is_empty();
        sent
    }

    /// Gives every frame back to the port.
    pub fn clear<P: Port<Frame = F>>(&mut self, port: &mut P) {
        let spare = self.spare.drain(..).chain(self.spare_large.drain(..));
        for frame in self.pending.drain(..).chain(spare) {
            port.release(frame);
        }
        self.has_pending_large = false;
    }
}

/// smoltcp's device for one call: at most one frame to receive, and the queue to send into.
pub(super) struct OneFrame<'a, F> {
    pub(super) rx: Option<&'a [u8]>,
    pub(super) tx: &'a mut TxQueue<F>,
    pub(super) caps: &'a DeviceCapabilities,
    /// Neither smoltcp nor the port fills in checksums of TCP.
    pub(super) fills_in: bool,
    /// smoltcp asked for a place to send from: a socket had something to say.
    pub(super) wanted: bool,
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
        Some((Received(frame), Queued { tx: self.tx, fills_in: self.fills_in, segment_bytes: None }))
    }

    fn transmit(&mut self, _now: StackInstant) -> Option<Queued<'_, F>> {
        self.wanted = true;
        self.tx.has_room().then_some(Queued { tx: self.tx, fills_in: self.fills_in, segment_bytes: None })
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
pub(super) struct Queued<'a, F> {
    tx: &'a mut TxQueue<F>,
    fills_in: bool,
    /// Payload bytes of the segments that what comes shall be cut into.
    segment_bytes: Option<NonZeroU16>,
}

impl<F: Frame> TxToken for Queued<'_, F> {
    fn consume<R, C: FnOnce(&mut [u8]) -> R>(self, len: usize, f: C) -> R {
        if let Some(segment_bytes) = self.segment_bytes {
            return self.tx.fill_large(len, segment_bytes, f);
        }
        if self.tx.has_room() {
            let frame = self.tx.place(len);
            let result = f(frame);
            if self.fills_in {
                fill_tcp_checksum(frame);
            }
            return result;
        }
        // An answer without a place (`transmit` gives tokens only with room). smoltcp's `consume` cannot fail, and not
        // to receive would let two ends that wait for each other's room wait for ever: the answer is lost, as it
        // could be on any wire, and TCP recovers.
        self.tx.lost += 1;
        f(&mut vec![0; len])
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment_bytes = meta.segmentation_offload_size;
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
