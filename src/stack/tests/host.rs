//! Hosts, a cable between them with a filter on it, and raw segments.

use super::cut::cut;
use crate::port::{Frame, Port, PortInfo, PortStats, RxChecksum};
use crate::stack::frames::ip_frame;
use crate::stack::{Cidr, ConnId, Onward, Stack, StackConfig, Status, TxQueue};
use crate::time::{Duration, Instant};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv4Packet, IpAddress, IpProtocol,
    IpRepr, Ipv4Packet, Ipv6Packet, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

/// A frame, and the length of the segments that the port shall cut its payload into.
#[derive(Default)]
pub(super) struct PlugFrame {
    bytes: Vec<u8>,
    segment_bytes: Option<NonZeroU16>,
    is_large: bool,
}

impl Frame for PlugFrame {
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
    fn set_len(&mut self, len: usize) {
        self.bytes.resize(len, 0);
    }
    fn set_segment_bytes(&mut self, payload_bytes: NonZeroU16) {
        self.segment_bytes = Some(payload_bytes);
    }
}

/// A port whose other end is the test.
pub(super) struct Plug {
    info: PortInfo,
    /// What was sent, cut as the frames asked for.
    out: VecDeque<Vec<u8>>,
    /// Large frames that it has.
    large_frames: usize,
    /// It keeps them once they were sent.
    pub(super) keeps_large: bool,
    /// The frames sent that it has cut: their length in bytes, and that of their segments.
    pub(super) was_cut: Vec<(usize, usize)>,
}

impl Port for Plug {
    type Frame = PlugFrame;
    fn info(&self) -> &PortInfo {
        &self.info
    }
    fn rx_burst(&mut self, _burst: &mut VecDeque<PlugFrame>, _max: usize) -> usize {
        0
    }
    fn alloc(&mut self) -> Option<PlugFrame> {
        Some(PlugFrame::default())
    }
    fn alloc_large(&mut self) -> Option<PlugFrame> {
        self.info.tso_frame_bytes_max?;
        self.large_frames = self.large_frames.checked_sub(1)?;
        Some(PlugFrame { is_large: true, ..PlugFrame::default() })
    }
    fn tx_burst(&mut self, burst: &mut VecDeque<PlugFrame>) -> usize {
        let sent = burst.len();
        for frame in burst.drain(..) {
            if let Some(segment_bytes) = frame.segment_bytes {
                assert!(frame.is_large && Some(frame.bytes.len()) <= self.info.tso_frame_bytes_max);
                self.was_cut.push((frame.bytes.len(), segment_bytes.get().into()));
            } else {
                assert!(frame.bytes.len() <= self.info.mtu + 14);
            }
            self.large_frames += usize::from(frame.is_large && !self.keeps_large);
            if self.info.tx_checksum_offload {
                self.out.extend(cut(&frame.bytes, frame.segment_bytes));
            } else {
                self.out.push_back(frame.bytes);
            }
        }
        sent
    }
    fn release(&mut self, frame: PlugFrame) {
        self.large_frames += usize::from(frame.is_large);
    }
    fn stats(&self) -> PortStats {
        PortStats::default()
    }
}

/// One stack with its port.
pub(super) struct Host {
    pub(super) stack: Stack,
    pub(super) now: Instant,
    /// Connections that became ready, in order.
    pub(super) ready: Vec<ConnId>,
    /// Frames that the TX queue may hold.
    pub(super) tx_max: usize,
    /// Segments of a burst may become one.
    pub(super) merges: bool,
    tx: TxQueue<PlugFrame>,
    pub(super) plug: Plug,
}

impl Host {
    /// A host with the last byte `id` in its MAC.
    pub(super) fn new(id: u8, config: &StackConfig) -> Host {
        Host::on_port(plain_port(id), config)
    }

    /// A host on a port of this kind.
    pub(super) fn on_port(info: PortInfo, config: &StackConfig) -> Host {
        let secret = [info.mac[5]; 32];
        Host {
            stack: Stack::new(config, &info, secret, Instant::ZERO).expect("a valid configuration"),
            now: Instant::ZERO,
            ready: Vec::new(),
            tx_max: 256,
            merges: true,
            tx: TxQueue::new(256, &info),
            plug: Plug {
                info,
                out: VecDeque::new(),
                large_frames: 100,
                keeps_large: false,
                was_cut: Vec::new(),
            },
        }
    }

