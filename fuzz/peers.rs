//! Hostile hosts on a worker's network, driven by libFuzzer's input.
//!
//! An input is a list of [`Step`]s. Most bytes on a network are dropped at once for a wrong number, so a step says how a
//! segment differs from the right one: the peers here remember what the worker sent last on each of their flows, and an
//! input of zeros shakes hands, upgrades and talks. What is raw stays raw: [`Step::Frame`] and [`Step::Ip`] carry bytes
//! as they stand.

#[path = "../sim/src/packet.rs"]
#[allow(dead_code)] // the simulator uses all of it
mod packet;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use packet::{ACK, End, RST, Resolution, SYN, Segment};
use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use unsocket::apps::Chat;
use unsocket::engine::{EngineConfig, NoWake, Wake, Worker, seats};
use unsocket::port::{Port, PortInfo, PortStats, RxChecksum};
use unsocket::stack::{ConnId, SendHalf, Stack, StackConfig, Status, TxQueue};
use unsocket::time::{Duration, Instant};

const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const FLOWS: usize = 8;
const CONNECTIONS_MAX: usize = 5;
const MEMORY_BYTES_MAX: usize = 1 << 20;
const TIME_WAIT_MAX: usize = 4;
/// More steps than this teach nothing that fewer do not.
const STEPS_MAX: usize = 96;
/// What a worker may send in one burst: its TX queue, and an answer to each received frame.
const SENT_MAX: usize = 256 + 64;
/// Polls in a row that may find a deadline due and nothing to do, before that counts as spinning.
const VAIN_POLLS_MAX: usize = 64;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// What a peer does next.
#[derive(Arbitrary, Debug)]
pub(crate) enum Step {
    /// A segment, told by how it differs from the right one.
    Segment(Differing),
    /// Time passes, and the worker is polled as often as it asks for.
    Wait { milliseconds: u16 },
    /// An IP packet with a right header around any payload.
    Ip { v6: bool, protocol: u8, payload: Vec<u8> },
    /// ARP or NDP: a question for the worker, or an answer to whatever it asked.
    Resolve { v6: bool, question: bool, mac: [u8; 6] },
    /// Any bytes.
    Frame(Vec<u8>),
}

/// A segment of one of the flows.
#[derive(Arbitrary, Debug)]
pub(crate) struct Differing {
    flow: u8,
    /// Exclusive or with the right flags: SYN on a new flow, else ACK.
    flags: u8,
    /// Added to the right numbers.
    seq: i16,
    ack: i16,
    /// Taken from the widest window.
    narrower: u16,
    payload: Payload,
    /// Exclusive or with a byte of the frame, at a place modulo its length.
    damage: Option<(u8, u16)>,
}

#[derive(Arbitrary, Debug)]
enum Payload {
    None,
    Request,
    /// A masked frame around these bytes; the header's first byte is exclusive or with `first`.
    Frame {
        first: u8,
        bytes: Vec<u8>,
    },
    Bytes(Vec<u8>),
}

impl Payload {
    fn bytes(self) -> Vec<u8> {
        match self {
            Payload::None => Vec::new(),
            Payload::Request => REQUEST.to_vec(),
            Payload::Bytes(bytes) => bytes,
            Payload::Frame { first, mut bytes } => {
                bytes.truncate(125);
                let mut frame = vec![0x82 ^ first, 0x80 | bytes.len() as u8, 0, 0, 0, 0];
                frame.append(&mut bytes);
                frame
            }
        }
    }
}

/// What a peer knows of one of its flows.
#[derive(Clone, Copy, Default)]
struct Flow {
    is_open: bool,
    /// The next sequence number of the peer, and of the worker.
    seq: u32,
    ack: u32,
}

/// What is on its way between the host that is attacked and its peers.
#[derive(Default)]
struct Medium {
    arriving: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
}

/// A port whose other end is the peers.
struct Plug {
    info: PortInfo,
    medium: Rc<RefCell<Medium>>,
}

