//! EAL's log into `tracing`, and the last complaints kept for error messages.

use crate::error::{Errno, Error, LogLines, Result};
use crate::sys;
use std::collections::VecDeque;
use std::ffi::c_char;
use std::panic::catch_unwind;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Complaints kept, and characters of each.
const RECENT_MAX: usize = 8;
const LINE_CHARS_MAX: usize = 200;

static RECENT: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

fn recent_lines() -> MutexGuard<'static, VecDeque<String>> {
    RECENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on EAL's log goes to `tracing`.
pub(crate) fn open() -> Result<()> {
    // SAFETY: the sink is a function that lives as long as the program and takes any bytes.
    match unsafe { sys::shim_log_open(Some(sink)) } {
        0 => Ok(()),
        errno => {
            Err(Error::Call { what: "fopencookie".into(), errno: Errno::of(errno), log: LogLines::default() })
        }
    }
}

/// Gives EAL's log back to its default stream.
pub(crate) fn close() {
    // SAFETY: the shim checks whether its stream is open.
    unsafe { sys::shim_log_close() }
}

/// Takes the complaints since the last call of this or of [`forget`].
pub(crate) fn recent() -> LogLines {
    LogLines(recent_lines().drain(..).collect())
}

/// Drops what was said so far, so that the next failure is explained by its own lines.
pub(crate) fn forget() {
    recent_lines().clear();
}

extern "C" fn sink(text: *const c_char, bytes: usize) {
    // SAFETY: the shim passes what stdio gave it: `bytes` readable bytes, for the length of this call.
    let text = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), bytes) };
    // SAFETY: reads a thread-local integer.
    let level = unsafe { sys::rte_log_cur_msg_loglevel() };
    // A subscriber that panics must not unwind through C.
    let _ = catch_unwind(|| {
        for line in String::from_utf8_lossy(text).lines() {
            record(level, line.trim_end());
        }
    });
}

/// EAL's levels are syslog's: 1 emergency, 2 alert, 3 critical, 4 error, 5 warning, 6 notice, 7 info, 8 debug.
fn record(level: i32, line: &str) {
    if line.is_empty() {
        return;
    }
    if level <= 5 {
        let mut recent = recent_lines();
        if recent.len() == RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back(line.chars().take(LINE_CHARS_MAX).collect());
    }
    match level {
        ..=4 => tracing::error!(target: "dpdk", "{line}"),
        5 => tracing::warn!(target: "dpdk", "{line}"),
        6 | 7 => tracing::info!(target: "dpdk", "{line}"),
        _ => tracing::debug!(target: "dpdk", "{line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_complaints_only() {
        forget();
        record(7, "just so you know");
        for number in 0..RECENT_MAX + 3 {
            record(4, &format!("trouble {number}"));
        }
        record(5, &"long".repeat(1000));
        let kept = recent();
        assert_eq!(kept.lines().len(), RECENT_MAX);
        assert_eq!(kept.lines()[0], "trouble 4");
        assert!(kept.lines()[RECENT_MAX - 1].len() <= LINE_CHARS_MAX);
        assert!(recent().lines().is_empty());
    }
}
