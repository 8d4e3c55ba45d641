//! NICs: who has them, and whether DPDK could.

use super::Check;
use super::checks::{lacks, pass, warn};
use super::machine::Machine;
use super::purpose::Purpose;

const DEVICES: &str = "sys/bus/pci/devices";
/// Drivers whose NICs DPDK shares with the kernel.
const BIFURCATED: [&str; 3] = ["mlx5_core", "mlx4_core", "mana"];
/// Drivers that hand a device to user space.
const USER_SPACE: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];

/// One NIC as sysfs shows it.
#[derive(Debug)]
struct Nic {
    address: String,
    /// Vendor and device, e.g. `8086:1572`.
    id: String,
    driver: Option<String>,
    interface: Option<String>,
    link: String,
    node: Option<u32>,
    group: Option<String>,
}

impl Nic {
    fn at(machine: &Machine, address: &str) -> Option<Nic> {
        let folder = format!("{DEVICES}/{address}");
        let read = |file: &str| machine.read(&format!("{folder}/{file}"));
        read("class")?.starts_with("0x02").then_some(())?;
        let hex = |file| read(file).map_or_else(|| "?".into(), |id| id.trim_start_matches("0x").to_owned());
        let interface = interface(machine, &folder);
        Some(Nic {
            address: address.to_owned(),
            id: format!("{}:{}", hex("vendor"), hex("device")),
            driver: machine.link_name(&format!("{folder}/driver")),
            link: interface.as_ref().map_or_else(String::new, |name| link(machine, name)),
            interface,
            node: read("numa_node").and_then(|node| node.parse().ok()),
            group: machine.link_name(&format!("{folder}/iommu_group")),
        })
    }

    fn has_driver_of(&self, drivers: &[&str]) -> bool {
        self.driver.as_deref().is_some_and(|driver| drivers.contains(&driver))
    }

    fn is_ready(&self) -> bool {
        self.has_driver_of(&USER_SPACE) || self.has_driver_of(&BIFURCATED)
    }
}

impl std::fmt::Display for Nic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}), {}", self.address, self.id, self.driver.as_deref().unwrap_or("no driver"))?;
        if let Some(interface) = &self.interface {
            write!(f, ", {interface} {}", self.link)?;
        }
        match self.node {
            Some(node) => write!(f, ", NUMA node {node}"),
            None => Ok(()),
        }
    }
}

/// The interface of a PCI device; that of a virtio device is one level further down.
fn interface(machine: &Machine, folder: &str) -> Option<String> {
    let below = machine.list(folder).into_iter().filter(|name| name.starts_with("virtio"));
    let folders = std::iter::once(folder.to_owned()).chain(below.map(|name| format!("{folder}/{name}")));
    folders.flat_map(|folder| machine.list(&format!("{folder}/net"))).next()
}

fn link(machine: &Machine, interface: &str) -> String {
    let read = |file: &str| machine.read(&format!("sys/class/net/{interface}/{file}"));
    let state = read("operstate").unwrap_or_else(|| "unknown".into());
    match read("speed").and_then(|speed| speed.parse::<i64>().ok()) {
        Some(speed @ 1..) if state == "up" => format!("up at {speed} Mbit/s"),
        _ => state,
    }
}

fn all(machine: &Machine) -> Vec<Nic> {
    machine.list(DEVICES).iter().filter_map(|address| Nic::at(machine, address)).collect()
}

/// The first NIC that DPDK could have.
pub(super) fn first_ready(machine: &Machine) -> Option<String> {
    all(machine).into_iter().find(Nic::is_ready).map(|nic| nic.address)
}

/// Whether the machine has a NIC that was handed to user space. Those that DPDK shares with the kernel say nothing
/// of what the machine is for.
pub(super) fn any_ready(machine: &Machine) -> bool {
    all(machine).iter().any(|nic| nic.has_driver_of(&USER_SPACE))
}

pub(super) fn iommu(machine: &Machine, purpose: &Purpose) -> Check {
    let name = "iommu";
    let groups = machine.list("sys/kernel/iommu_groups").len();
    if groups > 0 {
        return pass(name, format!("on, {groups} groups"));
    }
    if machine.read("sys/module/vfio/parameters/enable_unsafe_noiommu_mode").as_deref() == Some("Y") {
        return warn(
            name,
            "off, and vfio goes without it: the NIC, and whoever rules it, can write to all memory",
            "switch an IOMMU on where the machine has one",
        );
    }
    let shared = selected(machine, purpose).is_some_and(|nic| nic.has_driver_of(&BIFURCATED));
    lacks(
        purpose.nic && !shared,
        name,
        "off: vfio-pci cannot have a NIC",
        "switch on VT-d (Intel) or AMD-Vi in the firmware, and boot with `intel_iommu=on iommu=pt` (Intel) or `iommu=pt` \
         (AMD); a NIC through DPDK needs it, TAP does without",
    )
}

