//! Two ports joined by memory: both ends live in this process, and no privilege is needed.
//!
//! Each end sends into a bounded lock-free ring that the other end receives from. A burst costs one atomic load
//! and one atomic store, however many frames are in it.
//!
//! # Where the frames are
//!
//! Frames move; they are never copied. An end that releases a received frame keeps it in its own free list and
//! fills it again for its own transmissions, while it is hot in the cache: echo traffic balances itself. One-way
//! traffic does not, so an end counts the frames it owns (free, or held by its caller) and gives the surplus back
//! through a return ring. With `S` frames of stock for each end, `R` slots in a data ring and `T` frames to a
//! return, at every moment
//!
//! * `owned(A) + owned(B) + data(A to B) + data(B to A) + returning(A) + returning(B) = 2 S`: none is lost,
//! * `data <= R` by the ring, and `returning <= 2 S` by the total: a return ring of `2 S` slots is never full,
//!
//! and, after an end has polled and released what it held,
//!
//! * `returning(to it) = 0`, since polling collects it, and
//! * `owned <= S + T - 1`, since releasing returns every `T` that are above `S`.
//!
//! So once `B` has polled and released, `A` owns, or has coming back, all but what lies in `A`'s inbox and what `B` owns:
//! at least `2 S - R - (S + T - 1)` frames. `S = R + T + H`, where `H` is what a caller holds at once
//! ([`WireConfig::held_frames`]), makes that `H + 1`: no pattern of traffic starves an end for longer than
//! until the other end's next poll. And since `2 S > 2 R + 2 H`, the two ends are never starved both at once.
//!
//! # Sleeping
//!
//! An end that wants to sleep raises a flag, fences, and looks into its ring once more ([`Port::prepare_sleep`]). A
//! sender fills the ring, fences, and looks at the flag. Whichever fence comes first in their one total order, the end
//! behind the other one sees the other's store: the sleeper finds the frame, or the sender finds the flag and
//! rings the doorbell (an eventfd). While nobody sleeps there is no system call.

use super::{Frame, MTU_MAX, MTU_MIN, Port, PortInfo, PortStats, RxChecksum};
use crate::port::ETHERNET_HEADER_BYTES;
use crossbeam_utils::CachePadded;
use rtrb::{Consumer, Producer, RingBuffer};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Surplus frames go back to the peer this many at a time (`T` above).
const RETURN_BATCH: usize = 64;

/// How a wire is set up. The default is an Ethernet MTU, 1,024 slots each way, and no checksums.
#[derive(Clone, Debug)]
pub struct WireConfig {
    /// Largest IP packet in bytes: 576..=9000.
    pub mtu: usize,
    /// Frames that each direction holds at most: 1..=65536.
    pub ring_frames: usize,
    /// Frames that the owner of an end may hold at once (received, spare and unsent) before it can slow down the
    /// other end: 1..=65536.
    pub held_frames: usize,
    /// Neither end fills in or verifies checksums: memory does not corrupt frames. `false` makes both stacks
    /// compute and verify them in software, as a wrapper that corrupts frames needs.
    pub checksum_offload: bool,
    /// The MAC addresses of the two ends. The default ones are locally administered.
    pub macs: [[u8; 6]; 2],
}

impl Default for WireConfig {
    fn default() -> Self {
        WireConfig {
            mtu: 1500,
            ring_frames: 1024,
            held_frames: 960,
            checksum_offload: true,
            macs: [[0x02, 0, 0, 0, 0, 0x01], [0x02, 0, 0, 0, 0, 0x02]],
        }
    }
}

/// Why a wire could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The MTU is out of range.
    #[error("a wire's MTU must be {MTU_MIN} to {MTU_MAX} bytes, not {0}")]
    Mtu(usize),
    /// A count of frames is out of range.
    #[error("a wire's `{field}` must be 1 to {FRAMES_MAX}, not {value}")]
    Frames {
        /// Which one.
        field: &'static str,
        /// What it was.
        value: usize,
    },
    /// No queue pair was asked for.
    #[error("a wire needs at least one queue")]
    NoQueues,
    /// The kernel gave no eventfd to sleep on.
    #[error("no eventfd for a wire (each end needs one; see `ulimit -n`): {0}")]
    Doorbell(#[source] rustix::io::Errno),
}

/// Most frames in one ring, and most held.
const FRAMES_MAX: usize = 65_536;

