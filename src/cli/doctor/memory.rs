//! Hugepages, and memory that may be locked.

use super::Check;
use super::checks::{lacks, pass};
use super::machine::{CAP_IPC_LOCK, Machine};
use super::purpose::Purpose;

/// Least `RLIMIT_MEMLOCK` that is of use with DPDK: a small mempool and its rings.
const MEMLOCK_BYTES_MIN: u64 = 64 << 20;
/// Least free hugepages for one worker: its mempool, rings and EAL's own.
const HUGEPAGE_BYTES_MIN: u64 = 64 << 20;

/// Hugepages of one size, on one node or all.
#[derive(Debug)]
struct Pool {
    kib: u64,
    total: u64,
    free: u64,
}

/// One check for each NUMA node, or one for a machine that shows none.
pub(super) fn hugepages(machine: &Machine, purpose: &Purpose) -> Vec<Check> {
    let nodes: Vec<u32> = machine
        .list("sys/devices/system/node")
        .into_iter()
        .filter_map(|node| node.strip_prefix("node")?.parse().ok())
        .collect();
    if nodes.is_empty() {
        return vec![of_node(None, pools(machine, None), purpose.dpdk)];
    }
    // A NIC's mempools are on its node; the other nodes' pages are of no use to it.
    let of_nic = purpose.node(machine);
    let needed = |node| purpose.dpdk && of_nic.unwrap_or(nodes[0]) == node;
    nodes.iter().map(|&node| of_node(Some(node), pools(machine, Some(node)), needed(node))).collect()
}

fn pools(machine: &Machine, node: Option<u32>) -> Vec<Pool> {
    let folder = match node {
        Some(node) => format!("sys/devices/system/node/node{node}/hugepages"),
        None => "sys/kernel/mm/hugepages".to_owned(),
    };
    let pool = |name: String| {
        let number = |file: &str| machine.read(&format!("{folder}/{name}/{file}"))?.parse::<u64>().ok();
        let kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        Some(Pool { kib, total: number("nr_hugepages")?, free: number("free_hugepages")? })
    };
    machine.list(&folder).into_iter().filter_map(pool).collect()
}

fn of_node(node: Option<u32>, pools: Vec<Pool>, needed: bool) -> Check {
    let name = "hugepages";
    let place = node.map_or_else(String::new, |node| format!("node {node}: "));
    let option = node.map_or_else(String::new, |node| format!("--node {node} "));
    let advice = format!(
        "`scripts/hugepages {option}--at-boot 256` (512 MiB); a port through DPDK needs them, or --no-huge; TAP does without"
    );
    let reserved: Vec<String> = pools
        .iter()
        .filter(|pool| pool.total > 0)
        .map(|Pool { kib, total, free }| format!("{free} of {total} x {} free", size(*kib)))
        .collect();
    if reserved.is_empty() {
        return lacks(needed, name, format!("{place}none reserved"), &advice);
    }
    let found = format!("{place}{}", reserved.join(", "));
    let free: u64 = pools.iter().map(|pool| pool.free.saturating_mul(pool.kib << 10)).sum();
    if free < HUGEPAGE_BYTES_MIN {
        return lacks(needed, name, format!("{found}: less than {} MiB", HUGEPAGE_BYTES_MIN >> 20), &advice);
    }
    pass(name, found)
}

fn size(kib: u64) -> String {
    if kib.is_multiple_of(1 << 20) { format!("{} GiB", kib >> 20) } else { format!("{} MiB", kib >> 10) }
}

pub(super) fn memlock(machine: &Machine, purpose: &Purpose) -> Check {
    let name = "memlock";
    if machine.has_capability(CAP_IPC_LOCK) {
        return pass(name, "CAP_IPC_LOCK is effective: no limit applies");
    }
    let soft = machine
        .field("proc/self/limits", "Max locked memory")
        .and_then(|line| line.split_whitespace().next().map(str::to_owned));
    let advice = "`ulimit -l unlimited`, `LimitMEMLOCK=infinity` in a systemd unit, or memlock in \
                  /etc/security/limits.conf; a NIC through DPDK needs it, TAP does without";
    match soft.as_deref() {
        Some("unlimited") => pass(name, "unlimited"),
        Some(text) => match text.parse::<u64>() {
            Ok(bytes) if bytes >= MEMLOCK_BYTES_MIN => pass(name, format!("{} MiB", bytes >> 20)),
            Ok(bytes) => lacks(purpose.nic, name, format!("{} KiB", bytes >> 10), advice),
            Err(_) => lacks(purpose.nic, name, format!("unknown: {text}"), advice),
        },
        None => lacks(purpose.nic, name, "unknown: /proc/self/limits cannot be read", advice),
    }
}
