//! The network between the hosts: links that lose, damage, delay and refuse frames, two switches that learn where
//! everybody is, and a router between them.

use crate::packet::{ETHERNET_BYTES, IpPacket, Resolution, Segment};
use crate::rng::Rng;
use crate::scenario::{Fault, FaultKind};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;
use unsocket::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Up = 0,
    Down = 1,
}

/// The cable between a node and its switch.
pub(crate) struct Link {
    /// Whose it is: faults of this host hit it.
    pub(crate) node: usize,
    pub(crate) segment: usize,
    pub(crate) delay: Duration,
    ways: [Channel; 2],
}

#[derive(Default)]
struct Channel {
    /// When what is under way has left.
    busy_until: Instant,
    last_arrival: Instant,
}

/// A fault that is in force.
pub(crate) struct Active {
    pub(crate) index: usize,
    pub(crate) fault: Fault,
    pub(crate) since: Instant,
    rng: Rng,
}

/// What the network did, for the summary and for checks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NetStats {
    pub(crate) frames: u64,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    pub(crate) damaged: u64,
    pub(crate) too_long: u64,
    pub(crate) overflowed: u64,
    pub(crate) told_too_big: u64,
}

pub(crate) struct Net {
    pub(crate) links: Vec<Link>,
    pub(crate) active: Vec<Active>,
    pub(crate) stats: NetStats,
    switches: [BTreeMap<[u8; 6], usize>; 2],
    pub(crate) router: Option<Router>,
    seed: u64,
}

/// A frame's arrival at the end of a link.
pub(crate) struct Arrival {
    pub(crate) at: Instant,
    pub(crate) frame: Vec<u8>,
}

impl Link {
    pub(crate) fn new(node: usize, segment: usize, delay: Duration) -> Self {
        Link { node, segment, delay, ways: Default::default() }
    }
}

impl Net {
    pub(crate) fn new(seed: u64, links: Vec<Link>, router: Option<Router>) -> Self {
        Net {
            links,
            active: Vec::new(),
            stats: NetStats::default(),
            switches: Default::default(),
            router,
            seed,
        }
    }

    pub(crate) fn begin_fault(&mut self, index: usize, fault: Fault, now: Instant) {
        let rng = Rng::new(self.seed, "fault at work", index as u64);
        self.active.push(Active { index, fault, since: now, rng });
    }

    pub(crate) fn end_fault(&mut self, index: usize) {
        self.active.retain(|active| active.index != index);
    }

    /// The smallest MTU that faults impose on what is routed.
    fn routed_mtu(&self) -> usize {
        let faults = self.active.iter().filter_map(|active| match active.fault.kind {
            FaultKind::Mtu { mtu } => Some(mtu),
            _ => None,
        });
        faults.min().unwrap_or(usize::MAX).min(1500)
    }

    /// Sends a frame over a link; what arrives at its other end, and when.
    pub(crate) fn transmit(
        &mut self,
        now: Instant,
        link: usize,
        way: Way,
        mut frame: Vec<u8>,
    ) -> Vec<Arrival> {
        self.stats.frames += 1;
        let Net { links, active, stats, router, .. } = self;
        let Link { node, delay, ways, .. } = &mut links[link];
        let channel = &mut ways[way as usize];
        let mut delay = *delay;
        let mut leaves = now;
        let mut copies = 1;
        let mut late = Duration::ZERO;
        let mut overtakes = false;
        for Active { fault, since, rng, .. } in active {
            if fault.host.is_some_and(|host| host != *node) {
                continue;
            }
            match fault.kind {
                FaultKind::Loss { rate } if rng.chance(rate) => {
                    stats.lost += 1;
                    return Vec::new();
                }
                FaultKind::Partition => {
                    stats.lost += 1;
                    return Vec::new();
                }
                FaultKind::Flapping { up, down } => {
                    let phase = now.saturating_since(*since).as_micros() % (up + down).as_micros();
                    if phase >= up.as_micros() {
                        stats.lost += 1;
                        return Vec::new();
                    }
                }
                // Where there is a router, it is the one whose path is narrow, and says so.
                FaultKind::Mtu { mtu } if router.is_none() && frame.len() > mtu + ETHERNET_BYTES => {
                    stats.too_long += 1;
                    return Vec::new();
                }
                FaultKind::Duplication { rate } if rng.chance(rate) => {
                    stats.duplicated += 1;
                    copies += 1;
                }
                FaultKind::Reordering { rate, by } if rng.chance(rate) => {
                    stats.reordered += 1;
                    late += by;
                    overtakes = true;
                }
                FaultKind::BitFlips { rate } if rng.chance(rate) && is_protected(&frame) => {
                    stats.damaged += 1;
                    let bit = rng.size(ETHERNET_BYTES * 8, frame.len() * 8 - 1);
                    frame[bit / 8] ^= 1 << (bit % 8);
                }
                FaultKind::ByteChanges { rate } if rng.chance(rate) && is_protected(&frame) => {
                    stats.damaged += 1;
                    let byte = rng.size(ETHERNET_BYTES, frame.len() - 1);
                    frame[byte] ^= rng.range(1, 255) as u8;
                }
                FaultKind::Delay { delay: more, jitter } => {
                    delay += more + rng.time(Duration::ZERO, jitter);
                }
                FaultKind::Bandwidth { bytes_per_second, queue } => {
                    let begins = channel.busy_until.max(now);
                    if begins.saturating_since(now) > queue {
                        stats.overflowed += 1;
                        return Vec::new();
                    }
                    let takes = Duration::from_nanos(frame.len() as u64 * 1_000_000_000 / bytes_per_second);
                    channel.busy_until = begins + takes;
                    leaves = leaves.max(channel.busy_until);
                }
                _ => {}
            }
        }
        let mut at = leaves + delay + late;
        if !overtakes {
            at = at.max(channel.last_arrival);
            channel.last_arrival = at;
        }
        (0..copies).map(|_| Arrival { at, frame: frame.clone() }).collect()
    }

