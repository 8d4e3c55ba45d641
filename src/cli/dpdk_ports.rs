//! DPDK ports for the commands: one for each worker, or an error that says so.

use crate::port::dpdk::{self, DpdkConfig, DpdkError, DpdkPort};

/// Opens the device, and has a queue pair for every worker.
pub(super) fn open(config: &DpdkConfig) -> Result<Vec<DpdkPort>, DpdkError> {
    let ports = dpdk::open(config)?;
    if ports.len() < config.queues {
        let device = config.device.to_string();
        return Err(DpdkError::FewQueues { device, wanted: config.queues, given: ports.len() });
    }
    Ok(ports)
}
