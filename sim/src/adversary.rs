//! A host that keeps no rule: it crafts its segments by hand.

use crate::host::{Host, PORT, TLS_PORT, address};
use crate::packet::{ACK, BROADCAST, End, FIN, PSH, RST, Resolution, SYN, Segment};
use crate::rng::Rng;
use crate::scenario::{Adversary, AdversaryKind, Scenario};
use unsocket::time::{Duration, Instant};

const MAC: [u8; 6] = [2, 0, 0, 0, 2, 0];
/// How long a conversation may take, the faults included, before it is given up.
const PATIENCE: Duration = Duration::from_secs(120);
const REPEAT: Duration = Duration::from_millis(300);
const STEPS_MAX: u64 = 2_000;

/// All adversaries of a world: they share one host.
pub(crate) struct Adversaries {
    pub(crate) connections: u64,
    /// Conversations that went all the way to their end.
    pub(crate) finished: u64,
    /// A rule that the engine broke towards us.
    pub(crate) violation: Option<String>,
    all: Vec<Attack>,
    home: [std::net::IpAddr; 2],
    gentle: bool,
}

struct Attack {
    plan: Adversary,
    rng: Rng,
    local: End,
    server: End,
    server_mac: [u8; 6],
    /// The server goes away in the middle of the world.
    server_drains: bool,
    begun: Option<Instant>,
    over: bool,
    steps: u64,
    next_port: u16,
    talk: Option<Talk>,
}

/// A conversation over TCP.
struct Talk {
    state: State,
    isn: u32,
    /// Bytes to say, and how many of them are acknowledged.
    script: Vec<u8>,
    acked: usize,
    expected: u32,
    heard: Vec<u8>,
    window: u16,
    rounds: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    SynSent,
    Open,
    Over,
}

impl Adversaries {
    pub(crate) fn new(scenario: &Scenario, hosts: &[Host]) -> Self {
        let home = address(scenario.ipv6, 0, hosts.len());
        let attack = |(index, &plan): (usize, &Adversary)| Attack {
            plan,
            rng: Rng::new(scenario.seed, "adversary at work", index as u64),
            local: End { addr: home, port: 20_000 + 4_000 * index as u16 },
            server: End { addr: hosts[plan.server].addr, port: if plan.tls { TLS_PORT } else { PORT } },
            server_mac: hosts[plan.server].mac,
            begun: None,
            server_drains: scenario.hosts[plan.server].drain_at.is_some(),
            over: !scenario.has_adversary(index),
            steps: 0,
            next_port: 20_000 + 4_000 * index as u16,
            talk: None,
        };
        let all = scenario.adversaries.iter().enumerate().map(attack).collect();
        let v6 = address(true, 0, hosts.len());
        Adversaries {
            connections: 0,
            finished: 0,
            violation: None,
            all,
            home: [home, v6],
            gentle: scenario.gentle,
        }
    }

    pub(crate) fn are_done(&self) -> bool {
        self.all.iter().all(|attack| attack.over)
    }

    /// A frame came; what is said to it.
    pub(crate) fn receive(&mut self, now: Instant, frame: &[u8]) -> Vec<Vec<u8>> {
        if let Some(question) = Resolution::parse(frame) {
            let is_ours = question.is_request && self.home.contains(&question.target);
            return if is_ours { vec![question.reply(MAC)] } else { Vec::new() };
        }
        let Some(segment) = Segment::parse(frame).filter(|_| frame[..6] == MAC && Segment::is_whole(frame))
        else {
            return Vec::new();
        };
        let Some(attack) =
            self.all.iter_mut().find(|attack| attack.local == segment.to && attack.talk.is_some())
        else {
            return Vec::new();
        };
        attack.hear(now, &segment)
    }

