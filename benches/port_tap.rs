//! What TAP's offloads are worth, measured against the kernel's own TCP and UDP in a namespace. Needs root.
//!
//! `cargo bench --bench port_tap`. CPU time is this thread's, system calls included; it excludes the kernel's client.

#[path = "../tests/port_tap/frames.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod frames;

use frames::Netns;
use rustix::time::{ClockId, clock_gettime};
use std::collections::VecDeque;
use std::io::Write;
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use unsocket::port::tap::{TapConfig, TapPort, open};
use unsocket::port::{Frame, Port, RxChecksum};

const OURS: Ipv4Addr = Ipv4Addr::new(10, 73, 0, 2);
const HOST: Ipv4Addr = Ipv4Addr::new(10, 73, 0, 1);
const ROUNDS: usize = 9;
const RX_BYTES: u64 = 512 << 20;
const TX_FRAMES: u64 = 200_000;
const BURST: usize = 64;
const ACK: u8 = 0x10;
const SYN_ACK: u8 = 0x12;
const RST: u8 = 0x04;

fn main() {
    println!(
        "the least disturbed of {ROUNDS} runs, offloads off and on in turn; CPU time of the port's thread"
    );
    compare("kernel TCP to port", receive);
    compare("port to kernel UDP, 1472 B", |offload| transmit(offload, 1472));
    compare("port to kernel UDP, 64 B", |offload| transmit(offload, 64));
}

fn compare(work: &str, run: impl Fn(bool) -> Cost) {
    let mut costs = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        costs[0].push(run(false));
        costs[1].push(run(true));
    }
    for (costs, offload) in costs.iter_mut().zip(["off", "on"]) {
        costs.sort_by(|a, b| a.cpu_ns_per_kib.total_cmp(&b.cpu_ns_per_kib));
        let cost = &costs[0];
        println!(
            "{work:27} offloads {offload:3} {:6.0} ns/KiB {:6.0} ns/frame {:6.0} B/frame {:6.2} Gbit/s",
            cost.cpu_ns_per_kib, cost.cpu_ns_per_frame, cost.bytes_per_frame, cost.gbit_per_s
        );
    }
}

struct Cost {
    cpu_ns_per_kib: f64,
    cpu_ns_per_frame: f64,
    bytes_per_frame: f64,
    gbit_per_s: f64,
}