impl Plug {
    fn new(medium: Rc<RefCell<Medium>>) -> Plug {
        let info = PortInfo {
            name: "plug".to_owned(),
            mac: OUR_MAC,
            mtu: 1500,
            frame_bytes_max: 9014,
            tso_frame_bytes_max: None,
            tx_checksum_offload: false,
            // A fuzzer does not find checksums: what it changed arrives as if they were right.
            rx_checksum_trusted: true,
            rss: None,
        };
        Plug { info, medium }
    }
}

impl Port for Plug {
    type Frame = Vec<u8>;
    fn info(&self) -> &PortInfo {
        &self.info
    }
    fn rx_burst(&mut self, burst: &mut VecDeque<Vec<u8>>, max: usize) -> usize {
        let arriving = &mut self.medium.borrow_mut().arriving;
        let count = arriving.len().min(max);
        burst.extend(arriving.drain(..count));
        count
    }
    fn alloc(&mut self) -> Option<Vec<u8>> {
        Some(Vec::new())
    }
    fn tx_burst(&mut self, burst: &mut VecDeque<Vec<u8>>) -> usize {
        let count = burst.len();
        self.medium.borrow_mut().sent.extend(burst.drain(..));
        count
    }
    fn release(&mut self, _frame: Vec<u8>) {}
    fn stats(&self) -> PortStats {
        PortStats::default()
    }
}

/// What is attacked.
trait Host {
    fn new(plug: Plug, now: Instant) -> Self;
    /// One burst: whether there was something to do, and when there will be although nothing arrives.
    fn poll(&mut self, now: Instant) -> (bool, Option<Instant>);
    /// The peers have fallen silent: an owner without deadlines of its own gives up what it has.
    fn give_up(&mut self);
    /// Asserts every bound.
    fn check(&self);
    /// Asserts that nothing is left of any peer.
    fn check_empty(&self);
}

fn stack_config() -> StackConfig {
    let mut config = StackConfig {
        addrs: ["10.0.0.1/24", "fd00::1/64"].map(|cidr| cidr.parse().unwrap()).to_vec(),
        ..StackConfig::default()
    };
    config.tcp.connections_max = CONNECTIONS_MAX;
    config.tcp.half_open_max = 4;
    config.tcp.time_wait_max = TIME_WAIT_MAX;
    config
}

fn check_stack(stack: &Stack, connections_max: usize) {
    assert!(stack.connections() <= connections_max, "{} connections", stack.connections());
    assert!(stack.time_wait_records() <= TIME_WAIT_MAX);
}

fn check_stack_empty(stack: &Stack) {
    let left = (stack.connections(), stack.rings().0, stack.time_wait_records());
    assert_eq!(left, (0, 0, 0), "connections, rings, TIME-WAIT records left: {:?}", stack.stats());
}

/// A whole worker that runs the chat.
struct ChatWorker(Worker<Plug, Chat>);

impl Host for ChatWorker {
    fn new(plug: Plug, now: Instant) -> ChatWorker {
        let mut config = EngineConfig { listen: vec![80], stack: stack_config(), ..EngineConfig::default() };
        config.limits.connections_max = CONNECTIONS_MAX;
        config.limits.memory_bytes_max = MEMORY_BYTES_MAX;
        config.limits.message.message_bytes_max = 4096;
        config.limits.mailbox_commands_max = 16;
        config.deadlines.tick = None;
        let (_, mut seats) = seats(&config, 1500, [7; 32], vec![Arc::new(NoWake) as Arc<dyn Wake>]).unwrap();
        ChatWorker(Worker::new(&config, seats.remove(0), plug, Chat::new(0), now).unwrap())
    }

    fn poll(&mut self, now: Instant) -> (bool, Option<Instant>) {
        let progress = self.0.poll(now);
        (progress.busy, progress.deadline)
    }

    fn give_up(&mut self) {}

    fn check(&self) {
        let report = self.0.report();
        // Those that are being refused politely have room of their own.
        check_stack(self.0.stack(), CONNECTIONS_MAX + 64);
        assert!(report.engine.sessions <= CONNECTIONS_MAX as u64 + 64, "{report:?}");
        assert!(report.engine.memory_bytes <= 2 * MEMORY_BYTES_MAX as u64, "{report:?}");
    }

