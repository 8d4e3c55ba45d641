//! What the launcher tells the operator: how the workers are set up, what their device's steering turns out to be, what they did.

use super::config::{EngineConfig, Steering};
use super::handler::Handler;
use super::placement::{Cause, Finding};
use super::stats::WorkerReport;
use super::worker::Worker;
use crate::port::Port;
use crate::stack::Lease;

/// One line that says how the workers are set up.
pub(super) fn start<P: Port>(config: &EngineConfig, ports: &[P]) {
    let names: Vec<&str> = ports.iter().map(|port| port.info().name.as_str()).collect();
    let addrs: Vec<String> = config.stack.addrs.iter().map(ToString::to_string).collect();
    let steering = match (ports.len(), config.steering) {
        (1, _) => "one worker, nothing to steer",
        (_, Steering::Device) if ports.iter().all(|port| port.info().rss.is_some()) => {
            "by the device (RSS); what comes to another worker than the flow's is handed over"
        }
        _ => "by flow hash; what comes to another worker than the flow's is handed over",
    };
    tracing::info!(
        ports = names.join(","),
        addrs = addrs.join(","),
        dhcp = config.stack.dhcp,
        listen = ?config.listen,
        workers = ports.len(),
        cores = ?config.cores,
        steering,
        idle = ?config.idle,
        "starting"
    );
}

/// Says what the first flows have shown of the device's steering. Once for each worker.
pub(super) fn steering<P: Port, H: Handler>(worker: &Worker<P, H>, found: Finding) {
    let (index, port) = (worker.index(), worker.port().info().name.as_str());
    const HANDED_OVER: &str = "flows land on workers that do not own them; their frames are handed over, which works and costs time";
    match found {
        Finding::Confirmed { flows } => {
            tracing::info!(worker = index, port, flows, "the first flows came to the workers that own them");
        }
        Finding::Misplaced(Cause::NoRule) => tracing::info!(
            worker = index,
            port,
            "the device does not steer by the workers' flow hash: {HANDED_OVER}"
        ),
        Finding::Misplaced(Cause::OtherHash) => tracing::warn!(
            worker = index,
            port,
            "RSS is not as it was set up, the device hashes by another key or other headers: {HANDED_OVER}"
        ),
        Finding::Misplaced(Cause::OtherQueue) => tracing::warn!(
            worker = index,
            port,
            "RSS is not as it was set up, the device does not follow its redirection table: {HANDED_OVER}"
        ),
    }
}

/// Where the server can be reached from now on, or that it cannot.
pub(super) fn lease(lease: Option<Lease>) {
    match lease {
        Some(Lease { addr, router: Some(router), .. }) => tracing::info!(%addr, %router, "DHCP lease"),
        Some(Lease { addr, router: None, .. }) => tracing::info!(%addr, "DHCP lease, without a router"),
        None => tracing::warn!("DHCP lease lost: its address and the connections to it are gone"),
    }
}

/// One line that says what a worker has done, at its end.
pub(super) fn end(report: &WorkerReport) {
    let WorkerReport { worker, engine, stack, port } = report;
    tracing::info!(
        worker,
        rx_frames = port.rx_frames,
        tx_frames = port.tx_frames,
        tx_cut_frames = port.tx_cut_frames + stack.tx_cut,
        rx_merged = stack.rx_merged,
        rx_dropped = port.rx_dropped,
        rx_other_vlan = port.rx_other_vlan,
        accepted = stack.rx_syn_accepted,
        no_flow = stack.rx_no_flow + stack.rx_rst_sent,
        bad_checksum = stack.rx_bad_checksum,
        handed_over = engine.handed_over,
        taken_over = engine.taken_over,
        hand_over_dropped = engine.hand_over_dropped,
        misplaced = engine.misplaced,
        to_kernel = engine.to_kernel,
        from_kernel = engine.from_kernel,
        exception_dropped = engine.exception_dropped,
        opened = engine.opened,
        messages_in = engine.messages_in,
        messages_out = engine.messages_out,
        "worker ended"
    );
}
