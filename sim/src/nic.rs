//! A simulated NIC queue: a bounded pool of frames whose leaks show, room for frames to send that may run out, and
//! bursts of any size.

use crate::rng::Rng;
use rustix::event::{EventfdFlags, eventfd};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use unsocket::port::{Frame, Port, PortInfo, PortStats};

/// How many frames a burst may have at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BurstMode {
    Full,
    One,
    /// Any number, none included, although frames are waiting.
    Random,
}

/// What the world sees of a queue.
pub(crate) struct Queue {
    /// Frames that nobody holds.
    pub(crate) free: usize,
    pub(crate) total: usize,
    pub(crate) rx: VecDeque<Vec<u8>>,
    pub(crate) rx_max: usize,
    /// Sent and not yet picked up by the link.
    pub(crate) tx: Vec<Vec<u8>>,
    /// Frames that may be sent until there is room again.
    pub(crate) tx_room: usize,
    /// There are no buffers just now.
    pub(crate) dry: bool,
    pub(crate) burst: BurstMode,
    /// Frames that were dropped in memory rather than given back.
    pub(crate) leaked: usize,
    pub(crate) stats: PortStats,
    rng: Rng,
    buffers: Vec<Vec<u8>>,
}

impl Queue {
    /// A frame arrives from the link; without a buffer or a place it is lost.
    pub(crate) fn arrive(&mut self, frame: Vec<u8>, frame_bytes_max: usize) {
        if self.dry || self.free == 0 || self.rx.len() >= self.rx_max || frame.len() > frame_bytes_max {
            self.stats.rx_dropped += 1;
            return;
        }
        self.free -= 1;
        self.rx.push_back(frame);
    }

    /// Frames that the worker holds.
    pub(crate) fn held(&self) -> usize {
        self.total - self.free - self.rx.len()
    }
}

/// The worker's end of a queue.
pub(crate) struct SimPort {
    info: PortInfo,
    pub(crate) queue: Rc<RefCell<Queue>>,
    never: OwnedFd,
}

/// A frame of a queue's pool.
pub(crate) struct SimFrame {
    bytes: Vec<u8>,
    queue: Rc<RefCell<Queue>>,
    given_back: bool,
}

impl SimPort {
    pub(crate) fn new(info: PortInfo, frames: usize, rx_max: usize, rng: Rng) -> Self {
        let queue = Queue {
            free: frames,
            total: frames,
            rx: VecDeque::new(),
            rx_max,
            tx: Vec::new(),
            tx_room: usize::MAX,
            dry: false,
            burst: BurstMode::Full,
            leaked: 0,
            stats: PortStats::default(),
            rng,
            buffers: Vec::new(),
        };
        let never = eventfd(0, EventfdFlags::CLOEXEC).expect("a descriptor");
        SimPort { info, queue: Rc::new(RefCell::new(queue)), never }
    }

    fn frame(&self, bytes: Vec<u8>) -> SimFrame {
        SimFrame { bytes, queue: self.queue.clone(), given_back: false }
    }
}

impl Frame for SimFrame {
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    fn set_len(&mut self, len: usize) {
        self.bytes.resize(len, 0xa5);
    }
}

impl Drop for SimFrame {
    fn drop(&mut self) {
        if !self.given_back {
            self.queue.borrow_mut().leaked += 1;
        }
    }
}

impl Port for SimPort {
    type Frame = SimFrame;

    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn rx_burst(&mut self, burst: &mut VecDeque<SimFrame>, max: usize) -> usize {
        let mut queue = self.queue.borrow_mut();
        let most = match queue.burst {
            BurstMode::Full => 64,
            BurstMode::One => 1,
            BurstMode::Random => queue.rng.size(0, 64),
        };
        let count = queue.rx.len().min(max).min(most);
        for _ in 0..count {
            let Some(bytes) = queue.rx.pop_front() else { break };
            queue.stats.rx_frames += 1;
            queue.stats.rx_bytes += bytes.len() as u64;
            burst.push_back(self.frame(bytes));
        }
        count
    }

    fn alloc(&mut self) -> Option<SimFrame> {
        let mut queue = self.queue.borrow_mut();
        if queue.dry || queue.free == 0 {
            queue.stats.alloc_failed += 1;
            return None;
        }
        queue.free -= 1;
        let mut bytes = queue.buffers.pop().unwrap_or_default();
        bytes.clear();
        Some(self.frame(bytes))
    }

    fn tx_burst(&mut self, burst: &mut VecDeque<SimFrame>) -> usize {
        let mut queue = self.queue.borrow_mut();
        let count = burst.len().min(queue.tx_room);
        queue.stats.tx_full += u64::from(count < burst.len());
        queue.tx_room -= if queue.tx_room == usize::MAX { 0 } else { count };
        for mut frame in burst.drain(..count) {
            frame.given_back = true;
            queue.free += 1;
            queue.stats.tx_frames += 1;
            queue.stats.tx_bytes += frame.bytes.len() as u64;
            queue.tx.push(std::mem::take(&mut frame.bytes));
        }
        count
    }

    fn release(&mut self, mut frame: SimFrame) {
        frame.given_back = true;
        let mut queue = self.queue.borrow_mut();
        queue.free += 1;
        if queue.buffers.len() < 64 {
            queue.buffers.push(std::mem::take(&mut frame.bytes));
        }
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        // Never readable: the world itself wakes whom frames arrive for.
        Some(self.never.as_fd())
    }

    fn prepare_sleep(&mut self) -> bool {
        self.queue.borrow().rx.is_empty()
    }

    fn stats(&self) -> PortStats {
        self.queue.borrow().stats
    }
}