    /// The port has so many large frames from now on.
    pub(super) fn set_large_frames(&mut self, count: usize) {
        self.tx.clear(&mut self.plug);
        self.plug.large_frames = count;
    }

    /// One burst: `frames` in, what the stack sends out.
    pub(super) fn burst(&mut self, now: Instant, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
        self.now = now;
        self.stack.begin(now);
        self.stack.expect(frames.iter().map(Vec::as_slice));
        for frame in frames {
            // Its own answer, and those to what waited for it.
            self.tx.refill(&mut self.plug, self.tx_max.min(3));
            if self.merges {
                let _ = self.stack.ingress_of_burst(frame, RxChecksum::Unknown, &mut self.tx);
            } else {
                let _ = self.onward(frame);
            }
            self.tx.flush(&mut self.plug);
        }
        self.tx.refill(&mut self.plug, self.tx_max.min(2));
        self.stack.end_burst(&mut self.tx);
        self.tx.flush(&mut self.plug);
        self.stack.timers();
        while let Some(id) = self.stack.next_ready() {
            self.ready.push(id);
        }
        self.tx.refill(&mut self.plug, self.tx_max);
        self.stack.egress(&mut self.tx);
        self.tx.flush(&mut self.plug);
        self.plug.out.drain(..).collect()
    }

    /// One frame in; where it goes from there.
    pub(super) fn onward(&mut self, frame: &[u8]) -> Onward {
        self.onward_with(frame, RxChecksum::Unknown)
    }

    /// One frame in, and what the port knows of its checksums; where it goes from there.
    pub(super) fn onward_with(&mut self, frame: &[u8], checksum: RxChecksum) -> Onward {
        self.stack.ingress(frame, checksum, &mut self.tx)
    }

    /// One frame in that another worker has received.
    pub(super) fn take_over(&mut self, frame: &[u8]) {
        let onward = self.stack.take_over(frame, RxChecksum::Unknown, &mut self.tx);
        assert_eq!(onward, Onward::Done);
    }

    /// Like [`Host::burst`], with room for `room` frames only.
    pub(super) fn burst_with_room(&mut self, now: Instant, frames: &[Vec<u8>], room: usize) -> Vec<Vec<u8>> {
        self.tx.clear(&mut self.plug);
        let before = core::mem::replace(&mut self.tx_max, room);
        let sent = self.burst(now, frames);
        self.tx.clear(&mut self.plug);
        self.tx_max = before;
        sent
    }

    /// Queues all of `bytes`.
    pub(super) fn send(&mut self, id: ConnId, bytes: &[u8]) {
        let queued = self.stack.sender(id).expect("not released").write(bytes);
        assert_eq!(queued, bytes.len(), "the send ring has room");
    }

    /// Takes everything received.
    pub(super) fn receive(&mut self, id: ConnId) -> Vec<u8> {
        let mut all = Vec::new();
        while self
            .stack
            .with_received(id, |bytes, _| {
                all.extend_from_slice(bytes);
                (bytes.len(), ())
            })
            .is_some()
        {}
        all
    }
}

/// Says of a frame whether it arrives.
type Filter = Box<dyn FnMut(&[u8]) -> bool>;

/// Two hosts and the cable between them.
pub(super) struct Pair {
    pub(super) a: Host,
    pub(super) b: Host,
    pub(super) now: Instant,
    to_a: Vec<Vec<u8>>,
    to_b: Vec<Vec<u8>>,
    pub(super) filter: Filter,
}

impl Pair {
    pub(super) fn new(a: &StackConfig, b: &StackConfig) -> Pair {
        Pair {
            a: Host::new(1, a),
            b: Host::new(2, b),
            now: Instant::ZERO,
            to_a: Vec::new(),
            to_b: Vec::new(),
            filter: Box::new(|_| true),
        }
    }

