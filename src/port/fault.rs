//! A port with a bad medium: loss, duplication, reordering, corruption and delay, each direction for itself.
//!
//! Every choice comes from a seeded generator, and time from [`Port::begin`]: the same seed, frames and times give the same
//! faults. What is sent passes in this order, and what is received likewise:
//!
//! loss, corruption, duplication, reordering, delay.
//!
//! # Frames
//!
//! The wrapper holds back at most [`Faults::held_frames_max`] frames of each direction, and at most 16 more that wait
//! to be overtaken; those frames are the inner port's. When it would have to hold more, it drops, as a full router does.

use super::{Frame, Port, PortInfo, PortStats};
use crate::port::ETHERNET_HEADER_BYTES;
use crate::time::{Duration, Instant};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};
use std::os::fd::BorrowedFd;

/// Frames that wait to be overtaken, in one direction; further ones go straight on.
const OVERTAKEN_MAX: usize = 16;

/// The faults of one direction. Rates are probabilities per frame, 0 to 1. The default is a perfect medium.
#[derive(Clone, Debug, PartialEq)]
pub struct Faults {
    /// Frames that vanish.
    pub loss: f64,
    /// Frames that have one bit flipped. Only IP packets have: nothing protects the others (ARP, Ethernet headers).
    pub corruption: f64,
    /// Frames that arrive twice.
    pub duplication: f64,
    /// Frames that are overtaken by later ones.
    pub reordering: f64,
    /// Most frames that overtake a reordered one: 1..=64.
    pub overtaken_by_max: u32,
    /// How long a reordered frame waits for frames to overtake it.
    pub overtaken_after: Duration,
    /// How long every frame takes.
    pub delay: Duration,
    /// How much longer it takes at most; evenly distributed, so that frames may overtake each other.
    pub jitter: Duration,
    /// Frames under way at most because of `delay` and `jitter`; what is above that is dropped: 1..=65536.
    pub held_frames_max: usize,
}

impl Default for Faults {
    fn default() -> Self {
        Faults {
            loss: 0.0,
            corruption: 0.0,
            duplication: 0.0,
            reordering: 0.0,
            overtaken_by_max: 4,
            overtaken_after: Duration::from_millis(1),
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            held_frames_max: 512,
        }
    }
}

/// The faults of both directions, and the seed of every choice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FaultConfig {
    /// What the random choices come from.
    pub seed: u64,
    /// What happens to frames that are received.
    pub rx: Faults,
    /// What happens to frames that are sent.
    pub tx: Faults,
}

/// Why faults could not be put on a port.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultError {
    /// A rate is no probability.
    #[error("the fault rate `{direction}.{field}` must be 0 to 1, not {value}")]
    Rate {
        /// `rx` or `tx`.
        direction: &'static str,
        /// Which rate.
        field: &'static str,
        /// What it was.
        value: f64,
    },
    /// A count is out of range.
    #[error("the fault setting `{direction}.{field}` must be 1 to {max}, not {value}")]
    Count {
        /// `rx` or `tx`.
        direction: &'static str,
        /// Which count.
        field: &'static str,
        /// What it was.
        value: usize,
        /// The most it can be.
        max: usize,
    },
    /// Corrupted frames would be taken for good ones.
    #[error(
        "`{port}` leaves checksums out, so corruption would go unnoticed: switch its checksum offload off first"
    )]
    CorruptionUnnoticed {
        /// The port.
        port: String,
    },
}

/// What became of the frames of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Frames that came in.
    pub seen: u64,
    /// Frames lost by chance.
    pub lost: u64,
    /// Frames with a bit flipped.
    pub corrupted: u64,
    /// Frames sent on twice.
    pub duplicated: u64,
    /// Frames held until others overtook them.
    pub reordered: u64,
    /// Frames held for their delay.
    pub delayed: u64,
    /// Frames dropped because too many were under way.
    pub overflowed: u64,
}

/// Counters of both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultStats {
    /// Received frames.
    pub rx: FaultCounts,
    /// Sent frames.
    pub tx: FaultCounts,
}

/// A port with a bad medium around it.
pub struct FaultPort<P: Port> {
    inner: P,
    /// The inner port's, without segmentation offload: every fault befalls one segment.
    info: PortInfo,
    now: Instant,
    rx: Medium<P::Frame>,
    tx: Medium<P::Frame>,
    /// What the inner port has just received.
    received: VecDeque<P::Frame>,
}

