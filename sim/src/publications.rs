//! Publications: who was to get them, who did, and what the engine says about the rest.

use crate::book::{Book, ConnBook, Ended, Violation};
use crate::letter::{Side, publication};
use std::collections::BTreeSet;
use std::ops::Range;
use unsocket::engine::{Cause, PublishOutcome};
use unsocket::time::{Duration, Instant};

/// How long a publication may take from one worker to another.
const ON_ITS_WAY: Duration = Duration::from_secs(2);
/// How long the engine may take to end a connection that it has begun to close: longer than any deadline of a close.
const ENDING: Duration = Duration::from_secs(250);

/// A message that was published.
#[derive(Debug)]
pub(crate) struct Publication {
    at: Instant,
    /// Subscribers that must get it, unless it is dropped by policy.
    owed: BTreeSet<u64>,
}

/// What subscribers of one server did not get, and what the engine says about that.
#[derive(Debug, Default)]
pub(crate) struct Missed {
    publications: u64,
    example: Option<(u64, u64, u64)>,
    /// Dropped, not forwarded, or skipped because their subscriber was closing, as the engine counts.
    counted: u64,
    /// Of these, messages that the application itself was told of.
    told: u64,
}

/// A publication that some subscribers of its worker were not sent: those that the engine was about to close.
#[derive(Debug)]
pub(crate) struct Skipped {
    at: Instant,
    subscribers: Vec<u64>,
    count: usize,
}

/// The server among a publisher's bits: its host and incarnation.
fn server_of(publisher: u64) -> u64 {
    publisher >> 4
}

impl Book {
    /// The number of what a worker publishes next.
    pub(crate) fn next_publication(&self, publisher: u64) -> u64 {
        self.published.get(&publisher).map_or(0, |all| all.len() as u64) + 1
    }

    /// A message was published. Whoever is subscribed now must get it, once, in order, or it was dropped by policy.
    pub(crate) fn published(&mut self, at: Instant, publisher: u64, topic: u8, outcome: PublishOutcome) {
        let subscribes = |conn: &ConnBook| {
            let [_, server] = &conn.sides;
            let is_here = server.opened && server_of(server.worker) == server_of(publisher);
            is_here && conn.plan.topic == Some(topic) && !server.is_over() && server.closing.is_none()
        };
        let owed: BTreeSet<u64> =
            self.conns.iter().filter(|(_, conn)| subscribes(conn)).map(|(&token, _)| token).collect();
        let here = owed.iter().copied().filter(|token| self.conns[token].sides[1].worker == publisher);
        let subscribers: Vec<u64> = here.collect();
        let count = subscribers.len().saturating_sub(outcome.sent + outcome.queued + outcome.dropped);
        if count > 0 {
            self.missed.entry(server_of(publisher)).or_default().counted += count as u64;
            self.skipped.push(Skipped { at, subscribers, count });
        }
        self.published.entry(publisher).or_default().push(Publication { at, owed });
    }

    /// The application was told that a message was dropped.
    pub(crate) fn told_dropped(&mut self, worker: u64) {
        self.missed.entry(server_of(worker)).or_default().told += 1;
    }

    /// A worker has ended: how many messages it dropped, by its own counters.
    pub(crate) fn counted_dropped(&mut self, worker: u64, dropped: u64) {
        self.missed.entry(server_of(worker)).or_default().counted += dropped;
    }

    /// Those of a worker's publications in `numbers` that a subscriber was to get will not come any more.
    fn miss(&mut self, token: u64, publisher: u64, numbers: Range<u64>, until: Option<Instant>) {
        let Some(all) = self.published.get(&publisher) else { return };
        let Some(conn) = self.conns.get(&token) else { return };
        let is_here = conn.sides[1].worker == publisher;
        for number in numbers {
            let Some(publication) = all.get(number as usize - 1) else { continue };
            // What comes from another worker may have been on its way when the connection closed.
            let in_time = is_here || until.is_none_or(|until| publication.at + ON_ITS_WAY < until);
            if publication.owed.contains(&token) && in_time {
                let missed = self.missed.entry(server_of(publisher)).or_default();
                missed.publications += 1;
                missed.example.get_or_insert((token, publisher, number));
            }
        }
    }

