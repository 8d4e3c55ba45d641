//! The loop of one generator thread, the same over every transport: which message is due on which connection, whether a
//! reply is the right one, what is counted.
//!
//! The transport calls [`Generator::tick`] once per burst with the time that holds for it, then for each
//! connection [`Generator::opened`], [`Generator::may_send`] / [`Generator::write`] / [`Generator::sent`] and
//! [`Generator::reply`]; when [`Generator::is_done`] says so it closes the connection. Between replies,
//! [`Generator::next_due`] names connections that are to be looked at. One connection costs a [`Load`] and, in a closed loop,
//! one timestamp per message in flight.

mod replies;

use super::crew::{Board, Bounds, Window};
use super::load::{Birth, Failure, Load};
use super::pace::{Pace, Schedule};
use super::pattern::Pattern;
use super::plan::{Plan, Scenario, Share, Stop};
use super::publication::{Audience, Publication};
use super::senders::Senders;
use super::series::Series;
use super::tally::{Cause, Tally};
use super::usage::{SchedStat, Usage};
use crate::time::{Duration, Instant};
use crossbeam_utils::CachePadded;
use std::sync::Arc;

/// One thread's loop.
#[derive(Debug)]
pub struct Generator {
    scenario: Scenario,
    deflate: bool,
    share: Share,
    in_flight: u32,
    pace: Pace,
    senders: Senders,
    /// Connections that sent nothing prove at the end that they are there.
    proves: bool,
    timeout: Duration,
    ramp: Duration,
    began: Option<Instant>,
    counts_by_time: bool,
    pattern: Arc<Pattern>,
    window: Arc<Window>,
    board: Arc<CachePadded<Board>>,
    now: Instant,
    /// When the load begins and is measured, as far as it is known at `now`.
    bounds: Bounds,
    /// The first burst that was measured; what was sent before it does not count.
    measuring_since: Instant,
    /// Measured messages that may still be sent.
    quota: u64,
    /// In a closed loop, when each message on its way was sent: so many slots per connection, a power of two.
    slots: u32,
    sent_at: Vec<Instant>,
    over: bool,
    opened: u32,
    settled: u32,
    unmeasured: u64,
    tally: Tally,
    busy: Option<Duration>,
    stat_at_start: Option<SchedStat>,
    stat_at_end: Option<SchedStat>,
}

impl Generator {
    /// The loop of `share` of `plan`. `window` says when to measure; what happens is published on `board`; `publication` is
    /// what the threads of a broadcast share.
    pub fn new(
        plan: &Plan,
        share: Share,
        pattern: Arc<Pattern>,
        window: Arc<Window>,
        board: Arc<CachePadded<Board>>,
        publication: &Arc<Publication>,
    ) -> Self {
        let every = match plan.scenario {
            Scenario::Idle { active, .. } => active,
            _ => 1,
        };
        let senders = Senders::new(every, share.connections);
        let pace = if plan.scenario == Scenario::Broadcast {
            let schedule = Schedule::new(plan, Share { worker: 0, ..share }, 1, 1);
            Pace::Broadcast(Audience::new(Arc::clone(publication), share.worker), schedule)
        } else {
            let all = plan.shares().iter().map(|share| Senders::new(every, share.connections).count()).sum();
            Schedule::new(plan, share, senders.count(), all).map_or(Pace::Closed, Pace::Open)
        };
        let slots = plan.in_flight.next_power_of_two();
        let times = match pace {
            Pace::Closed => share.connections as usize * slots as usize,
            Pace::Open(_) | Pace::Broadcast(..) => 0,
        };
        Generator {
            pace,
            senders,
            proves: matches!(plan.scenario, Scenario::Idle { .. }),
            ramp: plan.ramp,
            began: None,
            busy: None,
            scenario: plan.scenario,
            deflate: plan.deflate,
            share,
            in_flight: plan.in_flight,
            timeout: plan.timeout,
            counts_by_time: matches!(plan.stop, Stop::After(_)),
            pattern,
            window,
            board,
            now: Instant::ZERO,
            bounds: Bounds::UNKNOWN,
            measuring_since: Instant::FAR_FUTURE,
            quota: share.messages,
            slots,
            sent_at: vec![Instant::ZERO; times],
            over: false,
            opened: 0,
            settled: 0,
            unmeasured: 0,
            tally: Tally::new(plan.series.then(Series::default)),
            stat_at_start: None,
            stat_at_end: None,
        }
    }

