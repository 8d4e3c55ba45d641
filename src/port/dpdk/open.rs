//! Opening a device: DPDK's runtime, mempools, the port, and one [`DpdkPort`] per queue pair.

use super::{Checksums, DpdkConfig, DpdkError, DpdkPort, ETHERNET_HEADER_BYTES, Memory, claim, stale};
use crate::port::{MTU_MAX, MTU_MIN, PortInfo, PortStats};
use ::dpdk::{
    Bus, Capabilities, Device, Eal, EalArgs, InUse, Link, Mempool, MempoolConfig, Offloads, PortConfig,
};
use ::dpdk::{RssConfig, RssFunctions};
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long a NIC may take to bring its link up; some take seconds.
const LINK_TIME: Duration = Duration::from_secs(5);
/// Beside the frame: two VLAN tags, and room to a round number.
const SPARE_BYTES: usize = 10;
/// Mbufs that a thread keeps aside.
const CACHE_MBUFS: u32 = 256;
const QUEUES_MAX: usize = 1024;
const DESCRIPTORS: (usize, usize) = (32, 32_768);
const FRAMES: (usize, usize) = (256, 1 << 20);

/// What a device was asked for and what is in use.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The device's name.
    pub device: String,
    /// DPDK's version.
    pub version: String,
    /// Queue pairs that were asked for.
    pub queues_wanted: usize,
    /// What the driver says it can do.
    pub capabilities: Capabilities,
    /// What is in use.
    pub in_use: InUse,
    /// How flows come to their queues.
    pub steering: Steering,
    /// The link, as it was when the device was opened.
    pub link: Option<Link>,
}

/// How flows come to a device's queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steering {
    /// There is one queue.
    Single,
    /// The device hashes addresses and ports, by a key under which both directions of a flow hash alike.
    SymmetricRss,
    /// The device hashes addresses and ports by a key of its own.
    Rss,
    /// The device has no RSS: who sends to it chooses the queue (memif, vhost).
    Sender,
}

impl fmt::Display for Steering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Single => "one queue",
            Self::SymmetricRss => "RSS with a symmetric key",
            Self::Rss => "RSS with the device's key",
            Self::Sender => "the sender chooses the queue",
        })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {}), ", self.device, self.capabilities.driver, self.version)?;
        match self.capabilities.numa_node {
            Some(node) => write!(f, "NUMA node {node}; ")?,
            None => f.write_str("any NUMA node; ")?,
        }
        match self.link {
            Some(Link { up: true, speed_mbps: Some(speed), .. }) => write!(f, "link up at {speed} Mbit/s; ")?,
            Some(Link { up: true, .. }) => f.write_str("link up; ")?,
            Some(_) => f.write_str("link down; ")?,
            None => {}
        }
        write!(f, "{}; steering: {}", self.in_use, self.steering)
    }
}

