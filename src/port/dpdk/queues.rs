//! One worker's way to the queues of its device: queue pairs of its own, or the first worker's.

use super::packet;
use ::dpdk::{Mbuf, RxQueue, TxQueue};
use rtrb::{Consumer, Producer, RingBuffer};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Frames that wait in front of a queue at most, and in a ring between two workers.
const WAITING_MAX: usize = 256;
/// Bursts in a row that a queue took nothing of, after which nobody is thought to be at its other end.
const REFUSALS_MAX: u32 = 10_000;

/// One queue pair.
struct Pair {
    rx: RxQueue,
    tx: TxQueue,
    /// Frames that are for this queue and that it did not take yet.
    waiting: VecDeque<Mbuf>,
    /// It has taken a frame, and not refused too often since.
    is_connected: bool,
    refusals: u32,
}

/// The queues of one worker.
pub(super) struct Queues {
    worker: usize,
    workers: usize,
    pairs: Vec<Pair>,
    /// The pair that is received from first.
    next: usize,
    /// To the first worker, which sends for those that have no queue, or one without another end.
    to_first: Option<ToFirst>,
    /// What the first worker sends for the others.
    from_others: Vec<Consumer<Mbuf>>,
    /// On the first worker: its queue has taken a frame.
    first_sends: Arc<AtomicBool>,
}

/// A worker's way to the first one.
struct ToFirst {
    ring: Producer<Mbuf>,
    first_sends: Arc<AtomicBool>,
}

/// What became of a burst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sent {
    /// Frames that could never be sent, or whose queue has lost its other end, and that are gone.
    pub(super) refused: u64,
}

impl Queues {
    /// Divides a device's queues between `workers`: queue `n` is worker `n % workers`'s. Where there are fewer queues than
    /// workers the first worker sends for those who have none; with `unsure`, also for those at whose queue's other
    /// end there turns out to be nobody.
    pub(super) fn divide(rx: Vec<RxQueue>, tx: Vec<TxQueue>, workers: usize, unsure: bool) -> Vec<Queues> {
        let first_sends = Arc::new(AtomicBool::new(false));
        let mut all: Vec<Queues> = (0..workers)
            .map(|worker| Queues {
                worker,
                workers,
                pairs: Vec::new(),
                next: 0,
                to_first: None,
                from_others: Vec::new(),
                first_sends: Arc::clone(&first_sends),
            })
            .collect();
        for (queue, (rx, tx)) in rx.into_iter().zip(tx).enumerate() {
            let waiting = VecDeque::with_capacity(WAITING_MAX);
            all[queue % workers].pairs.push(Pair { rx, tx, waiting, is_connected: false, refusals: 0 });
        }
        for worker in 1..workers {
            if unsure || all[worker].pairs.is_empty() {
                let (to_first, from_other) = RingBuffer::new(WAITING_MAX);
                all[worker].to_first =
                    Some(ToFirst { ring: to_first, first_sends: Arc::clone(&first_sends) });
                all[0].from_others.push(from_other);
            }
        }
        all
    }

    /// The RX queue, where there is one and nothing but its frames needs this worker.
    pub(super) fn only_rx(&mut self) -> Option<&mut RxQueue> {
        match self.pairs.as_mut_slice() {
            [pair] if self.from_others.is_empty() => Some(&mut pair.rx),
            _ => None,
        }
    }

    /// As [`Queues::only_rx`], to look at.
    pub(super) fn only_rx_ref(&self) -> Option<&RxQueue> {
        match self.pairs.as_slice() {
            [pair] if self.from_others.is_empty() => Some(&pair.rx),
            _ => None,
        }
    }

    /// Whether frames wait here that nobody but this worker's next burst will move.
    pub(super) fn has_waiting(&self) -> bool {
        self.pairs.iter().any(|pair| !pair.waiting.is_empty())
            || self.from_others.iter().any(|ring| !ring.is_empty())
    }

    /// Appends up to `max` received frames, from each queue in its turn; and sends what waits.
    #[inline]
    pub(super) fn rx_burst(&mut self, burst: &mut VecDeque<Mbuf>, max: usize) -> Sent {
        if let ([pair], []) = (self.pairs.as_mut_slice(), self.from_others.as_slice()) {
            pair.rx.rx_burst(burst, max);
            return Sent::default();
        }
        let sent = self.send_waiting();
        let (mut left, pairs) = (max, self.pairs.len());
        for turn in 0..pairs {
            let pair = &mut self.pairs[(self.next + turn) % pairs];
            left -= pair.rx.rx_burst(burst, left).min(left);
            if left == 0 {
                break;
            }
        }
        self.next = (self.next + 1) % pairs.max(1);
        sent
    }

