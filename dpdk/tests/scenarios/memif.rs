//! Two processes joined by shared memory, with no kernel in the data path.

use crate::runner::{self, Peer};
use crate::support::{Captured, eal_and_pool, filled, pattern, pool, receive, send, start};
use dpdk::{Mbuf, Mempool, Port, PortConfig, RxQueue, TxQueue};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const JUMBO_BYTES: u16 = 9216;
const LINK_TIME: Duration = Duration::from_secs(20);

/// Where the two meet: a socket that is gone when the scenario is.
struct Meeting(PathBuf);

impl Meeting {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("unsocket-dpdk-{}.sock", std::process::id())))
    }

    fn devargs(&self, role: &str) -> String {
        format!("net_memif0,role={role},id=0,bsize=2048,socket={},socket-abstract=no", self.0.display())
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The other process, with mbufs of `data_bytes`.
fn start_peer(name: &str, meeting: &Meeting, data_bytes: u16) -> Peer {
    Peer::start(name, &[&meeting.devargs("client"), &data_bytes.to_string()])
}

/// Sends back whatever comes, until its standard input ends.
pub(crate) fn echo_peer() {
    work_as_peer(|rx, tx, burst, _| {
        rx.rx_burst(burst, 32);
        tx.tx_burst(burst);
    });
}

/// Answers each frame, in as many segments as it may come, with its [`digest`], until its standard input ends.
pub(crate) fn digest_peer() {
    work_as_peer(|rx, tx, burst, large| {
        rx.rx_burst(burst, 32);
        for mbuf in burst.iter_mut() {
            let segments = mbuf.segments();
            mbuf.linearize(large).unwrap();
            let answer = digest(mbuf.data(), segments);
            mbuf.set_len(answer.len());
            mbuf.data_mut().copy_from_slice(&answer);
        }
        send(tx, burst);
    });
}

fn work_as_peer(mut work: impl FnMut(&mut RxQueue, &mut TxQueue, &mut VecDeque<Mbuf>, &Mempool)) {
    let arguments = runner::peer_arguments();
    let (devargs, data_bytes) = (&arguments[0], arguments[1].parse::<u16>().unwrap());
    let (eal, pool) = eal_and_pool(devargs, data_bytes);
    let large = self::pool(&eal, 255, JUMBO_BYTES);
    let (port, mut rx, mut tx) = start(&eal, "net_memif0", &config(data_bytes), &pool);
    let mut burst = VecDeque::new();
    runner::until_stdin_ends(|| work(&mut rx, &mut tx, &mut burst, &large));
    drop((burst, port, rx, tx));
    assert_eq!((pool.in_use(), large.in_use()), (0, 0), "mbufs lost by the peer");
}

/// A short frame that says how long a frame was, in how many segments it came, and the sum of its bytes by position.
fn digest(frame: &[u8], segments: usize) -> Vec<u8> {
    let sum = frame
        .iter()
        .zip(1u64..)
        .fold(0u64, |sum, (&byte, at)| sum.wrapping_add(u64::from(byte).wrapping_mul(at)));
    let mut answer = vec![0; 60];
    answer[14..18].copy_from_slice(&(frame.len() as u32).to_be_bytes());
    answer[18..20].copy_from_slice(&(segments as u16).to_be_bytes());
    answer[20..28].copy_from_slice(&sum.to_be_bytes());
    answer
}

/// An MTU as large as the mbufs allow.
fn config(data_bytes: u16) -> PortConfig {
    PortConfig { mtu: if data_bytes >= JUMBO_BYTES { 9000 } else { 1500 }, ..PortConfig::default() }
}

/// The server's end, listening when this returns: a client whose server is not there does not start.
fn listen(meeting: &Meeting, data_bytes: u16) -> (Port, RxQueue, TxQueue, Mempool) {
    let (eal, pool) = eal_and_pool(&meeting.devargs("server"), data_bytes);
    let (port, rx, tx) = start(&eal, "net_memif0", &config(data_bytes), &pool);
    (port, rx, tx, pool)
}

pub(crate) fn byte_for_byte() {
    let meeting = Meeting::new();
    let (port, mut rx, mut tx, pool) = listen(&meeting, JUMBO_BYTES);
    let peer = start_peer("echo", &meeting, JUMBO_BYTES);
    assert!(port.wait_link(LINK_TIME).unwrap().up);
    assert_eq!(port.in_use().unwrap().mtu, 9000);
    let mut burst = VecDeque::new();
    // Lengths at which a buffer or a header could end, then all others in strides.
    let edges = [14, 60, 64, 65, 127, 128, 1500, 1514, 2047, 2048, 2049, 4095, 4096, 4097, 8999, 9000, 9014];
    let lengths: Vec<usize> = edges.into_iter().chain((64..=9000).step_by(7)).collect();
    for (lengths, round) in lengths.chunks(32).zip(0u64..) {
        let frames: Vec<_> =
            lengths.iter().zip(0..).map(|(&len, at)| pattern(round << 8 | at, len)).collect();
        burst.extend(frames.iter().map(|frame| filled(&pool, frame)));
        send(&mut tx, &mut burst);
        receive(&mut rx, &mut burst, frames.len());
        for (mbuf, frame) in burst.iter().zip(&frames) {
            assert!(
                mbuf.is_contiguous() && mbuf.data() == frame,
                "{} bytes came for {}",
                mbuf.len(),
                frame.len()
            );
        }
        Mbuf::free_burst(&mut burst);
    }
    let stats = port.stats().unwrap();
    assert_eq!((stats.rx_frames, stats.tx_frames), (lengths.len() as u64, lengths.len() as u64));
    peer.finish();
    drop((port, rx, tx));
    assert_eq!(pool.in_use(), 0);
}

pub(crate) fn chains() {
    let meeting = Meeting::new();
    let (port, mut rx, mut tx, pool) = listen(&meeting, JUMBO_BYTES);
    let peer = start_peer("digest", &meeting, 2048);
    assert!(port.wait_link(LINK_TIME).unwrap().up);
    let mut burst = VecDeque::new();
    for (len, segments) in [(64, 1), (2048, 1), (2049, 2), (4096, 2), (4097, 3), (9000, 5)] {
        for seed in 0..20 {
            let frame = pattern(seed, len);
            burst.push_back(filled(&pool, &frame));
            send(&mut tx, &mut burst);
            receive(&mut rx, &mut burst, 1);
            assert_eq!(burst[0].data(), digest(&frame, segments), "{len} bytes");
            burst.clear();
        }
    }
    peer.finish();
}

pub(crate) fn killed() {
    let meeting = Meeting::new();
    let (port, mut rx, mut tx, pool) = listen(&meeting, JUMBO_BYTES);
    let mut burst = VecDeque::new();
    for life in 0..3 {
        let peer = start_peer("echo", &meeting, JUMBO_BYTES);
        assert!(port.wait_link(LINK_TIME).unwrap().up);
        let frame = pattern(life, 777);
        burst.push_back(filled(&pool, &frame));
        send(&mut tx, &mut burst);
        receive(&mut rx, &mut burst, 1);
        assert_eq!(burst[0].data(), frame);
        burst.clear();
        peer.kill();
        let deadline = Instant::now() + LINK_TIME;
        while port.link().unwrap().up {
            assert!(Instant::now() < deadline, "the link stays up without a peer");
            std::thread::sleep(Duration::from_millis(5));
        }
        // With nobody there a frame is not taken and stays ours.
        burst.push_back(filled(&pool, &frame));
        assert_eq!((tx.tx_burst(&mut burst), burst.len()), (0, 1));
        burst.clear();
        assert_eq!(rx.rx_burst(&mut burst, 32), 0);
    }
    drop((port, rx, tx));
    assert_eq!(pool.in_use(), 0);
}

/// The driver unmaps its rings on another thread. With more busy threads than cores a burst often loses its processor
/// just then.
pub(crate) fn goes_in_a_burst() {
    const LIVES: usize = 20;
    let log = Captured::open(tracing::Level::DEBUG);
    let meeting = Meeting::new();
    let (port, mut rx, tx, pool) = listen(&meeting, 2048);
    let (done, rounds) = (&AtomicBool::new(false), &AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 * std::thread::available_parallelism().unwrap().get() {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        scope.spawn(move || {
            let mut burst = VecDeque::new();
            while !done.load(Ordering::Relaxed) {
                for _ in 0..100 {
                    assert_eq!(rx.rx_burst(&mut burst, 32), 0);
                }
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        for _ in 0..LIVES {
            let deadline = Instant::now() + LINK_TIME;
            let wait_until = |what: &str, holds: &dyn Fn() -> bool| {
                while !holds() {
                    assert!(Instant::now() < deadline, "{what}");
                    std::thread::sleep(Duration::from_millis(1));
                }
            };
            let peer = start_peer("echo", &meeting, 2048);
            wait_until("no link", &|| port.link().unwrap().up);
            let before = rounds.load(Ordering::Relaxed);
            wait_until("no burst runs", &|| rounds.load(Ordering::Relaxed) > before + 1);
            peer.kill();
            wait_until("the link stays up without a peer", &|| !port.link().unwrap().up);
        }
        done.store(true, Ordering::Relaxed);
    });
    drop((port, tx));
    assert_eq!(pool.in_use(), 0);
    let waited = log.text().matches("no burst is in progress").count();
    assert!(waited >= LIVES, "the driver waited {waited} times");
}
