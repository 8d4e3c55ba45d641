//! What the binding costs: forwarding through it against the same loop in C with DPDK's functions inlined.
//!
//! `cargo run --release -p unsocket-dpdk --features bench --example shim_cost -- [--no-huge] [DEVARGS]`
//! (default net_null0; net_ring0 passes 64 frames round and round).

use dpdk::{BURST_MAX, Eal, EalArgs, Memory, Mempool, MempoolConfig, Port, PortConfig};
use std::collections::VecDeque;
use std::time::Instant;

const FRAMES: u64 = 20_000_000;
const TURNS: usize = 5;

fn main() -> dpdk::Result<()> {
    let mut args = EalArgs::new();
    let mut device = "net_null0".to_owned();
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--no-huge" => args = args.memory(Memory::Ordinary { mib: 128 }),
            devargs => device = devargs.to_owned(),
        }
    }
    let eal = Eal::init(&args.device(device.parse()?))?;
    let pool = Mempool::new(&eal, MempoolConfig::default())?;
    let mut port = Port::open(&eal, eal.ports()[0])?;
    let (mut rx, mut tx) = port.start(&PortConfig::default(), std::slice::from_ref(&pool))?;
    let (rx, tx) = (&mut rx[0], &mut tx[0]);

    let mut burst = VecDeque::with_capacity(2 * BURST_MAX);
    if device.starts_with("net_ring") {
        pool.alloc_burst(&mut burst, BURST_MAX);
        burst.iter_mut().for_each(|mbuf| mbuf.set_len(64));
        tx.tx_burst(&mut burst);
    }
    println!("{}, {}; ns per frame, best of {TURNS} turns of {FRAMES} frames", Eal::version(), device);
    println!("{:>6} {:>9} {:>9}", "burst", "C inline", "binding");
    for size in [1, 8, 32, 64] {
        let rounds = FRAMES / u64::from(size);
        // Turn by turn, so that what else the machine does falls on both.
        let mut best = [f64::MAX; 2];
        for _ in 0..TURNS {
            let started = Instant::now();
            let frames = dpdk::bench::forward_in_c(rx, tx, size, rounds);
            best[0] = best[0].min(started.elapsed().as_nanos() as f64 / frames as f64);

            let started = Instant::now();
            let mut frames = 0;
            for _ in 0..rounds {
                frames += rx.rx_burst(&mut burst, usize::from(size));
                tx.tx_burst(&mut burst);
            }
            best[1] = best[1].min(started.elapsed().as_nanos() as f64 / frames as f64);
        }
        println!("{size:>6} {:>9.2} {:>9.2}", best[0], best[1]);
    }
    Ok(())
}
