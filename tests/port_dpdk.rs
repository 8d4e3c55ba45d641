//! DPDK ports, as the engine sees them: over shared memory between two processes, and against the kernel in a network
//! namespace. Needs root, iproute2 and the feature `dpdk`.
//!
//! Memory is ordinary pages; `DPDK_MEMORY=huge` takes hugepages.

#[path = "port_dpdk/engine.rs"]
mod engine;
#[path = "port_dpdk/exception.rs"]
mod exception;
#[path = "port_tap/frames.rs"]
#[allow(dead_code)] // Shared with the TAP tests, which use all of it.
mod frames;
#[path = "port_dpdk/kernel.rs"]
mod kernel;
#[path = "port_dpdk/memif.rs"]
mod memif;
#[path = "../dpdk/tests/scenarios/runner.rs"]
#[allow(dead_code)] // Shared with the tests of the binding, which use all of it.
mod runner;
#[path = "port_dpdk/segmentation.rs"]
mod segmentation;
#[path = "port_dpdk/setup.rs"]
mod setup;
#[path = "port_dpdk/sleep.rs"]
mod sleep;
#[path = "port_dpdk/steering.rs"]
mod steering;
#[path = "port_dpdk/vlan.rs"]
mod vlan;

use runner::Scenario;
use std::process::ExitCode;

const SCENARIOS: &[Scenario] = &[
    ("what_cannot_work_is_refused", setup::refused),
    ("second_device_joins_the_first", setup::second_device),
    ("an_ordinary_user_needs_no_privilege_for_memory", setup::ordinary_user),
    ("used_up_mempool_is_counted", setup::exhaustion),
    ("unsent_frames_stay_with_the_caller", setup::unsent),
    ("two_processes_over_memif", memif::two_processes),
    ("jumbo_frames_over_memif", memif::jumbo),
    ("frames_in_several_buffers_over_memif", memif::chained),
    ("frames_over_the_mtu_are_dropped_and_counted", memif::too_long),
    ("each_worker_has_its_own_queue", memif::queues),
    ("peer_is_killed_and_comes_back", memif::killed),
    ("af_packet_against_the_kernel", kernel::af_packet),
    ("af_xdp_against_the_kernel", kernel::af_xdp),
    ("tap_fills_in_tcp_checksums", kernel::tap_checksums),
    ("messages_between_two_processes", engine::verified),
    ("messages_in_jumbo_frames_without_checksums", engine::trusted_jumbo),
    ("messages_from_the_kernels_tcp", engine::kernel_client),
    ("segments_that_are_cut_for_the_kernels_tcp", engine::kernel_client_of_cut_segments),
    ("large_segments_leave_the_device_in_pieces", segmentation::cut),
    ("large_segments_of_a_vlan_leave_the_device_in_pieces", segmentation::cut_in_a_vlan),
    ("large_frames_come_from_a_mempool_of_their_own", segmentation::exhaustion),
    ("rss_is_set_up_and_read_back", steering::rss_is_read_back),
    ("flows_keep_to_their_queues_over_memif", steering::queue_to_queue),
    ("one_client_worker_reaches_two_server_workers", steering::one_asks_two),
    ("two_client_workers_reach_four_server_workers", steering::two_ask_four),
    ("several_workers_share_the_queue_of_a_memif", steering::one_memif_queue),
    ("peer_with_fewer_vhost_queues_is_served_by_all", steering::fewer_vhost_queues),
    ("several_workers_share_one_queue", steering::shared_queue),
    ("several_workers_behind_the_kernels_steering", steering::kernel_steers),
    ("tags_of_a_vlan_go_on_and_come_off", vlan::tags),
    ("other_vlans_stay_out", vlan::others_stay_out),
    ("messages_in_a_vlan", vlan::engines),
    ("idle_workers_are_woken_by_interrupts", sleep::woken_by_interrupts),
    ("idle_workers_without_interrupts_look_every_so_often", sleep::looking_every_so_often),
    ("exception_path_leaves_ssh_and_ping_to_the_kernel", exception::ssh_and_ping),
];

const PEERS: &[Scenario] = &[
    ("serve", engine::serve_peer),
    ("count", steering::count_peer),
    ("echo", memif::echo_peer),
    ("shout", memif::shout_peer),
    ("tag", vlan::tag_peer),
];

fn main() -> ExitCode {
    runner::main(SCENARIOS, PEERS)
}
