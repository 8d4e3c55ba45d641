use super::super::frames::*;
use super::super::key::symmetric_hash;
use super::*;
use proptest::prelude::*;
use smoltcp::iface::SocketSet;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::time::Instant;
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, Icmpv4Packet, Icmpv6Packet, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr,
    Ipv6ExtHeader, Ipv6ExtHeaderRepr, Ipv6HopByHopHeader, Ipv6HopByHopRepr, Ipv6OptionRepr, Ipv6Packet,
    Ipv6Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, TcpTimestampRepr,
};
use std::net::{Ipv6Addr, SocketAddr};

fn class(frame: &[u8]) -> Class {
    classify(frame, OUR_MAC)
}

fn info(frame: &[u8]) -> TcpInfo {
    match class(frame) {
        Class::Tcp(info) => info,
        other => panic!("not a segment but {other:?}"),
    }
}

fn syn<'a>() -> TcpRepr<'a> {
    TcpRepr {
        control: TcpControl::Syn,
        max_seg_size: Some(1460),
        window_scale: Some(7),
        sack_permitted: true,
        timestamp: Some(TcpTimestampRepr::new(1, 2)),
        ..segment()
    }
}

fn data(payload: &[u8]) -> TcpRepr<'_> {
    TcpRepr { control: TcpControl::Psh, ack_number: Some(TcpSeqNumber(77)), payload, ..segment() }
}

/// Puts IPv4 options before the payload.
fn with_ipv4_options(frame: &[u8], options: &[u8]) -> Vec<u8> {
    let mut result = frame[..34].to_vec();
    result[14] += u8::try_from(options.len() / 4).unwrap();
    let total_len = u16::try_from(frame.len() - 14 + options.len()).unwrap();
    result[16..18].copy_from_slice(&total_len.to_be_bytes());
    result.extend(options);
    result.extend(&frame[34..]);
    Ipv4Packet::new_unchecked(&mut result[14..]).fill_checksum();
    result
}

fn too_big_v4(quote: &[u8], mtu: u16) -> Vec<u8> {
    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend(quote);
    Icmpv4Packet::new_unchecked(&mut message[..]).fill_checksum();
    ip_frame(IpAddress::v4(10, 0, 0, 254), ours_v4().ip().into(), IpProtocol::Icmp, &message)
}