    fn check_empty(&self) {
        check_stack_empty(self.0.stack());
        let report = self.0.report();
        assert_eq!((report.engine.sessions, report.engine.memory_bytes), (0, 0), "{report:?}");
    }
}

/// A stack alone, whose owner echoes bytes and finishes when the peer does.
struct EchoStack {
    stack: Stack,
    plug: Plug,
    tx: TxQueue<Vec<u8>>,
    open: BTreeSet<ConnId>,
}

impl Host for EchoStack {
    fn new(plug: Plug, now: Instant) -> EchoStack {
        let mut stack = Stack::new(&stack_config(), plug.info(), [7; 32], now).unwrap();
        stack.listen(80);
        let tx = TxQueue::new(64, plug.info());
        EchoStack { stack, plug, tx, open: BTreeSet::new() }
    }

    fn poll(&mut self, now: Instant) -> (bool, Option<Instant>) {
        self.stack.begin(now);
        self.tx.refill(&mut self.plug, 64);
        let arriving = std::mem::take(&mut self.plug.medium.borrow_mut().arriving);
        for frame in &arriving {
            // Alone, it has nobody to hand frames to.
            let _ = self.stack.ingress(frame, RxChecksum::Unknown, &mut self.tx);
        }
        self.stack.timers();
        while let Some(id) = self.stack.next_ready() {
            let echo = |bytes: &mut [u8], to: &mut SendHalf<'_>| (to.write(bytes), ());
            // Twice, because a ring lends what is contiguous. What finds no room is left, and read at the next turn.
            let _ = self.stack.with_received(id, echo).and_then(|()| self.stack.with_received(id, echo));
            let is_over = match self.stack.status(id) {
                Some(Status::Closed(_)) => true,
                Some(Status::PeerFinished) => self.stack.received_bytes(id) == 0,
                _ => false,
            };
            if is_over {
                self.stack.release(id);
                self.open.remove(&id);
            } else {
                self.open.insert(id);
            }
        }
        self.stack.egress(&mut self.tx);
        let sent = self.tx.flush(&mut self.plug);
        (!arriving.is_empty() || sent > 0, self.stack.next_deadline())
    }

    fn give_up(&mut self) {
        for id in std::mem::take(&mut self.open) {
            self.stack.release(id);
        }
    }

    fn check(&self) {
        check_stack(&self.stack, CONNECTIONS_MAX);
    }

    fn check_empty(&self) {
        check_stack_empty(&self.stack);
    }
}

/// A host and its peers.
struct World<H> {
    host: H,
    medium: Rc<RefCell<Medium>>,
    now: Instant,
    flows: [Flow; FLOWS],
}

impl<H: Host> World<H> {
    fn new() -> Self {
        let medium = Rc::new(RefCell::new(Medium::default()));
        let now = Instant::from_millis(1_000);
        World { host: H::new(Plug::new(medium.clone()), now), medium, now, flows: [Flow::default(); FLOWS] }
    }

    fn ends(flow: usize) -> [End; 2] {
        let [peer, ours]: [IpAddr; 2] = if flow.is_multiple_of(2) {
            ["10.0.0.2", "10.0.0.1"].map(|addr| addr.parse().unwrap())
        } else {
            ["fd00::2", "fd00::1"].map(|addr| addr.parse().unwrap())
        };
        [End { addr: peer, port: 40_000 + flow as u16 }, End { addr: ours, port: 80 }]
    }

    /// The frame of a step; `None` when the step is about time.
    fn frame(&mut self, step: Step) -> Option<Vec<u8>> {
        let ip = |v6, protocol, payload: &[u8]| {
            let [from, to] = Self::ends(usize::from(v6));
            packet::ip_frame([PEER_MAC, OUR_MAC], from.addr, to.addr, protocol, payload)
        };
        Some(match step {
            Step::Wait { .. } => return None,
            Step::Frame(bytes) => bytes,
            Step::Ip { v6, protocol, payload } => ip(v6, protocol, &payload[..payload.len().min(1400)]),
            Step::Resolve { v6, question, mac } => {
                let [peer, ours] = Self::ends(usize::from(v6));
                match question {
                    true => Resolution::request(mac, peer.addr, ours.addr),
                    false => {
                        let asked = Resolution {
                            is_request: true,
                            sender: ours.addr,
                            sender_mac: OUR_MAC,
                            target: peer.addr,
                        };
                        asked.reply(mac)
                    }
                }
            }
            Step::Segment(differing) => self.segment(differing),
        })
    }

