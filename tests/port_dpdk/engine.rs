//! The whole engine over DPDK ports: WebSocket messages from one process to another, and from the kernel's TCP.

use crate::frames::Netns;
use crate::memif::{Meeting, pattern};
use crate::runner::{self, Peer};
use crate::setup::{PATIENCE, config, open_one};
use std::net::TcpStream;
use std::sync::{Mutex, mpsc};
use unsocket::engine::{Client, Conn, Connect, EngineConfig, Handler, Idle, Running, Server};
use unsocket::port::dpdk::{Checksums, DpdkConfig};
use unsocket::time::Duration;
use unsocket::ws::Message;

/// Sizes at which a header's form or a segment's end changes, and a large one.
const SIZES: [usize; 12] = [0, 1, 125, 126, 127, 1400, 1460, 8960, 65_535, 65_536, 300_000, 1_000_000];

pub(crate) fn engine(addr: &str) -> EngineConfig {
    let idle = Idle::Adaptive { spin: Duration::from_micros(50), coalesce: Duration::ZERO };
    let mut engine =
        EngineConfig { listen: vec![80], idle, handle_signals: false, ..EngineConfig::default() };
    engine.stack.addrs.push(addr.parse().unwrap());
    engine.stack.tcp.connections_max = 64;
    engine
}

pub(crate) struct Echo;

impl Handler for Echo {
    type Session = ();

    fn on_message(&mut self, conn: &mut Conn<'_, Self>, message: Message<'_>) {
        conn.send(message);
    }
}

fn serve(config: &DpdkConfig) -> Running {
    let server = Server::with_ports(engine("10.73.0.2/24"), vec![open_one(config)]).unwrap();
    server.start(|_| Echo).unwrap()
}

/// Sends messages of all sizes, one after the other, and compares the echoes.
struct Asker {
    next: usize,
    done: mpsc::Sender<()>,
}

impl Asker {
    fn ask(&mut self, conn: &mut Conn<'_, Self>) {
        match SIZES.get(self.next) {
            Some(&size) => drop(conn.send(Message::Binary(&pattern(size as u64, size)))),
            None => self.done.send(()).unwrap(),
        }
    }
}

impl Handler for Asker {
    type Session = ();

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        self.ask(conn);
    }

    fn on_message(&mut self, conn: &mut Conn<'_, Self>, message: Message<'_>) {
        let size = SIZES[self.next];
        assert!(message.as_bytes() == pattern(size as u64, size), "the echo of {size} bytes differs");
        self.next += 1;
        self.ask(conn);
    }
}

pub(crate) fn serve_peer() {
    let arguments = runner::peer_arguments();
    let running = serve(&port_config(&arguments[0], &arguments[1], &arguments[2]));
    runner::until_stdin_ends(|| std::thread::sleep(std::time::Duration::from_millis(5)));
    running.handle().drain();
    running.wait().unwrap();
}

fn port_config(spec: &str, mtu: &str, checksums: &str) -> DpdkConfig {
    let vlan = (checksums == "vlan").then_some(4094);
    let checksums = if checksums == "trust" { Checksums::Trust } else { Checksums::Verify };
    DpdkConfig { mtu: mtu.parse().unwrap(), checksums, vlan, ..config(spec) }
}

/// The client listens on the memif, so that the server finds it there.
fn messages_over_memif(mtu: &str, checksums: &str) {
    let meeting = Meeting::new();
    let ours = port_config(&meeting.spec("server"), mtu, checksums);
    messages_between(&ours, &[&meeting.spec("client"), mtu, checksums]);
}

pub(crate) fn messages_between(ours: &DpdkConfig, theirs: &[&str]) {
    let port = open_one(ours);
    let peer = Peer::start("serve", theirs);
    let (done, all_done) = mpsc::channel();
    let client = Client::with_ports(engine("10.73.0.1/24"), vec![port]).unwrap();
    client.connect(Connect::new("10.73.0.2:80".parse().unwrap(), "/")).unwrap();
    let asker = Mutex::new(Some(Asker { next: 0, done }));
    let client = client.start(move |_| asker.lock().unwrap().take().expect("one worker")).unwrap();
    all_done.recv_timeout(PATIENCE).expect("all messages came back");
    let report = client.handle().reports(Duration::from_secs(10)).remove(0);
    assert_eq!(report.engine.messages_in, SIZES.len() as u64);
    assert_eq!((report.port.rx_errors, report.port.tx_errors, report.stack.rx_bad_checksum), (0, 0, 0));
    client.handle().stop();
    client.wait().unwrap();
    peer.finish();
}

pub(crate) fn verified() {
    messages_over_memif("1500", "verify");
}

pub(crate) fn trusted_jumbo() {
    messages_over_memif("9000", "trust");
}

/// A client of others' making, over the kernel's TCP.
pub(crate) fn kernel_client() {
    assert_eq!(kernel_asks(&DpdkConfig { tso: false, ..config("dpdk:net_tap0,iface=theirs") }), 0);
}

/// The same, and the driver cuts large segments.
pub(crate) fn kernel_client_of_cut_segments() {
    let cut = kernel_asks(&config("dpdk:net_tap0,iface=theirs"));
    assert!(cut > 20, "{cut} frames were cut");
}

/// Echoes for the kernel's TCP; how many frames the device was to cut.
fn kernel_asks(config: &DpdkConfig) -> u64 {
    let netns = Netns::new();
    netns.enter();
    let running = serve(config);
    netns.ip("addr add 10.73.0.1/24 dev theirs");
    netns.ip("link set theirs up");
    let stream = TcpStream::connect_timeout(&"10.73.0.2:80".parse().unwrap(), PATIENCE).unwrap();
    // No read timeout: the TAP driver signals each frame to the process, and only a read without one is taken up again.
    let (mut socket, _) = tungstenite::client("ws://10.73.0.2/", stream).unwrap();
    for size in SIZES {
        let message = tungstenite::Message::binary(pattern(size as u64, size));
        socket.send(message.clone()).unwrap();
        assert!(socket.read().unwrap() == message, "the echo of {size} bytes differs");
    }
    socket.close(None).unwrap();
    let report = running.handle().reports(Duration::from_secs(10)).remove(0);
    assert_eq!((report.engine.messages_in, report.stack.rx_bad_checksum), (SIZES.len() as u64, 0));
    assert_eq!(report.port.tx_errors, 0);
    running.handle().stop();
    running.wait().unwrap();
    report.port.tx_cut_frames
}
