//! TCP segmentation offload: large segments over IPv4 that the device cuts.
//!
//! They are filled into mbufs of a mempool of their own, each large enough for a whole one. Chains of the ordinary mbufs
//! would need no more memory, but the stack writes a frame in one piece: its bytes would have to be copied once more.

use super::{Checksums, DpdkConfig};
use ::dpdk::{Bus, Capabilities, Eal, Error, InUse, Mbuf, Mempool, MempoolConfig, TxOffload};
use std::collections::VecDeque;

/// The largest frame: 32 segments of an Ethernet MTU, 5 jumbo ones. A mbuf's lengths end at 65,535 with its headroom.
const FRAME_BYTES_MAX: u16 = 48 * 1024;
/// The largest frame of a NIC, 11 segments of an Ethernet MTU: descriptors of some (vmxnet3's, iavf's) hold less than 16 KiB, and
/// their drivers do not say so.
const NIC_FRAME_BYTES_MAX: u16 = 16 * 1024 - 64;
/// Mbufs for them, of each worker. A device may hold on to as many as its ring has descriptors until others push them
/// out: then small frames are sent meanwhile.
const FRAMES: u32 = 255;
/// Mbufs that a thread keeps aside.
const CACHE_MBUFS: u32 = 32;

/// One worker's large frames.
pub(super) struct Tso {
    pool: Mempool,
    /// The device fills in the IPv4 headers of what it cuts only when it is asked to.
    ipv4_checksum: bool,
    /// The most payload that the driver takes for one segment.
    segment_bytes_max: u16,
    /// The device has refused a frame of a burst that had large ones: capabilities are not to be trusted.
    has_refused: bool,
}

/// Bytes of memory that one worker's large frames take at most.
pub const fn memory_bytes() -> usize {
    FRAMES as usize * FRAME_BYTES_MAX as usize
}

/// Frames of a burst that the device is asked to cut.
pub(super) fn count(burst: &VecDeque<Mbuf>) -> u64 {
    burst.iter().filter(|frame| frame.tso_segment_bytes().is_some()).count() as u64
}

/// The largest frame that a device is given to cut, bytes. No descriptor bounds it where the device is software.
fn frame_bytes_max(config: &DpdkConfig, can: &Capabilities) -> u16 {
    let is_software = config.device.bus() == Bus::Virtual || can.driver == "net_virtio";
    if is_software { FRAME_BYTES_MAX } else { NIC_FRAME_BYTES_MAX }
}

/// Whether to ask the device for it.
pub(super) fn is_wanted(config: &DpdkConfig, can: &Capabilities) -> bool {
    config.tso && config.checksums == Checksums::Verify && can.offloads.tx_tso && can.offloads.tx_tcp_checksum
}

/// A mempool for each worker, on the device's NUMA node.
pub(super) fn mempools(eal: &Eal, config: &DpdkConfig, can: &Capabilities) -> Result<Vec<Mempool>, Error> {
    let pool = MempoolConfig {
        mbufs: FRAMES,
        cache_mbufs: CACHE_MBUFS,
        data_bytes: frame_bytes_max(config, can),
        numa_node: can.numa_node,
        packed: config.device.bus() == Bus::Virtual,
    };
    (0..config.workers).map(|_| Mempool::new(eal, pool)).collect()
}

impl Tso {
    /// On a device that has been set up; `None` when it does not cut segments after all.
    pub(super) fn new(pool: Mempool, driver: &str, in_use: &InUse, mtu: usize) -> Option<Tso> {
        /// Ethernet with a tag, IPv4 and TCP. This driver takes them for a part of what the MTU bounds, and segments that
        /// are longer then stop its queue for good (DPDK 22.11).
        const HEADERS_BYTES: usize = 18 + 20 + 20;
        let segment_bytes_max = if driver == "net_tap" { mtu - HEADERS_BYTES } else { mtu };
        (in_use.offloads.tx_tso && in_use.offloads.tx_tcp_checksum).then_some(Tso {
            pool,
            ipv4_checksum: in_use.offloads.tx_ipv4_checksum,
            // An MTU is at most 9,000.
            segment_bytes_max: segment_bytes_max as u16,
            has_refused: false,
        })
    }

    /// The largest frame that is cut, bytes.
    pub(super) fn frame_bytes_max(&self) -> usize {
        self.pool.config().data_bytes.into()
    }

    pub(super) fn frames_in_use(&self) -> u32 {
        self.pool.in_use()
    }

    pub(super) fn alloc(&self) -> Option<Mbuf> {
        if self.has_refused { None } else { self.pool.alloc() }
    }

    /// A frame of a burst with large ones was refused. The segment will be sent again, and had better be small then.
    pub(super) fn give_up(&mut self) {
        self.has_refused = true;
    }

    /// Asks for a frame to be cut that was filled for that; `offload` asks for its checksum and names its headers.
    #[inline]
    pub(super) fn ask(&self, frame: &Mbuf, offload: &mut TxOffload) {
        if let Some(bytes) = frame.tso_segment_bytes() {
            offload.tso_segment_bytes = Some(bytes.min(self.segment_bytes_max));
            offload.ipv4_checksum = self.ipv4_checksum;
        }
    }
}
