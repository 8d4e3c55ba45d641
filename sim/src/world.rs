//! One world: its clock, its events, and what must hold in it.

use crate::adversary::Adversaries;
use crate::book::{Book, ConnBook, SideBook, Violation};
use crate::host::{Host, PORT, ROUTER, TLS_PORT, address};
use crate::judge::Excuses;
use crate::letter::Side;
use crate::net::{Link, Net, NetStats, Router, Way};
use crate::packet::{self, ETHERNET_BYTES};
use crate::scenario::{HostPlan, Scenario};
use crate::tls;
use crate::trace::Trace;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use unsocket::engine::Connect;
use unsocket::time::{Duration, Instant};

/// When every world begins.
const BEGINNING: Instant = Instant::from_millis(1);
/// How long connections may take to end once the network is whole: longer than every deadline they are under.
const PATIENCE: Duration = Duration::from_secs(500);
/// In a gentle world something moves on each connection at least so often, its own pause apart, once the network is whole:
/// the longest that TCP backs off, and what was lost in the meantime.
const STANDSTILL_MAX: Duration = Duration::from_secs(130);
/// How long the rest may take to be cleaned up: longer than the closing deadline of a gentle world.
const CLEAN_UP: Duration = Duration::from_secs(1_700);
/// Bursts in a row that move nothing, while nothing is in their way.
const IDLE_POLLS_MAX: u32 = 20_000;
/// More events than any world of ours has: it goes round in circles.
const EVENTS_MAX: u64 = 60_000_000;

pub(crate) enum Event {
    Poll { host: usize, worker: usize },
    AtSwitch { link: usize, frame: Vec<u8> },
    AtNode { link: usize, frame: Vec<u8> },
    Connect { token: u64 },
    Look,
    FaultBegins { index: usize },
    FaultEnds { index: usize },
    TxRoom { index: usize },
    Drain { host: usize },
    Adversary { index: usize },
}

/// What became of a world.
pub(crate) struct Outcome {
    pub(crate) violation: Option<Violation>,
    pub(crate) hash: u64,
    pub(crate) virtual_time: Duration,
    pub(crate) events: u64,
    pub(crate) connections: u64,
    pub(crate) messages: u64,
    pub(crate) publications: u64,
    /// Connections judged, and those that did not go as planned, by what excuses that.
    pub(crate) judged: u64,
    pub(crate) excused: BTreeMap<&'static str, u64>,
    pub(crate) net: NetStats,
    /// The last of what happened, if it was wanted in words.
    pub(crate) trace: Vec<String>,
}

pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) now: Instant,
    events: BTreeMap<(Instant, u64), Event>,
    next_event: u64,
    pub(crate) net: Net,
    pub(crate) hosts: Vec<Host>,
    adversaries: Adversaries,
    pub(crate) book: Rc<RefCell<Book>>,
    pub(crate) trace: Trace,
    /// Connections that are not over yet.
    open: Vec<u64>,
    /// When each connection began.
    begun: BTreeMap<u64, Instant>,
    in_words: bool,
    /// When TX room or buffers were last short.
    pub(crate) short_until: Instant,
}

impl World {
    pub(crate) fn new(scenario: Scenario, in_words: bool) -> Self {
        let now = BEGINNING;
        let book = Rc::new(RefCell::new(Book { wants_notes: in_words, ..Book::default() }));
        for (index, &plan) in scenario.conns.iter().enumerate() {
            let conn = ConnBook { plan, started: false, failed: None, moved: now, sides: Default::default() };
            book.borrow_mut().conns.insert(index as u64, conn);
        }
        let hosts: Vec<Host> =
            (0..scenario.hosts.len()).map(|index| Host::new(&scenario, index, &book, now)).collect();
        let link =
            |(index, plan): (usize, &HostPlan)| Link::new(index, usize::from(plan.off_link), plan.link_delay);
        let mut links: Vec<Link> = scenario.hosts.iter().enumerate().map(link).collect();
        let delay = Duration::from_micros(5);
        links.extend([0, 0, 1].map(|segment| Link::new(usize::MAX, segment, delay)));
        let router = scenario.has_router().then(|| {
            let addrs = [0, 1].map(|segment| address(scenario.ipv6, segment, ROUTER));
            Router::new(addrs, [[2, 0, 0, 0, 1, 0], [2, 0, 0, 0, 1, 1]])
        });
        let mut world = World {
            net: Net::new(scenario.seed, links, router),
            adversaries: Adversaries::new(&scenario, &hosts),
            events: BTreeMap::new(),
            next_event: 0,
            now,
            hosts,
            book,
            trace: Trace::new(in_words),
            open: Vec::new(),
            begun: BTreeMap::new(),
            in_words,
            short_until: now,
            scenario,
        };
        world.plan();
        world
    }