    /// When all is over: whatever did not arrive was dropped by policy, and counted.
    pub(crate) fn judge_publications(&self) -> Result<(), Violation> {
        for skipped in &self.skipped {
            let was_closing = |token: &&u64| {
                let [_, server] = &self.conns[token].sides;
                let soon = |ended: &Ended| ended.cause != Cause::Local && ended.at <= skipped.at + ENDING;
                server.lost || server.ended.as_ref().is_some_and(soon)
            };
            let closing = skipped.subscribers.iter().filter(was_closing).count();
            if closing < skipped.count {
                let what = format!("{closing} subscribers were closing: {skipped:?}");
                return Err(Violation { oracle: "publications once and in order", what });
            }
        }
        for missed in self.missed.values() {
            let counted = missed.counted.saturating_sub(missed.told);
            if let (true, Some((token, publisher, number))) = (missed.publications > counted, missed.example)
            {
                let what = format!(
                    "{} did not arrive, {counted} are counted as dropped; the first: {number} of {publisher} at connection {token}",
                    missed.publications
                );
                return Err(Violation { oracle: "publications once and in order", what });
            }
        }
        Ok(())
    }

    pub(crate) fn received_publication(&mut self, at: Instant, token: u64, side: Side, bytes: &[u8]) {
        self.publications += 1;
        let text = String::from_utf8_lossy(bytes);
        let mut parts = text[1..].split(':');
        let mut number = || parts.next().and_then(|part| part.parse::<u64>().ok());
        let (Some(topic), Some(publisher), Some(number)) = (number(), number(), number()) else {
            return self.violate("publications whole", format!("connection {token}: {text:.40}"));
        };
        self.note(at, 3 << 56 | token << 32 | publisher << 16 | number, || {
            format!("{token} {side:?} receives publication {number} of {publisher}")
        });
        if publication(topic as u8, publisher, number) != bytes {
            return self
                .violate("publications whole", format!("connection {token}: {topic}:{publisher}:{number}"));
        }
        let Some(conn) = self.conns.get_mut(&token) else { return };
        if conn.plan.topic != Some(topic as u8) || side == Side::Server {
            return self.violate(
                "publications to subscribers only",
                format!("connection {token} got topic {topic}"),
            );
        }
        let last = conn.side(side).published.insert(publisher, number).unwrap_or(0);
        if last >= number {
            self.violate(
                "publications once and in order",
                format!("connection {token}: {number} of {publisher} after {last}"),
            );
        }
        self.miss(token, publisher, last + 1..number, None);
    }

    /// A subscriber saw its server's close frame: what was published before is here.
    pub(crate) fn close_subscriber(&mut self, token: u64) {
        let Some(conn) = self.conns.get(&token).filter(|conn| conn.plan.topic.is_some()) else { return };
        let [client, server] = &conn.sides;
        // Drained, or for reading too slowly: closed by the engine, at a time that the application does not know.
        let by_engine =
            client.closing.is_some() || client.ended.is_some_and(|ended| matches!(ended.code, 1001 | 1013));
        let Some(until) = server.closing.filter(|_| !server.lost && !by_engine) else { return };
        let home = server_of(server.worker);
        let publishers = self.published.iter().filter(|(publisher, _)| server_of(**publisher) == home);
        let rest: Vec<_> = publishers
            .map(|(&publisher, all)| {
                let last = client.published.get(&publisher).copied().unwrap_or(0);
                (publisher, last + 1..all.len() as u64 + 1)
            })
            .collect();
        for (publisher, numbers) in rest {
            self.miss(token, publisher, numbers, Some(until));
        }
    }
}
