//! Messages on their way out that are compressed: to one connection, or once for all subscribers.

use super::conn::{Compress, SendOutcome};
use super::local::{Local, parts};
use super::outbound::OutFrame;
use crate::stack::SendHalf;
use crate::ws::Message;
use crate::ws::deflate::{Deflater, Outgoing};

impl<S> Local<S> {
    /// As [`Local::send`], for a message that is compressed if that was negotiated, the handler does not object, and it
    /// becomes shorter.
    #[cold]
    pub(super) fn send_deflated(
        &mut self,
        index: u32,
        half: &mut SendHalf<'_>,
        message: Message<'_>,
        mask: Option<[u8; 4]>,
        compress: Compress,
    ) -> SendOutcome {
        let (opcode, payload) = parts(message);
        let mut deflater = self.deflater.take();
        let outgoing = self.outgoing(index).filter(|_| compress != Compress::No);
        let deflated = match (&mut deflater, outgoing) {
            (Some(deflater), Some(outgoing)) => deflater.compress(payload, outgoing),
            _ => None,
        };
        let outcome = match deflated {
            Some(deflated) => {
                self.push_deflated(index, half, payload, &OutFrame::compressed(opcode, deflated, mask))
            }
            None => self.push_message(index, half, &OutFrame::new(opcode, true, payload, mask)),
        };
        self.deflater = deflater;
        outcome
    }

    /// Pushes `payload` as the compressed frame that it became, and remembers it where later ones may refer to it.
    pub(super) fn push_deflated(
        &mut self,
        index: u32,
        half: &mut SendHalf<'_>,
        payload: &[u8],
        frame: &OutFrame<'_>,
    ) -> SendOutcome {
        let outcome = self.push_message(index, half, frame);
        // What was dropped was never said, and the peer cannot refer to it.
        if matches!(outcome, SendOutcome::Sent | SendOutcome::Queued) {
            self.stats.messages_deflated += 1;
            self.stats.deflated_bytes_saved += payload.len().saturating_sub(frame.payload_bytes()) as u64;
            if let Some(session) = self.at(index)
                && let Some(outgoing) = &mut session.deflate
            {
                outgoing.sent(payload);
                self.account_out(index);
            }
        }
        outcome
    }

    /// What was negotiated for what a connection is sent.
    pub(super) fn outgoing(&mut self, index: u32) -> Option<&Outgoing> {
        self.at(index)?.deflate.as_deref()
    }
}

/// A message for many connections, compressed when the first of them wants it so.
pub(super) struct Broadcast<'a> {
    deflater: Option<&'a mut Deflater>,
    window_bits: u8,
    deflated: Option<&'a [u8]>,
}

impl<'a> Broadcast<'a> {
    /// Without a `deflater` nobody gets it compressed.
    pub(super) fn new(deflater: Option<&'a mut Deflater>) -> Self {
        let window_bits = deflater.as_ref().map_or(0, |deflater| deflater.window_bits());
        Broadcast { deflater, window_bits, deflated: None }
    }

    /// `payload` as it is compressed for a connection; `None` when it gets it as it is.
    pub(super) fn deflated(&mut self, payload: &[u8], outgoing: Option<&Outgoing>) -> Option<&'a [u8]> {
        if !outgoing?.understands(self.window_bits) {
            return None;
        }
        if let Some(deflater) = self.deflater.take() {
            self.deflated = deflater.compress_for_all(payload);
        }
        self.deflated
    }
}
