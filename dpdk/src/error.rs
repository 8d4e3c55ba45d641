//! Errors by cause, each with the way out.

use crate::sys;
use std::ffi::CStr;
use std::fmt;

/// What can go wrong in setting up DPDK. The data path has no errors: a burst returns how many it took.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// EAL starts once per process, and not again after its cleanup.
    #[error(
        "DPDK's EAL was started before in this process: it starts once, so keep and share the first `Eal`"
    )]
    AlreadyInitialised,

    /// There is no free hugepage.
    #[error(
        "no hugepages: {free} of {total} are free; reserve some (`sudo scripts/hugepages 256` for 512 MiB), \
         or ask for ordinary memory (`--no-huge`, slower)"
    )]
    NoHugepages {
        /// Free hugepages of all sizes.
        free: u64,
        /// Reserved hugepages of all sizes.
        total: u64,
    },

    /// A file that DPDK must open may not be opened.
    #[error("no permission for {path}: {fix}")]
    NoPermission {
        /// The file or capability.
        path: String,
        /// What gives the permission.
        fix: String,
    },

    /// The PCI device still belongs to a kernel driver.
    #[error(
        "{device} is bound to the kernel driver `{driver}`: bind it to vfio-pci (`sudo scripts/nic bind {device}`), which \
         takes its interface from the kernel"
    )]
    KernelDriver {
        /// PCI address.
        device: String,
        /// The kernel driver's name.
        driver: String,
    },

    /// The PCI device belongs to no driver at all.
    #[error("{device} is bound to no driver: bind it to vfio-pci (`sudo scripts/nic bind {device}`)")]
    NoDriver {
        /// PCI address.
        device: String,
    },

    /// vfio-pci needs an IOMMU and the device is in no IOMMU group.
    #[error(
        "the IOMMU is off, so vfio-pci cannot protect memory from {device}: switch VT-d or AMD-Vi on in the firmware and boot \
         with `intel_iommu=on iommu=pt` (Intel) or `iommu=pt` (AMD); `unsocket doctor` shows whether it is on"
    )]
    IommuOff {
        /// PCI address.
        device: String,
    },

    /// No such PCI device.
    #[error("there is no PCI device {device}: `scripts/nic status` lists the NICs of this host")]
    NoSuchDevice {
        /// PCI address.
        device: String,
    },

    /// The device is well bound, yet no driver of DPDK took it.
    #[error("no poll-mode driver took {device}; {log}")]
    NoPmd {
        /// The device as it was named.
        device: String,
        /// What EAL said.
        log: LogLines,
    },

    /// A secondary process found no primary, or was asked for where memory is not shared.
    #[error(
        "this would be a secondary process, and there is no primary to join: leave `--proc-type` out, or start the primary first \
         with the same `--file-prefix`; {log}"
    )]
    SecondaryProcess {
        /// What EAL said.
        log: LogLines,
    },

    /// The devargs cannot be understood, or their driver refused them.
    #[error("device `{devargs}`: {reason}")]
    WrongDevargs {
        /// The devargs as given.
        devargs: String,
        /// What is wrong, and what was expected.
        reason: String,
    },

    /// EAL refused its arguments.
    #[error("EAL refused its arguments `{arguments}`; {log}")]
    WrongArguments {
        /// All arguments, in order.
        arguments: String,
        /// What EAL said.
        log: LogLines,
    },

    /// EAL did not start, for none of the causes above.
    #[error("EAL did not start: {errno}; {log}")]
    Init {
        /// EAL's errno.
        errno: Errno,
        /// What EAL said.
        log: LogLines,
    },

    /// A setting that cannot work.
    #[error("{what} is {given}: {expected}")]
    Setting {
        /// The setting's name.
        what: &'static str,
        /// Its value.
        given: String,
        /// What was expected.
        expected: String,
    },

    /// DPDK's memory is used up.
    #[error(
        "not enough DPDK memory for {what} ({bytes} bytes on {node}): reserve more hugepages there (`sudo scripts/hugepages`, \
         `--node` names the node), raise the memory limit (`ulimit -l`), or ask for fewer buffers"
    )]
    NoMemory {
        /// What was to be made.
        what: String,
        /// Its size in bytes.
        bytes: u64,
        /// The NUMA node, or any.
        node: String,
    },

    /// Somebody else in this process has the port.
    #[error("port {port} is open already: one `Port` owns it, its queues go to the workers")]
    PortTaken {
        /// DPDK's port id.
        port: u16,
    },

    /// The driver does not offer this.
    #[error("port {port} (driver {driver}) does not support {what}")]
    Unsupported {
        /// DPDK's port id.
        port: u16,
        /// The driver's name.
        driver: String,
        /// The operation.
        what: &'static str,
    },

    /// All lcore ids are taken.
    #[error("no lcore id is left for this thread (DPDK was built for a fixed number): use fewer threads")]
    NoLcore,

    /// A call into DPDK failed.
    #[error("{what} failed: {errno}; {log}")]
    Call {
        /// The DPDK function, and on what.
        what: String,
        /// Its errno.
        errno: Errno,
        /// What EAL and the driver said.
        log: LogLines,
    },
}

