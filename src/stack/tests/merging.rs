//! Received segments that become one, and that nobody can tell.

use super::host::{Host, Raw, config, plain_port, segments};
use super::segmentation::open_by_hand;
use crate::stack::{ConnId, Status};
use crate::time::{Duration, Instant};
use proptest::prelude::*;
use smoltcp::wire::TcpControl;

/// The first sequence number of the peer's data.
const START: u32 = 100;
const MSS: usize = 1460;

/// A host with a connection that the test has the other end of: our sequence number, and the connection.
struct World {
    host: Host,
    ours: u32,
    id: ConnId,
    now: Instant,
}

impl World {
    fn new() -> World {
        let mut host = Host::on_port(plain_port(2), &config(&["10.0.0.2/24"]));
        let (ours, id) = open_by_hand(&mut host, 1_000);
        World { host, ours, id, now: Instant::from_millis(2) }
    }

    /// A segment of the peer's stream `data`.
    fn segment<'a>(&self, data: &'a [u8], from: usize, to: usize, push: bool) -> Raw<'a> {
        Raw {
            control: if push { TcpControl::Psh } else { TcpControl::None },
            seq: START + from as u32,
            ack: Some(self.ours),
            window: 1_000,
            payload: &data[from..to],
            ..Raw::syn(5000, 0)
        }
    }

    /// The frames of a stream in whole segments, the last of them pushed.
    fn stream(&self, data: &[u8]) -> Vec<Vec<u8>> {
        let ends = (0..data.len()).step_by(MSS).map(|start| (start, (start + MSS).min(data.len())));
        ends.map(|(start, end)| self.segment(data, start, end, end == data.len()).frame()).collect()
    }

    /// A burst, a millisecond later: the acknowledgements that it brings.
    fn burst(&mut self, frames: &[Vec<u8>]) -> Vec<u32> {
        self.now += Duration::from_millis(1);
        let sent = segments(&self.host.burst(self.now, frames));
        assert!(sent.iter().all(|segment| !segment.rst));
        sent.iter().map(|segment| segment.ack.wrapping_sub(START)).collect()
    }

    fn merged(&self) -> u64 {
        self.host.stack.stats().rx_merged
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i ^ (i >> 8)) as u8).collect()
}

#[test]
fn segments_of_a_burst_become_one() {
    let mut world = World::new();
    let data = pattern(16_400);
    let before = world.host.stack.stats().rx_segments;
    let acks = world.burst(&world.stream(&data));
    assert_eq!(world.host.receive(world.id), data);
    assert_eq!(acks, [16_400], "acknowledged at once");
    assert_eq!(world.merged(), 1);
    assert_eq!(world.host.stack.stats().rx_segments - before, 12, "each counts as it came");
}

#[test]
fn two_segments_are_acknowledged_at_once() {
    // RFC 9293 section 3.8.6.3: at least every second full-sized one is.
    let mut world = World::new();
    assert_eq!(world.burst(&world.stream(&pattern(2 * MSS))), [2 * MSS as u32]);
    let mut world = World::new();
    assert_eq!(world.burst(&world.stream(&pattern(3 * MSS))), [3 * MSS as u32]);
}

#[test]
fn streams_that_alternate_stay_apart() {
    let mut world = World::new();
    let data = pattern(10 * MSS);
    let other = Raw { ..Raw::syn(5001, 99) };
    let answer = segments(&world.host.burst(Instant::from_millis(3), &[other.frame()]));
    let theirs = answer[0].seq.wrapping_add(1);
    let ack = Raw { control: TcpControl::None, seq: START, ack: Some(theirs), ..Raw::syn(5001, 0) };
    world.host.burst(Instant::from_millis(4), &[ack.frame()]);
    let second = world.host.ready[world.host.ready.len() - 1];
    world.now = Instant::from_millis(4);
    let mine = world.stream(&data);
    let reversed: Vec<u8> = data.iter().rev().copied().collect();
    let others = (0..10).map(|n| {
        let payload = &reversed[n * MSS..][..MSS];
        Raw { seq: START + (n * MSS) as u32, payload, ..ack.clone() }.frame()
    });
    let alternating: Vec<Vec<u8>> = mine.into_iter().zip(others).flat_map(|(a, b)| [a, b]).collect();
    world.burst(&alternating);
    assert_eq!(world.host.receive(world.id), data);
    assert_eq!(world.host.receive(second), reversed);
    assert_eq!(world.merged(), 0);
}

