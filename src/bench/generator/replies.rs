//! What comes back: whether a reply is the right one, when it was due, and how it counts.

use super::{Generator, slot};
use crate::bench::load::{Failure, Load};
use crate::bench::pace::Pace;
use crate::bench::pattern::Mismatch;
use crate::bench::tally::Cause;
use crate::time::Instant;
use crate::ws::Message;

impl Generator {
    /// Verifies a reply and counts it. One that is wrong but keeps the loop in step is an error and the loop goes on.
    ///
    /// # Errors
    /// When the loop has lost step: the connection must be given up with [`Generator::failed`].
    #[inline]
    pub fn reply(&mut self, load: &mut Load, message: Message<'_>) -> Result<(), Failure> {
        if matches!(self.pace, Pace::Broadcast(..)) {
            return self.delivery(load, message);
        }
        let begun_at = self.begun_at(load, load.answered);
        if self.verify(load, message)? {
            self.count(begun_at, self.measuring_since <= begun_at);
        }
        load.quiet_since = self.now;
        Ok(())
    }

    /// Verifies what a subscriber got, and counts it; what its publisher itself gets is verified, too.
    fn delivery(&mut self, load: &mut Load, message: Message<'_>) -> Result<(), Failure> {
        let Pace::Broadcast(audience, _) = &self.pace else { return Ok(()) };
        let number = load.answered;
        if number >= audience.publication().published() {
            return Err(Failure::new(Cause::Unsolicited, "a message came that was not published"));
        }
        let is_publisher = audience.is_publisher(load.row);
        let begun_at = audience.published_at(number);
        let right = self.compare(0, number, message)?;
        load.answered += 1;
        if is_publisher {
            return Ok(());
        }
        if self.bounds.start == Instant::FAR_FUTURE {
            // The publisher's thread knew of the beginning before this one.
            self.bounds = self.window.bounds();
        }
        if right {
            self.count(begun_at, self.bounds.from <= begun_at);
        }
        if let Pace::Broadcast(audience, _) = &mut self.pace {
            audience.delivered(number);
        }
        Ok(())
    }

    /// When message `sequence`, which is on its way, was sent, or was to be sent.
    #[inline]
    pub(super) fn begun_at(&self, load: &Load, sequence: u64) -> Instant {
        match (&self.pace, self.senders.index(load.row)) {
            (Pace::Closed, _) => self.sent_at[slot(self.slots, load, sequence)],
            (Pace::Open(schedule), Some(index)) => self.bounds.start + schedule.due(index, sequence),
            // The proof of a connection that was idle.
            (Pace::Open(_) | Pace::Broadcast(..), _) => self.now,
        }
    }

    /// Counts what was begun at `begun_at` and is complete now; `measured` says whether it began within the measured time.
    #[inline]
    pub(super) fn count(&mut self, begun_at: Instant, measured: bool) {
        let measured = match &self.pace {
            // However late it is: to leave out those that took longer would flatter the server.
            Pace::Open(_) | Pace::Broadcast(_, Some(_)) => {
                self.bounds.from <= begun_at && begun_at < self.bounds.until
            }
            _ if self.counts_by_time => self.is_measuring(),
            _ => measured,
        };
        if measured {
            self.tally.reply(self.now, self.now - begun_at);
            if let Some(series) = &mut self.tally.series {
                series.record(self.bounds.from, self.now, self.now - begun_at);
            }
        } else {
            self.unmeasured += 1;
        }
    }

    /// Verifies a reply; whether it is right. One that is wrong but keeps the loop in step is counted as an error.
    ///
    /// # Errors
    /// When the loop has lost step: the connection must be given up with [`Generator::failed`].
    #[inline]
    pub fn verify(&mut self, load: &mut Load, message: Message<'_>) -> Result<bool, Failure> {
        if !load.is_waiting() {
            return Err(Failure::new(Cause::Unsolicited, "a message came while none was awaited"));
        }
        let right = self.compare(self.share.first + load.row, load.answered, message);
        load.answered += 1;
        right
    }

    /// Whether `message` is message `sequence` of `connection`.
    #[inline]
    fn compare(&mut self, connection: u32, sequence: u64, message: Message<'_>) -> Result<bool, Failure> {
        let (payload, is_text) = match message {
            Message::Text(text) => (text.as_bytes(), true),
            Message::Binary(bytes) => (bytes, false),
        };
        let verdict = self.pattern.verify(connection, sequence, payload);
        let right = verdict.is_ok() && is_text == self.pattern.is_text();
        if !right {
            self.wrong_reply(verdict, is_text)?;
        } else if self.is_measuring() {
            self.tally.payload_bytes += payload.len() as u64;
        }
        Ok(right)
    }

    /// Counts a reply that is wrong.
    #[cold]
    fn wrong_reply(&mut self, verdict: Result<(), Mismatch>, is_text: bool) -> Result<(), Failure> {
        let failure = Failure::of_reply(verdict, is_text);
        if failure.cause == Cause::OutOfOrder {
            return Err(failure);
        }
        self.tally.error(failure.cause, || failure.detail);
        Ok(())
    }
}
