//! DPDK devices: NICs without their kernel driver, shared memory, and the kernel's own packet sockets.
//!
//! Each worker has a port with queue pairs of the device and a mempool of its own, so that workers share nothing. Frames are
//! mbufs: they are read where the device wrote them and filled where it reads them.
//!
//! # Queues
//!
//! Queue `n` is worker `n % workers`'s. With several queues to a worker a segment is sent on the one that its flow's hash
//! names ([`spread::flow_hash`](super::spread::flow_hash), modulo the number of queues), as a NIC does when it receives: over shared
//! memory it is the sender who steers. A device with fewer queues than workers is shared: the first workers
//! receive for all, and the first one sends for those that have no queue. Over vhost it also sends for a queue at whose
//! other end there is nobody, as when the peer has fewer queues.
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
//! [`PortStats::alloc_failed`]; frames of other VLANs are [`PortStats::rx_other_vlan`]; what the device had to drop is [`PortStats::rx_dropped`], counted by the device for all of
//! its queues and reported by the first; frames that can never be received or sent are [`PortStats::rx_errors`] and
//! [`PortStats::tx_errors`].

mod claim;
mod config;
mod error;
mod open;
mod packet;
mod queues;
mod sleep;
mod stale;
mod tso;
mod vlan;

pub use config::{Checksums, DpdkConfig, Memory};
pub use error::DpdkError;
pub use open::{Steering, Summary, open};
pub use tso::memory_bytes as tso_memory_bytes;

use super::{Frame, Port, PortInfo, PortStats, RxChecksum};
use crate::port::ETHERNET_HEADER_BYTES;
use crate::time::{Duration, Instant};
use ::dpdk::{Eal, Mbuf, Mempool, RegisteredThread, TxOffload};
use queues::{Queues, Sent};
use sleep::Sleep;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, PoisonError};
use tso::Tso;
use vlan::Vlan;

/// How long an idle worker sleeps at a time where no interrupt can wake it.
const IDLE_INTERVAL: Duration = Duration::from_micros(50);
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

    fn rss_hash(&self) -> Option<u32> {
        Mbuf::rss_hash(self)
    }

    fn set_segment_bytes(&mut self, payload_bytes: NonZeroU16) {
        // The lengths of the headers are told with the burst, as for every frame.
        self.set_tx_offload(&TxOffload {
            tso_segment_bytes: Some(payload_bytes.get()),
            ..TxOffload::default()
        });
    }
}

/// One worker's queues of a DPDK device.
pub struct DpdkPort {
    info: PortInfo,
    queues: Queues,
    sleep: Sleep,
    vlan: Option<Vlan>,
    /// The first of the device's ports: it reports what the device counts for all.
    is_first: bool,
    /// The device asks for TCP checksums to be filled in.
    tx_tcp_checksum: bool,
    /// The device cuts large segments.
    tso: Option<Tso>,
    pool: Mempool,
    /// Empty frames, taken ahead.
    fresh: VecDeque<Mbuf>,
    /// Frames to give back.
    used: VecDeque<Mbuf>,
    stats: PortStats,
    /// The port's thread is known to EAL, or cannot be.
    registered: bool,
    /// All ports' device.
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

    /// Mbufs of this port's mempools that are not in them: in the device's rings, or held by this port and its worker.
    pub fn frames_in_use(&self) -> u32 {
        self.pool.in_use() + self.tso.as_ref().map_or(0, Tso::frames_in_use)
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

    /// What is left of frames that came in from `from` on, once all are whole, sound Ethernet frames of the port's VLAN.
    fn mend(&mut self, burst: &mut VecDeque<Mbuf>, from: usize) {
        for _ in from..burst.len() {
            let Some(mut frame) = burst.remove(from) else { return };
            if frame.linearize(&self.pool).is_err() || frame.len() < ETHERNET_HEADER_BYTES {
                self.stats.rx_errors += 1;
                self.used.push_back(frame);
            } else if self.vlan.is_some_and(|vlan| !vlan.untag(&mut frame)) {
                self.stats.rx_other_vlan += 1;
                self.used.push_back(frame);
            } else {
                burst.push_back(frame);
            }
        }
    }

    fn count(&mut self, sent: Sent) {
        self.stats.tx_errors += sent.refused;
    }

    /// Asks the device for what it does to a frame on its own.
    fn prepare(&self, frame: &mut Mbuf) {
        let checksum = packet::tcp_checksum_offload(frame.data()).filter(|_| self.tx_tcp_checksum);
        let mut offload = checksum.unwrap_or_default();
        if let Some(tso) = &self.tso {
            tso.ask(frame, &mut offload);
        }
        if let Some(vlan) = self.vlan {
            vlan.tag(frame, &mut offload);
        }
        frame.set_tx_offload(&offload);
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
        self.sleep.end(&mut self.queues, burst);
        let sent = self.queues.rx_burst(burst, max);
        self.count(sent);
        let sound = |frame: &Mbuf| frame.is_contiguous() && frame.len() >= ETHERNET_HEADER_BYTES;
        if self.vlan.is_some() || !burst.range(from..).all(sound) {
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

    fn alloc_large(&mut self) -> Option<Mbuf> {
        self.tso.as_ref()?.alloc()
    }

    fn tx_burst(&mut self, burst: &mut VecDeque<Mbuf>) -> usize {
        if burst.is_empty() {
            return 0;
        }
        if self.tx_tcp_checksum || self.vlan.is_some() {
            burst.iter_mut().for_each(|frame| self.prepare(frame));
        }
        let before = burst.len();
        let bytes_before: u64 = burst.iter().map(|frame| frame.len() as u64).sum();
        let cut_before = self.tso.as_ref().map_or(0, |_| tso::count(burst));
        let sent = self.queues.tx_burst(burst);
        let taken = before - burst.len();
        self.count(sent);
        self.stats.tx_frames += (taken as u64).saturating_sub(sent.refused);
        self.stats.tx_full += u64::from(!burst.is_empty());
        let bytes_left: u64 = burst.iter().map(|frame| frame.len() as u64).sum();
        self.stats.tx_bytes += bytes_before - bytes_left;
        if cut_before > 0 {
            let cut = cut_before - tso::count(burst);
            self.stats.tx_cut_frames += cut.saturating_sub(sent.refused);
            if let Some(tso) = self.tso.as_mut().filter(|_| sent.refused > 0) {
                tso.give_up();
            }
        }
        taken
    }

    fn release(&mut self, frame: Mbuf) {
        self.used.push_back(frame);
        if self.used.len() >= BATCH {
            Mbuf::free_burst(&mut self.used);
        }
    }

    fn begin(&mut self, now: Instant) {
        self.sleep.begin(now);
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.sleep.deadline()
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.sleep.wait_fd(&self.queues)
    }

    fn prepare_sleep(&mut self) -> bool {
        !self.queues.has_waiting() && self.sleep.prepare(&mut self.queues)
    }

    fn poll_interval(&self) -> Duration {
        IDLE_INTERVAL
    }

    fn stats(&self) -> PortStats {
        let mut stats = self.stats;
        if self.is_first {
            let device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
            if let Ok(counted) = device.stats() {
                stats.rx_dropped = counted.rx_missed + counted.rx_no_mbuf;
                stats.rx_errors += counted.rx_errors;
            }
        }
        stats
    }
}
