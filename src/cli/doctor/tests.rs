//! Machines made of files: for each check one that passes, one that warns and one that fails, where it can.

use super::purpose::{Build, Purpose};
use super::{Check, Machine, Report, Status};
use std::os::unix::fs::symlink;
use std::path::PathBuf;

const NIC: &str = "0000:03:00.0";
const LIMITS: &str = "proc/self/limits";
const STATUS: &str = "proc/self/status";
/// CAP_NET_ADMIN and CAP_SYS_ADMIN, without CAP_IPC_LOCK.
const CAPABILITIES: &str = "Name:\tx\nCapPrm:\t0\nCapEff:\t0000000000201000\n";

/// A machine made of files; gone when dropped.
struct Fake {
    root: PathBuf,
    purpose: Purpose,
    build: Build,
}

impl Fake {
    /// The name keeps tests that run at the same time apart.
    fn new(name: &str) -> Fake {
        let root = std::env::temp_dir().join(format!("unsocket-doctor-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        Fake { root, purpose: tap(), build: Build { dpdk: Some("DPDK 22.11.11".into()) } }
    }

    fn with(self, path: &str, text: &str) -> Fake {
        let path = self.root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    fn link(self, path: &str, target: &str) -> Fake {
        let path = self.root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = std::fs::remove_file(&path);
        symlink(target, path).unwrap();
        self
    }

    fn without(self, path: &str) -> Fake {
        let path = self.root.join(path);
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap()
        } else {
            std::fs::remove_file(path).unwrap()
        }
        self
    }

    /// Serving on the NIC.
    fn for_nic(self) -> Fake {
        self.serving(of_nic())
    }

    fn serving(mut self, purpose: Purpose) -> Fake {
        self.purpose = purpose;
        self
    }

    /// A program that was built with this DPDK, or without any.
    fn built_with(mut self, version: Option<&str>) -> Fake {
        self.build = Build { dpdk: version.map(str::to_owned) };
        self
    }

    /// A machine on which everything passes, for TAP and for its NIC, which is with vfio-pci.
    fn fit(name: &str) -> Fake {
        let cpu = "sys/devices/system/cpu";
        let clock = "sys/devices/system/clocksource/clocksource0";
        let pool = "sys/devices/system/node/node0/hugepages/hugepages-2048kB";
        let nic = format!("sys/bus/pci/devices/{NIC}");
        Fake::new(name)
            .with("dev/net/tun", "")
            .with("dev/vfio/vfio", "")
            .with("dev/vfio/12", "")
            .with(STATUS, CAPABILITIES)
            .with("proc/self/ns/net", "")
            .with(LIMITS, "Max file locks  unlimited\nMax locked memory   unlimited unlimited bytes\n")
            .with("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu sse4_2 avx2 avx512bw\n")
            .with("proc/1/comm", "systemd\n")
            .with(&format!("{cpu}/online"), "0-3\n")
            .with(&format!("{cpu}/isolated"), "2-3\n")
            .with(&format!("{cpu}/nohz_full"), "2-3\n")
            .with(&format!("{cpu}/cpu0/cpufreq/scaling_governor"), "performance\n")
            .with(&format!("{cpu}/cpu0/cpuidle/state0/name"), "C1\n")
            .with(&format!("{cpu}/cpu0/cpuidle/state0/latency"), "2\n")
            .with(&format!("{cpu}/cpu0/cpuidle/state0/disable"), "0\n")
            .with(&format!("{clock}/current_clocksource"), "tsc\n")
            .with(&format!("{clock}/available_clocksource"), "tsc hpet\n")
            .with(&format!("{pool}/nr_hugepages"), "512\n")
            .with(&format!("{pool}/free_hugepages"), "500\n")
            .with("usr/lib/x86_64-linux-gnu/dpdk/pmds-23.0/librte_net_i40e.so", "")
            .with("sys/kernel/iommu_groups/12/type", "DMA")
            .with("sys/bus/pci/drivers/vfio-pci/bind", "")
            .with("sys/module/vfio_iommu_type1/refcnt", "0")
            .with(&format!("{nic}/class"), "0x020000\n")
            .with(&format!("{nic}/vendor"), "0x8086\n")
            .with(&format!("{nic}/device"), "0x1572\n")
            .with(&format!("{nic}/numa_node"), "0\n")
            .link(&format!("{nic}/driver"), "../../../bus/pci/drivers/vfio-pci")
            .link(&format!("{nic}/iommu_group"), "../../../kernel/iommu_groups/12")
    }

    /// The same with the NIC in the kernel's hands.
    fn with_kernel_nic(self, driver: &str, state: &str) -> Fake {
        self.link(&format!("sys/bus/pci/devices/{NIC}/driver"), &format!("../../../bus/pci/drivers/{driver}"))
            .with(&format!("sys/bus/pci/devices/{NIC}/net/eth1/address"), "")
            .with("sys/class/net/eth1/operstate", state)
            .with("sys/class/net/eth1/speed", "10000")
    }

    fn report(&self) -> Report {
        Report::of(&Machine::at(&self.root), &self.purpose, &self.build)
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

fn tap() -> Purpose {
    Purpose { tap: true, ..Purpose::default() }
}

fn of_nic() -> Purpose {
    Purpose { dpdk: true, nic: true, address: Some(NIC.into()), tap: false }
}

/// The check's status, and that it says what to do unless all is well.
fn expect(fake: &Fake, name: &str, status: Status, words: &str) {
    let check = fake.check(name);
    assert_eq!(check.status, status, "{check:?}");
    assert_eq!(check.advice.is_empty(), status == Status::Pass, "{check:?}");
    assert!(check.found.contains(words) || check.advice.contains(words), "{words}: {check:?}");
    assert_eq!(fake.report().ok, status != Status::Fail, "{check:?}");
}

#[test]
fn a_fit_machine_passes_every_check_for_either_purpose() {
    let fit = Fake::fit("fit");
    for purpose in [tap(), of_nic(), Purpose { address: None, ..of_nic() }] {
        let report = Report::of(&Machine::at(&fit.root), &purpose, &fit.build);
        assert!(report.ok);
        for check in &report.checks {
            assert_eq!((check.status, check.advice.as_str()), (Status::Pass, ""), "{check:?}");
        }
    }
}

#[test]
fn a_bare_machine_fails_and_every_finding_says_what_to_do() {
    for purpose in [tap(), of_nic(), Purpose { address: None, ..of_nic() }] {
        let fake = Fake::fit("bare").serving(purpose).built_with(None);
        std::fs::remove_dir_all(&fake.root).unwrap();
        std::fs::create_dir_all(&fake.root).unwrap();
        let report = fake.report();
        assert!(!report.ok);
        for check in &report.checks {
            // What is not there cannot disturb.
            let quiet = ["irqbalance", "cpu-governor", "cpu-idle-states"].contains(&check.name);
            assert_eq!(check.status == Status::Pass, quiet, "{check:?}");
            assert_eq!(check.advice.is_empty(), quiet, "{check:?}");
        }
    }
}

#[test]
fn without_net_admin_the_way_out_is_named() {
    let fake = Fake::fit("caps").with(STATUS, "CapEff:\t0000000000000000\n");
    expect(&fake, "tap-permission", Status::Fail, "setcap");
    assert_eq!(fake.check("network-namespaces").status, Status::Warn);
    // Bit 12 alone is enough for TAP, and a NIC needs none.
    let fake = fake.with(STATUS, "CapEff:\t0000000000001000\n");
    expect(&fake, "tap-permission", Status::Pass, "CAP_NET_ADMIN");
    let fake = fake.with(STATUS, "CapEff:\t0000000000000000\n").for_nic();
    expect(&fake, "tap-permission", Status::Warn, "");
}

#[test]
fn a_tap_device_is_needed_by_tap_alone() {
    let fake = Fake::fit("tun").without("dev/net/tun");
    expect(&fake, "tap-device", Status::Fail, "modprobe tun");
    expect(&fake.for_nic(), "tap-device", Status::Warn, "modprobe tun");
}

#[test]
fn what_is_less_than_it_should_be_warns() {
    let cpu = "sys/devices/system/cpu";
    for (name, path, text, words) in [
        ("cores", format!("{cpu}/online"), "0", "adaptive"),
        ("cpu-isolation", format!("{cpu}/isolated"), "", "isolcpus"),
        ("nohz-full", format!("{cpu}/nohz_full"), "(null)", "nohz_full="),
        ("irqbalance", "proc/77/comm".into(), "irqbalance\n", "systemctl disable --now irqbalance"),
        ("cpu-features", "proc/cpuinfo".into(), "flags : fpu sse4_2", "-cpu host"),
        (
            "cpu-governor",
            format!("{cpu}/cpu1/cpufreq/scaling_governor"),
            "powersave\n",
            "performance, powersave",
        ),
        ("cpu-idle-states", format!("{cpu}/cpu0/cpuidle/state0/latency"), "133\n", "C1 takes 133 us"),
        (
            "clock-source",
            "sys/devices/system/clocksource/clocksource0/current_clocksource".into(),
            "hpet",
            "hpet",
        ),
    ] {
        let fake = Fake::fit("less").with(&path, text);
        expect(&fake, name, Status::Warn, words);
    }
}

#[test]
fn an_idle_state_that_is_switched_off_disturbs_nobody() {
    let folder = "sys/devices/system/cpu/cpu0/cpuidle/state1";
    let fake =
        Fake::fit("idle").with(&format!("{folder}/name"), "C6").with(&format!("{folder}/latency"), "133");
    expect(&fake, "cpu-idle-states", Status::Warn, "C6");
    expect(&fake.with(&format!("{folder}/disable"), "1"), "cpu-idle-states", Status::Pass, "C1");
}

#[test]
fn hugepages_count_on_the_node_of_the_nic() {
    let node = "sys/devices/system/node/node";
    let pool = "hugepages/hugepages-2048kB";
    let fake = Fake::fit("huge").with(&format!("{node}0/{pool}/free_hugepages"), "3");
    expect(&fake, "hugepages", Status::Warn, "3 of 512 x 2 MiB free: less than 64 MiB");
    let fake = fake.for_nic();
    expect(&fake, "hugepages", Status::Fail, "--node 0");
    expect(&fake, "hugepages", Status::Fail, "--no-huge");
    // One page of 1 GiB is as good.
    let gigantic = "hugepages/hugepages-1048576kB";
    let fake = fake
        .with(&format!("{node}0/{gigantic}/nr_hugepages"), "1")
        .with(&format!("{node}0/{gigantic}/free_hugepages"), "1");
    expect(&fake, "hugepages", Status::Pass, "1 of 1 x 1 GiB free");
    // The NIC's node decides: pages of another are no help, and another that has none is no harm.
    let fake = fake
        .with(&format!("{node}1/{pool}/nr_hugepages"), "0")
        .with(&format!("{node}1/{pool}/free_hugepages"), "0");
    assert!(fake.report().ok);
    let fake = fake.with(&format!("sys/bus/pci/devices/{NIC}/numa_node"), "1");
    assert!(!fake.report().ok);
}

#[test]
fn the_kernel_may_show_no_node() {
    let fake = Fake::fit("flat").without("sys/devices/system/node").for_nic();
    expect(&fake, "hugepages", Status::Fail, "none reserved");
    let pool = "sys/kernel/mm/hugepages/hugepages-2048kB";
    let fake = fake.with(&format!("{pool}/nr_hugepages"), "64").with(&format!("{pool}/free_hugepages"), "64");
    expect(&fake, "hugepages", Status::Pass, "64 of 64 x 2 MiB free");
}

#[test]
fn locked_memory() {
    let fake = Fake::fit("memlock").with(LIMITS, "Max locked memory 8388608 8388608 bytes");
    expect(&fake, "memlock", Status::Warn, "8192 KiB");
    let fake = fake.for_nic();
    expect(&fake, "memlock", Status::Fail, "LimitMEMLOCK=infinity");
    let fake = fake.with(LIMITS, "Max locked memory 268435456 268435456 bytes");
    expect(&fake, "memlock", Status::Pass, "256 MiB");
    let fake = fake.with(LIMITS, "").with(STATUS, "CapEff:\t0000000000004000\n");
    expect(&fake, "memlock", Status::Pass, "CAP_IPC_LOCK");
}

#[test]
fn dpdk_and_its_drivers() {
    let fake = Fake::fit("dpdk").built_with(None);
    expect(&fake, "dpdk-version", Status::Warn, "--features dpdk");
    expect(&fake.for_nic(), "dpdk-version", Status::Fail, "--features dpdk");
    let fake = Fake::fit("old").built_with(Some("DPDK 20.11.3"));
    expect(&fake, "dpdk-version", Status::Warn, "22.11 or later");
    // A newer DPDK does not load the older one's drivers.
    let fake = Fake::fit("new").built_with(Some("DPDK 23.11.0"));
    expect(&fake, "dpdk-version", Status::Pass, "23.11");
    expect(&fake, "dpdk-drivers", Status::Warn, "pmds-24.0");
    expect(&fake.for_nic(), "dpdk-drivers", Status::Fail, "apt-get install libdpdk-dev");
}

#[test]
fn the_iommu_and_vfio_are_needed_by_a_nic() {
    let fake = Fake::fit("iommu").without("sys/kernel/iommu_groups");
    expect(&fake, "iommu", Status::Warn, "intel_iommu=on");
    let fake = fake.for_nic();
    expect(&fake, "iommu", Status::Fail, "intel_iommu=on");
    let fake = fake.with("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n");
    expect(&fake, "iommu", Status::Warn, "all memory");

    let fake = Fake::fit("vfio").without("sys/module/vfio_iommu_type1");
    expect(&fake, "vfio", Status::Warn, "vfio_iommu_type1");
    expect(&fake.for_nic(), "vfio", Status::Fail, "modprobe");
}

#[test]
fn a_nic_with_its_kernel_driver() {
    let fake = Fake::fit("kernel").with_kernel_nic("i40e", "up");
    expect(
        &fake,
        "nic",
        Status::Pass,
        "0000:03:00.0 (8086:1572), i40e, eth1 up at 10000 Mbit/s, NUMA node 0",
    );
    expect(&fake.for_nic(), "nic", Status::Fail, "scripts/nic bind 0000:03:00.0");
    let fake = Fake::fit("no-driver").without(&format!("sys/bus/pci/devices/{NIC}/driver"));
    expect(&fake, "nic", Status::Warn, "no driver");
    expect(&fake.for_nic(), "nic", Status::Fail, "scripts/nic bind");
}

#[test]
fn a_nic_that_dpdk_shares_with_the_kernel_needs_no_vfio() {
    let fake = Fake::fit("mlx5")
        .with_kernel_nic("mlx5_core", "up")
        .without("sys/kernel/iommu_groups")
        .without("sys/bus/pci/drivers/vfio-pci")
        .for_nic();
    assert!(fake.report().ok, "{}", fake.report());
    expect(&fake, "nic", Status::Pass, "shares it with the kernel");
    expect(&fake.with("sys/class/net/eth1/operstate", "down"), "nic", Status::Warn, "cable");
}

#[test]
fn the_group_of_a_nic_must_be_ours_alone() {
    let (other, bridge) = ("0000:03:00.1", "0000:02:00.0");
    let members = "sys/kernel/iommu_groups/12/devices";
    let fake = Fake::fit("group")
        .link(&format!("sys/bus/pci/devices/{NIC}/iommu_group"), "../../../../kernel/iommu_groups/12")
        .with(&format!("{members}/{NIC}"), "")
        .with(&format!("{members}/{bridge}"), "")
        .with(&format!("sys/bus/pci/devices/{bridge}/class"), "0x060400")
        .link(&format!("sys/bus/pci/devices/{bridge}/driver"), "../drivers/pcieport")
        .for_nic();
    expect(&fake, "nic", Status::Pass, "ready");
    let fake = fake
        .with(&format!("{members}/{other}"), "")
        .with(&format!("sys/bus/pci/devices/{other}/class"), "0x010000")
        .link(&format!("sys/bus/pci/devices/{other}/driver"), "../drivers/ahci");
    expect(&fake, "nic", Status::Fail, other);
}

#[test]
fn a_nic_on_another_machine_than_this() {
    let fake = Fake::fit("absent").serving(Purpose { address: Some("0000:04:00.0".into()), ..of_nic() });
    let report = fake.report();
    assert!(report.checks.iter().any(|check| check.found == "there is no NIC 0000:04:00.0"), "{report}");
    assert!(!report.ok);
    // A group that nobody gave us.
    let fake = Fake::fit("group-file").without("dev/vfio/12").for_nic();
    expect(&fake, "nic", Status::Fail, "no permission for /dev/vfio/12");
}

#[test]
fn cores_near_the_nic_are_named_where_there_are_others() {
    let node = "sys/devices/system/node/node";
    let fake = Fake::fit("numa")
        .with(&format!("{node}0/cpulist"), "0-15")
        .with(&format!("{node}1/cpulist"), "16-31");
    expect(&fake, "nic", Status::Pass, "cores 0-15 are near it");
}

#[test]
fn without_a_port_the_machine_shows_its_purpose() {
    let fake = Fake::fit("purpose");
    let machine = Machine::at(&fake.root);
    assert_eq!(Purpose::of(None, &machine), Purpose { address: None, ..of_nic() });
    let fake = fake.with_kernel_nic("i40e", "up");
    assert_eq!(Purpose::of(None, &Machine::at(&fake.root)), tap());
    let port = "tap:uns0".parse().unwrap();
    assert_eq!(Purpose::of(Some(&port), &machine), tap());
}

#[cfg(feature = "dpdk")]
#[test]
fn a_port_of_dpdk_is_a_nic_only_on_the_pci_bus() {
    let fake = Fake::fit("port");
    let machine = Machine::at(&fake.root);
    let of = |port: &str| Purpose::of(Some(&port.parse().unwrap()), &machine);
    assert_eq!(of("dpdk:0000:03:00.0"), of_nic());
    assert_eq!(of("dpdk:net_memif0,role=server"), Purpose { dpdk: true, ..Purpose::default() });
}

#[test]
fn the_table_has_a_line_for_each_check_and_a_sum() {
    let text = Fake::fit("table").with("sys/devices/system/cpu/online", "0").report().to_string();
    assert!(text.contains("pass  tap-device          /dev/net/tun opens\n"), "{text}");
    assert!(text.contains("warn  cores               1 online\n"), "{text}");
    assert!(text.contains("\n                          -> a spinning worker"), "{text}");
    assert!(text.ends_with("18 checks, 1 warnings, 0 failures\n"), "{text}");
}

#[test]
fn the_json_object_is_stable() {
    let json = serde_json::to_value(Fake::fit("json").report()).unwrap();
    assert_eq!(json["ok"], true);
    assert_eq!(json["checks"][0]["name"], "tap-device");
    assert_eq!(json["checks"][0]["status"], "pass");
    assert_eq!(json["checks"][0]["advice"], "");
}
