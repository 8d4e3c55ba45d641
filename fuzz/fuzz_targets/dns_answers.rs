//! What comes back for a question to a DNS server: any bytes from its address and port.
#![no_main]

#[path = "../../sim/src/packet.rs"]
#[allow(dead_code)] // the simulator uses all of it
mod packet;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use packet::Resolution;
use std::collections::VecDeque;
use std::net::IpAddr;
use unsocket::port::{Frame, Port, PortInfo, PortStats, RxChecksum};
use unsocket::stack::{ADDRS_PER_NAME_MAX, LOOKUP_TIMEOUT, Stack, StackConfig, TxQueue};
use unsocket::time::{Duration, Instant};

const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const SERVER: [u8; 4] = [10, 0, 0, 53];
/// More answers than this teach nothing that fewer do not.
const ANSWERS_MAX: usize = 16;
/// Longest name that DNS has, RFC 1035 section 2.3.4.
const NAME_BYTES_MAX: usize = 253;

#[derive(Arbitrary, Debug)]
struct Input {
    name: String,
    answers: Vec<Answer>,
}

#[derive(Arbitrary, Debug)]
struct Answer {
    /// It begins with the question's number and the question, and says that it is an answer to it.
    is_to_it: bool,
    /// To the first question or the second one.
    second: bool,
    records: u8,
    code: u8,
    bytes: Vec<u8>,
    milliseconds: u16,
}

/// A port that keeps what is sent.
struct Plug {
    info: PortInfo,
    sent: VecDeque<Vec<u8>>,
}

impl Port for Plug {
    type Frame = Vec<u8>;
    fn info(&self) -> &PortInfo {
        &self.info
    }
    fn rx_burst(&mut self, _: &mut VecDeque<Vec<u8>>, _: usize) -> usize {
        0
    }
    fn alloc(&mut self) -> Option<Vec<u8>> {
        Some(Vec::new())
    }
    fn tx_burst(&mut self, burst: &mut VecDeque<Vec<u8>>) -> usize {
        let count = burst.len();
        self.sent.extend(burst.drain(..).map(|frame| frame.bytes().to_vec()));
        count
    }
    fn release(&mut self, _: Vec<u8>) {}
    fn stats(&self) -> PortStats {
        PortStats::default()
    }
}

struct World {
    stack: Stack,
    plug: Plug,
    tx: TxQueue<Vec<u8>>,
    now: Instant,
    /// Port and message of every question.
    questions: Vec<([u8; 2], Vec<u8>)>,
    done: usize,
}

impl World {
    /// One burst.
    fn burst(&mut self, arriving: &[Vec<u8>]) {
        self.stack.begin(self.now);
        self.tx.refill(&mut self.plug, 64);
        for frame in arriving {
            let _ = self.stack.ingress(frame, RxChecksum::Unknown, &mut self.tx);
        }
        self.stack.timers();
        self.stack.egress(&mut self.tx);
        self.tx.flush(&mut self.plug);
        while let Some((name, result)) = self.stack.next_lookup() {
            assert!(name.len() <= NAME_BYTES_MAX);
            assert!(
                result.is_err() || result.is_ok_and(|addrs| (1..=ADDRS_PER_NAME_MAX).contains(&addrs.len()))
            );
            self.done += 1;
        }
        for frame in std::mem::take(&mut self.plug.sent) {
            if frame.get(12..14) == Some(&[8, 0]) && frame.get(36..38) == Some(&[0, 53]) {
                self.questions.push(([frame[34], frame[35]], frame[42..].to_vec()));
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let mut bursts = 0;
        while self.now < end {
            bursts += 1;
            assert!(bursts < 10_000, "it spins");
            self.burst(&[]);
            let next = self.stack.next_deadline().unwrap_or(end).min(end);
            self.now = next.max(self.now + Duration::from_micros(100));
        }
    }

    fn answer(&self, answer: &Answer) -> Option<Vec<u8>> {
        let at = self.questions.len().checked_sub(1 + usize::from(answer.second))?;
        let (port, question) = &self.questions[at];
        let mut message = if answer.is_to_it { question.clone() } else { Vec::new() };
        if let Some([high, low, _, count]) = message.get_mut(2..8).and_then(|part| {
            let [high, low, _, _, a, b] = part else { return None };
            Some([high, low, a, b])
        }) {
            (*high, *low, *count) = (0x81, 0x80 | answer.code & 15, answer.records);
        }
        message.extend_from_slice(&answer.bytes);
        message.truncate(1_400);
        let length = (8 + message.len() as u16).to_be_bytes();
        let udp = [&[0, 53], &port[..], &length, &[0, 0], &message].concat();
        let [from, to] = [IpAddr::from(SERVER), IpAddr::from([10, 0, 0, 1])];
        Some(packet::ip_frame([PEER_MAC, OUR_MAC], from, to, 17, &udp))
    }
}

libfuzzer_sys::fuzz_target!(|input: Input| look_up(input));

/// Whatever is answered: no panic, no spinning, and the look-up comes to one end, in time, with no more addresses than may be.
fn look_up(input: Input) {
    let info = PortInfo {
        name: "plug".to_owned(),
        mac: OUR_MAC,
        mtu: 1500,
        frame_bytes_max: 9014,
        tso_frame_bytes_max: None,
        tx_checksum_offload: false,
        rx_checksum_trusted: true,
        rss: None,
    };
    let config = StackConfig {
        addrs: ["10.0.0.1/24", "fd00::1/64"].map(|cidr| cidr.parse().unwrap()).to_vec(),
        dns: vec![IpAddr::from(SERVER)],
        ..StackConfig::default()
    };
    let now = Instant::from_millis(1_000);
    let stack = Stack::new(&config, &info, [7; 32], now).unwrap();
    let tx = TxQueue::new(64, &info);
    let plug = Plug { info, sent: VecDeque::new() };
    let mut world = World { stack, plug, tx, now, questions: Vec::new(), done: 0 };
    world.stack.begin(now);
    let name = if input.name.is_empty() { "feed.example" } else { &input.name };
    if world.stack.look_up(name).is_err() {
        return;
    }
    world.burst(&[]);
    let asked = Resolution {
        is_request: true,
        sender: IpAddr::from([10, 0, 0, 1]),
        sender_mac: OUR_MAC,
        target: IpAddr::from(SERVER),
    };
    world.burst(&[asked.reply(PEER_MAC)]);
    world.pass(Duration::from_millis(50));
    for answer in input.answers.iter().take(ANSWERS_MAX) {
        if let Some(frame) = world.answer(answer) {
            world.burst(&[frame]);
        }
        world.pass(Duration::from_millis(answer.milliseconds.into()));
    }
    world.pass(LOOKUP_TIMEOUT + Duration::from_secs(1));
    assert_eq!(world.done, 1, "one end");
}
