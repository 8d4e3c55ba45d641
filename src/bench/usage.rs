//! What the scheduler did to a thread, and the machine it ran on: what a figure must be read beside.

use crate::time::Duration;
use serde::Serialize;

/// A thread's counters in `/proc/thread-self/schedstat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedStat {
    /// Time on a core, nanoseconds.
    run: u64,
    /// Time ready to run without a core, nanoseconds.
    wait: u64,
}

impl SchedStat {
    /// The calling thread's counters; `None` where the kernel does not keep them.
    pub fn of_this_thread() -> Option<SchedStat> {
        Self::parse(&std::fs::read_to_string("/proc/thread-self/schedstat").ok()?)
    }

    fn parse(text: &str) -> Option<SchedStat> {
        let mut fields = text.split_ascii_whitespace().map(|field| field.parse().ok());
        Some(SchedStat { run: fields.next()??, wait: fields.next()?? })
    }
}

/// What one thread got of its core while it was measured. Zero where the kernel does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time on a core.
    pub cpu: Duration,
    /// Time it was kept waiting for one.
    pub run_delay: Duration,
    /// Time in which it had something to do; `None` where it sleeps when it has not.
    pub busy: Option<Duration>,
}

impl Usage {
    /// What happened between two readings.
    pub fn between(start: Option<SchedStat>, end: Option<SchedStat>) -> Usage {
        match (start, end) {
            (Some(start), Some(end)) => Usage {
                cpu: Duration::from_nanos(end.run.saturating_sub(start.run)),
                run_delay: Duration::from_nanos(end.wait.saturating_sub(start.wait)),
                busy: None,
            },
            _ => Usage::default(),
        }
    }
}

/// The machine that a figure comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Operating system and release.
    pub kernel: String,
}

impl Machine {
    /// This machine.
    pub fn this() -> Machine {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned());
        let uname = rustix::system::uname();
        Machine {
            cpu,
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            kernel: format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedstat_line_gives_run_and_wait() {
        assert_eq!(
            SchedStat::parse("185709577 663247 80\n"),
            Some(SchedStat { run: 185_709_577, wait: 663_247 })
        );
        assert_eq!(SchedStat::parse(""), None);
        assert_eq!(SchedStat::parse("x 1 2"), None);
    }

    #[test]
    fn usage_is_the_difference() {
        let usage =
            Usage::between(Some(SchedStat { run: 10, wait: 1 }), Some(SchedStat { run: 110, wait: 4 }));
        assert_eq!(
            usage,
            Usage { cpu: Duration::from_nanos(100), run_delay: Duration::from_nanos(3), busy: None }
        );
        assert_eq!(Usage::between(None, Some(SchedStat { run: 1, wait: 1 })), Usage::default());
    }

    #[test]
    fn the_machine_has_a_name_and_a_core() {
        let machine = Machine::this();
        assert!(!machine.cpu.is_empty() && !machine.kernel.is_empty());
        assert!(machine.cores >= 1);
    }
}
