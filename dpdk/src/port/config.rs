//! What a port can do, what is wanted of it, and what is in use.

use crate::error::{Result, check};
use crate::offload::Offloads;
use crate::rss::{RssConfig, RssFunctions};
use crate::sys;
use std::fmt;

/// What a driver says that its port can do. It need not be true: see [`InUse::refused`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The driver's name, e.g. `net_ice`.
    pub driver: String,
    /// RX queues at most.
    pub rx_queues_max: u16,
    /// TX queues at most.
    pub tx_queues_max: u16,
    /// Smallest MTU in bytes (an IP packet's length).
    pub mtu_min: u16,
    /// Largest MTU in bytes.
    pub mtu_max: u16,
    /// Largest MTU that the driver states, and so takes as a setting; some carry more than they state.
    pub mtu_stated: u16,
    /// Offloads.
    pub offloads: Offloads,
    /// What RSS can hash.
    pub rss_functions: RssFunctions,
    /// Length of the RSS key in bytes; 0 when the key cannot be set.
    pub rss_key_bytes: usize,
    /// Entries of the RSS redirection table; 0 when there is none.
    pub reta_entries: usize,
    /// The NUMA node the device is attached to.
    pub numa_node: Option<u32>,
}

/// What is wanted of a port. What it does not offer is left out or made smaller, and [`InUse`] tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// RX queues.
    pub rx_queues: u16,
    /// TX queues.
    pub tx_queues: u16,
    /// Descriptors of each RX ring.
    pub rx_descriptors: u16,
    /// Descriptors of each TX ring.
    pub tx_descriptors: u16,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// Offloads.
    pub offloads: Offloads,
    /// How to spread flows over several RX queues.
    pub rss: Option<RssConfig>,
    /// Receive frames for any MAC address.
    pub promiscuous: bool,
    /// Receive all multicast frames: IPv6 neighbour discovery needs them.
    pub allmulticast: bool,
    /// The port's MAC address; `None`: its own.
    pub mac: Option<[u8; 6]>,
    /// An interrupt for each RX queue, see [`RxQueue::set_interrupt`](crate::RxQueue::set_interrupt).
    pub rx_interrupts: bool,
}

impl Default for PortConfig {
    fn default() -> Self {
        Self {
            rx_queues: 1,
            tx_queues: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            mtu: sys::SHIM_ETHER_MTU as u16,
            offloads: Offloads::default(),
            rss: None,
            promiscuous: false,
            allmulticast: true,
            mac: None,
            rx_interrupts: false,
        }
    }
}

/// How a started port is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InUse {
    /// RX queues.
    pub rx_queues: u16,
    /// TX queues.
    pub tx_queues: u16,
    /// Descriptors of each RX ring.
    pub rx_descriptors: u16,
    /// Descriptors of each TX ring.
    pub tx_descriptors: u16,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// Offloads.
    pub offloads: Offloads,
    /// What RSS hashes.
    pub rss_functions: RssFunctions,
    /// Frames for any MAC address are received.
    pub promiscuous: bool,
    /// All multicast frames are received.
    pub allmulticast: bool,
    /// The port's MAC address.
    pub mac: [u8; 6],
    /// RX queues were set up with interrupts.
    pub rx_interrupts: bool,
    /// What was asked for and not given, each with the reason, for the operator.
    pub refused: Vec<String>,
}

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "queues {} rx x {}, {} tx x {}; mtu {}; offloads {}; rss {}",
            self.rx_queues,
            self.rx_descriptors,
            self.tx_queues,
            self.tx_descriptors,
            self.mtu,
            self.offloads,
            self.rss_functions
        )?;
        if !self.refused.is_empty() {
            write!(f, "; not given: {}", self.refused.join("; "))?;
        }
        Ok(())
    }
}

/// A port's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Frames can pass.
    pub up: bool,
    /// Speed in Mbit/s, where it is known.
    pub speed_mbps: Option<u32>,
    /// Both directions at once.
    pub full_duplex: bool,
}

/// A port's counters since it was started or they were reset, as its driver keeps them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Frames received.
    pub rx_frames: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames that the device lost because its RX ring was full.
    pub rx_missed: u64,
    /// Frames received with errors.
    pub rx_errors: u64,
    /// Times that there was no mbuf to receive into.
    pub rx_no_mbuf: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames that could not be sent.
    pub tx_errors: u64,
}

impl Capabilities {
    pub(super) fn of(port: u16) -> Result<Self> {
        let info = info(port)?;
        let driver = super::text(&info.driver);
        // A driver's longest frame includes Ethernet header and FCS; some state no MTU but that.
        let by_frame = info.frame_bytes_max.saturating_sub(sys::SHIM_ETHER_HEADER_BYTES + ETHER_FCS_BYTES);
        let mtu_stated = clamp(info.mtu_max.min(by_frame).max(info.mtu_min));
        let mtu_max = if CARRIES_ANY_LENGTH.contains(&driver.as_str()) { MTU_MAX } else { mtu_stated };
        Ok(Self {
            driver,
            rx_queues_max: clamp(info.rx_queues_max),
            tx_queues_max: clamp(info.tx_queues_max),
            mtu_min: clamp(info.mtu_min),
            mtu_max,
            mtu_stated,
            offloads: Offloads::from_bits(info.rx_offloads, info.tx_offloads),
            rss_functions: RssFunctions::from_bits(info.rss_functions),
            rss_key_bytes: info.rss_key_bytes as usize,
            reta_entries: info.reta_entries as usize,
            numa_node: u32::try_from(info.numa_node).ok(),
        })
    }
}

const ETHER_FCS_BYTES: u32 = 4;
/// Room for two VLAN tags beside the Ethernet header.
pub(super) const L2_BYTES_MAX: u32 = sys::SHIM_ETHER_HEADER_BYTES + 8;
/// The longest frame that an mbuf's u16 lengths hold.
const MTU_MAX: u16 = u16::MAX - L2_BYTES_MAX as u16;
/// Drivers that state the classic 1500 bytes and have no such limit: they chain buffers for longer frames.
const CARRIES_ANY_LENGTH: [&str; 1] = ["net_memif"];

pub(super) fn info(port: u16) -> Result<sys::shim_port_info> {
    let mut info = sys::shim_port_info::default();
    // SAFETY: the structure is writable; the id is checked there.
    let returned = unsafe { sys::shim_port_info(port, &mut info) };
    check(returned, || format!("rte_eth_dev_info_get({port})"))?;
    Ok(info)
}

fn clamp(value: u32) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}