impl<P: Port> FaultPort<P> {
    /// Puts faults on a port.
    ///
    /// # Errors
    /// See [`FaultError`].
    pub fn new(inner: P, config: &FaultConfig) -> Result<Self, FaultError> {
        for (direction, faults) in [("rx", &config.rx), ("tx", &config.tx)] {
            faults.validate(direction)?;
        }
        let info = inner.info();
        if (config.rx.corruption > 0.0 || config.tx.corruption > 0.0)
            && (info.tx_checksum_offload || info.rx_checksum_trusted)
        {
            return Err(FaultError::CorruptionUnnoticed { port: info.name.clone() });
        }
        let info = PortInfo { tso_frame_bytes_max: None, ..info.clone() };
        Ok(FaultPort {
            inner,
            info,
            now: Instant::ZERO,
            rx: Medium::new(&config.rx, config.seed, 0),
            tx: Medium::new(&config.tx, config.seed, 1),
            received: VecDeque::new(),
        })
    }

    /// What became of the frames.
    pub fn faults(&self) -> FaultStats {
        FaultStats { rx: self.rx.counts, tx: self.tx.counts }
    }

    /// The inner port, with every frame that was under way given back to it.
    pub fn into_inner(mut self) -> P {
        for medium in [&mut self.rx, &mut self.tx] {
            medium.drain().for_each(|frame| self.inner.release(frame));
        }
        self.inner
    }

    /// Sends what has come through the medium; `false` when the device does not take all of it.
    fn flush(&mut self) -> bool {
        if !self.tx.through.is_empty() {
            self.inner.tx_burst(&mut self.tx.through);
        }
        self.tx.through.is_empty()
    }
}

impl<P: Port> Port for FaultPort<P> {
    type Frame = P::Frame;

    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn begin(&mut self, now: Instant) {
        self.inner.begin(now);
        self.now = now;
        self.rx.pass_due(now);
        self.tx.pass_due(now);
        self.flush();
    }