    fn plan(&mut self) {
        let start = self.now;
        for (index, conn) in self.scenario.conns.clone().iter().enumerate() {
            let gone = |host: usize| self.scenario.hosts[host].drain_at.is_some_and(|at| at <= conn.start);
            if self.scenario.has_conn(index) && !gone(conn.client) && !gone(conn.server) {
                self.open.push(index as u64);
                self.at(start + conn.start, Event::Connect { token: index as u64 });
            }
        }
        for (index, fault) in self.scenario.faults.clone().iter().enumerate() {
            if self.scenario.has_fault(index) {
                self.at(start + fault.from, Event::FaultBegins { index });
                self.at(start + fault.until, Event::FaultEnds { index });
            }
        }
        for (index, adversary) in self.scenario.adversaries.clone().iter().enumerate() {
            if self.scenario.has_adversary(index) {
                self.at(start + adversary.start, Event::Adversary { index });
            }
        }
        if self.scenario.gentle {
            self.at(start, Event::Look);
        }
        for host in 0..self.hosts.len() {
            if !self.scenario.has_host(host) {
                self.hosts[host].never_starts();
                continue;
            }
            if let Some(at) = self.hosts[host].plan.drain_at {
                self.at(start + at, Event::Drain { host });
            }
            self.wake_all(host);
        }
    }

    pub(crate) fn at(&mut self, at: Instant, event: Event) {
        self.events.insert((at, self.next_event), event);
        self.next_event += 1;
    }

    /// Lets a worker run at `at`, or earlier if that was meant anyway.
    fn wake(&mut self, host: usize, worker: usize, at: Instant) {
        let seat = &mut self.hosts[host].seats[worker];
        if seat.worker.is_some() && seat.poll_at.is_none_or(|planned| at < planned) {
            seat.poll_at = Some(at);
            self.at(at, Event::Poll { host, worker });
        }
    }

    pub(crate) fn wake_all(&mut self, host: usize) {
        for worker in 0..self.hosts[host].seats.len() {
            self.wake(host, worker, self.now + Duration::from_micros(1));
        }
    }

    /// Runs until all is said, or a rule is broken.
    pub(crate) fn run(mut self) -> Outcome {
        let violation = self.live().err();
        let book = self.book.borrow();
        let mut trace: Vec<String> = self.trace.lines().map(str::to_owned).collect();
        if self.in_words && violation.is_some() {
            trace.extend(self.hosts.iter().map(Host::describe));
            trace.extend(self.open.iter().filter_map(|token| book.conns.get_key_value(token)).map(describe));
        }
        Outcome {
            violation,
            hash: self.trace.hash(),
            virtual_time: self.now.saturating_since(Instant::ZERO),
            events: self.trace.events,
            connections: book.conns.values().filter(|conn| conn.started).count() as u64
                + self.adversaries.connections,
            messages: book.messages,
            publications: book.publications,
            judged: book.judged,
            excused: book.excused.clone(),
            net: self.net.stats,
            trace,
        }
    }

    fn live(&mut self) -> Result<(), Violation> {
        let whole = self.now + self.scenario.horizon;
        while !(self.open.is_empty() && self.now >= whole && self.adversaries.are_done()) {
            if self.open.is_empty() && self.events.is_empty() {
                // Every host has ended.
                break;
            }
            self.step()?;
            // Where something moves on each connection, much to say over a path that loses much may take its time.
            let patience = if self.scenario.gentle { 4 * PATIENCE } else { PATIENCE };
            if self.now > whole + patience {
                let stuck =
                    format!("connections {:?} are not over {patience:?} after the last fault", self.open);
                return Err(Violation { oracle: "progress", what: stuck });
            }
        }
        let over = self.now;
        while !self.hosts.iter().all(|host| host.is_quiet()) && !self.events.is_empty() {
            self.step()?;
            if self.now > over + CLEAN_UP {
                break;
            }
        }
        // What is under way arrives, or what was lost is given up.
        let until = self.now + Duration::from_secs(1);
        while self.now < until && self.events.keys().next().is_some_and(|(at, _)| *at < until) {
            self.step()?;
        }
        self.hosts.iter().try_for_each(Host::check_quiet)?;
        for host in &mut self.hosts {
            for at in 0..host.seats.len() {
                host.leave(at)?;
            }
        }
        self.book.borrow().judge_publications()
    }

