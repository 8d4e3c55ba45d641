//! The checks, in the order in which they are printed, and those of TAP devices.

use super::machine::{CAP_NET_ADMIN, CAP_SYS_ADMIN, Machine};
use super::purpose::{Build, Purpose};
use super::{Check, Status, cpu, dpdk, memory, nic};

/// Every check.
pub(super) fn all(machine: &Machine, purpose: &Purpose, build: &Build) -> Vec<Check> {
    let mut checks = vec![
        tap_device(machine, purpose),
        net_admin(machine, purpose),
        network_namespaces(machine),
        cpu::cores(machine),
        cpu::isolation(machine),
        cpu::full_ticks(machine),
        cpu::irqbalance(machine),
        cpu::features(machine),
        cpu::governor(machine),
        cpu::idle_states(machine),
        cpu::clock_source(machine),
        dpdk::version(purpose, build),
        dpdk::drivers(machine, purpose, build),
    ];
    checks.extend(memory::hugepages(machine, purpose));
    checks.push(memory::memlock(machine, purpose));
    checks.push(nic::iommu(machine, purpose));
    checks.push(nic::vfio(machine, purpose));
    checks.extend(nic::nics(machine, purpose));
    checks
}

fn check(name: &'static str, status: Status, found: impl Into<String>, advice: &str) -> Check {
    Check { name, status, found: found.into(), advice: advice.to_owned() }
}

pub(super) fn pass(name: &'static str, found: impl Into<String>) -> Check {
    check(name, Status::Pass, found, "")
}

pub(super) fn warn(name: &'static str, found: impl Into<String>, advice: &str) -> Check {
    check(name, Status::Warn, found, advice)
}

/// Something is missing: a failure where it is needed, else a warning.
pub(super) fn lacks(needed: bool, name: &'static str, found: impl Into<String>, advice: &str) -> Check {
    check(name, if needed { Status::Fail } else { Status::Warn }, found, advice)
}

fn tap_device(machine: &Machine, purpose: &Purpose) -> Check {
    let name = "tap-device";
    match machine.open_read_write("dev/net/tun") {
        Ok(()) => pass(name, "/dev/net/tun opens"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => lacks(
            purpose.tap,
            name,
            "/dev/net/tun does not exist",
            "load the driver: `modprobe tun`; in a container start it with `--device /dev/net/tun`",
        ),
        Err(error) => lacks(
            purpose.tap,
            name,
            format!("/dev/net/tun cannot be opened: {error}"),
            "run as root, or let your user: `chmod 0666 /dev/net/tun`",
        ),
    }
}

fn net_admin(machine: &Machine, purpose: &Purpose) -> Check {
    let name = "tap-permission";
    if machine.has_capability(CAP_NET_ADMIN) {
        return pass(name, "CAP_NET_ADMIN is effective: TAP devices can be made");
    }
    lacks(
        purpose.tap,
        name,
        "CAP_NET_ADMIN is not effective: no TAP device can be made",
        "run as root; or once `setcap cap_net_admin+ep unsocket`; in a container `--cap-add NET_ADMIN`; or have a \
         device made for you: `ip tuntap add dev uns0 mode tap user NAME multi_queue`. `unsocket bench` needs none of it",
    )
}

fn network_namespaces(machine: &Machine) -> Check {
    let name = "network-namespaces";
    if !machine.exists("proc/self/ns/net") {
        return warn(name, "this kernel has none", "use a kernel with CONFIG_NET_NS; only --netns needs it");
    }
    if machine.has_capability(CAP_SYS_ADMIN) {
        return pass(name, "CAP_SYS_ADMIN is effective: --netns works");
    }
    warn(
        name,
        "CAP_SYS_ADMIN is not effective: --netns does not work",
        "run as root, or leave the kernel's end of the TAP device in your own namespace",
    )
}
