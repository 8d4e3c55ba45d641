//! TAP devices against the kernel, each in a network namespace of its own. Needs root and iproute2.

#[path = "port_tap/frames.rs"]
mod frames;

use frames::Netns;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use unsocket::port::tap::{TapConfig, TapError, TapFrame, TapPort, open};
use unsocket::port::{Frame, Port, RxChecksum};

const OURS: Ipv4Addr = Ipv4Addr::new(10, 73, 0, 2);
const HOST: Ipv4Addr = Ipv4Addr::new(10, 73, 0, 1);
const OURS_6: Ipv6Addr = Ipv6Addr::new(0xfd73, 0, 0, 0, 0, 0, 0, 2);
const HOST_6: Ipv6Addr = Ipv6Addr::new(0xfd73, 0, 0, 0, 0, 0, 0, 1);
const PATIENCE: Duration = Duration::from_secs(5);

fn config(netns: &Netns) -> TapConfig {
    TapConfig {
        netns: Some(netns.name.clone()),
        host_addresses: vec![(HOST.into(), 24), (HOST_6.into(), 64)],
        ..TapConfig::new("uns0")
    }
}

fn open_one(config: &TapConfig) -> TapPort {
    open(config).unwrap_or_else(|error| panic!("{error}")).remove(0)
}

/// Opens a device that this process has just closed. The child process of another test, forked in between, keeps our
/// descriptors until its exec.
fn open_again(config: &TapConfig) -> Vec<TapPort> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match open(config) {
            Err(TapError::Busy(_)) if Instant::now() < deadline => thread::sleep(Duration::from_millis(1)),
            result => return result.unwrap_or_else(|error| panic!("{error}")),
        }
    }
}

fn refused(config: &TapConfig) -> TapError {
    open(config).map(|_| ()).expect_err("the device must not open")
}

fn send(port: &mut TapPort, bytes: &[u8]) {
    let mut frame = port.alloc().expect("a free frame");
    frame.set_len(bytes.len());
    frame.bytes_mut().copy_from_slice(bytes);
    let mut burst = VecDeque::from([frame]);
    assert_eq!(port.tx_burst(&mut burst), 1);
}

/// Waits for a frame that `wanted` says yes to; the others are released.
fn receive(port: &mut TapPort, mut wanted: impl FnMut(&TapFrame) -> bool) -> Option<TapFrame> {
    let deadline = Instant::now() + PATIENCE;
    let mut burst = VecDeque::new();
    while Instant::now() < deadline {
        port.rx_burst(&mut burst, 1);
        match burst.pop_front() {
            Some(frame) if wanted(&frame) => return Some(frame),
            Some(frame) => port.release(frame),
            None => thread::sleep(Duration::from_micros(200)),
        }
    }
    None
}

/// Tells the kernel's end where our addresses are, so that no ARP or NDP is in the way.
fn introduce(netns: &Netns, port: &TapPort) {
    let mac = port.info().mac.map(|byte| format!("{byte:02x}")).join(":");
    netns.ip(&format!("neigh replace {OURS} lladdr {mac} dev uns0"));
    netns.ip(&format!("neigh replace {OURS_6} lladdr {mac} dev uns0"));
}

