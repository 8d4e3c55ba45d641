//! Frames on their way to one peer: into the send ring, and what does not fit into the overflow queue.
//!
//! Invariants: bytes reach the ring in the order in which they were accepted; as long as anything waits in the
//! overflow queue nothing is written past it; a frame is accepted whole or not at all.

use super::secure::Secure;
use crate::stack::SendHalf;
use crate::ws::frame::{CONTROL_BYTES_MAX, ENCODED_BYTES, FrameHeader, Opcode};
use crate::ws::mask;
use std::collections::VecDeque;

/// How much is masked at a time on its way to the ring: on the stack, within the L1 cache.
const MASK_CHUNK_BYTES: usize = 4096;

/// What the header of a payload below 64 KiB fits into.
const WORD_BYTES: usize = size_of::<u64>();

/// One frame, its header encoded; the payload is the caller's and stays as it is.
pub(super) struct OutFrame<'a> {
    /// Zeros behind the header.
    head: [u8; ENCODED_BYTES],
    head_bytes: usize,
    payload: &'a [u8],
    mask: Option<[u8; 4]>,
}

impl<'a> OutFrame<'a> {
    /// A frame; `mask` is the fresh key of a client's frame (RFC 6455 section 5.3), `None` for a server's.
    pub(super) fn new(opcode: Opcode, fin: bool, payload: &'a [u8], mask: Option<[u8; 4]>) -> Self {
        Self::with_header(
            FrameHeader { fin, rsv1: false, opcode, mask, payload_bytes: payload.len() as u64 },
            payload,
        )
    }

    /// The only frame of a compressed message (RFC 7692 section 6).
    pub(super) fn compressed(opcode: Opcode, payload: &'a [u8], mask: Option<[u8; 4]>) -> Self {
        Self::with_header(
            FrameHeader { fin: true, rsv1: true, opcode, mask, payload_bytes: payload.len() as u64 },
            payload,
        )
    }

    fn with_header(header: FrameHeader, payload: &'a [u8]) -> Self {
        let (head, head_bytes) = header.encoded();
        OutFrame { head, head_bytes, payload, mask: header.mask }
    }

    /// Length on the wire, bytes.
    pub(super) fn len(&self) -> usize {
        self.head_bytes + self.payload.len()
    }

    /// Length of the payload, bytes.
    pub(super) fn payload_bytes(&self) -> usize {
        self.payload.len()
    }

    fn head(&self) -> &[u8] {
        &self.head[..self.head_bytes]
    }

    /// Writes as much as fits into the ring; returns how many bytes.
    fn write(&self, half: &mut SendHalf<'_>) -> usize {
        if self.write_whole(half) { self.len() } else { self.write_in_pieces(half) }
    }

    /// Writes all of it into the ring, if there is one place for it.
    #[inline]
    fn write_whole(&self, half: &mut SendHalf<'_>) -> bool {
        half.write_in_place(self.len(), |place| {
            match (place.first_chunk_mut::<WORD_BYTES>(), self.head.first_chunk()) {
                // One word as it was put together; the payload goes over what is no header.
                (Some(front), Some(word)) if self.head_bytes <= WORD_BYTES => *front = *word,
                _ => place[..self.head_bytes].copy_from_slice(self.head()),
            }
            let payload = &mut place[self.head_bytes..];
            mask::copy(payload, self.payload);
            if let Some(key) = self.mask {
                mask::apply(payload, key, 0);
            }
        })
    }

    /// For a frame that meets the ring's end, or finds less room than it needs.
    #[cold]
    fn write_in_pieces(&self, half: &mut SendHalf<'_>) -> usize {
        let mut written = half.write(self.head());
        if written < self.head_bytes {
            return written;
        }
        let Some(key) = self.mask else { return written + half.write(self.payload) };
        for_masked_chunks(self.payload, key, 0, |chunk| {
            let taken = half.write(chunk);
            written += taken;
            taken == chunk.len()
        });
        written
    }

    /// Writes the bytes from `at` on, as many as there is place for.
    fn copy_to(&self, at: usize, place: &mut [u8]) {
        let head = self.head().get(at..).unwrap_or_default();
        let (head_place, place) = place.split_at_mut(head.len().min(place.len()));
        head_place.copy_from_slice(&head[..head_place.len()]);
        let at = at.saturating_sub(self.head_bytes);
        place.copy_from_slice(&self.payload[at..at + place.len()]);
        if let Some(key) = self.mask {
            mask::apply(place, key, at & 3);
        }
    }

    /// Appends all but the first `skip` bytes.
    fn append(&self, skip: usize, queue: &mut VecDeque<u8>) {
        queue.reserve(self.len().saturating_sub(skip));
        queue.extend(self.head().get(skip..).unwrap_or_default());
        let skip = skip.saturating_sub(self.head_bytes);
        let rest = self.payload.get(skip..).unwrap_or_default();
        match self.mask {
            None => queue.extend(rest),
            Some(key) => for_masked_chunks(rest, key, skip, |chunk| {
                queue.extend(chunk);
                true
            }),
        }
    }
}

