//! Servers and clients on threads of their own: start, sleep, wake, end.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use unsocket::engine::{
    Client, Closed, Conn, ConnRef, Connect, EngineConfig, Handle, Handler, Idle, LaunchError, PortGroup,
    Server,
};
use unsocket::port::wire::{self, WireConfig, WirePort};
use unsocket::time::Duration;
use unsocket::ws::{CloseCode, Message};

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

fn config(addr: &str, idle: Idle) -> EngineConfig {
    let mut config =
        EngineConfig { listen: vec![80], idle, handle_signals: false, ..EngineConfig::default() };
    config.stack.addrs.push(addr.parse().unwrap());
    config.stack.tcp.connections_max = 64;
    config
}

fn server_addr() -> SocketAddr {
    "10.1.0.1:80".parse().unwrap()
}

fn sides(workers: usize) -> (Vec<WirePort>, Vec<WirePort>) {
    wire::queues(workers, &WireConfig::default()).unwrap()
}

struct Echo;

impl Handler for Echo {
    type Session = ();

    fn on_message(&mut self, conn: &mut Conn<'_, Self>, message: Message<'_>) {
        conn.send(message);
    }
}

/// Tells everything that happens to a channel.
struct Teller {
    sender: mpsc::Sender<Told>,
}

#[derive(Debug, PartialEq)]
enum Told {
    Opened(ConnRef),
    Text(String),
    Closed(u16, bool),
}

impl Handler for Teller {
    type Session = ();

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        self.sender.send(Told::Opened(conn.id())).unwrap();
    }

    fn on_message(&mut self, _: &mut Conn<'_, Self>, message: Message<'_>) {
        let text = String::from_utf8(message.as_bytes().to_vec()).unwrap();
        self.sender.send(Told::Text(text)).unwrap();
    }

    fn on_close(&mut self, _: &mut Conn<'_, Self>, closed: &Closed<'_>) {
        let _ = self.sender.send(Told::Closed(closed.code.0, closed.clean));
    }
}

/// A client whose events come to a channel.
fn teller(port: Vec<WirePort>, idle: Idle) -> (Client<WirePort>, Teller, mpsc::Receiver<Told>) {
    let (sender, receiver) = mpsc::channel();
    let client = Client::with_ports(config("10.1.0.2/24", idle), port).unwrap();
    (client, Teller { sender }, receiver)
}

fn opened(told: &mpsc::Receiver<Told>) -> ConnRef {
    match told.recv_timeout(SECONDS(10)).unwrap() {
        Told::Opened(conn) => conn,
        other => panic!("{other:?}"),
    }
}

fn start_client(client: Client<WirePort>, teller: Teller) -> unsocket::engine::Running {
    // One worker: the factory is called once.
    let teller = Mutex::new(Some(teller));
    client.start(move |_| teller.lock().unwrap().take().unwrap()).unwrap()
}

fn there_and_back(idle: Idle) {
    let (server_port, client_port) = sides(1);
    let server = Server::with_ports(config("10.1.0.1/24", idle), server_port).unwrap();
    let server = server.start(|_| Echo).unwrap();
    let (client, app, told) = teller(client_port, idle);
    client.connect(Connect::new(server_addr(), "/")).unwrap();
    let client = start_client(client, app);
    let conn = opened(&told);
    for number in 0..20 {
        let text = format!("message {number}");
        client.handle().send(conn, Message::Text(&text)).unwrap();
        assert_eq!(told.recv_timeout(SECONDS(10)).unwrap(), Told::Text(text));
        // Long enough for an adaptive worker to fall asleep.
        std::thread::sleep(Duration::from_millis(2));
    }
    let reports = server.handle().reports(SECONDS(10));
    assert_eq!((reports[0].engine.messages_in, reports[0].engine.open), (20, 1));
    server.handle().drain();
    server.wait().unwrap();
    assert_eq!(told.recv_timeout(SECONDS(10)).unwrap(), Told::Closed(1001, true));
    // Its wire has no other end any more.
    assert!(matches!(client.wait(), Err(LaunchError::PortGone { worker: 0, .. })));
}

#[test]
fn workers_that_sleep_are_woken() {
    there_and_back(Idle::Adaptive { spin: Duration::from_micros(20), coalesce: Duration::ZERO });
}

