//! Whether workers run on the NUMA node that their NIC is attached to: frames cross between nodes otherwise.

use crate::port::dpdk::Summary;
use std::fs;
use std::path::Path;

/// What is wrong with the cores of a device's workers, for the operator, and what to do about it; `None` when all is well,
/// or the host has one node, or the device has none.
pub(super) fn advice_for(device: &Summary, cores: &[usize]) -> Option<String> {
    advice(Path::new("/sys"), cores, device.workers, device.capabilities.numa_node)
}

fn advice(sys: &Path, cores: &[usize], workers: usize, device_node: Option<u32>) -> Option<String> {
    let device_node = device_node?;
    let nodes = sys.join("devices/system/node");
    let local = fs::read_to_string(nodes.join(format!("node{device_node}/cpulist"))).ok()?;
    let local = local.trim();
    if !nodes.join("node1").exists() {
        return None;
    }
    let pin = format!("pin the workers there: --cores with {workers} of {local}");
    if cores.len() < workers {
        return Some(format!(
            "the device is on NUMA node {device_node}, and not all workers are pinned to it; {pin}"
        ));
    }
    let away: Vec<String> =
        cores.iter().filter(|core| !contains(local, **core)).map(ToString::to_string).collect();
    (!away.is_empty()).then(|| {
        let away = away.join(", ");
        format!("the device is on NUMA node {device_node}, and of the workers' cores {away} are not; {pin}")
    })
}

/// Whether a list of CPUs in the kernel's form, `0-3,8,10-11`, has this one.
fn contains(list: &str, core: usize) -> bool {
    list.split(',').any(|range| {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        matches!((from.parse::<usize>(), to.parse::<usize>()), (Ok(from), Ok(to)) if (from..=to).contains(&core))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A host of nodes with these CPUs.
    struct Host(PathBuf);

    impl Host {
        fn new(name: &str, cpus: &[&str]) -> Self {
            let root = std::env::temp_dir().join(format!("unsocket-numa-{}-{name}", std::process::id()));
            for (node, cpus) in cpus.iter().enumerate() {
                let folder = root.join(format!("devices/system/node/node{node}"));
                fs::create_dir_all(&folder).unwrap();
                fs::write(folder.join("cpulist"), format!("{cpus}\n")).unwrap();
            }
            Host(root)
        }
    }

    impl Drop for Host {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn cores_of_another_node_are_named() {
        let host = Host::new("two", &["0-3,8-11", "4-7,12-15"]);
        let advice = |cores: &[usize], node| advice(&host.0, cores, 2, node);
        assert_eq!(advice(&[4, 13], Some(1)), None);
        assert_eq!(advice(&[4, 3], None), None, "memory has no node");
        let text = advice(&[4, 3], Some(1)).unwrap();
        assert!(text.contains("cores 3 are not") && text.contains("--cores with 2 of 4-7,12-15"), "{text}");
        assert!(advice(&[4], Some(1)).unwrap().contains("not all workers are pinned"));
    }

    #[test]
    fn with_one_node_there_is_nothing_to_say() {
        let host = Host::new("one", &["0-3"]);
        assert_eq!(advice(&host.0, &[], 2, Some(0)), None);
        assert_eq!(advice(Path::new("/nonexistent"), &[], 2, Some(0)), None);
    }
}
