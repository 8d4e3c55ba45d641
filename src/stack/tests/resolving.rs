//! DNS: questions to servers that answer rightly, wrongly, late or not at all.

use super::host::{Host, config};
use crate::stack::frames::{PEER_MAC, ethernet, ip_frame};
use crate::stack::{LOOKUP_TIMEOUT, LOOKUPS_MAX, LookupError, Onward, StackConfig};
use crate::time::{Duration, Instant};
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, IpAddress,
    IpProtocol, Ipv4Packet,
};
use std::net::{IpAddr, Ipv4Addr};

const SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 53), Ipv4Addr::new(10, 0, 0, 54)];
const A: u16 = 1;
const AAAA: u16 = 28;

/// A question as it was sent.
#[derive(Clone, Debug)]
struct Question {
    server: Ipv4Addr,
    from: Ipv4Addr,
    port: u16,
    /// DNS, the header with its number included.
    message: Vec<u8>,
}

impl Question {
    fn parse(frame: &[u8]) -> Option<Question> {
        let ethernet = EthernetFrame::new_checked(frame).ok()?;
        let ip = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
        let udp = ip.payload();
        if ip.next_header() != IpProtocol::Udp || udp[2..4] != [0, 53] {
            return None;
        }
        Some(Question {
            server: ip.dst_addr(),
            from: ip.src_addr(),
            port: u16::from_be_bytes([udp[0], udp[1]]),
            message: udp[8..].to_vec(),
        })
    }

    fn kind(&self) -> u16 {
        let at = self.message.len() - 4;
        u16::from_be_bytes([self.message[at], self.message[at + 1]])
    }

    /// The answer with these records after the question.
    fn answer(&self, rcode: u8, records: &[Vec<u8>]) -> Vec<u8> {
        let mut message = self.message.clone();
        message[2..4].copy_from_slice(&[0x81, 0x80 | rcode]);
        message[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
        message.extend(records.concat());
        message
    }

    fn frame(&self, message: &[u8]) -> Vec<u8> {
        let mut udp = vec![0, 53];
        udp.extend(self.port.to_be_bytes());
        udp.extend((8 + message.len() as u16).to_be_bytes());
        // IPv4 allows no checksum.
        udp.extend([0, 0]);
        udp.extend(message);
        ip_frame(IpAddress::Ipv4(self.server), IpAddress::Ipv4(self.from), IpProtocol::Udp, &udp)
    }
}

/// A record of the name in the question (or of another one).
fn record(name: &[u8], kind: u16, data: &[u8]) -> Vec<u8> {
    let mut record = name.to_vec();
    record.extend(kind.to_be_bytes());
    record.extend([0, 1, 0, 0, 0, 60]);
    record.extend((data.len() as u16).to_be_bytes());
    record.extend(data);
    record
}

/// A pointer to the question's name.
const SAME: &[u8] = &[0xc0, 12];

fn address(kind: u16, last: u8) -> Vec<u8> {
    let v6 = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    record(SAME, kind, if kind == A { &[192, 0, 2, 1][..] } else { &v6 })
}

fn arp_reply(asked: &[u8]) -> Option<Vec<u8>> {
    let ethernet_frame = EthernetFrame::new_checked(asked).ok()?;
    let packet = ArpPacket::new_checked(ethernet_frame.payload()).ok()?;
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = ArpRepr::parse(&packet).ok()?
    else {
        return None;
    };
    if ethernet_frame.ethertype() != EthernetProtocol::Arp || operation != ArpOperation::Request {
        return None;
    }
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(PEER_MAC),
        source_protocol_addr: target_protocol_addr,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: source_protocol_addr,
    };
    let mut bytes = vec![0; reply.buffer_len()];
    reply.emit(&mut ArpPacket::new_unchecked(&mut bytes));
    Some(ethernet(EthernetProtocol::Arp, &bytes))
}

fn host(servers: usize) -> Host {
    let dns = SERVERS[..servers].iter().copied().map(IpAddr::V4).collect();
    Host::new(2, &StackConfig { dns, ..config(&["10.0.0.2/24", "fd00::2/64"]) })
}

