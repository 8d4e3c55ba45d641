//! Live progress of a load on standard error.

use crate::bench::summary::thousands;
use crate::bench::{Phase, Progress};
use crate::time::Duration;
use std::io::{IsTerminal, Write};

/// One line that is rewritten on a terminal, one line a second elsewhere.
pub(super) struct Meter {
    silent: bool,
    terminal: bool,
    shown_at: Option<Duration>,
    replies: u64,
}

impl Meter {
    pub(super) fn new(silent: bool) -> Self {
        Meter { silent, terminal: std::io::stderr().is_terminal(), shown_at: None, replies: 0 }
    }

    pub(super) fn show(&mut self, progress: Progress) {
        let interval = if self.terminal { Duration::from_millis(200) } else { Duration::from_secs(1) };
        let since = progress.elapsed.saturating_sub(self.shown_at.unwrap_or_default());
        if self.silent || since < interval {
            return;
        }
        let rate = (progress.replies - self.replies) as f64 / since.as_secs_f64();
        (self.shown_at, self.replies) = (Some(progress.elapsed), progress.replies);
        let line = progress_line(&progress, rate);
        let mut stderr = std::io::stderr().lock();
        // Whoever closed standard error does not want to see progress.
        let _ = if self.terminal { write!(stderr, "\r\x1b[K{line}") } else { writeln!(stderr, "{line}") };
    }

    /// Removes the line from a terminal.
    pub(super) fn clear(&self) {
        if self.terminal && self.shown_at.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn progress_line(progress: &Progress, rate: f64) -> String {
    let phase = match progress.phase {
        Phase::Connecting => "connecting",
        Phase::WarmingUp => "warming up",
        Phase::Measuring => "measuring",
        Phase::Draining => "last replies",
    };
    let remaining =
        progress.remaining.map_or(String::new(), |left| format!(", {:.1} s left", left.as_secs_f64()));
    format!(
        "{phase:<12} {:>12} messages/s, {} connections open, {:.1} s{remaining}",
        thousands(rate as u64),
        thousands(u64::from(progress.open)),
        progress.elapsed.as_secs_f64()
    )
}
