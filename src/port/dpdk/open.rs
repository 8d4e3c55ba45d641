//! Opening a device: DPDK's runtime, mempools, the port, and one [`DpdkPort`] for each worker.

use super::queues::Queues;
use super::sleep::Sleep;
use super::tso::{self, Tso};
use super::vlan::Vlan;
use super::{Checksums, DpdkConfig, DpdkError, DpdkPort, Memory, claim, stale};
use crate::port::spread::{Hashed, Rss};
use crate::port::{ETHERNET_HEADER_BYTES, MTU_MAX, MTU_MIN, PortInfo, PortStats};
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
const VLAN_IDS: (usize, usize) = (1, 4094);

/// What a device was asked for and what is in use.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The device's name.
    pub device: String,
    /// DPDK's version.
    pub version: String,
    /// Workers, each with a port.
    pub workers: usize,
    /// What the driver says it can do.
    pub capabilities: Capabilities,
    /// What is in use.
    pub in_use: InUse,
    /// How the device chooses the queue of a received segment, read back from it.
    pub rss: Option<Arc<Rss>>,
    /// How flows come to their queues.
    pub steering: Steering,
    /// The VLAN that the port belongs to.
    pub vlan: Option<u16>,
    /// RX interrupts wake idle workers.
    pub interrupts: bool,
    /// The link, as it was when the device was opened.
    pub link: Option<Link>,
}

/// How flows come to a device's queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steering {
    /// One queue, one worker.
    Single,
    /// There are fewer queues than workers: those who receive hand frames over by the flow hash.
    Shared {
        /// Queue pairs.
        queues: usize,
        /// Workers.
        workers: usize,
    },
    /// The device hashes addresses and ports, by a key and table that were read back from it.
    Rss,
    /// The device hashes, but does not tell by which key or table: frames are handed over by the flow hash.
    UntoldRss,
    /// The device has no RSS: who sends to it chooses the queue (memif, vhost, the kernel behind a TAP), or all comes on
    /// the first (e1000e).
    Sender,
}

impl fmt::Display for Steering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Single => f.write_str("one queue"),
            Self::Shared { queues, workers } => {
                write!(f, "{queues} queues for {workers} workers, frames are handed over by flow hash")
            }
            Self::Rss => f.write_str("RSS, its key and table as read back from the device"),
            Self::UntoldRss => f.write_str(
                "RSS by a key or table that the device does not tell, frames are handed over by flow hash",
            ),
            Self::Sender => f.write_str("no RSS, the sender or the device chooses the queue"),
        }
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
        if let Some(vlan) = self.vlan {
            write!(f, "VLAN {vlan}; ")?;
        }
        if self.interrupts {
            f.write_str("RX interrupts; ")?;
        }
        write!(f, "{}; steering: {}", self.in_use, self.steering)
    }
}