pub(super) fn vfio(machine: &Machine, purpose: &Purpose) -> Check {
    let name = "vfio";
    let missing: Vec<_> =
        [("vfio-pci", "sys/bus/pci/drivers/vfio-pci"), ("vfio_iommu_type1", "sys/module/vfio_iommu_type1")]
            .into_iter()
            .filter(|(_, path)| !machine.exists(path))
            .map(|(module, _)| module)
            .collect();
    if missing.is_empty() {
        return pass(name, "vfio-pci is loaded");
    }
    let shared = selected(machine, purpose).is_some_and(|nic| nic.has_driver_of(&BIFURCATED));
    lacks(
        purpose.nic && !shared,
        name,
        format!("not loaded: {}", missing.join(", ")),
        "`modprobe -a vfio-pci vfio_iommu_type1`, at boot by a line for each in /etc/modules-load.d/vfio.conf; a NIC through DPDK needs it, TAP does without",
    )
}

/// The NIC of the purpose: the one that is named, or the first that is ready.
fn selected(machine: &Machine, purpose: &Purpose) -> Option<Nic> {
    Nic::at(machine, &purpose.address.clone().or_else(|| first_ready(machine))?)
}

/// One check for each NIC, and one that says so when the one that is needed is not there.
pub(super) fn nics(machine: &Machine, purpose: &Purpose) -> Vec<Check> {
    let name = "nic";
    let nics = all(machine);
    let mut checks: Vec<Check> = nics.iter().map(|nic| of_nic(machine, purpose, nic)).collect();
    if let Some(address) = &purpose.address
        && !nics.iter().any(|nic| &nic.address == address)
    {
        let found = format!("there is no NIC {address}");
        checks.push(lacks(true, name, found, "`scripts/nic status` lists those that are there"));
    } else if nics.is_empty() {
        checks.push(lacks(
            purpose.nic,
            name,
            "there is no NIC on the PCI bus",
            "DPDK can have a NIC of its own only on a machine that has one; TAP does without",
        ));
    }
    checks
}

fn of_nic(machine: &Machine, purpose: &Purpose, nic: &Nic) -> Check {
    let name = "nic";
    let wanted = purpose.address.as_ref() == Some(&nic.address);
    let bind = format!("`scripts/nic bind {}`", nic.address);
    if nic.has_driver_of(&BIFURCATED) {
        return match nic.link.as_str() {
            "down" => {
                warn(name, nic.to_string(), "bring it up: `ip link set DEVICE up`, and look at the cable")
            }
            _ => pass(name, format!("{nic}: ready, DPDK shares it with the kernel")),
        };
    }
    match nic.driver.as_deref() {
        None => lacks(wanted, name, nic.to_string(), &format!("{bind}, then --port dpdk:{}", nic.address)),
        Some(driver) if USER_SPACE.contains(&driver) => of_user_space(machine, purpose, nic),
        Some(driver) if wanted => {
            lacks(true, name, format!("{nic}: the kernel's driver {driver} has it"), &bind)
        }
        Some(_) => pass(name, format!("{nic}: the kernel's")),
    }
}

/// A NIC that was handed to user space: may we have it, is its group free of others, is there memory near it?
fn of_user_space(machine: &Machine, purpose: &Purpose, nic: &Nic) -> Check {
    let name = "nic";
    let needed = purpose.nic && purpose.address.as_ref().is_none_or(|address| address == &nic.address);
    if let Some(group) = &nic.group {
        let strangers = strangers(machine, nic);
        if !strangers.is_empty() {
            let found = format!("{nic}: the kernel uses {} of the same IOMMU group", strangers.join(" "));
            return lacks(needed, name, found, "bind these, too, or put the NIC into another slot");
        }
        for file in ["dev/vfio/vfio".to_owned(), format!("dev/vfio/{group}")] {
            if !machine.may_read_and_write(&file) {
                let found = format!("{nic}: no permission for /{file}");
                let advice = format!(
                    "`chgrp vfio /{file} && chmod 660 /{file}` with this user in the group vfio; for good by \
                     dist/70-unsocket-vfio.rules"
                );
                return lacks(needed, name, found, &advice);
            }
        }
    }
    if let Some(node) = nic.node
        && machine.list("sys/devices/system/node").iter().filter(|name| name.starts_with("node")).count() > 1
    {
        let near = machine.read(&format!("sys/devices/system/node/node{node}/cpulist")).unwrap_or_default();
        return pass(name, format!("{nic}: ready; cores {near} are near it: use these for --cores"));
    }
    pass(name, format!("{nic}: ready"))
}

/// Devices of the NIC's IOMMU group that the kernel uses; bridges may be there.
fn strangers(machine: &Machine, nic: &Nic) -> Vec<String> {
    let group = format!("{DEVICES}/{}/iommu_group/devices", nic.address);
    let is_strange = |address: &String| {
        let folder = format!("{DEVICES}/{address}");
        let bridge = machine.read(&format!("{folder}/class")).is_some_and(|class| class.starts_with("0x06"));
        let driver = machine.link_name(&format!("{folder}/driver"));
        address != &nic.address
            && !bridge
            && driver.is_some_and(|driver| !USER_SPACE.contains(&driver.as_str()) && driver != "pci-stub")
    };
    machine.list(&group).into_iter().filter(is_strange).collect()
}