/// One wire: its two ends.
///
/// # Errors
/// See [`WireError`]. All memory is taken here: `2 * (ring_frames + held_frames + 64)` frames of `mtu + 14` bytes,
/// which is 6.2 MB by default.
pub fn pair(config: &WireConfig) -> Result<(WirePort, WirePort), WireError> {
    joined(config, ["wire:a".into(), "wire:b".into()])
}

/// A wire of `count` queue pairs: queue `i` of the first device is joined to queue `i` of the second, so each pair of
/// workers has a wire of its own. All queues of one device have its MAC address.
///
/// # Errors
/// See [`WireError`].
pub fn queues(count: usize, config: &WireConfig) -> Result<(Vec<WirePort>, Vec<WirePort>), WireError> {
    if count == 0 {
        return Err(WireError::NoQueues);
    }
    let mut devices = (Vec::with_capacity(count), Vec::with_capacity(count));
    for queue in 0..count {
        let (a, b) = joined(config, [format!("wire:a/{queue}"), format!("wire:b/{queue}")])?;
        devices.0.push(a);
        devices.1.push(b);
    }
    Ok(devices)
}

fn joined(config: &WireConfig, names: [String; 2]) -> Result<(WirePort, WirePort), WireError> {
    if !(MTU_MIN..=MTU_MAX).contains(&config.mtu) {
        return Err(WireError::Mtu(config.mtu));
    }
    for (field, value) in [("ring_frames", config.ring_frames), ("held_frames", config.held_frames)] {
        if !(1..=FRAMES_MAX).contains(&value) {
            return Err(WireError::Frames { field, value });
        }
    }
    let stock = config.ring_frames + RETURN_BATCH + config.held_frames;
    let frames_max = 2 * stock;
    let (to_b, from_a) = RingBuffer::new(config.ring_frames);
    let (to_a, from_b) = RingBuffer::new(config.ring_frames);
    let (return_to_b, returned_by_a) = RingBuffer::new(frames_max);
    let (return_to_a, returned_by_b) = RingBuffer::new(frames_max);
    let (bell_a, bell_b) = (Doorbell::new()?, Doorbell::new()?);
    let [name_a, name_b] = names;
    let end = |name, mac, tx, rx, tx_return, rx_return, bell: &Arc<Doorbell>, peer_bell: &Arc<Doorbell>| {
        let frame_bytes_max = config.mtu + ETHERNET_HEADER_BYTES;
        let mut free = Vec::with_capacity(frames_max);
        free.resize_with(stock, || WireFrame::new(frame_bytes_max));
        WirePort {
            info: PortInfo {
                name,
                mac,
                mtu: config.mtu,
                frame_bytes_max,
                tso_frame_bytes_max: None,
                tx_checksum_offload: config.checksum_offload,
                rx_checksum_trusted: config.checksum_offload,
                rss: None,
            },
            tx,
            rx,
            tx_return,
            rx_return,
            free,
            owned: stock,
            stock,
            bell: Arc::clone(bell),
            peer_bell: Arc::clone(peer_bell),
            asleep: false,
            stats: PortStats::default(),
        }
    };
    let a = end(name_a, config.macs[0], to_b, from_b, return_to_b, returned_by_b, &bell_a, &bell_b);
    let b = end(name_b, config.macs[1], to_a, from_a, return_to_a, returned_by_a, &bell_b, &bell_a);
    Ok((a, b))
}

/// A frame of a wire.
#[derive(Debug)]
pub struct WireFrame {
    buffer: Box<[u8]>,
    /// Bytes of the frame; of 32 bits, so that frames, which are moved from queue to queue, have no words of padding.
    len: u32,
    checksum: RxChecksum,
}

impl WireFrame {
    fn new(bytes_max: usize) -> Self {
        WireFrame { buffer: vec![0; bytes_max].into_boxed_slice(), len: 0, checksum: RxChecksum::Unknown }
    }

    /// What the receiver is told of the frame's checksums; nothing is known of a frame that was just allocated.
    pub fn set_rx_checksum(&mut self, checksum: RxChecksum) {
        self.checksum = checksum;
    }
}

