//! What the scenarios share.

use dpdk::{Device, Eal, EalArgs, Mbuf, Memory, Mempool, MempoolConfig, Port, PortConfig, RxQueue, TxQueue};
use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What this process logs.
#[derive(Clone, Default)]
pub(crate) struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    /// From now on.
    pub(crate) fn open(level: tracing::Level) -> Self {
        let captured = Self::default();
        let writer = captured.clone();
        tracing_subscriber::fmt()
            .with_max_level(level)
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .init();
        captured
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What `DPDK_MEMORY` asks for.
pub(crate) fn memory() -> Memory {
    match std::env::var("DPDK_MEMORY").as_deref() {
        Err(_) | Ok("ordinary") => Memory::Ordinary { mib: 256 },
        Ok("huge") => Memory::HugePages,
        Ok(other) => panic!("DPDK_MEMORY={other}: it is `huge` or `ordinary`"),
    }
}

pub(crate) fn args() -> EalArgs {
    EalArgs::new().memory(memory())
}

pub(crate) fn device(devargs: &str) -> Device {
    devargs.parse().unwrap_or_else(|error| panic!("{error}"))
}

/// EAL with one device, and a mempool whose mbufs hold `data_bytes`.
pub(crate) fn eal_and_pool(devargs: &str, data_bytes: u16) -> (Eal, Mempool) {
    let eal = Eal::init(&args().device(device(devargs))).unwrap_or_else(|error| panic!("{error}"));
    let pool = pool(&eal, 2047, data_bytes);
    (eal, pool)
}

pub(crate) fn pool(eal: &Eal, mbufs: u32, data_bytes: u16) -> Mempool {
    let config =
        MempoolConfig { mbufs, cache_mbufs: 64.min(mbufs / 4), data_bytes, ..MempoolConfig::default() };
    Mempool::new(eal, config).unwrap_or_else(|error| panic!("{error}"))
}

/// The device's port, started with one queue pair.
pub(crate) fn start(
    eal: &Eal,
    devargs: &str,
    config: &PortConfig,
    pool: &Mempool,
) -> (Port, RxQueue, TxQueue) {
    let ports = eal.ports_of(&device(devargs)).unwrap();
    let mut port = Port::open(eal, ports[0]).unwrap();
    let (mut rx, mut tx) =
        port.start(config, std::slice::from_ref(pool)).unwrap_or_else(|error| panic!("{error}"));
    (port, rx.remove(0), tx.remove(0))
}

/// A frame of `len` bytes that no other `seed` has.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

pub(crate) fn filled(pool: &Mempool, bytes: &[u8]) -> Mbuf {
    let mut mbuf = pool.alloc().expect("a free mbuf");
    mbuf.set_len(bytes.len());
    mbuf.data_mut().copy_from_slice(bytes);
    mbuf
}

/// Receives until there are `count` frames in `burst`.
pub(crate) fn receive(rx: &mut RxQueue, burst: &mut VecDeque<Mbuf>, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while burst.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} frames came", burst.len());
        if rx.rx_burst(burst, 32) == 0 {
            std::thread::yield_now();
        }
    }
}

/// Sends all of `burst`.
pub(crate) fn send(tx: &mut TxQueue, burst: &mut VecDeque<Mbuf>) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !burst.is_empty() {
        assert!(Instant::now() < deadline, "{} frames were not taken", burst.len());
        if tx.tx_burst(burst) == 0 {
            std::thread::yield_now();
        }
    }
}
