//! Keeping EAL's interrupt thread still while what it works on is taken away.
//!
//! EAL has one thread that runs drivers' callbacks: a peer that connects or goes, a link that changes. Closing a
//! software port on another thread frees what such a callback may just be using (memif's regions, when both sides stop at once), and
//! EAL's own cleanup unmaps memory without ending that thread. So EAL is given one more thing to watch, an eventfd, whose
//! callback waits: while it does, no other runs. And when a driver takes memory back in a callback, the thread waits for bursts in
//! progress, see `quiet.rs`.

use crate::error::{Errno, Error, LogLines, Result, check};
use crate::{quiet, sys};
use std::ffi::c_void;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// The thread answers in microseconds unless it is stuck in a callback.
const ANSWER_TIME: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The thread runs.
    Free,
    /// It has been asked to wait.
    Asked,
    /// It waits.
    Held,
}

static PHASE: Mutex<Phase> = Mutex::new(Phase::Free);
static CHANGED: Condvar = Condvar::new();
/// The eventfd that calls the thread.
static BELL: OnceLock<File> = OnceLock::new();

/// Has EAL watch the bell. Once, after its start.
pub(crate) fn watch() -> Result<()> {
    // SAFETY: takes integers and returns a descriptor or -1.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        let errno = Errno::of(std::io::Error::last_os_error().raw_os_error().unwrap_or(0));
        return Err(Error::Call { what: "eventfd".into(), errno, log: LogLines::default() });
    }
    // SAFETY: just made, and nobody else's.
    let bell = BELL.get_or_init(|| File::from(unsafe { OwnedFd::from_raw_fd(fd) }));
    // SAFETY: a function that lives as long as the program; EAL's thread calls it, which is in no burst.
    unsafe { sys::shim_interrupt_quiet(Some(wait_for_bursts)) };
    // SAFETY: the descriptor is never closed, and the callback lives as long as the program.
    let returned = unsafe { sys::shim_interrupt_register(bell.as_raw_fd(), Some(stay)) };
    check(returned, || "rte_intr_callback_register".into()).map(drop)
}

fn phase() -> MutexGuard<'static, Phase> {
    PHASE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While this lives, EAL's interrupt thread runs no callback. Its owner holds [`control`](crate::eal::control), so there is
/// one at a time.
pub(crate) struct Hold(());

impl Hold {
    /// Waits until the thread has finished what it is doing; `None` when it does not in time.
    pub(crate) fn take() -> Option<Self> {
        let mut bell = BELL.get()?;
        let mut phase = phase();
        *phase = Phase::Asked;
        if bell.write_all(&1u64.to_ne_bytes()).is_err() {
            *phase = Phase::Free;
            return None;
        }
        let (mut phase, _) = CHANGED
            .wait_timeout_while(phase, ANSWER_TIME, |phase| *phase == Phase::Asked)
            .unwrap_or_else(PoisonError::into_inner);
        if *phase == Phase::Asked {
            // Should it come later, it finds that nobody asks.
            *phase = Phase::Free;
            return None;
        }
        Some(Self(()))
    }

    /// The thread never runs again.
    pub(crate) fn forever(self) {
        std::mem::forget(self);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        *phase() = Phase::Free;
        CHANGED.notify_all();
    }
}

unsafe extern "C" fn wait_for_bursts() {
    quiet::wait();
}

unsafe extern "C" fn stay(_: *mut c_void) {
    if let Some(mut bell) = BELL.get() {
        // Without a ring there is nothing to read, and no one asks.
        let _ = bell.read(&mut [0; 8]);
    }
    let mut phase = phase();
    if *phase == Phase::Asked {
        *phase = Phase::Held;
        CHANGED.notify_all();
        drop(
            CHANGED.wait_while(phase, |phase| *phase == Phase::Held).unwrap_or_else(PoisonError::into_inner),
        );
    }
}
