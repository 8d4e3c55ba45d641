//! A Linux TAP device: our end is a port, the kernel's end an ordinary network interface.
//!
//! One system call moves one frame, so this is the port for development and tests, not for records. With several
//! queues ([`TapConfig::queues`]) each worker has its own; the kernel keeps a flow on the queue that last sent for it.
//!
//! # Offloads
//!
//! With [`TapConfig::offload`] every frame carries a `virtio_net_hdr`. The kernel then leaves out the checksums of what
//! it sends (memory lies between us, no wire) and hands over TCP segments of up to 64 KiB in one frame; with
//! [`TapConfig::tso`] it takes such frames over IPv4, too. docs/ports.md has what that gains.
//!
//! # Memory
//!
//! One queue owns [`TapConfig::frames`] frames of `mtu + 24` bytes and, with offloads, 128 more of 64 KiB for
//! receiving, half of which may also be sent; of those, only the pages that were ever filled are resident.

mod error;
mod link;
mod setup;
mod sys;
mod vnet;

pub use error::TapError;

use super::{Frame, Port, PortInfo, PortStats, RxChecksum};
use crate::port::ETHERNET_HEADER_BYTES;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use vnet::VNET_HEADER_BYTES;

/// Most queues that the kernel gives a TAP device (`MAX_TAP_QUEUES`).
const QUEUES_MAX: usize = 256;
/// Fewest frames of a queue: two bursts.
const FRAMES_MIN: usize = 64;
/// Most frames of a queue.
const FRAMES_MAX: usize = 65_536;
/// What a large frame holds: an IP packet of 65,535 bytes, and with IPv6 its header beside that.
const LARGE_FRAME_BYTES: usize = 65_535 + 40 + ETHERNET_HEADER_BYTES;
/// Large frames of one queue: what a worker receives in one burst, twice.
const LARGE_FRAMES: usize = 128;
/// Large frames that are kept for receiving, a burst's: those above may be filled to send.
const LARGE_FRAMES_RX: usize = 64;
/// The largest frame that the kernel cuts: an IPv4 packet is as long as its header can say.
const TSO_FRAME_BYTES_MAX: usize = 65_535 + ETHERNET_HEADER_BYTES;
/// A burst of large segments ends early, so that it is still in the cache when the worker reads it.
const RX_BURST_BYTES: u64 = 256 * 1024;

/// How a TAP device is opened.
#[derive(Clone, Debug)]
pub struct TapConfig {
    /// The interface's name: 1 to 15 characters.
    pub name: String,
    /// Queues, each for one worker: 1..=256.
    pub queues: usize,
    /// Create the device if it does not exist; it vanishes with us. A persistent one is attached to either way.
    pub create: bool,
    /// Largest IP packet in bytes, both ends: 576..=9000, and at least 1280 with IPv6.
    pub mtu: usize,
    /// Our end's MAC address; `None` for a random one, locally administered.
    pub mac: Option<[u8; 6]>,
    /// The MAC address of the kernel's end; `None` for the kernel's choice.
    pub host_mac: Option<[u8; 6]>,
    /// Addresses of the kernel's end, with their prefix lengths in bits.
    pub host_addresses: Vec<(IpAddr, u8)>,
    /// The network namespace for the kernel's end, by its `ip netns` name; `None` for ours.
    pub netns: Option<String>,
    /// Let the kernel leave out checksums and hand over large TCP segments.
    pub offload: bool,
    /// With `offload`: hand large TCP segments over IPv4 to the kernel in one frame.
    pub tso: bool,
    /// Frames of each queue: 64..=65536.
    pub frames: usize,
}

impl TapConfig {
    /// One queue of the device `name`, created if need be, with an Ethernet MTU, no address yet, and offloads.
    pub fn new(name: impl Into<String>) -> Self {
        TapConfig {
            name: name.into(),
            queues: 1,
            create: true,
            mtu: 1500,
            mac: None,
            host_mac: None,
            host_addresses: Vec::new(),
            netns: None,
            offload: true,
            tso: true,
            frames: 1024,
        }
    }
}