impl Frame for WireFrame {
    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len as usize]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[..self.len as usize]
    }

    fn set_len(&mut self, len: usize) {
        assert!(len <= self.buffer.len(), "a frame of {len} bytes in a buffer of {}", self.buffer.len());
        self.len = len as u32;
    }

    fn rx_checksum(&self) -> RxChecksum {
        self.checksum
    }
}

/// One end of a wire.
pub struct WirePort {
    info: PortInfo,
    tx: Producer<WireFrame>,
    rx: Consumer<WireFrame>,
    tx_return: Producer<WireFrame>,
    rx_return: Consumer<WireFrame>,
    free: Vec<WireFrame>,
    /// Frames in `free` and with the caller.
    owned: usize,
    /// Frames that this end owns when both are at rest.
    stock: usize,
    bell: Arc<Doorbell>,
    peer_bell: Arc<Doorbell>,
    /// `prepare_sleep` was called since the last poll.
    asleep: bool,
    stats: PortStats,
}

impl WirePort {
    /// Takes back what the peer returned.
    fn collect_returned(&mut self) {
        let count = self.rx_return.slots();
        if count > 0
            && let Ok(frames) = self.rx_return.read_chunk(count)
        {
            self.free.extend(frames);
            self.owned += count;
        }
    }

    #[cold]
    fn return_surplus(&mut self) {
        // Never too few slots: the return ring has one for every frame of the wire.
        if let Ok(slots) = self.tx_return.write_chunk_uninit(RETURN_BATCH) {
            let keep = self.free.len() - RETURN_BATCH;
            self.owned -= slots.fill_from_iter(self.free.drain(keep..));
        }
    }
}

impl Port for WirePort {
    type Frame = WireFrame;

    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn rx_burst(&mut self, burst: &mut VecDeque<WireFrame>, max: usize) -> usize {
        if self.asleep {
            self.asleep = false;
            self.bell.wake_up();
        }
        self.collect_returned();
        let count = if self.rx.cached_slots() >= max { max } else { self.rx.slots().min(max) };
        if count == 0 {
            return 0;
        }
        let mut bytes = 0;
        if let Ok(frames) = self.rx.read_chunk(count) {
            burst.extend(frames.into_iter().inspect(|frame| bytes += u64::from(frame.len)));
        }
        self.owned += count;
        self.stats.rx_frames += count as u64;
        self.stats.rx_bytes += bytes;
        count
    }

    fn alloc(&mut self) -> Option<WireFrame> {
        if self.free.is_empty() {
            self.collect_returned();
        }
        let mut frame = self.free.pop();
        match &mut frame {
            Some(frame) => frame.checksum = RxChecksum::Unknown,
            None => self.stats.alloc_failed += 1,
        }
        frame
    }

    fn tx_burst(&mut self, burst: &mut VecDeque<WireFrame>) -> usize {
        if burst.is_empty() {
            return 0;
        }
        let wanted = burst.len();
        let mut bytes = 0;
        let count = if self.tx.cached_slots() >= wanted { wanted } else { self.tx.slots().min(wanted) };
        if let Ok(slots) = self.tx.write_chunk_uninit(count) {
            slots.fill_from_iter(burst.drain(..count).inspect(|frame| bytes += u64::from(frame.len)));
        }
        self.owned -= count;
        self.stats.tx_frames += count as u64;
        self.stats.tx_bytes += bytes;
        if count < wanted {
            self.stats.tx_full += 1;
        }
        if count > 0 {
            self.peer_bell.ring_if_asleep();
        }
        count
    }

    fn release(&mut self, frame: WireFrame) {
        debug_assert_eq!(frame.buffer.len(), self.info.frame_bytes_max, "a frame of another port");
        self.free.push(frame);
        if self.owned >= self.stock + RETURN_BATCH && self.free.len() >= RETURN_BATCH {
            self.return_surplus();
        }
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.bell.eventfd.as_fd())
    }

    fn prepare_sleep(&mut self) -> bool {
        self.bell.fall_asleep();
        self.asleep = true;
        self.rx.is_empty()
    }

    fn is_alive(&self) -> bool {
        !self.tx.is_abandoned()
    }

    fn stats(&self) -> PortStats {
        self.stats
    }
}

/// What one end sleeps on and the other one rings.
struct Doorbell {
    /// The owner sleeps, or is about to, and has not been rung yet.
    asleep: CachePadded<AtomicBool>,
    eventfd: OwnedFd,
}

