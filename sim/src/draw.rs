//! How a world is drawn from its seed.

use crate::rng::Rng;
use crate::scenario::{
    Adversary, AdversaryKind, ConnPlan, Ending, Fault, FaultKind, HostPlan, Scenario, Serving, Steer, Without,
};
use std::time::Duration;
use unsocket::engine::SlowReader;
use unsocket::stack::CongestionControl;
use unsocket::ws::deflate::{DeflateConfig, WINDOW_BITS_MAX, WINDOW_BITS_MIN};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// A queue of so many frames holds the window of any connection.
const WINDOW_FRAMES: usize = 256;

impl Scenario {
    pub(crate) fn draw(seed: u64, without: Without) -> Scenario {
        let mut rng = Rng::new(seed, "world", 0);
        let gentle = rng.chance(0.6);
        let horizon = SECOND * rng.pick(&[3, 6, 12, 25, 45, 90]);
        let ipv6 = rng.chance(0.3);
        let routed = rng.chance(0.35);
        let tls = rng.chance(0.4);
        let servers = rng.size(1, 2);
        let clients = rng.size(1, 3);
        let mut hosts: Vec<HostPlan> = (0..servers + clients)
            .map(|i| HostPlan::draw(seed, i, i < servers, gentle, routed, horizon))
            .collect();
        // Without congestion control whole windows are lost in a short queue, again and again, and smoltcp's timeouts stay
        // long: that is no bug of ours, and no world in which everything has to move.
        if gentle && hosts.iter().any(|host| host.rx_ring < WINDOW_FRAMES) {
            hosts.iter_mut().for_each(|host| host.congestion = CongestionControl::Cubic);
        }
        // A drain in a world that also loses servers says little.
        if rng.chance(0.15) {
            hosts[0].drain_at = Some(rng.time(horizon / 3, horizon));
        }
        let conns = rng.size(1, rng.clone().pick(&[3, 8, 20, 40]));
        let heavy = rng.chance(0.15);
        let conns =
            (0..conns).map(|i| ConnPlan::draw(seed, i, servers, clients, horizon, heavy)).collect::<Vec<_>>();
        let conns = conns.into_iter().map(|conn| ConnPlan { tls: conn.tls && tls, ..conn }).collect();
        let faults = rng.size(0, 8);
        let faults =
            (0..faults).map(|i| Fault::draw(seed, i, hosts.len(), gentle, routed, horizon)).collect();
        let adversaries = if rng.chance(0.4) { rng.size(1, 3) } else { 0 };
        let adversaries: Vec<_> =
            (0..adversaries).map(|i| Adversary::draw(seed, i, servers, tls, horizon)).collect();
        if !adversaries.is_empty() {
            // Some vanish without a word: a server that has neither pings nor an idle deadline keeps them for ever.
            for host in hosts.iter_mut().filter(|host| host.idle.is_none()) {
                host.ping = host.ping.or(Some(SECOND * 30));
            }
        }
        let mut scenario =
            Scenario { seed, horizon, gentle, ipv6, tls, hosts, conns, faults, adversaries, without };
        scenario.shrink();
        scenario
    }
}

impl HostPlan {
    fn draw(seed: u64, index: usize, is_server: bool, gentle: bool, routed: bool, horizon: Duration) -> Self {
        let mut rng = Rng::new(seed, "host", index as u64);
        let workers = if rng.chance(0.5) { 1 } else { rng.size(2, 4) };
        let steer = match workers {
            1 => Steer::Single,
            // Two workers of a client could choose the same source port unless the engine spreads the flows.
            _ if !is_server => rng.pick(&[Steer::Single, Steer::Anywhere]),
            _ => rng.pick(&[Steer::Device, Steer::Single, Steer::Anywhere]),
        };
        // A client that does not read while it has much to say, and a server that does the same, wait for each other.
        let high_water = if is_server { rng.pick(&[1, 4 << 10, 64 << 10]) } else { 64 << 20 };
        HostPlan {
            is_server,
            off_link: routed && !is_server,
            workers,
            steer,
            mtu: rng.pick(&[1500, 1500, 1500, 1280, 9000]),
            recv_buffer_bytes: rng.pick(&[4096, 10_000, 65_535, 65_535, 262_143]),
            send_buffer_bytes: rng.pick(&[4096, 16_384, 65_536, 65_536, 200_000]),
            congestion: rng.pick(&[
                CongestionControl::Cubic,
                CongestionControl::Cubic,
                CongestionControl::None,
            ]),
            min_rto: MS * rng.pick(&[50, 200, 200, 200, 1000]),
            overflow_bytes_max: high_water.max(rng.pick(&[1, 16 << 10, 256 << 10])),
            high_water,
            slow_reader: rng.pick(&[SlowReader::Drop, SlowReader::Drop, SlowReader::Close]),
            deflate: rng.chance(0.6).then(|| draw_deflate(&mut rng)),
            idle: if gentle { None } else { Some(SECOND * rng.pick(&[5, 60])) },
            ping: rng.pick(&[None, Some(2), Some(30)]).map(Duration::from_secs),
            tick: MS * rng.pick(&[10, 50, 200]),
            rx_frames: rng.pick(&[1, 8, 64, 64]),
            tx_frames: rng.pick(&[1, 4, 64, 256]),
            connection_bytes: rng.pick(&[1, 1000, 64 << 10, 64 << 10]),
            connection_messages: rng.pick(&[1, 16, 256, 256]),
            rx_ring: rng.pick(&[64, 256, 1024]),
            clock_offset: rng.time(Duration::ZERO, SECOND * 100_000),
            link_delay: Duration::from_micros(rng.pick(&[1, 5, 50, 500, 5000])),
            reads_per_second: Rng::new(seed, "slow reader", index as u64)
                .pick(&[None, None, None, Some([2_000_000, 100]), Some([2_000_000, 1000])])
                .filter(|_| is_server),
            drain_at: (!is_server && rng.chance(0.03)).then(|| rng.time(horizon / 2, horizon)),
        }
    }
}

