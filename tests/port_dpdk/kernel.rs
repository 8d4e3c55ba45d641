//! Against the kernel's own network stack, in a namespace that the scenario makes and enters.

use crate::frames::{self, Netns, TCP, UDP};
use crate::setup::{config, open_one, receive, send};
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;
use unsocket::port::Port;
use unsocket::port::dpdk::DpdkPort;

const OURS: Ipv4Addr = Ipv4Addr::new(10, 73, 0, 2);
const HOST: Ipv4Addr = Ipv4Addr::new(10, 73, 0, 1);

/// The MAC address of the kernel's `interface`.
fn mac_of(netns: &Netns, interface: &str) -> [u8; 6] {
    let link = netns.ip(&format!("-br link show {interface}"));
    let mac = link.split_whitespace().nth(2).expect("a MAC address");
    let bytes: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().expect("six bytes")
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Answers ARP requests for us, so that the kernel finds us.
fn answer_arp(port: &mut DpdkPort, frame: &[u8]) -> bool {
    let answer = frames::arp_reply(frame, port.info().mac, OURS);
    if let Some(answer) = &answer {
        send(port, answer);
    }
    answer.is_some()
}

pub(crate) fn af_packet() {
    udp_both_ways("dpdk:net_af_packet0,iface=ours");
}

pub(crate) fn af_xdp() {
    udp_both_ways("dpdk:net_af_xdp0,iface=ours");
}

/// The kernel finds us by ARP and sends a datagram; we answer it.
fn udp_both_ways(spec: &str) {
    let netns = Netns::new();
    netns.enter();
    netns.ip("link add ours type veth peer name theirs");
    netns.ip("addr add 10.73.0.1/24 dev theirs");
    netns.ip("link set ours up");
    netns.ip("link set theirs up");
    let mut port = open_one(&config(spec));
    assert_eq!(port.info().mac, mac_of(&netns, "ours"), "the interface's own address");
    let kernel = UdpSocket::bind((HOST, 9000)).unwrap();
    kernel.set_read_timeout(Some(Duration::from_secs(10))).unwrap();

    let asked: Vec<u8> = (0..1400u16).map(|at| at as u8).collect();
    kernel.send_to(&asked, (OURS, 7000)).unwrap();
    let from_kernel = receive(&mut port, |port, frame| {
        let ours = !answer_arp(port, frame) && frame.get(23) == Some(&UDP) && frame[30..34] == OURS.octets();
        ours.then(|| frame.to_vec())
    });
    assert_eq!(from_kernel[42..], asked);

    let answer: Vec<u8> = asked.iter().rev().copied().collect();
    let pseudo_header = frames::sum_of_addresses(&OURS.octets(), &HOST.octets());
    let datagram = frames::udp((7000, 9000), &answer, pseudo_header);
    let macs = (port.info().mac, mac_of(&netns, "theirs"));
    send(&mut port, &frames::ipv4(macs, (OURS, HOST), UDP, &datagram));
    let mut bytes = vec![0; 2000];
    let (len, from) = kernel.recv_from(&mut bytes).expect("the kernel takes our datagram");
    assert_eq!((&bytes[..len], from.port()), (&answer[..], 7000));
    assert_eq!(port.stats().tx_errors, 0);
}

pub(crate) fn tap_checksums() {
    let netns = Netns::new();
    netns.enter();
    let mut port = open_one(&config("dpdk:net_tap0,iface=theirs"));
    assert!(port.info().tx_checksum_offload, "{}", port.summary());
    netns.ip("addr add 10.73.0.1/24 dev theirs");
    netns.ip("link set theirs up");
    netns.ip(&format!("neigh add 10.73.0.2 lladdr {} dev theirs", mac_text([2, 0, 0, 0, 0, 2])));

    // A SYN to a closed port, its checksum left to the device: the kernel answers with RST only if it is right.
    const SYN: u8 = 0x02;
    const RST_ACK: u8 = 0x14;
    let mut syn = frames::tcp((40_000, 81), 1000, 0, SYN, 0);
    syn[16..18].fill(0);
    let macs = ([2, 0, 0, 0, 0, 2], mac_of(&netns, "theirs"));
    send(&mut port, &frames::ipv4(macs, (OURS, HOST), TCP, &syn));
    let flags = receive(&mut port, |_, frame| {
        let from_port_81 = frame.get(23) == Some(&TCP) && frame[34..36] == 81u16.to_be_bytes();
        from_port_81.then(|| frame[47])
    });
    assert_eq!(flags, RST_ACK);
    assert_eq!(port.stats().tx_errors, 0);
}
