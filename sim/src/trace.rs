//! What happened: a hash of all of it, and, when asked for, its last lines in words.

use std::collections::VecDeque;
use unsocket::time::Instant;

/// Lines kept when a trace is wanted.
const LINES_MAX: usize = 20_000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    hash: u64,
    pub(crate) events: u64,
    lines: Option<VecDeque<String>>,
}

impl Trace {
    pub(crate) fn new(in_words: bool) -> Self {
        Trace { hash: 0x5173_c0de, events: 0, lines: in_words.then(VecDeque::new) }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    fn word(&mut self, word: u64) {
        self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    /// Hashes one event; `describe` is only called when the trace is wanted in words.
    pub(crate) fn event(&mut self, now: Instant, what: u64, bytes: &[u8], describe: impl FnOnce() -> String) {
        self.events += 1;
        self.word(now.as_nanos());
        self.word(what << 32 | bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        for &word in words {
            self.word(u64::from_le_bytes(word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.word(u64::from_le_bytes(last));
        self.say(now, describe);
    }

    /// A line for the reader alone; none when it is empty.
    pub(crate) fn say(&mut self, now: Instant, describe: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            let line = describe();
            if line.is_empty() {
                return;
            }
            if lines.len() == LINES_MAX {
                lines.pop_front();
            }
            lines.push_back(format!("{now:?} {line}"));
        }
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().flatten().map(String::as_str)
    }
}
