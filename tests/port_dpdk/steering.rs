//! Several workers on one device: every flow finds its worker, whoever steers.

use crate::engine::{Echo, engine};
use crate::frames::Netns;
use crate::memif::Meeting;
use crate::runner::{self, Peer};
use crate::setup::{PATIENCE, config};
use std::net::TcpStream;
use std::process::Command;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Instant;
use unsocket::engine::{Client, Conn, Connect, Context, Handler, Running, Server, WorkerReport};
use unsocket::port::Port;
use unsocket::port::dpdk::{DpdkConfig, Steering, open};
use unsocket::time::Duration;
use unsocket::ws::Message;

const CONNECTIONS: usize = 40;
const ROUNDS: usize = 20;

/// A client worker: its connections each send a number and the next one when it comes back.
struct Counter {
    connections: usize,
    left: usize,
    done: mpsc::Sender<()>,
}

impl Handler for Counter {
    type Session = usize;

    fn on_start(&mut self, context: &mut Context<'_, Self>) {
        for _ in 0..self.connections {
            context.connect(Connect::new("10.73.0.2:80".parse().unwrap(), "/"));
        }
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        conn.send(Message::Text("0"));
    }

    fn on_message(&mut self, conn: &mut Conn<'_, Self>, message: Message<'_>) {
        let round = *conn.session();
        assert_eq!(message.as_bytes(), round.to_string().as_bytes());
        *conn.session() += 1;
        if round + 1 < ROUNDS {
            conn.send(Message::Text(&(round + 1).to_string()));
        } else {
            self.left -= 1;
            if self.left == 0 {
                self.done.send(()).unwrap();
            }
        }
    }
}

/// The other process: `workers` workers on `queues` queues, each with its part of the connections.
pub(crate) fn count_peer() {
    let arguments = runner::peer_arguments();
    let [spec, workers, queues] = &arguments[..] else { panic!("{arguments:?}") };
    let (workers, queues): (usize, usize) = (workers.parse().unwrap(), queues.parse().unwrap());
    let single_file_segments = spec.contains("virtio_user");
    let ports =
        open(&DpdkConfig { workers, queues: Some(queues), single_file_segments, ..config(spec) }).unwrap();
    let client = Client::with_ports(engine("10.73.0.1/24"), ports).unwrap();
    let (done, all_done) = mpsc::channel();
    let done = Mutex::new(done);
    let connections = CONNECTIONS / workers;
    let running = client
        .start(move |_| Counter { connections, left: connections, done: done.lock().unwrap().clone() })
        .unwrap();
    for _ in 0..workers {
        all_done.recv_timeout(PATIENCE).expect("every round of every connection");
    }
    let reports = running.handle().reports(Duration::from_secs(10));
    assert!(reports.iter().all(|report| report.stack.rx_rst_sent == 0), "{reports:#?}");
    runner::until_stdin_ends(|| std::thread::sleep(std::time::Duration::from_millis(5)));
    running.handle().stop();
    running.wait().unwrap();
}

