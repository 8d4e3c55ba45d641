//! A network namespace that lives as long as its value, and frames written by hand.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A network namespace, deleted when dropped.
pub(crate) struct Netns {
    pub(crate) name: String,
}

impl Netns {
    /// Makes a namespace whose name no other process has.
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("port-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        run("ip", &["netns", "add", &name]);
        let netns = Netns { name };
        netns.ip("link set lo up");
        netns
    }

    /// Runs `ip` in the namespace.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        let arguments: Vec<_> = ["-n", &self.name].into_iter().chain(arguments.split_whitespace()).collect();
        run("ip", &arguments)
    }

    /// The MAC address of an interface in the namespace.
    pub(crate) fn mac(&self, device: &str) -> [u8; 6] {
        let link = self.ip(&format!("-br link show {device}"));
        let mac = link.split_whitespace().nth(2).expect("a MAC address");
        let bytes: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        bytes.try_into().expect("six bytes")
    }

    /// Moves the calling thread into the namespace.
    pub(crate) fn enter(&self) {
        use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
        use std::os::fd::AsFd;
        let file = std::fs::File::open(format!("/run/netns/{}", self.name)).expect("the namespace exists");
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("CAP_SYS_ADMIN, to enter a network namespace: run as root");
    }

    /// Runs `work` on a thread in the namespace, and returns its result.
    pub(crate) fn inside<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        std::thread::scope(|scope| {
            let visit = scope.spawn(|| {
                self.enter();
                work()
            });
            visit.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // What went wrong before is what the reader must see, not a second panic.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("`{program}` (Debian: iproute2) did not start: {error}"));
    assert!(
        output.status.success(),
        "`{program} {}` failed; TAP devices and namespaces need root: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr),
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) const UDP: u8 = 17;
pub(crate) const TCP: u8 = 6;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];

/// An Ethernet frame.
pub(crate) fn ethernet(to: [u8; 6], from: [u8; 6], ethertype: [u8; 2], payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &ethertype, payload].concat()
}

/// The answer to an ARP request for `ip`, from the host that has `mac`.
pub(crate) fn arp_reply(request: &[u8], mac: [u8; 6], ip: Ipv4Addr) -> Option<Vec<u8>> {
    let is_request = request.get(12..22)? == [0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1];
    if !is_request || request.get(38..42)? != ip.octets() {
        return None;
    }
    let asker: [u8; 6] = request[22..28].try_into().ok()?;
    let body = [&[0, 1, 8, 0, 6, 4, 0, 2], &mac[..], &ip.octets(), &request[22..32]].concat();
    Some(ethernet(asker, mac, [0x08, 0x06], &body))
}

/// An IPv4 packet in a frame; the header checksum is filled in.
pub(crate) fn ipv4(
    macs: ([u8; 6], [u8; 6]),
    ips: (Ipv4Addr, Ipv4Addr),
    protocol: u8,
    segment: &[u8],
) -> Vec<u8> {
    let total = (20 + segment.len() as u16).to_be_bytes();
    let mut header = vec![0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, protocol, 0, 0];
    header.extend(ips.0.octets());
    header.extend(ips.1.octets());
    let sum = checksum(0, &header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    header.extend(segment);
    ethernet(macs.1, macs.0, ETHERTYPE_IPV4, &header)
}

/// An IPv6 packet in a frame.
pub(crate) fn ipv6(
    macs: ([u8; 6], [u8; 6]),
    ips: (Ipv6Addr, Ipv6Addr),
    next_header: u8,
    segment: &[u8],
) -> Vec<u8> {
    let length = (segment.len() as u16).to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], next_header, 64];
    packet.extend(ips.0.octets());
    packet.extend(ips.1.octets());
    packet.extend(segment);
    ethernet(macs.1, macs.0, ETHERTYPE_IPV6, &packet)
}

/// A UDP datagram; its checksum is filled in over `pseudo_header`.
pub(crate) fn udp(ports: (u16, u16), payload: &[u8], pseudo_header: u32) -> Vec<u8> {
    let length = 8 + payload.len() as u16;
    let mut datagram = [ports.0, ports.1, length, 0].map(u16::to_be_bytes).concat();
    datagram.extend(payload);
    let sum = checksum(pseudo_header + u32::from(length) + u32::from(UDP), &datagram).to_be_bytes();
    datagram[6..8].copy_from_slice(&sum);
    datagram
}

/// A TCP segment without options; its checksum is filled in over `pseudo_header`.
pub(crate) fn tcp(
    ports: (u16, u16),
    sequence: u32,
    acknowledged: u32,
    flags: u8,
    pseudo_header: u32,
) -> Vec<u8> {
    let mut segment = [ports.0, ports.1].map(u16::to_be_bytes).concat();
    segment.extend([sequence, acknowledged].map(u32::to_be_bytes).concat());
    segment.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    let sum = checksum(pseudo_header + 20 + u32::from(TCP), &segment).to_be_bytes();
    segment[16..18].copy_from_slice(&sum);
    segment
}

/// What two addresses add to the pseudo-header's sum.
pub(crate) fn sum_of_addresses(from: &[u8], to: &[u8]) -> u32 {
    from.chunks(2).chain(to.chunks(2)).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum()
}

/// The internet checksum (RFC 1071) of `bytes`, on top of a sum.
pub(crate) fn checksum(sum: u32, bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2);
    let odd = words.remainder().first().map_or(0, |&byte| u64::from(byte) << 8);
    let mut sum = words.map(|word| u64::from(u16::from_be_bytes([word[0], word[1]]))).sum::<u64>()
        + odd
        + u64::from(sum);
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}