impl Cost {
    fn new(cpu: Duration, wall: Duration, bytes: u64, frames: u64) -> Self {
        let (cpu_ns, bytes, frames) = (cpu.as_nanos() as f64, bytes as f64, frames as f64);
        Cost {
            cpu_ns_per_kib: cpu_ns / (bytes / 1024.0),
            cpu_ns_per_frame: cpu_ns / frames,
            bytes_per_frame: bytes / frames,
            gbit_per_s: bytes * 8.0 / wall.as_nanos() as f64,
        }
    }
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A device in a namespace of its own, and the MAC addresses of both ends, ours first.
fn device(netns: &Netns, offload: bool) -> (TapPort, ([u8; 6], [u8; 6])) {
    let config = TapConfig {
        netns: Some(netns.name.clone()),
        host_addresses: vec![(HOST.into(), 24)],
        offload,
        ..TapConfig::new("bench0")
    };
    let port = open(&config).unwrap_or_else(|error| panic!("{error}")).remove(0);
    let ours = port.info().mac;
    let text = ours.map(|byte| format!("{byte:02x}")).join(":");
    netns.ip(&format!("neigh replace {OURS} lladdr {text} dev bench0"));
    (port, (ours, netns.mac("bench0")))
}

fn send(port: &mut TapPort, bytes: &[u8]) {
    let mut frame = port.alloc().expect("a free frame");
    frame.set_len(bytes.len());
    frame.bytes_mut().copy_from_slice(bytes);
    port.tx_burst(&mut VecDeque::from([frame]));
}

/// The kernel's TCP sends a stream; we acknowledge each burst, and verify what the port did not.
fn receive(offload: bool) -> Cost {
    let netns = Netns::new();
    let (mut port, macs) = device(&netns, offload);
    let addresses = frames::sum_of_addresses(&OURS.octets(), &HOST.octets());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            netns.enter();
            let mut stream = TcpStream::connect((OURS, 80)).expect("our SYN-ACK");
            let block = vec![0x5a; 1 << 20];
            while !done.load(Ordering::Relaxed) && stream.write_all(&block).is_ok() {
                std::hint::spin_loop();
            }
        });
        let (mut burst, mut peer_port, mut next) = (VecDeque::with_capacity(BURST), 0, 0u32);
        let (mut bytes, mut count) = (0, 0);
        let (mut wall, mut cpu) = (Instant::now(), Duration::ZERO);
        while bytes < RX_BYTES {
            port.rx_burst(&mut burst, BURST);
            let received = !burst.is_empty();
            for frame in burst.drain(..) {
                let packet = frame.bytes();
                if packet[12..14] == [8, 0] && packet[23] == frames::TCP {
                    let word = |at: usize| {
                        u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]])
                    };
                    let length = usize::from(u16::from_be_bytes([packet[16], packet[17]])) - 20;
                    let segment = &packet[34..34 + length];
                    if frame.rx_checksum() == RxChecksum::Unknown {
                        let pseudo_header = addresses + length as u32 + u32::from(frames::TCP);
                        assert_eq!(frames::checksum(pseudo_header, segment), 0);
                    }
                    let payload = length - usize::from(segment[12] >> 4) * 4;
                    if segment[13] & 0x02 != 0 {
                        peer_port = u16::from_be_bytes([segment[0], segment[1]]);
                        next = word(38).wrapping_add(1);
                        let mut syn_ack = frames::tcp((80, peer_port), 1, next, SYN_ACK, 0);
                        // MSS 1460, and window scale 3: 512 KiB, which the device's queue holds.
                        syn_ack[12] = 0x70;
                        syn_ack.extend([2, 4, 0x05, 0xb4, 3, 3, 3, 0]);
                        syn_ack[16..18].fill(0);
                        let sum = frames::checksum(addresses + 28 + u32::from(frames::TCP), &syn_ack);
                        syn_ack[16..18].copy_from_slice(&sum.to_be_bytes());
                        send(&mut port, &frames::ipv4(macs, (OURS, HOST), frames::TCP, &syn_ack));
                        (wall, cpu) = (Instant::now(), thread_cpu());
                        (bytes, count) = (0, 0);
                    } else if word(38) == next {
                        next = next.wrapping_add(payload as u32);
                        bytes += payload as u64;
                        count += 1;
                    }
                }
                port.release(frame);
            }
            if received && bytes > 0 {
                let ack = frames::tcp((80, peer_port), 2, next, ACK, addresses);
                send(&mut port, &frames::ipv4(macs, (OURS, HOST), frames::TCP, &ack));
            }
        }
        let cost = Cost::new(thread_cpu() - cpu, wall.elapsed(), bytes, count);
        done.store(true, Ordering::Relaxed);
        let reset = frames::tcp((80, peer_port), 2, 0, RST, addresses);
        send(&mut port, &frames::ipv4(macs, (OURS, HOST), frames::TCP, &reset));
        cost
    })
}

/// We send datagrams with right checksums, filled in here or left to the other side; the kernel's UDP verifies
/// them in our system call.
fn transmit(offload: bool, payload_bytes: usize) -> Cost {
    let netns = Netns::new();
    let (mut port, macs) = device(&netns, offload);
    let addresses = frames::sum_of_addresses(&OURS.octets(), &HOST.octets());
    let socket = netns.inside(|| UdpSocket::bind((HOST, 7000))).expect("the address is usable");
    socket.set_nonblocking(true).unwrap();
    let payload = vec![0x5a; payload_bytes];
    let datagram = frames::udp((7, 7000), &payload, addresses);
    let template = frames::ipv4(macs, (OURS, HOST), frames::UDP, &datagram);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 2048];
            while !done.load(Ordering::Relaxed) {
                let _ = socket.recv_from(&mut buffer);
            }
        });
        let mut burst = VecDeque::with_capacity(BURST);
        let (wall, cpu) = (Instant::now(), thread_cpu());
        for _ in 0..TX_FRAMES / BURST as u64 {
            for _ in 0..BURST {
                let mut frame = port.alloc().expect("a free frame");
                frame.set_len(template.len());
                let bytes = frame.bytes_mut();
                bytes.copy_from_slice(&template);
                if !offload {
                    bytes[40..42].fill(0);
                    let length = bytes.len() as u32 - 34;
                    let sum = frames::checksum(addresses + length + u32::from(frames::UDP), &bytes[34..]);
                    bytes[40..42].copy_from_slice(&sum.to_be_bytes());
                }
                burst.push_back(frame);
            }
            port.tx_burst(&mut burst);
        }
        let (cpu, wall) = (thread_cpu() - cpu, wall.elapsed());
        done.store(true, Ordering::Relaxed);
        let stats = port.stats();
        Cost::new(cpu, wall, stats.tx_frames * payload_bytes as u64, stats.tx_frames)
    })
}