    /// An adversary's next step: its frames, and when it goes on.
    pub(crate) fn act(&mut self, index: usize, now: Instant) -> (Vec<Vec<u8>>, Option<Instant>) {
        let gentle = self.gentle;
        let attack = &mut self.all[index];
        let begun = *attack.begun.get_or_insert(now);
        attack.steps += 1;
        let mut out = Vec::new();
        let pause = match attack.plan.kind {
            AdversaryKind::SynBurst => attack.syn_burst(&mut out),
            AdversaryKind::Garbage => attack.garbage(&mut out),
            AdversaryKind::RandomFlags => attack.random_flags(&mut out),
            _ => attack.converse(&mut out),
        };
        let talks = attack.talk.is_some();
        let is_complete = attack.talk.as_ref().is_some_and(|talk| talk.state == State::Over);
        let is_late = now.saturating_since(begun) > PATIENCE;
        attack.over = if talks { is_complete || is_late } else { attack.steps > attack.plan.count };
        if talks && attack.over {
            self.connections += 1;
            self.finished += u64::from(is_complete);
            if is_complete {
                self.violation = self.violation.take().or(attack.judge());
            } else if gentle
                && matches!(attack.plan.kind, AdversaryKind::Overlapping | AdversaryKind::ResetAndReuse)
            {
                let what = format!("adversary {index} ({:?}) got no end in {PATIENCE:?}", attack.plan.kind);
                self.violation.get_or_insert(what);
            }
        }
        attack.over |= attack.steps > STEPS_MAX;
        (out, (!attack.over).then_some(now + pause))
    }
}

impl Attack {
    fn frame(&self, local: End, seq: u32, ack: u32, flags: u8, window: u16, payload: &[u8]) -> Vec<u8> {
        Segment { from: local, to: self.server, seq, ack, flags, window, payload }
            .frame([MAC, self.server_mac])
    }

    /// Half-open connections, more than there is room for; sometimes an end to one.
    fn syn_burst(&mut self, out: &mut Vec<Vec<u8>>) -> Duration {
        for _ in 0..self.rng.range(1, 40) {
            self.next_port = self.next_port.wrapping_add(1);
            let local = End { port: self.next_port, ..self.local };
            let seq = self.rng.next() as u32;
            out.push(self.frame(local, seq, 0, SYN, 1000, b""));
            if self.rng.chance(0.1) {
                out.push(self.frame(local, seq.wrapping_add(1), 0, RST, 0, b""));
            }
        }
        self.rng.time(Duration::from_micros(10), Duration::from_millis(50))
    }

    /// Frames of no kind, and of every kind cut short.
    fn garbage(&mut self, out: &mut Vec<Vec<u8>>) -> Duration {
        for _ in 0..self.rng.range(1, 20) {
            let mut frame = vec![0; self.rng.size(14, 300)];
            self.rng.fill(&mut frame);
            if self.rng.chance(0.5) {
                let whole =
                    self.frame(self.local, self.rng.clone().next() as u32, 0, SYN, 100, b"0123456789");
                let kept = self.rng.size(14, whole.len());
                frame.resize(frame.len().max(kept), 0);
                frame[..kept].copy_from_slice(&whole[..kept]);
            }
            let to = if self.rng.chance(0.2) { BROADCAST } else { self.server_mac };
            frame[..6].copy_from_slice(&to);
            frame[6..12].copy_from_slice(&MAC);
            let kind = self.rng.pick(&[[0x08, 0x00], [0x86, 0xdd], [0x81, 0x00], [0x12, 0x34]]);
            frame[12..14].copy_from_slice(&kind);
            out.push(frame);
        }
        self.rng.time(Duration::from_micros(10), Duration::from_millis(20))
    }

    /// Segments of no connection with any flags, to open and closed ports.
    fn random_flags(&mut self, out: &mut Vec<Vec<u8>>) -> Duration {
        for _ in 0..self.rng.range(1, 20) {
            let local = End { port: self.local.port + self.rng.below(8) as u16, ..self.local };
            let (seq, ack, flags) = (self.rng.next() as u32, self.rng.next() as u32, self.rng.next() as u8);
            let payload = vec![b'?'; self.rng.size(0, 50)];
            let mut frame = self.frame(local, seq, ack, flags, self.rng.clone().next() as u16, &payload);
            if self.rng.chance(0.2) {
                let at = self.rng.size(14, frame.len() - 1);
                frame[at] ^= 1 << self.rng.below(8);
            }
            out.push(frame);
        }
        self.rng.time(Duration::from_micros(10), Duration::from_millis(20))
    }

