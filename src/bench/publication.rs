//! The scenario `broadcast`: one connection publishes, all the others, on all threads, get what it published.
//!
//! A message is delivered when every subscriber has it. As many messages as may be in flight are under way at a time;
//! message `n` takes slot `n % in_flight`, which is free again when message `n` is delivered.

use crate::time::Instant;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// What the threads of a broadcast share.
#[derive(Debug)]
pub struct Publication {
    slots: Vec<Slot>,
    published: AtomicU64,
    /// Nothing will be published any more.
    ended: AtomicBool,
    /// A subscriber was lost: what is under way will not be delivered to all.
    broken: AtomicBool,
    /// Subscribers that were opened.
    subscribers: AtomicU32,
}

#[derive(Debug, Default)]
struct Slot {
    published_at: AtomicU64,
    /// Subscribers of those threads whose subscribers all have it.
    delivered: AtomicU32,
}

/// One thread's part of it.
#[derive(Debug)]
pub struct Audience {
    publication: Arc<Publication>,
    /// Whether the publisher is one of this thread's connections: its first.
    publishes: bool,
    /// This thread's subscribers that were opened.
    own: u32,
    /// By slot: how many of them have its message.
    arrived: Vec<u32>,
    /// Messages that all subscribers have; kept where it is published.
    complete: u64,
    /// The last burst in which the publisher was told to go on.
    told_at: Instant,
}

impl Publication {
    /// Nothing is published yet; so many messages may be under way.
    pub fn new(in_flight: u32) -> Self {
        Publication {
            slots: (0..in_flight).map(|_| Slot::default()).collect(),
            published: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            subscribers: AtomicU32::new(0),
        }
    }

    /// Messages that were published.
    pub fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    /// Whether nothing will be published any more.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Nothing will be published any more.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    fn slot(&self, number: u64) -> &Slot {
        &self.slots[(number % self.slots.len() as u64) as usize]
    }
}

impl Audience {
    /// The part of the thread `worker`.
    pub fn new(publication: Arc<Publication>, worker: u32) -> Self {
        let arrived = vec![0; publication.slots.len()];
        let told_at = Instant::FAR_FUTURE;
        Audience { publication, publishes: worker == 0, own: 0, arrived, complete: 0, told_at }
    }

    /// What is shared.
    pub fn publication(&self) -> &Publication {
        &self.publication
    }

    /// Whether the publisher is one of this thread's connections.
    pub fn publishes(&self) -> bool {
        self.publishes
    }

    /// Whether connection `row` of this thread is the publisher.
    pub fn is_publisher(&self, row: u32) -> bool {
        self.publishes && row == 0
    }

    /// Connection `row` is open.
    pub fn opened(&mut self, row: u32) {
        if !self.is_publisher(row) {
            self.own += 1;
            self.publication.subscribers.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// A connection was lost: all that is under way is lost, and nothing more is published.
    #[cold]
    pub fn failed(&mut self) {
        self.publication.broken.store(true, Ordering::Release);
        self.publication.end();
    }

    /// Whether another message may be published.
    pub fn has_room(&mut self) -> bool {
        self.collect();
        self.publication.published() - self.complete < self.publication.slots.len() as u64
    }

    /// The same at `now`, once in a burst.
    pub fn has_room_again(&mut self, now: Instant) -> bool {
        let told = std::mem::replace(&mut self.told_at, now) == now;
        !told && self.has_room()
    }

    /// Whether all that was published has been delivered, or never will be.
    pub fn is_complete(&mut self) -> bool {
        self.collect();
        self.complete == self.publication.published() || self.publication.broken.load(Ordering::Acquire)
    }

    /// The next message goes; its deliveries are timed from `at`.
    pub fn publish(&mut self, at: Instant) {
        let number = self.publication.published.load(Ordering::Relaxed);
        self.publication.slot(number).published_at.store(at.as_nanos(), Ordering::Relaxed);
        self.publication.published.store(number + 1, Ordering::Release);
    }

    /// When message `number`, which is under way, was published.
    pub fn published_at(&self, number: u64) -> Instant {
        Instant::from_nanos(self.publication.slot(number).published_at.load(Ordering::Relaxed))
    }

    /// A subscriber has got message `number`.
    pub fn delivered(&mut self, number: u64) {
        let slot = (number % self.arrived.len() as u64) as usize;
        self.arrived[slot] += 1;
        if self.arrived[slot] == self.own {
            self.arrived[slot] = 0;
            self.publication.slots[slot].delivered.fetch_add(self.own, Ordering::AcqRel);
        }
    }

    /// Finds out which messages all have.
    fn collect(&mut self) {
        let subscribers = self.publication.subscribers.load(Ordering::Acquire);
        while self.complete < self.publication.published() {
            let slot = self.publication.slot(self.complete);
            if slot.delivered.load(Ordering::Acquire) < subscribers {
                break;
            }
            slot.delivered.store(0, Ordering::Relaxed);
            self.complete += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Instant {
        Instant::from_micros(micros)
    }

    #[test]
    fn a_message_makes_room_when_the_subscribers_of_all_threads_have_it() {
        let publication = Arc::new(Publication::new(2));
        let mut first = Audience::new(Arc::clone(&publication), 0);
        let mut second = Audience::new(publication, 1);
        first.opened(0);
        first.opened(1);
        second.opened(0);
        second.opened(1);
        assert!(first.is_publisher(0) && !first.is_publisher(1) && !second.is_publisher(0));
        first.publish(at(5));
        first.publish(at(7));
        assert!(!first.has_room());
        assert_eq!((second.published_at(0), second.published_at(1)), (at(5), at(7)));
        first.delivered(0);
        second.delivered(0);
        assert!(!first.has_room());
        second.delivered(0);
        assert!(first.has_room() && !first.is_complete());
        for audience in [&mut first, &mut second] {
            let own = audience.own;
            (0..own).for_each(|_| audience.delivered(1));
        }
        assert!(first.is_complete());
        // The slot is used again.
        first.publish(at(9));
        assert!(!first.is_complete());
        assert_eq!(first.published_at(2), at(9));
    }

    #[test]
    fn the_publisher_is_told_once_in_a_burst() {
        let mut audience = Audience::new(Arc::new(Publication::new(1)), 0);
        audience.opened(1);
        assert!(audience.has_room_again(at(1)) && !audience.has_room_again(at(1)));
        assert!(audience.has_room_again(at(2)));
    }

    #[test]
    fn a_lost_subscriber_ends_it() {
        let mut audience = Audience::new(Arc::new(Publication::new(1)), 0);
        audience.opened(1);
        audience.publish(at(1));
        assert!(!audience.is_complete());
        audience.failed();
        assert!(audience.is_complete() && audience.publication().has_ended());
    }
}
