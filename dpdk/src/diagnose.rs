//! Why a start failed: what the host's /sys and /dev say, in the order in which they bite.

use crate::error::{Error, LogLines};
use std::fs;
use std::path::{Path, PathBuf};

/// Free and reserved hugepages of all sizes and nodes.
pub(crate) fn hugepages(sys: &Path) -> (u64, u64) {
    let mut pages = (0, 0);
    for size in fs::read_dir(sys.join("kernel/mm/hugepages")).into_iter().flatten().flatten() {
        pages.0 += number(&size.path().join("free_hugepages"));
        pages.1 += number(&size.path().join("nr_hugepages"));
    }
    pages
}

fn number(file: &Path) -> u64 {
    fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Drivers that hand a PCI device to user space, and those of NICs that DPDK shares with their kernel driver.
const USER_SPACE: &[&str] = &["vfio-pci", "uio_pci_generic", "igb_uio"];
const BIFURCATED: &[&str] = &["mlx5_core", "mlx4_core", "mana"];

/// Why no port came up for a PCI device that EAL was allowed to probe. `may_open` says whether this process
/// may open a file for reading and writing.
pub(crate) fn pci(
    sys: &Path,
    dev: &Path,
    address: &str,
    may_open: impl Fn(&Path) -> bool,
    log: LogLines,
) -> Error {
    let device = address.to_owned();
    let folder = sys.join("bus/pci/devices").join(address);
    if !folder.exists() {
        return Error::NoSuchDevice { device };
    }
    let Some(driver) = link_name(&folder.join("driver")) else {
        return Error::NoDriver { device };
    };
    if BIFURCATED.contains(&driver.as_str()) {
        let verbs = dev.join("infiniband");
        return if verbs.exists() && !readable_below(&verbs, &may_open) {
            Error::NoPermission {
                path: verbs.display().to_string(),
                fix: "give this user access to its uverbs devices".into(),
            }
        } else {
            Error::NoPmd { device, log }
        };
    }
    if !USER_SPACE.contains(&driver.as_str()) {
        return Error::KernelDriver { device, driver };
    }
    if driver != "vfio-pci" {
        return Error::NoPmd { device, log };
    }
    let Some(group) = link_name(&folder.join("iommu_group")) else {
        return Error::IommuOff { device };
    };
    for file in [dev.join("vfio/vfio"), dev.join("vfio").join(group)] {
        if file.exists() && !may_open(&file) {
            let fix = format!(
                "give it to a group that this user is in (`sudo chgrp vfio {0} && sudo chmod 660 {0}`), and raise the memlock limit \
                 (`ulimit -l unlimited`)",
                file.display()
            );
            return Error::NoPermission { path: file.display().to_string(), fix };
        }
    }
    Error::NoPmd { device, log }
}

fn link_name(link: &Path) -> Option<String> {
    let target: PathBuf = fs::read_link(link).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

fn readable_below(folder: &Path, may_open: impl Fn(&Path) -> bool) -> bool {
    fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| may_open(&entry.path()))
}

/// Whether this process may open `file` for reading and writing. Does not open it: VFIO groups open only once.
pub(crate) fn may_open(file: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let Ok(path) = std::ffi::CString::new(file.as_os_str().as_bytes()) else { return false };
    // SAFETY: the path is a NUL-terminated string that outlives the call.
    unsafe { libc::access(path.as_ptr(), libc::R_OK | libc::W_OK) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const NIC: &str = "0000:03:00.0";

    /// A /sys and /dev with one NIC in them.
    struct Host(PathBuf);

    impl Host {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("unsocket-dpdk-{}-{name}", std::process::id()));
            fs::create_dir_all(root.join("sys/bus/pci/devices").join(NIC)).unwrap();
            fs::create_dir_all(root.join("dev/vfio")).unwrap();
            Self(root)
        }

        fn link(self, name: &str, target: &str) -> Self {
            symlink(target, self.0.join("sys/bus/pci/devices").join(NIC).join(name)).unwrap();
            self
        }

        fn diagnose(&self, may_open: bool) -> Error {
            pci(&self.0.join("sys"), &self.0.join("dev"), NIC, |_| may_open, LogLines::default())
        }
    }

    impl Drop for Host {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_device_that_is_not_there() {
        let host = Host::new("absent");
        let error = pci(&host.0.join("sys"), &host.0, "0000:04:00.0", |_| true, LogLines::default());
        assert!(matches!(&error, Error::NoSuchDevice { device } if device == "0000:04:00.0"));
        assert!(error.to_string().contains("scripts/nic status"), "{error}");
    }

    #[test]
    fn a_device_without_driver_or_with_its_kernel_driver() {
        let error = Host::new("bare").diagnose(true);
        assert!(matches!(error, Error::NoDriver { .. }));
        assert!(error.to_string().contains("sudo scripts/nic bind 0000:03:00.0"), "{error}");
        let error = Host::new("kernel").link("driver", "../../drivers/ixgbe").diagnose(true);
        assert!(matches!(&error, Error::KernelDriver { driver, .. } if driver == "ixgbe"));
        assert!(error.to_string().contains("sudo scripts/nic bind 0000:03:00.0"), "{error}");
    }

    #[test]
    fn vfio_without_iommu_or_permission() {
        let host = Host::new("vfio").link("driver", "../../drivers/vfio-pci");
        assert!(matches!(host.diagnose(true), Error::IommuOff { .. }));
        let host = host.link("iommu_group", "../../kernel/iommu_groups/12");
        let group = host.0.join("dev/vfio/12");
        fs::write(&group, "").unwrap();
        let error = host.diagnose(false);
        assert!(matches!(&error, Error::NoPermission { path, .. } if Path::new(path) == group), "{error}");
        assert!(matches!(host.diagnose(true), Error::NoPmd { .. }));
    }

    #[test]
    fn a_bifurcated_driver_needs_no_binding() {
        let host = Host::new("mlx").link("driver", "../../drivers/mlx5_core");
        assert!(matches!(host.diagnose(true), Error::NoPmd { .. }));
        fs::create_dir_all(host.0.join("dev/infiniband")).unwrap();
        fs::write(host.0.join("dev/infiniband/uverbs0"), "").unwrap();
        assert!(matches!(host.diagnose(false), Error::NoPermission { .. }));
    }

    #[test]
    fn hugepages_of_all_sizes_count() {
        let host = Host::new("huge");
        for (size, free, total) in
            [("hugepages-2048kB", "3\n", "512\n"), ("hugepages-1048576kB", "1\n", "2\n")]
        {
            let folder = host.0.join("sys/kernel/mm/hugepages").join(size);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("free_hugepages"), free).unwrap();
            fs::write(folder.join("nr_hugepages"), total).unwrap();
        }
        assert_eq!(hugepages(&host.0.join("sys")), (4, 514));
        assert_eq!(hugepages(&host.0.join("nowhere")), (0, 0));
    }
}
