//! Waiting for bursts in progress before a driver takes back the memory they work on.
//!
//! When a memif's peer goes, EAL's interrupt thread clears the port's flag, so that bursts that begin from then on return
//! at once, takes its own callback off the control channel, and unmaps the rings. A worker that has lost its processor in the
//! middle of a burst would come back to memory that is gone. The driver does not wait for it, so the shim does, in the call
//! that lies between the flag and the memory: `rte_intr_callback_unregister`, which this library defines before EAL does.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Queues of software ports: whether each is in a burst.
static QUEUES: Mutex<Vec<Arc<AtomicBool>>> = Mutex::new(Vec::new());

fn queues() -> MutexGuard<'static, Vec<Arc<AtomicBool>>> {
    QUEUES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A queue that is waited for while it is in a burst.
#[derive(Debug)]
pub(crate) struct Watched(Arc<AtomicBool>);

/// A burst in progress.
pub(crate) struct InBurst<'a>(&'a AtomicBool);

impl Watched {
    pub(crate) fn new() -> Self {
        let in_burst = Arc::new(AtomicBool::new(false));
        queues().push(Arc::clone(&in_burst));
        Self(in_burst)
    }

    #[inline]
    pub(crate) fn enter(&self) -> InBurst<'_> {
        // Told before the driver's flag is read: a store alone could be overtaken by that load.
        self.0.swap(true, Ordering::SeqCst);
        InBurst(&self.0)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        queues().retain(|queue| !Arc::ptr_eq(queue, &self.0));
    }
}

impl Drop for InBurst<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Returns when every burst that was in progress has ended. Called by EAL's interrupt thread, which is in none.
pub(crate) fn wait() {
    // The driver's flag was cleared before: a queue that is not seen in a burst here finds it cleared.
    fence(Ordering::SeqCst);
    for queue in queues().iter() {
        while queue.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
    }
    tracing::debug!(target: "dpdk", "no burst is in progress while a driver takes memory back");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn a_burst_in_progress_is_waited_for_and_no_later_one() {
        let (rx, tx) = (Watched::new(), Watched::new());
        let burst = tx.enter();
        let (waited, has_waited) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                wait();
                waited.send(()).unwrap();
            });
            assert!(has_waited.recv_timeout(Duration::from_millis(50)).is_err());
            drop(burst);
            has_waited.recv_timeout(Duration::from_secs(10)).unwrap();
        });
        drop((rx, tx));
        assert!(queues().is_empty());
        wait();
    }
}