/// Calls `each` with masked copies of `payload`'s chunks until it returns false. `offset` is the place of the
/// first byte in the whole payload: it decides which byte of the key comes first.
fn for_masked_chunks(payload: &[u8], key: [u8; 4], offset: usize, mut each: impl FnMut(&[u8]) -> bool) {
    let mut buffer = [0; MASK_CHUNK_BYTES];
    let mut phase = offset & 3;
    for chunk in payload.chunks(MASK_CHUNK_BYTES) {
        let copy = &mut buffer[..chunk.len()];
        copy.copy_from_slice(chunk);
        phase = mask::apply(copy, key, phase);
        if !each(copy) {
            return;
        }
    }
}

/// What waits for one peer, because its send ring is full or a fragmented message is under way. Exists only while one is so.
#[derive(Default)]
pub(super) struct Overflow {
    /// Encoded frames; the first may have begun in the ring.
    bytes: VecDeque<u8>,
    /// Whole frames that wait for the end of a fragmented message (RFC 6455 section 5.4: no interleaving).
    held: VecDeque<u8>,
    /// How far the end of a pong in `bytes` is from the front; 0 when there is none.
    pong_ahead: usize,
    /// The answer to the newest ping that came while a pong was waiting (RFC 6455 section 5.5.3 allows it alone).
    newest_pong: Option<Control>,
    /// A fragmented message of ours has begun and not ended.
    mid_message: bool,
}

/// The payload of a control frame.
struct Control {
    len: u8,
    bytes: [u8; CONTROL_BYTES_MAX],
}

impl Control {
    fn new(payload: &[u8]) -> Self {
        let payload = &payload[..payload.len().min(CONTROL_BYTES_MAX)];
        let mut bytes = [0; CONTROL_BYTES_MAX];
        bytes[..payload.len()].copy_from_slice(payload);
        Control { len: payload.len() as u8, bytes }
    }