    /// Sends from the front of `burst`. What nobody took stays in it.
    #[inline]
    pub(super) fn tx_burst(&mut self, burst: &mut VecDeque<Mbuf>) -> Sent {
        if let ([pair], None) = (self.pairs.as_mut_slice(), &self.to_first) {
            let refused = pair.tx.refused();
            if pair.tx.tx_burst(burst) > 0 && !pair.is_connected {
                pair.is_connected = true;
                self.first_sends.store(true, Ordering::Release);
            }
            return Sent { refused: pair.tx.refused() - refused };
        }
        self.tx_burst_spread(burst)
    }

    /// With several queues, or another worker's help.
    fn tx_burst_spread(&mut self, burst: &mut VecDeque<Mbuf>) -> Sent {
        let queues = self.pairs.len() * self.workers;
        while let Some(frame) = burst.front() {
            let pair = match self.pairs.len() {
                0 | 1 => 0,
                // As whoever sends to us should do: the flow's queue is its hash modulo the number of queues.
                _ => match packet::flow_hash(frame.data()).map(|hash| hash as usize % queues) {
                    Some(queue) if self.workers == 1 => queue,
                    Some(queue) if queue % self.workers == self.worker => queue / self.workers,
                    _ => 0,
                },
            };
            let taken = match (self.pairs.get_mut(pair), &mut self.to_first) {
                (Some(pair), None) => pair.take(burst),
                (Some(pair), Some(_)) if pair.is_connected => pair.take(burst),
                (Some(pair), Some(to_first)) => {
                    // Asked before: once the first queue has another end, this one has it too or never will.
                    let first_sends = to_first.first_sends.load(Ordering::Acquire);
                    pair.try_out(burst) || first_sends && to_first.give(burst)
                }
                (None, Some(to_first)) => to_first.give(burst),
                (None, None) => false,
            };
            if !taken {
                break;
            }
        }
        self.send_waiting()
    }

    /// Sends what waits in front of the queues, after taking what the other workers want sent.
    fn send_waiting(&mut self) -> Sent {
        let mut sent = Sent::default();
        if let Some(first) = self.pairs.first_mut() {
            for ring in &mut self.from_others {
                while first.waiting.len() < WAITING_MAX
                    && let Ok(frame) = ring.pop()
                {
                    first.waiting.push_back(frame);
                }
            }
        }
        for pair in &mut self.pairs {
            sent.refused += pair.send();
        }
        sent
    }
}

impl Pair {
    /// Takes the frame in front of `burst`, where there is room.
    fn take(&mut self, burst: &mut VecDeque<Mbuf>) -> bool {
        let has_room = self.waiting.len() < WAITING_MAX;
        if has_room {
            self.waiting.extend(burst.pop_front());
        }
        has_room
    }

    /// Whether the queue takes the frame in front of `burst`: then somebody is at its other end.
    fn try_out(&mut self, burst: &mut VecDeque<Mbuf>) -> bool {
        // Nothing waits in front of a queue that is not connected.
        self.waiting.extend(burst.pop_front());
        self.is_connected = self.tx.tx_burst(&mut self.waiting) > 0;
        match self.waiting.pop_front() {
            Some(frame) => {
                burst.push_front(frame);
                false
            }
            // Sent, or such that it never could be.
            None => true,
        }
    }

    /// Sends what waits; returns how many frames are gone unsent.
    fn send(&mut self) -> u64 {
        if self.waiting.is_empty() {
            return 0;
        }
        let refused = self.tx.refused();
        let mut dropped = 0;
        if self.tx.tx_burst(&mut self.waiting) > 0 {
            self.refusals = 0;
        } else {
            self.refusals += 1;
            if self.refusals >= REFUSALS_MAX {
                // Whoever was there is gone, and what it was sent with it.
                (self.is_connected, self.refusals) = (false, 0);
                dropped = self.waiting.len() as u64;
                Mbuf::free_burst(&mut self.waiting);
            }
        }
        self.tx.refused() - refused + dropped
    }
}

impl ToFirst {
    /// Hands the frame in front of `burst` over, where there is room.
    fn give(&mut self, burst: &mut VecDeque<Mbuf>) -> bool {
        let has_room = !self.ring.is_full();
        if has_room && let Some(frame) = burst.pop_front() {
            // There is room, and nobody else fills the ring.
            let _ = self.ring.push(frame);
        }
        has_room
    }
}
