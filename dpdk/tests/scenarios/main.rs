//! Everything here runs against the real DPDK on ports of software. EAL starts once per process, so each scenario is a
//! process of its own, and one that needs a peer starts it as another.
//!
//! `cargo test -p unsocket-dpdk [-- NAME]`, as root. Memory is ordinary pages; `DPDK_MEMORY=huge` takes hugepages.

mod errors;
mod memif;
mod memory;
mod ports;
mod runner;
mod support;

use runner::Scenario;
use std::process::ExitCode;

const SCENARIOS: &[Scenario] = &[
    ("eal_starts_once_and_logs_to_tracing", errors::starts_once),
    ("hugepages_or_a_clear_error", errors::hugepages_or_error),
    ("wrong_argument", errors::wrong_argument),
    ("secondary_without_primary", errors::secondary),
    ("absent_pci_device", errors::absent_pci),
    ("unknown_driver", errors::unknown_driver),
    ("wrong_devargs", errors::wrong_devargs),
    ("mempool_counts", memory::counts),
    ("packed_mbufs_lie_side_by_side", memory::packed),
    ("mbufs_outlive_their_pool_and_eal", memory::outlive),
    ("mbuf_data_and_length", memory::data),
    ("threads_register_and_free_for_each_other", memory::threads),
    ("ring_loopback", ports::ring_loopback),
    ("ring_full_keeps_frames_with_the_caller", ports::ring_full),
    ("null_port_gives_every_mbuf_back", ports::null),
    ("port_is_set_up_within_its_capabilities", ports::capabilities),
    ("port_mac_and_rss_table", ports::mac_and_rss_table),
    ("port_has_one_owner", ports::one_owner),
    ("frames_that_cannot_be_sent_are_refused", ports::refused),
    ("memif_frames_byte_for_byte", memif::byte_for_byte),
    ("memif_chains_are_linearized", memif::chains),
    ("memif_peer_is_killed_and_comes_back", memif::killed),
    ("memif_peer_goes_in_the_middle_of_a_burst", memif::goes_in_a_burst),
];

/// What a scenario's second process runs.
const PEERS: &[Scenario] = &[("echo", memif::echo_peer), ("digest", memif::digest_peer)];

fn main() -> ExitCode {
    println!("\nmemory: {:?}", support::memory());
    runner::main(SCENARIOS, PEERS)
}