/// Opens a device: one port per queue pair, at most as many as were asked for. The first device that a process
/// opens starts DPDK, with the memory that its configuration names; a NIC on the PCI bus must be that first one.
///
/// # Errors
/// See [`DpdkError`]. Nothing stays open then.
pub fn open(config: &DpdkConfig) -> Result<Vec<DpdkPort>, DpdkError> {
    validate(config)?;
    let config = &DpdkConfig { device: whole_frames(config)?, ..config.clone() };
    stale::remove_socket(&config.device);
    let claim = claim::interface(&config.device)?.map(Arc::new);
    let eal = match Eal::running() {
        Some(eal) => {
            eal.attach(&config.device)?;
            eal
        }
        None => Eal::init(&eal_args(config))?,
    };
    let id =
        *eal.ports_of(&config.device)?.first().ok_or_else(|| DpdkError::NoPort(config.device.to_string()))?;
    let mut port = ::dpdk::Port::open(&eal, id)?;
    let can = port.capabilities().clone();
    let queues = config.queues.min(can.rx_queues_max.min(can.tx_queues_max).into());
    if queues == 0 {
        return Err(DpdkError::NoQueues(config.device.to_string()));
    }
    if config.mtu > usize::from(can.mtu_max) {
        let (device, driver) = (port.name().to_owned(), can.driver);
        return Err(DpdkError::MtuOfDevice { device, driver, wanted: config.mtu, max: can.mtu_max.into() });
    }
    let pools = mempools(&eal, config, queues, can.numa_node)?;
    let (wanted, symmetric) = port_config(config, queues, &can);
    let (rx, tx) = port.start(&wanted, &pools).map_err(|error| not_started(config, error))?;
    let summary = Arc::new(summarize(config, &port, symmetric));
    let in_use = &summary.in_use;
    if config.mtu > usize::from(in_use.mtu) {
        let (device, driver) = (port.name().to_owned(), summary.capabilities.driver.clone());
        return Err(DpdkError::MtuOfDevice { device, driver, wanted: config.mtu, max: in_use.mtu.into() });
    }
    let trusted = config.checksums == Checksums::Trust;
    let device = Arc::new(Mutex::new(port));
    let ports = rx.into_iter().zip(tx).zip(pools).enumerate().map(|(queue, ((rx, tx), pool))| DpdkPort {
        info: PortInfo {
            name: match queues {
                1 => format!("dpdk:{}", summary.device),
                _ => format!("dpdk:{}/{queue}", summary.device),
            },
            mac: in_use.mac,
            mtu: config.mtu,
            frame_bytes_max: pool.config().data_bytes.into(),
            tx_checksum_offload: trusted || in_use.offloads.tx_tcp_checksum,
            rx_checksum_trusted: trusted,
        },
        rx,
        tx,
        tx_tcp_checksum: in_use.offloads.tx_tcp_checksum,
        pool,
        fresh: VecDeque::with_capacity(2 * super::BATCH),
        used: VecDeque::with_capacity(2 * super::BATCH),
        stats: PortStats::default(),
        registered: false,
        device: Arc::clone(&device),
        summary: Arc::clone(&summary),
        _claim: claim.clone(),
        eal: eal.clone(),
    });
    Ok(ports.collect())
}

/// Why the port does not start, where more can be said than DPDK does.
fn not_started(config: &DpdkConfig, source: ::dpdk::Error) -> DpdkError {
    if config.device.name().starts_with("net_af_xdp") {
        return DpdkError::XdpSocket { device: config.device.to_string(), source };
    }
    source.into()
}

fn validate(config: &DpdkConfig) -> Result<(), DpdkError> {
    if !(MTU_MIN..=MTU_MAX).contains(&config.mtu) {
        return Err(DpdkError::Mtu(config.mtu));
    }
    for (what, given, (min, max)) in [
        ("queues of a device", config.queues, (1, QUEUES_MAX)),
        ("descriptors of a ring", config.descriptors.into(), DESCRIPTORS),
        ("frames of a queue", config.frames as usize, FRAMES),
    ] {
        if !(min..=max).contains(&given) {
            return Err(DpdkError::Number { what, min, max, given });
        }
    }
    Ok(())
}

/// The device, with buffers that hold whole frames: a memif whose buffers are smaller cuts frames into chains of them,
/// and over those, transfers of several connections stall (seen with DPDK 22.11).
fn whole_frames(config: &DpdkConfig) -> Result<Device, DpdkError> {
    /// The driver's own choice.
    const MEMIF_BUFFER_BYTES: usize = 2048;
    let device = &config.device;
    let bytes = config.mtu + ETHERNET_HEADER_BYTES + SPARE_BYTES;
    if !device.name().starts_with("net_memif")
        || device.argument("bsize").is_some()
        || bytes <= MEMIF_BUFFER_BYTES
    {
        return Ok(device.clone());
    }
    Ok(format!("{},bsize={}", device.devargs(), bytes.next_multiple_of(64)).parse()?)
}

fn eal_args(config: &DpdkConfig) -> EalArgs {
    let memory = match config.memory {
        Memory::HugePages => ::dpdk::Memory::HugePages,
        Memory::Ordinary { mib } => ::dpdk::Memory::Ordinary { mib },
    };
    let args = EalArgs::new()
        .memory(memory)
        .device(config.device.clone())
        .single_file_segments(config.single_file_segments)
        .extra(&config.eal_arguments);
    match &config.service_cpus {
        Some(cpus) => args.cpus(cpus.iter().copied()),
        None => args,
    }
}

