//! The exception path: the kernel keeps what is not the engine's, at the same address on the same device.

use crate::engine::{Echo, engine};
use crate::frames::Netns;
use crate::setup::{PATIENCE, config};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use unsocket::engine::Server;
use unsocket::port::Port;
use unsocket::port::dpdk::{DpdkConfig, open};
use unsocket::port::tap::{self, TapConfig};
use unsocket::time::Duration;

/// Runs a command on a thread's network namespace; it must succeed.
fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("`{command}`: {error}"));
    assert!(output.status.success(), "`{command}`: {}", String::from_utf8_lossy(&output.stdout));
}

/// Sends some bytes and reads them back.
fn exchange(mut stream: TcpStream, bytes: &[u8]) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).unwrap();
    assert!(back == bytes, "the bytes came back");
}

/// Echoes one connection.
fn echo_one(listener: &TcpListener) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut from = stream.try_clone().unwrap();
    // Ends with the other side.
    let _ = std::io::copy(&mut from, &mut stream);
}

/// The engine's device is one end of a veth in a namespace of its own; the kernel behind the exception path is in a second, and
/// the rest of the world in a third.
pub(crate) fn ssh_and_ping() {
    let [ours, kernel, world] = [Netns::new(), Netns::new(), Netns::new()];
    ours.ip(&format!("link add ours type veth peer name theirs netns {}", world.name));
    ours.ip("link set ours up");
    for addr in ["10.73.0.1/24", "fd73::1/64 nodad"] {
        world.ip(&format!("addr add {addr} dev theirs"));
    }
    world.ip("link set theirs up");
    // The kernel leaves checksums out on a veth; they must be there.
    world.inside(|| run("ethtool -K theirs tx off"));
    ours.enter();
    let ports = open(&DpdkConfig { workers: 2, ..config("dpdk:net_af_packet0,iface=ours") }).unwrap();
    let exits = TapConfig {
        queues: 2,
        offload: false,
        netns: Some(kernel.name.clone()),
        host_mac: Some(ports[0].info().mac),
        host_addresses: vec![("10.73.0.2".parse().unwrap(), 24), ("fd73::2".parse().unwrap(), 64)],
        ..TapConfig::new("exit0")
    };
    let mut config = engine("10.73.0.2/24");
    config.stack.addrs.push("fd73::2/64".parse().unwrap());
    let server = Server::with_ports(config, ports).unwrap();
    let running = server.exception_path(tap::open(&exits).unwrap()).unwrap().start(|_| Echo).unwrap();

    // The kernel behind the exception path answers pings, and has its own TCP ports at the same addresses.
    world.inside(|| {
        run("ping -c 3 -i 0.2 -W 5 10.73.0.2");
        run("ping -c 3 -i 0.2 -W 5 fd73::2");
    });
    for addr in ["10.73.0.2:22", "[fd73::2]:22"] {
        let addr: SocketAddr = addr.parse().unwrap();
        let listener = kernel.inside(|| TcpListener::bind(addr).unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| echo_one(&listener));
            let stream = world.inside(|| TcpStream::connect_timeout(&addr, PATIENCE).unwrap());
            exchange(stream, &[5; 100_000]);
        });
    }
    // It refuses what it does not listen on, as it always does.
    let closed = "10.73.0.2:23".parse().unwrap();
    let error = world.inside(|| TcpStream::connect_timeout(&closed, PATIENCE)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    // And it can go out.
    let listener = world.inside(|| TcpListener::bind("10.73.0.1:9000").unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| echo_one(&listener));
        let there = "10.73.0.1:9000".parse().unwrap();
        let stream = kernel.inside(|| TcpStream::connect_timeout(&there, PATIENCE).unwrap());
        exchange(stream, &[6; 100_000]);
    });

    // Meanwhile the engine's port is the engine's.
    for host in ["10.73.0.2", "[fd73::2]"] {
        let addr = format!("{host}:80").parse().unwrap();
        let stream = world.inside(|| TcpStream::connect_timeout(&addr, PATIENCE).unwrap());
        let (mut socket, _) = tungstenite::client(format!("ws://{host}/"), stream).unwrap();
        for size in [1, 1400, 100_000] {
            let message = tungstenite::Message::binary(vec![7; size]);
            socket.send(message.clone()).unwrap();
            assert!(socket.read().unwrap() == message, "the echo of {size} bytes");
        }
    }

    let reports = running.handle().reports(Duration::from_secs(10));
    let sum = |count: fn(&unsocket::engine::WorkerStats) -> u64| {
        reports.iter().map(|report| count(&report.engine)).sum::<u64>()
    };
    assert!(sum(|engine| engine.to_kernel) > 100 && sum(|engine| engine.from_kernel) > 100, "{reports:#?}");
    assert_eq!((sum(|engine| engine.opened), sum(|engine| engine.messages_in)), (2, 6));
    assert!(reports.iter().all(|report| report.stack.rx_rst_sent == 0), "{reports:#?}");
    running.handle().stop();
    running.wait().unwrap();
}
