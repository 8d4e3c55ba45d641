//! How a connection that is over ended: RFC 6455 section 7. What could not go as planned needs an excuse, which is
//! counted.

use crate::book::Book;
use crate::letter::Side;
use crate::scenario::Serving;
use unsocket::engine::{Cause, ConnectFailure};
use unsocket::stack::CloseCause;

/// What no application closes with.
const ABNORMAL: u16 = 1006;
/// A host of it was drained.
const DRAIN: &str = "drain";
/// Its server had too many half-open connections.
const EVICTION: &str = "half-open eviction";
/// A short deadline of a harsh world.
const DEADLINE: &str = "short deadline";

/// What may have happened to a connection that did not go as planned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Excuses {
    /// Deadlines are short, so that slowness ends connections, too.
    pub(crate) harsh: bool,
    /// The worst fault that met it, of those that may cost a connection its life.
    pub(crate) hit: Option<&'static str>,
    /// One of its hosts was drained.
    pub(crate) drained: bool,
    /// Its server had more half-open connections than it keeps, since it began.
    pub(crate) evicted: bool,
}

impl Book {
    /// How a connection that is over ended: RFC 6455 section 7. What could not go as planned needs an excuse, which is
    /// counted.
    pub(crate) fn judge(&mut self, token: u64, excuses: Excuses) {
        let Some(conn) = self.conns.get_mut(&token) else { return };
        let Excuses { harsh, hit, drained, evicted } = excuses;
        let (fault, hit, cut_by_drain) = (hit.unwrap_or_default(), hit.is_some(), harsh && drained);
        let plan = conn.plan;
        let [client, server] = &conn.sides;
        // What is wrong, and what would excuse it.
        let mut wrong: Vec<(String, Vec<(&'static str, bool)>)> = Vec::new();
        match (&conn.failed, conn.plan.serving) {
            (Some(ConnectFailure::Refused(_)), Serving::Refuse { .. }) => {}
            (None, Serving::Refuse { .. }) if client.opened => {
                wrong.push(("opened although refused".to_owned(), Vec::new()));
            }
            (Some(failure), _) => {
                // A flood of SYNs makes the oldest half-open connections give way.
                let is_eviction = matches!(failure, ConnectFailure::Transport(_) | ConnectFailure::NoAnswer);
                let may = vec![(fault, hit), (DRAIN, drained), (EVICTION, evicted && is_eviction)];
                wrong.push((format!("not connected: {failure}"), may));
            }
            _ => {}
        }
        if let (Some(client), Some(server)) = (client.ended, server.ended) {
            let ends = [client, server];
            for (side, one, other) in [(Side::Client, client, server), (Side::Server, server, client)] {
                if one.cause == Cause::Peer && (other.cause == Cause::Peer || other.code != one.code) {
                    wrong.push((format!("close codes disagree: {ends:?}"), Vec::new()));
                }
                if one.cause == Cause::Local && one.code != plan.closing_code(side).unwrap_or(ABNORMAL) {
                    wrong.push((
                        format!("{side:?} closed with another code than planned: {ends:?}"),
                        Vec::new(),
                    ));
                }
                if !one.clean {
                    let may = vec![(fault, hit), (DRAIN, cut_by_drain), (DEADLINE, harsh)];
                    wrong.push((format!("not closed cleanly: {ends:?}"), may));
                }
                let may = match one.cause {
                    Cause::Peer | Cause::Local => continue,
                    Cause::Drain if drained => continue,
                    Cause::SlowReader if one.code == 1013 => continue,
                    Cause::Idle | Cause::PongMissing => vec![(fault, hit), (DEADLINE, harsh)],
                    Cause::Transport(CloseCause::Aborted | CloseCause::Reset) => {
                        vec![(fault, hit), (DRAIN, cut_by_drain), (DEADLINE, harsh)]
                    }
                    _ => vec![(fault, hit), (DRAIN, cut_by_drain)],
                };
                wrong.push((format!("must not end like this: {ends:?}"), may));
            }
        } else if client.opened != server.opened && conn.failed.is_none() {
            wrong.push(("opened on one side only".to_owned(), vec![(fault, hit), (DRAIN, cut_by_drain)]));
        }
        self.judged += 1;
        let mut excuse = None;
        for (what, may) in wrong {
            match may.iter().find(|(_, is_so)| *is_so) {
                Some((name, _)) => excuse = Some(*name),
                None => self.violate(
                    "close codes and causes",
                    format!("connection {token}: {what}; {excuses:?}; plan {plan:?}"),
                ),
            }
        }
        if let Some(name) = excuse {
            *self.excused.entry(name).or_default() += 1;
        }
    }
}