/// Runs until nothing is looked up, or until `limit`; `server` says what comes for each question.
fn run(
    host: &mut Host,
    limit: Duration,
    mut server: impl FnMut(&Question) -> Vec<Vec<u8>>,
) -> Vec<(String, Result<Vec<IpAddr>, LookupError>)> {
    let end = host.now + limit;
    let mut arriving = Vec::new();
    let mut done = Vec::new();
    let mut turns = 0;
    while host.now < end {
        turns += 1;
        assert!(turns < 20_000, "it spins");
        let sent = host.burst(host.now, &arriving);
        arriving = sent.iter().filter_map(|frame| arp_reply(frame)).collect();
        for question in sent.iter().filter_map(|frame| Question::parse(frame)) {
            arriving.extend(server(&question).iter().map(|message| question.frame(message)));
        }
        done.extend(std::iter::from_fn(|| host.stack.next_lookup()));
        let next = if arriving.is_empty() {
            let Some(at) = host.stack.next_deadline() else { break };
            at.min(end)
        } else {
            host.now
        };
        host.now = next.max(host.now + Duration::from_micros(100));
    }
    done
}

fn both(question: &Question) -> Vec<Vec<u8>> {
    vec![question.answer(0, &[address(question.kind(), 1), address(question.kind(), 2)])]
}

#[test]
fn a_name_has_the_addresses_of_both_families_ipv6_first() {
    let mut host = host(1);
    host.stack.begin(Instant::ZERO);
    host.stack.look_up("Feed.Example.").unwrap();
    host.stack.look_up("feed.example").unwrap();
    let mut asked = Vec::new();
    let done = run(&mut host, LOOKUP_TIMEOUT, |question| {
        asked.push(question.kind());
        both(question)
    });
    let addrs = ["fd00::1", "fd00::2", "192.0.2.1", "192.0.2.1"].map(|addr| addr.parse().unwrap());
    assert_eq!(done, [("feed.example".to_owned(), Ok(addrs.to_vec()))]);
    assert_eq!(asked, [A, AAAA], "each once");
    assert_eq!(host.stack.next_deadline(), None, "nothing is left to do");
}

#[test]
fn a_family_that_we_do_not_have_is_not_asked_for() {
    let dns = vec![IpAddr::V4(SERVERS[0])];
    let mut host = Host::new(2, &StackConfig { dns, ..config(&["10.0.0.2/24"]) });
    host.stack.begin(Instant::ZERO);
    host.stack.look_up("feed.example").unwrap();
    let done = run(&mut host, LOOKUP_TIMEOUT, both);
    assert_eq!(done[0].1.as_ref().unwrap().len(), 2);
    assert!(done[0].1.as_ref().unwrap().iter().all(IpAddr::is_ipv4));
}

#[test]
fn an_alias_is_followed() {
    let mut host = host(1);
    host.stack.begin(Instant::ZERO);
    host.stack.look_up("www.example").unwrap();
    let done = run(&mut host, LOOKUP_TIMEOUT, |question| {
        let alias = record(SAME, 5, b"\x04host\x07example\0");
        let target = record(b"\x04host\x07example\0", A, &[192, 0, 2, 9]);
        let records = if question.kind() == A { vec![alias, target] } else { vec![alias] };
        vec![question.answer(0, &records)]
    });
    assert_eq!(done, [("www.example".to_owned(), Ok(vec!["192.0.2.9".parse().unwrap()]))]);
}

#[test]
fn a_lost_question_is_asked_again_and_a_silent_server_passed_over() {
    let mut host = host(2);
    host.stack.begin(Instant::ZERO);
    host.stack.look_up("feed.example").unwrap();
    let mut asked = [0; 2];
    let done = run(&mut host, LOOKUP_TIMEOUT, |question| {
        let is_second = question.server == SERVERS[1];
        asked[usize::from(is_second)] += 1;
        if is_second { both(question) } else { Vec::new() }
    });
    assert_eq!(done[0].1.as_ref().unwrap().len(), 4);
    assert_eq!(asked, [4, 2], "two questions, twice, then the other server");
    assert!(host.now < Instant::ZERO + Duration::from_secs(4));
}

#[test]
fn a_name_that_nobody_knows_has_no_address() {
    for (servers, rcode) in [(1, 3), (2, 3), (2, 2), (1, 0)] {
        let mut host = host(servers);
        host.stack.begin(Instant::ZERO);
        host.stack.look_up("nobody.example").unwrap();
        let done = run(&mut host, LOOKUP_TIMEOUT, |question| vec![question.answer(rcode, &[])]);
        assert_eq!(done, [("nobody.example".to_owned(), Err(LookupError::NoAddress))], "{servers} {rcode}");
    }
}