    fn next_deadline(&self) -> Option<Instant> {
        let retry = (!self.tx.through.is_empty()).then_some(self.now);
        [retry, self.rx.next_due(), self.tx.next_due(), self.inner.next_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    fn rx_burst(&mut self, burst: &mut VecDeque<P::Frame>, max: usize) -> usize {
        if self.rx.is_perfect {
            return self.inner.rx_burst(burst, max);
        }
        let wanted = max.saturating_sub(self.rx.through.len());
        self.inner.rx_burst(&mut self.received, wanted);
        for frame in self.received.drain(..) {
            self.rx.carry(frame, self.now, &mut self.inner);
        }
        let count = self.rx.through.len().min(max);
        burst.extend(self.rx.through.drain(..count));
        count
    }

    fn alloc(&mut self) -> Option<P::Frame> {
        self.inner.alloc()
    }

    fn tx_burst(&mut self, burst: &mut VecDeque<P::Frame>) -> usize {
        if self.tx.is_perfect {
            return self.inner.tx_burst(burst);
        }
        if !self.flush() {
            return 0;
        }
        let count = burst.len();
        for frame in burst.drain(..) {
            self.tx.carry(frame, self.now, &mut self.inner);
        }
        self.flush();
        count
    }

    fn release(&mut self, frame: P::Frame) {
        self.inner.release(frame);
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.wait_fd()
    }

    fn prepare_sleep(&mut self) -> bool {
        self.rx.through.is_empty() && self.inner.prepare_sleep()
    }

    fn poll_interval(&self) -> Duration {
        self.inner.poll_interval()
    }

    fn is_alive(&self) -> bool {
        self.inner.is_alive()
    }

    fn stats(&self) -> PortStats {
        self.inner.stats()
    }
}

impl Faults {
    fn validate(&self, direction: &'static str) -> Result<(), FaultError> {
        let rates = [
            ("loss", self.loss),
            ("corruption", self.corruption),
            ("duplication", self.duplication),
            ("reordering", self.reordering),
        ];
        if let Some((field, value)) = rates.into_iter().find(|(_, rate)| !(0.0..=1.0).contains(rate)) {
            return Err(FaultError::Rate { direction, field, value });
        }
        let counts = [
            ("overtaken_by_max", self.overtaken_by_max as usize, 64),
            ("held_frames_max", self.held_frames_max, 65_536),
        ];
        match counts.into_iter().find(|(_, value, max)| !(1..=*max).contains(value)) {
            Some((field, value, max)) => Err(FaultError::Count { direction, field, value, max }),
            None => Ok(()),
        }
    }

    fn are_none(&self) -> bool {
        let rates = [self.loss, self.corruption, self.duplication, self.reordering];
        rates == [0.0; 4] && self.delay.is_zero() && self.jitter.is_zero()
    }
}

/// One direction: the frames under way.
struct Medium<F> {
    faults: Faults,
    is_perfect: bool,
    random: ChaCha8Rng,
    /// Frames waiting to be overtaken.
    overtaken: Vec<Overtaken<F>>,
    /// Frames waiting for their time.
    delayed: BinaryHeap<Reverse<Delayed<F>>>,
    /// Frames delayed so far: those with the same time keep their order.
    sequence: u64,
    /// Frames at the far end.
    through: VecDeque<F>,
    counts: FaultCounts,
}

struct Overtaken<F> {
    frame: F,
    /// Frames that are still to pass first.
    by: u32,
    /// When it goes on even so.
    due: Instant,
}

struct Delayed<F> {
    due: Instant,
    sequence: u64,
    frame: F,
}

impl<F: Frame> Medium<F> {
    fn new(faults: &Faults, seed: u64, direction: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(direction);
        Medium {
            faults: faults.clone(),
            is_perfect: faults.are_none(),
            random,
            overtaken: Vec::with_capacity(OVERTAKEN_MAX),
            delayed: BinaryHeap::with_capacity(if faults.are_none() { 0 } else { faults.held_frames_max }),
            sequence: 0,
            through: VecDeque::new(),
            counts: FaultCounts::default(),
        }
    }

    /// Takes a frame in. What becomes of it appears in `through`, at once or later.
    fn carry<P: Port<Frame = F>>(&mut self, mut frame: F, now: Instant, port: &mut P) {
        self.counts.seen += 1;
        if self.chance(self.faults.loss) {
            self.counts.lost += 1;
            port.release(frame);
            return;
        }
        if self.chance(self.faults.corruption) {
            self.corrupt(frame.bytes_mut());
        }
        let twin = if self.chance(self.faults.duplication) { copy(&frame, port) } else { None };
        if self.overtaken.len() < OVERTAKEN_MAX && self.chance(self.faults.reordering) {
            self.counts.reordered += 1;
            let by = 1 + self.random.next_u32() % self.faults.overtaken_by_max;
            self.overtaken.push(Overtaken { frame, by, due: now + self.faults.overtaken_after });
        } else {
            self.pass(frame, now, port);
        }
        if let Some(twin) = twin {
            self.counts.duplicated += 1;
            self.pass(twin, now, port);
        }
    }

    /// A frame that overtakes those waiting for it.
    fn pass<P: Port<Frame = F>>(&mut self, frame: F, now: Instant, port: &mut P) {
        self.delay(frame, now).into_iter().for_each(|frame| port.release(frame));
        self.overtaken.iter_mut().for_each(|waiting| waiting.by = waiting.by.saturating_sub(1));
        while let Some(at) = self.overtaken.iter().position(|waiting| waiting.by == 0) {
            let frame = self.overtaken.remove(at).frame;
            self.delay(frame, now).into_iter().for_each(|frame| port.release(frame));
        }
    }

    /// Gives the frame its time; returns it when too many are under way.
    fn delay(&mut self, frame: F, now: Instant) -> Option<F> {
        let jitter_nanos = u64::try_from(self.faults.jitter.as_nanos()).unwrap_or(u64::MAX);
        let jitter = match jitter_nanos {
            0 => Duration::ZERO,
            most => Duration::from_nanos(self.random.next_u64() % most.saturating_add(1)),
        };
        let delay = self.faults.delay.saturating_add(jitter);
        if delay.is_zero() && self.delayed.is_empty() {
            self.through.push_back(frame);
            return None;
        }
        if self.delayed.len() >= self.faults.held_frames_max {
            self.counts.overflowed += 1;
            return Some(frame);
        }
        self.counts.delayed += 1;
        self.sequence += 1;
        self.delayed.push(Reverse(Delayed { due: now + delay, sequence: self.sequence, frame }));
        None
    }

    /// Lets through what is due.
    fn pass_due(&mut self, now: Instant) {
        while let Some(at) = self.overtaken.iter().position(|waiting| waiting.due <= now) {
            // It has waited long enough: no delay on top.
            self.through.push_back(self.overtaken.remove(at).frame);
        }
        while self.delayed.peek().is_some_and(|Reverse(first)| first.due <= now) {
            self.through.extend(self.delayed.pop().map(|Reverse(first)| first.frame));
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let delayed = self.delayed.peek().map(|Reverse(first)| first.due);
        self.overtaken.iter().map(|waiting| waiting.due).chain(delayed).min()
    }

    fn drain(&mut self) -> impl Iterator<Item = F> {
        let overtaken = self.overtaken.drain(..).map(|waiting| waiting.frame);
        let delayed = self.delayed.drain().map(|Reverse(waiting)| waiting.frame);
        overtaken.chain(delayed).chain(self.through.drain(..))
    }

    /// Flips one bit behind the Ethernet header of an IP packet.
    fn corrupt(&mut self, bytes: &mut [u8]) {
        let is_ip = matches!(bytes.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd]));
        let (Some(packet), true) = (bytes.get_mut(ETHERNET_HEADER_BYTES..), is_ip) else { return };
        if packet.is_empty() {
            return;
        }
        let bit = self.random.next_u64() as usize % (packet.len() * 8);
        packet[bit / 8] ^= 1 << (bit % 8);
        self.counts.corrupted += 1;
    }

    fn chance(&mut self, rate: f64) -> bool {
        rate > 0.0 && f64::from(self.random.next_u32()) < rate * (f64::from(u32::MAX) + 1.0)
    }
}

/// A second frame with the same bytes; `None` when the port has none to spare, or none that is large enough.
fn copy<P: Port>(frame: &P::Frame, port: &mut P) -> Option<P::Frame> {
    let bytes = frame.bytes();
    if bytes.len() > port.info().mtu + ETHERNET_HEADER_BYTES {
        return None;
    }
    let mut twin = port.alloc()?;
    twin.set_len(bytes.len());
    twin.bytes_mut().copy_from_slice(bytes);
    Some(twin)
}

impl<F> Ord for Delayed<F> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.due, self.sequence).cmp(&(other.due, other.sequence))
    }
}