    /// What is done over and over.
    pub fn scenario(&self) -> Scenario {
        self.scenario
    }

    /// Whether connections are to be compressed.
    pub fn deflate(&self) -> bool {
        self.deflate
    }

    /// What a connection fails with whose server answered the upgrade request, but not as it should have:
    /// `compressed` says whether it agreed to compress. A figure of another load than was asked for would be worthless.
    ///
    /// # Errors
    /// When compression is wanted and was not agreed on.
    pub fn check_compression(&self, compressed: bool) -> Result<(), Failure> {
        if self.deflate && !compressed {
            return Err(Failure::new(Cause::Upgrade, "the server did not agree to permessage-deflate"));
        }
        Ok(())
    }

    /// The connections to open.
    pub fn share(&self) -> Share {
        self.share
    }

    /// The time limit of a reply and of the opening of a connection.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The time of this burst.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Begins a burst at `now` and publishes what the ones before it did.
    pub fn tick(&mut self, now: Instant) {
        self.now = now;
        self.began.get_or_insert(now);
        self.bounds = self.window.bounds();
        if self.measuring_since > now && now >= self.bounds.from {
            self.measuring_since = now;
            self.stat_at_start = SchedStat::of_this_thread();
        }
        if self.stat_at_end.is_none() && now >= self.bounds.until {
            self.stat_at_end = SchedStat::of_this_thread();
        }
        self.look_whether_over();
        self.board.publish(self.opened, self.settled, self.unmeasured, self.tally.messages);
    }

    /// Whether the first messages may go: every connection of every thread is settled.
    pub fn has_started(&self) -> bool {
        self.now >= self.bounds.start
    }

    /// Whether the load is over: nothing new is sent, connections that wait for nothing may close.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Finds out whether the load is over.
    fn look_whether_over(&mut self) {
        let over = self.now >= self.bounds.until || (self.now >= self.measuring_since && self.quota == 0);
        self.over = match &self.pace {
            Pace::Closed | Pace::Open(_) => over,
            Pace::Broadcast(audience, _) => {
                if over && audience.publishes() {
                    audience.publication().end();
                }
                audience.publication().has_ended()
            }
        };
    }

    /// Whether another connection may be opened after so many were begun: the ramp draws it out.
    pub fn may_open(&self, begun: u32) -> bool {
        if self.is_over() || begun >= self.share.connections {
            return false;
        }
        let passed = (self.now - self.began.unwrap_or(self.now)).as_secs_f64();
        let due = passed / self.ramp.as_secs_f64() * f64::from(self.share.connections);
        self.ramp.is_zero() || f64::from(begun) <= due
    }

    /// A connection that is to be looked at, as a message may be due on it though nothing came. To be asked in each burst
    /// until there is none.
    pub fn next_due(&mut self) -> Option<u32> {
        match &mut self.pace {
            Pace::Closed => None,
            Pace::Open(schedule) if self.now < self.bounds.until => {
                schedule.take_due(self.now, self.bounds.start).map(|index| self.senders.row(index))
            }
            Pace::Open(_) => None,
            Pace::Broadcast(audience, _) => {
                (audience.publishes() && audience.has_room_again(self.now)).then_some(0)
            }
        }
    }

    /// When [`Generator::next_due`] is to be asked again, if nothing comes before.
    pub fn next_due_at(&self) -> Instant {
        match &self.pace {
            Pace::Closed => Instant::FAR_FUTURE,
            Pace::Open(schedule) => schedule.next_at(self.bounds.start),
            // Nothing but looking tells what the other threads' subscribers have got.
            Pace::Broadcast(audience, _) if audience.publishes() && self.has_started() => Instant::ZERO,
            Pace::Broadcast(..) => Instant::FAR_FUTURE,
        }
    }

