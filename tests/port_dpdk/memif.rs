//! Two processes joined by shared memory.

use crate::runner::{self, Peer};
use crate::setup::{PATIENCE, config, frame, open_one, receive, send};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use unsocket::port::dpdk::{DpdkConfig, DpdkPort, Steering, open};
use unsocket::port::{Frame, Port};

/// Where the two meet: a socket that is gone when the scenario is.
pub(crate) struct Meeting {
    socket: PathBuf,
    /// More devargs, each with its comma.
    more: &'static str,
}

impl Meeting {
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    fn with(more: &'static str) -> Self {
        let name = format!("unsocket-port-dpdk-{}.sock", std::process::id());
        Self { socket: std::env::temp_dir().join(name), more }
    }

    pub(crate) fn spec(&self, role: &str) -> String {
        format!(
            "dpdk:net_memif0,role={role},id=0,socket={},socket-abstract=no{}",
            self.socket.display(),
            self.more
        )
    }

    pub(crate) fn server(&self, mtu: usize, workers: usize) -> DpdkConfig {
        DpdkConfig { mtu, workers, queues: Some(workers), ..config(&self.spec("server")) }
    }

    /// Starts the other process: its queues send back what comes on them.
    fn echo(&self, mtu: usize, workers: usize) -> Peer {
        Peer::start("echo", &[&self.spec("client"), &mtu.to_string(), &workers.to_string()])
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

pub(crate) fn echo_peer() {
    let arguments = runner::peer_arguments();
    let [spec, mtu, workers] = &arguments[..] else { panic!("{arguments:?}") };
    let workers = workers.parse().unwrap();
    let config = DpdkConfig { mtu: mtu.parse().unwrap(), workers, queues: Some(workers), ..config(spec) };
    let mut ports: Vec<_> = open(&config).unwrap().into_iter().map(|port| (port, VecDeque::new())).collect();
    runner::until_stdin_ends(|| {
        for (port, burst) in &mut ports {
            port.rx_burst(burst, 32);
            port.tx_burst(burst);
        }
    });
    for (port, burst) in &mut ports {
        burst.drain(..).for_each(|frame| port.release(frame));
        port.rx_burst(burst, 32);
        assert!(port.frames_in_use() <= 64, "{} frames are lost", port.frames_in_use());
    }
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

/// Sends frames of these lengths in bursts, and compares each echo byte for byte.
fn check_echo(port: &mut DpdkPort, lengths: impl Iterator<Item = usize>) {
    let lengths: Vec<_> = lengths.collect();
    let deadline = Instant::now() + PATIENCE;
    for (lengths, round) in lengths.chunks(32).zip(0u64..) {
        let frames: Vec<_> =
            lengths.iter().zip(0..).map(|(&len, at)| pattern(round << 8 | at, len)).collect();
        let mut out: VecDeque<_> = frames.iter().map(|bytes| frame(port, bytes)).collect();
        let mut back = VecDeque::new();
        while back.len() < frames.len() {
            assert!(Instant::now() < deadline, "{} of {} frames came back", back.len(), frames.len());
            port.tx_burst(&mut out);
            port.rx_burst(&mut back, 32);
            std::thread::yield_now();
        }
        for (frame, bytes) in back.drain(..).zip(&frames) {
            assert!(
                frame.bytes() == bytes,
                "a frame of {} bytes came back with {}",
                bytes.len(),
                frame.bytes().len()
            );
            port.release(frame);
        }
    }
    let stats = port.stats();
    let bytes: usize = lengths.iter().sum();
    assert_eq!((stats.tx_frames, stats.rx_frames), (lengths.len() as u64, lengths.len() as u64));
    assert_eq!((stats.tx_bytes, stats.rx_bytes), (bytes as u64, bytes as u64));
    assert_eq!((stats.rx_errors, stats.tx_errors, stats.rx_dropped), (0, 0, 0));
    port.rx_burst(&mut VecDeque::new(), 32);
    assert!(port.frames_in_use() <= 64, "{} frames are lost", port.frames_in_use());
}

pub(crate) fn two_processes() {
    let meeting = Meeting::new();
    let mut port = open_one(&meeting.server(1500, 1));
    let peer = meeting.echo(1500, 1);
    check_echo(&mut port, (14..=1514).chain([60; 5000]));
    peer.finish();
}

pub(crate) fn jumbo() {
    jumbo_over(&Meeting::new());
}

/// Frames that lie in several buffers are made whole.
pub(crate) fn chained() {
    jumbo_over(&Meeting::with(",bsize=2048"));
}

fn jumbo_over(meeting: &Meeting) {
    let mut port = open_one(&meeting.server(9000, 1));
    assert_eq!(port.info().mtu, 9000);
    assert!(port.info().frame_bytes_max >= 9014);
    let peer = meeting.echo(9000, 1);
    check_echo(&mut port, (64..=9014).step_by(50).chain([2047, 2048, 2049, 4096, 8999, 9000, 9014]));
    peer.finish();
}

pub(crate) fn too_long() {
    let meeting = Meeting::new();
    let mut port = open_one(&meeting.server(1500, 1));
    let peer = Peer::start("shout", &[&meeting.spec("client"), "9000", "1"]);
    // Long frames come between short ones; the short ones get through.
    let mut burst = VecDeque::new();
    let deadline = Instant::now() + PATIENCE;
    while port.stats().rx_frames < 100 {
        assert!(Instant::now() < deadline, "{:?}", port.stats());
        port.rx_burst(&mut burst, 32);
        for frame in burst.drain(..) {
            assert_eq!(frame.bytes(), [9; 60]);
            port.release(frame);
        }
    }
    peer.finish();
    let stats = port.stats();
    assert!(stats.rx_errors >= 90, "{stats:?}");
    port.rx_burst(&mut burst, 32);
    assert!(port.frames_in_use() <= 64 + 32, "{} frames are lost", port.frames_in_use());
}

/// Sends long frames and short ones by turns.
pub(crate) fn shout_peer() {
    let arguments = runner::peer_arguments();
    let mut port = open_one(&DpdkConfig { mtu: 9000, ..config(&arguments[0]) });
    let mut burst = VecDeque::new();
    runner::until_stdin_ends(|| {
        while burst.len() < 32 {
            burst.push_back(frame(&mut port, &[8; 9014]));
            burst.push_back(frame(&mut port, &[9; 60]));
        }
        port.tx_burst(&mut burst);
    });
}

pub(crate) fn queues() {
    const QUEUES: usize = 3;
    let meeting = Meeting::new();
    let ports = open(&meeting.server(1500, QUEUES)).unwrap();
    assert_eq!(ports.len(), QUEUES);
    assert_eq!(ports[0].summary().steering, Steering::Sender);
    let names: Vec<_> = ports.iter().map(|port| port.info().name.clone()).collect();
    assert_eq!(names, ["dpdk:net_memif0/0", "dpdk:net_memif0/1", "dpdk:net_memif0/2"]);
    let peer = meeting.echo(1500, QUEUES);
    // What is sent on a queue comes back on it: each thread gets its own frames, and all of them.
    std::thread::scope(|scope| {
        for (mut port, queue) in ports.into_iter().zip(0..) {
            scope.spawn(move || check_echo(&mut port, (0..3000).map(|at| 60 + (at + queue) % 1400)));
        }
    });
    peer.finish();
}

pub(crate) fn killed() {
    let meeting = Meeting::new();
    let mut port = open_one(&meeting.server(1500, 1));
    for life in 1..=3 {
        let peer = meeting.echo(1500, 1);
        send(&mut port, &[life; 100]);
        receive(&mut port, |_, bytes| (bytes == [life; 100]).then_some(()));
        peer.kill();
        // With nobody there no frame is taken, and all stay ours.
        let mut burst = VecDeque::from([frame(&mut port, &[0; 60])]);
        let deadline = Instant::now() + PATIENCE;
        while port.tx_burst(&mut burst) == 1 {
            assert!(Instant::now() < deadline, "frames are taken with nobody there");
            std::thread::sleep(Duration::from_millis(1));
            burst.push_back(frame(&mut port, &[0; 60]));
        }
        assert_eq!(burst.len(), 1);
    }
    assert!(port.is_alive());
}
