//! One connection of a load, and why it cannot go on.

use super::pattern::Mismatch;
use super::tally::Cause;
use crate::time::Instant;
use std::borrow::Cow;

/// One connection of the load.
#[derive(Debug)]
pub struct Load {
    /// Which of its thread's connections it is, from 0.
    pub(super) row: u32,
    /// Messages sent.
    pub(super) sent: u64,
    /// Replies received.
    pub(super) answered: u64,
    /// In an open loop: since when nothing came though a reply is awaited.
    pub(super) quiet_since: Instant,
}

impl Load {
    pub(super) fn new(row: u32) -> Self {
        Load { row, sent: 0, answered: 0, quiet_since: Instant::ZERO }
    }

    /// Whether a reply is awaited.
    pub fn is_waiting(&self) -> bool {
        self.sent > self.answered
    }

    /// Awaits nothing any more.
    pub fn forget(&mut self) {
        self.answered = self.sent;
    }

    /// Messages on their way.
    pub(super) fn outstanding(&self) -> u64 {
        self.sent - self.answered
    }
}

/// A connection that is being opened.
#[derive(Clone, Copy, Debug)]
pub struct Birth {
    pub(super) at: Instant,
    pub(super) measured: bool,
}

/// Why a connection cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind of error.
    pub cause: Cause,
    /// What happened, in words.
    pub detail: Cow<'static, str>,
}

impl Failure {
    /// A failure for `cause`, told by `detail`.
    pub fn new(cause: Cause, detail: impl Into<Cow<'static, str>>) -> Self {
        Failure { cause, detail: detail.into() }
    }

    /// What a reply that is wrong is: its bytes, or its kind.
    pub(super) fn of_reply(verdict: Result<(), Mismatch>, is_text: bool) -> Self {
        match verdict {
            Ok(()) if is_text => Failure::new(Cause::Kind, "sent binary, the reply is text"),
            Ok(()) => Failure::new(Cause::Kind, "sent text, the reply is binary"),
            Err(mismatch) => {
                let cause = match mismatch {
                    Mismatch::OutOfOrder { .. } => Cause::OutOfOrder,
                    Mismatch::Length { .. } => Cause::Length,
                    Mismatch::Misdelivered { .. } => Cause::Misdelivered,
                    Mismatch::Corrupt { .. } => Cause::Corrupt,
                };
                Failure::new(cause, mismatch.describe())
            }
        }
    }
}
