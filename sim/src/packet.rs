//! Frames as bytes: taken apart for traces and routers, put together for adversaries. Written apart from the
//! product's own parsers, so that a mistake there does not hide here.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const ETHERNET_BYTES: usize = 14;
pub(crate) const BROADCAST: [u8; 6] = [0xff; 6];

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const PSH: u8 = 8;
pub(crate) const ACK: u8 = 16;

/// One end of a TCP connection, or of an IP packet with port 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct End {
    pub(crate) addr: IpAddr,
    pub(crate) port: u16,
}

/// A TCP segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment<'a> {
    pub(crate) from: End,
    pub(crate) to: End,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) payload: &'a [u8],
}

/// RFC 1071 over several pieces, all but the last of even length.
fn checksum(pieces: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for piece in pieces {
        for pair in piece.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn pseudo_header(from: IpAddr, to: IpAddr, protocol: u8, len: usize) -> Vec<u8> {
    let mut pseudo = octets(from);
    pseudo.extend(octets(to));
    pseudo.extend((len as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, protocol]);
    pseudo
}

/// An Ethernet frame with an IP packet in it.
pub(crate) fn ip_frame(
    macs: [[u8; 6]; 2],
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHERNET_BYTES + 40 + payload.len());
    frame.extend(macs[1]);
    frame.extend(macs[0]);
    if from.is_ipv4() {
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend(((20 + payload.len()) as u16).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
        frame.extend(octets(from));
        frame.extend(octets(to));
        let sum = checksum(&[&frame[ETHERNET_BYTES..ETHERNET_BYTES + 20]]);
        frame[ETHERNET_BYTES + 10..ETHERNET_BYTES + 12].copy_from_slice(&sum.to_be_bytes());
    } else {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend((payload.len() as u16).to_be_bytes());
        frame.extend([protocol, if protocol == 58 { 255 } else { 64 }]);
        frame.extend(octets(from));
        frame.extend(octets(to));
    }
    frame.extend(payload);
    frame
}

impl Segment<'_> {
    /// The frame that carries it, `macs` being the sender's and the receiver's.
    pub(crate) fn frame(&self, macs: [[u8; 6]; 2]) -> Vec<u8> {
        let mut tcp = Vec::with_capacity(24 + self.payload.len());
        tcp.extend(self.from.port.to_be_bytes());
        tcp.extend(self.to.port.to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        // A SYN says what segments we take.
        let options: &[u8] = if self.flags & SYN != 0 { &[2, 4, 0x05, 0x00] } else { &[] };
        tcp.extend([((20 + options.len()) as u8 / 4) << 4, self.flags]);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(options);
        tcp.extend(self.payload);
        let sum = checksum(&[&pseudo_header(self.from.addr, self.to.addr, 6, tcp.len()), &tcp]);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        ip_frame(macs, self.from.addr, self.to.addr, 6, &tcp)
    }

    /// The segment in a frame; `None` for anything else.
    pub(crate) fn parse(frame: &[u8]) -> Option<Segment<'_>> {
        let ip = IpPacket::parse(frame)?;
        let tcp = ip.payload;
        if ip.protocol != 6 || tcp.len() < 20 {
            return None;
        }
        let header_bytes = usize::from(tcp[12] >> 4) * 4;
        Some(Segment {
            from: End { addr: ip.from, port: u16::from_be_bytes([tcp[0], tcp[1]]) },
            to: End { addr: ip.to, port: u16::from_be_bytes([tcp[2], tcp[3]]) },
            seq: u32::from_be_bytes(tcp[4..8].try_into().ok()?),
            ack: u32::from_be_bytes(tcp[8..12].try_into().ok()?),
            flags: tcp[13],
            window: u16::from_be_bytes([tcp[14], tcp[15]]),
            payload: tcp.get(header_bytes..)?,
        })
    }

    /// The sequence number after it.
    pub(crate) fn end(&self) -> u32 {
        let controls = u32::from(self.flags & SYN != 0) + u32::from(self.flags & FIN != 0);
        self.seq.wrapping_add(self.payload.len() as u32).wrapping_add(controls)
    }

    /// Whether the TCP checksum is right (the frame must be whole).
    pub(crate) fn is_whole(frame: &[u8]) -> bool {
        IpPacket::parse(frame).is_some_and(|ip| {
            checksum(&[&pseudo_header(ip.from, ip.to, ip.protocol, ip.payload.len()), ip.payload]) == 0
        })
    }
}

/// An IP packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IpPacket<'a> {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) ttl: u8,
    pub(crate) payload: &'a [u8],
    /// All of it, with its header.
    pub(crate) bytes: &'a [u8],
}