    /// Connection `row` of this thread is open.
    pub fn opened(&mut self, row: u32) -> Load {
        self.opened += 1;
        self.settled += 1;
        if let Pace::Broadcast(audience, _) = &mut self.pace {
            audience.opened(row);
        }
        Load::new(row)
    }

    /// Connections of this thread are opened as part of the load, so that none is waited for before it begins.
    pub fn settle(&mut self) {
        self.settled = self.share.connections;
    }

    /// The place of connections that are opened one after the other.
    pub fn place(&self, row: u32) -> Load {
        Load::new(row)
    }

    /// Whether another connection is due, where opening them is the load.
    pub fn may_begin(&self) -> bool {
        self.has_started() && !self.is_over()
    }

    /// The connection that was due is being opened.
    pub fn begun(&mut self) -> Birth {
        let measured = self.now >= self.measuring_since;
        self.quota = self.quota.saturating_sub(u64::from(measured));
        if self.quota == 0 {
            self.look_whether_over();
        }
        Birth { at: self.now, measured }
    }

    /// It is open: where opening is the load, that is what counts, and its time.
    pub fn born(&mut self, birth: Birth) {
        self.opened += 1;
        self.count(birth.at, birth.measured);
    }

    /// A connection failed before it was open.
    #[cold]
    pub fn failed_to_open(&mut self, failure: Failure) {
        self.settled = self.settled.saturating_add(1);
        if let Pace::Broadcast(audience, _) = &mut self.pace {
            audience.failed();
            self.window.close(self.now);
        }
        self.tally.error(failure.cause, || failure.detail);
    }

    /// An open connection failed; what was on its way is lost.
    #[cold]
    pub fn failed(&mut self, load: &Load, failure: Failure) {
        self.opened -= 1;
        self.count_unsent(load);
        match &mut self.pace {
            Pace::Broadcast(audience, _) => {
                if !audience.is_publisher(load.row) {
                    self.tally.lost += audience.publication().published() - load.answered;
                }
                audience.failed();
                self.window.close(self.now);
            }
            Pace::Closed | Pace::Open(_) => self.tally.lost += load.outstanding(),
        }
        self.tally.error(failure.cause, || failure.detail);
    }

    /// A connection was closed in good order.
    pub fn closed(&mut self, load: &Load) {
        self.opened -= 1;
        self.count_unsent(load);
    }

    /// Counts what was due within the measured time on a connection that is over, and not sent.
    fn count_unsent(&mut self, load: &Load) {
        let (schedule, index) = match (&self.pace, self.senders.index(load.row)) {
            (Pace::Open(schedule), Some(index)) => (schedule, index),
            (Pace::Broadcast(audience, Some(schedule)), _) if audience.is_publisher(load.row) => {
                (schedule, 0)
            }
            _ => return,
        };
        for late in schedule.unsent(index, load.sent, self.bounds) {
            self.tally.unsent(late);
        }
    }

    /// Whether a message is due on this connection.
    #[inline]
    pub fn may_send(&mut self, load: &Load) -> bool {
        match self.pace {
            // Asked twice a reply: most often all that may be on its way is.
            Pace::Closed | Pace::Open(_) if load.outstanding() >= u64::from(self.in_flight) => false,
            Pace::Closed if self.has_started() && !self.over => self.senders.index(load.row).is_some(),
            _ => self.has_started() && self.is_due(load),
        }
    }

    /// The rest of [`Generator::may_send`].
    fn is_due(&mut self, load: &Load) -> bool {
        let over = self.is_over();
        match &mut self.pace {
            Pace::Broadcast(audience, schedule) => {
                let due = schedule.map_or(Instant::ZERO, |schedule| {
                    self.bounds.start + schedule.due(0, audience.publication().published())
                });
                audience.is_publisher(load.row) && audience.has_room() && due <= self.now && !over
            }
            Pace::Closed | Pace::Open(_) if over => self.proves && load.sent == 0,
            Pace::Closed => self.senders.index(load.row).is_some(),
            Pace::Open(schedule) => self
                .senders
                .index(load.row)
                .is_some_and(|index| self.bounds.start + schedule.due(index, load.sent) <= self.now),
        }
    }

