//! What must hold of a host: after every burst, and when all is over.

use crate::book::Violation;
use crate::host::{CONNECTIONS_MAX, HALF_OPEN_MAX, Host, MEMORY_BYTES_MAX};

impl Host {
    /// What must hold after every burst.
    pub(crate) fn check(&self, at: usize) -> Result<(), Violation> {
        let seat = &self.seats[at];
        let Some(worker) = &seat.worker else { return Ok(()) };
        let queue = seat.queue.borrow();
        let violation = |oracle, what| {
            Err(Violation { oracle, what: format!("host {} worker {at}: {what}", self.index) })
        };
        if queue.leaked > 0 {
            return violation("no frame leaks", format!("{} frames lost in memory", queue.leaked));
        }
        // Received and not yet looked at, not yet sent, and spare ones to fill.
        let held_max = self.plan.rx_frames + 2 * self.plan.tx_frames;
        if queue.held() > held_max {
            return violation(
                "no frame leaks",
                format!("{} frames held, at most {held_max} are in use", queue.held()),
            );
        }
        let report = worker.report();
        let (engine, stack) = (&report.engine, &report.stack);
        let in_slab = worker.stack().connections() as u64;
        let limits = [
            ("sessions", engine.sessions, in_slab),
            ("connections", in_slab, (CONNECTIONS_MAX + 64) as u64),
            ("open WebSockets", engine.open, CONNECTIONS_MAX as u64),
            ("half-open connections", worker.stack().half_open() as u64, HALF_OPEN_MAX as u64),
            ("TIME-WAIT records", worker.stack().time_wait_records() as u64, 256),
            // The last message accepted may reach over the bound.
            ("bytes of memory", engine.memory_bytes, MEMORY_BYTES_MAX as u64 * 2),
        ];
        for (what, is, max) in limits {
            if is > max {
                return violation("limits hold", format!("{is} {what}, at most {max}"));
            }
        }
        let (in_rings, _) = worker.stack().rings();
        if in_rings as u64 != in_slab || worker.stack().flows() as u64 > in_slab {
            let flows = worker.stack().flows();
            return violation(
                "nothing leaks",
                format!("{in_rings} pairs of rings and {flows} flows of {in_slab} connections"),
            );
        }
        let seen = worker.handler().seen;
        let called = [
            ("WebSockets opened", engine.opened, seen.opened),
            ("WebSockets closed", engine.closed_clean + engine.closed_unclean, seen.closed),
            ("connects failed", engine.connects_failed, seen.connects_failed),
            ("messages received", engine.messages_in, seen.messages + engine.dropped_rate),
        ];
        if let Some((what, counted, heard)) = called.into_iter().find(|(_, counted, heard)| counted != heard)
        {
            let what = format!("{counted} {what}, the application was told of {heard}");
            return violation("counters add up", what);
        }
        if engine.opened != engine.open + engine.closed_clean + engine.closed_unclean {
            return violation("counters add up", format!("WebSockets: {engine:?}"));
        }
        let causes = stack.rx_segments
            + stack.rx_control
            + stack.rx_syn_accepted
            + stack.rx_syn_refused
            + stack.rx_rst_sent
            + stack.rx_no_flow
            + stack.rx_time_wait
            + stack.rx_bad_checksum
            + stack.rx_malformed
            + stack.rx_unsupported
            + stack.rx_not_ours;
        let waiting = report.port.rx_frames - engine.rx_frames;
        if waiting != 0 {
            return violation(
                "counters add up",
                format!("{waiting} frames of the port's are not the engine's"),
            );
        }
        // Frames that wait for room to answer are received and not yet looked at.
        let unseen = engine.rx_frames.checked_sub(causes);
        if self.plan.workers == 1 && unseen.is_none_or(|unseen| unseen > self.plan.rx_frames as u64) {
            return violation(
                "counters add up",
                format!("{} frames received, {causes} with a cause", engine.rx_frames),
            );
        }
        Ok(())
    }

    /// What must hold when every connection is over.
    pub(crate) fn check_quiet(&self) -> Result<(), Violation> {
        let (mut received, mut causes, mut dropped) = (0, 0, 0);
        for (at, seat) in self.seats.iter().enumerate() {
            let Some(worker) = &seat.worker else { continue };
            let report = worker.report();
            let violation = |what| {
                Err(Violation {
                    oracle: "nothing leaks",
                    what: format!("host {} worker {at}: {what}", self.index),
                })
            };
            let queue = seat.queue.borrow();
            let left = [
                ("sessions", report.engine.sessions),
                ("open WebSockets", report.engine.open),
                ("bytes of heap", report.engine.memory_bytes),
                ("connections in the slab", worker.stack().connections() as u64),
                ("half-open connections", worker.stack().half_open() as u64),
                ("pairs of rings", worker.stack().rings().0 as u64),
                ("flows", worker.stack().flows() as u64),
                ("timers", worker.stack().deadlines() as u64),
                ("scripts", worker.handler().scripts() as u64),
                ("frames in the receive queue", queue.rx.len() as u64),
            ];
            for (what, count) in left {
                if count > 0 {
                    return violation(format!("{count} {what}"));
                }
            }
            // Spare frames to fill; none is under way.
            if queue.held() > self.plan.tx_frames {
                return violation(format!("{} frames held at rest", queue.held()));
            }
            let stack = &report.stack;
            received += report.engine.rx_frames;
            dropped += report.engine.hand_over_dropped;
            causes += stack.rx_segments + stack.rx_control + stack.rx_syn_accepted + stack.rx_syn_refused;
            causes += stack.rx_rst_sent + stack.rx_no_flow + stack.rx_time_wait + stack.rx_bad_checksum;
            causes += stack.rx_malformed + stack.rx_unsupported + stack.rx_not_ours;
        }
        let all_here = self.seats.iter().all(|seat| seat.worker.is_some());
        if all_here && !(causes <= received && received <= causes + dropped) {
            let what = format!(
                "host {}: {received} frames received, {causes} with a cause, {dropped} dropped between workers",
                self.index
            );
            return Err(Violation { oracle: "counters add up", what });
        }
        Ok(())
    }
}
