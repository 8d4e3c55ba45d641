//! DHCPv4: lease, renewal in real time, and what becomes of connections when the address changes.

use super::host::{Host, Raw, config, segments};
use crate::port::RxChecksum;
use crate::stack::frames::ip_frame;
use crate::stack::{CloseCause, Onward, StackConfig, Status};
use crate::time::{Duration, Instant};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    IpAddress, IpProtocol, Ipv4Address, Ipv4Packet, Ipv4Repr, TcpControl, UdpPacket, UdpRepr,
};

const SERVER: Ipv4Address = Ipv4Address::new(10, 0, 0, 254);
const LEASE_SECS: u32 = 600;

/// The DHCP messages among `frames`: (type, transaction).
fn requests(frames: &[Vec<u8>]) -> Vec<(DhcpMessageType, u32)> {
    let read = |frame: &Vec<u8>| {
        let ethernet = EthernetFrame::new_checked(&frame[..]).ok()?;
        let ip = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
        if ip.next_header() != IpProtocol::Udp {
            return None;
        }
        let udp = UdpPacket::new_checked(ip.payload()).ok()?;
        let dhcp = DhcpPacket::new_checked(udp.payload()).ok()?;
        let repr = DhcpRepr::parse(&dhcp).ok()?;
        Some((repr.message_type, repr.transaction_id))
    };
    frames.iter().filter_map(read).collect()
}

/// The server's answer: an offer or an acknowledgement of `addr`.
fn answer(kind: DhcpMessageType, transaction_id: u32, addr: Ipv4Address) -> Vec<u8> {
    let dhcp = DhcpRepr {
        message_type: kind,
        transaction_id,
        secs: 0,
        client_hardware_address: EthernetAddress([2, 0, 0, 0, 0, 2]),
        client_ip: Ipv4Address::UNSPECIFIED,
        your_ip: addr,
        server_ip: SERVER,
        router: Some(SERVER),
        subnet_mask: Some(Ipv4Address::new(255, 255, 255, 0)),
        relay_agent_ip: Ipv4Address::UNSPECIFIED,
        broadcast: false,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(SERVER),
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        renew_duration: None,
        rebind_duration: None,
        lease_duration: Some(LEASE_SECS),
        additional_options: &[],
    };
    let udp = UdpRepr { src_port: 67, dst_port: 68 };
    let ip = Ipv4Repr {
        src_addr: SERVER,
        dst_addr: addr,
        next_header: IpProtocol::Udp,
        payload_len: udp.header_len() + dhcp.buffer_len(),
        hop_limit: 64,
    };
    let mut frame = vec![0; 14 + ip.buffer_len() + ip.payload_len];
    let mut ethernet = EthernetFrame::new_unchecked(&mut frame);
    EthernetRepr {
        src_addr: EthernetAddress([2, 0, 0, 0, 0, 0xfe]),
        dst_addr: EthernetAddress([2, 0, 0, 0, 0, 2]),
        ethertype: EthernetProtocol::Ipv4,
    }
    .emit(&mut ethernet);
    let checksums = ChecksumCapabilities::default();
    let mut packet = Ipv4Packet::new_unchecked(ethernet.payload_mut());
    ip.emit(&mut packet, &checksums);
    let (src, dst) = (IpAddress::Ipv4(SERVER), IpAddress::Ipv4(addr));
    udp.emit(
        &mut UdpPacket::new_unchecked(packet.payload_mut()),
        &src,
        &dst,
        dhcp.buffer_len(),
        |out| dhcp.emit(&mut DhcpPacket::new_unchecked(out)).expect("room for the message"),
        &checksums,
    );
    frame
}

/// A host that got `addr` by DHCP.
fn leased(addr: Ipv4Address) -> (Host, Instant) {
    let mut host = Host::new(2, &StackConfig { dhcp: true, ..config(&[]) });
    host.stack.listen(80);
    let now = lease(&mut host, Instant::from_millis(1), addr);
    (host, now)
}