    fn step(&mut self) -> Result<(), Violation> {
        let Some(((at, _), event)) = self.events.pop_first() else {
            let stuck = format!("nothing will ever happen again; connections {:?} are not over", self.open);
            return Err(Violation { oracle: "progress", what: stuck });
        };
        self.now = at;
        if self.trace.events > EVENTS_MAX {
            return Err(Violation { oracle: "progress", what: format!("{EVENTS_MAX} events") });
        }
        match event {
            Event::Poll { host, worker } => self.poll(host, worker)?,
            Event::AtSwitch { link, frame } => {
                for out in self.net.switch(link, &frame) {
                    self.transmit(out, Way::Down, frame.clone());
                }
            }
            Event::AtNode { link, frame } => self.receive(link, frame),
            Event::Connect { token } => self.connect(token),
            Event::Look => self.look_for_progress(),
            Event::FaultBegins { index } => self.begin_fault(index)?,
            Event::FaultEnds { index } => self.end_fault(index),
            Event::TxRoom { index } => self.give_room(index),
            Event::Drain { host } => {
                self.trace.event(at, 8, &[host as u8], || format!("host {host} is drained"));
                self.hosts[host].drained = true;
                self.hosts[host].handle.drain();
                self.heed_bells(host, false);
            }
            Event::Adversary { index } => self.run_adversary(index),
        }
        self.read_book()
    }

    /// One burst of one worker.
    fn poll(&mut self, host: usize, at: usize) -> Result<(), Violation> {
        let now = self.now;
        let machine = &mut self.hosts[host];
        // Another wake-up was earlier, or the machine stands still.
        if machine.seats[at].poll_at != Some(now) || machine.frozen {
            return Ok(());
        }
        machine.seats[at].poll_at = None;
        let Some((frames, progress)) = machine.poll(at, now) else { return Ok(()) };
        machine.check(at)?;
        let deadline = progress.deadline.map_or(0, Instant::as_nanos).to_le_bytes();
        self.trace.event(now, 1 << 8 | (host << 4 | at) as u64, &deadline, String::new);
        if progress.busy {
            let sends = frames.len();
            self.trace.say(now, || {
                format!("host {host} worker {at} ran, sends {sends}, due {:?}", progress.deadline)
            });
        }
        for frame in frames {
            self.hosts[host].remember_flow(at, &frame);
            self.transmit(host, Way::Up, frame);
        }
        if progress.ended {
            self.trace.say(now, || format!("host {host} worker {at} has ended"));
            return self.hosts[host].leave(at);
        }
        let idle_polls = self.hosts[host].seats[at].idle_polls;
        if idle_polls > IDLE_POLLS_MAX && now > self.short_until && progress.busy {
            let what = format!("host {host} worker {at}: {idle_polls} bursts in a row moved nothing");
            return Err(Violation { oracle: "no worker spins", what });
        }
        if let Some(wait) = self.hosts[host].rest(at, now, &progress) {
            self.wake(host, at, now + wait);
        }
        let handed_over = self.hosts[host].seats[at].handed_over;
        self.heed_bells(host, handed_over);
        Ok(())
    }

    /// Wakes the workers for whom a command or another worker's frame has come.
    pub(crate) fn heed_bells(&mut self, host: usize, handed_over: bool) {
        for at in 0..self.hosts[host].seats.len() {
            if self.hosts[host].seats[at].asleep && self.hosts[host].is_woken(at, handed_over) {
                self.wake(host, at, self.now + Duration::from_micros(1));
            }
        }
    }

    fn transmit(&mut self, link: usize, way: Way, frame: Vec<u8>) {
        for arrival in self.net.transmit(self.now, link, way, frame) {
            let frame = arrival.frame;
            let event = match way {
                Way::Up => Event::AtSwitch { link, frame },
                Way::Down => Event::AtNode { link, frame },
            };
            self.at(arrival.at, event);
        }
    }

    /// A frame reached a node.
    fn receive(&mut self, link: usize, frame: Vec<u8>) {
        let (now, hosts) = (self.now, self.hosts.len());
        let seen =
            if self.scenario.tls { tls::what_a_seed_decides(&frame) } else { Cow::Borrowed(&frame[..]) };
        self.trace
            .event(now, 2 << 8 | link as u64, &seen, || format!("-> {link}: {}", packet::describe(&frame)));
        if link < hosts {
            let is_down =
                self.hosts[link].crashed || self.hosts[link].seats.iter().all(|seat| seat.worker.is_none());
            if is_down || (frame[..6] != self.hosts[link].mac && frame[0] & 1 == 0) {
                return;
            }
            let at = self.hosts[link].arrive(frame);
            if self.hosts[link].seats[at].asleep {
                self.wake(link, at, now + Duration::from_micros(1));
            }
        } else if link == hosts {
            let out = self.adversaries.receive(now, &frame);
            self.say(out);
        } else {
            for (segment, frame) in self.net.route(now, link - hosts - 1, &frame) {
                self.transmit(hosts + 1 + segment, Way::Up, frame);
            }
        }
    }

    fn run_adversary(&mut self, index: usize) {
        let (out, again) = self.adversaries.act(index, self.now);
        self.say(out);
        if let Some(what) = self.adversaries.violation.take() {
            self.book.borrow_mut().violate("adversaries get what the RFCs say", what);
        }
        if let Some(at) = again {
            self.at(at, Event::Adversary { index });
        }
    }

