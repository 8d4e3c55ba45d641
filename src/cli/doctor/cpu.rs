//! Cores and clocks: what disturbs a worker that spins, and what it costs to read the time.

use super::Check;
use super::checks::{pass, warn};
use super::machine::{Machine, list_length};

/// A core that needs longer than this to wake up delays a frame by more than the stack does, microseconds.
const WAKE_UP_US_MAX: u64 = 10;

pub(super) fn cores(machine: &Machine) -> Check {
    let name = "cores";
    match machine.read("sys/devices/system/cpu/online").as_deref().and_then(list_length) {
        Some(count @ 2..) => pass(name, format!("{count} online")),
        Some(count) => warn(
            name,
            format!("{count} online"),
            "a spinning worker and everything else share one core: keep `--poll adaptive`",
        ),
        None => warn(name, "unknown: /sys/devices/system/cpu/online cannot be read", "mount /sys"),
    }
}

pub(super) fn isolation(machine: &Machine) -> Check {
    let name = "cpu-isolation";
    let isolated = machine.read("sys/devices/system/cpu/isolated").unwrap_or_default();
    match list_length(&isolated) {
        Some(1..) => pass(name, format!("cores {isolated} are isolated: give them to --cores")),
        _ => warn(
            name,
            "no core is isolated: the scheduler puts other work beside spinning workers",
            "boot with e.g. `isolcpus=2,3 nohz_full=2,3 rcu_nocbs=2,3` and serve with `--cores 2,3`; for least \
             latency only",
        ),
    }
}

pub(super) fn features(machine: &Machine) -> Check {
    let name = "cpu-features";
    // x86 lists "flags", Arm "Features"; whatever the label, the vector sets have names of their own.
    let flags = ["flags", "Features"].iter().find_map(|key| machine.field("proc/cpuinfo", key));
    let flags = flags.unwrap_or_default();
    let found: Vec<_> = ["sse4_2", "avx2", "avx512bw", "asimd", "sve"]
        .into_iter()
        .filter(|set| has_word(&flags, set))
        .collect();
    if ["avx2", "asimd"].iter().any(|wide| found.contains(wide)) {
        return pass(name, found.join(" "));
    }
    let listed = if found.is_empty() { "no known vector set".to_owned() } else { found.join(" ") };
    warn(
        name,
        listed,
        "masking and UTF-8 checks of large messages take the slower path; in a virtual machine pass the host's \
         CPU through (`-cpu host`)",
    )
}

pub(super) fn clock_source(machine: &Machine) -> Check {
    let name = "clock-source";
    let directory = "sys/devices/system/clocksource/clocksource0";
    let Some(current) = machine.read(&format!("{directory}/current_clocksource")) else {
        return warn(name, "unknown: /sys/devices/system/clocksource cannot be read", "mount /sys");
    };
    let available = machine.read(&format!("{directory}/available_clocksource")).unwrap_or_default();
    match current.as_str() {
        "tsc" | "arch_sys_counter" => pass(name, current),
        // Read without a system call as well, though not as fast.
        "kvm-clock" | "hyperv_clocksource_tsc_page" => pass(name, current),
        _ if has_word(&available, "tsc") => warn(
            name,
            format!("{current}: reading the time is a system call or worse"),
            "`echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource`, for good with \
             `tsc=reliable` on the kernel's command line",
        ),
        _ => warn(
            name,
            format!("{current}: reading the time is a system call or worse"),
            "boot with `tsc=reliable`, or choose a machine with an invariant TSC",
        ),
    }
}

pub(super) fn full_ticks(machine: &Machine) -> Check {
    let name = "nohz-full";
    // The kernel writes "(null)" where it was built for it and booted without.
    let cores = machine.read("sys/devices/system/cpu/nohz_full").unwrap_or_default();
    match list_length(&cores) {
        Some(1..) => pass(name, format!("cores {cores} run without the scheduler's tick")),
        _ => warn(
            name,
            "every core has the scheduler's tick: it interrupts a spinning worker 250 to 1000 times a second",
            "boot with `nohz_full=2,3 rcu_nocbs=2,3` for the cores of --cores; for least latency only",
        ),
    }
}

pub(super) fn irqbalance(machine: &Machine) -> Check {
    let name = "irqbalance";
    let processes =
        machine.list("proc").into_iter().filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()));
    let runs = processes
        .filter_map(|pid| machine.read(&format!("proc/{pid}/comm")))
        .any(|command| command == "irqbalance");
    if !runs {
        return pass(name, "does not run");
    }
    warn(
        name,
        "runs: it may move other devices' interrupts to the workers' cores",
        "`systemctl disable --now irqbalance`, or IRQBALANCE_BANNED_CPULIST=2,3 in /etc/default/irqbalance",
    )
}

/// The numbered CPUs of this machine.
fn cpus(machine: &Machine) -> impl Iterator<Item = String> {
    let names = machine.list("sys/devices/system/cpu").into_iter();
    names.filter(|name| {
        name.strip_prefix("cpu")
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

pub(super) fn governor(machine: &Machine) -> Check {
    let name = "cpu-governor";
    let mut governors: Vec<_> = cpus(machine)
        .filter_map(|cpu| machine.read(&format!("sys/devices/system/cpu/{cpu}/cpufreq/scaling_governor")))
        .collect();
    governors.sort();
    governors.dedup();
    match governors.as_slice() {
        [] => pass(name, "the kernel does not scale frequencies here"),
        [one] if one == "performance" => pass(name, one.as_str()),
        some => warn(
            name,
            format!("{}: a core is slow when work comes after a pause", some.join(", ")),
            "`cpupower frequency-set -g performance`, for good in /etc/default/cpupower or a unit at boot",
        ),
    }
}

pub(super) fn idle_states(machine: &Machine) -> Check {
    let name = "cpu-idle-states";
    let slow = cpus(machine).filter_map(|cpu| slowest_state(machine, &cpu)).max();
    match slow {
        Some((latency, state)) if latency > WAKE_UP_US_MAX => warn(
            name,
            format!(
                "{state} takes {latency} us to wake up from; only workers that sleep (--poll adaptive) meet it"
            ),
            "`cpupower idle-set -D 10`, or boot with `processor.max_cstate=1 intel_idle.max_cstate=0`",
        ),
        Some((latency, state)) => pass(name, format!("at most {latency} us to wake up ({state})")),
        None => pass(name, "the kernel chooses none here"),
    }
}

/// The enabled idle state of a CPU that takes longest to leave, and how long in microseconds.
fn slowest_state(machine: &Machine, cpu: &str) -> Option<(u64, String)> {
    let folder = format!("sys/devices/system/cpu/{cpu}/cpuidle");
    let states = machine.list(&folder).into_iter().filter(|state| state.starts_with("state"));
    states
        .filter_map(|state| {
            let read = |file: &str| machine.read(&format!("{folder}/{state}/{file}"));
            (read("disable").as_deref() != Some("1")).then_some(())?;
            Some((read("latency")?.parse().ok()?, read("name")?))
        })
        .max()
}

fn has_word(text: &str, word: &str) -> bool {
    text.split_whitespace().any(|other| other == word)
}