/// Answers the discovery and the request that the host sends from `now` on.
fn lease(host: &mut Host, mut now: Instant, addr: Ipv4Address) -> Instant {
    let mut replies = Vec::new();
    for _ in 0..10_000 {
        let sent = host.burst(now, &core::mem::take(&mut replies));
        for (kind, transaction) in requests(&sent) {
            let reply = match kind {
                DhcpMessageType::Discover => DhcpMessageType::Offer,
                _ => DhcpMessageType::Ack,
            };
            replies.push(answer(reply, transaction, addr));
        }
        now += Duration::from_millis(20);
        if host.stack.lease().is_some_and(|lease| lease.addr.addr == std::net::IpAddr::V4(addr)) {
            return now;
        }
    }
    panic!("no lease of {addr}");
}

#[test]
fn a_lease_brings_an_address_and_a_router() {
    let (host, _) = leased(Ipv4Address::new(10, 0, 0, 2));
    let lease = host.stack.lease().expect("a lease");
    assert_eq!(lease.addr.to_string(), "10.0.0.2/24");
    assert_eq!(lease.router, Some(std::net::IpAddr::V4(SERVER)));
    assert_eq!(host.stack.addrs().len(), 1);
}

#[test]
fn a_checksum_that_is_wrong_counts_unless_the_port_answers_for_it() {
    // The kernel's own DHCP server leaves the checksum to its TAP device, which vouches for the frame.
    for (checksum, accepted) in [(RxChecksum::Unknown, false), (RxChecksum::Good, true)] {
        let mut host = Host::new(2, &StackConfig { dhcp: true, ..config(&[]) });
        let now = Instant::from_millis(1);
        let discover = requests(&host.burst(now, &[]));
        let [(DhcpMessageType::Discover, transaction)] = discover[..] else { panic!("{discover:?}") };
        let mut offer = answer(DhcpMessageType::Offer, transaction, Ipv4Address::new(10, 0, 0, 2));
        offer[14 + 20 + 6] ^= 0x55;
        assert_eq!(host.onward_with(&offer, checksum), Onward::Done);
        assert_eq!(host.stack.stats().rx_bad_checksum, u64::from(!accepted));
        let asked: Vec<_> = requests(&host.burst(now + Duration::from_secs(1), &[]));
        assert_eq!(asked.iter().any(|&(kind, _)| kind == DhcpMessageType::Request), accepted, "{asked:?}");
    }
}

#[test]
fn the_lease_is_renewed_at_half_time_of_the_real_clock() {
    let (mut host, start) = leased(Ipv4Address::new(10, 0, 0, 2));
    let mut asked_at = None;
    for second in 1..u64::from(LEASE_SECS) {
        let now = start + Duration::from_secs(second);
        let sent = host.burst(now, &[]);
        // The renewal goes to the server by unicast: it may be an ARP request first.
        if !sent.is_empty() {
            asked_at = Some(second);
            break;
        }
    }
    // RFC 2131 section 4.4.5: T1 is half of the lease, in real seconds, whatever the stack clock's factor.
    let asked_at = asked_at.expect("a renewal");
    assert!((295..=305).contains(&asked_at), "asked after {asked_at} s");
}

#[test]
fn connections_from_a_lost_address_are_closed_at_once() {
    let (mut host, now) = leased(Ipv4Address::new(10, 0, 0, 2));
    host.burst(now, &[super::host::arp_of_raw()]);
    let syn = segments(&host.burst(now, &[Raw::syn(5000, 99).frame()]));
    let ack = Some(syn[0].seq.wrapping_add(1));
    let done = Raw { control: TcpControl::None, seq: 100, ack, ..Raw::syn(5000, 0) };
    host.burst(now, &[done.frame()]);
    let id = host.ready[0];
    assert_eq!(host.stack.status(id), Some(Status::Open));
    // The lease runs out unanswered; the next one brings another address.
    let later = now + Duration::from_secs(u64::from(LEASE_SECS) + 10);
    host.burst(later, &[]);
    assert_eq!(host.stack.lease(), None);
    assert_eq!(host.stack.status(id), Some(Status::Closed(CloseCause::AddressLost)));
    host.stack.release(id);
    lease(&mut host, later, Ipv4Address::new(10, 0, 0, 77));
    assert_eq!(host.stack.addrs()[0].addr.to_string(), "10.0.0.77");
    assert_eq!(host.stack.connections(), 0);
}

