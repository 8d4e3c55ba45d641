//! Idle workers: woken by a queue's interrupt where the driver has one, else looking every so often.

use crate::engine::{Echo, engine};
use crate::frames::Netns;
use crate::setup::{PATIENCE, config, open_one};
use rustix::time::{ClockId, clock_gettime};
use std::net::TcpStream;
use std::time::Instant;
use unsocket::engine::{Running, Server};
use unsocket::port::Port;
use unsocket::port::dpdk::DpdkConfig;
use unsocket::time::Duration;

/// CPU time of this process.
fn cpu_time() -> std::time::Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    std::time::Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn polls(running: &Running) -> u64 {
    running.handle().reports(Duration::from_secs(10))[0].engine.polls
}

/// How often an idle worker polls in a second; answers go on all the while.
fn polls_when_idle(device: &str, interrupts: bool) -> u64 {
    let netns = Netns::new();
    netns.enter();
    let port = open_one(&DpdkConfig { interrupts, ..config(device) });
    assert_eq!(port.wait_fd().is_some(), port.summary().interrupts, "{}", port.summary());
    assert_eq!(port.summary().interrupts, interrupts, "{}", port.summary());
    let running = Server::with_ports(engine("10.73.0.2/24"), vec![port]).unwrap().start(|_| Echo).unwrap();
    netns.ip("addr add 10.73.0.1/24 dev theirs");
    netns.ip("link set theirs up");
    let stream = TcpStream::connect_timeout(&"10.73.0.2:80".parse().unwrap(), PATIENCE).unwrap();
    let (mut socket, _) = tungstenite::client("ws://10.73.0.2/", stream).unwrap();
    let mut exchange = |bytes: usize| {
        let message = tungstenite::Message::binary(vec![7; bytes]);
        socket.send(message.clone()).unwrap();
        assert!(socket.read().unwrap() == message, "the echo of {bytes} bytes");
    };
    exchange(100_000);
    let (before, cpu_before) = (polls(&running), cpu_time());
    std::thread::sleep(std::time::Duration::from_secs(1));
    let idle = polls(&running) - before;
    let used = cpu_time() - cpu_before;
    assert!(used < std::time::Duration::from_millis(700), "an idle worker used {used:?} of a second");
    // From sleep, again and again, as soon as frames come.
    let started = Instant::now();
    for _ in 0..20 {
        std::thread::sleep(std::time::Duration::from_millis(5));
        exchange(10);
    }
    let took = started.elapsed();
    assert!(took < std::time::Duration::from_secs(2), "20 messages took {took:?}");
    running.handle().stop();
    running.wait().unwrap();
    idle
}

pub(crate) fn woken_by_interrupts() {
    let idle = polls_when_idle("dpdk:net_tap0,iface=theirs", true);
    // A tick each second, and no sleep longer than a tenth of one; the kernel, too, has something to say now and then.
    assert!(idle < 200, "{idle} polls in a second");
}

pub(crate) fn looking_every_so_often() {
    let idle = polls_when_idle("dpdk:net_tap0,iface=theirs", false);
    assert!(idle > 200 && idle < 25_000, "{idle} polls in a second");
}
