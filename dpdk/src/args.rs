//! EAL's arguments: derived for those who do not know them, open to those who do.

use crate::device::{Bus, Device};
use crate::error::{Error, Result};
use crate::sys;

/// Begins the derived file prefix; the process's id ends it.
pub(crate) const PREFIX: &str = "unsocket-";

/// What DPDK's memory is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Hugepages, taken as they are needed.
    HugePages,
    /// Ordinary pages (`--no-huge`), all taken at the start: for machines without hugepages. Slower.
    Ordinary {
        /// Size in MiB.
        mib: u32,
    },
}

/// How to start EAL. What is not said is derived: nothing is shared with other processes (`--in-memory`, a file prefix
/// of its own, no telemetry socket), no PCI device is probed but those named, and no thread is started or pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EalArgs {
    memory: Memory,
    devices: Vec<Device>,
    cpus: Option<Vec<usize>>,
    single_file_segments: bool,
    extra: Vec<String>,
}

impl Default for EalArgs {
    fn default() -> Self {
        Self::new()
    }
}

impl EalArgs {
    /// Hugepages, no device.
    pub fn new() -> Self {
        Self {
            memory: Memory::HugePages,
            devices: Vec::new(),
            cpus: None,
            single_file_segments: false,
            extra: Vec::new(),
        }
    }

    /// What memory to use.
    pub fn memory(mut self, memory: Memory) -> Self {
        self.memory = memory;
        self
    }

    /// Probes this device too.
    pub fn device(mut self, device: Device) -> Self {
        self.devices.push(device);
        self
    }

    /// CPUs that the main thread and EAL's own service threads may use; the calling thread's affinity when not said.
    pub fn cpus(mut self, cpus: impl IntoIterator<Item = usize>) -> Self {
        self.cpus = Some(cpus.into_iter().collect());
        self
    }

    /// Few large memory files instead of one per page: virtio-user and zero-copy memif need it.
    pub fn single_file_segments(mut self, yes: bool) -> Self {
        self.single_file_segments = yes;
        self
    }

    /// More arguments, as they stand. One that sets what would be derived replaces it.
    pub fn extra(mut self, arguments: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.extra.extend(arguments.into_iter().map(Into::into));
        self
    }

    pub(crate) fn devices(&self) -> &[Device] {
        &self.devices
    }

    pub(crate) fn is_secondary(&self) -> bool {
        self.extra.iter().enumerate().any(|(at, argument)| match argument.strip_prefix("--proc-type") {
            Some("") => self.extra.get(at + 1).is_some_and(|value| value == "secondary"),
            Some(value) => value == "=secondary",
            None => false,
        })
    }

    pub(crate) fn needs_hugepages(&self) -> bool {
        self.memory == Memory::HugePages && !self.has(&["--no-huge"])
    }

    /// Whether EAL's folder under /run is of our own naming, so ours to remove.
    pub(crate) fn derives_prefix(&self) -> bool {
        !self.has(&["--proc-type", "--file-prefix"])
    }

