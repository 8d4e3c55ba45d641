//! The checks, one function each.

use super::machine::{CAP_NET_ADMIN, CAP_SYS_ADMIN, Machine, list_length};
use super::{Check, Status};

/// Least `RLIMIT_MEMLOCK` that is of use with DPDK: a small mempool and its rings.
const MEMLOCK_BYTES_MIN: u64 = 64 << 20;

/// Every check, in the order in which they are printed.
pub(super) fn all(machine: &Machine) -> Vec<Check> {
    vec![
        tap_device(machine),
        net_admin(machine),
        network_namespaces(machine),
        cores(machine),
        cpu_isolation(machine),
        cpu_features(machine),
        clock_source(machine),
        hugepages(machine),
        memlock(machine),
    ]
}

fn check(name: &'static str, status: Status, found: impl Into<String>, advice: &str) -> Check {
    Check { name, status, found: found.into(), advice: advice.to_owned() }
}

fn pass(name: &'static str, found: impl Into<String>) -> Check {
    check(name, Status::Pass, found, "")
}

fn warn(name: &'static str, found: impl Into<String>, advice: &str) -> Check {
    check(name, Status::Warn, found, advice)
}

fn fail(name: &'static str, found: impl Into<String>, advice: &str) -> Check {
    check(name, Status::Fail, found, advice)
}