#[test]
fn workers_that_spin() {
    there_and_back(Idle::Spin);
}

#[test]
fn a_sleeping_worker_costs_nothing() {
    let (server_port, _client_port) = sides(1);
    let idle = Idle::Adaptive { spin: Duration::from_micros(20), coalesce: Duration::ZERO };
    let mut config = config("10.1.0.1/24", idle);
    config.deadlines.tick = None;
    let server = Server::with_ports(config, server_port).unwrap().start(|_| Echo).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let before = server.handle().reports(SECONDS(10))[0].engine.polls;
    std::thread::sleep(Duration::from_millis(300));
    let polls = server.handle().reports(SECONDS(10))[0].engine.polls - before;
    assert!(polls < 1_000, "{polls} polls in 300 ms of silence");
}

#[test]
fn commands_do_not_wait_for_the_end_of_a_rest() {
    const RESTS: u32 = 50;
    let (server_port, _client_port) = sides(1);
    let coalesce = Duration::from_millis(200);
    let resting = Idle::Adaptive { spin: Duration::ZERO, coalesce };
    let server = Server::with_ports(config("10.1.0.1/24", resting), server_port).unwrap();
    let server = server.start(|_| Echo).unwrap();
    let began = std::time::Instant::now();
    for _ in 0..RESTS {
        // Answering is work, after which it rests.
        assert_eq!(server.handle().reports(SECONDS(10)).len(), 1);
    }
    server.handle().drain();
    server.wait().unwrap();
    assert!(began.elapsed() < coalesce * RESTS / 2, "{:?}", began.elapsed());
}

#[test]
fn what_comes_during_a_rest_is_one_burst() {
    const MESSAGES: u64 = 200;
    let (server_port, client_port) = sides(1);
    let resting = Idle::Adaptive { spin: Duration::ZERO, coalesce: Duration::from_millis(5) };
    let server = Server::with_ports(config("10.1.0.1/24", resting), server_port).unwrap();
    let server = server.start(|_| Echo).unwrap();
    let asleep = Idle::Adaptive { spin: Duration::ZERO, coalesce: Duration::ZERO };
    let (client, app, told) = teller(client_port, asleep);
    client.connect(Connect::new(server_addr(), "/")).unwrap();
    let client = start_client(client, app);
    let conn = opened(&told);
    let before = server.handle().reports(SECONDS(10))[0].engine;
    for number in 0..MESSAGES {
        client.handle().send(conn, Message::Text(&number.to_string())).unwrap();
        std::thread::sleep(Duration::from_micros(200));
    }
    for number in 0..MESSAGES {
        assert_eq!(told.recv_timeout(SECONDS(10)).unwrap(), Told::Text(number.to_string()));
    }
    let after = server.handle().reports(SECONDS(10))[0].engine;
    assert_eq!(after.messages_in - before.messages_in, MESSAGES);
    // A poll with work for each rest of 5 ms, and not one for each message of the 40 ms and more.
    let busy_polls = after.busy_polls - before.busy_polls;
    assert!(busy_polls < MESSAGES / 2, "{busy_polls} bursts for {MESSAGES} messages");
    server.handle().drain();
    server.wait().unwrap();
    drop(client);
}

#[test]
fn several_workers_publish_to_each_other_across_threads() {
    struct Room;
    impl Handler for Room {
        type Session = ();
        fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
            conn.subscribe("room").unwrap();
        }
        fn on_message(&mut self, conn: &mut Conn<'_, Self>, message: Message<'_>) {
            conn.publish("room", message);
        }
    }
    let idle = Idle::Adaptive { spin: Duration::from_micros(20), coalesce: Duration::ZERO };
    let (server_ports, client_ports) = sides(2);
    let server = Server::with_ports(config("10.1.0.1/24", idle), server_ports).unwrap();
    let server = server.start(|_| Room).unwrap();
    let (sender, told) = mpsc::channel();
    let client = Client::with_ports(config("10.1.0.2/24", idle), client_ports).unwrap();
    for _ in 0..10 {
        client.connect(Connect::new(server_addr(), "/")).unwrap();
    }
    let client = client.start(move |_| Teller { sender: sender.clone() }).unwrap();
    let conns: Vec<ConnRef> = (0..10).map(|_| opened(&told)).collect();
    assert!((0..2).all(|worker| conns.iter().any(|conn| conn.worker == worker)));
    while server.handle().reports(SECONDS(10)).iter().map(|report| report.engine.open).sum::<u64>() < 10 {
        std::thread::yield_now();
    }
    client.handle().send(conns[0], Message::Text("hello")).unwrap();
    for _ in 0..10 {
        assert_eq!(told.recv_timeout(SECONDS(10)).unwrap(), Told::Text("hello".into()));
    }
    client.handle().close(conns[3], CloseCode::NORMAL, "").unwrap();
    assert_eq!(told.recv_timeout(SECONDS(10)).unwrap(), Told::Closed(1000, true));
}