    /// The whole command line for a process `pid` whose thread may run on `affinity`.
    pub(crate) fn build(&self, affinity: &[usize], pid: u32) -> Result<Vec<String>> {
        if let Some(bad) =
            self.extra.iter().find(|argument| matches!(argument.as_str(), "-h" | "--help" | ""))
        {
            return Err(Error::WrongArguments {
                arguments: format!("{bad:?}"),
                log: crate::error::LogLines(vec![
                    "EAL's help ends the process; read it with a DPDK tool".into(),
                ]),
            });
        }
        if let Some(bad) = self.extra.iter().find(|argument| argument.contains('\0')) {
            return Err(Error::Setting {
                what: "EAL argument",
                given: format!("{bad:?}"),
                expected: "no NUL in it".into(),
            });
        }
        let mut line = vec!["unsocket".to_owned()];
        if !self.has(&["--proc-type"]) {
            // EAL takes --no-huge for its legacy memory, which excludes --in-memory; without hugepage files this is the same.
            line.push(if self.needs_hugepages() { "--in-memory" } else { "--no-shconf" }.into());
        }
        if self.derives_prefix() {
            line.push(format!("--file-prefix={PREFIX}{pid}"));
        }
        if !self.has(&["--no-telemetry", "--telemetry"]) {
            line.push("--no-telemetry".into());
        }
        // EAL's parser knows CPUs only up to the number of lcores that it was built for.
        let cpus = self
            .cpus
            .as_deref()
            .unwrap_or(affinity)
            .iter()
            .filter(|&&cpu| cpu < sys::SHIM_LCORES_MAX as usize);
        let list: Vec<String> = cpus.map(usize::to_string).collect();
        if !list.is_empty() && !self.has(&["-l", "-c", "--lcores"]) {
            // One lcore over all of these CPUs: EAL starts no thread of its own for work and pins nobody.
            line.push(format!("--lcores=0@({})", list.join(",")));
        }
        if let Memory::Ordinary { mib } = self.memory {
            line.push("--no-huge".into());
            if !self.has(&["-m"]) {
                line.extend(["-m".to_owned(), mib.to_string()]);
            }
        }
        if self.single_file_segments {
            line.push("--single-file-segments".into());
        }
        let mut probes_pci = self.has(&["-a", "--allow", "-b", "--block"]);
        for device in self.devices.iter().filter(|device| device.bus() != Bus::Virtual) {
            line.extend(["-a".to_owned(), device.devargs()]);
            probes_pci = true;
        }
        if !probes_pci && !self.has(&["--no-pci"]) {
            line.push("--no-pci".into());
        }
        line.extend(self.extra.iter().cloned());
        Ok(line)
    }

    /// Whether the caller gave one of these options, as `--name value`, `--name=value` or `-xvalue`.
    fn has(&self, names: &[&str]) -> bool {
        self.extra.iter().any(|argument| {
            names.iter().any(|name| match argument.strip_prefix(name) {
                Some(rest) if name.starts_with("--") => rest.is_empty() || rest.starts_with('='),
                Some(_) => true,
                None => false,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(args: &EalArgs) -> String {
        args.build(&[0, 2], 77).unwrap()[1..].join(" ")
    }

    #[test]
    fn derived_arguments_touch_nothing_outside_the_process() {
        assert_eq!(
            line(&EalArgs::new()),
            "--in-memory --file-prefix=unsocket-77 --no-telemetry --lcores=0@(0,2) --no-pci"
        );
    }

    #[test]
    fn a_pci_device_is_allowed_and_nothing_else_is() {
        let args = EalArgs::new().device("3:00.0".parse().unwrap()).device("net_null0".parse().unwrap());
        assert_eq!(
            line(&args),
            "--in-memory --file-prefix=unsocket-77 --no-telemetry --lcores=0@(0,2) -a 0000:03:00.0"
        );
    }

    #[test]
    fn ordinary_memory_and_cpus() {
        let args = EalArgs::new().memory(Memory::Ordinary { mib: 128 }).cpus([3]).single_file_segments(true);
        assert_eq!(
            line(&args),
            "--no-shconf --file-prefix=unsocket-77 --no-telemetry --lcores=0@(3) --no-huge -m 128 --single-file-segments --no-pci"
        );
        assert!(!args.needs_hugepages());
        assert!(!EalArgs::new().extra(["--no-huge"]).needs_hugepages());
    }

    #[test]
    fn what_the_caller_says_replaces_what_would_be_derived() {
        let args = EalArgs::new().extra(["--file-prefix=mine", "-l0-1", "--telemetry", "-a", "0000:05:00.0"]);
        assert_eq!(line(&args), "--in-memory --file-prefix=mine -l0-1 --telemetry -a 0000:05:00.0");
        assert!(!args.derives_prefix());
        let args = EalArgs::new().extra(["--proc-type", "secondary"]);
        assert!(args.is_secondary());
        assert!(!line(&args).contains("--in-memory"));
        assert!(EalArgs::new().extra(["--proc-type=secondary"]).is_secondary());
        assert!(!EalArgs::new().extra(["--proc-type=primary"]).is_secondary());
    }

    #[test]
    fn arguments_that_would_end_the_process_are_refused() {
        assert!(matches!(EalArgs::new().extra(["--help"]).build(&[0], 1), Err(Error::WrongArguments { .. })));
        assert!(matches!(EalArgs::new().extra(["a\0b"]).build(&[0], 1), Err(Error::Setting { .. })));
    }
}