    /// What is said in a conversation: a request, frames, and what breaks the rule.
    fn script(&mut self) -> Vec<u8> {
        let mut bytes =
            b"GET /adversary HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
                .to_vec();
        if matches!(self.plan.kind, AdversaryKind::HalfHandshake | AdversaryKind::SlowHead) {
            bytes.truncate(self.rng.size(1, bytes.len() - 1));
            return bytes;
        }
        for _ in 0..self.plan.count {
            let key: [u8; 4] = (self.rng.next() as u32).to_be_bytes();
            let len = self.rng.size(0, 125);
            bytes.extend([0x82, 0x80 | len as u8]);
            bytes.extend(key);
            bytes.extend((0..len).map(|i| b'x' ^ key[i % 4]));
        }
        if self.plan.kind == AdversaryKind::Overlapping {
            // Not masked: RFC 6455 section 5.1.
            bytes.extend([0x82, 0x01, b'!']);
        }
        bytes
    }

    /// One step of a conversation: what is not acknowledged is said again, cut anew, in any order.
    fn converse(&mut self, out: &mut Vec<Vec<u8>>) -> Duration {
        if self.talk.is_none() {
            let (script, isn) = (self.script(), self.rng.next() as u32);
            let window = if self.plan.kind == AdversaryKind::Overlapping {
                self.rng.pick(&[1, 10, 100, 5000])
            } else {
                5000
            };
            let (acked, expected, heard) = (0, 0, Vec::new());
            self.talk =
                Some(Talk { state: State::SynSent, isn, script, acked, expected, heard, window, rounds: 0 });
        }
        let Some(mut talk) = self.talk.take() else { return REPEAT };
        match talk.state {
            State::SynSent => out.push(self.frame(self.local, talk.isn, 0, SYN, 5000, b"")),
            State::Open => self.say(&mut talk, out),
            State::Over => {}
        }
        self.talk = Some(talk);
        match self.plan.kind {
            AdversaryKind::SlowHead => Duration::from_millis(500),
            _ => REPEAT / 10,
        }
    }

    fn say(&mut self, talk: &mut Talk, out: &mut Vec<Vec<u8>>) {
        let first = talk.isn.wrapping_add(1);
        let len = talk.script.len();
        // The window in which the server surely takes what comes.
        let reach = match self.plan.kind {
            AdversaryKind::SlowHead => talk.acked + 1,
            _ => talk.acked + 1500,
        };
        let reach = reach.min(len);
        for _ in 0..self.rng.range(1, 6) {
            let from =
                talk.acked.saturating_sub(20) + self.rng.size(0, reach - talk.acked.saturating_sub(20));
            let to = (from + self.rng.size(0, 300)).min(reach);
            let seq = first.wrapping_add(from.min(to) as u32);
            let payload = talk.script[from.min(to)..to].to_vec();
            out.push(self.frame(self.local, seq, talk.expected, ACK | PSH, talk.window, &payload));
        }
        // The next bytes in any case, so that it comes to an end.
        let payload = talk.script[talk.acked..reach].to_vec();
        out.push(self.frame(
            self.local,
            first.wrapping_add(talk.acked as u32),
            talk.expected,
            ACK,
            talk.window,
            &payload,
        ));
        if self.rng.chance(0.3) {
            // Far out of the window, and an RST that is not at the expected number.
            let far = first.wrapping_add(0x4000_0000 + self.rng.below(1 << 20) as u32);
            let flags = self.rng.pick(&[ACK, RST, FIN | ACK, SYN]);
            out.push(self.frame(self.local, far, talk.expected, flags, 100, b"far"));
        }
        if self.plan.kind == AdversaryKind::ResetAndReuse && talk.acked == len {
            out.push(self.frame(self.local, first.wrapping_add(len as u32), 0, RST, 0, b""));
            talk.rounds += 1;
            if talk.rounds >= 3 {
                talk.state = State::Over;
                return;
            }
            // The same four-tuple at once, with a later number.
            talk.isn = talk.isn.wrapping_add(0x0010_0000);
            talk.state = State::SynSent;
            talk.acked = 0;
            talk.heard.clear();
            out.push(self.frame(self.local, talk.isn, 0, SYN, 5000, b""));
        }
    }