#[test]
fn another_worker_takes_the_lease_over() {
    let (host, now) = leased(Ipv4Address::new(10, 0, 0, 2));
    let mut other = Host::new(2, &config(&[]));
    other.stack.listen(80);
    other.burst(now, &[]);
    other.stack.adopt_lease(host.stack.lease());
    other.burst(now, &[super::host::arp_of_raw()]);
    let answers = segments(&other.burst(now, &[Raw::syn(5000, 99).frame()]));
    assert!(answers[0].syn);
}

/// What the host has asked for by DHCP is answered, each answer changed by `change`, until it has a lease or a second is over.
fn answered(host: &mut Host, addr: Ipv4Address, change: impl Fn(&mut [u8])) -> Instant {
    let mut replies: Vec<Vec<u8>> = Vec::new();
    let mut now = Instant::from_millis(1);
    for _ in 0..50 {
        let sent = host.burst(now, &core::mem::take(&mut replies));
        for (kind, transaction) in requests(&sent) {
            let reply = match kind {
                DhcpMessageType::Discover => DhcpMessageType::Offer,
                _ => DhcpMessageType::Ack,
            };
            let mut frame = answer(reply, transaction, addr);
            change(&mut frame);
            // No UDP checksum (RFC 768).
            frame[40..42].fill(0);
            replies.push(frame);
        }
        now += Duration::from_millis(20);
    }
    now
}

#[test]
fn a_router_that_is_no_host_is_none() {
    for router in [Ipv4Address::UNSPECIFIED, Ipv4Address::BROADCAST, Ipv4Address::new(224, 0, 0, 1)] {
        let mut host = Host::new(2, &StackConfig { dhcp: true, ..config(&[]) });
        host.stack.listen(80);
        let now = answered(&mut host, Ipv4Address::new(10, 0, 0, 2), |frame| {
            let option = frame.windows(6).position(|six| six == [3, 4, 10, 0, 0, 254]).expect("a router");
            frame[option + 2..option + 6].copy_from_slice(&router.octets());
        });
        assert_eq!(host.stack.lease().expect("a lease").router, None);
        // Somebody beyond the network, who cannot be answered.
        let syn = Raw { from: "192.0.2.1:5000".parse().unwrap(), ..Raw::syn(5000, 7) };
        host.burst(now, &[syn.frame()]);
        for millis in 1..2_000 {
            host.burst(now + Duration::from_millis(millis), &[]);
        }
    }
}

#[test]
fn a_server_without_an_address_is_not_heard() {
    let mut host = Host::new(2, &StackConfig { dhcp: true, ..config(&[]) });
    answered(&mut host, Ipv4Address::new(10, 0, 0, 2), |frame| {
        frame[26..30].fill(0);
        frame[24..26].fill(0);
        let mut packet = Ipv4Packet::new_unchecked(&mut frame[14..]);
        packet.fill_checksum();
    });
    assert_eq!(host.stack.lease(), None);
    assert!(host.stack.stats().rx_malformed > 0);
}

#[test]
fn strangers_do_not_put_off_a_renewal() {
    let addr = Ipv4Address::new(10, 0, 0, 2);
    let (mut host, start) = leased(addr);
    let junk = ip_frame(
        IpAddress::v4(192, 0, 2, 77),
        IpAddress::Ipv4(addr),
        IpProtocol::Udp,
        &[0, 67, 0, 68, 0, 12, 0, 0, 1, 2, 3, 4],
    );
    let renewals = (0..u64::from(LEASE_SECS) * 200)
        .map(|step| {
            requests(&host.burst(start + Duration::from_millis(5 * step), std::slice::from_ref(&junk))).len()
        })
        .sum::<usize>();
    assert!(renewals > 0, "it asks for the lease to be renewed");
    host.burst(start + Duration::from_secs(u64::from(LEASE_SECS) + 1), &[]);
    assert_eq!(host.stack.lease(), None, "and gives it up when nobody answers");
}