impl Doorbell {
    fn new() -> Result<Arc<Self>, WireError> {
        let eventfd =
            eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(WireError::Doorbell)?;
        Ok(Arc::new(Doorbell { asleep: CachePadded::new(AtomicBool::new(false)), eventfd }))
    }

    /// The owner's side: after this, look into the ring once more before sleeping.
    fn fall_asleep(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        // Pairs with the fence in `ring_if_asleep`: see the module's text.
        fence(Ordering::SeqCst);
    }

    /// The owner's side, first thing after sleeping. A ring that comes later than this leaves the eventfd readable:
    /// one sleep is cut short, and nothing is lost.
    #[cold]
    fn wake_up(&self) {
        self.asleep.store(false, Ordering::Relaxed);
        // "Nothing to read" is the other good answer: the sleep ended for another reason.
        let _ = rustix::io::read(&self.eventfd, &mut [0u8; 8]);
    }

    /// The sender's side, after its frames are in the ring.
    fn ring_if_asleep(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) {
            self.ring();
        }
    }

    #[cold]
    fn ring(&self) {
        if self.asleep.swap(false, Ordering::Relaxed) {
            // Fails only when the counter is at its maximum, and then the sleeper wakes anyway.
            let _ = rustix::io::write(&self.eventfd, &1u64.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::thread;

    fn small(ring_frames: usize, held_frames: usize) -> (WirePort, WirePort) {
        pair(&WireConfig { mtu: MTU_MIN, ring_frames, held_frames, ..WireConfig::default() }).unwrap()
    }

    fn frame(port: &mut WirePort, bytes: &[u8]) -> WireFrame {
        let mut frame = port.alloc().expect("a free frame");
        frame.set_len(bytes.len());
        frame.bytes_mut().copy_from_slice(bytes);
        frame
    }

    /// The invariants that hold at every moment, with `held` frames out of the ports.
    fn assert_frames_conserved(a: &WirePort, b: &WirePort, held: [usize; 2]) {
        assert_eq!(a.owned, a.free.len() + held[0]);
        assert_eq!(b.owned, b.free.len() + held[1]);
        let moving = a.rx.slots() + b.rx.slots() + a.rx_return.slots() + b.rx_return.slots();
        assert_eq!(a.owned + b.owned + moving, 2 * a.stock, "frames were lost or made");
    }

    #[test]
    fn a_burst_arrives_whole_and_in_order() {
        let (mut a, mut b) = small(8, 8);
        let mut burst: VecDeque<_> = (0..5u8).map(|i| frame(&mut a, &[i; 60])).collect();
        assert_eq!(a.tx_burst(&mut burst), 5);
        let mut received = VecDeque::new();
        assert_eq!(b.rx_burst(&mut received, 3), 3);
        assert_eq!(b.rx_burst(&mut received, 64), 2);
        assert_eq!(b.rx_burst(&mut received, 64), 0);
        for (i, frame) in received.iter().enumerate() {
            assert_eq!(frame.bytes(), [i as u8; 60]);
        }
        assert_frames_conserved(&a, &b, [0, 5]);
        received.drain(..).for_each(|frame| b.release(frame));
        assert_eq!(a.stats(), PortStats { tx_frames: 5, tx_bytes: 300, ..PortStats::default() });
        assert_eq!(b.stats(), PortStats { rx_frames: 5, rx_bytes: 300, ..PortStats::default() });
    }

    #[test]
    fn what_a_full_ring_refuses_stays_with_the_caller() {
        let (mut a, b) = small(4, 8);
        let mut burst: VecDeque<_> = (0..6u8).map(|i| frame(&mut a, &[i; 60])).collect();
        assert_eq!(a.tx_burst(&mut burst), 4);
        assert_eq!(a.tx_burst(&mut burst), 0);
        assert_eq!(burst.iter().map(|frame| frame.bytes()[0]).collect::<Vec<_>>(), [4, 5]);
        assert_eq!(a.stats().tx_full, 2);
        assert_frames_conserved(&a, &b, [2, 0]);
    }

    #[test]
    fn one_way_traffic_never_starves_the_sender() {
        for reversed in [false, true] {
            let (a, b) = small(32, 16);
            let (mut sender, mut receiver) = if reversed { (b, a) } else { (a, b) };
            let (mut outgoing, mut received) = (VecDeque::new(), VecDeque::new());
            for round in 0..10_000 {
                while outgoing.len() < 16 {
                    outgoing.push_back(frame(&mut sender, &[7; 60]));
                }
                assert_eq!(sender.tx_burst(&mut outgoing), 16, "round {round}");
                assert_eq!(receiver.rx_burst(&mut received, 64), 16);
                received.drain(..).for_each(|frame| receiver.release(frame));
                assert!(receiver.owned < receiver.stock + RETURN_BATCH);
                assert_frames_conserved(&sender, &receiver, [0, 0]);
            }
            assert_eq!(sender.stats().alloc_failed, 0);
        }
    }

    /// The schedule that defeats "keep what you receive up to a mark": each side sends its free list in turn.
    #[test]
    fn alternating_floods_do_not_pile_up_frames_on_one_side() {
        let (mut a, mut b) = small(16, 8);
        let (mut outgoing, mut received) = (VecDeque::new(), VecDeque::new());
        for round in 0..2_000 {
            for turn in 0..2 {
                let (sender, receiver) = if turn == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
                for _ in 0..=round % 16 {
                    outgoing.push_back(frame(sender, &[1; 60]));
                    sender.tx_burst(&mut outgoing);
                }
                receiver.rx_burst(&mut received, 64);
                received.drain(..).for_each(|frame| receiver.release(frame));
            }
            assert_frames_conserved(&a, &b, [0, 0]);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Alloc(usize),
        Transmit,
        Receive(usize),
        Release(usize),
    }

    fn step() -> impl Strategy<Value = (bool, Step)> {
        let step = prop_oneof![
            (1usize..40).prop_map(Step::Alloc),
            Just(Step::Transmit),
            (1usize..40).prop_map(Step::Receive),
            (1usize..40).prop_map(Step::Release),
        ];
        (any::<bool>(), step)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn frames_are_conserved_and_no_end_starves(steps in prop::collection::vec(step(), 1..400)) {
            let (a, b) = small(24, 16);
            let mut ports = [a, b];
            let mut held: [VecDeque<WireFrame>; 2] = Default::default();
            for (second, step) in steps {
                let (port, held_here) = (&mut ports[usize::from(second)], &mut held[usize::from(second)]);
                match step {
                    Step::Alloc(count) => held_here.extend((0..count).map_while(|_| port.alloc())),
                    Step::Transmit => { port.tx_burst(held_here); }
                    Step::Receive(max) => { port.rx_burst(held_here, max); }
                    Step::Release(count) => {
                        let count = count.min(held_here.len());
                        held_here.drain(..count).for_each(|frame| port.release(frame));
                    }
                }
                assert_frames_conserved(&ports[0], &ports[1], [held[0].len(), held[1].len()]);
            }
            // Whatever happened before: one end polls and releases, and the other one has frames.
            for starved in [0, 1] {
                let peer = 1 - starved;
                ports[peer].rx_burst(&mut held[peer], 64);
                held[peer].drain(..).for_each(|frame| ports[peer].release(frame));
                prop_assert!(ports[peer].owned < ports[peer].stock + RETURN_BATCH);
                if held[starved].len() <= 16 {
                    let frame = ports[starved].alloc();
                    prop_assert!(frame.is_some());
                    frame.into_iter().for_each(|frame| ports[starved].release(frame));
                }
            }
        }
    }

    fn readable(port: &WirePort, timeout_ms: i64) -> bool {
        let timeout = Timespec { tv_sec: 0, tv_nsec: timeout_ms * 1_000_000 };
        let mut fds = [PollFd::new(&port.bell.eventfd, PollFlags::IN)];
        poll(&mut fds, Some(&timeout)).unwrap() == 1
    }

    #[test]
    fn only_a_sleeper_is_rung() {
        let (mut a, mut b) = small(8, 8);
        let mut received = VecDeque::new();
        let send = |a: &mut WirePort| {
            let mut burst = VecDeque::from([frame(a, &[1; 60])]);
            a.tx_burst(&mut burst);
        };
        send(&mut a);
        assert!(!readable(&b, 0), "nobody sleeps");
        assert!(!b.prepare_sleep(), "a frame is waiting");
        assert_eq!(b.rx_burst(&mut received, 64), 1);
        assert!(b.prepare_sleep());
        send(&mut a);
        send(&mut a);
        assert!(readable(&b, 0), "the sleeper is rung");
        assert_eq!(b.rx_burst(&mut received, 64), 2);
        assert!(!readable(&b, 0), "polling stops the bell");
        send(&mut a);
        assert!(!readable(&b, 0), "polling withdraws the announcement");
    }

    #[test]
    fn no_wake_up_is_lost_between_two_threads() {
        const ROUNDS: u32 = 20_000;
        fn run(mut port: WirePort, first: bool) -> u32 {
            let mut sleeps = 0;
            let (mut received, mut outgoing) = (VecDeque::new(), VecDeque::new());
            if first {
                outgoing.push_back(frame(&mut port, &[0; 60]));
            }
            let mut seen = 0;
            while seen < ROUNDS {
                port.tx_burst(&mut outgoing);
                if port.rx_burst(&mut received, 64) == 0 {
                    if port.prepare_sleep() {
                        sleeps += 1;
                        assert!(readable(&port, 900), "a wake-up was lost after {seen} rounds");
                    }
                    continue;
                }
                seen += 1;
                outgoing.append(&mut received);
            }
            port.tx_burst(&mut outgoing);
            sleeps
        }
        let (a, b) = small(4, 4);
        let other = thread::spawn(move || run(b, false));
        let sleeps = run(a, true) + other.join().unwrap();
        assert!(sleeps > 0, "the test must sleep");
    }

    #[test]
    fn two_threads_keep_every_frame_and_its_order() {
        const FRAMES: u64 = 200_000;
        let (mut a, mut b) = small(64, 64);
        let sender = thread::spawn(move || {
            let (mut outgoing, mut next) = (VecDeque::new(), 0u64);
            while next < FRAMES || !outgoing.is_empty() {
                while outgoing.len() < 32 && next < FRAMES {
                    let Some(mut frame) = a.alloc() else { break };
                    frame.set_len(60);
                    frame.bytes_mut()[..8].copy_from_slice(&next.to_le_bytes());
                    outgoing.push_back(frame);
                    next += 1;
                }
                if a.tx_burst(&mut outgoing) == 0 {
                    thread::yield_now();
                }
            }
            a
        });
        let (mut received, mut next) = (VecDeque::new(), 0u64);
        while next < FRAMES {
            if b.rx_burst(&mut received, 32) == 0 {
                thread::yield_now();
            }
            for frame in received.drain(..) {
                assert_eq!(frame.bytes()[..8], next.to_le_bytes());
                next += 1;
                b.release(frame);
            }
        }
        let a = sender.join().unwrap();
        assert_frames_conserved(&a, &b, [0, 0]);
    }

    #[test]
    fn queues_are_wires_of_their_own() {
        let (mut a, mut b) = queues(2, &WireConfig::default()).unwrap();
        assert_eq!((a[1].info().name.as_str(), b[1].info().name.as_str()), ("wire:a/1", "wire:b/1"));
        assert_eq!(a[0].info().mac, a[1].info().mac);
        assert_ne!(a[0].info().mac, b[0].info().mac);
        let mut burst = VecDeque::from([frame(&mut a[1], &[1; 60])]);
        a[1].tx_burst(&mut burst);
        assert_eq!(b[0].rx_burst(&mut burst, 64), 0);
        assert_eq!(b[1].rx_burst(&mut burst, 64), 1);
    }

    #[test]
    fn the_end_of_the_peer_is_seen() {
        let (a, b) = small(8, 8);
        assert!(a.is_alive());
        drop(b);
        assert!(!a.is_alive());
    }

    #[test]
    fn values_out_of_range_are_named() {
        let with = |change: fn(&mut WireConfig)| {
            let mut config = WireConfig::default();
            change(&mut config);
            pair(&config).map(|_| ()).unwrap_err().to_string()
        };
        assert_eq!(with(|c| c.mtu = 9001), "a wire's MTU must be 576 to 9000 bytes, not 9001");
        assert_eq!(with(|c| c.ring_frames = 0), "a wire's `ring_frames` must be 1 to 65536, not 0");
        assert_eq!(with(|c| c.held_frames = 65_537), "a wire's `held_frames` must be 1 to 65536, not 65537");
        assert!(matches!(queues(0, &WireConfig::default()), Err(WireError::NoQueues)));
    }

    #[test]
    fn the_ends_may_move_to_threads() {
        fn assert_send<T: Send>() {}
        assert_send::<WirePort>();
    }
}
