//! What open connections cost in memory: of this process, of the server, of the whole machine with its kernel.

use super::summary::thousands;
use serde::Serialize;
use std::fmt;
use std::fs::read_to_string;

/// Memory in use at one moment, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    machine: u64,
    kernel: u64,
    own: u64,
    server: Option<u64>,
}

/// What so many connections added. Everything in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MemoryReport {
    /// Connections that were open.
    pub connections: u64,
    /// All memory of the machine, the kernel's included, by connection.
    pub machine_per_connection: f64,
    /// This process with its page tables, by connection.
    pub own_per_connection: f64,
    /// The server's process with its page tables, by connection; when its process id was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_per_connection: Option<f64>,
    /// The kernel's own objects, by connection: its sockets, of both ends where both are on this machine.
    pub kernel_per_connection: f64,
    /// The server's process with its page tables, in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<u64>,
}

impl Sample {
    /// Memory now; the server is the process `server`, if it is known.
    pub fn take(server: Option<u32>) -> Sample {
        let meminfo = read_to_string("/proc/meminfo").unwrap_or_default();
        Sample {
            machine: machine(&meminfo),
            kernel: kilobytes(&meminfo, "Slab:").unwrap_or_default(),
            own: process("self").unwrap_or_default(),
            server: server.and_then(|pid| process(&pid.to_string())),
        }
    }

    /// What `connections` added since `before`; `None` without connections.
    pub fn since(&self, before: &Sample, connections: u64) -> Option<MemoryReport> {
        let each = |after: u64, before: u64| {
            let bytes = (after as f64 - before as f64) / connections as f64;
            (bytes * 10.0).round() / 10.0
        };
        if connections == 0 {
            return None;
        }
        Some(MemoryReport {
            connections,
            machine_per_connection: each(self.machine, before.machine),
            own_per_connection: each(self.own, before.own),
            server_per_connection: self.server.zip(before.server).map(|(after, before)| each(after, before)),
            kernel_per_connection: each(self.kernel, before.kernel),
            server: self.server,
        })
    }
}

impl fmt::Display for MemoryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} open connections: {:.0} B each of the machine's memory, {:.0} B of this process, {:.0} B of the kernel's objects",
            thousands(self.connections),
            self.machine_per_connection,
            self.own_per_connection,
            self.kernel_per_connection
        )?;
        match self.server_per_connection {
            Some(server) => write!(f, ", {server:.0} B of the server"),
            None => Ok(()),
        }
    }
}

/// Whether the memory of a process can be looked at.
pub fn can_be_seen(pid: u32) -> bool {
    process(&pid.to_string()).is_some()
}

/// What /proc/meminfo says is used: neither free nor cache. The kernel calls some of what sockets take reclaimable; it is not,
/// as long as they are open.
fn machine(meminfo: &str) -> u64 {
    let of = |name| kilobytes(meminfo, name).unwrap_or_default();
    let free = ["MemFree:", "Buffers:", "Cached:"].map(of).iter().sum::<u64>();
    // Memory that is shared stands among what is cached, and cannot be given back.
    (of("MemTotal:") + of("Shmem:")).saturating_sub(free)
}

/// Memory of a process with its page tables; what it shares with others is divided between them. `None` when it is gone
/// or another user's.
fn process(pid: &str) -> Option<u64> {
    let pages = kilobytes(&read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?, "Pss:")?;
    let tables = kilobytes(&read_to_string(format!("/proc/{pid}/status")).ok()?, "VmPTE:")?;
    Some(pages + tables)
}

/// The bytes that a line of /proc gives in kB.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_ascii_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_what_is_neither_free_nor_cached() {
        let meminfo = "MemTotal: 1000 kB\nMemFree: 200 kB\nBuffers: 10 kB\nCached: 90 kB\nShmem: 40 kB\nSReclaimable: 50 kB\n";
        assert_eq!(machine(meminfo), (1000 - 300 + 40) * 1024);
        assert_eq!(machine(""), 0);
    }

    #[test]
    fn this_process_has_memory_and_a_process_that_is_not_there_has_none() {
        let sample = Sample::take(Some(u32::MAX));
        assert!(sample.own > 0 && sample.machine > sample.own);
        assert_eq!(sample.server, None);
    }

    #[test]
    fn the_growth_is_divided_by_the_connections() {
        let before = Sample { machine: 1000, kernel: 300, own: 100, server: Some(50) };
        let after = Sample { machine: 5000, kernel: 2300, own: 1100, server: Some(1050) };
        let report = after.since(&before, 10).unwrap();
        assert_eq!((report.machine_per_connection, report.own_per_connection), (400.0, 100.0));
        assert_eq!((report.server_per_connection, report.kernel_per_connection), (Some(100.0), 200.0));
        assert_eq!(after.since(&before, 0), None);
    }
}