fn tap_device(machine: &Machine) -> Check {
    let name = "tap-device";
    match machine.open_read_write("dev/net/tun") {
        Ok(()) => pass(name, "/dev/net/tun opens"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => fail(
            name,
            "/dev/net/tun does not exist",
            "load the driver: `modprobe tun`; in a container start it with `--device /dev/net/tun`",
        ),
        Err(error) => fail(
            name,
            format!("/dev/net/tun cannot be opened: {error}"),
            "run as root, or let your user: `chmod 0666 /dev/net/tun`",
        ),
    }
}

fn net_admin(machine: &Machine) -> Check {
    let name = "tap-permission";
    if machine.has_capability(CAP_NET_ADMIN) {
        return pass(name, "CAP_NET_ADMIN is effective: TAP devices can be made");
    }
    fail(
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

fn cores(machine: &Machine) -> Check {
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

fn cpu_isolation(machine: &Machine) -> Check {
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

fn cpu_features(machine: &Machine) -> Check {
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

fn has_word(text: &str, word: &str) -> bool {
    text.split_whitespace().any(|other| other == word)
}

fn clock_source(machine: &Machine) -> Check {
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

fn hugepages(machine: &Machine) -> Check {
    let name = "hugepages";
    let directory = "sys/kernel/mm/hugepages";
    let pools: Vec<_> = machine
        .list(directory)
        .into_iter()
        .filter_map(|pool| {
            let number =
                |file: &str| machine.read(&format!("{directory}/{pool}/{file}"))?.parse::<u64>().ok();
            let (total, free) = (number("nr_hugepages")?, number("free_hugepages")?);
            let size = pool.strip_prefix("hugepages-")?.to_owned();
            (total > 0).then_some((size, total, free))
        })
        .collect();
    let listed: Vec<_> =
        pools.iter().map(|(size, total, free)| format!("{free} of {total} x {size} free")).collect();
    let advice = "`echo 512 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages` (1 GiB); TAP does without, \
                  a NIC through DPDK needs them";
    if pools.is_empty() {
        return warn(name, "none reserved", advice);
    }
    if pools.iter().all(|&(_, _, free)| free == 0) {
        return warn(name, listed.join(", "), advice);
    }
    pass(name, listed.join(", "))
}

fn memlock(machine: &Machine) -> Check {
    let name = "memlock";
    let soft = machine
        .field("proc/self/limits", "Max locked memory")
        .and_then(|line| line.split_whitespace().next().map(str::to_owned));
    let advice = "`ulimit -l unlimited`, `LimitMEMLOCK=infinity` in a systemd unit, or memlock in \
                  /etc/security/limits.conf; TAP does without, a NIC through DPDK needs it";
    match soft.as_deref() {
        Some("unlimited") => pass(name, "unlimited"),
        Some(text) => match text.parse::<u64>() {
            Ok(bytes) if bytes >= MEMLOCK_BYTES_MIN => pass(name, format!("{} MiB", bytes >> 20)),
            Ok(bytes) => warn(name, format!("{} KiB", bytes >> 10), advice),
            Err(_) => warn(name, format!("unknown: {text}"), advice),
        },
        None => warn(name, "unknown: /proc/self/limits cannot be read", advice),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Report;
    use std::path::PathBuf;

    /// A machine made of files; gone when dropped.
    struct Fake {
        root: PathBuf,
    }

    impl Fake {
        /// The name keeps tests that run at the same time apart.
        fn new(name: &str) -> Fake {
            let root = std::env::temp_dir().join(format!("unsocket-doctor-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&root).unwrap();
            Fake { root }
        }

        fn with(self, path: &str, text: &str) -> Fake {
            let path = self.root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
            self
        }

        /// A machine on which everything passes.
        fn fit(name: &str) -> Fake {
            Fake::new(name)
                .with("dev/net/tun", "")
                .with("proc/self/status", "Name:\tx\nCapPrm:\t0\nCapEff:\t000001ffffffffff\n")
                .with("proc/self/ns/net", "")
                .with(
                    "proc/self/limits",
                    "Max file locks  unlimited\nMax locked memory   unlimited unlimited bytes\n",
                )
                .with("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu sse4_2 avx2 avx512bw\n")
                .with("sys/devices/system/cpu/online", "0-3\n")
                .with("sys/devices/system/cpu/isolated", "2-3\n")
                .with("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n")
                .with("sys/devices/system/clocksource/clocksource0/available_clocksource", "tsc hpet\n")
                .with("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "512\n")
                .with("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "500\n")
        }

        fn report(&self) -> Report {
            Report::of(&Machine::at(&self.root))
        }

        fn check(&self, name: &str) -> Check {
            self.report().checks.into_iter().find(|check| check.name == name).unwrap()
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.root).unwrap();
        }
    }

    #[test]
    fn a_fit_machine_passes_every_check() {
        let report = Fake::fit("fit").report();
        assert!(report.ok);
        for check in &report.checks {
            assert_eq!((check.status, check.advice.as_str()), (Status::Pass, ""), "{check:?}");
        }
    }

    #[test]
    fn a_bare_machine_fails_and_every_finding_says_what_to_do() {
        let report = Fake::new("bare").report();
        assert!(!report.ok);
        for check in &report.checks {
            assert_ne!(check.status, Status::Pass, "{check:?}");
            assert!(!check.advice.is_empty(), "{check:?}");
        }
    }

    #[test]
    fn without_net_admin_the_way_out_is_named() {
        let fake = Fake::fit("caps").with("proc/self/status", "CapEff:\t0000000000000000\n");
        let check = fake.check("tap-permission");
        assert_eq!(check.status, Status::Fail);
        assert!(check.found.contains("CAP_NET_ADMIN") && check.advice.contains("setcap"));
        assert_eq!(fake.check("network-namespaces").status, Status::Warn);
        // Bit 12 alone is enough for TAP.
        let fake = fake.with("proc/self/status", "CapEff:\t0000000000001000\n");
        assert_eq!(fake.check("tap-permission").status, Status::Pass);
    }

    #[test]
    fn what_is_less_than_it_should_be_warns() {
        for (name, path, text) in [
            ("cores", "sys/devices/system/cpu/online", "0"),
            ("cpu-isolation", "sys/devices/system/cpu/isolated", ""),
            ("cpu-features", "proc/cpuinfo", "flags : fpu sse4_2"),
            ("clock-source", "sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet"),
            ("hugepages", "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "0"),
            ("hugepages", "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "0"),
            ("memlock", "proc/self/limits", "Max locked memory 8388608 8388608 bytes"),
        ] {
            let fake = Fake::fit("less").with(path, text);
            let check = fake.check(name);
            assert_eq!(check.status, Status::Warn, "{check:?}");
            assert!(!check.advice.is_empty(), "{check:?}");
            assert!(fake.report().ok);
        }
    }

    #[test]
    fn the_table_has_a_line_for_each_check_and_a_sum() {
        let text = Fake::fit("table").with("sys/devices/system/cpu/online", "0").report().to_string();
        assert!(text.contains("pass  tap-device          /dev/net/tun opens\n"), "{text}");
        assert!(text.contains("warn  cores               1 online\n"), "{text}");
        assert!(text.contains("\n                          -> a spinning worker"), "{text}");
        assert!(text.ends_with("9 checks, 1 warnings, 0 failures\n"), "{text}");
    }

    #[test]
    fn the_json_object_is_stable() {
        let json = serde_json::to_value(Fake::fit("json").report()).unwrap();
        assert_eq!(json["ok"], true);
        assert_eq!(json["checks"][0]["name"], "tap-device");
        assert_eq!(json["checks"][0]["status"], "pass");
        assert_eq!(json["checks"][0]["advice"], "");
    }
}
