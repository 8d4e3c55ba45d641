//! How many mbufs Rust owns: what makes it sound to free their memory.
//!
//! An [`Mbuf`](crate::Mbuf) holds no reference to its mempool or to EAL, which would cost an atomic operation per frame.
//! Instead each thread counts, in a cell that only it writes, what it took over and what it gave away; an mbuf that moves
//! between threads makes one count rise and another fall, and only the sum matters. Memory is freed when the sum is zero
//! and nobody is left who could take more.
//!
//! Why a sum of zero can be trusted: mbufs come only from handles (mempools, RX queues), and the question is asked by
//! whoever drops the last handle, so every rise happened before the question. A fall that is not seen yet only makes
//! the sum too large; one that is seen (Release, Acquire) is over.

use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Cells of the threads that live.
static CELLS: Mutex<Vec<Arc<AtomicIsize>>> = Mutex::new(Vec::new());
/// Sum of the threads that have ended, and of what they did in ending.
static ENDED: AtomicIsize = AtomicIsize::new(0);

thread_local! {
    static CELL: Cell = Cell::new();
}

struct Cell(Arc<AtomicIsize>);

impl Cell {
    fn new() -> Self {
        let cell = Arc::new(AtomicIsize::new(0));
        cells().push(Arc::clone(&cell));
        Self(cell)
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        // Under the lock, so that no reader counts this cell twice or not at all.
        let mut cells = cells();
        ENDED.fetch_add(self.0.load(Ordering::Relaxed), Ordering::AcqRel);
        cells.retain(|cell| !Arc::ptr_eq(cell, &self.0));
    }
}

fn cells() -> MutexGuard<'static, Vec<Arc<AtomicIsize>>> {
    CELLS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Rust took over `count` mbufs.
#[inline]
pub(crate) fn took(count: usize) {
    add(count as isize);
}

/// Rust gave `count` mbufs away, to their mempool or to a driver. Called after the fact.
#[inline]
pub(crate) fn gave(count: usize) {
    add(-(count as isize));
}

#[inline]
fn add(change: isize) {
    let counted = CELL.try_with(|Cell(cell)| {
        // No read-modify-write: this thread is the cell's only writer.
        cell.store(cell.load(Ordering::Relaxed) + change, Ordering::Release);
    });
    if counted.is_err() {
        // The thread is ending and its cell has been summed up.
        ENDED.fetch_add(change, Ordering::AcqRel);
    }
}

/// How many mbufs Rust owns, in all threads. Exact when nobody can take more, see above.
pub(crate) fn outstanding() -> isize {
    let cells = cells();
    let living: isize = cells.iter().map(|cell| cell.load(Ordering::Acquire)).sum();
    living + ENDED.load(Ordering::Acquire)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_between_threads_and_outlives_them_is_counted_once() {
        struct GivesAtThreadEnd;
        impl Drop for GivesAtThreadEnd {
            fn drop(&mut self) {
                gave(1);
            }
        }
        thread_local! {
            static LATE: GivesAtThreadEnd = const { GivesAtThreadEnd };
        }

        took(5);
        assert_eq!(outstanding(), 5);
        std::thread::spawn(|| {
            LATE.with(|_| ());
            gave(3);
            took(4);
        })
        .join()
        .unwrap();
        assert_eq!(outstanding(), 5);
        gave(5);
        assert_eq!(outstanding(), 0);
    }
}