impl<'a> IpPacket<'a> {
    pub(crate) fn parse(frame: &'a [u8]) -> Option<IpPacket<'a>> {
        let bytes = frame.get(ETHERNET_BYTES..)?;
        match frame[12..14] {
            [0x08, 0x00] if bytes.len() >= 20 => {
                let header_bytes = usize::from(bytes[0] & 15) * 4;
                let total = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
                let v4 =
                    |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap_or_default());
                Some(IpPacket {
                    from: v4(12).into(),
                    to: v4(16).into(),
                    protocol: bytes[9],
                    ttl: bytes[8],
                    payload: bytes.get(header_bytes..total)?,
                    bytes: bytes.get(..total)?,
                })
            }
            [0x86, 0xdd] if bytes.len() >= 40 => {
                let total = 40 + usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
                let v6 =
                    |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[at..at + 16]).unwrap_or_default());
                Some(IpPacket {
                    from: v6(8).into(),
                    to: v6(24).into(),
                    protocol: bytes[6],
                    ttl: bytes[7],
                    payload: bytes.get(40..total)?,
                    bytes: bytes.get(..total)?,
                })
            }
            _ => None,
        }
    }

    /// The packet one hop further: its time to live less by one, in a frame between these two.
    pub(crate) fn forwarded(&self, macs: [[u8; 6]; 2]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(ETHERNET_BYTES + self.bytes.len());
        frame.extend(macs[1]);
        frame.extend(macs[0]);
        frame.extend(if self.from.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
        frame.extend(self.bytes);
        let packet = &mut frame[ETHERNET_BYTES..];
        if self.from.is_ipv4() {
            packet[8] -= 1;
            packet[10..12].fill(0);
            let sum = checksum(&[&packet[..20]]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            packet[7] -= 1;
        }
        frame
    }

    /// What a router answers to a packet over the next hop's `mtu`: RFC 1191 section 4, RFC 8201 section 3.
    pub(crate) fn too_big(&self, router: IpAddr, macs: [[u8; 6]; 2], mtu: usize) -> Vec<u8> {
        if self.from.is_ipv4() {
            let mut icmp = vec![3, 4, 0, 0, 0, 0];
            icmp.extend((mtu as u16).to_be_bytes());
            icmp.extend(&self.bytes[..self.bytes.len().min(28)]);
            let sum = checksum(&[&icmp]);
            icmp[2..4].copy_from_slice(&sum.to_be_bytes());
            ip_frame(macs, router, self.from, 1, &icmp)
        } else {
            let mut icmp = vec![2, 0, 0, 0];
            icmp.extend((mtu as u32).to_be_bytes());
            icmp.extend(&self.bytes[..self.bytes.len().min(1232)]);
            let sum = checksum(&[&pseudo_header(router, self.from, 58, icmp.len()), &icmp]);
            icmp[2..4].copy_from_slice(&sum.to_be_bytes());
            ip_frame(macs, router, self.from, 58, &icmp)
        }
    }
}

/// ARP, or the two kinds of NDP that stand for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resolution {
    pub(crate) is_request: bool,
    /// The sender; unspecified in an NDP advertisement, where `target` is the sender.
    pub(crate) sender: IpAddr,
    pub(crate) sender_mac: [u8; 6],
    /// Who is asked for, or who answers.
    pub(crate) target: IpAddr,
}

impl Resolution {
    pub(crate) fn parse(frame: &[u8]) -> Option<Resolution> {
        if frame.get(12..14)? == [0x08, 0x06] {
            let arp = frame.get(ETHERNET_BYTES..ETHERNET_BYTES + 28)?;
            let v4 = |at: usize| Ipv4Addr::new(arp[at], arp[at + 1], arp[at + 2], arp[at + 3]);
            let is_request = arp[7] == 1;
            return Some(Resolution {
                is_request,
                sender: v4(14).into(),
                sender_mac: arp[8..14].try_into().ok()?,
                target: if is_request { v4(24) } else { v4(14) }.into(),
            });
        }
        let ip = IpPacket::parse(frame).filter(|ip| ip.protocol == 58)?;
        let is_request = *ip.payload.first()? == 135;
        if !is_request && ip.payload[0] != 136 {
            return None;
        }
        let target = <[u8; 16]>::try_from(ip.payload.get(8..24)?).ok()?;
        Some(Resolution {
            is_request,
            sender: ip.from,
            sender_mac: frame[6..12].try_into().ok()?,
            target: Ipv6Addr::from(target).into(),
        })
    }

