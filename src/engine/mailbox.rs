//! What crosses between threads: one bounded mailbox per worker, and the wish to drain or stop.

use super::handler::Connect;
use super::stats::WorkerReport;
use crate::stack::{ConnId, Lease};
use crate::ws::{CloseCode, Message};
use crossbeam_queue::ArrayQueue;
use crossbeam_utils::CachePadded;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering, fence};
use std::sync::mpsc::SyncSender;

/// Wakes a worker that sleeps. A worker that is only ever polled needs none ([`NoWake`]).
pub trait Wake: Send + Sync {
    /// Makes the worker's sleep end, now or when it next tries to sleep.
    fn wake(&self);
}

/// For workers that never sleep.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoWake;

impl Wake for NoWake {
    fn wake(&self) {}
}

/// A message on its way between threads; shared by all the workers it goes to.
#[derive(Clone, Debug)]
pub(super) enum SharedMessage {
    Text(Arc<str>),
    Binary(Arc<[u8]>),
}

impl SharedMessage {
    pub(super) fn new(message: Message<'_>) -> Self {
        match message {
            Message::Text(text) => SharedMessage::Text(text.into()),
            Message::Binary(bytes) => SharedMessage::Binary(bytes.into()),
        }
    }

    pub(super) fn as_message(&self) -> Message<'_> {
        match self {
            SharedMessage::Text(text) => Message::Text(text),
            SharedMessage::Binary(bytes) => Message::Binary(bytes),
        }
    }

    fn len(&self) -> usize {
        match self {
            SharedMessage::Text(text) => text.len(),
            SharedMessage::Binary(bytes) => bytes.len(),
        }
    }
}

/// What a worker is asked to do.
pub(super) enum Command {
    Send {
        conn: ConnId,
        message: SharedMessage,
    },
    Publish {
        topic: Arc<str>,
        message: SharedMessage,
    },
    Close {
        conn: ConnId,
        code: CloseCode,
        reason: Box<str>,
    },
    Connect(Box<Connect>),
    /// The lease that the first worker got for all.
    Lease(Option<Lease>),
    Report(SyncSender<WorkerReport>),
}

impl Command {
    fn payload_bytes(&self) -> usize {
        match self {
            Command::Send { message, .. } | Command::Publish { message, .. } => message.len(),
            Command::Close { .. } | Command::Connect(_) | Command::Lease(_) | Command::Report(_) => 0,
        }
    }
}

/// What all workers are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Wish {
    Run = 0,
    Drain = 1,
    Stop = 2,
}

/// One worker's mailbox.
pub(super) struct Mailbox {
    queue: ArrayQueue<Command>,
    bytes: AtomicUsize,
    bytes_max: usize,
    asleep: AtomicBool,
    waker: Arc<dyn Wake>,
}

impl Mailbox {
    fn new(commands_max: usize, bytes_max: usize, waker: Arc<dyn Wake>) -> Self {
        Mailbox {
            queue: ArrayQueue::new(commands_max.max(1)),
            bytes: AtomicUsize::new(0),
            bytes_max,
            asleep: AtomicBool::new(false),
            waker,
        }
    }

    /// Puts a command in; `false` when the mailbox is full.
    pub(super) fn push(&self, command: Command) -> bool {
        let bytes = command.payload_bytes();
        // A payload over the bound passes while nothing else waits, as a single message must be able to.
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = before == 0 || before.saturating_add(bytes) <= self.bytes_max;
        if !fits || self.queue.push(command).is_err() {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.wake_if_asleep();
        true
    }

    /// Takes the oldest command out.
    pub(super) fn pop(&self) -> Option<Command> {
        // Each worker looks at each burst; `ArrayQueue::pop` has a full fence on an empty queue, this has none.
        if self.queue.is_empty() {
            return None;
        }
        let command = self.queue.pop()?;
        self.bytes.fetch_sub(command.payload_bytes(), Ordering::Relaxed);
        Some(command)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The worker is about to sleep: whoever puts something in from now on wakes it. It must look once more
    /// before it really sleeps.
    pub(super) fn announce_sleep(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        // With the fence in `wake_if_asleep`: either we see what was put in, or the other side sees us asleep.
        fence(Ordering::SeqCst);
    }

    /// The worker is awake again.
    pub(super) fn awake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// Ends the worker's sleep, if it sleeps.
    pub(super) fn wake_if_asleep(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            self.waker.wake();
        }
    }
}

/// All mailboxes of one server or client.
pub(super) struct Crew {
    mailboxes: Box<[CachePadded<Mailbox>]>,
    wish: AtomicU8,
    /// The workers of each device.
    groups: Box<[Range<usize>]>,
    next_connect: AtomicUsize,
    /// Workers that have nothing left to do.
    done: AtomicUsize,
}

impl Crew {
    /// Workers of several devices: `groups` has how many each one has.
    pub(super) fn new(
        commands_max: usize,
        bytes_max: usize,
        groups: impl IntoIterator<Item = usize>,
        wakers: Vec<Arc<dyn Wake>>,
    ) -> Self {
        let mailbox = |waker| CachePadded::new(Mailbox::new(commands_max, bytes_max, waker));
        let mut end = 0;
        let range = |workers| {
            let start = end;
            end += workers;
            start..end
        };
        Crew {
            groups: groups.into_iter().map(range).collect(),
            mailboxes: wakers.into_iter().map(mailbox).collect(),
            wish: AtomicU8::new(Wish::Run as u8),
            next_connect: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
        }
    }

