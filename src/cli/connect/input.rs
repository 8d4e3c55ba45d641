//! Standard input: bytes to lines, or blocks, as they come.

use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd};

/// How much is read at once.
const READ_BYTES: usize = 64 << 10;

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// A line, without its end.
    Line(String),
    /// A block of bytes.
    Block(Vec<u8>),
}

/// Standard input, read when it is readable.
pub(super) struct Input {
    stdin: std::io::Stdin,
    cutter: Cutter,
    buffer: Vec<u8>,
    ended: bool,
}

impl Input {
    pub(super) fn new(binary: bool, block_bytes: usize) -> Self {
        let cutter = Cutter { binary, block_bytes, held: Vec::new(), searched: 0 };
        Input { stdin: std::io::stdin(), cutter, buffer: vec![0; READ_BYTES], ended: false }
    }

    /// What polls readable when there is more.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stdin.as_fd()
    }

    /// Reads once; it must be readable.
    pub(super) fn read(&mut self) {
        match rustix::io::read(self.stdin.as_fd(), &mut self.buffer) {
            Ok(0) => self.ended = true,
            Ok(length) => self.cutter.held.extend_from_slice(&self.buffer[..length]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // A terminal that is gone is an end, too.
            Err(_) => self.ended = true,
        }
    }

    /// The next line or block.
    pub(super) fn next(&mut self) -> Option<Item> {
        self.cutter.next(self.ended)
    }

    /// Whether nothing more will come.
    pub(super) fn has_ended(&self) -> bool {
        self.ended && self.cutter.held.is_empty()
    }
}

/// Cuts bytes into lines or blocks.
struct Cutter {
    binary: bool,
    block_bytes: usize,
    held: Vec<u8>,
    /// Bytes at the front of `held` that are known to have no end of a line: a long one comes in many pieces.
    searched: usize,
}

impl Cutter {
    fn next(&mut self, ended: bool) -> Option<Item> {
        if self.held.is_empty() {
            return None;
        }
        if self.binary {
            let end = self.held.len().min(self.block_bytes);
            return Some(Item::Block(self.held.drain(..end).collect()));
        }
        let within = &self.held[..self.held.len().min(self.block_bytes + 1)];
        let newline = within.iter().skip(self.searched).position(|byte| *byte == b'\n');
        let newline = newline.map(|position| self.searched + position);
        let end = match newline {
            Some(end) => end,
            None if ended || self.held.len() > self.block_bytes => {
                self.longest_text(self.held.len().min(self.block_bytes))
            }
            None => {
                self.searched = within.len();
                return None;
            }
        };
        self.searched = 0;
        let rest = if newline.is_some() { end + 1 } else { end };
        let mut line: Vec<u8> = self.held.drain(..rest).collect();
        line.truncate(end);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        // A text message is UTF-8 (RFC 6455 section 5.6): what is not, becomes U+FFFD.
        Some(Item::Line(
            String::from_utf8(line)
                .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
        ))
    }

    /// The longest cut up to `end` that does not go through a character, if there is one.
    fn longest_text(&self, end: usize) -> usize {
        let cut = (end.saturating_sub(3)..=end)
            .rev()
            .find(|&cut| self.held.get(cut).is_none_or(|byte| byte & 0xc0 != 0x80));
        cut.filter(|cut| *cut > 0).unwrap_or(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cutter(binary: bool, block_bytes: usize, bytes: &[u8]) -> Cutter {
        Cutter { binary, block_bytes, held: bytes.to_vec(), searched: 0 }
    }

    fn all(mut cutter: Cutter, ended: bool) -> Vec<Item> {
        std::iter::from_fn(|| cutter.next(ended)).collect()
    }

    fn lines(items: &[&str]) -> Vec<Item> {
        items.iter().map(|item| Item::Line((*item).to_owned())).collect()
    }

    #[test]
    fn lines_are_cut_at_their_ends() {
        let text = b"one\ntwo\r\n\nlast";
        assert_eq!(all(cutter(false, 100, text), false), lines(&["one", "two", ""]));
        assert_eq!(all(cutter(false, 100, text), true), lines(&["one", "two", "", "last"]));
    }

    #[test]
    fn a_line_may_come_in_pieces() {
        let mut cutter = cutter(false, 8, b"");
        for piece in ["on", "e", "\ntw", "o", "12345", "\n\n"] {
            assert_eq!(cutter.next(false), None, "{piece:?}");
            cutter.held.extend_from_slice(piece.as_bytes());
            if piece == "\ntw" {
                assert_eq!(cutter.next(false), Some(Item::Line("one".into())));
            }
        }
        assert_eq!(all(cutter, false), lines(&["two12345", ""]));
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let items = all(cutter(false, 4, "aé😀bcdef\n".as_bytes()), true);
        assert_eq!(items, lines(&["aé", "😀", "bcde", "f"]));
        assert_eq!(all(cutter(false, 1, "é".as_bytes()), true).len(), 2);
    }

    #[test]
    fn what_is_no_utf8_is_replaced() {
        assert_eq!(all(cutter(false, 100, b"a\xffb\n"), false), lines(&["a\u{fffd}b"]));
    }

    #[test]
    fn blocks_are_as_they_came() {
        let items = all(cutter(true, 4, b"ab\ncdef"), false);
        assert_eq!(items, [Item::Block(b"ab\nc".to_vec()), Item::Block(b"def".to_vec())]);
    }
}