    /// A question, to everybody.
    pub(crate) fn request(mac: [u8; 6], sender: IpAddr, target: IpAddr) -> Vec<u8> {
        match (sender, target) {
            (IpAddr::V6(_), IpAddr::V6(wanted)) => {
                let [.., t13, t14, t15] = wanted.octets();
                let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, t13, t14, t15]);
                let icmp = ndp(135, 0, target, 1, mac);
                ndp_frame([mac, [0x33, 0x33, 0xff, t13, t14, t15]], sender, group.into(), icmp)
            }
            _ => arp_frame([mac, BROADCAST], 1, [mac, [0; 6]], sender, target),
        }
    }

    /// The answer to it by `mac`, who has the address asked for.
    pub(crate) fn reply(&self, mac: [u8; 6]) -> Vec<u8> {
        if self.target.is_ipv6() {
            // Solicited, override.
            let icmp = ndp(136, 0x60, self.target, 2, mac);
            return ndp_frame([mac, self.sender_mac], self.target, self.sender, icmp);
        }
        arp_frame([mac, self.sender_mac], 2, [mac, self.sender_mac], self.target, self.sender)
    }
}

fn arp_frame(
    eth: [[u8; 6]; 2],
    operation: u8,
    macs: [[u8; 6]; 2],
    sender: IpAddr,
    target: IpAddr,
) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend(eth[1]);
    frame.extend(eth[0]);
    frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(macs[0]);
    frame.extend(octets(sender));
    frame.extend(macs[1]);
    frame.extend(octets(target));
    frame
}

fn ndp(kind: u8, flags: u8, target: IpAddr, option: u8, mac: [u8; 6]) -> Vec<u8> {
    let mut icmp = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    icmp.extend(octets(target));
    icmp.extend([option, 1]);
    icmp.extend(mac);
    icmp
}

fn ndp_frame(macs: [[u8; 6]; 2], from: IpAddr, to: IpAddr, mut icmp: Vec<u8>) -> Vec<u8> {
    let sum = checksum(&[&pseudo_header(from, to, 58, icmp.len()), &icmp]);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    ip_frame(macs, from, to, 58, &icmp)
}

/// One line about a frame.
pub(crate) fn describe(frame: &[u8]) -> String {
    if let Some(resolution) = Resolution::parse(frame) {
        let Resolution { is_request, sender, target, .. } = resolution;
        return if is_request {
            format!("who is {target}? asks {sender}")
        } else {
            format!("{target} is here")
        };
    }
    let Some(segment) = Segment::parse(frame) else {
        return match IpPacket::parse(frame) {
            Some(ip) => format!("{} > {} protocol {} {} B", ip.from, ip.to, ip.protocol, ip.payload.len()),
            None => format!("{} B of no kind known", frame.len()),
        };
    };
    let Segment { from, to, seq, ack, flags, window, payload } = segment;
    let mut line = format!("{}:{} > {}:{} ", from.addr, from.port, to.addr, to.port);
    for (bit, letter) in [(SYN, 'S'), (FIN, 'F'), (RST, 'R'), (PSH, 'P'), (ACK, '.')] {
        if flags & bit != 0 {
            line.push(letter);
        }
    }
    let _ = write!(line, " seq {seq} ack {ack} win {window} len {}", payload.len());
    if !Segment::is_whole(frame) {
        line.push_str(" DAMAGED");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_comes_out_as_it_went_in() {
        for [from, to] in [["10.0.0.1", "10.0.0.2"], ["fd00::1", "fd00::2"]] {
            let end = |addr: &str, port| End { addr: addr.parse().unwrap(), port };
            let (from, to) = (end(from, 5), end(to, 80));
            let segment =
                Segment { from, to, seq: 7, ack: 9, flags: ACK | PSH, window: 100, payload: b"odd" };
            let mut frame = segment.frame([[2; 6], [4; 6]]);
            assert!(Segment::is_whole(&frame));
            let parsed = Segment::parse(&frame).unwrap();
            assert_eq!((parsed.from, parsed.to, parsed.end(), parsed.payload), (from, to, 10, &b"odd"[..]));
            *frame.last_mut().unwrap() ^= 1;
            assert!(!Segment::is_whole(&frame));
        }
    }

    #[test]
    fn a_question_is_answered_by_its_target() {
        for [asker, wanted] in [["10.0.0.1", "10.0.0.2"], ["fd00::1", "fd00::2"]] {
            let (asker, wanted) = (asker.parse().unwrap(), wanted.parse().unwrap());
            let question = Resolution::parse(&Resolution::request([2; 6], asker, wanted)).unwrap();
            assert!(question.is_request && question.target == wanted && question.sender == asker);
            let answer = Resolution::parse(&question.reply([4; 6])).unwrap();
            assert!(!answer.is_request && answer.target == wanted && answer.sender_mac == [4; 6]);
        }
    }
}