    pub(super) fn workers(&self) -> usize {
        self.mailboxes.len()
    }

    pub(super) fn mailbox(&self, worker: usize) -> Option<&Mailbox> {
        self.mailboxes.get(worker).map(|mailbox| &**mailbox)
    }

    pub(super) fn mailboxes(&self) -> impl Iterator<Item = &Mailbox> {
        self.mailboxes.iter().map(|mailbox| &**mailbox)
    }

    /// The workers of each device.
    pub(super) fn groups(&self) -> &[Range<usize>] {
        &self.groups
    }

    /// The worker of a group whose turn it is to open a connection; `None` when there is no such group.
    pub(super) fn next_connect(&self, group: usize) -> Option<usize> {
        let group = self.groups.get(group).filter(|group| !group.is_empty())?;
        Some(group.start + self.next_connect.fetch_add(1, Ordering::Relaxed) % group.len())
    }

    pub(super) fn wish(&self) -> Wish {
        match self.wish.load(Ordering::Acquire) {
            0 => Wish::Run,
            1 => Wish::Drain,
            _ => Wish::Stop,
        }
    }

    /// A worker has nothing left to do. The last one to say so ends the sleep of all.
    pub(super) fn one_is_done(&self) {
        self.done.fetch_add(1, Ordering::AcqRel);
        if self.all_are_done() {
            self.wake_all();
        }
    }

    /// Whether no worker has anything left to do.
    pub(super) fn all_are_done(&self) -> bool {
        self.done.load(Ordering::Acquire) >= self.workers()
    }

    /// Wishes for more than before; a wish is never taken back.
    pub(super) fn set_wish(&self, wish: Wish) {
        self.wish.fetch_max(wish as u8, Ordering::AcqRel);
        self.wake_all();
    }

    fn wake_all(&self) {
        for mailbox in self.mailboxes() {
            mailbox.wake_if_asleep();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(bytes: usize) -> Command {
        let message = SharedMessage::Binary(vec![0; bytes].into());
        Command::Publish { topic: "t".into(), message }
    }

    fn crew(commands_max: usize, bytes_max: usize) -> Crew {
        Crew::new(commands_max, bytes_max, [1], vec![Arc::new(NoWake)])
    }

    #[test]
    fn a_full_mailbox_refuses_and_recovers() {
        let crew = crew(2, 1_000);
        let mailbox = crew.mailbox(0).unwrap();
        assert!(mailbox.push(publish(1)) && mailbox.push(publish(1)));
        assert!(!mailbox.push(publish(1)));
        assert!(mailbox.pop().is_some());
        assert!(mailbox.push(publish(1)));
    }

    #[test]
    fn payload_bytes_are_bounded_but_one_message_always_fits() {
        let crew = crew(8, 100);
        let mailbox = crew.mailbox(0).unwrap();
        assert!(mailbox.push(publish(5_000)));
        assert!(!mailbox.push(publish(1)));
        assert!(mailbox.pop().is_some());
        assert!(mailbox.push(publish(60)));
        assert!(!mailbox.push(publish(41)));
        assert!(mailbox.push(publish(40)));
    }

    #[test]
    fn only_a_sleeping_worker_is_woken_and_only_once() {
        #[derive(Default)]
        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(&self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let count = Arc::new(Count::default());
        let crew = Crew::new(8, 100, [1], vec![count.clone()]);
        let mailbox = crew.mailbox(0).unwrap();
        assert!(mailbox.push(publish(1)));
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        mailbox.announce_sleep();
        assert!(mailbox.push(publish(1)) && mailbox.push(publish(1)));
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        mailbox.announce_sleep();
        crew.set_wish(Wish::Drain);
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_group_opens_connections_in_turn_and_no_other_does_for_it() {
        let wakers = (0..3).map(|_| Arc::new(NoWake) as Arc<dyn Wake>).collect();
        let crew = Crew::new(8, 100, [1, 2], wakers);
        assert_eq!(crew.groups(), [0..1, 1..3]);
        let mut turns: Vec<_> = (0..2).map(|_| crew.next_connect(1).unwrap()).collect();
        turns.sort_unstable();
        assert_eq!(turns, [1, 2]);
        assert_eq!((crew.next_connect(0), crew.next_connect(2)), (Some(0), None));
    }

    #[test]
    fn a_wish_is_never_taken_back() {
        let crew = crew(1, 1);
        crew.set_wish(Wish::Stop);
        crew.set_wish(Wish::Drain);
        assert_eq!(crew.wish(), Wish::Stop);
    }
}
