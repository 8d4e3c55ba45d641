//! Finds DPDK, compiles the shim and generates the raw bindings.
//!
//! The flags of `pkg-config --cflags libdpdk` go unchanged to both compilers: without its `-march` and
//! `-include rte_config.h` DPDK's headers do not compile, or compile to other layouts than the library's.

use std::env;
use std::path::PathBuf;
use std::process::{Command, exit};

/// The first release whose API this binding is written for.
const OLDEST: (u32, u32) = (22, 11);

/// DPDK's functions that Rust calls directly; everything else goes through the shim.
const FUNCTIONS: &[&str] = &[
    "shim_.*",
    "rte_version",
    "rte_eal_init",
    "rte_eal_cleanup",
    "rte_eal_get_runtime_dir",
    "rte_strerror",
    "rte_log_cur_msg_loglevel",
    "rte_log_set_global_level",
    "rte_thread_register",
    "rte_thread_unregister",
    "rte_dev_probe",
    "rte_mempool_free",
    "rte_mempool_avail_count",
    "rte_mempool_in_use_count",
    "rte_pktmbuf_free_bulk",
    "rte_eth_dev_start",
    "rte_eth_dev_stop",
    "rte_eth_dev_close",
    "rte_eth_dev_set_mtu",
    "rte_eth_dev_get_name_by_port",
    "rte_eth_dev_default_mac_addr_set",
    "rte_eth_macaddr_get",
    "rte_eth_promiscuous_(enable|disable|get)",
    "rte_eth_allmulticast_(enable|disable|get)",
    "rte_eth_dev_vlan_filter",
    "rte_eth_stats_reset",
    "rte_eth_xstats_get",
    "rte_eth_xstats_get_names",
    "rte_eth_dev_rss_hash_conf_get",
    "rte_eth_dev_rss_hash_update",
    "rte_eth_dev_rss_reta_(query|update)",
    "rte_eth_dev_rx_intr_(enable|disable)",
    "rte_eth_dev_rx_intr_ctl_q_get_fd",
];

/// Types that Rust passes by pointer and never looks into: declared empty instead of generated.
const OPAQUE: &[&str] = &["rte_mbuf", "rte_mempool"];

fn main() {
    for file in ["build.rs", "shim/shim.h", "shim/shim.c", "shim/bench.c"] {
        println!("cargo:rerun-if-changed={file}");
    }
    for variable in ["PKG_CONFIG", "PKG_CONFIG_PATH", "PKG_CONFIG_LIBDIR", "PKG_CONFIG_SYSROOT_DIR"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }

    let version = pkg_config(&["--modversion"]);
    check_version(version.trim());
    let cflags: Vec<String> = words(&pkg_config(&["--cflags"]));
    let libs = words(&pkg_config(&["--libs"]));
    rerun_when_dpdk_changes();

    compile_shim(&cflags);
    generate_bindings(&cflags);
    // After the shim: the linker resolves the shim's calls from the libraries that follow it.
    link(&libs);
}

fn fail(message: &str) -> ! {
    println!("cargo:warning={message}");
    eprintln!("{message}");
    exit(1);
}

fn pkg_config(what: &[&str]) -> String {
    let program = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".into());
    let output = match Command::new(&program).args(what).arg("libdpdk").output() {
        Ok(output) => output,
        Err(error) => fail(&format!(
            "cannot run `{program}` to find DPDK: {error}. On Debian and Ubuntu: apt-get install pkg-config libdpdk-dev libclang-dev"
        )),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        fail(&format!(
            "DPDK was not found by `{program} {} libdpdk` ({}). On Debian and Ubuntu: apt-get install libdpdk-dev libclang-dev; \
             for a DPDK of your own set PKG_CONFIG_PATH to the folder of its libdpdk.pc",
            what.join(" "),
            said.lines().next().unwrap_or("it said nothing")
        ));
    }
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn words(flags: &str) -> Vec<String> {
    flags.split_whitespace().map(str::to_owned).collect()
}

fn check_version(version: &str) {
    let mut numbers = version.split(['.', '-']).map(|part| part.parse::<u32>().ok());
    let found = (numbers.next().flatten(), numbers.next().flatten());
    let (Some(year), Some(month)) = found else {
        fail(&format!("pkg-config says DPDK's version is `{version}`, which is not of the form 22.11.1"));
    };
    if (year, month) < OLDEST {
        fail(&format!(
            "DPDK {version} is too old: {}.{} or newer is needed. Debian 12 and Ubuntu 24.04 carry one: apt-get install libdpdk-dev libclang-dev",
            OLDEST.0, OLDEST.1
        ));
    }
    println!("cargo:rustc-env=DPDK_BUILD_VERSION={version}");
}

/// An upgraded libdpdk-dev must be bound anew: its .pc file changes with it.
fn rerun_when_dpdk_changes() {
    let folder = pkg_config(&["--variable=pcfiledir"]);
    println!("cargo:rerun-if-changed={}/libdpdk.pc", folder.trim());
}

fn compile_shim(cflags: &[String]) {
    let mut build = cc::Build::new();
    build.file("shim/shim.c").flag("-std=gnu11").warnings(true).extra_warnings(true);
    if env::var_os("CARGO_FEATURE_BENCH").is_some() {
        build.file("shim/bench.c");
    }
    // DPDK's inline functions are the hot path even where the rest is a debug build.
    build.opt_level(3);
    let mut flags = cflags.iter();
    while let Some(flag) = flags.next() {
        match flag.strip_prefix("-I") {
            // System headers, so that their warnings are not taken for the shim's.
            Some(folder) => build.flag("-isystem").flag(folder),
            None if flag == "-include" => build.flag(flag).flag(flags.next().map_or("", String::as_str)),
            None => build.flag(flag),
        };
    }
    build.compile("unsocket_dpdk_shim");
}

fn generate_bindings(cflags: &[String]) {
    let mut builder = bindgen::Builder::default()
        .header("shim/shim.h")
        .clang_args(cflags)
        .allowlist_var("SHIM_.*")
        .allowlist_type("shim_.*")
        .allowlist_recursively(true)
        .prepend_enum_name(false)
        .generate_comments(false)
        .layout_tests(true)
        .derive_default(true)
        .use_core();
    for function in FUNCTIONS {
        builder = builder.allowlist_function(function);
    }
    for name in OPAQUE {
        builder = builder.blocklist_type(format!("{name}(_.*)?")).raw_line(format!(
            "#[repr(C)] pub struct {name} {{ _opaque: [u8; 0], _pinned: core::marker::PhantomData<(*mut u8, core::marker::PhantomPinned)> }}"
        ));
    }
    let bindings = match builder.generate() {
        Ok(bindings) => bindings,
        Err(error) => fail(&format!("bindgen cannot read DPDK's headers: {error}")),
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("bindings.rs");
    if let Err(error) = bindings.write_to_file(&out) {
        fail(&format!("cannot write {}: {error}", out.display()));
    }
}

/// Links the shared libraries. The drivers are not among them: EAL loads them from its plugin folder.
fn link(libs: &[String]) {
    for flag in libs {
        if let Some(folder) = flag.strip_prefix("-L") {
            println!("cargo:rustc-link-search=native={folder}");
        } else if let Some(library) = flag.strip_prefix("-l") {
            println!("cargo:rustc-link-lib=dylib={library}");
        }
    }
}