    fn payload(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// The sending side of a session.
#[derive(Default)]
pub(super) struct Outbound {
    overflow: Option<Box<Overflow>>,
    /// With TLS: whatever goes into the ring goes through it.
    pub(super) secure: Option<Box<Secure>>,
}

impl Outbound {
    /// Whether nothing waits, and whoever has TLS may go on with it.
    #[inline]
    pub(super) fn is_quiet(&self) -> bool {
        let is_plain = self.secure.is_none() && self.overflow.is_none();
        is_plain || self.waiting_bytes() == 0 && !self.is_closed_by_peer()
    }

    /// Bytes that wait for room in the ring.
    pub(super) fn waiting_bytes(&self) -> usize {
        let sealed = self.secure.as_ref().map_or(0, |secure| secure.waiting_bytes());
        sealed + self.overflow.as_ref().map_or(0, |overflow| overflow.bytes.len())
    }

    /// With TLS: whether the peer said that it sends nothing more, and everything was read.
    pub(super) fn is_closed_by_peer(&self) -> bool {
        self.secure.as_ref().is_some_and(|secure| secure.is_closed_by_peer())
    }

    /// The connection's turn begins: with TLS, what is sent on it from now on is gathered, in `spare` memory. Returns whether.
    pub(super) fn begin_turn(&mut self, spare: &mut Vec<u8>) -> bool {
        let Some(secure) = &mut self.secure else { return false };
        secure.begin_turn(std::mem::take(spare));
        true
    }

    /// Bytes that go into the ring now.
    pub(super) fn room(&self, half: &SendHalf<'_>) -> usize {
        self.secure.as_ref().map_or_else(|| half.free_bytes(), |secure| secure.room(half))
    }

    /// Bytes that wait for the end of a fragmented message.
    pub(super) fn held_bytes(&self) -> usize {
        self.overflow.as_ref().map_or(0, |overflow| overflow.held.len())
    }

    /// Whether a fragmented message of ours has begun and not ended.
    pub(super) fn mid_message(&self) -> bool {
        self.overflow.as_ref().is_some_and(|overflow| overflow.mid_message)
    }

    /// Says whether one has.
    pub(super) fn set_mid_message(&mut self, begun: bool) {
        if begun {
            self.overflow.get_or_insert_default().mid_message = true;
        } else if let Some(overflow) = &mut self.overflow {
            overflow.mid_message = false;
            self.free_if_empty();
        }
    }

    /// Heap held, bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        self.overflow.as_ref().map_or(0, |overflow| {
            size_of::<Overflow>() + overflow.bytes.capacity() + overflow.held.capacity()
        })
    }

    /// Takes a frame if the ring does, whole, as it is and at once.
    #[inline]
    pub(super) fn push_at_once(&self, half: &mut SendHalf<'_>, frame: &OutFrame<'_>) -> bool {
        self.overflow.is_none() && self.secure.is_none() && frame.write_whole(half)
    }

    /// Takes a frame: into the ring as far as it fits and nothing waits before it, the rest into the queue.
    /// Returns whether all of it went into the ring.
    pub(super) fn push(&mut self, half: &mut SendHalf<'_>, frame: &OutFrame<'_>) -> bool {
        let waits = self.waiting_bytes() > 0;
        let written = match &mut self.secure {
            _ if waits => 0,
            None => frame.write(half),
            Some(secure) => secure.write(half, frame.len(), |at, place| frame.copy_to(at, place)),
        };
        if written == frame.len() {
            return true;
        }
        frame.append(written, &mut self.overflow.get_or_insert_default().bytes);
        false
    }

    /// Takes bytes that are no frame (an HTTP response), like [`Outbound::push`].
    pub(super) fn push_bytes(&mut self, half: &mut SendHalf<'_>, bytes: &[u8]) {
        let waits = self.waiting_bytes() > 0;
        let written = match &mut self.secure {
            _ if waits => 0,
            None => half.write(bytes),
            Some(secure) => secure
                .write(half, bytes.len(), |at, place| place.copy_from_slice(&bytes[at..at + place.len()])),
        };
        if written < bytes.len() {
            self.overflow.get_or_insert_default().bytes.extend(&bytes[written..]);
        }
    }

    /// Keeps a whole frame until the fragmented message under way has ended.
    pub(super) fn hold(&mut self, frame: &OutFrame<'_>) {
        frame.append(0, &mut self.overflow.get_or_insert_default().held);
    }

    /// The fragmented message has ended: what was held goes out after it, with the next [`Outbound::flush`].
    pub(super) fn release_held(&mut self) {
        if let Some(overflow) = &mut self.overflow {
            overflow.bytes.append(&mut overflow.held);
        }
    }

    /// A close frame is coming: nothing may follow it.
    pub(super) fn drop_held(&mut self) {
        if let Some(overflow) = &mut self.overflow {
            overflow.held = VecDeque::new();
            overflow.newest_pong = None;
        }
        self.free_if_empty();
    }

    /// Answers a ping. While an earlier pong waits for room only the newest ping's answer is kept.
    pub(super) fn push_pong(&mut self, half: &mut SendHalf<'_>, payload: &[u8], mask: Option<[u8; 4]>) {
        if let Some(overflow) = self.overflow.as_mut().filter(|overflow| overflow.pong_ahead > 0) {
            overflow.newest_pong = Some(Control::new(payload));
            return;
        }
        if !self.push(half, &OutFrame::new(Opcode::Pong, true, payload, mask))
            && let Some(overflow) = &mut self.overflow
        {
            overflow.pong_ahead = overflow.bytes.len();
        }
    }

    /// Moves what waits into the ring as far as it fits; returns whether something waited and nothing does now.
    /// `mask` gives the key for a pong that is due, `None` for a server's.
    pub(super) fn flush(&mut self, half: &mut SendHalf<'_>, mask: impl FnOnce() -> Option<[u8; 4]>) -> bool {
        if let Some(secure) = &mut self.secure {
            secure.flush(half);
        }
        let Some(overflow) = &mut self.overflow else { return false };
        let waited = !overflow.bytes.is_empty();
        let written = overflow.write(half, self.secure.as_deref_mut());
        overflow.pong_ahead = overflow.pong_ahead.saturating_sub(written);
        if overflow.pong_ahead == 0
            && let Some(pong) = overflow.newest_pong.take()
        {
            OutFrame::new(Opcode::Pong, true, pong.payload(), mask()).append(0, &mut overflow.bytes);
            overflow.pong_ahead = overflow.bytes.len();
            let written = overflow.write(half, self.secure.as_deref_mut());
            overflow.pong_ahead = overflow.pong_ahead.saturating_sub(written);
        }
        let drained = waited && overflow.bytes.is_empty();
        self.free_if_empty();
        drained
    }

    /// Forgets what waits: it can never be sent.
    pub(super) fn drop_waiting(&mut self) {
        self.overflow = None;
    }

    /// Forgets everything: the connection is over.
    pub(super) fn clear(&mut self) {
        *self = Outbound::default();
    }

    fn free_if_empty(&mut self) {
        if self.overflow.as_ref().is_some_and(|overflow| overflow.is_empty()) {
            self.overflow = None;
        }
    }
}

impl Overflow {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.held.is_empty() && self.newest_pong.is_none() && !self.mid_message
    }

    fn write(&mut self, half: &mut SendHalf<'_>, secure: Option<&mut Secure>) -> usize {
        let (first, second) = self.bytes.as_slices();
        let mut written = 0;
        match secure {
            None => {
                written += half.write(first);
                if written == first.len() {
                    written += half.write(second);
                }
            }
            Some(secure) => {
                let slices = |at: usize, place: &mut [u8]| {
                    let head = first.get(at..).unwrap_or_default();
                    let (head_place, place) = place.split_at_mut(head.len().min(place.len()));
                    head_place.copy_from_slice(&head[..head_place.len()]);
                    let at = at.saturating_sub(first.len());
                    place.copy_from_slice(&second[at..at + place.len()]);
                };
                written += secure.write(half, first.len() + second.len(), slices);
            }
        }
        self.bytes.drain(..written);
        written
    }
}
