//! Deadlines: one wheel entry per connection, armed lazily at the earliest thing that may be due.
//!
//! An entry that stands earlier than needed is left alone; when it fires, what is due is looked up and the entry is
//! armed anew. So the per-segment path compares and rarely schedules, and an idle connection costs nothing.

use super::conn::Phase;
use super::{CloseCause, ConnId, Stack, lend};
use crate::time::{Duration, Instant};
use smoltcp::socket::tcp::State;
use smoltcp::time::Instant as StackInstant;

/// A connection that was quiet for this long gives the pages of its rings back.
const IDLE_RECLAIM_AFTER: Duration = Duration::from_secs(5);
/// Most connections whose pages are given back in one burst (a system call each, and one or two more for the last of
/// those that share a page table).
const RECLAIMS_PER_BURST: usize = 32;

impl Stack {
    /// Fires what is due: retransmissions become dirty, deadlines become ready.
    pub fn timers(&mut self) {
        self.wake_neighbor_waiters();
        self.time_wait.drop_expired(self.now);
        while let Some(index) = self.wheel.pop_due(self.now) {
            if self.slab.slot(index).phase != Phase::Free {
                self.fire(index);
            }
        }
        self.reclaim_some();
    }

    /// When [`Stack::timers`] or [`Stack::egress`] next has something to do; `None` when only a frame can wake it.
    pub fn next_deadline(&self) -> Option<Instant> {
        if !self.dirty.is_empty() || !self.ready.is_empty() || !self.reclaims.is_empty() {
            return Some(self.now);
        }
        let due = [self.wheel.next_deadline(), self.next_router_refresh(), self.next_dhcp(), self.next_dns()];
        due.iter().flatten().min().copied()
    }

    /// Makes the connection ready at `deadline` (it replaces the one before); `None` for never. Cheap: lazily armed.
    pub fn set_deadline(&mut self, id: ConnId, deadline: Option<Instant>) {
        let deadline = deadline.unwrap_or(Instant::FAR_FUTURE);
        if let Some(slot) = self.slab.find_mut(id) {
            slot.owner_deadline = deadline;
            self.schedule(id.index, deadline);
        }
    }

    /// Arms a connection's wheel entry for smoltcp's `wake_at` and its own deadlines.
    pub(super) fn arm(&mut self, index: u32, wake_at: Option<StackInstant>) {
        let slot = self.slab.slot(index);
        let mut deadline = slot.owner_deadline.min(slot.closing_deadline);
        if let Some(at) = wake_at {
            deadline = deadline.min(self.clock.to_real(at));
        }
        if slot.rings_touched {
            deadline = deadline.min(slot.progress_at + IDLE_RECLAIM_AFTER);
        }
        if let Some(interval) = self.tcp.keep_alive
            && slot.is_live()
        {
            deadline =
                deadline.min(slot.progress_at + interval.saturating_mul(slot.probes.saturating_add(1)));
        }
        self.schedule(index, deadline);
    }

    /// Brings the wheel entry forward to `deadline`; never puts it off.
    pub(super) fn schedule(&mut self, index: u32, deadline: Instant) {
        if deadline < Instant::FAR_FUTURE && self.wheel.scheduled(index).is_none_or(|at| at > deadline) {
            self.wheel.schedule(index, deadline);
        }
    }

    /// A wheel entry fired: does what is due and arms the next.
    fn fire(&mut self, index: u32) {
        let now = self.now;
        let slot = self.slab.slot_mut(index);
        if now >= slot.owner_deadline {
            slot.owner_deadline = Instant::FAR_FUTURE;
            if slot.owned {
                self.mark_ready_index(index);
            }
        }
        let slot = self.slab.slot(index);
        if now >= slot.closing_deadline {
            match slot.phase {
                Phase::HalfOpen => {
                    self.stats.half_open_dropped += 1;
                    self.remove(index);
                }
                Phase::Connecting | Phase::Live => self.fail(index, CloseCause::TimedOut),
                Phase::Closed(_) if !slot.owned => self.remove(index),
                Phase::Closed(_) | Phase::Free => {}
            }
            return;
        }
        if slot.is_live() && self.peer_is_lost(index) {
            self.fail(index, CloseCause::TimedOut);
            return;
        }
        self.probe_if_idle(index);
        self.queue_reclaim_if_idle(index);
        let slot = self.slab.slot(index);
        let wake_at = self.nets.get(slot.net).iface.poll_at(self.stack_now, &slot.set);
        if wake_at.is_some_and(|at| at <= self.stack_now) || slot.retransmission_is_forgotten(wake_at) {
            self.mark_dirty(index);
        } else {
            self.arm(index, wake_at);
        }
    }

    /// RFC 9293 section 3.8.3: data (or probes) unacknowledged for the user timeout.
    fn peer_is_lost(&self, index: u32) -> bool {
        let slot = self.slab.slot(index);
        let silent = self.now - slot.progress_at;
        let unanswered = slot.awaits_acknowledgement() && silent >= self.tcp.user_timeout;
        let unprobed = self.tcp.keep_alive.is_some_and(|interval| silent >= interval + self.tcp.user_timeout);
        unanswered || unprobed
    }

    /// RFC 9293 section 3.8.4: asks a peer that was silent for another keep-alive interval whether it is still there.
    /// One that owes us an acknowledgement is asked by the retransmission.
    fn probe_if_idle(&mut self, index: u32) {
        let Some(interval) = self.tcp.keep_alive else { return };
        let slot = self.slab.slot_mut(index);
        if !slot.is_live() {
            return;
        }
        // An answer moves `progress_at`, and this is looked at once more before the next interval is over: the count
        // begins anew.
        let silent = self.now - slot.progress_at;
        let intervals = silent.as_nanos() / interval.as_nanos().max(1);
        let intervals = u32::try_from(intervals).unwrap_or(u32::MAX);
        let due = intervals > slot.probes;
        slot.probes = intervals;
        if due && !slot.awaits_acknowledgement() && slot.socket().state() != State::TimeWait {
            slot.ask_for_probe();
        }
    }

    /// Puts a quiet connection in the queue of those whose rings' pages go back. It waits there and not in the wheel: when a crowd
    /// falls silent at once, each burst would find all that are left due again.
    fn queue_reclaim_if_idle(&mut self, index: u32) {
        if self.slab.slot(index).rings_touched && self.is_idle(index) {
            self.slab.slot_mut(index).rings_touched = false;
            self.reclaims.push_back(index);
        }
    }

    /// Gives the pages of the rings of some quiet connections back.
    fn reclaim_some(&mut self) {
        for _ in 0..RECLAIMS_PER_BURST {
            let Some(index) = self.reclaims.pop_front() else { break };
            // Whoever was heard meanwhile is queued again after the next silence. Rings in use are looked at again
            // after whatever empties them, which sets the mark anew.
            let slot = self.slab.slot(index);
            let quiet = slot.phase != Phase::Free && !slot.rings_touched && self.is_idle(index);
            if quiet && lend::reclaim(&self.slab, &self.rings, index) {
                self.stats.rings_reclaimed += 1;
            }
        }
    }

    /// Whether nothing came or went for a while.
    fn is_idle(&self, index: u32) -> bool {
        self.now >= self.slab.slot(index).progress_at + IDLE_RECLAIM_AFTER
    }
}
