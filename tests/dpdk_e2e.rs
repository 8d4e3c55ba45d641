//! The program against itself, over memory that two processes share: `serve` in one, `bench` in the other, no kernel in the
//! data path, and every byte of every echo compared. Needs the feature `dpdk`, and no privilege.
//!
//! Memory is ordinary pages; `DPDK_MEMORY=huge` takes hugepages.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Payload bytes, connections, messages: each connection sends one at least.
const LOADS: [(u32, u32, u32); 11] = [
    (1, 1, 200),
    (1, 100, 400),
    (1, 1_000, 1_000),
    (125, 1, 200),
    (125, 100, 400),
    (125, 1_000, 1_000),
    (64 << 10, 1, 20),
    (64 << 10, 100, 100),
    (64 << 10, 1_000, 1_000),
    (1 << 20, 1, 3),
    (1 << 20, 100, 100),
];

/// Two processes that spin are enough for a small machine: one test at a time.
static TURN: Mutex<()> = Mutex::new(());
static MEETINGS: AtomicU32 = AtomicU32::new(0);
/// Each load comes from a host of its own, so that it meets no connection of an earlier one.
static HOSTS: AtomicU32 = AtomicU32::new(10);

/// How the two are joined: devargs of either end, on a socket that is gone when the test is.
struct Meeting {
    socket: PathBuf,
    serve: String,
    bench: String,
    _turn: MutexGuard<'static, ()>,
}