/// Opens a device: one port for each worker. The first device that a process
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
    let queues = queue_count(config, &can)?;
    if config.mtu > usize::from(can.mtu_max) {
        let (device, driver) = (port.name().to_owned(), can.driver);
        return Err(DpdkError::MtuOfDevice { device, driver, wanted: config.mtu, max: can.mtu_max.into() });
    }
    let pools = mempools(&eal, config, queues, can.numa_node)?;
    let mut not_given = None;
    let large_pools = if tso::is_wanted(config, &can) {
        // Without memory for it, everything goes on without it.
        let no_memory = |error| not_given = Some(format!("offload tx-tso: {error}"));
        tso::mempools(&eal, config, &can).map_err(no_memory).unwrap_or_default()
    } else {
        Vec::new()
    };
    let started = port.start(&port_config(config, queues, &can, !large_pools.is_empty()), &pools);
    let (rx, tx) = started.map_err(|error| not_started(config, error))?;
    let is_virtual = config.device.bus() == Bus::Virtual;
    // At the other end of a vhost queue there may be nobody: the peer may have fewer.
    let mut divided = Queues::divide(rx, tx, config.workers, is_virtual && !is_memif(config));
    let sleeps: Vec<Sleep> =
        divided.iter_mut().map(|queues| Sleep::new(queues, can_interrupt(config, &can))).collect();
    let interrupts = !sleeps.is_empty() && sleeps.iter().all(Sleep::has_interrupt);
    let mut summary = summarize(config, &port, interrupts);
    summary.in_use.refused.extend(not_given);
    let summary = Arc::new(summary);
    let in_use = &summary.in_use;
    if config.mtu > usize::from(in_use.mtu) {
        let (device, driver) = (port.name().to_owned(), summary.capabilities.driver.clone());
        return Err(DpdkError::MtuOfDevice { device, driver, wanted: config.mtu, max: in_use.mtu.into() });
    }
    // Some devices filter whether told to or not, and let no tagged frame in until they know of its VLAN (virtio).
    if let Some(id) = config.vlan.filter(|_| in_use.offloads.rx_vlan_filter) {
        port.receive_vlan(id)?;
    }
    let trusted = config.checksums == Checksums::Trust;
    let vlan = config.vlan.map(|id| Vlan::new(id, in_use.offloads.tx_vlan_insert));
    let device = Arc::new(Mutex::new(port));
    let mut large_pools = large_pools.into_iter();
    let mut tso = || Tso::new(large_pools.next()?, &summary.capabilities.driver, in_use, config.mtu);
    let tsos: Vec<_> = (0..config.workers).map(|_| tso()).collect();
    let parts = divided.into_iter().zip(sleeps).zip(pools).zip(tsos).enumerate();
    let ports = parts.map(|(worker, (((queues, sleep), pool), tso))| DpdkPort {
        info: PortInfo {
            name: match config.workers {
                1 => format!("dpdk:{}", summary.device),
                _ => format!("dpdk:{}/{worker}", summary.device),
            },
            mac: in_use.mac,
            mtu: config.mtu,
            // What workers can hand to each other; an mbuf has room for tags beside it.
            frame_bytes_max: usize::from(pool.config().data_bytes).min(MTU_MAX + ETHERNET_HEADER_BYTES),
            tso_frame_bytes_max: tso.as_ref().map(Tso::frame_bytes_max),
            tx_checksum_offload: trusted || in_use.offloads.tx_tcp_checksum,
            rx_checksum_trusted: trusted,
            rss: summary.rss.clone(),
        },
        queues,
        sleep,
        vlan,
        is_first: worker == 0,
        tx_tcp_checksum: in_use.offloads.tx_tcp_checksum,
        tso,
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

/// Queue pairs to set up.
fn queue_count(config: &DpdkConfig, can: &Capabilities) -> Result<usize, DpdkError> {
    let most = usize::from(can.rx_queues_max.min(can.tx_queues_max));
    if most == 0 {
        return Err(DpdkError::NoQueues(config.device.to_string()));
    }
    match config.queues {
        None if is_memif(config) => Ok(1),
        None => Ok(config.workers.min(most)),
        Some(wanted) if wanted > most => {
            Err(DpdkError::FewQueues { device: config.device.to_string(), wanted, given: most })
        }
        Some(wanted) => Ok(wanted),
    }
}

/// A memif takes as many queues as it is asked for, and when its peer has fewer, the others alias the first (DPDK 22.11): one
/// queue, unless the operator gave both ends the same number.
fn is_memif(config: &DpdkConfig) -> bool {
    config.device.name().starts_with("net_memif")
}

/// Whether to try RX interrupts. Those of vhost and memif come and go with the other end; that of e1000e is switched on
/// without complaint and never comes (seen with DPDK 22.11).
fn can_interrupt(config: &DpdkConfig, can: &Capabilities) -> bool {
    config.interrupts && !["net_vhost", "net_memif", "net_e1000_em"].contains(&can.driver.as_str())
}

fn validate(config: &DpdkConfig) -> Result<(), DpdkError> {
    if !(MTU_MIN..=MTU_MAX).contains(&config.mtu) {
        return Err(DpdkError::Mtu(config.mtu));
    }
    for (what, given, (min, max)) in [
        ("workers on a device", config.workers, (1, QUEUES_MAX)),
        ("queues of a device", config.queues.unwrap_or(1), (1, QUEUES_MAX)),
        ("the VLAN of a port", config.vlan.unwrap_or(1).into(), VLAN_IDS),
        ("descriptors of a ring", config.descriptors.into(), DESCRIPTORS),
        ("frames of a queue", config.frames as usize, FRAMES),
    ] {
        if !(min..=max).contains(&given) {
            return Err(DpdkError::Number { what, min, max, given });
        }
    }
    // A vhost's other end cuts no segments for it, and asks nobody whether it takes large ones.
    let is_vhost = ["net_vhost", "eth_vhost"].iter().any(|driver| config.device.name().starts_with(driver));
    if is_vhost && config.device.argument("tso").is_some_and(|tso| tso != "0") {
        return Err(DpdkError::LargeReceive(config.device.to_string()));
    }
    match config.queues {
        Some(queues) if queues % config.workers != 0 => {
            Err(DpdkError::UnevenQueues { queues, workers: config.workers })
        }
        _ => Ok(()),
    }
}

/// The device, with buffers that hold whole frames: a memif whose buffers are smaller cuts frames into chains of them,
/// and over those, transfers of several connections stall (seen with DPDK 22.11).
fn whole_frames(config: &DpdkConfig) -> Result<Device, DpdkError> {
    /// The driver's own choice.
    const MEMIF_BUFFER_BYTES: usize = 2048;
    let device = &config.device;
    let bytes = config.mtu + ETHERNET_HEADER_BYTES + SPARE_BYTES;
    if !is_memif(config) || device.argument("bsize").is_some() || bytes <= MEMIF_BUFFER_BYTES {
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

/// One for each worker: they share no memory. On the device's NUMA node.
fn mempools(
    eal: &Eal,
    config: &DpdkConfig,
    queues: usize,
    numa_node: Option<u32>,
) -> Result<Vec<Mempool>, DpdkError> {
    let data_bytes = (config.mtu + ETHERNET_HEADER_BYTES + SPARE_BYTES).max(2048);
    // Over shared memory frames can wait in front of queues, too; there is room for a burst and more in any case.
    let pairs = queues.div_ceil(config.workers) as u32;
    let pool = MempoolConfig {
        mbufs: config.frames + 2 * pairs * u32::from(config.descriptors),
        cache_mbufs: CACHE_MBUFS.min(config.frames / 2),
        data_bytes: data_bytes as u16,
        numa_node,
        packed: config.device.bus() == Bus::Virtual,
    };
    let pools: Result<Vec<_>, _> = (0..config.workers).map(|_| Mempool::new(eal, pool)).collect();
    Ok(pools?)
}

/// What to ask of the port.
fn port_config(config: &DpdkConfig, queues: usize, can: &Capabilities, tso: bool) -> PortConfig {
    let verify = config.checksums == Checksums::Verify;
    let rss = (queues > 1 && !can.rss_functions.is_empty()).then(|| RssConfig {
        functions: RssFunctions::tcp().or(RssFunctions::IPV4).or(RssFunctions::IPV6).and(can.rss_functions),
        key: (can.rss_key_bytes > 0).then(|| ::dpdk::symmetric_key(can.rss_key_bytes)),
    });
    let offloads = Offloads {
        rx_ipv4_checksum: verify,
        rx_tcp_checksum: verify && !(config.whole_checksums && can.driver.starts_with("net_virtio")),
        tx_tcp_checksum: verify,
        tx_tso: tso,
        // Of the frames that the device cuts.
        tx_ipv4_checksum: tso,
        rx_rss_hash: rss.is_some(),
        rx_vlan_strip: config.vlan.is_some(),
        rx_vlan_filter: config.vlan.is_some(),
        tx_vlan_insert: config.vlan.is_some(),
        ..Offloads::default()
    };
    PortConfig {
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
        rx_interrupts: can_interrupt(config, can),
    }
}

/// How the device chooses queues, as it tells it after it was started. `None` when it does not say.
fn read_rss(port: &::dpdk::Port, in_use: &InUse, workers: usize) -> Option<Rss> {
    // With fewer queues than workers it cannot choose for all of them.
    if in_use.rss_functions.is_empty() || usize::from(in_use.rx_queues) < workers {
        return None;
    }
    // Every queue as often as the others: not all drivers start out so. What is in use then is read back.
    let queues: Vec<u16> = (0..in_use.rx_queues).collect();
    let _ = port.set_reta(&queues);
    let table = port.reta().ok()?;
    let told = port.rss().ok()?;
    // Some drivers tell the key alone.
    let functions = if told.functions.is_empty() { in_use.rss_functions } else { told.functions };
    let hashed = |ports, addresses| match functions {
        _ if !functions.and(ports).is_empty() => Hashed::AddressesAndPorts,
        _ if !functions.and(addresses).is_empty() => Hashed::Addresses,
        _ => Hashed::Nothing,
    };
    Rss::new(
        told.key?,
        table,
        hashed(RssFunctions::IPV4_TCP, RssFunctions::IPV4),
        hashed(RssFunctions::IPV6_TCP, RssFunctions::IPV6),
    )
}

fn summarize(config: &DpdkConfig, port: &::dpdk::Port, interrupts: bool) -> Summary {
    // A virtual device's link waits for its other end; a NIC's for the cable's.
    let link = match config.device.bus() {
        Bus::Virtual => port.link(),
        Bus::Pci | Bus::Other => port.wait_link(LINK_TIME),
    };
    let in_use = port.in_use().expect("the port is started").clone();
    let rss = read_rss(port, &in_use, config.workers).map(Arc::new);
    let steering = match (usize::from(in_use.rx_queues), &rss) {
        (1, _) if config.workers == 1 => Steering::Single,
        (queues, _) if queues < config.workers => Steering::Shared { queues, workers: config.workers },
        (_, Some(_)) => Steering::Rss,
        (_, None) if in_use.rss_functions.is_empty() => Steering::Sender,
        (_, None) => Steering::UntoldRss,
    };
    Summary {
        device: port.name().to_owned(),
        version: Eal::version(),
        workers: config.workers,
        capabilities: port.capabilities().clone(),
        in_use,
        rss,
        steering,
        vlan: config.vlan,
        interrupts,
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