/// Any window, with and without takeover, whatever the other side likes.
fn draw_deflate(rng: &mut Rng) -> DeflateConfig {
    let bits = |rng: &mut Rng| rng.range(WINDOW_BITS_MIN.into(), WINDOW_BITS_MAX.into()) as u8;
    DeflateConfig {
        level: rng.pick(&[1, 1, 6, 9]),
        threshold_bytes: rng.pick(&[0, 64, 256]),
        send_takeover: rng.chance(0.5),
        receive_takeover: rng.chance(0.5),
        send_window_bits: bits(rng),
        receive_window_bits: bits(rng),
    }
}

impl ConnPlan {
    fn draw(seed: u64, index: usize, servers: usize, clients: usize, horizon: Duration, heavy: bool) -> Self {
        let mut rng = Rng::new(seed, "connection", index as u64);
        let code = |rng: &mut Rng| rng.pick(&[1000, 1000, 1001, 1003, 1005, 1011, 3000, 3999, 4999]);
        let bytes_max = if heavy {
            rng.pick(&[70_000, 300_000, 1_000_000])
        } else {
            rng.pick(&[0, 10, 125, 126, 1_000, 1_000, 5_000, 20_000, 70_000])
        };
        let messages_max = match bytes_max {
            ..=5_000 => rng.pick(&[1, 10, 40, 200]),
            _ if heavy => 6,
            _ => 25,
        };
        let messages = rng.range(0, messages_max);
        let serving = match rng.below(20) {
            0 => Serving::Refuse { status: rng.pick(&[401, 403, 404, 503]) },
            1..=2 => Serving::Sink,
            3..=6 => Serving::Push { count: rng.range(1, 100) },
            7 => Serving::CloseAfter { count: rng.range(0, messages), code: code(&mut rng) },
            _ => Serving::Echo,
        };
        let ending = match rng.below(10) {
            0..=4 => Ending::Client { code: code(&mut rng) },
            5..=7 => Ending::Server { code: code(&mut rng) },
            _ => Ending::Both { codes: [code(&mut rng), code(&mut rng)] },
        };
        ConnPlan {
            client: servers + rng.size(0, clients - 1),
            server: rng.size(0, servers - 1),
            start: rng.time(Duration::ZERO, horizon * 7 / 10),
            serving,
            messages,
            bytes_max,
            window: rng.pick(&[1, 1, 4, 32, 1000]),
            text: rng.pick(&[0.0, 0.5, 1.0]),
            fragmented: rng.pick(&[0.0, 0.0, 0.2, 0.9]),
            pings: rng.pick(&[0.0, 0.05, 0.3]),
            greedy: rng.chance(0.3),
            pause: if rng.chance(0.2) { rng.time(MS, horizon / 2) } else { Duration::ZERO },
            ending,
            topic: rng.chance(0.2).then(|| rng.below(2) as u8),
            tls: rng.chance(0.6),
            compress: rng.pick(&[[0.0, 0.0], [0.0, 0.0], [0.3, 0.3], [1.0, 0.0]]),
        }
    }
}