/// Opens a TAP device: one port per queue. The kernel's end is up and addressed when this returns.
///
/// # Errors
/// See [`TapError`]. A device that this call created is gone again then.
pub fn open(config: &TapConfig) -> Result<Vec<TapPort>, TapError> {
    setup::validate(config)?;
    let mac = match config.mac {
        Some(mac) => mac,
        None => random_mac().map_err(|source| TapError::Kernel {
            action: "draw a random MAC address",
            name: config.name.clone(),
            source,
        })?,
    };
    let opened = setup::open(config)?;
    let claim = opened.claim.map(Arc::new);
    let port = |(queue, tun): (usize, OwnedFd)| {
        let name = match config.queues {
            1 => format!("tap:{}", config.name),
            _ => format!("tap:{}/{queue}", config.name),
        };
        TapPort::new(config, name, mac, tun, claim.clone())
    };
    Ok(opened.queues.into_iter().enumerate().map(port).collect())
}

fn random_mac() -> Result<[u8; 6], io::Error> {
    let mut mac = [0; 6];
    getrandom::fill(&mut mac).map_err(|error| {
        error.raw_os_error().map_or(ErrorKind::Unsupported.into(), io::Error::from_raw_os_error)
    })?;
    // Locally administered, unicast (IEEE 802, section 8.2).
    mac[0] = mac[0] & !0x01 | 0x02;
    Ok(mac)
}

/// A frame of a TAP queue. In front of its bytes is room for the `virtio_net_hdr`, so that one system call moves both.
#[derive(Debug)]
pub struct TapFrame {
    buffer: Box<[u8]>,
    /// Bytes of the frame itself, behind the header.
    len: usize,
    checksum: RxChecksum,
    /// Payload bytes of each segment, where the kernel shall cut this one.
    segment_bytes: Option<NonZeroU16>,
}

impl TapFrame {
    fn new(bytes_max: usize) -> Self {
        let buffer = vec![0; VNET_HEADER_BYTES + bytes_max].into_boxed_slice();
        TapFrame { buffer, len: 0, checksum: RxChecksum::Unknown, segment_bytes: None }
    }
}

impl Frame for TapFrame {
    fn bytes(&self) -> &[u8] {
        &self.buffer[VNET_HEADER_BYTES..][..self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[VNET_HEADER_BYTES..][..self.len]
    }

    fn set_len(&mut self, len: usize) {
        let capacity = self.buffer.len() - VNET_HEADER_BYTES;
        assert!(len <= capacity, "a frame of {len} bytes in a buffer of {capacity}");
        self.len = len;
    }

    fn set_segment_bytes(&mut self, payload_bytes: NonZeroU16) {
        self.segment_bytes = Some(payload_bytes);
    }

    fn rx_checksum(&self) -> RxChecksum {
        self.checksum
    }
}

/// One queue of a TAP device.
pub struct TapPort {
    info: PortInfo,
    tun: OwnedFd,
    offload: bool,
    /// Frames of `mtu + 14` bytes: all of them without offloads, those to send with them.
    free: Vec<TapFrame>,
    /// Frames of 64 KiB to receive into, and for large segments to send; none without offloads.
    free_large: Vec<TapFrame>,
    alive: bool,
    stats: PortStats,
    _claim: Option<Arc<UnixListener>>,
}

impl TapPort {
    fn new(
        config: &TapConfig,
        name: String,
        mac: [u8; 6],
        tun: OwnedFd,
        claim: Option<Arc<UnixListener>>,
    ) -> Self {
        let frame_bytes = config.mtu + ETHERNET_HEADER_BYTES;
        let large_frames = if config.offload { LARGE_FRAMES } else { 0 };
        TapPort {
            info: PortInfo {
                name,
                mac,
                mtu: config.mtu,
                frame_bytes_max: if config.offload { LARGE_FRAME_BYTES } else { frame_bytes },
                tso_frame_bytes_max: (config.offload && config.tso).then_some(TSO_FRAME_BYTES_MAX),
                tx_checksum_offload: config.offload,
                rx_checksum_trusted: false,
                rss: None,
            },
            tun,
            offload: config.offload,
            free: (0..config.frames).map(|_| TapFrame::new(frame_bytes)).collect(),
            free_large: (0..large_frames).map(|_| TapFrame::new(LARGE_FRAME_BYTES)).collect(),
            alive: true,
            stats: PortStats::default(),
            _claim: claim,
        }
    }

    /// The free frames that are received into.
    fn free_rx(&mut self) -> &mut Vec<TapFrame> {
        if self.offload { &mut self.free_large } else { &mut self.free }
    }