    /// Two hosts on one link, IPv4 and IPv6; `b` listens on port 80.
    pub(super) fn on_link() -> Pair {
        let mut pair =
            Pair::new(&config(&["10.0.0.1/24", "fd00::1/64"]), &config(&["10.0.0.2/24", "fd00::2/64"]));
        pair.b.stack.listen(80);
        pair
    }

    /// One burst on each side; returns whether any frame moved.
    pub(super) fn step(&mut self) -> bool {
        let (to_a, to_b) = (core::mem::take(&mut self.to_a), core::mem::take(&mut self.to_b));
        let moved = !(to_a.is_empty() && to_b.is_empty());
        self.to_b = self.a.burst(self.now, &to_a);
        self.to_a = self.b.burst(self.now, &to_b);
        let filter = &mut self.filter;
        self.to_a.retain(|frame| filter(frame));
        self.to_b.retain(|frame| filter(frame));
        moved || !(self.to_a.is_empty() && self.to_b.is_empty())
    }

    /// Runs until `duration` has passed; jumps over the time in which nothing is due.
    pub(super) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let moved = self.step();
            let wire_delay = self.now + Duration::from_micros(10);
            let due = [self.a.stack.next_deadline(), self.b.stack.next_deadline()];
            let next = if moved {
                wire_delay
            } else {
                due.into_iter().flatten().min().unwrap_or(end).max(wire_delay)
            };
            if next >= end {
                self.now = end;
                self.a.stack.begin(end);
                self.b.stack.begin(end);
                return;
            }
            self.now = next;
        }
    }

    /// Opens a connection from `a` to `b`; their ids.
    pub(super) fn connect(&mut self, to: &str) -> (ConnId, ConnId) {
        let client = self.a.stack.connect(to.parse().expect("an address")).expect("room for a connection");
        self.b.ready.clear();
        self.run(Duration::from_millis(50));
        assert_eq!(self.a.stack.status(client), Some(Status::Open));
        let server = self.b.ready[0];
        assert_eq!(self.b.stack.status(server), Some(Status::Open));
        (client, server)
    }
}

/// A port that does nothing on its own, with the last byte `id` in its MAC.
pub(super) fn plain_port(id: u8) -> PortInfo {
    PortInfo {
        name: format!("plug{id}"),
        mac: [2, 0, 0, 0, 0, id],
        mtu: 1500,
        frame_bytes_max: 9014,
        tso_frame_bytes_max: None,
        tx_checksum_offload: false,
        rx_checksum_trusted: false,
        rss: None,
    }
}

/// A configuration with these addresses.
pub(super) fn config(addrs: &[&str]) -> StackConfig {
    let addrs = addrs.iter().map(|text| text.parse::<Cidr>().expect("an address with its prefix")).collect();
    let mut config = StackConfig { addrs, ..StackConfig::default() };
    config.tcp.connections_max = 256;
    config
}

/// A TCP segment by hand.
#[derive(Clone)]
pub(super) struct Raw<'a> {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) control: TcpControl,
    pub(super) seq: u32,
    pub(super) ack: Option<u32>,
    pub(super) window: u16,
    pub(super) payload: &'a [u8],
}

