//! Frames out: one pass over the connections that became dirty, and what to do when one is over.

use super::conn::Phase;
use super::device::{OneFrame, TxQueue};
use super::{CloseCause, Stack};
use crate::port::Frame;
use crate::time::Duration;
use smoltcp::iface::PollResult;
use smoltcp::socket::tcp::State;
use smoltcp::time::{Duration as StackDuration, Instant as StackInstant};

/// Most segments that one connection sends in one pass; the rest waits for its next turn.
const SEGMENTS_PER_PASS: usize = 64;

/// How long a connection rests that wants to send, may, and yet does not: until smoltcp's own timer at the latest.
const STALL_RETRY: StackDuration = StackDuration::from_millis(10);

/// How long a connection without an owner waits for a neighbour's address to send its last segment.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How a connection left its turn.
enum Turn {
    /// Nothing to send before `wake_at`.
    Done { wake_at: Option<StackInstant> },
    /// More to send, and it may: its share of this pass is used up, or the queue is full.
    Unfinished,
    /// It wants to send, but the next hop's address is not known yet; whether smoltcp has asked for it.
    AwaitsNeighbor { wake_at: StackInstant, asked: bool },
}

impl Stack {
    /// Sends what the dirty connections have, as far as `tx` has room; the rest stays dirty.
    pub fn egress<F: Frame>(&mut self, tx: &mut TxQueue<F>) {
        self.egress_dhcp(tx);
        self.refresh_routers(tx);
        for _ in 0..self.dirty.len() {
            if !tx.has_room() {
                break;
            }
            let Some(index) = self.dirty.pop_front() else { break };
            let slot = self.slab.slot_mut(index);
            slot.dirty = false;
            if slot.phase == Phase::Free {
                continue;
            }
            match self.take_turn(index, tx) {
                Turn::Done { wake_at } => self.settle(index, wake_at, false),
                Turn::Unfinished => self.mark_dirty(index),
                Turn::AwaitsNeighbor { wake_at, asked } => {
                    self.await_neighbor(index, asked, tx);
                    self.settle(index, Some(wake_at), true);
                }
            }
        }
        self.stats.tx_frames = tx.pushed();
        self.stats.tx_answers_lost = tx.lost();
    }

    /// Lets one connection send.
    fn take_turn<F: Frame>(&mut self, index: u32, tx: &mut TxQueue<F>) -> Turn {
        let now = self.stack_now;
        let slot = self.slab.slot_mut(index);
        let net = self.nets.get(slot.net);
        for _ in 0..SEGMENTS_PER_PASS {
            let wake_at = net.iface.poll_at(now, &slot.set);
            if wake_at.is_none_or(|at| at > now) {
                return Turn::Done { wake_at };
            }
            if !tx.has_room() {
                return Turn::Unfinished;
            }
            let frames_before = tx.pushed();
            let mut device = OneFrame { rx: None, tx: &mut *tx, caps: &net.caps };
            if net.iface.poll_egress(now, &mut device, &mut slot.set) == PollResult::None {
                // `None` also means that a timer changed the state without a segment, or that the next hop is
                // unknown: smoltcp then rests the socket until it may ask for the neighbour again.
                return match net.iface.poll_at(now, &slot.set) {
                    None => Turn::Done { wake_at: None },
                    Some(at) => Turn::AwaitsNeighbor {
                        wake_at: at.max(now + STALL_RETRY),
                        asked: tx.pushed() > frames_before,
                    },
                };
            }
        }
        Turn::Unfinished
    }

    /// After a turn: frees the slot when it is over and nobody owns it, else arms its timer. A last segment that
    /// waits for a neighbour gets [`LAST_WORDS`] to go out.
    fn settle(&mut self, index: u32, wake_at: Option<StackInstant>, waiting: bool) {
        let now = self.now;
        let slot = self.slab.slot_mut(index);
        let state = slot.socket().state();
        if slot.phase == Phase::Live && state == State::Closed {
            // smoltcp closed it without a segment: the address went away, or its own TIME-WAIT is over.
            let cause = if self.nets.owns(slot.key.local().ip()) {
                CloseCause::Finished
            } else {
                CloseCause::AddressLost
            };
            self.close(index, cause);
            return;
        }
        let over =
            matches!(slot.phase, Phase::Closed(_)) || (slot.phase == Phase::Live && state == State::TimeWait);
        if over && !slot.owned {
            if !waiting {
                self.remove(index);
                return;
            }
            slot.closing_deadline = slot.closing_deadline.min(now + LAST_WORDS);
        }
        self.arm(index, wake_at);
    }
}