impl Meeting {
    fn new(serve: &str, bench: &str) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let number = MEETINGS.fetch_add(1, Ordering::Relaxed);
        let name = format!("unsocket-dpdk-e2e-{}-{number}.sock", std::process::id());
        let socket = std::env::temp_dir().join(name);
        let spec =
            |devargs: &str| format!("dpdk:{}", devargs.replace("SOCKET", &socket.display().to_string()));
        Meeting { serve: spec(serve), bench: spec(bench), socket, _turn: turn }
    }

    fn over_memif() -> Self {
        let memif = |role| format!("net_memif0,role={role},id=0,socket=SOCKET,socket-abstract=no");
        Meeting::new(&memif("server"), &memif("client"))
    }

    fn over_vhost() -> Self {
        Meeting::new("net_vhost0,iface=SOCKET", "net_virtio_user0,path=SOCKET")
    }

    /// Starts `unsocket serve` and waits until it is ready.
    fn serve(&self, options: &str) -> Server {
        let mut child = unsocket("serve", &self.serve, "10.73.0.2/24,fd73::2/64", options)
            // On a machine of two cores one that spins would keep the client's threads waiting.
            .args(["--poll", "adaptive"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut stderr = child.stderr.take().unwrap();
        let log = std::thread::spawn(move || {
            let mut log = String::new();
            let _ = stderr.read_to_string(&mut log);
            log
        });
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        if !line.starts_with("ready: http://10.73.0.2/") {
            let _ = child.kill();
            panic!("{line:?}: {}", log.join().unwrap());
        }
        Server { child, _stdout: stdout, log: Some(log) }
    }

    /// Runs `unsocket bench` to its end, and its result.
    fn bench(&self, host: &str, options: &str) -> serde_json::Value {
        let ours = HOSTS.fetch_add(1, Ordering::Relaxed);
        let ip = format!("10.73.0.{ours}/24,fd73::{ours}/64");
        let mut command = unsocket("bench", &self.bench, &ip, options);
        let output = command.args(["--json", "-", &format!("ws://{host}/")]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{options}: {}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn echoes(&self, host: &str, (size, connections, messages): (u32, u32, u32), options: &str) {
        let started = Instant::now();
        let load = format!("--size {size} --connections {connections} --messages {messages} --timeout 60");
        let result = self.bench(host, &format!("{load} {options}"));
        let counts = [&result["messages"], &result["errors"], &result["lost"], &result["connections"]];
        assert_eq!(counts, [messages, 0, 0, connections], "{load}: {result}");
        println!("{size} B, {connections} connections, {messages} messages: {:.1?}", started.elapsed());
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// The program with the memory that `DPDK_MEMORY` asks for.
fn unsocket(command: &str, port: &str, ip: &str, options: &str) -> Command {
    let mut unsocket = Command::new(env!("CARGO_BIN_EXE_unsocket"));
    unsocket.args([command, "--port", port, "--ip", ip]).args(options.split_whitespace());
    match std::env::var("DPDK_MEMORY").as_deref() {
        Err(_) | Ok("ordinary") => unsocket.arg("--no-huge"),
        Ok("huge") => &mut unsocket,
        Ok(other) => panic!("DPDK_MEMORY={other}: it is `huge` or `ordinary`"),
    };
    unsocket
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A running `unsocket serve`.
struct Server {
    child: Child,
    /// Open, so that nothing the server writes there fails.
    _stdout: BufReader<ChildStdout>,
    log: Option<std::thread::JoinHandle<String>>,
}

impl Server {
    /// SIGKILL: it has no time to tidy up.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM: it drains and ends with 0; its log.
    fn terminate(mut self) -> String {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the server does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        let log = self.log.take().unwrap().join().unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0), "{log}");
        log
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// All loads, one after the other, on one server; IPv4 and IPv6 in turn.
fn all_loads(meeting: &Meeting) {
    let server = meeting.serve("");
    for (load, host) in LOADS.into_iter().zip(["10.73.0.2", "[fd73::2]"].into_iter().cycle()) {
        meeting.echoes(host, load, "");
    }
    let log = server.terminate();
    assert!(log.contains("steering: one queue"), "{log}");
}

#[test]
fn every_byte_comes_back_over_memif() {
    all_loads(&Meeting::over_memif());
}

#[test]
fn every_byte_comes_back_over_vhost() {
    all_loads(&Meeting::over_vhost());
}

#[test]
fn jumbo_frames_without_checksums() {
    let meeting = Meeting::over_memif();
    let options = "--checksum trust --mtu 9000";
    let server = meeting.serve(options);
    meeting.echoes("10.73.0.2", (300_000, 10, 20), options);
    server.terminate();
}

#[test]
fn killed_server_starts_again_at_once() {
    for meeting in [Meeting::over_memif as fn() -> Meeting, Meeting::over_vhost] {
        let meeting = meeting();
        let server = meeting.serve("");
        meeting.echoes("10.73.0.2", (125, 10, 100), "");
        server.kill();
        let server = meeting.serve("");
        meeting.echoes("10.73.0.2", (125, 10, 100), "");
        server.terminate();
    }
}

#[test]
fn killed_client_leaves_a_server_that_serves() {
    for meeting in [Meeting::over_memif as fn() -> Meeting, Meeting::over_vhost] {
        let meeting = meeting();
        let server = meeting.serve("");
        let load = "--size 1000 --connections 50 --duration 60 ws://10.73.0.2/";
        let mut client = unsocket("bench", &meeting.bench, "10.73.0.9/24", load);
        let mut client = client.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // It says how far it is once a second.
        let measures = BufReader::new(client.stderr.take().unwrap())
            .lines()
            .any(|line| line.is_ok_and(|line| line.starts_with("measuring")));
        assert!(measures, "the load did not begin");
        client.kill().unwrap();
        client.wait().unwrap();
        meeting.echoes("10.73.0.2", (125, 10, 100), "");
        server.terminate();
    }
}

#[test]
fn a_second_server_on_the_same_socket_is_refused() {
    let meeting = Meeting::over_memif();
    let server = meeting.serve("");
    let second = unsocket("serve", &meeting.serve, "10.73.0.4/24", "").output().unwrap();
    assert_eq!(second.status.code(), Some(1), "{}", said(&second));
    assert!(said(&second).contains("Address already in use"), "{}", said(&second));
    meeting.echoes("10.73.0.2", (125, 10, 100), "");
    server.terminate();
}

#[test]
fn what_cannot_work_is_told_with_the_way_out() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for (command, port, options, status, words) in [
        ("serve", "dpdk:0000:03:00", "", 2, "0000:03:00.0"),
        ("serve", "dpdk:nosuch0", "", 1, "no driver of this DPDK goes by that name"),
        ("serve", "dpdk:net_memif0,role=nobody", "", 1, "role"),
        ("serve", "dpdk:net_null0", "--netns blue", 2, "`port.netns` is for tap:NAME ports only"),
        ("serve", "dpdk:net_af_packet0,iface=nosuch0", "", 1, "nosuch0"),
        ("serve", "dpdk:net_memif0,socket=SOCKET", "--workers 300", 2, "`workers.count` is 300"),
        ("bench ws://10.73.0.2/", "dpdk:nosuch0", "", 1, "no driver of this DPDK goes by that name"),
    ] {
        let mut words_of = command.split(' ');
        let mut process = unsocket(words_of.next().unwrap(), port, "10.73.0.9/24", options);
        let output = process.args(words_of).output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(status), "{command} {port} {options}: {said}");
        assert!(said.contains(words), "{command} {port} {options}: {said}");
    }
}

#[test]
fn arguments_for_eal_follow_two_dashes() {
    let meeting = Meeting::over_memif();
    let wrong =
        unsocket("serve", &meeting.serve, "10.73.0.2/24", "").args(["--", "--bogus"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(1), "{}", said(&wrong));
    assert!(said(&wrong).contains("EAL refused its arguments"), "{}", said(&wrong));
    let mut right = unsocket("serve", &meeting.serve, "10.73.0.2/24", "");
    let mut child =
        right.args(["--", "-m", "192", "--log-level=lib.eal:info"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(line.starts_with("ready:"), "{line}");
}
