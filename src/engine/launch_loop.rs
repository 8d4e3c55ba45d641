//! The loop of one worker's thread: bursts, the clock, and sleep.

use super::config::Idle;
use super::handler::Handler;
use super::launch::LaunchError;
use super::mailbox::Wake;
use super::told;
use super::worker::Worker;
use crate::port::Port;
use crate::time::{Duration, Instant};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How often a worker is told the wall clock, which may have been set.
const WALL_CLOCK_INTERVAL: Duration = Duration::from_secs(10);

/// The clock of all workers of one server: nanoseconds since it was started.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    epoch: std::time::Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Clock { epoch: std::time::Instant::now() }
    }

    pub(super) fn now(self) -> Instant {
        Instant::ZERO + self.epoch.elapsed()
    }
}

/// The loop of one worker: bursts, and what the idle policy says between them.
pub(super) fn run<P: Port, H: Handler>(
    worker: &mut Worker<P, H>,
    idle: Idle,
    waker: &EventFd,
    clock: Clock,
) -> Result<(), LaunchError> {
    let mut busy_at = clock.now();
    let mut lease = None;
    let mut told_time_at = None;
    loop {
        let now = clock.now();
        if told_time_at.is_none_or(|at| now >= at + WALL_CLOCK_INTERVAL) {
            told_time_at = Some(now);
            if let Ok(unix) = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
                worker.set_unix_time(now, unix);
            }
        }
        let progress = worker.poll(now);
        if worker.stack().lease() != lease {
            lease = worker.stack().lease();
            told::lease(lease);
        }
        if progress.ended {
            return Ok(());
        }
        if progress.busy {
            busy_at = now;
            if let Some(found) = worker.steering_found() {
                told::steering(worker, found);
            }
            continue;
        }
        if !worker.port().is_alive() {
            if worker.is_ending() {
                return Ok(());
            }
            let port = worker.port().info().name.clone();
            return Err(LaunchError::PortGone { worker: worker.index(), port });
        }
        match idle {
            Idle::Adaptive { spin, coalesce } if now - busy_at >= spin => {
                let wait = progress.deadline.map(|deadline| deadline.saturating_since(now));
                match (busy_at + coalesce).saturating_since(now) {
                    Duration::ZERO => sleep(worker, waker, wait),
                    rest => self::rest(worker, waker, wait.map_or(rest, |wait| wait.min(rest))),
                }
            }
            Idle::Adaptive { .. } | Idle::Spin => std::hint::spin_loop(),
        }
    }
}

/// Sleeps until frames arrive, somebody wakes the worker, or `wait` is over (`None`: for ever).
fn sleep<P: Port, H: Handler>(worker: &mut Worker<P, H>, waker: &EventFd, wait: Option<Duration>) {
    if !worker.prepare_sleep() {
        return;
    }
    let wait = [wait, worker.wait_max()].into_iter().flatten().min();
    wait_on(&worker.wait_fds(), waker, wait);
}

/// Sleeps until somebody wakes the worker or `wait` is over, whatever arrives meanwhile.
fn rest<P: Port, H: Handler>(worker: &mut Worker<P, H>, waker: &EventFd, wait: Duration) {
    if worker.prepare_rest() {
        wait_on(&[], waker, Some(wait));
    }
}

fn wait_on(fds: &[BorrowedFd<'_>], waker: &EventFd, wait: Option<Duration>) {
    // The kernel's timers are no finer than this: rounding down would make the last moment a busy loop.
    let wait = wait.and_then(|wait| Timespec::try_from(wait).ok());
    let mut fds: Vec<PollFd<'_>> = fds
        .iter()
        .map(|fd| PollFd::new(fd, PollFlags::IN))
        .chain([PollFd::new(waker, PollFlags::IN)])
        .collect();
    // EINTR, or whatever else it may be: the next poll finds out.
    if poll(&mut fds, wait.as_ref()).is_ok_and(|readable| readable == 0) {
        return;
    }
    waker.clear();
}

/// Ends a worker's sleep.
#[derive(Debug)]
pub(super) struct EventFd {
    fd: OwnedFd,
}

impl EventFd {
    pub(super) fn new() -> Result<Self, LaunchError> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        eventfd(0, flags).map(|fd| EventFd { fd }).map_err(|errno: Errno| LaunchError::System {
            action: "make an eventfd to wake a worker with (see `ulimit -n`)",
            source: errno.into(),
        })
    }

    fn clear(&self) {
        // Empty is fine, too.
        let _ = rustix::io::read(&self.fd, &mut [0; 8]);
    }
}

impl Wake for EventFd {
    fn wake(&self) {
        // Fails only when the counter is full, and then the worker is awake.
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