    /// Whether connections that sent nothing prove at the end that they are there, and it has come.
    pub fn proves(&self) -> bool {
        self.proves && self.is_over()
    }

    /// Whether a connection has yet to prove that it is there.
    fn is_unproved(&self, load: &Load) -> bool {
        self.proves && load.answered == 0
    }

    /// Whether the load is over for this connection: nothing to send, nothing to wait for.
    #[inline]
    pub fn is_done(&mut self, load: &Load) -> bool {
        if !self.is_over() {
            return false;
        }
        match &mut self.pace {
            Pace::Broadcast(audience, _) if audience.is_publisher(load.row) => audience.is_complete(),
            Pace::Broadcast(audience, _) => load.answered == audience.publication().published(),
            Pace::Closed | Pace::Open(_) => !load.is_waiting() && !self.is_unproved(load),
        }
    }

    /// Length of the longest message in bytes.
    pub fn message_bytes_max(&self) -> usize {
        self.pattern.most()
    }

    /// Length of the message that is due, in bytes.
    pub fn message_bytes(&self, load: &Load) -> usize {
        self.pattern.size(self.share.first + load.row, load.sent)
    }

    /// Whether the messages are text.
    pub fn is_text(&self) -> bool {
        self.pattern.is_text()
    }

    /// Appends the payload of the message that is due.
    #[inline]
    pub fn write(&self, load: &Load, out: &mut Vec<u8>) {
        self.pattern.write(self.share.first + load.row, load.sent, out);
    }

    /// The message that was due is on its way.
    #[inline]
    pub fn sent(&mut self, load: &mut Load) {
        let begun_at = match &mut self.pace {
            Pace::Closed => {
                let slot = slot(self.slots, load, load.sent);
                self.sent_at[slot] = self.now;
                self.now
            }
            Pace::Open(_) => {
                if !load.is_waiting() {
                    load.quiet_since = self.now;
                }
                self.begun_at(load, load.sent)
            }
            Pace::Broadcast(audience, schedule) => {
                let at = schedule.map_or(self.now, |schedule| {
                    self.bounds.start + schedule.due(0, audience.publication().published())
                });
                audience.publish(at);
                self.tally.published += u64::from(self.now >= self.measuring_since);
                at
            }
        };
        if begun_at >= self.measuring_since {
            self.quota = self.quota.saturating_sub(1);
            if self.quota == 0 {
                self.look_whether_over();
            }
        }
        load.sent += 1;
    }

    /// A message is on its way that is not what the load counts.
    pub fn sent_beside(&mut self, load: &mut Load) {
        let slot = slot(self.slots, load, load.sent);
        self.sent_at[slot] = self.now;
        load.sent += 1;
    }

    fn is_measuring(&self) -> bool {
        self.bounds.from <= self.now && self.now < self.bounds.until
    }

    /// The thread had something to do from `since` to `until`; for threads that never sleep.
    pub fn worked(&mut self, since: Instant, until: Instant) {
        let busy = self.busy.get_or_insert_default();
        if self.bounds.from <= since && until <= self.bounds.until {
            *busy += until - since;
        }
    }

    /// Whether the oldest message on its way has waited for longer than the time limit.
    pub fn is_overdue(&self, load: &Load) -> bool {
        let since = match &self.pace {
            Pace::Broadcast(audience, _) => {
                let waits = load.answered < audience.publication().published();
                if !waits || audience.is_publisher(load.row) {
                    return false;
                }
                audience.published_at(load.answered)
            }
            _ if !load.is_waiting() => return false,
            Pace::Closed => self.begun_at(load, load.answered),
            Pace::Open(_) => load.quiet_since,
        };
        self.now - since > self.timeout
    }

    /// What a connection fails with that [`Generator::is_overdue`].
    pub fn overdue(&self) -> Failure {
        Failure::new(Cause::Timeout, format!("no reply within {:?}", self.timeout))
    }

