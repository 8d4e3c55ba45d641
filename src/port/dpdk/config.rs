//! How a DPDK device is opened.

use super::DpdkError;
use ::dpdk::Device;
use std::str::FromStr;

/// What DPDK's memory is made of. The first device that is opened decides for the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Hugepages, taken as they are needed.
    HugePages,
    /// Ordinary pages, taken at the start: for machines without hugepages. Slower.
    Ordinary {
        /// MiB.
        mib: u32,
    },
}

/// Who sees to checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksums {
    /// They are filled in and verified, by the device as far as it can.
    Verify,
    /// Nobody does, at either end: for shared memory, which does not corrupt frames.
    Trust,
}

/// How a DPDK device is opened. `"dpdk:0000:03:00.0".parse()` gives one with defaults.
#[derive(Clone, Debug)]
pub struct DpdkConfig {
    /// The device.
    pub device: Device,
    /// Workers, each with a port of its own: 1..=1024.
    pub workers: usize,
    /// Queue pairs: a multiple of `workers`, 1..=1024, and the device must have them. `None` for one for each worker, or as
    /// many as the device has: where those are fewer, the first workers receive and send for all. On a memif `None` is one,
    /// and a number must be the same at both ends.
    pub queues: Option<usize>,
    /// Largest IP packet in bytes: 576..=9000.
    pub mtu: usize,
    /// Descriptors of each ring: 32..=32768; the device rounds them.
    pub descriptors: u16,
    /// Frames of each queue beside those in its rings: 256..=1048576.
    pub frames: u32,
    /// The port's MAC address; `None` for the device's own.
    pub mac: Option<[u8; 6]>,
    /// Who sees to checksums.
    pub checksums: Checksums,
    /// Received frames must have their checksums, as somebody else gets some of them: the kernel, by the exception path. A
    /// virtio NIC that is asked to see to checksums lets its peer leave them out.
    pub whole_checksums: bool,
    /// Have the device cut large TCP segments over IPv4, where it can and fills in checksums.
    pub tso: bool,
    /// The VLAN that the port belongs to, 1..=4094: frames are tagged with it, and others are dropped. `None` for untagged
    /// frames.
    pub vlan: Option<u16>,
    /// Ask for RX interrupts, so that an idle worker can sleep until frames come.
    pub interrupts: bool,
    /// What memory is made of.
    pub memory: Memory,
    /// Few large memory files: virtio-user and zero-copy memif need it.
    pub single_file_segments: bool,
    /// CPUs for DPDK's own service threads; `None` for those that the calling thread may use.
    pub service_cpus: Option<Vec<usize>>,
    /// More arguments for DPDK's EAL, as they stand.
    pub eal_arguments: Vec<String>,
}

impl DpdkConfig {
    /// One worker with one queue pair of `device`, with an Ethernet MTU, on hugepages.
    pub fn new(device: Device) -> Self {
        DpdkConfig {
            device,
            workers: 1,
            queues: None,
            mtu: 1500,
            descriptors: 1024,
            frames: 2048,
            mac: None,
            checksums: Checksums::Verify,
            whole_checksums: false,
            tso: true,
            vlan: None,
            interrupts: false,
            memory: Memory::HugePages,
            single_file_segments: false,
            service_cpus: None,
            eal_arguments: Vec::new(),
        }
    }
}

impl FromStr for DpdkConfig {
    type Err = DpdkError;

    /// Reads `dpdk:DEVARGS`, where DEVARGS are DPDK's: `0000:03:00.0`, `net_memif0,role=server,socket=/tmp/m.sock`.
    fn from_str(spec: &str) -> Result<Self, DpdkError> {
        let devargs = spec.strip_prefix("dpdk:").ok_or_else(|| DpdkError::Spec(spec.to_owned()))?;
        Ok(DpdkConfig::new(devargs.parse()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::dpdk::Bus;

    #[test]
    fn specs_name_pci_and_virtual_devices() {
        let config: DpdkConfig = "dpdk:0000:03:00.0".parse().unwrap();
        assert_eq!((config.device.bus(), config.device.name()), (Bus::Pci, "0000:03:00.0"));
        let config: DpdkConfig = "dpdk:net_memif0,role=server,socket=/tmp/m.sock".parse().unwrap();
        assert_eq!((config.device.bus(), config.device.name()), (Bus::Virtual, "net_memif0"));
        assert_eq!(config.device.argument("role"), Some("server"));
    }

    #[test]
    fn wrong_specs_say_what_is_expected() {
        for (spec, expected) in [
            ("net_memif0", "`dpdk:DEVARGS`"),
            ("dpdk", "`dpdk:DEVARGS`"),
            ("dpdk:", "0000:03:00.0"),
            ("dpdk:0000:03:00", "not a PCI address"),
            ("dpdk:net memif", "one word"),
        ] {
            let error = spec.parse::<DpdkConfig>().unwrap_err().to_string();
            assert!(error.contains(expected), "{spec}: {error}");
        }
    }
}