    /// Reads one frame; `Ok(false)` for one that is no Ethernet frame.
    fn read(&self, frame: &mut TapFrame) -> Result<bool, Errno> {
        let skipped = if self.offload { 0 } else { VNET_HEADER_BYTES };
        let end = skipped + rustix::io::read(&self.tun, &mut frame.buffer[skipped..])?;
        if end < VNET_HEADER_BYTES + ETHERNET_HEADER_BYTES {
            return Ok(false);
        }
        frame.len = end - VNET_HEADER_BYTES;
        frame.checksum = if self.offload { vnet::rx_checksum(&frame.buffer) } else { RxChecksum::Unknown };
        Ok(true)
    }

    fn write(&self, frame: &mut TapFrame) -> Result<(), Errno> {
        let end = VNET_HEADER_BYTES + frame.len;
        let skipped = if self.offload {
            vnet::prepare_tx(&mut frame.buffer[..end], frame.segment_bytes);
            0
        } else {
            VNET_HEADER_BYTES
        };
        rustix::io::write(&self.tun, &frame.buffer[skipped..end]).map(|_| ())
    }

    /// Notes an error that is more than "not now".
    fn failed(&mut self, errno: Errno) {
        // The interface was deleted: no frame comes or goes any more.
        if matches!(errno, Errno::BADFD | Errno::NODEV | Errno::NXIO) {
            self.alive = false;
        }
    }
}

impl Port for TapPort {
    type Frame = TapFrame;

    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn rx_burst(&mut self, burst: &mut VecDeque<TapFrame>, max: usize) -> usize {
        let mut count = 0;
        let rx_bytes_enough = self.stats.rx_bytes + RX_BURST_BYTES;
        while count < max && self.stats.rx_bytes < rx_bytes_enough {
            let Some(mut frame) = self.free_rx().pop() else { break };
            match self.read(&mut frame) {
                Ok(true) => {
                    self.stats.rx_bytes += frame.len as u64;
                    burst.push_back(frame);
                    count += 1;
                }
                Ok(false) => {
                    self.free_rx().push(frame);
                    self.stats.rx_errors += 1;
                    break;
                }
                Err(errno) => {
                    self.free_rx().push(frame);
                    if errno != Errno::AGAIN {
                        self.stats.rx_errors += 1;
                        self.failed(errno);
                    }
                    break;
                }
            }
        }
        self.stats.rx_frames += count as u64;
        count
    }

    fn alloc(&mut self) -> Option<TapFrame> {
        let frame = self.free.pop();
        if frame.is_none() {
            self.stats.alloc_failed += 1;
        }
        frame
    }

    fn alloc_large(&mut self) -> Option<TapFrame> {
        if self.info.tso_frame_bytes_max.is_none() || self.free_large.len() <= LARGE_FRAMES_RX {
            return None;
        }
        let mut frame = self.free_large.pop()?;
        frame.segment_bytes = None;
        Some(frame)
    }

    fn tx_burst(&mut self, burst: &mut VecDeque<TapFrame>) -> usize {
        let mut count = 0;
        while let Some(mut frame) = burst.pop_front() {
            match self.write(&mut frame) {
                Ok(()) => {
                    self.stats.tx_frames += 1;
                    self.stats.tx_cut_frames += u64::from(frame.segment_bytes.is_some());
                    self.stats.tx_bytes += frame.len as u64;
                }
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => {
                    burst.push_front(frame);
                    self.stats.tx_full += 1;
                    break;
                }
                // The interface is down or gone, or the frame is not one: sending it again would not help.
                Err(errno) => {
                    self.stats.tx_errors += 1;
                    self.failed(errno);
                }
            }
            self.release(frame);
            count += 1;
        }
        count
    }

    fn release(&mut self, frame: TapFrame) {
        if frame.buffer.len() > VNET_HEADER_BYTES + self.info.mtu + ETHERNET_HEADER_BYTES {
            self.free_large.push(frame);
        } else {
            self.free.push(frame);
        }
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.tun.as_fd())
    }

    fn prepare_sleep(&mut self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut fds = [PollFd::new(&self.tun, PollFlags::IN)];
        poll(&mut fds, Some(&now)) == Ok(0)
    }

    fn is_alive(&self) -> bool {
        self.alive
    }

    fn stats(&self) -> PortStats {
        self.stats
    }
}