    /// Ends the loop and hands out what it counted. To be called on the thread that ran it.
    pub fn finish(&mut self) -> (Tally, Usage) {
        self.tick(self.now);
        self.tally.ended_at = self.now;
        if let Pace::Broadcast(audience, _) = &self.pace
            && audience.publishes()
        {
            audience.publication().end();
        }
        let end = self.stat_at_end.or_else(SchedStat::of_this_thread);
        let usage = Usage { busy: self.busy, ..Usage::between(self.stat_at_start, end) };
        (std::mem::take(&mut self.tally), usage)
    }
}

/// Where the time is kept at which a message was sent, with so many places for each connection.
#[inline]
fn slot(slots: u32, load: &Load, sequence: u64) -> usize {
    // A power of two for each connection: a remainder would be a division.
    load.row as usize * slots as usize + (sequence as u32 & (slots - 1)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::Message;

    struct Bench {
        window: Arc<Window>,
        board: Arc<CachePadded<Board>>,
        generator: Generator,
    }

    fn bench(stop: Stop, in_flight: u32) -> Bench {
        bench_of(Plan::small(2, in_flight, stop))
    }

    fn bench_of(plan: Plan) -> Bench {
        let window = Arc::new(Window::default());
        let board = Arc::new(CachePadded::new(Board::default()));
        let pattern = Arc::new(Pattern::new(&plan));
        let publication = Arc::new(Publication::new(plan.in_flight));
        let generator = Generator::new(
            &plan,
            plan.shares()[0],
            pattern,
            Arc::clone(&window),
            Arc::clone(&board),
            &publication,
        );
        Bench { window, board, generator }
    }

    impl Bench {
        /// Everything counts from 1 us on.
        fn start(&mut self) {
            self.window.open(Bounds { start: at(1), from: at(1), until: Instant::FAR_FUTURE });
            self.generator.tick(at(1));
        }

        fn send(&mut self, load: &mut Load) -> Vec<u8> {
            assert!(self.generator.may_send(load));
            let mut payload = Vec::new();
            self.generator.write(load, &mut payload);
            self.generator.sent(load);
            payload
        }

        fn reply(&mut self, load: &mut Load, payload: &[u8]) -> Result<(), Cause> {
            self.generator.reply(load, Message::Binary(payload)).map_err(|failure| failure.cause)
        }
    }

    fn at(micros: u64) -> Instant {
        Instant::from_micros(micros)
    }

    #[test]
    fn a_reply_within_the_window_counts_with_its_round_trip_time() {
        let mut bench = bench(Stop::After(Duration::from_micros(100)), 1);
        bench.generator.tick(at(9));
        let mut load = bench.generator.opened(0);
        assert!(!bench.generator.may_send(&load));
        bench.window.open(Bounds { start: at(10), from: at(20), until: at(120) });
        bench.generator.tick(at(10));
        let warmup = bench.send(&mut load);
        assert!(!bench.generator.may_send(&load));
        bench.generator.tick(at(19));
        bench.reply(&mut load, &warmup).unwrap();
        let measured = bench.send(&mut load);
        bench.generator.tick(at(30));
        bench.reply(&mut load, &measured).unwrap();
        let late = bench.send(&mut load);
        bench.generator.tick(at(120));
        bench.reply(&mut load, &late).unwrap();
        assert!(bench.generator.is_done(&load));
        bench.generator.closed(&load);
        let board = Arc::clone(&bench.board);
        let (tally, _) = bench.generator.finish();
        assert_eq!((tally.messages, tally.errors(), tally.lost), (1, 0, 0));
        assert_eq!((tally.rtt.min(), tally.rtt.len()), (11_000, 1));
        assert_eq!((board.open(), board.settled(), board.replies(), board.measured()), (0, 1, 3, 1));
    }

    #[test]
    fn a_number_of_messages_is_sent_exactly() {
        let mut bench = bench(Stop::Messages(3), 2);
        bench.start();
        let mut load = bench.generator.opened(0);
        let first = bench.send(&mut load);
        let second = bench.send(&mut load);
        assert!(!bench.generator.may_send(&load));
        bench.reply(&mut load, &first).unwrap();
        let third = bench.send(&mut load);
        bench.reply(&mut load, &second).unwrap();
        assert!(!bench.generator.may_send(&load) && !bench.generator.is_done(&load));
        bench.reply(&mut load, &third).unwrap();
        assert!(bench.generator.is_done(&load));
        assert_eq!(bench.generator.finish().0.messages, 3);
    }

    #[test]
    fn messages_of_the_warm_up_are_beside_the_number() {
        let mut bench = bench(Stop::Messages(1), 1);
        bench.window.open(Bounds { start: at(1), from: at(5), until: Instant::FAR_FUTURE });
        bench.generator.tick(at(1));
        let mut load = bench.generator.opened(0);
        let warmup = bench.send(&mut load);
        bench.generator.tick(at(6));
        bench.reply(&mut load, &warmup).unwrap();
        let measured = bench.send(&mut load);
        bench.reply(&mut load, &measured).unwrap();
        assert!(bench.generator.is_done(&load));
        assert_eq!(bench.generator.finish().0.messages, 1);
    }

    #[test]
    fn a_wrong_reply_is_counted_and_the_loop_goes_on() {
        let mut bench = bench(Stop::After(Duration::from_secs(1)), 1);
        bench.start();
        let mut load = bench.generator.opened(0);
        let mut other = bench.generator.opened(1);
        let mut corrupt = bench.send(&mut load);
        corrupt[15] ^= 1;
        bench.reply(&mut load, &corrupt).unwrap();
        let short = bench.send(&mut load);
        bench.reply(&mut load, &short[..19]).unwrap();
        bench.send(&mut load);
        let foreign = bench.send(&mut other);
        bench.reply(&mut load, &foreign).unwrap();
        let (tally, _) = bench.generator.finish();
        let causes: Vec<_> = tally.errors_by_cause().map(|(cause, error)| (cause, error.count)).collect();
        assert_eq!(causes, [(Cause::Length, 1), (Cause::Corrupt, 1), (Cause::Misdelivered, 1)]);
        assert_eq!(tally.messages, 0);
    }

    #[test]
    fn a_reply_of_the_wrong_kind_is_counted() {
        let mut bench = bench_of(Plan { text: true, ..Plan::small(1, 1, Stop::Messages(1)) });
        bench.start();
        let mut load = bench.generator.opened(0);
        let payload = bench.send(&mut load);
        bench.reply(&mut load, &payload).unwrap();
        let (tally, _) = bench.generator.finish();
        assert_eq!(tally.errors_by_cause().map(|(cause, _)| cause).collect::<Vec<_>>(), [Cause::Kind]);
    }

    #[test]
    fn a_reply_out_of_order_or_to_nothing_ends_the_connection() {
        let mut bench = bench(Stop::After(Duration::from_secs(1)), 2);
        bench.start();
        let mut load = bench.generator.opened(0);
        assert_eq!(bench.reply(&mut load, b"hello"), Err(Cause::Unsolicited));
        bench.send(&mut load);
        let second = bench.send(&mut load);
        assert_eq!(bench.reply(&mut load, &second), Err(Cause::OutOfOrder));
        bench.generator.failed(&load, Failure::new(Cause::OutOfOrder, "test"));
        let (tally, _) = bench.generator.finish();
        assert_eq!((tally.errors(), tally.lost), (1, 1));
    }

    #[test]
    fn a_message_without_a_reply_becomes_overdue() {
        let mut bench = bench(Stop::After(Duration::from_secs(9)), 1);
        bench.start();
        let mut load = bench.generator.opened(0);
        assert!(!bench.generator.is_overdue(&load));
        bench.send(&mut load);
        bench.generator.tick(at(1_000_001));
        assert!(!bench.generator.is_overdue(&load));
        bench.generator.tick(at(1_000_002));
        assert!(bench.generator.is_overdue(&load));
    }
}
