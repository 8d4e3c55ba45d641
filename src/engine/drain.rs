//! The end of a worker: a graceful drain, or being cut off.

use super::handler::{Cause, ConnectFailure, Handler};
use super::mailbox::Wish;
use super::session::Phase;
use super::worker::Worker;
use crate::port::Port;
use crate::stack::CloseCause;
use crate::time::{Duration, Instant};
use crate::ws::CloseCode;

/// Sessions that one burst of a drain goes through.
const SESSIONS_PER_BURST: usize = 1024;
/// How long a peer that has got everything, our FIN included, may take to send its own: an idle HTTP client, or one
/// that never said a word, would keep the drain waiting until its deadline. Then it is reset.
const LAST_FIN: Duration = Duration::from_millis(500);
/// How long the last segments may take to leave after everything was cut off.
const CUT_OFF_GRACE: Duration = Duration::from_millis(200);

/// How far a worker's end has come.
#[derive(Debug)]
pub(super) struct Ending {
    heard: Wish,
    /// The next session to close; `None` when all were.
    cursor: Option<usize>,
    /// When the next step is due whatever the peers do.
    until: Option<Instant>,
    /// The others were told that this worker is done.
    told: bool,
}

impl Default for Ending {
    fn default() -> Self {
        Ending { heard: Wish::Run, cursor: None, until: None, told: false }
    }
}

impl Ending {
    pub(super) fn has_heard(&self, wish: Wish) -> bool {
        self.heard >= wish
    }

    /// Whether this worker is done, and waits for the others.
    pub(super) fn is_told(&self) -> bool {
        self.told
    }

    /// Whether the next burst goes on closing sessions.
    pub(super) fn is_under_way(&self) -> bool {
        self.cursor.is_some()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.until
    }
}

impl<P: Port, H: Handler> Worker<P, H> {
    /// Goes on with the end, if somebody wished for it.
    pub(super) fn heed_wishes(&mut self) {
        let wish = self.local.crew.wish();
        let now = self.local.now;
        if wish == Wish::Run {
            return;
        }
        if self.ending.heard == Wish::Run {
            self.local.draining = true;
            self.local.retries.clear();
            let waiting = self.local.lookups.clear();
            for connect in std::mem::take(&mut self.local.connects).into_iter().chain(waiting) {
                self.connect_failed(connect, ConnectFailure::Drain);
            }
            self.stack.stop_listening();
            self.stack.hurry_closing(LAST_FIN);
            let until = Some(now + self.local.deadlines.drain);
            self.ending = Ending { heard: Wish::Drain, cursor: Some(0), until, told: false };
        }
        let overdue = self.ending.heard == Wish::Drain && self.ending.until.is_some_and(|until| now >= until);
        if overdue || wish > self.ending.heard {
            self.cut_off();
            let (until, told) = (Some(now + CUT_OFF_GRACE), self.ending.told);
            self.ending = Ending { heard: Wish::Stop, cursor: None, until, told };
        }
        self.close_some();
    }

    /// Whether a drain or a stop was wished for.
    pub fn is_ending(&self) -> bool {
        self.local.crew.wish() != Wish::Run
    }

    /// Whether nothing is left to do, ever. A worker that is done goes on as long as another one is not: the other's
    /// frames may come through its queue, and it may be the one that answers ARP.
    pub(super) fn has_ended(&mut self) -> bool {
        if self.ending.heard == Wish::Run {
            return false;
        }
        // Whoever asked for a connection is told that there will be none.
        let is_asked = self.local.mailbox().is_some_and(|mailbox| !mailbox.is_empty());
        let quiet = self.local.stats.sessions == 0
            && self.stack.connections() == 0
            && self.tx.pending() == 0
            && !is_asked;
        let overdue =
            self.ending.heard == Wish::Stop && self.ending.until.is_some_and(|until| self.local.now >= until);
        if (quiet || overdue) && !std::mem::replace(&mut self.ending.told, true) {
            self.local.crew.one_is_done();
        }
        overdue || self.ending.told && self.local.crew.all_are_done()
    }

    /// Closes the next few sessions with 1001.
    fn close_some(&mut self) {
        let Some(from) = self.ending.cursor else { return };
        let to = from.saturating_add(SESSIONS_PER_BURST).min(self.local.sessions.len());
        for index in from..to {
            let Some(Some(session)) = self.local.sessions.get(index) else { continue };
            let (id, phase) = (session.id, session.phase);
            match phase {
                Phase::Open => {
                    if let Some(mut half) = self.stack.sender(id) {
                        let (code, reason) = (CloseCode::GOING_AWAY, "server going away");
                        self.local.start_close(id.index, &mut half, code, reason, Cause::Drain);
                    }
                }
                Phase::Connecting | Phase::Response => self.fail_connect(id, ConnectFailure::Drain),
                Phase::Head => self.linger(id),
                Phase::CloseSent | Phase::Lingering => {}
            }
        }
        self.give_attention();
        self.ending.cursor = (to < self.local.sessions.len()).then_some(to);
    }

    /// Resets every connection.
    fn cut_off(&mut self) {
        for index in 0..self.local.sessions.len() {
            let Some(Some(session)) = self.local.sessions.get(index) else { continue };
            let id = session.id;
            self.stack.abort(id);
            self.give_up(id, CloseCause::Aborted);
            self.remove(id);
        }
    }
}