#[test]
fn a_handler_that_panics_brings_the_server_down_with_an_error() {
    struct Bomb;
    impl Handler for Bomb {
        type Session = ();
        fn on_message(&mut self, _: &mut Conn<'_, Self>, _: Message<'_>) {
            panic!("the handler's fault");
        }
    }
    let idle = Idle::default();
    let (server_ports, client_ports) = sides(2);
    let server = Server::with_ports(config("10.1.0.1/24", idle), server_ports).unwrap();
    let server = server.start(|_| Bomb).unwrap();
    let (sender, told) = mpsc::channel();
    let client = Client::with_ports(config("10.1.0.2/24", idle), client_ports).unwrap();
    client.connect(Connect::new(server_addr(), "/")).unwrap();
    let client = client.start(move |_| Teller { sender: sender.clone() }).unwrap();
    client.handle().send(opened(&told), Message::Text("boom")).unwrap();
    match server.wait() {
        Err(LaunchError::Panicked { message, .. }) => assert_eq!(message, "the handler's fault"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_worker_that_cannot_be_made_is_an_error() {
    let (ports, _peer) = sides(2);
    let mut config = config("10.1.0.1/24", Idle::default());
    config.stack.mtu = Some(100);
    let started = Server::with_ports(config, ports).unwrap().start(|_| Echo);
    assert!(matches!(started, Err(LaunchError::Worker { .. })));

    let none: Vec<WirePort> = Vec::new();
    let server = Server::with_ports(EngineConfig::default(), none);
    assert!(matches!(server, Err(LaunchError::NoPorts)));

    let mut config = EngineConfig::default();
    config.limits.overflow_bytes_high_water = config.limits.overflow_bytes_max + 1;
    let (ports, _peer) = sides(1);
    let message = Server::with_ports(config, ports).err().unwrap().to_string();
    assert!(message.contains("overflow_bytes_high_water"), "{message}");
}

#[test]
fn sigterm_drains_and_the_server_ends_well() {
    let idle = Idle::default();
    let (server_port, client_port) = sides(1);
    let server_config = EngineConfig { handle_signals: true, ..config("10.1.0.1/24", idle) };
    let server = Server::with_ports(server_config, server_port).unwrap();
    let handle: Arc<Handle> = Arc::new(server.handle());
    let serving = std::thread::spawn(move || server.serve(|_| Echo));
    let (client, app, told) = teller(client_port, idle);
    client.connect(Connect::new(server_addr(), "/")).unwrap();
    let client = start_client(client, app);
    opened(&told);
    assert_eq!(handle.reports(SECONDS(10)).len(), 1, "it runs");
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).unwrap();
    assert_eq!(told.recv_timeout(SECONDS(10)).unwrap(), Told::Closed(1001, true));
    serving.join().unwrap().unwrap();
    drop(client);
}

/// What anybody says, everybody hears.
struct Crier;

impl Handler for Crier {
    type Session = ();

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        conn.subscribe("news").unwrap();
    }

    fn on_message(&mut self, conn: &mut Conn<'_, Self>, message: Message<'_>) {
        conn.publish("news", message);
    }
}

/// Two devices whose networks have the very same addresses: a frame that came to the other one's workers would be
/// answered there.
fn two_groups(workers: [usize; 2]) -> (Server<WirePort>, [Client<WirePort>; 2]) {
    let idle = Idle::Adaptive { spin: Duration::from_micros(20), coalesce: Duration::ZERO };
    let of_server = EngineConfig {
        limits: unsocket::engine::Limits { connections_max: 16, ..Default::default() },
        ..config("10.1.0.1/24", idle)
    };
    let (mut groups, mut clients) = (Vec::new(), Vec::new());
    for workers in workers {
        let (server_ports, client_ports) = sides(workers);
        groups.push(PortGroup::new(&of_server, server_ports));
        clients.push(Client::with_ports(config("10.1.0.2/24", idle), client_ports).unwrap());
    }
    let server = Server::with_groups(of_server, groups).unwrap();
    (server, clients.try_into().ok().unwrap())
}

#[test]
fn groups_of_ports_share_topics_and_the_drain_but_no_frame() {
    const CLIENTS: usize = 6;
    let (server, clients) = two_groups([1, 2]);
    let server = server.start(|_| Crier).unwrap();
    assert_eq!(server.handle().workers(), 3);
    let (sender, told) = mpsc::channel();
    let clients = clients.map(|client| {
        for _ in 0..CLIENTS {
            client.connect(Connect::new(server_addr(), "/")).unwrap();
        }
        let sender = sender.clone();
        client.start(move |_| Teller { sender: sender.clone() }).unwrap()
    });
    let conns: Vec<ConnRef> = (0..2 * CLIENTS).map(|_| opened(&told)).collect();
    server.handle().publish("news", Message::Text("to all")).unwrap();
    for _ in &conns {
        assert_eq!(told.recv_timeout(SECONDS(10)).unwrap(), Told::Text("to all".into()));
    }
    let mut reports = server.handle().reports(SECONDS(10));
    reports.sort_by_key(|report| report.worker);
    let open = |group: std::ops::Range<usize>| -> u64 {
        reports[group].iter().map(|report| report.engine.open).sum()
    };
    assert_eq!((open(0..1), open(1..3)), (CLIENTS as u64, CLIENTS as u64));
    // The one worker of the first group has nobody to hand frames to, and none comes from the second.
    let alone = &reports[0].engine;
    assert_eq!((alone.handed_over, alone.taken_over, alone.misplaced), (0, 0, 0));
    server.handle().drain();
    server.wait().unwrap();
    for _ in &conns {
        assert_eq!(told.recv_timeout(SECONDS(10)).unwrap(), Told::Closed(1001, true));
    }
    drop(clients);
}

#[test]
fn what_one_group_says_the_other_hears() {
    let (server, [first, second]) = two_groups([1, 1]);
    let server = server.start(|_| Crier).unwrap();
    let hear = |client: Client<WirePort>| {
        client.connect(Connect::new(server_addr(), "/")).unwrap();
        let (sender, told) = mpsc::channel();
        let running = start_client(client, Teller { sender });
        let conn = opened(&told);
        (running, conn, told)
    };
    let (first, conn, _) = hear(first);
    let (_second, _, told) = hear(second);
    first.handle().send(conn, Message::Text("hello")).unwrap();
    assert_eq!(told.recv_timeout(SECONDS(10)).unwrap(), Told::Text("hello".into()));
    server.handle().stop();
    server.wait().unwrap();
}

#[test]
fn a_group_that_is_not_there_or_has_no_port_is_refused() {
    let none = Server::with_groups(EngineConfig::default(), Vec::<PortGroup<WirePort>>::new());
    assert!(matches!(none, Err(LaunchError::NoPorts)));
    let empty = PortGroup::<WirePort>::new(&EngineConfig::default(), Vec::new());
    assert!(matches!(Server::with_groups(EngineConfig::default(), vec![empty]), Err(LaunchError::NoPorts)));
    let (server, _clients) = two_groups([1, 1]);
    let connect = Connect::new(server_addr(), "/");
    assert!(server.handle().connect_from(1, connect.clone()).is_ok());
    let refused = server.handle().connect_from(2, connect).unwrap_err();
    assert_eq!(refused.to_string(), "there is no group 2 of ports");
    let (exit, _kernel) = sides(1);
    assert!(matches!(server.exception_path_of(2, exit), Err(LaunchError::NoGroup { group: 2, groups: 2 })));
}