/// Short for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An errno as DPDK gives it, with its name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(i32);

impl Errno {
    /// Of a DPDK return value: negative errnos and positive ones mean the same.
    pub(crate) fn of(returned: i32) -> Self {
        Self(returned.checked_abs().unwrap_or(i32::MAX))
    }

    /// DPDK's own `rte_errno` of this thread. Only meaningful right after a failure.
    pub(crate) fn last() -> Self {
        // SAFETY: reads a thread-local integer.
        Self::of(unsafe { sys::shim_errno() })
    }

    /// The number, positive.
    pub fn number(self) -> i32 {
        self.0
    }

    /// The symbolic name, e.g. `ENOMEM`, where it has one.
    pub fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            libc::EPERM => "EPERM",
            libc::ENOENT => "ENOENT",
            libc::EIO => "EIO",
            libc::ENXIO => "ENXIO",
            libc::E2BIG => "E2BIG",
            libc::ENOEXEC => "ENOEXEC",
            libc::EBADF => "EBADF",
            libc::EAGAIN => "EAGAIN",
            libc::ENOMEM => "ENOMEM",
            libc::EACCES => "EACCES",
            libc::EFAULT => "EFAULT",
            libc::EBUSY => "EBUSY",
            libc::EEXIST => "EEXIST",
            libc::ENODEV => "ENODEV",
            libc::EINVAL => "EINVAL",
            libc::EMFILE => "EMFILE",
            libc::ENOSPC => "ENOSPC",
            libc::EPIPE => "EPIPE",
            libc::ERANGE => "ERANGE",
            libc::ENAMETOOLONG => "ENAMETOOLONG",
            libc::ENOSYS => "ENOSYS",
            libc::EPROTO => "EPROTO",
            libc::ENOTSUP => "ENOTSUP",
            libc::EADDRINUSE => "EADDRINUSE",
            libc::ENOBUFS => "ENOBUFS",
            libc::ETIMEDOUT => "ETIMEDOUT",
            libc::ECONNREFUSED => "ECONNREFUSED",
            libc::EALREADY => "EALREADY",
            1001 => "E_RTE_SECONDARY",
            1002 => "E_RTE_NO_CONFIG",
            _ => return None,
        })
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("no error number was given");
        }
        // SAFETY: takes any number and returns a string that is valid until this thread's next call.
        let text = unsafe { sys::rte_strerror(self.0) };
        // SAFETY: rte_strerror never returns NULL, and the string is used up before it is called again.
        let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
        match self.name() {
            Some(name) => write!(f, "{text} ({name})"),
            None => write!(f, "{text} (errno {})", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The last warnings and errors that EAL and its drivers wrote before a failure.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct LogLines(pub(crate) Vec<String>);

impl LogLines {
    /// The lines, oldest first.
    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for LogLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            f.write_str("DPDK gave no reason")
        } else {
            write!(f, "DPDK said: {}", self.0.join(" | "))
        }
    }
}

impl fmt::Debug for LogLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The call's result, or its failure with what the driver said.
pub(crate) fn check(returned: i32, what: impl FnOnce() -> String) -> Result<i32> {
    if returned >= 0 {
        return Ok(returned);
    }
    // Some calls return -errno, others a bare -1 and may set rte_errno: -EPERM is not to be told from it.
    let errno = if returned == -1 { Errno::last() } else { Errno::of(returned) };
    Err(Error::Call { what: what(), errno, log: crate::log::recent() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_shows_its_name_and_meaning() {
        assert_eq!(Errno::of(-libc::ENOMEM).to_string(), "Cannot allocate memory (ENOMEM)");
        assert_eq!(Errno::of(libc::ENODEV), Errno::of(-libc::ENODEV));
        assert!(Errno::of(1002).to_string().ends_with("(E_RTE_NO_CONFIG)"), "{}", Errno::of(1002));
        assert!(Errno::of(i32::MIN).to_string().contains("2147483647"));
    }

    #[test]
    fn a_failed_call_carries_errno_and_name() {
        assert_eq!(check(3, || unreachable!()).unwrap(), 3);
        let error = check(-libc::EBUSY, || "rte_eth_dev_start(port 0)".into()).unwrap_err().to_string();
        assert!(
            error.starts_with("rte_eth_dev_start(port 0) failed: Device or resource busy (EBUSY)"),
            "{error}"
        );
    }
}