fn bound(netns: &Netns, address: impl Into<IpAddr>) -> UdpSocket {
    let address = SocketAddr::new(address.into(), 0);
    let socket = netns.inside(|| UdpSocket::bind(address)).expect("the address is usable at once");
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Sends datagrams both ways through the port, over IPv4 and IPv6, `rounds` times.
fn exchange_datagrams(netns: &Netns, port: &mut TapPort, rounds: u16) {
    introduce(netns, port);
    let macs = (port.info().mac, netns.mac("uns0"));
    let sockets = [bound(netns, HOST), bound(netns, HOST_6)];
    for round in 0..rounds {
        for socket in &sockets {
            let host = socket.local_addr().unwrap();
            let question = vec![round as u8; usize::from(round) % 1400 + 1];
            let ours: IpAddr = if host.is_ipv4() { OURS.into() } else { OURS_6.into() };
            socket.send_to(&question, (ours, 7)).unwrap();
            let seen = receive(port, |frame| frame.bytes().ends_with(&question)).expect("the datagram");
            port.release(seen);

            let answer = [b"re: ".as_slice(), &question].concat();
            let frame = match host.ip() {
                IpAddr::V4(ip) => {
                    let addresses = frames::sum_of_addresses(&OURS.octets(), &ip.octets());
                    let datagram = frames::udp((7, host.port()), &answer, addresses);
                    frames::ipv4(macs, (OURS, ip), frames::UDP, &datagram)
                }
                IpAddr::V6(ip) => {
                    let addresses = frames::sum_of_addresses(&OURS_6.octets(), &ip.octets());
                    let datagram = frames::udp((7, host.port()), &answer, addresses);
                    frames::ipv6(macs, (OURS_6, ip), frames::UDP, &datagram)
                }
            };
            send(port, &frame);
            let mut buffer = [0; 2000];
            let (length, from) = socket.recv_from(&mut buffer).expect("the kernel took the frame");
            assert_eq!(buffer[..length], answer);
            assert_eq!(from, SocketAddr::new(ours, 7));
        }
    }
}

#[test]
fn datagrams_pass_with_offloads_and_without() {
    for offload in [true, false] {
        let netns = Netns::new();
        // Fewer frames than rounds: each must come back to the port.
        let mut port = open_one(&TapConfig { offload, frames: 64, ..config(&netns) });
        exchange_datagrams(&netns, &mut port, 300);
        let stats = port.stats();
        assert_eq!((stats.tx_frames, stats.tx_errors, stats.rx_errors, stats.alloc_failed), (600, 0, 0, 0));
        assert!(stats.rx_frames >= 600 && stats.rx_bytes > stats.rx_frames * 42);
    }
}

#[test]
fn jumbo_frames_pass() {
    let netns = Netns::new();
    let mut port = open_one(&TapConfig { mtu: 9000, ..config(&netns) });
    introduce(&netns, &port);
    let socket = bound(&netns, HOST);
    let datagram = vec![5; 9000 - 28];
    socket.send_to(&datagram, (OURS, 7)).unwrap();
    let frame = receive(&mut port, |frame| frame.bytes().ends_with(&datagram)).expect("the datagram");
    assert_eq!(frame.bytes().len(), 9014);
}

#[test]
fn the_host_finds_us_by_arp() {
    let netns = Netns::new();
    let mut port = open_one(&config(&netns));
    let mac = port.info().mac;
    assert_eq!(mac[0] & 0x03, 0x02, "locally administered, unicast");
    assert_ne!(mac, netns.mac("uns0"));
    bound(&netns, HOST).send_to(b"anyone there?", (OURS, 7)).unwrap();
    let mut reply = None;
    let request = receive(&mut port, |frame| {
        reply = frames::arp_reply(frame.bytes(), mac, OURS);
        reply.is_some()
    });
    port.release(request.expect("an ARP request"));
    send(&mut port, &reply.unwrap());
    let datagram =
        receive(&mut port, |frame| frame.bytes().ends_with(b"anyone there?")).expect("the datagram");
    assert_eq!(datagram.bytes()[..6], mac);
}

#[test]
fn with_offloads_the_kernel_hands_over_large_segments_without_checksums() {
    let netns = Netns::new();
    let mut port = open_one(&config(&netns));
    introduce(&netns, &port);
    let macs = (port.info().mac, netns.mac("uns0"));
    let addresses = frames::sum_of_addresses(&OURS.octets(), &HOST.octets());
    thread::scope(|scope| {
        scope.spawn(|| {
            netns.enter();
            let mut stream = TcpStream::connect((OURS, 80)).expect("our SYN-ACK");
            stream.write_all(&[9; 10_000]).unwrap();
        });
        let tcp_flags = |frame: &TapFrame| {
            let bytes = frame.bytes();
            (bytes.len() >= 54 && bytes[12..14] == [8, 0] && bytes[23] == frames::TCP).then(|| bytes[47])
        };
        let syn = receive(&mut port, |frame| tcp_flags(frame) == Some(0x02)).expect("a SYN");
        let word = |at: usize| u32::from_be_bytes(syn.bytes()[at..at + 4].try_into().unwrap());
        let peer_port = u16::from_be_bytes([syn.bytes()[34], syn.bytes()[35]]);
        let segment = frames::tcp((80, peer_port), 1000, word(38).wrapping_add(1), 0x12, addresses);
        send(&mut port, &frames::ipv4(macs, (OURS, HOST), frames::TCP, &segment));
        port.release(syn);
        let large = receive(&mut port, |frame| frame.bytes().len() > 1514).expect("a large segment");
        assert!(large.bytes().len() <= port.info().frame_bytes_max);
        assert_eq!(large.rx_checksum(), RxChecksum::Good);
        // RST, so that the client does not wait for us.
        let reset = frames::tcp((80, peer_port), 1001, 0, 0x04, addresses);
        send(&mut port, &frames::ipv4(macs, (OURS, HOST), frames::TCP, &reset));
        port.release(large);
    });
}

#[test]
fn a_flow_stays_on_the_queue_that_sends_for_it() {
    let netns = Netns::new();
    let mut ports =
        open(&TapConfig { queues: 3, ..config(&netns) }).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(ports.len(), 3);
    assert_eq!(ports[2].info().name, "tap:uns0/2");
    assert_eq!(ports[0].info().mac, ports[2].info().mac);
    for port in &mut ports {
        exchange_datagrams(&netns, port, 0);
    }
    let macs = (ports[0].info().mac, netns.mac("uns0"));
    let addresses = frames::sum_of_addresses(&OURS.octets(), &HOST.octets());
    for queue in [2, 0, 1] {
        let socket = bound(&netns, HOST);
        let host_port = socket.local_addr().unwrap().port();
        let datagram = frames::udp((7, host_port), b"hello", addresses);
        send(&mut ports[queue], &frames::ipv4(macs, (OURS, HOST), frames::UDP, &datagram));
        let mut buffer = [0; 100];
        assert_eq!(socket.recv_from(&mut buffer).expect("the datagram").0, 5);
        let answer = format!("to queue {queue}");
        socket.send_to(answer.as_bytes(), (OURS, 7)).unwrap();
        let frame = receive(&mut ports[queue], |frame| frame.bytes().ends_with(answer.as_bytes()));
        assert!(frame.is_some(), "the answer came on another queue");
    }
}

#[test]
fn a_worker_can_sleep_until_a_frame_arrives() {
    let netns = Netns::new();
    let mut port = open_one(&TapConfig { host_addresses: vec![(HOST.into(), 24)], ..config(&netns) });
    introduce(&netns, &port);
    let socket = bound(&netns, HOST);
    let mut burst = VecDeque::new();
    // Let the kernel finish with its own greetings first.
    while port.rx_burst(&mut burst, 64) > 0 || !port.prepare_sleep() {
        burst.drain(..).for_each(|frame| port.release(frame));
    }
    socket.send_to(b"wake up", (OURS, 7)).unwrap();
    let (mut poll, mut events) = (Poll::new().unwrap(), Events::with_capacity(4));
    let fd = port.wait_fd().expect("a descriptor");
    poll.registry().register(&mut SourceFd(&fd.as_raw_fd()), Token(0), Interest::READABLE).unwrap();
    poll.poll(&mut events, Some(PATIENCE)).unwrap();
    assert_eq!(events.iter().count(), 1);
    assert!(!port.prepare_sleep());
    assert!(receive(&mut port, |frame| frame.bytes().ends_with(b"wake up")).is_some());
}

#[test]
fn a_device_that_is_in_use_is_named() {
    for queues in [1, 2] {
        let netns = Netns::new();
        let config = TapConfig { queues, ..config(&netns) };
        let ports = open(&config).unwrap_or_else(|error| panic!("{error}"));
        let error = refused(&config);
        assert!(matches!(error, TapError::Busy(_)), "{error}");
        assert!(error.to_string().contains("`uns0` is in use by another process"), "{error}");
        drop(ports);
        open_again(&config);
    }
}

#[test]
fn several_queues_of_a_stranger_are_left_alone() {
    // The namespace keeps the claims apart, as those of another program would be: only the device itself tells.
    let (netns, elsewhere) = (Netns::new(), Netns::new());
    let config = TapConfig { queues: 2, ..config(&netns) };
    let ports = open(&TapConfig { netns: Some(elsewhere.name.clone()), ..config.clone() })
        .unwrap_or_else(|error| panic!("{error}"));
    elsewhere.ip(&format!("link set uns0 netns {}", netns.name));
    let error = refused(&config);
    assert!(matches!(error, TapError::Busy(_)), "{error}");
    drop(ports);
}

#[test]
fn a_persistent_device_is_attached_to_and_stays() {
    let netns = Netns::new();
    for queues in [1, 2] {
        let flag = if queues > 1 { "multi_queue" } else { "" };
        netns.ip(&format!("tuntap add dev uns0 mode tap {flag}"));
        for offload in [true, false] {
            let config = TapConfig { create: false, queues, offload, ..config(&netns) };
            let mut ports = open_again(&config);
            if queues == 1 {
                exchange_datagrams(&netns, &mut ports[0], 20);
            } else {
                let error = refused(&config);
                assert!(matches!(error, TapError::Busy(_)), "{error}");
            }
        }
        netns.ip("link show uns0");
        let error = refused(&TapConfig { queues: 3 - queues, ..config(&netns) });
        assert!(matches!(error, TapError::WrongKind { .. }), "{error}");
        netns.ip("link del uns0");
    }
}

#[test]
fn other_interfaces_and_missing_ones_are_named() {
    let netns = Netns::new();
    let error = refused(&TapConfig { create: false, ..config(&netns) });
    assert!(error.to_string().contains("ip tuntap add dev uns0 mode tap"), "{error}");
    netns.ip("link add uns0 type bridge");
    let error = refused(&config(&netns));
    assert!(
        error.to_string().contains("`uns0` exists, but is not a TAP device made for one queue"),
        "{error}"
    );
    let error = refused(&TapConfig { netns: Some("no-such-netns".into()), ..TapConfig::new("uns0") });
    assert!(error.to_string().contains("`ip netns add no-such-netns`"), "{error}");
}

#[test]
fn bad_values_are_refused_before_anything_is_touched() {
    let refused_with = |change: fn(&mut TapConfig)| {
        // No such namespace: to touch it would give another error.
        let mut config = TapConfig { netns: Some("no-such-netns".into()), ..TapConfig::new("uns0") };
        change(&mut config);
        refused(&config).to_string()
    };
    for name in ["", "a-name-that-is-too-long", "a/b", "a b", "..", "uns%d"] {
        let error = refused(&TapConfig::new(name));
        assert!(matches!(error, TapError::Name(_)), "{error}");
    }
    let message = refused_with(|config| config.netns = Some("../etc".into()));
    assert!(message.contains("must be a file name below /run/netns"), "{message}");
    assert_eq!(
        refused_with(|config| config.mtu = 575),
        "a TAP device's MTU must be 576 to 9000 bytes, not 575"
    );
    assert_eq!(refused_with(|config| config.queues = 257), "a TAP device has 1 to 256 queues, not 257");
    assert_eq!(
        refused_with(|config| config.frames = 1),
        "each queue of a TAP device has 64 to 65536 frames, not 1"
    );
    let message = refused_with(|config| config.mac = Some([1, 0, 0x5e, 0, 0, 1]));
    assert!(message.starts_with("01:00:5e:00:00:01 cannot be"), "{message}");
    let message = refused_with(|config| config.host_addresses = vec![(HOST.into(), 33)]);
    assert_eq!(message, "10.73.0.1/33: the prefix length is over 32");
    let message = refused_with(|config| {
        config.mtu = 1000;
        config.host_addresses = vec![(HOST_6.into(), 64)];
    });
    assert!(message.contains("IPv6 needs 1280 or more"), "{message}");
}

/// Capabilities belong to a thread: this one has none of the network's any more.
fn drop_network_capabilities() {
    let mut sets = capabilities(None).expect("this thread's capabilities");
    sets.effective.remove(CapabilitySet::NET_ADMIN | CapabilitySet::SYS_ADMIN);
    set_capabilities(None, sets).expect("dropping capabilities is always allowed");
}

#[test]
fn without_permission_the_error_names_the_capability_and_the_ways_out() {
    let netns = Netns::new();
    let error = netns.inside(|| {
        drop_network_capabilities();
        refused(&TapConfig { netns: None, ..config(&netns) })
    });
    assert!(matches!(error, TapError::Permission { .. }), "{error}");
    let message = error.to_string();
    for part in
        ["create `uns0`", "CAP_NET_ADMIN", "setcap cap_net_admin+ep /", "ip tuntap add dev uns0 mode tap"]
    {
        assert!(message.contains(part), "{message}");
    }
    let error = thread::spawn({
        let config = config(&netns);
        move || {
            drop_network_capabilities();
            refused(&config)
        }
    });
    let message = error.join().unwrap().to_string();
    assert!(message.contains("CAP_SYS_ADMIN"), "{message}");
}

#[test]
fn a_device_that_root_prepared_needs_no_privilege() {
    let netns = Netns::new();
    netns.ip("tuntap add dev uns0 mode tap user root");
    let attempt = || {
        netns.inside(|| {
            drop_network_capabilities();
            open(&TapConfig { netns: None, ..config(&netns) })
        })
    };
    let error = attempt().map(|_| ()).expect_err("the device is down");
    assert!(error.to_string().starts_with("no permission to bring up `uns0`"), "{error}");
    netns.ip("link set uns0 mtu 1500 up");
    let error = attempt().map(|_| ()).expect_err("the device has no address");
    assert!(error.to_string().starts_with("no permission to give an address to `uns0`"), "{error}");
    netns.ip(&format!("addr add {HOST}/24 dev uns0"));
    netns.ip(&format!("addr add {HOST_6}/64 dev uns0 nodad"));
    let mut port = attempt().unwrap_or_else(|error| panic!("{error}")).remove(0);
    exchange_datagrams(&netns, &mut port, 5);
}

#[test]
fn a_device_that_is_deleted_under_us_is_noticed() {
    let netns = Netns::new();
    let mut port = open_one(&config(&netns));
    assert!(port.is_alive());
    netns.ip("link del uns0");
    let mut burst = VecDeque::new();
    assert_eq!(port.rx_burst(&mut burst, 64), 0);
    assert!(!port.is_alive());
    assert!(port.stats().rx_errors > 0);
    let mut burst: VecDeque<_> = port.alloc().into_iter().collect();
    burst[0].set_len(60);
    assert_eq!(port.tx_burst(&mut burst), 1, "a frame that cannot be sent does not block the others");
    assert_eq!(port.stats().tx_errors, 1);
}

/// The test starts itself once more as the process to be killed.
#[test]
fn a_new_start_works_after_kill_9() {
    const ROLE: &str = "PORT_TAP_TEST_NETNS";
    let device =
        |netns: &str, queues| TapConfig { netns: Some(netns.into()), queues, ..TapConfig::new("uns0") };
    if let Ok(role) = std::env::var(ROLE) {
        let (netns, queues) = role.split_once(' ').expect("a namespace and a number of queues");
        let ports = open(&device(netns, queues.parse().unwrap())).unwrap_or_else(|error| panic!("{error}"));
        println!("\nopen {}", ports.len());
        thread::sleep(Duration::from_secs(60));
        return;
    }
    let netns = Netns::new();
    for queues in [1, 2] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_new_start_works_after_kill_9", "--nocapture"])
            .env(ROLE, format!("{} {queues}", netns.name))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = format!("open {queues}");
        assert!(lines.any(|line| line.unwrap() == ready), "the child did not open the device");
        let error = refused(&device(&netns.name, queues));
        assert!(matches!(error, TapError::Busy(_)), "{error}");
        child.kill().unwrap();
        child.wait().unwrap();
        open(&device(&netns.name, queues)).unwrap_or_else(|error| panic!("{error}"));
    }
}