    /// A frame reached its switch over `link`: over which links it goes on.
    pub(crate) fn switch(&mut self, link: usize, frame: &[u8]) -> Vec<usize> {
        let segment = self.links[link].segment;
        let (Some(&to), Some(&from)) = (frame.first_chunk::<6>(), frame[6..].first_chunk::<6>()) else {
            return Vec::new();
        };
        let table = &mut self.switches[segment];
        if from[0] & 1 == 0 {
            table.insert(from, link);
        }
        match table.get(&to) {
            Some(&out) => {
                if out == link {
                    Vec::new()
                } else {
                    vec![out]
                }
            }
            None => (0..self.links.len())
                .filter(|&out| out != link && self.links[out].segment == segment)
                .collect(),
        }
    }

    /// A frame reached the router on a segment: what it sends, and into which segment.
    pub(crate) fn route(&mut self, now: Instant, segment: usize, frame: &[u8]) -> Vec<(usize, Vec<u8>)> {
        let mtu = self.routed_mtu();
        let Some(router) = &mut self.router else { return Vec::new() };
        let told = router.told_too_big;
        let out = router.receive(now, segment, frame, mtu);
        self.stats.told_too_big += router.told_too_big - told;
        out
    }
}

/// Whether a checksum would notice damage: of a segment that has none yet. Two damages in one frame can cancel out.
fn is_protected(frame: &[u8]) -> bool {
    Segment::parse(frame).is_some() && Segment::is_whole(frame)
}

/// Joins the two segments.
pub(crate) struct Router {
    pub(crate) addrs: [IpAddr; 2],
    pub(crate) macs: [[u8; 6]; 2],
    known: BTreeMap<IpAddr, ([u8; 6], Instant)>,
    /// Packets that wait for their next hop's address.
    waiting: Vec<(usize, IpAddr, Vec<u8>)>,
    told_too_big: u64,
}

/// How long the router remembers where somebody is.
const REMEMBERED: Duration = Duration::from_secs(20);
const WAITING_MAX: usize = 64;

impl Router {
    pub(crate) fn new(addrs: [IpAddr; 2], macs: [[u8; 6]; 2]) -> Self {
        Router { addrs, macs, known: BTreeMap::new(), waiting: Vec::new(), told_too_big: 0 }
    }

    fn segment_of(&self, addr: IpAddr) -> usize {
        let shared = |router: IpAddr| match (router, addr) {
            (IpAddr::V4(a), IpAddr::V4(b)) => a.octets()[..3] == b.octets()[..3],
            (IpAddr::V6(a), IpAddr::V6(b)) => a.segments()[..4] == b.segments()[..4],
            _ => false,
        };
        usize::from(shared(self.addrs[1]))
    }

    fn receive(&mut self, now: Instant, segment: usize, frame: &[u8], mtu: usize) -> Vec<(usize, Vec<u8>)> {
        let mac = self.macs[segment];
        if let Some(resolution) = Resolution::parse(frame) {
            return self.resolve(now, segment, &resolution);
        }
        if frame[..6] != mac {
            return Vec::new();
        }
        let Some(ip) = IpPacket::parse(frame).filter(|ip| ip.ttl > 1) else { return Vec::new() };
        if self.addrs.contains(&ip.to) {
            return Vec::new();
        }
        let sender: [u8; 6] = frame[6..12].try_into().unwrap_or_default();
        if ip.bytes.len() > mtu {
            self.told_too_big += 1;
            return vec![(segment, ip.too_big(self.addrs[segment], [mac, sender], mtu))];
        }
        let out = self.segment_of(ip.to);
        match self.known.get(&ip.to) {
            Some((to, until)) if now < *until => vec![(out, ip.forwarded([self.macs[out], *to]))],
            _ => {
                if self.waiting.len() < WAITING_MAX {
                    self.waiting.push((out, ip.to, ip.forwarded([self.macs[out], [0; 6]])));
                }
                vec![(out, Resolution::request(self.macs[out], self.addrs[out], ip.to))]
            }
        }
    }

    fn resolve(&mut self, now: Instant, segment: usize, resolution: &Resolution) -> Vec<(usize, Vec<u8>)> {
        let sender = if resolution.is_request { resolution.sender } else { resolution.target };
        self.known.insert(sender, (resolution.sender_mac, now + REMEMBERED));
        let mut out = Vec::new();
        if resolution.is_request && resolution.target == self.addrs[segment] {
            out.push((segment, resolution.reply(self.macs[segment])));
        }
        self.waiting.retain_mut(|(segment, to, frame)| {
            let goes = *to == sender;
            if goes {
                frame[..6].copy_from_slice(&resolution.sender_mac);
                out.push((*segment, std::mem::take(frame)));
            }
            !goes
        });
        out
    }
}