#[test]
fn silence_has_an_end() {
    for servers in [1, 2] {
        let mut host = host(servers);
        host.stack.begin(Instant::ZERO);
        host.stack.look_up("feed.example").unwrap();
        let done = run(&mut host, LOOKUP_TIMEOUT + Duration::from_secs(1), |_| Vec::new());
        assert_eq!(done, [("feed.example".to_owned(), Err(LookupError::TimedOut))]);
        assert!(host.now <= Instant::ZERO + LOOKUP_TIMEOUT + Duration::from_millis(20));
    }
}

#[test]
fn answers_of_others_and_to_other_questions_do_not_count() {
    let mut host = host(1);
    host.stack.begin(Instant::ZERO);
    host.stack.look_up("feed.example").unwrap();
    let done = run(&mut host, LOOKUP_TIMEOUT + Duration::from_secs(1), |question| {
        let right = question.answer(0, &[address(question.kind(), 1)]);
        let with = |at: usize, flip: u8| {
            let mut wrong = right.clone();
            wrong[at] ^= flip;
            wrong
        };
        // The number; no answer; another question; another kind; records cut off; a name that points at itself.
        let cut = right[..right.len() - 1].to_vec();
        let loops = question.answer(0, &[record(&[0xc0, question.message.len() as u8], A, &[192, 0, 2, 1])]);
        vec![with(0, 1), with(2, 0x80), with(13, 1), with(question.message.len() - 3, 1), cut, loops]
    });
    assert_eq!(done, [("feed.example".to_owned(), Err(LookupError::TimedOut))]);
    let mut other =
        Question { server: SERVERS[1], from: [10, 0, 0, 2].into(), port: 1, message: vec![0; 17] };
    other.message[2] = 0x80;
    host.stack.look_up("feed.example").unwrap();
    assert_eq!(host.onward(&other.frame(&other.message)), Onward::Done, "nobody asks that server");
    let unasked = Question { server: SERVERS[0], ..other };
    assert_eq!(host.onward(&unasked.frame(&unasked.message)), Onward::Everyone, "another worker may have");
    assert_eq!(host.stack.next_lookup(), None);
}

#[test]
fn what_cannot_be_asked_is_refused_at_once() {
    let mut host = host(1);
    host.stack.begin(Instant::ZERO);
    let long = format!("{}.example", "a".repeat(64));
    let longest = [&*"a".repeat(63); 4].join(".");
    for name in ["", ".", "a..b", "sp ace", "ä", &long, &longest] {
        assert_eq!(host.stack.look_up(name), Err(LookupError::Name), "{name}");
    }
    for number in 0..LOOKUPS_MAX {
        host.stack.look_up(&format!("host{number}.example")).unwrap();
    }
    assert_eq!(host.stack.look_up("one.more"), Err(LookupError::Busy));
    let done = run(&mut host, LOOKUP_TIMEOUT, both);
    assert_eq!(done.iter().filter(|(_, result)| result.is_ok()).count(), LOOKUPS_MAX);
    host.stack.look_up("one.more").unwrap();

    let mut without = Host::new(2, &config(&["10.0.0.2/24"]));
    without.stack.begin(Instant::ZERO);
    assert_eq!(without.stack.look_up("feed.example"), Err(LookupError::NoServer));
}

#[test]
fn a_damaged_answer_does_not_count() {
    let mut host = host(1);
    host.stack.begin(Instant::ZERO);
    host.stack.look_up("feed.example").unwrap();
    let question = Question { server: SERVERS[0], from: [10, 0, 0, 2].into(), port: 9, message: vec![0; 17] };
    let mut frame = question.frame(&question.message);
    // A checksum, and none that fits.
    frame[14 + 20 + 6] = 1;
    assert_eq!(host.onward(&frame), Onward::Done);
    assert_eq!(host.stack.stats().rx_bad_checksum, 1);
}

#[test]
fn a_question_goes_out_however_much_else_comes() {
    let mut config = config(&["10.0.0.2/24"]);
    config.dns = vec![IpAddr::V4(SERVERS[0])];
    let mut host = Host::new(2, &config);
    host.burst(Instant::from_millis(1), &[]);
    host.stack.look_up("feed.example").unwrap();
    let mut replies = Vec::new();
    for millis in 2..500 {
        let mut frames = core::mem::take(&mut replies);
        frames.push(super::host::arp_of_raw());
        for frame in host.burst(Instant::from_millis(millis), &frames) {
            replies.extend(arp_reply(&frame));
            if let Some(question) = Question::parse(&frame) {
                replies.push(question.frame(&question.answer(0, &[address(A, 1)])));
            }
        }
    }
    assert!(matches!(host.stack.next_lookup(), Some((_, Ok(_)))), "found within half a second");
}