    fn segment(&mut self, differing: Differing) -> Vec<u8> {
        let index = usize::from(differing.flow) % FLOWS;
        let flow = &mut self.flows[index];
        let [from, to] = Self::ends(index);
        let payload = differing.payload.bytes();
        let right = if flow.is_open { ACK } else { SYN };
        let segment = Segment {
            from,
            to,
            seq: flow.seq.wrapping_add_signed(differing.seq.into()),
            ack: flow.ack.wrapping_add_signed(differing.ack.into()),
            flags: right ^ differing.flags,
            window: u16::MAX - differing.narrower,
            payload: &payload[..payload.len().min(1400)],
        };
        if differing.seq == 0 && (segment.flags & SYN == 0) == flow.is_open {
            flow.seq = segment.end();
        }
        let mut frame = segment.frame([PEER_MAC, OUR_MAC]);
        if let Some((flip, at)) = differing.damage {
            let at = usize::from(at) % frame.len();
            frame[at] ^= flip;
        }
        frame
    }

    /// One burst, and what must hold after each. Whether there was something to do, and the next deadline.
    fn poll(&mut self) -> (bool, Option<Instant>) {
        let progress = self.host.poll(self.now);
        self.host.check();
        let sent = std::mem::take(&mut self.medium.borrow_mut().sent);
        assert!(sent.len() <= SENT_MAX, "{} frames in one burst", sent.len());
        for frame in sent {
            let Some(segment) = Segment::parse(&frame) else { continue };
            assert!(Segment::is_whole(&frame), "sent with a wrong checksum: {}", packet::describe(&frame));
            if let Some(index) = (0..FLOWS).find(|&index| Self::ends(index) == [segment.to, segment.from]) {
                let flow = &mut self.flows[index];
                flow.is_open = segment.flags & RST == 0;
                flow.ack = segment.end();
                if segment.flags & SYN != 0 {
                    flow.seq = segment.ack;
                }
            }
        }
        progress
    }

    /// Lets `time` pass as a launcher would: polls at once while there is something to do, else at the next deadline.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let mut vain_polls = 0;
        while self.now < end {
            let (busy, deadline) = self.poll();
            let is_due = deadline.is_some_and(|deadline| deadline <= self.now);
            vain_polls = if is_due && !busy { vain_polls + 1 } else { 0 };
            assert!(vain_polls <= VAIN_POLLS_MAX, "it wants to be polled again and again, for nothing");
            self.now = if busy || is_due {
                self.now + Duration::from_micros(50)
            } else {
                deadline.unwrap_or(end).min(end)
            };
        }
        self.poll();
    }
}

/// Whatever the peers do to a whole worker: no panic, every bound holds, what is sent is right, and when they fall silent
/// nothing is left of them.
pub(crate) fn attack_worker(steps: Vec<Step>) {
    attack::<ChatWorker>(steps);
}

/// The same against a stack alone.
pub(crate) fn attack_stack(steps: Vec<Step>) {
    attack::<EchoStack>(steps);
}

fn attack<H: Host>(steps: Vec<Step>) {
    let mut world = World::<H>::new();
    for step in steps.into_iter().take(STEPS_MAX) {
        if let Step::Wait { milliseconds } = step {
            world.pass(Duration::from_millis(milliseconds.into()));
        } else if let Some(frame) = world.frame(step) {
            world.medium.borrow_mut().arriving.push_back(frame);
            world.poll();
        }
    }
    world.host.give_up();
    // Longer than the idle, close and user timeouts and TIME-WAIT one after the other.
    for _ in 0..60 {
        world.pass(Duration::from_secs(10));
    }
    world.host.check_empty();
}
