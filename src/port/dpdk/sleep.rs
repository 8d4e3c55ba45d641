//! Sleeping until frames come, by a queue's interrupt, where the driver has one that can be relied on.

use super::queues::Queues;
use crate::time::{Duration, Instant};
use ::dpdk::{BURST_MAX, Mbuf};
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The longest sleep: what an interrupt that a device loses costs at most.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// How one worker sleeps.
pub(super) struct Sleep {
    /// The queue's interrupt works.
    has_interrupt: bool,
    /// Its descriptor is an eventfd, and must be read before it is quiet again.
    is_counter: bool,
    is_on: bool,
    now: Instant,
    /// Frames that came between the last burst and the interrupt's being switched on.
    held: VecDeque<Mbuf>,
}

impl Sleep {
    /// Tries the interrupt, if it is wanted: a driver that cannot says so here.
    pub(super) fn new(queues: &mut Queues, wanted: bool) -> Self {
        let mut sleep = Sleep {
            has_interrupt: false,
            is_counter: false,
            is_on: false,
            now: Instant::ZERO,
            held: VecDeque::new(),
        };
        if let Some(rx) = queues.only_rx().filter(|_| wanted) {
            let works = rx.set_interrupt(true).is_ok() && rx.set_interrupt(false).is_ok();
            sleep.has_interrupt = works && rx.interrupt_fd().is_ok();
            sleep.is_counter = rx.interrupt_fd().is_ok_and(is_eventfd);
            sleep.held.reserve(BURST_MAX);
        }
        sleep
    }

    /// Whether an idle worker is woken by frames.
    pub(super) fn has_interrupt(&self) -> bool {
        self.has_interrupt
    }

    pub(super) fn begin(&mut self, now: Instant) {
        self.now = now;
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.has_interrupt.then(|| self.now + SLEEP_MAX)
    }

    pub(super) fn wait_fd<'a>(&self, queues: &'a Queues) -> Option<BorrowedFd<'a>> {
        if self.has_interrupt { queues.only_rx_ref()?.interrupt_fd().ok() } else { None }
    }

    /// Switches the interrupt on; `false` when frames are there already, and so it need not come.
    pub(super) fn prepare(&mut self, queues: &mut Queues) -> bool {
        let Some(rx) = queues.only_rx().filter(|_| self.has_interrupt) else { return true };
        if !self.is_on {
            self.is_on = rx.set_interrupt(true).is_ok();
        }
        // What came before that is not announced.
        rx.rx_burst(&mut self.held, BURST_MAX);
        self.is_on && self.held.is_empty()
    }

    /// Switches it off again, and hands out what came meanwhile.
    #[inline]
    pub(super) fn end(&mut self, queues: &mut Queues, burst: &mut VecDeque<Mbuf>) {
        if self.is_on {
            self.switch_off(queues);
        }
        if !self.held.is_empty() {
            burst.append(&mut self.held);
        }
    }

    #[cold]
    fn switch_off(&mut self, queues: &mut Queues) {
        let Some(rx) = queues.only_rx() else { return };
        if self.is_counter
            && let Ok(fd) = rx.interrupt_fd()
        {
            // Empty when something else has woken us; DPDK makes them so that this does not block.
            let _ = rustix::io::read(fd, &mut [0; 8]);
        }
        // Left on, it costs interrupts and nothing else; the next time tries again.
        self.is_on = rx.set_interrupt(false).is_err();
    }
}

/// Whether a descriptor is an eventfd that a read does not block on.
fn is_eventfd(fd: BorrowedFd<'_>) -> bool {
    let is_event = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
        .is_ok_and(|target| target.to_string_lossy().contains("[eventfd]"));
    let is_nonblocking =
        rustix::fs::fcntl_getfl(fd).is_ok_and(|flags| flags.contains(rustix::fs::OFlags::NONBLOCK));
    is_event && is_nonblocking
}