fn too_big_v6(quote: &[u8], mtu: u32) -> Vec<u8> {
    let router: Ipv6Addr = "fd00::fe".parse().unwrap();
    let SocketAddr::V6(ours) = ours_v6() else { unreachable!() };
    let mut message = vec![2, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend(quote);
    Icmpv6Packet::new_unchecked(&mut message[..]).fill_checksum(&router, ours.ip());
    ip_frame(router.into(), (*ours.ip()).into(), IpProtocol::Icmpv6, &message)
}

#[test]
fn the_flow_of_an_ordinary_segment_is_seen_at_a_glance() {
    for (ours, peer) in [(ours_v4(), peer_v4()), (ours_v6(), peer_v6())] {
        let frame = tcp_frame(peer, ours, &data(b"x"));
        assert_eq!(likely_flow(&frame), Some(FlowKey::new(ours, peer)));
        let ports_end = if ours.is_ipv4() { 38 } else { 58 };
        assert_eq!(likely_flow(&frame[..ports_end - 1]), None);
    }
    let frame = tcp_frame(peer_v4(), ours_v4(), &data(b"x"));
    assert_eq!(likely_flow(&with_ipv4_options(&frame, &[1; 4])), None);
    assert_eq!(likely_flow(&ethernet(EthernetProtocol::Arp, &[0; 60])), None);
}

#[test]
fn a_syn_yields_its_flow_and_numbers() {
    for (ours, peer) in [(ours_v4(), peer_v4()), (ours_v6(), peer_v6())] {
        let frame = tcp_frame(peer, ours, &syn());
        let info = info(&frame);
        assert_eq!(info.key, FlowKey::new(ours, peer));
        assert_eq!((info.key.local(), info.key.remote()), (ours, peer));
        assert_eq!((info.key.local_port(), info.key.remote_port()), (80, 40_000));
        assert_eq!(info.key.is_ipv4(), ours.is_ipv4());
        assert!(info.flags.syn() && !info.flags.ack() && !info.flags.fin() && !info.flags.rst());
        assert_eq!((info.seq, info.window, info.payload_len), (1_000, 4_096, 0));
        assert_eq!(info.end_seq(), 1_001);
        assert!(info.checksum_is_good(&frame));
    }
}

#[test]
fn the_last_mss_of_a_syn_counts() {
    let told = |options: &[u8]| {
        let plain = TcpRepr { control: TcpControl::Syn, ..segment() };
        let mut bytes = tcp_bytes(peer_v4(), ours_v4(), &plain);
        bytes[12] = ((20 + options.len() as u8) / 4) << 4;
        bytes.extend(options);
        let frame = ip_frame(peer_v4().ip().into(), ours_v4().ip().into(), IpProtocol::Tcp, &bytes);
        info(&frame).segment_bytes_max(&frame)
    };
    assert_eq!(told(&[]), 536);
    assert_eq!(told(&[2, 4, 0x05, 0xb4]), 1460);
    assert_eq!(told(&[1, 3, 3, 7, 2, 4, 0x05, 0xb4]), 1460);
    // Of several, smoltcp keeps the last as well; behind the end of the list there is none.
    assert_eq!(told(&[2, 4, 0x05, 0xb4, 2, 4, 0, 100]), 100);
    assert_eq!(told(&[0, 0, 0, 0, 2, 4, 0x05, 0xb4]), 536);
}

#[test]
fn ethernet_padding_is_no_payload() {
    let mut frame = tcp_frame(peer_v4(), ours_v4(), &data(b"hello"));
    let before = info(&frame);
    frame.extend([0xaa; 32]);
    let padded = info(&frame);
    assert_eq!(before, padded);
    assert_eq!((padded.payload_len, padded.ack), (5, 77));
    let start = usize::from(padded.payload_offset);
    assert_eq!(&frame[start..start + 5], b"hello");
    assert!(padded.checksum_is_good(&frame));
}

#[test]
fn ip_options_are_skipped() {
    let frame = with_ipv4_options(&tcp_frame(peer_v4(), ours_v4(), &data(b"hello")), &[1, 1, 1, 0]);
    let with_options = info(&frame);
    assert_eq!((with_options.tcp_offset, with_options.payload_offset), (38, 58));
    assert!(with_options.checksum_is_good(&frame));

    // PadN, Router Alert, and an unknown option of the kind to skip.
    let plain = tcp_frame(peer_v6(), ours_v6(), &data(b"hello"));
    for options in [&[1, 4, 0, 0, 0, 0][..], &[5, 2, 0, 0, 1, 0], &[0x3e, 4, 9, 9, 9, 9], &[0; 14]] {
        let frame = with_hop_by_hop(&plain, options);
        let skipped = info(&frame);
        assert_eq!(usize::from(skipped.tcp_offset), 54 + 2 + options.len());
        assert_eq!(skipped.payload_len, 5);
        assert!(skipped.checksum_is_good(&frame));
    }
    let discard = with_hop_by_hop(&plain, &[0x7e, 4, 9, 9, 9, 9]);
    assert_eq!(class(&discard), Class::Unsupported(Unsupported::Ipv6Option));
    let cut = with_hop_by_hop(&plain, &[1, 9, 0, 0, 0, 0]);
    assert_eq!(class(&cut), Class::Malformed(Malformed::Ipv6Option));
}

#[test]
fn wrong_checksums_are_found() {
    for (ours, peer) in [(ours_v4(), peer_v4()), (ours_v6(), peer_v6())] {
        let mut frame = tcp_frame(peer, ours, &data(b"hello"));
        let info = info(&frame);
        *frame.last_mut().unwrap() ^= 1;
        assert!(!info.checksum_is_good(&frame));
        assert!(!info.checksum_is_good(&frame[..20]));
    }
    let mut frame = tcp_frame(peer_v4(), ours_v4(), &data(b"hello"));
    // The time to live is covered by the IPv4 header's checksum alone.
    frame[22] ^= 1;
    assert!(!info(&frame).checksum_is_good(&frame));
}

#[test]
fn what_is_left_out_says_why() {
    let frame = tcp_frame(peer_v4(), ours_v4(), &data(b"hello"));
    let v6 = tcp_frame(peer_v6(), ours_v6(), &data(b"hello"));
    let edit = |base: &[u8], at: usize, value: u8| {
        let mut edited = base.to_vec();
        edited[at] = value;
        class(&edited)
    };
    assert_eq!(class(&[]), Class::Malformed(Malformed::EthernetHeader));
    assert_eq!(edit(&frame, 5, 9), Class::NotOurs);
    assert_eq!(edit(&frame, 0, 3), Class::NotOurs, "TCP to a group MAC address");
    assert_eq!(edit(&frame, 6, 3), Class::Malformed(Malformed::SourceMac));
    assert_eq!(edit(&frame, 12, 0x81), Class::Unsupported(Unsupported::EtherType));
    assert_eq!(edit(&frame, 14, 0x44), Class::Malformed(Malformed::Ipv4Header));
    assert_eq!(edit(&frame, 14, 0x65), Class::Malformed(Malformed::Ipv4Header));
    assert_eq!(edit(&frame, 17, 19), Class::Malformed(Malformed::Ipv4Length));
    assert_eq!(edit(&frame, 17, 46), Class::Malformed(Malformed::Ipv4Length));
    assert_eq!(edit(&frame, 20, 0x20), Class::Unsupported(Unsupported::Ipv4Fragment));
    assert_eq!(edit(&frame, 21, 1), Class::Unsupported(Unsupported::Ipv4Fragment));
    assert_eq!(edit(&frame, 23, 132), Class::Unsupported(Unsupported::Protocol));
    assert_eq!(edit(&frame, 26, 224), Class::Malformed(Malformed::SourceAddress));
    assert_eq!(edit(&frame, 29, 2), Class::Malformed(Malformed::SourceAddress), "from ourselves");
    assert_eq!(edit(&frame, 46, 0x40), Class::Malformed(Malformed::TcpHeader));
    assert_eq!(edit(&frame, 46, 0xf0), Class::Malformed(Malformed::TcpHeader));
    assert_eq!(edit(&frame, 47, 0x03), Class::Malformed(Malformed::TcpFlags));
    assert_eq!(edit(&frame, 37, 0), Class::Malformed(Malformed::TcpPort), "port 80 without its low byte");
    assert_eq!(edit(&frame, 23, 17), Class::Malformed(Malformed::UdpHeader));
    assert_eq!(class(&frame[..33]), Class::Malformed(Malformed::Ipv4Header));
    assert_eq!(edit(&v6, 14, 0x40), Class::Malformed(Malformed::Ipv6Header));
    assert_eq!(edit(&v6, 19, 255), Class::Malformed(Malformed::Ipv6Length));
    assert_eq!(edit(&v6, 20, 44), Class::Unsupported(Unsupported::Protocol), "an IPv6 fragment");
    assert_eq!(edit(&v6, 22, 0xff), Class::Malformed(Malformed::SourceAddress));
    assert_eq!(class(&v6[..53]), Class::Malformed(Malformed::Ipv6Header));

    let bad_option = with_tcp_option(&[3, 4, 0, 0]);
    assert_eq!(class(&bad_option), Class::Malformed(Malformed::TcpOption));
    let mapped: Ipv6Addr = "::ffff:10.0.0.1".parse().unwrap();
    let alias = tcp_frame(SocketAddr::new(mapped.into(), 40_000), ours_v6(), &segment());
    assert_eq!(class(&alias), Class::Malformed(Malformed::SourceAddress));
    let probe = ip_frame(Ipv6Addr::UNSPECIFIED.into(), ours_v6().ip().into(), IpProtocol::Icmpv6, &[135; 24]);
    assert_eq!(class(&probe), Class::Unsupported(Unsupported::Ipv6Unspecified));
}

/// A segment whose header ends in these four bytes of options.
fn with_tcp_option(option: &[u8; 4]) -> Vec<u8> {
    let mut bytes = tcp_bytes(peer_v4(), ours_v4(), &segment());
    bytes[12] = 0x60;
    bytes.extend(option);
    ip_frame(peer_v4().ip().into(), ours_v4().ip().into(), IpProtocol::Tcp, &bytes)
}

#[test]
fn control_frames_are_told_apart() {
    let arp = [0, 1, 8, 0, 6, 4, 0, 1].iter().copied().chain([0; 20]).collect::<Vec<_>>();
    assert_eq!(class(&ethernet(EthernetProtocol::Arp, &arp)), Class::Arp);
    assert_eq!(class(&ethernet(EthernetProtocol::Arp, &arp[..27])), Class::Malformed(Malformed::ArpPacket));
    let token_ring = ethernet(EthernetProtocol::Arp, &[&[0, 6][..], &arp[2..]].concat());
    assert_eq!(class(&token_ring), Class::Unsupported(Unsupported::ArpKind));

    let (peer, ours) = (peer_v4().ip().into(), ours_v4().ip().into());
    let echo = [8, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(class(&ip_frame(peer, ours, IpProtocol::Icmp, &echo)), Class::Icmp);
    // RFC 1122 section 3.2.2.6 lets an echo request to all be dropped; answered, it multiplies (RFC 2644).
    let mut to_all = ip_frame(peer, ours, IpProtocol::Icmp, &echo);
    to_all[..6].fill(0xff);
    assert_eq!(class(&to_all), Class::NotOurs);
    assert_eq!(
        class(&ip_frame(peer, ours, IpProtocol::Icmp, &echo[..7])),
        Class::Malformed(Malformed::IcmpHeader)
    );
    let offer = [0, 67, 0, 68, 0, 8, 0, 0];
    assert_eq!(class(&ip_frame(peer, ours, IpProtocol::Udp, &offer)), Class::Dhcp);
    let query = [0, 67, 0, 53, 0, 8, 0, 0];
    assert_eq!(
        class(&ip_frame(peer, ours, IpProtocol::Udp, &query)),
        Class::Unsupported(Unsupported::Protocol)
    );

    let (peer, ours) = (peer_v6().ip().into(), ours_v6().ip().into());
    for kind in 133..=137 {
        assert_eq!(
            class(&ip_frame(peer, ours, IpProtocol::Icmpv6, &[kind, 0, 0, 0, 0, 0, 0, 0])),
            Class::Ndp
        );
    }
    assert_eq!(class(&ip_frame(peer, ours, IpProtocol::Icmpv6, &[128, 0, 0, 0, 0, 0, 0, 0])), Class::Icmp);
}

#[test]
fn a_packet_too_big_names_our_flow_and_the_mtu() {
    // What we sent: from us to the peer.
    let sent = tcp_frame(ours_v4(), peer_v4(), &TcpRepr { seq_number: TcpSeqNumber(-2), ..data(&[7; 600]) });
    let frame = too_big_v4(&sent[14..14 + 28], 576);
    let Class::PathMtu(error) = class(&frame) else { panic!("{:?}", class(&frame)) };
    assert_eq!(error.key, FlowKey::new(ours_v4(), peer_v4()));
    assert_eq!((error.mtu, error.seq), (576, u32::MAX - 1));
    assert!(error.checksum_is_good(&frame));
    let mut wrong = frame.clone();
    wrong[40] ^= 1;
    assert!(!error.checksum_is_good(&wrong));
    assert!(!error.checksum_is_good(&frame[..30]));
    assert_eq!(class(&too_big_v4(&sent[14..14 + 27], 576)), Class::Malformed(Malformed::IcmpQuote));
    let mut udp = sent[14..14 + 28].to_vec();
    udp[9] = 17;
    assert_eq!(class(&too_big_v4(&udp, 576)), Class::Unsupported(Unsupported::IcmpQuote));

    let sent = tcp_frame(ours_v6(), peer_v6(), &data(&[7; 1_400]));
    let frame = too_big_v6(&sent[14..14 + 1_232], 1_280);
    let Class::PathMtu(error) = class(&frame) else { panic!("{:?}", class(&frame)) };
    assert_eq!(error.key, FlowKey::new(ours_v6(), peer_v6()));
    assert_eq!((error.mtu, error.seq), (1_280, 1_000));
    assert!(error.checksum_is_good(&frame));
    let mut wrong = frame.clone();
    *wrong.last_mut().unwrap() ^= 1;
    assert!(!error.checksum_is_good(&wrong));
    assert_eq!(class(&too_big_v6(&sent[14..14 + 47], 1_280)), Class::Malformed(Malformed::IcmpQuote));
}

#[test]
fn sizes_are_what_the_flow_table_counts_on() {
    assert_eq!(size_of::<FlowKey>(), 40);
    assert!(size_of::<Class>() <= 72, "{}", size_of::<Class>());
}

/// What smoltcp's own parsers make of a frame: the TCP segment that would reach `process_tcp`.
fn by_smoltcp(frame: &[u8]) -> Option<TcpInfo> {
    let caps = ChecksumCapabilities::ignored();
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    if !ethernet.dst_addr().is_multicast() && ethernet.dst_addr().0 != OUR_MAC {
        return None;
    }
    let (src, dst, payload): (IpAddress, IpAddress, &[u8]) = match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => {
            let packet = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
            let repr = Ipv4Repr::parse(&packet, &caps).ok()?;
            if repr.src_addr.is_multicast() || repr.src_addr.is_broadcast() {
                return None;
            }
            (repr.next_header == IpProtocol::Tcp).then_some(())?;
            (repr.src_addr.into(), repr.dst_addr.into(), packet.payload())
        }
        EthernetProtocol::Ipv6 => {
            let packet = Ipv6Packet::new_checked(ethernet.payload()).ok()?;
            let repr = Ipv6Repr::parse(&packet).ok()?;
            if repr.src_addr.is_multicast() || repr.src_addr.is_unspecified() {
                return None;
            }
            let (mut next_header, mut payload) = (repr.next_header, packet.payload());
            if next_header == IpProtocol::HopByHop {
                (next_header, payload) = hop_by_hop_by_smoltcp(payload)?;
            }
            (next_header == IpProtocol::Tcp).then_some(())?;
            (repr.src_addr.into(), repr.dst_addr.into(), payload)
        }
        _ => return None,
    };
    if src.is_unspecified() {
        return None;
    }
    let packet = TcpPacket::new_checked(payload).ok()?;
    let repr = TcpRepr::parse(&packet, &src, &dst, &caps).ok()?;
    let tcp_offset = u16::try_from(payload.as_ptr() as usize - frame.as_ptr() as usize).unwrap();
    Some(TcpInfo {
        key: FlowKey::new(
            SocketAddr::new(dst.into(), repr.dst_port),
            SocketAddr::new(src.into(), repr.src_port),
        ),
        seq: repr.seq_number.0 as u32,
        ack: packet.ack_number().0 as u32,
        window: repr.window_len,
        payload_len: u16::try_from(repr.payload.len()).unwrap(),
        tcp_offset,
        payload_offset: tcp_offset + u16::from(packet.header_len()),
        flags: TcpFlags(payload[13]),
    })
}

fn hop_by_hop_by_smoltcp(payload: &[u8]) -> Option<(IpProtocol, &[u8])> {
    let header = Ipv6ExtHeader::new_checked(payload).ok()?;
    let header = Ipv6ExtHeaderRepr::parse(&header).ok()?;
    let options = Ipv6HopByHopHeader::new_checked(header.data).ok()?;
    let options = Ipv6HopByHopRepr::parse(&options).ok()?;
    for option in &options.options {
        if let Ipv6OptionRepr::Unknown { type_, .. } = option
            && u8::from(*type_) & 0xc0 != 0
        {
            return None;
        }
    }
    Some((header.next_header, &payload[header.header_len() + header.data.len()..]))
}

/// Whether this is a frame that only `classify` refuses (see the top of the file).
fn is_stricter(frame: &[u8], segment: &TcpInfo) -> bool {
    let (local, remote) = (segment.key.local().ip(), segment.key.remote().ip());
    let mapped_in_v6 = frame[12..14] == [0x86, 0xdd] && (local.is_ipv4() || remote.is_ipv4());
    frame[0] & 1 != 0 || frame[6] & 1 != 0 || local == remote || mapped_in_v6
}

/// What smoltcp's interface, without any socket, answers to a frame from a neighbour that it knows.
fn answers(frame: &[u8]) -> Vec<Vec<u8>> {
    let mut device = OneFrame::new();
    let mut interface = interface(&mut device, 1);
    let mut sockets = SocketSet::new(Vec::new());
    device.rx = Some(frame.to_vec());
    interface.poll(Instant::ZERO, &mut device, &mut sockets);
    device.tx
}

fn base_frames() -> Vec<Vec<u8>> {
    let v4 = tcp_frame(peer_v4(), ours_v4(), &data(b"hello"));
    let v6 = tcp_frame(peer_v6(), ours_v6(), &data(b"hello"));
    vec![
        tcp_frame(peer_v4(), ours_v4(), &syn()),
        tcp_frame(peer_v6(), ours_v6(), &syn()),
        with_ipv4_options(&v4, &[0x94, 4, 0, 0]),
        with_hop_by_hop(&v6, &[5, 2, 0, 0, 1, 0]),
        with_hop_by_hop(&v6, &[0, 0, 0, 1, 0, 0x3e, 4, 1, 2, 3, 4, 1, 1, 0]),
        too_big_v4(&tcp_frame(ours_v4(), peer_v4(), &data(&[1; 40]))[14..], 600),
        too_big_v6(&tcp_frame(ours_v6(), peer_v6(), &data(&[1; 40]))[14..], 1_300),
        tcp_frame(
            peer_v4(),
            ours_v4(),
            &TcpRepr { sack_ranges: [Some((1, 9)), Some((20, 30)), None], ..data(b"") },
        ),
        v4,
        v6,
    ]
}

prop_compose! {
    /// A sound frame with some bytes of its headers changed, cut short or padded.
    fn mutated()(
        base in prop::sample::select(base_frames()),
        edits in prop::collection::vec((0_usize..110, prop_oneof![
            any::<u8>(),
            prop::sample::select(vec![0, 1, 2, 4, 5, 6, 10, 17, 58, 0x45, 0x60, 0x80, 0xff]),
        ]), 0..4),
        len in 0_usize..200,
        resize in prop::bool::weighted(0.3),
    ) -> Vec<u8> {
        let mut frame = base;
        for (at, value) in edits {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        if resize {
            frame.resize(len, 0);
        }
        frame
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn any_bytes_have_a_class(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        class(&bytes);
        let mut addressed = ethernet(EthernetProtocol::Ipv4, &bytes);
        class(&addressed);
        addressed[12] = 0x86;
        addressed[13] = 0xdd;
        class(&addressed);
    }

    #[test]
    fn a_segment_is_what_smoltcps_parsers_accept(frame in mutated()) {
        match (class(&frame), by_smoltcp(&frame)) {
            (Class::Tcp(ours), theirs) => prop_assert_eq!(Some(ours), theirs),
            (other, Some(theirs)) => prop_assert!(is_stricter(&frame, &theirs), "{:?}", other),
            (_, None) => {}
        }
    }

    #[test]
    fn reading_checksums_never_panics(frame in mutated(), other in mutated()) {
        match class(&frame) {
            Class::Tcp(info) => { info.checksum_is_good(&other); }
            Class::PathMtu(error) => { error.checksum_is_good(&other); }
            _ => {}
        }
    }

    #[test]
    fn the_likely_flow_of_a_segment_is_its_flow(frame in mutated()) {
        if let (Class::Tcp(info), Some(key)) = (class(&frame), likely_flow(&frame)) {
            prop_assert_eq!(key, info.key);
        }
    }

    #[test]
    fn both_directions_share_a_hash(frame in mutated()) {
        if let Class::Tcp(info) = class(&frame) {
            prop_assert_eq!(symmetric_hash(&info.key), symmetric_hash(&info.key.reversed()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn smoltcp_resets_exactly_the_segments_of_no_flow(frame in mutated()) {
        let answers = answers(&frame);
        let resets = answers.iter().filter(|answer| {
            matches!(classify(answer, PEER_MAC), Class::Tcp(info) if info.flags.rst())
        }).count();
        match class(&frame) {
            Class::Tcp(info)
                if !info.flags.rst()
                    && [ours_v4().ip(), ours_v6().ip()].contains(&info.key.local().ip())
                    && [peer_v4().ip(), peer_v6().ip()].contains(&info.key.remote().ip()) =>
            {
                prop_assert_eq!(resets, 1);
            }
            Class::Tcp(_) => {}
            _ => {
                let strict = by_smoltcp(&frame).is_some_and(|theirs| is_stricter(&frame, &theirs));
                prop_assert!(resets == 0 || strict);
            }
        }
    }
}