impl<F> PartialOrd for Delayed<F> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<F> PartialEq for Delayed<F> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<F> Eq for Delayed<F> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::wire::{WireConfig, WirePort, pair};
    use proptest::prelude::*;

    const HELD: usize = 700;

    fn wire(ring_frames: usize) -> (WirePort, WirePort) {
        let config =
            WireConfig { ring_frames, held_frames: HELD, checksum_offload: false, ..WireConfig::default() };
        pair(&config).unwrap()
    }

    /// An IPv4 frame with a number in it.
    fn frame<P: Port>(port: &mut P, number: u32) -> P::Frame {
        let mut frame = port.alloc().expect("a free frame");
        frame.set_len(64);
        frame.bytes_mut().fill(0);
        frame.bytes_mut()[12] = 0x08;
        frame.bytes_mut()[60..].copy_from_slice(&number.to_be_bytes());
        frame
    }

    fn number(frame: &impl Frame) -> u32 {
        u32::from_be_bytes(frame.bytes()[60..].try_into().unwrap())
    }

    fn receive<P: Port>(port: &mut P) -> Vec<u32> {
        let mut burst = VecDeque::new();
        while port.rx_burst(&mut burst, 64) > 0 {}
        let numbers = burst.iter().map(number).collect();
        burst.drain(..).for_each(|frame| port.release(frame));
        numbers
    }

    /// Sends `count` numbered frames through the faults, one per microsecond, then lets a second pass.
    fn send_through(tx: Faults, seed: u64, count: u32) -> (Vec<u32>, FaultCounts) {
        let (a, mut b) = wire(1024);
        let mut port = FaultPort::new(a, &FaultConfig { seed, tx, ..FaultConfig::default() }).unwrap();
        let mut received = Vec::new();
        for i in 0..count {
            port.begin(Instant::from_micros(u64::from(i)));
            let mut burst = VecDeque::from([frame(&mut port, i)]);
            assert_eq!(port.tx_burst(&mut burst), 1);
            received.extend(receive(&mut b));
        }
        port.begin(Instant::from_millis(60_000));
        received.extend(receive(&mut b));
        assert_eq!(port.next_deadline(), None, "nothing is under way any more");
        assert_eq!(port.faults().rx, FaultCounts::default());
        let counts = port.faults().tx;
        assert_eq!(u64::from(count), counts.seen);
        let accounted = counts.seen - counts.lost - counts.overflowed + counts.duplicated;
        assert_eq!(received.len() as u64, accounted, "every frame is counted");
        (received, counts)
    }

    fn about(rate: f64, of: u64, is: u64) -> bool {
        let expected = rate * of as f64;
        (is as f64 - expected).abs() < 6.0 * expected.sqrt().max(1.0)
    }

    #[test]
    fn loss_removes_its_share_and_nothing_else() {
        let (received, counts) = send_through(Faults { loss: 0.1, ..Faults::default() }, 1, 10_000);
        assert!(about(0.1, 10_000, counts.lost), "{counts:?}");
        assert!(received.is_sorted());
        let (received, counts) = send_through(Faults { loss: 1.0, ..Faults::default() }, 1, 100);
        assert_eq!((received.len(), counts.lost), (0, 100));
    }

    #[test]
    fn a_duplicate_follows_its_frame() {
        let (received, counts) = send_through(Faults { duplication: 0.2, ..Faults::default() }, 2, 10_000);
        assert!(about(0.2, 10_000, counts.duplicated), "{counts:?}");
        assert!(received.is_sorted());
        let twice = received.windows(2).filter(|pair| pair[0] == pair[1]).count();
        assert_eq!(twice as u64, counts.duplicated);
    }

    #[test]
    fn a_reordered_frame_is_overtaken_by_as_many_as_asked() {
        let faults = Faults { reordering: 0.05, overtaken_by_max: 3, ..Faults::default() };
        let (mut received, counts) = send_through(faults, 3, 10_000);
        assert!(about(0.05, 10_000, counts.reordered), "{counts:?}");
        assert!(!received.is_sorted());
        let mut highest = 0;
        for &number in &received {
            // 3 that pass it, and those that wait with it.
            assert!(highest <= number + 3 + OVERTAKEN_MAX as u32);
            highest = highest.max(number);
        }
        received.sort_unstable();
        assert!(received.into_iter().eq(0..10_000), "reordering loses nothing");
    }

    #[test]
    fn the_last_frame_does_not_wait_for_ever_to_be_overtaken() {
        let (a, mut b) = wire(64);
        let tx = Faults { reordering: 1.0, overtaken_after: Duration::from_millis(3), ..Faults::default() };
        let mut port = FaultPort::new(a, &FaultConfig { tx, ..FaultConfig::default() }).unwrap();
        port.begin(Instant::from_millis(10));
        let mut burst = VecDeque::from([frame(&mut port, 7)]);
        port.tx_burst(&mut burst);
        assert!(receive(&mut b).is_empty());
        assert_eq!(port.next_deadline(), Some(Instant::from_millis(13)));
        port.begin(Instant::from_millis(13));
        assert_eq!(receive(&mut b), [7]);
    }

    #[test]
    fn corruption_flips_one_bit_of_an_ip_packet() {
        let (a, mut b) = wire(1024);
        let tx = Faults { corruption: 1.0, ..Faults::default() };
        let mut port = FaultPort::new(a, &FaultConfig { tx, ..FaultConfig::default() }).unwrap();
        let clean = frame(&mut port, 0).bytes().to_vec();
        let mut burst: VecDeque<_> = (0..500).map(|_| frame(&mut port, 0)).collect();
        let mut arp = frame(&mut port, 0);
        arp.bytes_mut()[13] = 0x06;
        burst.push_back(arp);
        port.tx_burst(&mut burst);
        b.rx_burst(&mut burst, 1024);
        let arp = burst.pop_back().unwrap();
        assert_eq!(arp.bytes()[14..], clean[14..], "nothing would notice a corrupted ARP");
        for frame in &burst {
            let flipped: u32 = frame.bytes().iter().zip(&clean).map(|(a, b)| (a ^ b).count_ones()).sum();
            assert_eq!(flipped, 1);
            assert_eq!(frame.bytes()[..14], clean[..14]);
        }
        assert_eq!(port.faults().tx.corrupted, 500);
    }

    #[test]
    fn delay_keeps_the_order_and_jitter_does_not() {
        let delay = Duration::from_millis(20);
        let (a, mut b) = wire(64);
        let tx = Faults { delay, ..Faults::default() };
        let mut port = FaultPort::new(a, &FaultConfig { tx, ..FaultConfig::default() }).unwrap();
        for i in 0..3 {
            port.begin(Instant::from_millis(u64::from(i)));
            let mut burst = VecDeque::from([frame(&mut port, i)]);
            port.tx_burst(&mut burst);
        }
        assert_eq!(port.next_deadline(), Some(Instant::from_millis(20)));
        port.begin(Instant::from_millis(19));
        assert!(receive(&mut b).is_empty());
        port.begin(Instant::from_millis(21));
        assert_eq!(receive(&mut b), [0, 1]);
        port.begin(Instant::from_millis(22));
        assert_eq!(receive(&mut b), [2]);

        let (received, _) = send_through(Faults { delay, ..Faults::default() }, 4, 400);
        assert!(received.into_iter().eq(0..400));
        let jitter = Duration::from_micros(100);
        let (received, _) = send_through(Faults { delay, jitter, ..Faults::default() }, 4, 400);
        assert!(!received.is_sorted());
    }

    #[test]
    fn what_is_too_much_under_way_is_dropped_and_counted() {
        let faults = Faults { delay: Duration::from_secs(1), held_frames_max: 100, ..Faults::default() };
        let (received, counts) = send_through(faults, 5, 150);
        assert_eq!((received.len(), counts.delayed, counts.overflowed), (100, 100, 50));
    }

    #[test]
    fn the_same_seed_gives_the_same_faults() {
        let faults = Faults {
            loss: 0.05,
            duplication: 0.05,
            reordering: 0.05,
            jitter: Duration::from_micros(10),
            ..Faults::default()
        };
        let run = |seed| send_through(faults.clone(), seed, 2_000);
        assert_eq!(run(6), run(6));
        assert_ne!(run(6).0, run(7).0);
    }

    #[test]
    fn received_frames_suffer_too() {
        let (a, mut b) = wire(1024);
        let rx = Faults { loss: 0.5, delay: Duration::from_millis(1), ..Faults::default() };
        let mut port = FaultPort::new(a, &FaultConfig { rx, ..FaultConfig::default() }).unwrap();
        port.begin(Instant::ZERO);
        let mut burst: VecDeque<_> = (0..400).map(|i| frame(&mut b, i)).collect();
        b.tx_burst(&mut burst);
        while !port.prepare_sleep() {
            assert!(receive(&mut port).is_empty());
        }
        let due = port.next_deadline().expect("frames are under way");
        port.begin(due);
        assert!(!port.prepare_sleep(), "frames have come through");
        let received = receive(&mut port);
        assert!(received.is_sorted() && about(0.5, 400, received.len() as u64));
        assert_eq!(port.faults().tx, FaultCounts::default());
    }

    #[test]
    fn a_device_that_takes_no_more_gets_the_rest_later() {
        let (a, mut b) = wire(4);
        let tx = Faults { loss: 1e-9, ..Faults::default() };
        let mut port = FaultPort::new(a, &FaultConfig { tx, ..FaultConfig::default() }).unwrap();
        let mut burst: VecDeque<_> = (0..6).map(|i| frame(&mut port, i)).collect();
        port.begin(Instant::from_millis(1));
        assert_eq!(port.tx_burst(&mut burst), 6);
        assert_eq!(port.next_deadline(), Some(Instant::from_millis(1)), "it wants to try again");
        burst.push_back(frame(&mut port, 6));
        assert_eq!(port.tx_burst(&mut burst), 0, "the queue in between does not grow");
        assert_eq!(receive(&mut b), [0, 1, 2, 3]);
        port.begin(Instant::from_millis(2));
        assert_eq!(port.tx_burst(&mut burst), 1);
        assert_eq!(receive(&mut b), [4, 5, 6]);
    }

    #[test]
    fn bad_settings_are_named() {
        let refused = |change: fn(&mut FaultConfig), wire_config: &WireConfig| {
            let mut config = FaultConfig::default();
            change(&mut config);
            FaultPort::new(pair(wire_config).unwrap().0, &config).map(|_| ()).unwrap_err().to_string()
        };
        let plain = WireConfig { checksum_offload: false, ..WireConfig::default() };
        assert_eq!(
            refused(|config| config.rx.loss = 1.5, &plain),
            "the fault rate `rx.loss` must be 0 to 1, not 1.5"
        );
        assert_eq!(
            refused(|config| config.tx.duplication = f64::NAN, &plain),
            "the fault rate `tx.duplication` must be 0 to 1, not NaN"
        );
        assert_eq!(
            refused(|config| config.tx.held_frames_max = 0, &plain),
            "the fault setting `tx.held_frames_max` must be 1 to 65536, not 0"
        );
        let message = refused(|config| config.tx.corruption = 0.1, &WireConfig::default());
        assert!(message.contains("corruption would go unnoticed"), "{message}");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Transmit(u32),
        Receive(usize),
        Pass(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<(bool, Step)>> {
        let step = prop_oneof![
            (1u32..20).prop_map(Step::Transmit),
            (1usize..20).prop_map(Step::Receive),
            (1u64..2000).prop_map(Step::Pass),
        ];
        prop::collection::vec((any::<bool>(), step), 1..100)
    }

    /// What an observer of both ends sees.
    fn observe<A: Port, B: Port>(a: &mut A, b: &mut B, steps: &[(bool, Step)]) -> Vec<(usize, Vec<u32>)> {
        fn step<P: Port>(port: &mut P, step: &Step, now: &mut Instant, next: &mut u32) -> (usize, Vec<u32>) {
            let mut burst = VecDeque::new();
            let count = match step {
                Step::Transmit(count) => {
                    burst.extend((*next..*next + count).map(|i| frame(port, i)));
                    *next += count;
                    port.tx_burst(&mut burst)
                }
                Step::Receive(max) => port.rx_burst(&mut burst, *max),
                Step::Pass(micros) => {
                    *now += Duration::from_micros(*micros);
                    port.begin(*now);
                    0
                }
            };
            let numbers = burst.iter().map(number).collect();
            burst.drain(..).for_each(|frame| port.release(frame));
            (count, numbers)
        }
        let (mut now, mut next) = (Instant::ZERO, 0);
        let mut seen = Vec::new();
        for (first, what) in steps {
            seen.push(if *first {
                step(a, what, &mut now, &mut next)
            } else {
                step(b, what, &mut now, &mut next)
            });
        }
        seen
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn without_faults_nobody_can_tell_the_wrapper_is_there(steps in steps(), seed: u64) {
            let (mut a, mut b) = wire(16);
            let bare = observe(&mut a, &mut b, &steps);
            let (a, b) = wire(16);
            let config = FaultConfig { seed, ..FaultConfig::default() };
            let (mut a, mut b) = (FaultPort::new(a, &config).unwrap(), FaultPort::new(b, &config).unwrap());
            prop_assert_eq!(bare, observe(&mut a, &mut b, &steps));
            prop_assert_eq!(a.next_deadline(), None);
            receive(&mut b);
            prop_assert_eq!(a.stats().tx_frames, b.stats().rx_frames);
        }

        #[test]
        fn no_frame_leaks_whatever_the_faults_are(
            steps in steps(),
            seed: u64,
            rates in prop::array::uniform4(0.0..0.5f64),
            delay_us in 0u64..500,
        ) {
            let faults = Faults {
                loss: rates[0],
                corruption: rates[1],
                duplication: rates[2],
                reordering: rates[3],
                delay: Duration::from_micros(delay_us),
                jitter: Duration::from_micros(delay_us / 2),
                held_frames_max: 64,
                ..Faults::default()
            };
            let (a, b) = wire(16);
            let config = FaultConfig { seed, rx: faults.clone(), tx: faults };
            let (mut a, mut b) = (FaultPort::new(a, &config).unwrap(), FaultPort::new(b, &config).unwrap());
            observe(&mut a, &mut b, &steps);
            let (mut a, mut b) = (a.into_inner(), b.into_inner());
            receive(&mut a);
            receive(&mut b);
            // At rest, every frame can be had from one end or the other.
            let all = std::iter::from_fn(|| a.alloc().or_else(|| b.alloc())).count();
            prop_assert_eq!(all, 2 * (16 + 64 + HELD));
        }
    }
}
