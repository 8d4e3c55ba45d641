//! The load over a TAP device with the engine's own client, against a server behind the kernel's TCP. Needs root and
//! iproute2.

#[expect(dead_code, reason = "of this, only the namespaces are needed here")]
#[path = "port_tap/frames.rs"]
mod frames;

use frames::Netns;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread;

/// An echo server in the namespace, on any address of it; its port.
fn echo(netns: &Netns) -> u16 {
    let listener = netns.inside(|| TcpListener::bind("[::]:0").unwrap());
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            thread::spawn(move || {
                let mut socket = tungstenite::accept(stream).unwrap();
                while let Ok(message) = socket.read() {
                    if !message.is_close() && socket.send(message).is_err() {
                        break;
                    }
                }
            });
        }
    });
    port
}

/// The result of a load over a TAP device whose kernel end is in the namespace.
fn bench(netns: &Netns, url: &str, arguments: &str) -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_unsocket"))
        .args(["bench", url, "--port", "tap:uns0", "--netns", &netns.name, "--json", "-"])
        .args(["--ip", "10.73.0.2/24,fd73::2/64", "--host-ip", "10.73.0.1/24,fd73::1/64"])
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_engines_client_loads_a_server_behind_the_kernel() {
    let netns = Netns::new();
    let port = echo(&netns);
    for host in ["10.73.0.1", "[fd73::1]"] {
        let url = format!("ws://{host}:{port}/");
        let json = bench(&netns, &url, "--connections 20 --in-flight 2 --messages 1000 --size 2000 --text");
        assert_eq!((&json["messages"], &json["errors"]), (&1_000.into(), &0.into()), "{json}");
        assert_eq!((&json["mode"], &json["port"]), (&"port".into(), &"tap:uns0".into()));
    }
}

#[test]
fn several_workers_share_a_device() {
    let netns = Netns::new();
    let url = format!("ws://10.73.0.1:{}/", echo(&netns));
    let json = bench(&netns, &url, "--workers 3 --connections 30 --messages 1000");
    assert_eq!((&json["messages"], &json["errors"], &json["workers"]), (&1_000.into(), &0.into(), &3.into()));
}

#[test]
fn nothing_is_lost_on_a_bad_path() {
    let netns = Netns::new();
    let url = format!("ws://10.73.0.1:{}/", echo(&netns));
    let faults = "--fault-loss 0.01 --fault-reorder 0.01 --fault-duplicate 0.01";
    let json = bench(&netns, &url, &format!("--connections 20 --messages 1000 {faults}"));
    assert_eq!((&json["messages"], &json["errors"]), (&1_000.into(), &0.into()), "{json}");
    assert_eq!(json["faults"]["loss"], 0.01);
}

/// `unsocket serve` over a TAP device whose kernel end is in the namespace; ended when dropped.
struct Server(std::process::Child);

impl Server {
    fn start(netns: &Netns, arguments: &str) -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_unsocket"))
            .args(["serve", "--port", "tap:uns1", "--netns", &netns.name])
            .args(["--ip", "10.73.1.1/24", "--host-ip", "10.73.1.2/24", "--listen", "8080"])
            .args(arguments.split_whitespace())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("ready"), "{line}");
        Server(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// The result of a load over kernel sockets of the namespace.
fn bench_inside(netns: &Netns, url: &str, arguments: &str) -> serde_json::Value {
    let output = Command::new("ip")
        .args(["netns", "exec", &netns.name, env!("CARGO_BIN_EXE_unsocket"), "bench", url, "--json", "-"])
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    let told =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn kernel_sockets_load_our_server_with_compression_and_without() {
    let netns = Netns::new();
    let _server = Server::start(&netns, "--app echo --deflate");
    for arguments in ["--size 1024", "--size 1024 --deflate", "--size 20 --deflate --text"] {
        let arguments = format!("--connections 10 --in-flight 4 --messages 1000 {arguments}");
        let json = bench_inside(&netns, "ws://10.73.1.1:8080/", &arguments);
        assert_eq!((&json["messages"], &json["errors"]), (&1_000.into(), &0.into()), "{json}");
    }
}