/// One for each queue: workers share no memory. On the device's NUMA node.
fn mempools(
    eal: &Eal,
    config: &DpdkConfig,
    queues: usize,
    numa_node: Option<u32>,
) -> Result<Vec<Mempool>, DpdkError> {
    let data_bytes = (config.mtu + ETHERNET_HEADER_BYTES + SPARE_BYTES).max(2048);
    let pool = MempoolConfig {
        mbufs: config.frames + 2 * u32::from(config.descriptors),
        cache_mbufs: CACHE_MBUFS.min(config.frames / 2),
        data_bytes: data_bytes as u16,
        numa_node,
        packed: config.device.bus() == Bus::Virtual,
    };
    let pools: Result<Vec<_>, _> = (0..queues).map(|_| Mempool::new(eal, pool)).collect();
    Ok(pools?)
}

/// What to ask of the port, and whether RSS would then be symmetric.
fn port_config(config: &DpdkConfig, queues: usize, can: &Capabilities) -> (PortConfig, bool) {
    let offloads = match config.checksums {
        Checksums::Verify => Offloads {
            rx_ipv4_checksum: true,
            rx_tcp_checksum: true,
            tx_tcp_checksum: true,
            ..Offloads::default()
        },
        Checksums::Trust => Offloads::default(),
    };
    let symmetric = can.rss_key_bytes > 0;
    let rss = (queues > 1 && !can.rss_functions.is_empty()).then(|| RssConfig {
        functions: RssFunctions::tcp().or(RssFunctions::IPV4).or(RssFunctions::IPV6).and(can.rss_functions),
        key: symmetric.then(|| ::dpdk::symmetric_key(can.rss_key_bytes)),
    });
    let wanted = PortConfig {
        rx_queues: queues as u16,
        tx_queues: queues as u16,
        rx_descriptors: config.descriptors,
        tx_descriptors: config.descriptors,
        mtu: config.mtu as u16,
        // Asked for only where they are: what is done in software otherwise is not missing.
        offloads: offloads.and(can.offloads),
        rss,
        promiscuous: false,
        allmulticast: true,
        mac: config.mac,
    };
    (wanted, symmetric)
}

fn summarize(config: &DpdkConfig, port: &::dpdk::Port, symmetric: bool) -> Summary {
    // A virtual device's link waits for its other end; a NIC's for the cable's.
    let link = match config.device.bus() {
        Bus::Virtual => port.link(),
        Bus::Pci | Bus::Other => port.wait_link(LINK_TIME),
    };
    let in_use = port.in_use().expect("the port is started").clone();
    let steering = match (in_use.rx_queues, in_use.rss_functions.is_empty()) {
        (0 | 1, _) => Steering::Single,
        (_, true) => Steering::Sender,
        (_, false) if symmetric => Steering::SymmetricRss,
        (_, false) => Steering::Rss,
    };
    Summary {
        device: port.name().to_owned(),
        version: Eal::version(),
        queues_wanted: config.queues,
        capabilities: port.capabilities().clone(),
        in_use,
        steering,
        link: link.ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(spec: &str, mtu: usize) -> String {
        whole_frames(&DpdkConfig { mtu, ..spec.parse().unwrap() }).unwrap().to_string()
    }

    #[test]
    fn buffers_of_a_memif_hold_whole_frames() {
        assert_eq!(device("dpdk:net_memif0,role=server", 1500), "net_memif0,role=server");
        assert_eq!(device("dpdk:net_memif0,role=server", 2025), "net_memif0,role=server,bsize=2112");
        assert_eq!(device("dpdk:net_memif0", 9000), "net_memif0,bsize=9024");
        assert_eq!(device("dpdk:net_memif0,bsize=4096", 9000), "net_memif0,bsize=4096");
        assert_eq!(device("dpdk:0000:03:00.0", 9000), "0000:03:00.0");
    }
}