impl Raw<'_> {
    /// From port `port` of 10.0.0.9 to port 80 of 10.0.0.2: an empty SYN.
    pub(super) fn syn(port: u16, seq: u32) -> Raw<'static> {
        Raw {
            from: SocketAddr::new(IpAddr::from([10, 0, 0, 9]), port),
            to: SocketAddr::new(IpAddr::from([10, 0, 0, 2]), 80),
            control: TcpControl::Syn,
            seq,
            ack: None,
            window: 64_000,
            payload: &[],
        }
    }

    /// The frame, from a host with MAC ..:09 to one with ..:02.
    pub(super) fn frame(&self) -> Vec<u8> {
        let tcp = TcpRepr {
            src_port: self.from.port(),
            dst_port: self.to.port(),
            control: self.control,
            seq_number: TcpSeqNumber(self.seq as i32),
            ack_number: self.ack.map(|ack| TcpSeqNumber(ack as i32)),
            window_len: self.window,
            window_scale: (self.control == TcpControl::Syn).then_some(7),
            max_seg_size: (self.control == TcpControl::Syn).then_some(1460),
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: self.payload,
        };
        let (src, dst) = (IpAddress::from(self.from.ip()), IpAddress::from(self.to.ip()));
        let ip = IpRepr::new(src, dst, IpProtocol::Tcp, tcp.buffer_len(), 64);
        let mut frame = vec![0; 14 + ip.buffer_len()];
        let checksums = ChecksumCapabilities::default();
        EthernetRepr {
            src_addr: EthernetAddress([2, 0, 0, 0, 0, 9]),
            dst_addr: EthernetAddress([2, 0, 0, 0, 0, 2]),
            ethertype: if self.from.is_ipv4() { EthernetProtocol::Ipv4 } else { EthernetProtocol::Ipv6 },
        }
        .emit(&mut EthernetFrame::new_unchecked(&mut frame));
        ip.emit(&mut frame[14..], &checksums);
        let start = 14 + ip.header_len();
        tcp.emit(&mut TcpPacket::new_unchecked(&mut frame[start..]), &src, &dst, &checksums);
        frame
    }
}

/// A router's word to the host with MAC ..:02 that what it sent from `local` to `remote`, both IPv4, was longer than `mtu`.
pub(super) fn fragmentation_needed(local: SocketAddr, remote: SocketAddr, mtu: u16) -> Vec<u8> {
    let sent = Raw { from: local, to: remote, ..Raw::syn(0, 7) }.frame();
    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend(&sent[14..14 + 28]);
    Icmpv4Packet::new_unchecked(&mut message[..]).fill_checksum();
    let router = IpAddress::v4(10, 0, 0, 254);
    let mut frame = ip_frame(router, IpAddress::from(local.ip()), IpProtocol::Icmp, &message);
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    frame
}

/// What a sent TCP segment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) syn: bool,
    pub(super) fin: bool,
    pub(super) rst: bool,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) payload: usize,
    pub(super) options: Vec<u8>,
}

/// Reads a TCP segment off a frame; `None` when it is something else.
pub(super) fn seen(frame: &[u8]) -> Option<Seen> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    let payload = match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => {
            let packet = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
            (packet.next_header() == IpProtocol::Tcp).then(|| packet.payload())?
        }
        EthernetProtocol::Ipv6 => {
            let packet = Ipv6Packet::new_checked(ethernet.payload()).ok()?;
            (packet.next_header() == IpProtocol::Tcp).then(|| packet.payload())?
        }
        _ => return None,
    };
    let tcp = TcpPacket::new_checked(payload).ok()?;
    Some(Seen {
        syn: tcp.syn(),
        fin: tcp.fin(),
        rst: tcp.rst(),
        seq: tcp.seq_number().0 as u32,
        ack: tcp.ack_number().0 as u32,
        payload: tcp.payload().len(),
        options: tcp.options().to_vec(),
    })
}

/// The TCP segments among `frames`.
pub(super) fn segments(frames: &[Vec<u8>]) -> Vec<Seen> {
    frames.iter().filter_map(|frame| seen(frame)).collect()
}

/// An ARP reply (or announcement) of 10.0.0.9, MAC ..:09, to 10.0.0.2.
pub(super) fn arp_of_raw() -> Vec<u8> {
    use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr};
    let arp = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress([2, 0, 0, 0, 0, 9]),
        source_protocol_addr: [10, 0, 0, 9].into(),
        target_hardware_addr: EthernetAddress([2, 0, 0, 0, 0, 2]),
        target_protocol_addr: [10, 0, 0, 2].into(),
    };
    let mut frame = vec![0; 14 + arp.buffer_len()];
    let mut ethernet = EthernetFrame::new_unchecked(&mut frame);
    EthernetRepr {
        src_addr: EthernetAddress([2, 0, 0, 0, 0, 9]),
        dst_addr: EthernetAddress([2, 0, 0, 0, 0, 2]),
        ethertype: EthernetProtocol::Arp,
    }
    .emit(&mut ethernet);
    arp.emit(&mut ArpPacket::new_unchecked(ethernet.payload_mut()));
    frame
}
