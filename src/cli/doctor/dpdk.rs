//! DPDK itself: whether this program has it, and its drivers.

use super::Check;
use super::checks::{lacks, pass, warn};
use super::machine::Machine;
use super::purpose::{Build, Purpose};

/// The oldest release that the binding is written for: year and month.
const OLDEST: (u32, u32) = (22, 11);

pub(super) fn version(purpose: &Purpose, build: &Build) -> Check {
    let name = "dpdk-version";
    let Some(version) = &build.dpdk else {
        return lacks(
            purpose.dpdk,
            name,
            "this program was built without DPDK: TAP devices alone",
            "`scripts/setup --for dpdk`, then `cargo build --release --features dpdk`",
        );
    };
    match release(version) {
        Some(release) if release >= OLDEST => pass(name, version.as_str()),
        _ => warn(name, version.as_str(), "use DPDK 22.11 or later: nothing older is tested"),
    }
}

/// Drivers are plug-ins that EAL loads from a folder named after its ABI: 22.11 has `pmds-23.0`, 23.11 `pmds-24.0`.
pub(super) fn drivers(machine: &Machine, purpose: &Purpose, build: &Build) -> Check {
    let name = "dpdk-drivers";
    let Some((year, _)) = build.dpdk.as_deref().and_then(release) else {
        return lacks(purpose.dpdk, name, "not looked for: no DPDK in this program", "see dpdk-version");
    };
    let abi = format!("pmds-{}.0", year + 1);
    let mut libraries = vec!["usr/lib".to_owned(), "usr/lib64".to_owned(), "usr/local/lib".to_owned()];
    for parent in ["usr/lib", "usr/local/lib"] {
        libraries.extend(
            machine
                .list(parent)
                .into_iter()
                .filter(|name| name.contains("-linux-gnu"))
                .map(|name| format!("{parent}/{name}")),
        );
    }
    let folders = libraries.into_iter().map(|library| format!("{library}/dpdk/{abi}"));
    let found = folders.map(|folder| {
        let is_nic = |file: &String| file.starts_with("librte_net_") && file.ends_with(".so");
        (machine.list(&folder).iter().filter(|file| is_nic(file)).count(), folder)
    });
    match found.max() {
        Some((count @ 1.., folder)) => pass(name, format!("/{folder}: {count} of network devices")),
        _ => lacks(
            purpose.dpdk,
            name,
            format!("no folder {abi} with drivers of network devices"),
            "`apt-get install libdpdk-dev`, which brings all drivers; where DPDK is installed by hand, `-- -d FOLDER` after the options of serve",
        ),
    }
}

/// Year and month of `DPDK 22.11.11`.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split_whitespace().last()?.split(['.', '-']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}
