//! What the machine is to be good for: it decides what is a failure and what a warning.

use super::machine::Machine;
use super::nic;
use crate::config::PortSpec;

/// What is needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Purpose {
    /// A TAP device.
    pub(super) tap: bool,
    /// A device of DPDK, whichever.
    pub(super) dpdk: bool,
    /// A NIC that DPDK has for itself.
    pub(super) nic: bool,
    /// Which one, as PCI address; `None`: any.
    pub(super) address: Option<String>,
}

impl Purpose {
    /// Serving on `port`; without it, on what the machine looks set up for: a NIC that is ready for DPDK, else TAP.
    pub(super) fn of(port: Option<&PortSpec>, machine: &Machine) -> Purpose {
        match port {
            #[cfg(feature = "dpdk")]
            Some(PortSpec::Dpdk { device }) => Purpose::of_device(device),
            Some(PortSpec::Tap { .. }) => Purpose { tap: true, ..Purpose::default() },
            Some(PortSpec::Wire) => Purpose::default(),
            None if nic::any_ready(machine) => Purpose { dpdk: true, nic: true, ..Purpose::default() },
            None => Purpose { tap: true, ..Purpose::default() },
        }
    }

    #[cfg(feature = "dpdk")]
    fn of_device(device: &::dpdk::Device) -> Purpose {
        let address = (device.bus() == ::dpdk::Bus::Pci).then(|| device.name().to_owned());
        Purpose { dpdk: true, nic: address.is_some(), address, tap: false }
    }

    /// The NUMA node of the NIC, when it is on one.
    pub(super) fn node(&self, machine: &Machine) -> Option<u32> {
        let address = self.address.clone().or_else(|| nic::first_ready(machine))?;
        machine.read(&format!("sys/bus/pci/devices/{address}/numa_node"))?.parse().ok()
    }
}

/// What this program was built with.
#[derive(Clone, Debug, Default)]
pub(super) struct Build {
    /// DPDK's version, e.g. `DPDK 22.11.11`; `None` without DPDK.
    pub(super) dpdk: Option<String>,
}

impl Build {
    /// Of this program.
    pub(super) fn this() -> Build {
        #[cfg(feature = "dpdk")]
        let dpdk = Some(::dpdk::Eal::version());
        #[cfg(not(feature = "dpdk"))]
        let dpdk = None;
        Build { dpdk }
    }
}
