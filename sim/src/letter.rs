//! What connections say: messages and publications whose bytes follow from what they are.

use crate::rng::Rng;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Client = 0,
    Server = 1,
}

impl Side {
    pub(crate) fn other(self) -> Side {
        match self {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        }
    }
}

/// A message by its place; its bytes follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Letter {
    pub(crate) token: u64,
    pub(crate) author: Side,
    pub(crate) index: u64,
    pub(crate) is_text: bool,
    pub(crate) len: usize,
}

impl Letter {
    /// The bytes. They never begin with a publication's mark.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let stream = self.token << 33 | (self.author as u64) << 32 | self.index;
        content(Rng::new(stream, "letter", self.len as u64), b'D', self.is_text, self.len)
    }
}

/// `len` bytes of which the first is `mark`; valid UTF-8 of all widths when it is text. Half of all shrink well when they are
/// compressed.
fn content(mut rng: Rng, mark: u8, is_text: bool, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let period = if rng.chance(0.5) { rng.size(1, 64) } else { len };
    rng.fill(&mut bytes[..period.min(len)]);
    (period..len).for_each(|at| bytes[at] = bytes[at - period]);
    if is_text {
        for byte in &mut bytes {
            *byte = b' ' + *byte % 95;
        }
        let mut at = 1;
        while at + 4 < len {
            let wide = ["ä", "€", "😀"][rng.below(3) as usize].as_bytes();
            bytes[at..at + wide.len()].copy_from_slice(wide);
            at += wide.len() + rng.size(0, 40);
        }
    }
    if let Some(first) = bytes.first_mut() {
        *first = mark;
    }
    bytes
}

/// A published message names its topic, its publisher and its number.
pub(crate) fn publication(topic: u8, publisher: u64, number: u64) -> Vec<u8> {
    let mut bytes = format!("P{topic}:{publisher}:{number}:").into_bytes();
    let mut rng = Rng::new(publisher << 32 | number, "publication", u64::from(topic));
    let len = rng.size(0, 600);
    bytes.extend(content(rng, b'.', true, len));
    bytes
}