    /// A segment of the conversation.
    fn hear(&mut self, _now: Instant, segment: &Segment<'_>) -> Vec<Vec<u8>> {
        let Some(mut talk) = self.talk.take() else { return Vec::new() };
        let mut out = Vec::new();
        let first = talk.isn.wrapping_add(1);
        match talk.state {
            State::SynSent if segment.flags & (SYN | ACK) == SYN | ACK && segment.ack == first => {
                talk.state = State::Open;
                talk.expected = segment.seq.wrapping_add(1);
                out.push(self.frame(self.local, first, talk.expected, ACK, talk.window, b""));
            }
            State::Open if segment.flags & RST != 0 => talk.state = State::Over,
            State::Open => {
                let acked = segment.ack.wrapping_sub(first) as usize;
                if acked > talk.acked && acked <= talk.script.len() {
                    talk.acked = acked;
                }
                // Takes what begins where it is awaited, as far as the window goes.
                let skip = talk.expected.wrapping_sub(segment.seq) as usize;
                if skip <= segment.payload.len() {
                    let fresh = &segment.payload[skip..];
                    let fresh = &fresh[..fresh.len().min(usize::from(talk.window))];
                    talk.heard.extend(fresh);
                    talk.expected = talk.expected.wrapping_add(fresh.len() as u32);
                }
                let ends = segment.flags & FIN != 0 && talk.expected == segment.end().wrapping_sub(1);
                let next = first.wrapping_add(talk.acked as u32);
                if ends {
                    talk.expected = talk.expected.wrapping_add(1);
                    talk.state = State::Over;
                    out.push(self.frame(self.local, next, talk.expected, ACK, talk.window, b""));
                    out.push(self.frame(self.local, next, talk.expected, RST, 0, b""));
                } else if !segment.payload.is_empty() {
                    out.push(self.frame(self.local, next, talk.expected, ACK, talk.window, b""));
                }
            }
            _ => {}
        }
        self.talk = Some(talk);
        out
    }

    /// What the server said, to the end: the echoes, byte for byte, and the close frame that the violation asks for.
    fn judge(&self) -> Option<String> {
        let talk = self.talk.as_ref().filter(|_| self.plan.kind == AdversaryKind::Overlapping)?;
        // A head that took too long is answered with 408.
        let talk = Some(talk).filter(|talk| talk.heard.starts_with(b"HTTP/1.1 101"))?;
        let head = talk.heard.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let mut rest = &talk.heard[head..];
        let mut frames = 0;
        while let [first, len, tail @ ..] = rest {
            let len = usize::from(*len);
            let payload = tail.get(..len)?;
            match first {
                0x82 if payload.iter().all(|&byte| byte == b'x') => frames += 1,
                0x88 => {
                    let code = payload.first_chunk::<2>().map(|code| u16::from_be_bytes(*code));
                    let is_right = code == Some(1002) && frames == self.plan.count;
                    let went_away = self.server_drains && code == Some(1001) && frames <= self.plan.count;
                    return (!is_right && !went_away).then(|| {
                        format!(
                            "an unmasked frame after {} messages was met with {frames} echoes and {code:?}",
                            self.plan.count
                        )
                    });
                }
                // The engine's own ping.
                0x89 => {}
                _ => return Some(format!("an echo is not what was sent: {first:#x} {payload:?}")),
            }
            rest = &tail[len..];
        }
        None
    }
}
