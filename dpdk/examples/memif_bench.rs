//! Frames per second and round trip between two processes over net_memif, without the kernel.
//!
//! `cargo run --release -p unsocket-dpdk --example memif_bench -- [--no-huge] [--seconds N] [--cpus A,B]`
//! starts its own second process.

use dpdk::{
    BURST_MAX, Eal, EalArgs, Mbuf, Memory, Mempool, MempoolConfig, Port, PortConfig, RxQueue, TxQueue,
};
use std::collections::VecDeque;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

struct Options {
    memory: Memory,
    seconds: f64,
    cpus: Option<(usize, usize)>,
    /// Devargs, for the second process.
    echo: Option<String>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = options()?;
    match &options.echo {
        Some(devargs) => echo(&options, devargs),
        None => measure(&options),
    }
}

fn options() -> Result<Options, Box<dyn std::error::Error>> {
    let mut options = Options { memory: Memory::HugePages, seconds: 1.0, cpus: None, echo: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--no-huge" => options.memory = Memory::Ordinary { mib: 256 },
            "--seconds" => options.seconds = value()?.parse()?,
            "--cpus" => {
                let value = value()?;
                let (ours, theirs) = value.split_once(',').ok_or("--cpus takes two numbers: 1,2")?;
                options.cpus = Some((ours.parse()?, theirs.parse()?));
            }
            "--echo" => options.echo = Some(value()?),
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    Ok(options)
}

/// The port of `devargs`, on `cpu` alone where one is given.
fn open(
    options: &Options,
    devargs: &str,
    cpu: Option<usize>,
) -> dpdk::Result<(Eal, Port, RxQueue, TxQueue, Mempool)> {
    let args = EalArgs::new().memory(options.memory).device(devargs.parse()?);
    let eal = Eal::init(&cpu.into_iter().fold(args, |args, cpu| args.cpus([cpu])))?;
    let pool = Mempool::new(&eal, MempoolConfig::default())?;
    let mut port = Port::open(&eal, eal.ports()[0])?;
    let (mut rx, mut tx) = port.start(&PortConfig::default(), std::slice::from_ref(&pool))?;
    Ok((eal, port, rx.remove(0), tx.remove(0), pool))
}

fn echo(options: &Options, devargs: &str) -> Result<(), Box<dyn std::error::Error>> {
    let (_eal, _port, mut rx, mut tx, _pool) =
        open(options, devargs, options.cpus.map(|(_, theirs)| theirs))?;
    let mut burst = VecDeque::with_capacity(2 * BURST_MAX);
    loop {
        rx.rx_burst(&mut burst, BURST_MAX);
        if !burst.is_empty() {
            tx.tx_burst(&mut burst);
        }
        // What the other side has no room for is not worth keeping here.
        Mbuf::free_burst(&mut burst);
    }
}

fn measure(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let socket = std::env::temp_dir().join(format!("memif-bench-{}.sock", std::process::id()));
    let devargs =
        |role: &str| format!("net_memif0,role={role},id=0,socket={},socket-abstract=no", socket.display());
    let (_eal, port, mut rx, mut tx, pool) =
        open(options, &devargs("server"), options.cpus.map(|(ours, _)| ours))?;
    let mut peer = Command::new(std::env::current_exe()?)
        .args(std::env::args().skip(1))
        .args(["--echo", &devargs("client")])
        .stdin(Stdio::null())
        .spawn()?;
    let measured = measure_with_peer(options, &port, &mut rx, &mut tx, &pool);
    peer.kill()?;
    peer.wait()?;
    measured
}

fn measure_with_peer(
    options: &Options,
    port: &Port,
    rx: &mut RxQueue,
    tx: &mut TxQueue,
    pool: &Mempool,
) -> Result<(), Box<dyn std::error::Error>> {
    if !port.wait_link(Duration::from_secs(10))?.up {
        return Err("the second process did not connect".into());
    }
    println!("{}, net_memif, two processes, echo", Eal::version());
    println!(
        "{:>6} {:>10} {:>8} {:>9} {:>9} {:>9}",
        "bytes", "frames/s", "Gbit/s", "p50 us", "p99 us", "min us"
    );
    for bytes in [64, 256, 1500] {
        let rate = throughput(options, rx, tx, pool, bytes);
        let mut times = round_trips(options, rx, tx, pool, bytes)?;
        times.sort_unstable();
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize] as f64 / 1000.0;
        println!(
            "{bytes:>6} {rate:>10.0} {:>8.2} {:>9.2} {:>9.2} {:>9.2}",
            rate * bytes as f64 * 8.0 / 1e9,
            at(0.5),
            at(0.99),
            at(0.0)
        );
    }
    Ok(())
}

/// Frames per second that come back, with as many under way as the rings take.
fn throughput(options: &Options, rx: &mut RxQueue, tx: &mut TxQueue, pool: &Mempool, bytes: usize) -> f64 {
    let (mut out, mut back) =
        (VecDeque::with_capacity(2 * BURST_MAX), VecDeque::with_capacity(2 * BURST_MAX));
    let mut frames = 0u64;
    let started = Instant::now();
    let mut elapsed = 0.0;
    while elapsed < options.seconds {
        for _ in 0..1000 {
            if out.is_empty() {
                pool.alloc_burst(&mut out, BURST_MAX / 2);
                out.iter_mut().for_each(|mbuf| mbuf.set_len(bytes));
            }
            tx.tx_burst(&mut out);
            frames += rx.rx_burst(&mut back, BURST_MAX) as u64;
            Mbuf::free_burst(&mut back);
        }
        elapsed = started.elapsed().as_secs_f64();
    }
    frames as f64 / elapsed
}

/// Nanoseconds of single frames there and back.
fn round_trips(
    options: &Options,
    rx: &mut RxQueue,
    tx: &mut TxQueue,
    pool: &Mempool,
    bytes: usize,
) -> Result<Vec<u64>, Box<dyn std::error::Error>> {
    let mut burst = VecDeque::with_capacity(2 * BURST_MAX);
    // What the throughput left under way.
    let quiet = Instant::now();
    while quiet.elapsed() < Duration::from_millis(50) {
        rx.rx_burst(&mut burst, BURST_MAX);
        Mbuf::free_burst(&mut burst);
    }
    let mut times = Vec::new();
    let started = Instant::now();
    while started.elapsed().as_secs_f64() < options.seconds {
        let mut mbuf = pool.alloc().ok_or("the mempool is used up")?;
        mbuf.set_len(bytes);
        burst.push_back(mbuf);
        let sent = Instant::now();
        tx.tx_burst(&mut burst);
        while rx.rx_burst(&mut burst, BURST_MAX) == 0 {
            if sent.elapsed() > Duration::from_secs(1) {
                return Err("a frame did not come back within a second".into());
            }
        }
        times.push(sent.elapsed().as_nanos() as u64);
        Mbuf::free_burst(&mut burst);
    }
    Ok(times)
}