    /// Sends an adversary's frames.
    fn say(&mut self, frames: Vec<Vec<u8>>) {
        let link = self.hosts.len();
        for frame in frames {
            if frame.len() >= ETHERNET_BYTES {
                self.transmit(link, Way::Up, frame);
            }
        }
    }

    /// Whether every connection of a gentle world moves.
    fn look_for_progress(&mut self) {
        let whole = BEGINNING + self.scenario.whole_from();
        let mut book = self.book.borrow_mut();
        let stands = |token: &&u64| {
            let conn = &book.conns[token];
            let since = conn.moved.max(whole);
            // Of a host that is drained nothing may be left to answer.
            let is_drained =
                [conn.plan.client, conn.plan.server].iter().any(|&host| self.hosts[host].drained);
            let moves_in_time = self.now.saturating_since(since) <= STANDSTILL_MAX + conn.plan.pause;
            conn.started && !is_drained && !moves_in_time
        };
        if let Some(token) = self.open.iter().copied().find(|token| stands(&token)) {
            let what =
                format!("nothing has moved on connection {token} for {STANDSTILL_MAX:?} of a whole network");
            book.violate("progress", what);
        }
        drop(book);
        if !self.open.is_empty() {
            self.at(self.now + Duration::from_secs(5), Event::Look);
        }
    }

    fn connect(&mut self, token: u64) {
        let Some(plan) = self.book.borrow_mut().conns.get_mut(&token).map(|conn| {
            conn.started = true;
            conn.moved = self.now;
            conn.plan
        }) else {
            return;
        };
        self.begun.insert(token, self.now);
        let port = if plan.tls { TLS_PORT } else { PORT };
        let remote = SocketAddr::new(self.hosts[plan.server].addr, port);
        let mut connect = Connect::new(remote, format!("/plan?{token}"));
        connect.tls = self.hosts[plan.client].client_tls.clone().filter(|_| plan.tls);
        connect.token = token;
        self.trace.event(self.now, 3 << 8, &token.to_le_bytes(), || format!("{token} begins: {plan:?}"));
        let reached =
            !self.hosts[plan.client].crashed && self.hosts[plan.client].handle.connect(connect).is_ok();
        if !reached || self.hosts[plan.client].seats.iter().all(|seat| seat.worker.is_none()) {
            self.book.borrow_mut().lose(token, Side::Client);
        }
        self.heed_bells(plan.client, false);
    }

    /// Takes what the applications saw into the trace, and looks who has ended.
    fn read_book(&mut self) -> Result<(), Violation> {
        let mut book = self.book.borrow_mut();
        if book.seen.is_empty() && book.violations.is_empty() {
            return Ok(());
        }
        for (at, word) in std::mem::take(&mut book.seen) {
            self.trace.event(at, 6 << 8, &word.to_le_bytes(), String::new);
        }
        for (at, line) in std::mem::take(&mut book.notes) {
            self.trace.say(at, || line);
        }
        if !book.violations.is_empty() {
            return Err(book.violations.remove(0));
        }
        let (gentle, hosts) = (self.scenario.gentle, &self.hosts);
        let mut over = Vec::new();
        self.open.retain(|token| {
            let is_over = book.conns.get(token).is_some_and(ConnBook::is_over);
            if is_over {
                over.push(*token);
            }
            !is_over
        });
        for token in over {
            let plan = book.conns[&token].plan;
            let begun = self.begun.get(&token).copied().unwrap_or(BEGINNING);
            let [from, until] = [begun, self.now].map(|at| at.saturating_since(BEGINNING));
            let excuses = Excuses {
                harsh: !gentle,
                hit: self.scenario.worst_hit([plan.client, plan.server], from, until).filter(|_| !gentle),
                drained: hosts[plan.server].drained || hosts[plan.client].drained,
                evicted: hosts[plan.server].evicted_at.is_some_and(|at| at >= begun),
            };
            book.judge(token, excuses);
        }
        match book.violations.is_empty() {
            true => Ok(()),
            false => Err(book.violations.remove(0)),
        }
    }
}

fn describe((token, conn): (&u64, &ConnBook)) -> String {
    let side = |side: &SideBook| {
        format!(
            "opened {}, ended {:?}, lost {}, sent {}, received {}, under way {}",
            side.opened,
            side.ended,
            side.lost,
            side.sent,
            side.received,
            side.under_way.len()
        )
    };
    format!(
        "connection {token}: {:?}\n  failed: {:?}\n  client: {}\n  server: {}",
        conn.plan,
        conn.failed,
        side(&conn.sides[0]),
        side(&conn.sides[1])
    )
}
