//! A port is one RX/TX queue pair as a worker sees it: bursts of frames in, bursts of frames out.
//!
//! A frame is an Ethernet frame without its FCS. Frames are owned: a received frame is lent to the worker until
//! it gives it back with [`Port::release`]; a frame to send is taken with [`Port::alloc`], filled, and handed to
//! [`Port::tx_burst`], which takes from the front what the device accepts. Unsent frames stay with the caller.
//! All frames are allocated when the port is made; nothing here allocates per frame.
//!
//! Backends: [`wire`] (memory, in one process), [`tap`] (a Linux TAP device) and, with the feature of that name, `dpdk`
//! (poll-mode drivers of NICs, shared memory, packet sockets). Wrappers around any port: [`fault`] (a bad
//! medium) and [`pcap`] (a capture file). [`spread`] says which queue a flow belongs to. Each loop of a worker calls, in this order, [`Port::begin`],
//! [`Port::rx_burst`], [`Port::tx_burst`], and, before it sleeps, [`Port::prepare_sleep`] and [`Port::next_deadline`].

#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod fault;
pub mod pcap;
pub mod spread;
pub mod tap;
pub mod wire;

use crate::time::{Duration, Instant};
use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// Smallest MTU in bytes: what every IPv4 host must accept (RFC 1122, section 3.3.2).
pub const MTU_MIN: usize = 576;
/// Largest MTU in bytes: a jumbo frame's.
pub const MTU_MAX: usize = 9000;

/// Bytes of a frame before its IP packet.
pub(crate) const ETHERNET_HEADER_BYTES: usize = 14;

/// One frame buffer, owned by whoever holds it.
pub trait Frame {
    /// The frame's bytes, from the destination MAC to the end of the payload.
    fn bytes(&self) -> &[u8];
    /// The frame's bytes, writable.
    fn bytes_mut(&mut self) -> &mut [u8];
    /// Sets the frame's length in bytes; the contents of the grown part are unspecified.
    ///
    /// # Panics
    /// When `len` is over the frame's capacity: a frame from [`Port::alloc`] holds `mtu + 14` bytes or more.
    fn set_len(&mut self, len: usize);
    /// Has the port cut the frame's TCP segment into segments of so many payload bytes each, the last one of what is left.
    /// For frames of [`Port::alloc_large`]: those of ports that have none are never asked.
    fn set_segment_bytes(&mut self, payload_bytes: NonZeroU16) {
        let _ = payload_bytes;
    }
    /// What the device says of a received frame's IP and TCP checksums.
    fn rx_checksum(&self) -> RxChecksum {
        RxChecksum::Unknown
    }
    /// The hash by which the device chose a received frame's queue, where it tells.
    fn rss_hash(&self) -> Option<u32> {
        None
    }
}

/// A frame on the heap, as long as it is set: for tests and tools. No backend makes one.
impl Frame for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        self
    }
    fn set_len(&mut self, len: usize) {
        self.resize(len, 0);
    }
}

/// What the device found out about a received frame's checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxChecksum {
    /// Not looked at: software must verify, unless the operator trusts the medium.
    Unknown,
    /// Verified, or never on a real wire.
    Good,
    /// Verified and wrong: drop and count.
    Bad,
}

/// What a port can do and how it is set up; constant for its life.
#[derive(Clone, Debug)]
pub struct PortInfo {
    /// How the operator knows it, e.g. `tap:uns0` or `wire`.
    pub name: String,
    /// The port's own MAC address.
    pub mac: [u8; 6],
    /// Largest IP packet in bytes (without the Ethernet header).
    pub mtu: usize,
    /// Largest frame that can be received, in bytes: at least `mtu + 14`, and more where the device hands over large
    /// TCP segments.
    pub frame_bytes_max: usize,
    /// The device fills in IPv4/TCP/ICMP checksums on transmit, or nobody reads them (in-process wire).
    pub tx_checksum_offload: bool,
    /// TCP segmentation offload: the largest frame, in bytes, of a TCP segment over IPv4 that the port cuts into segments of
    /// the MTU itself; `None` where it does not. Only beside [`PortInfo::tx_checksum_offload`].
    pub tso_frame_bytes_max: Option<usize>,
    /// Received frames need no checksum verification (trusted medium) unless a frame says otherwise.
    pub rx_checksum_trusted: bool,
    /// How the device says that it spreads flows over its queues, each a worker's; `None` where it has one queue or does not
    /// say (a TAP device learns it, the other end of shared memory chooses).
    pub rss: Option<Arc<spread::Rss>>,
}

/// One RX/TX queue pair. Send but not shared: one worker owns it.
pub trait Port {
    /// The buffer type that goes in and out.
    type Frame: Frame;

    /// What this port can do.
    fn info(&self) -> &PortInfo;

    /// Tells the port the time, once per loop, before [`Port::rx_burst`]. Only wrappers that delay or time-stamp
    /// frames need it.
    fn begin(&mut self, now: Instant) {
        let _ = now;
    }

