//! Outgoing connections that are opened again when they end, as their [`Backoff`](super::Backoff) says.

use super::handler::{Cause, Connect};
use crate::time::Instant;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};

/// What is to be opened again, now or later.
#[derive(Default)]
pub(super) struct Retries {
    /// Open connections that will be, by slot.
    open: BTreeMap<u32, Connect>,
    /// What waits for its next attempt; the first to come is on top.
    waiting: BinaryHeap<Waiting>,
}

struct Waiting {
    due: Instant,
    connect: Connect,
}

impl Retries {
    /// A connection is open: its failures are forgotten.
    pub(super) fn opened(&mut self, index: u32, mut connect: Connect) {
        connect.forget_addrs();
        if let Some(backoff) = &mut connect.reconnect {
            backoff.reset();
            self.open.insert(index, connect);
        }
    }

    /// A connection is over; whoever ended it on our side does not want it again.
    pub(super) fn closed(&mut self, index: u32, cause: Cause, now: Instant, random: u32) {
        if self.open.is_empty() {
            return;
        }
        if let Some(connect) = self.open.remove(&index)
            && !matches!(cause, Cause::Local | Cause::Drain)
        {
            self.failed(connect, now, random);
        }
    }

    /// A connection did not come to be.
    pub(super) fn failed(&mut self, mut connect: Connect, now: Instant, random: u32) {
        connect.forget_addrs();
        if let Some(wait) = connect.reconnect.as_mut().and_then(|backoff| backoff.next(random)) {
            self.waiting.push(Waiting { due: now + wait, connect });
        }
    }

    /// One whose wait is over.
    pub(super) fn next_due(&mut self, now: Instant) -> Option<Connect> {
        if self.deadline()? > now {
            return None;
        }
        self.waiting.pop().map(|waiting| waiting.connect)
    }

    /// When the next wait is over.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.peek().map(|waiting| waiting.due)
    }

    /// Nothing is opened again.
    pub(super) fn clear(&mut self) {
        *self = Retries::default();
    }
}

impl Ord for Waiting {
    /// The earlier one is the greater one.
    fn cmp(&self, other: &Self) -> Ordering {
        other.due.cmp(&self.due)
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Waiting {}