/// The reports of all workers, once all messages of all connections have come.
fn reports_when_done(running: &Running) -> Vec<WorkerReport> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut reports = running.handle().reports(Duration::from_secs(10));
        reports.sort_by_key(|report| report.worker);
        if reports.iter().map(|report| report.engine.messages_in).sum::<u64>()
            == (CONNECTIONS * ROUNDS) as u64
        {
            return reports;
        }
        assert!(Instant::now() < deadline, "{reports:#?}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// A server on `server` against a client of `asking` workers on `queues` queues of `client`.
fn between(
    server: &DpdkConfig,
    steering: Steering,
    client: &str,
    asking: usize,
    queues: usize,
) -> Vec<WorkerReport> {
    let ports = open(server).unwrap();
    assert_eq!(ports[0].summary().steering, steering, "{}", ports[0].summary());
    let running = Server::with_ports(engine("10.73.0.2/24"), ports).unwrap().start(|_| Echo).unwrap();
    let peer = Peer::start("count", &[client, &asking.to_string(), &queues.to_string()]);
    let reports = reports_when_done(&running);
    peer.finish();
    running.handle().stop();
    running.wait().unwrap();
    for report in &reports {
        assert!(report.engine.opened > 0, "every worker has connections: {reports:#?}");
        assert_eq!(report.engine.messages_in, report.engine.opened * ROUNDS as u64, "{reports:#?}");
        assert_eq!((report.stack.rx_rst_sent, report.engine.hand_over_dropped), (0, 0), "{reports:#?}");
    }
    reports
}

/// As many server workers as queues.
fn over_memif(queues: usize, asking: usize) {
    let meeting = Meeting::new();
    let reports =
        between(&meeting.server(1500, queues), Steering::Sender, &meeting.spec("client"), asking, queues);
    assert!(reports.iter().all(|report| report.engine.misplaced == 0), "{reports:#?}");
}

pub(crate) fn queue_to_queue() {
    over_memif(2, 2);
}

pub(crate) fn one_asks_two() {
    over_memif(2, 1);
}

pub(crate) fn two_ask_four() {
    over_memif(4, 2);
}

pub(crate) fn one_memif_queue() {
    // What is not said to be the same at both ends is one queue.
    let meeting = Meeting::new();
    let server = DpdkConfig { queues: None, ..meeting.server(1500, 2) };
    let shared = Steering::Shared { queues: 1, workers: 2 };
    let reports = between(&server, shared, &meeting.spec("client"), 1, 1);
    assert!(reports[0].engine.misplaced > 0 && reports[1].engine.taken_over > 0, "{reports:#?}");
    assert_eq!(reports[1].engine.rx_frames, 0);
}

pub(crate) fn fewer_vhost_queues() {
    // All comes on the first queue, and the first worker sends for the second, whose queue has no other end.
    let path = std::env::temp_dir().join(format!("unsocket-steering-{}.sock", std::process::id()));
    let server =
        DpdkConfig { workers: 2, ..config(&format!("dpdk:net_vhost0,iface={},queues=2", path.display())) };
    let client = format!("dpdk:net_virtio_user0,path={},queues=1", path.display());
    let reports = between(&server, Steering::Sender, &client, 1, 1);
    assert!(reports[0].engine.misplaced > 0 && reports[1].engine.taken_over > 0, "{reports:#?}");
}

pub(crate) fn shared_queue() {
    let netns = Netns::new();
    netns.enter();
    netns.ip("link add ours type veth peer name theirs");
    netns.ip("addr add 10.73.0.1/24 dev theirs");
    netns.ip("link set ours up");
    netns.ip("link set theirs up");
    // The kernel leaves checksums out on a veth; they must be there.
    let off = Command::new("ethtool").args(["-K", "theirs", "tx", "off"]).output();
    assert!(off.expect("ethtool (Debian: ethtool)").status.success());
    let ports = open(&DpdkConfig { workers: 2, ..config("dpdk:net_af_packet0,iface=ours") }).unwrap();
    assert_eq!(ports[0].summary().steering, Steering::Shared { queues: 1, workers: 2 });
    let reports = echoes_of_the_kernel(ports);
    assert!(reports[0].engine.handed_over > 0 && reports[1].engine.taken_over > 0, "{reports:#?}");
    assert_eq!(reports[1].engine.rx_frames, 0);
}

pub(crate) fn kernel_steers() {
    let netns = Netns::new();
    netns.enter();
    let ports = open(&DpdkConfig { workers: 2, ..config("dpdk:net_tap0,iface=theirs") }).unwrap();
    // It takes a key and does not hash by it: the kernel chooses the queues.
    assert_eq!(ports[0].summary().steering, Steering::UntoldRss, "{}", ports[0].summary());
    netns.ip("addr add 10.73.0.1/24 dev theirs");
    netns.ip("link set theirs up");
    echoes_of_the_kernel(ports);
}

/// Serves connections of the kernel's; every worker gets some.
fn echoes_of_the_kernel<P: Port + Send + 'static>(ports: Vec<P>) -> Vec<WorkerReport> {
    let running = Server::with_ports(engine("10.73.0.2/24"), ports).unwrap().start(|_| Echo).unwrap();
    let mut sockets: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let stream = TcpStream::connect_timeout(&"10.73.0.2:80".parse().unwrap(), PATIENCE).unwrap();
            tungstenite::client("ws://10.73.0.2/", stream).unwrap().0
        })
        .collect();
    for round in 0..ROUNDS {
        for socket in &mut sockets {
            socket.send(tungstenite::Message::text(round.to_string())).unwrap();
            assert_eq!(socket.read().unwrap().to_text().unwrap(), round.to_string());
        }
    }
    let reports = reports_when_done(&running);
    running.handle().stop();
    running.wait().unwrap();
    for report in &reports {
        assert!(report.engine.opened > 0, "every worker has connections: {reports:#?}");
        assert_eq!(report.stack.rx_rst_sent, 0, "{reports:#?}");
    }
    reports
}

pub(crate) fn rss_is_read_back() {
    let ports = open(&DpdkConfig { workers: 3, ..config("dpdk:net_null0") }).unwrap();
    let summary = ports[0].summary();
    assert_eq!(summary.steering, Steering::Rss, "{summary}");
    let rss = summary.rss.as_ref().expect("key and table");
    assert!(ports.iter().all(|port| port.info().rss.as_ref().is_some_and(|told| Arc::ptr_eq(told, rss))));
    let flow = |port: u16| (([10, 0, 0, 1], port).into(), ([10, 0, 0, 2], 80).into());
    let queues: Vec<u16> = (50_000..50_100).map(flow).map(|(from, to)| rss.queue(from, to)).collect();
    assert!((0..3).all(|queue| queues.contains(&queue)), "{queues:?}");
}
