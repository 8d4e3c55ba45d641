//! The same forwarding loop with DPDK's inline functions compiled in C, to measure what the binding costs.

use crate::queue::{RxQueue, TxQueue};

unsafe extern "C" {
    fn shim_bench_forward(
        rx_port: u16,
        rx_queue: u16,
        tx_port: u16,
        tx_queue: u16,
        burst: u16,
        rounds: u64,
    ) -> u64;
}

/// Receives and sends `rounds` bursts of `burst` frames (at most 64), all in C; returns how many frames were received. Frames that
/// are not taken are freed.
pub fn forward_in_c(rx: &mut RxQueue, tx: &mut TxQueue, burst: u16, rounds: u64) -> u64 {
    // SAFETY: both queues are borrowed exclusively, so their ports run and nobody else uses them; every mbuf that is received
    // is sent or freed before the call ends.
    unsafe { shim_bench_forward(rx.port(), rx.queue(), tx.port(), tx.queue(), burst.min(64), rounds) }
}