    /// When the port has something to do although no frame arrives (a delayed frame falls due), as of the last
    /// [`Port::begin`]. A worker must not sleep longer.
    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// Appends up to `max` received frames to `burst`; returns how many. Never blocks. None does not mean that none is
    /// waiting (a wrapper may have lost them all): [`Port::prepare_sleep`] knows.
    fn rx_burst(&mut self, burst: &mut VecDeque<Self::Frame>, max: usize) -> usize;

    /// A frame to fill and send, or `None` when all are in use just now.
    fn alloc(&mut self) -> Option<Self::Frame>;

    /// A frame of up to [`PortInfo::tso_frame_bytes_max`] bytes to fill, to give [`Frame::set_segment_bytes`], and to send;
    /// `None` when all are in use just now, which is not counted: what it would have held can go in small ones.
    fn alloc_large(&mut self) -> Option<Self::Frame> {
        None
    }

    /// Sends frames from the front of `burst` until the device takes no more; returns how many were taken.
    /// What is left in `burst` was not sent and still belongs to the caller. Never blocks.
    fn tx_burst(&mut self, burst: &mut VecDeque<Self::Frame>) -> usize;

    /// Gives a frame back, received or allocated.
    fn release(&mut self, frame: Self::Frame);

    /// A descriptor that polls readable when frames are waiting, for a worker that wants to sleep; `None` when
    /// the device has none and must be polled.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Announces that the worker is about to wait on [`Port::wait_fd`], and says whether it may: `false` when frames
    /// are waiting already. Senders that share memory with us need not make a system call per burst while
    /// nobody has announced it. The next [`Port::rx_burst`] withdraws the announcement, so it must follow every wait.
    fn prepare_sleep(&mut self) -> bool {
        true
    }

    /// How long a worker may sleep when there is no [`Port::wait_fd`], or while it has unsent frames or found none to
    /// fill: no descriptor announces room.
    fn poll_interval(&self) -> Duration {
        Duration::from_micros(50)
    }

    /// Whether frames can still come and go: `false` once the device or the other end is gone for good.
    fn is_alive(&self) -> bool {
        true
    }

    /// Counters since the port was made.
    fn stats(&self) -> PortStats;
}

/// Counters of one port since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Frames received.
    pub rx_frames: u64,
    /// Bytes received, Ethernet headers included.
    pub rx_bytes: u64,
    /// Frames that the device lost before we saw them, as far as it says.
    pub rx_dropped: u64,
    /// Times that receiving failed, other than for want of a frame.
    pub rx_errors: u64,
    /// Frames of other VLANs than the port's, dropped.
    pub rx_other_vlan: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Bytes sent, Ethernet headers included.
    pub tx_bytes: u64,
    /// Frames among those sent that the device was to cut into segments.
    pub tx_cut_frames: u64,
    /// Frames that the device refused for good.
    pub tx_errors: u64,
    /// Times that [`Port::tx_burst`] could not take all it was given.
    pub tx_full: u64,
    /// Times that [`Port::alloc`] had nothing to give.
    pub alloc_failed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use fault::{FaultConfig, FaultPort};
    use pcap::{PcapConfig, PcapPort};

    /// A port that cuts segments, and sends what it is given to nobody.
    struct Cutting(PortInfo);

    impl Cutting {
        fn new() -> Self {
            Cutting(PortInfo {
                name: "cutting".into(),
                mac: [2, 0, 0, 0, 0, 1],
                mtu: 1500,
                frame_bytes_max: 1514,
                tso_frame_bytes_max: Some(40_000),
                tx_checksum_offload: true,
                rx_checksum_trusted: false,
                rss: None,
            })
        }
    }

    impl Port for Cutting {
        type Frame = Vec<u8>;

        fn info(&self) -> &PortInfo {
            &self.0
        }
        fn rx_burst(&mut self, _burst: &mut VecDeque<Vec<u8>>, _max: usize) -> usize {
            0
        }
        fn alloc(&mut self) -> Option<Vec<u8>> {
            Some(Vec::new())
        }
        fn alloc_large(&mut self) -> Option<Vec<u8>> {
            Some(vec![0; 40_000])
        }
        fn tx_burst(&mut self, burst: &mut VecDeque<Vec<u8>>) -> usize {
            burst.drain(..).count()
        }
        fn release(&mut self, _frame: Vec<u8>) {}
        fn stats(&self) -> PortStats {
            PortStats::default()
        }
    }

    #[test]
    fn faults_befall_segments_one_by_one() {
        let mut port = FaultPort::new(Cutting::new(), &FaultConfig::default()).unwrap();
        assert_eq!(port.info().tso_frame_bytes_max, None);
        assert!(port.alloc_large().is_none());
        assert!(port.info().tx_checksum_offload, "the rest is the inner port's");
        assert_eq!(port.info().name, "cutting");
    }

    #[test]
    fn a_recorder_sees_large_segments_whole() {
        let mut port = PcapPort::new(Cutting::new(), Vec::new(), &PcapConfig::default());
        assert_eq!(port.info().tso_frame_bytes_max, Some(40_000));
        let mut burst = VecDeque::from([port.alloc_large().expect("a large frame")]);
        assert_eq!((port.tx_burst(&mut burst), port.recorded_frames()), (1, 1));
    }
}
