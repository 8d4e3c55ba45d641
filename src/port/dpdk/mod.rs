//! DPDK devices: NICs without their kernel driver, shared memory, and the kernel's own packet sockets.
//!
//! Each queue pair of a device is a port, and each port has a mempool of its own, so that workers share nothing.
//! Frames are mbufs: they are read where the device wrote them and filled where it reads them.
//!
//! # Checksums
//!
//! With [`Checksums::Verify`] the device does what it says it can: it verifies what arrives (what it leaves open is verified in
//! software) and fills in TCP's checksum on the way out. [`Checksums::Trust`] is for shared memory: neither end fills
//! in nor verifies any, so both ends must be set to it.
//!
//! # Losses
//!
//! None is silent. What the device does not take stays with the worker; a used-up mempool is
//! [`PortStats::alloc_failed`]; what the device had to drop is [`PortStats::rx_dropped`], counted by the device for all of
//! its queues and reported by the first; frames that can never be received or sent are [`PortStats::rx_errors`] and
//! [`PortStats::tx_errors`].

mod claim;
mod config;
mod error;
mod open;
mod packet;
mod stale;

pub use config::{Checksums, DpdkConfig, Memory};
pub use error::DpdkError;
pub use open::{Steering, Summary, open};

use super::{Frame, Port, PortInfo, PortStats, RxChecksum};
use ::dpdk::{Eal, Mbuf, Mempool, RegisteredThread, RxQueue, TxQueue};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, PoisonError};

const ETHERNET_HEADER_BYTES: usize = 14;
/// Mbufs that are taken from the mempool, and given back, at once.
const BATCH: usize = 32;

thread_local! {
    /// Keeps a worker known to EAL, with mempool caches of its own, until its thread ends.
    static REGISTERED: RefCell<Option<RegisteredThread>> = const { RefCell::new(None) };
}

/// A DPDK packet buffer.
pub type DpdkFrame = Mbuf;

impl Frame for Mbuf {
    #[inline]
    fn bytes(&self) -> &[u8] {
        self.data()
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        self.data_mut()
    }

    #[inline]
    fn set_len(&mut self, len: usize) {
        Mbuf::set_len(self, len);
    }

    #[inline]
    fn rx_checksum(&self) -> RxChecksum {
        packet::rx_checksum(self.rx_ip_checksum(), self.rx_l4_checksum(), self.data())
    }
}

/// One queue pair of a DPDK device.
pub struct DpdkPort {
    info: PortInfo,
    rx: RxQueue,
    tx: TxQueue,
    /// The device asks for TCP checksums to be filled in.
    tx_tcp_checksum: bool,
    pool: Mempool,
    /// Empty frames, taken ahead.
    fresh: VecDeque<Mbuf>,
    /// Frames to give back.
    used: VecDeque<Mbuf>,
    stats: PortStats,
    /// The port's thread is known to EAL, or cannot be.
    registered: bool,
    /// All queues' device; its counters are asked for by the first queue.
    device: Arc<Mutex<::dpdk::Port>>,
    summary: Arc<Summary>,
    /// The device's interface is ours, where it can be only one process's.
    _claim: Option<Arc<UnixDatagram>>,
    eal: Eal,
}

impl DpdkPort {
    /// What the device was asked for and what is in use, for the operator.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Mbufs of this queue's mempool that are not in it: in the device's rings, or held by this port and its worker.
    pub fn frames_in_use(&self) -> u32 {
        self.pool.in_use()
    }

    /// Makes the worker's thread known to EAL. Without it (EAL has room for a fixed number of threads) all is right but slower.
    #[cold]
    fn register(&mut self) {
        self.registered = true;
        if let Ok(thread) = self.eal.register_thread()
            && !thread.was_known()
        {
            REGISTERED.set(Some(thread));
        }
    }

    /// What is left of frames that came in from `from` on, once all are whole, sound Ethernet frames.
    #[cold]
    fn mend(&mut self, burst: &mut VecDeque<Mbuf>, from: usize) {
        for _ in from..burst.len() {
            let Some(mut frame) = burst.remove(from) else { return };
            if frame.linearize(&self.pool).is_ok() && frame.len() >= ETHERNET_HEADER_BYTES {
                burst.push_back(frame);
            } else {
                self.stats.rx_errors += 1;
                self.used.push_back(frame);
            }
        }
    }
}

impl Port for DpdkPort {
    type Frame = Mbuf;

    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn rx_burst(&mut self, burst: &mut VecDeque<Mbuf>, max: usize) -> usize {
        if !self.registered {
            self.register();
        }
        if !self.used.is_empty() {
            Mbuf::free_burst(&mut self.used);
        }
        let from = burst.len();
        self.rx.rx_burst(burst, max);
        let sound = |frame: &Mbuf| frame.is_contiguous() && frame.len() >= ETHERNET_HEADER_BYTES;
        if !burst.range(from..).all(sound) {
            self.mend(burst, from);
        }
        let count = burst.len() - from;
        self.stats.rx_frames += count as u64;
        self.stats.rx_bytes += burst.range(from..).map(|frame| frame.len() as u64).sum::<u64>();
        count
    }

    fn alloc(&mut self) -> Option<Mbuf> {
        if self.fresh.is_empty() && self.pool.alloc_burst(&mut self.fresh, BATCH) == 0 {
            // The last few, among them those that wait to be given back.
            Mbuf::free_burst(&mut self.used);
            self.fresh.extend(self.pool.alloc());
        }
        let frame = self.fresh.pop_front();
        if frame.is_none() {
            self.stats.alloc_failed += 1;
        }
        frame
    }

    fn tx_burst(&mut self, burst: &mut VecDeque<Mbuf>) -> usize {
        if burst.is_empty() {
            return 0;
        }
        if self.tx_tcp_checksum {
            burst.iter_mut().for_each(packet::leave_tcp_checksum);
        }
        let before = burst.len();
        let bytes_before: u64 = burst.iter().map(|frame| frame.len() as u64).sum();
        let refused_before = self.tx.refused();
        let sent = self.tx.tx_burst(burst);
        let refused = self.tx.refused() - refused_before;
        self.stats.tx_frames += sent as u64;
        self.stats.tx_errors += refused;
        self.stats.tx_full += u64::from(!burst.is_empty());
        let bytes_left: u64 = burst.iter().map(|frame| frame.len() as u64).sum();
        self.stats.tx_bytes += bytes_before - bytes_left;
        before - burst.len()
    }

    fn release(&mut self, frame: Mbuf) {
        self.used.push_back(frame);
        if self.used.len() >= BATCH {
            Mbuf::free_burst(&mut self.used);
        }
    }

    fn stats(&self) -> PortStats {
        let mut stats = self.stats;
        if self.rx.queue() == 0 {
            let device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
            if let Ok(counted) = device.stats() {
                stats.rx_dropped = counted.rx_missed + counted.rx_no_mbuf;
                stats.rx_errors += counted.rx_errors;
            }
        }
        stats
    }
}