impl Fault {
    fn draw(seed: u64, index: usize, hosts: usize, gentle: bool, routed: bool, horizon: Duration) -> Self {
        let mut rng = Rng::new(seed, "fault", index as u64);
        let harsh = !gentle;
        let rate = if harsh { rng.pick(&[0.01, 0.05, 0.2, 0.5]) } else { rng.pick(&[0.001, 0.01, 0.03]) };
        let mut host = if rng.chance(0.4) { None } else { Some(rng.size(0, hosts - 1)) };
        let from = rng.time(Duration::ZERO, horizon * 3 / 4);
        let longest = if harsh { horizon - from } else { (horizon - from).min(SECOND * 20) };
        let mut until = from + rng.time(MS, longest.max(MS * 2));
        let kind = match rng.below(if harsh { 21 } else { 17 }) {
            0..=2 => FaultKind::Loss { rate },
            3 => FaultKind::Duplication { rate },
            4..=5 => FaultKind::Reordering { rate, by: rng.time(MS, MS * 30) },
            6 => FaultKind::BitFlips { rate },
            7 => FaultKind::ByteChanges { rate },
            8 => FaultKind::Delay { delay: rng.time(MS, MS * 80), jitter: rng.time(Duration::ZERO, MS * 20) },
            9 => FaultKind::Bandwidth {
                bytes_per_second: rng.pick(&[100_000, 1_000_000, 10_000_000]),
                queue: MS * rng.pick(&[20, 100, 400]),
            },
            10 => {
                until = until.min(from + SECOND * 8);
                let mtu = if routed { rng.pick(&[1000, 1280, 1400]) } else { rng.pick(&[600, 1000, 1280]) };
                FaultKind::Mtu { mtu }
            }
            11 => {
                until = until.min(from + if harsh { horizon } else { SECOND * 8 });
                FaultKind::Partition
            }
            12 => FaultKind::Flapping { up: rng.time(MS * 50, SECOND), down: rng.time(MS, MS * 400) },
            13 => FaultKind::TxRoom { frames: rng.size(1, 8), every: rng.time(MS / 20, MS * 2) },
            14 => {
                until = until.min(from + SECOND * 2);
                FaultKind::NoBuffers
            }
            15 => FaultKind::OneFrameBursts,
            16 => FaultKind::RandomBursts,
            17 => FaultKind::Freeze,
            18..=19 => FaultKind::Crash,
            _ => FaultKind::ClockJump { by: rng.time(MS, SECOND * 100) },
        };
        let of_one_host = matches!(
            kind,
            FaultKind::Freeze | FaultKind::Crash | FaultKind::ClockJump { .. } | FaultKind::TxRoom { .. }
        );
        if of_one_host && host.is_none() {
            host = Some(rng.size(0, hosts - 1));
        }
        Fault { kind, host, from, until: until.min(horizon) }
    }
}

impl Adversary {
    fn draw(seed: u64, index: usize, servers: usize, tls: bool, horizon: Duration) -> Self {
        use AdversaryKind::*;
        let mut rng = Rng::new(seed, "adversary", index as u64);
        let kinds = [SynBurst, Garbage, RandomFlags, HalfHandshake, SlowHead, Overlapping, ResetAndReuse];
        let kind = rng.pick(&kinds);
        let can_have_tls = !matches!(kind, Garbage | Overlapping | ResetAndReuse);
        Adversary {
            tls: tls && can_have_tls && rng.chance(0.4),
            kind,
            server: rng.size(0, servers - 1),
            start: rng.time(Duration::ZERO, horizon / 2),
            count: rng.range(1, 40),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeSet, HashSet};
    use std::mem::{Discriminant, discriminant};

    fn kinds<T>(all: impl Iterator<Item = T>) -> usize {
        all.map(|one| discriminant(&one)).collect::<HashSet<Discriminant<T>>>().len()
    }

    /// A range of seeds that leaves out a kind of anything would say nothing about it.
    #[test]
    fn few_seeds_draw_every_kind_of_everything() {
        let worlds: Vec<Scenario> = (0..300).map(|seed| Scenario::draw(seed, Without::default())).collect();
        assert_eq!(kinds(worlds.iter().flat_map(|world| &world.faults).map(|fault| fault.kind)), 17);
        assert_eq!(kinds(worlds.iter().flat_map(|world| &world.adversaries).map(|one| one.kind)), 7);
        let conns = || worlds.iter().flat_map(|world| &world.conns);
        assert_eq!(kinds(conns().map(|conn| conn.serving)), 5);
        assert_eq!(kinds(conns().map(|conn| conn.ending)), 3);
        let hosts = || worlds.iter().flat_map(|world| &world.hosts);
        assert_eq!(kinds(hosts().map(|host| host.steer)), 3);
        assert_eq!(hosts().map(|host| host.workers).collect::<BTreeSet<_>>(), [1, 2, 3, 4].into());
        let both = |has: &dyn Fn(&Scenario) -> bool| worlds.iter().any(has) && !worlds.iter().all(has);
        assert!(both(&|world| world.gentle) && both(&|world| world.ipv6) && both(&Scenario::has_router));
        assert!(both(&|world| world.conns.iter().any(|conn| conn.tls)));
        assert!(both(&|world| world.conns.iter().any(|conn| conn.topic.is_some())));
        assert!(both(&|world| world.hosts.iter().all(|host| host.deflate.is_some())));
        assert!(both(&|world| world.hosts.iter().any(|host| host.drain_at.is_some())));
        assert!(both(&|world| world.hosts.iter().any(|host| host.reads_per_second.is_some())));
    }
}