#[test]
fn what_is_no_plain_segment_comes_after_what_came_before_it() {
    let data = pattern(6 * MSS);
    // A FIN with the last bytes, the same in a segment by itself, and data that acknowledges something else.
    for control in [TcpControl::Fin, TcpControl::Psh] {
        let mut world = World::new();
        let mut frames = world.stream(&data[..5 * MSS]);
        frames.push(Raw { control, ..world.segment(&data, 5 * MSS, 6 * MSS, false) }.frame());
        let acks = world.burst(&frames);
        let fin = u32::from(control == TcpControl::Fin);
        assert_eq!(acks.last(), Some(&(6 * MSS as u32 + fin)));
        assert_eq!(world.host.receive(world.id), data);
        let status = if fin == 1 { Status::PeerFinished } else { Status::Open };
        assert_eq!((world.host.stack.status(world.id), world.merged()), (Some(status), 1));
    }
    let mut world = World::new();
    world.host.send(world.id, b"hello");
    world.burst(&[]);
    let mut frames = world.stream(&data[..3 * MSS]);
    let later = world.segment(&data, 3 * MSS, 6 * MSS - 2 * MSS, false);
    frames.push(Raw { ack: Some(world.ours.wrapping_add(5)), ..later }.frame());
    world.burst(&frames);
    assert_eq!(world.host.receive(world.id), data[..4 * MSS]);
    assert_eq!(
        world.host.stack.sender(world.id).map(|half| half.queued_bytes()),
        Some(0),
        "it is acknowledged"
    );
}

#[test]
fn a_reset_behind_data_leaves_the_data() {
    let mut world = World::new();
    let data = pattern(4 * MSS);
    let mut frames = world.stream(&data);
    let end = world.segment(&data, 4 * MSS, 4 * MSS, false);
    frames.push(Raw { control: TcpControl::Rst, ..end }.frame());
    world.now += Duration::from_millis(1);
    world.host.burst(world.now, &frames);
    assert_eq!(world.host.receive(world.id), data);
    assert!(matches!(world.host.stack.status(world.id), Some(Status::Closed(_))));
}

#[test]
fn what_does_not_fit_the_ring_is_not_taken() {
    let mut world = World::new();
    let ring = config(&[]).tcp.recv_buffer_bytes;
    let data = pattern(ring + 10 * MSS);
    let acks = world.burst(&world.stream(&data));
    assert_eq!(acks.last(), Some(&(ring as u32)));
    let mut received = world.host.receive(world.id);
    assert!(received == data[..ring], "{} bytes", received.len());
    assert_eq!(world.burst(&[]), [ring as u32], "the window opens");
    // The rest comes again.
    let rest: Vec<_> = (ring..data.len())
        .step_by(MSS)
        .map(|start| world.segment(&data, start, (start + MSS).min(data.len()), false).frame())
        .collect();
    world.burst(&rest);
    received.extend(world.host.receive(world.id));
    assert!(received == data, "{} bytes", received.len());
}

#[test]
fn a_damaged_segment_breaks_the_run() {
    let mut world = World::new();
    let data = pattern(9 * MSS);
    let mut frames = world.stream(&data);
    let last = frames[4].len() - 1;
    frames[4][last] ^= 1;
    world.burst(&frames);
    assert_eq!(world.host.receive(world.id), data[..4 * MSS]);
    world.burst(&[world.segment(&data, 4 * MSS, 5 * MSS, false).frame()]);
    assert_eq!(world.host.receive(world.id), data[4 * MSS..], "what came early was kept");
    assert_eq!(world.host.stack.stats().rx_bad_checksum, 1);
}

proptest! {
    /// Any segments of a stream in any order, some of them never, some again, some pushed, in bursts of any length: the same
    /// as when each is fed by itself.
    #[test]
    fn nobody_can_tell(
        lengths in prop::collection::vec((1_usize..=MSS, any::<bool>()), 1..40),
        moves in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0_u8..6), 0..12),
        bursts in prop::collection::vec(1_usize..20, 1..20),
    ) {
        let (mut merging, mut plain) = (World::new(), World::new());
        plain.host.merges = false;
        let data = pattern(lengths.iter().map(|(length, _)| length).sum());
        let mut at = 0;
        let mut frames = Vec::new();
        for (length, push) in lengths {
            frames.push(merging.segment(&data, at, at + length, push).frame());
            at += length;
        }
        prop_assert_eq!(merging.ours, plain.ours);
        for (from, to, what) in moves {
            let (from, to) = (from.index(frames.len()), to.index(frames.len()));
            match what {
                0 if frames.len() > 1 => drop(frames.remove(from)),
                1 | 2 => frames.insert(to, frames[from].clone()),
                _ => frames.swap(from, to),
            }
        }
        let mut rest = &frames[..];
        for length in bursts.into_iter().cycle() {
            let (burst, others) = rest.split_at(length.min(rest.len()));
            rest = others;
            let (merged, single) = (merging.burst(burst), plain.burst(burst));
            prop_assert_eq!(merged.last().is_some(), single.last().is_some());
            prop_assert_eq!(merged.last(), single.last());
            prop_assert_eq!(merging.host.receive(merging.id), plain.host.receive(plain.id));
            if rest.is_empty() {
                break;
            }
        }
        merging.now += Duration::from_secs(1);
        plain.now = merging.now;
        prop_assert_eq!(merging.burst(&[]), plain.burst(&[]));
        let counted = [&merging, &plain].map(|world| world.host.stack.stats().rx_segments);
        prop_assert_eq!(counted[0], counted[1]);
    }
}
