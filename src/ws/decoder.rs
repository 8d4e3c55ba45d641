//! Bytes to events. Accepts input cut at any byte; lends a frame that is whole in the input without copying it.

use super::assembly::{Assembly, ControlPayload};
use super::frame::HEADER_BYTES_MAX;
use super::{Close, FrameHeader, Limits, Opcode, ProtocolError, Role, mask};
use std::sync::Arc;

/// A whole message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Text, valid UTF-8.
    Text(&'a str),
    /// Bytes.
    Binary(&'a [u8]),
}

impl<'a> Message<'a> {
    /// Its payload, whatever its kind.
    pub const fn as_bytes(self) -> &'a [u8] {
        match self {
            Message::Text(text) => text.as_bytes(),
            Message::Binary(bytes) => bytes,
        }
    }

    /// The opcode of its first frame.
    pub const fn opcode(self) -> Opcode {
        match self {
            Message::Text(_) => Opcode::Text,
            Message::Binary(_) => Opcode::Binary,
        }
    }
}

/// A whole message as it was compressed; a [`deflate::Inflater`](super::deflate::Inflater) makes a [`Message`] of it,
/// or finds that it is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compressed<'a> {
    /// It will be text.
    pub is_text: bool,
    /// DEFLATE, without the four bytes at its end that RFC 7692 section 7.2.1 leaves out.
    pub payload: &'a [u8],
}

/// What the peer said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole message, unmasked, assembled and (text) validated.
    Message(Message<'a>),
    /// A whole message, unmasked and assembled, that is still to be decompressed. Only where that was negotiated.
    Compressed(Compressed<'a>),
    /// A ping; the same payload is due back in a pong (RFC 6455 section 5.5.3).
    Ping(&'a [u8]),
    /// A pong.
    Pong(&'a [u8]),
    /// A close frame, validated. Nothing that follows it is decoded.
    Close(Close<'a>),
}

impl<'a> Event<'a> {
    /// The event that an unfragmented frame is by itself: a continuation never is one.
    #[inline]
    fn of_frame(opcode: Opcode, compressed: bool, payload: &'a [u8]) -> Result<Self, ProtocolError> {
        if compressed {
            return Ok(Event::Compressed(Compressed { is_text: opcode == Opcode::Text, payload }));
        }
        Ok(match opcode {
            Opcode::Text => {
                let text = simdutf8::basic::from_utf8(payload).map_err(|_| ProtocolError::TextNotUtf8)?;
                Event::Message(Message::Text(text))
            }
            Opcode::Binary | Opcode::Continuation => Event::Message(Message::Binary(payload)),
            Opcode::Ping => Event::Ping(payload),
            Opcode::Pong => Event::Pong(payload),
            Opcode::Close => Event::Close(Close::decode(payload)?),
        })
    }
}

/// One step of the decoder.
#[derive(Debug)]
pub struct Decoded<'a> {
    /// How many bytes of the input were used up. Without an event, always all of them.
    pub consumed: usize,
    /// At most one event.
    pub event: Option<Event<'a>>,
}

/// The receiving half of one connection.
///
/// Call [`decode`](Self::decode) with what has arrived, drop the first `consumed` bytes, and call it again with
/// the rest until it returns no event. An event borrows from the input or from the decoder, so it ends before the
/// next call; [`reclaim`](Self::reclaim) (or that call) frees the memory of a message that had to be assembled.
#[derive(Debug)]
pub struct Decoder {
    /// Shared: those who have one have thousands.
    limits: Arc<Limits>,
    state: State,
    assembly: Assembly,
    control: Option<Box<ControlPayload>>,
    /// Frames of the message that is being assembled.
    fragments: u32,
    role: Role,
    /// Compression was negotiated: RSV1 means it.
    compression: bool,
    lent: Lent,
}

impl Decoder {
    /// A decoder for a connection whose handshake is done. `role` is ours. Decoders of many connections share the limits when
    /// they are given clones of one `Arc`.
    pub fn new(role: Role, limits: impl Into<Arc<Limits>>) -> Self {
        Decoder {
            limits: limits.into(),
            state: State::BETWEEN_FRAMES,
            assembly: Assembly::Empty,
            control: None,
            fragments: 0,
            role,
            compression: false,
            lent: Lent::Nothing,
        }
    }

    /// With compression negotiated: messages may come as [`Event::Compressed`].
    pub fn with_compression(self) -> Self {
        Decoder { compression: true, ..self }
    }

    /// Decodes up to one event from the front of `input`, which it unmasks in place.
    ///
    /// After a close frame everything else is used up and ignored (RFC 6455 section 5.5.1).
    ///
    /// # Errors
    /// The peer's first violation; the decoder is then spent and repeats it.
    #[inline]
    pub fn decode<'a>(&'a mut self, input: &'a mut [u8]) -> Result<Decoded<'a>, ProtocolError> {
        self.reclaim();
        match self.small_message(input) {
            Some((header, start, end)) => self.whole(input, &header, start, end),
            None => self.decode_any(input),
        }
    }

    /// [`Decoder::decode`] for whatever comes. Apart, so that the common case becomes part of its caller.
    #[inline(never)]
    fn decode_any<'a>(&'a mut self, input: &'a mut [u8]) -> Result<Decoded<'a>, ProtocolError> {
        let mut at = 0;
        loop {
            if let Some((header, start, end)) = self.whole_frame(input, at) {
                return self.whole(input, &header, start, end);
            }
            match self.part(&mut input[at..]) {
                Ok((used, Part::Frame)) => at += used,
                Ok((_, Part::Unfinished)) => return Ok(Decoded { consumed: input.len(), event: None }),
                Ok((used, Part::Message)) => {
                    return Ok(Decoded { consumed: at + used, event: self.assembly.event() });
                }
                Ok((used, Part::Control(opcode))) => {
                    let payload = self.control.as_deref().map(ControlPayload::bytes).unwrap_or_default();
                    let event = Event::of_frame(opcode, false, payload);
                    if let Some(state) = State::after(&event) {
                        self.state = state;
                        self.assembly = Assembly::Empty;
                    }
                    return Ok(Decoded { consumed: at + used, event: Some(event?) });
                }
                Err(error) => {
                    self.control = None;
                    self.end(State::Failed(error));
                    return Err(error);
                }
            }
        }
    }

    /// Frees the memory behind the last event; [`decode`](Self::decode) begins with it.
    #[inline]
    pub fn reclaim(&mut self) {
        match self.lent {
            Lent::Nothing => return,
            Lent::Message => self.assembly = Assembly::Empty,
            Lent::Control => self.control = None,
        }
        self.lent = Lent::Nothing;
    }

    /// Bytes of heap this decoder holds just now: a message or a control frame of which a part has arrived, or the
    /// event lent last.
    pub fn heap_bytes(&self) -> usize {
        self.assembly.heap_bytes() + self.control.as_deref().map_or(0, size_of_val)
    }

    /// Whether a message has begun and not ended.
    pub fn mid_message(&self) -> bool {
        let frame_begun = matches!(&self.state, State::Payload(frame) if !frame.opcode.is_control());
        frame_begun || !self.assembly.is_empty() && self.lent != Lent::Message
    }

    /// The event that a frame is by itself, whose payload lies whole in the input from `start` to `end`.
    #[inline]
    fn whole<'a>(
        &mut self,
        input: &'a mut [u8],
        header: &FrameHeader,
        start: usize,
        end: usize,
    ) -> Result<Decoded<'a>, ProtocolError> {
        let payload = &mut input[start..end];
        if let Some(key) = header.mask {
            mask::apply(payload, key, 0);
        }
        let event = Event::of_frame(header.opcode, header.rsv1, payload);
        if let Some(state) = State::after(&event) {
            self.end(state);
        }
        Ok(Decoded { consumed: end, event: Some(event?) })
    }

    /// The commonest frame, when one is in front: its header, and where in the input its payload starts and ends.
    #[inline]
    fn small_message(&self, input: &[u8]) -> Option<(FrameHeader, usize, usize)> {
        let (header, start) = FrameHeader::decode_small(input, self.role)?;
        let is_event = self.is_between_frames()
            && self.assembly.is_empty()
            && header.payload_bytes <= self.limits.frame_bytes_max.min(self.limits.message_bytes_max) as u64;
        is_event.then(|| (header, start, start + header.payload_bytes as usize))
    }

    fn is_between_frames(&self) -> bool {
        matches!(self.state, State::Header(HeaderPart { len: 0, .. }))
    }

    /// The frame at `at` when it lies whole in the input and is an event by itself: its header, and where in the input
    /// its payload starts and ends. Anything else, wrong frames too, goes through [`Decoder::part`].
    fn whole_frame(&self, input: &[u8], at: usize) -> Option<(FrameHeader, usize, usize)> {
        if !self.is_between_frames() {
            return None;
        }
        let rest = input.get(at..)?;
        let (header, header_bytes) = FrameHeader::decode(rest, self.role, self.compression).ok()??;
        let is_event = header.opcode.is_control()
            || header.fin
                && header.opcode != Opcode::Continuation
                && self.assembly.is_empty()
                && header.payload_bytes <= self.limits.frame_bytes_max as u64
                && header.payload_bytes <= self.limits.message_bytes_max as u64;
        let is_whole = header.payload_bytes <= (rest.len() - header_bytes) as u64;
        let start = at + header_bytes;
        (is_event && is_whole).then(|| (header, start, start + header.payload_bytes as usize))
    }

    /// Goes on to the end of the frame or of the input, keeping the payload; how many bytes of the input it used.
    fn part(&mut self, input: &mut [u8]) -> Result<(usize, Part), ProtocolError> {
        let (mut frame, start) = match &mut self.state {
            State::Header(begun) => match begun.resume(input, self.role, self.compression)? {
                Some((header, used)) => (self.begin(header)?, used),
                None => return Ok((input.len(), Part::Unfinished)),
            },
            State::Payload(frame) => (*frame, 0),
            State::Closed => return Ok((input.len(), Part::Unfinished)),
            State::Failed(error) => return Err(*error),
        };
        let rest = &mut input[start..];
        let arrived = usize::try_from(frame.remaining_bytes).map_or(rest.len(), |n| n.min(rest.len()));
        let payload = &mut rest[..arrived];
        if let Some(key) = frame.mask {
            frame.phase = mask::apply(payload, key, usize::from(frame.phase)) as u8;
        }
        frame.remaining_bytes -= arrived as u64;
        self.keep(&frame, payload)?;

        let used = start + arrived;
        if frame.remaining_bytes > 0 {
            self.state = State::Payload(frame);
            return Ok((used, Part::Unfinished));
        }
        self.state = State::BETWEEN_FRAMES;
        if frame.opcode.is_control() {
            self.lent = Lent::Control;
            return Ok((used, Part::Control(frame.opcode)));
        }
        if !frame.fin {
            return Ok((used, Part::Frame));
        }
        self.assembly.finish()?;
        self.fragments = 0;
        self.lent = Lent::Message;
        Ok((used, Part::Message))
    }

    /// Checks a frame's header against what came before it and against the limits.
    #[inline]
    fn begin(&mut self, header: FrameHeader) -> Result<Frame, ProtocolError> {
        let FrameHeader { fin, rsv1, opcode, mask, payload_bytes } = header;
        if !opcode.is_control() {
            // RFC 6455 section 5.4: the frames of a message follow each other.
            match (opcode == Opcode::Continuation, self.assembly.is_empty()) {
                (true, true) => return Err(ProtocolError::ContinuationUnexpected),
                (false, false) => return Err(ProtocolError::ContinuationExpected),
                (true, false) | (false, true) => {}
            }
            let limits =
                if rsv1 || self.assembly.is_compressed() { self.limits.compressed() } else { *self.limits };
            let Limits { message_bytes_max, frame_bytes_max, fragments_max } = limits;
            if payload_bytes > frame_bytes_max as u64 {
                return Err(ProtocolError::FrameTooBig { limit: frame_bytes_max });
            }
            if payload_bytes > message_bytes_max.saturating_sub(self.assembly.len()) as u64 {
                return Err(ProtocolError::MessageTooBig { limit: message_bytes_max });
            }
            if !fin || opcode == Opcode::Continuation {
                self.fragments = self.fragments.saturating_add(1);
                if self.fragments as usize > fragments_max {
                    return Err(ProtocolError::TooManyFragments { limit: fragments_max });
                }
            }
        }
        Ok(Frame { remaining_bytes: payload_bytes, mask, phase: 0, opcode, rsv1, fin })
    }

    /// Copies the payload of a frame that cannot be lent.
    fn keep(&mut self, frame: &Frame, payload: &[u8]) -> Result<(), ProtocolError> {
        if frame.opcode.is_control() {
            self.control.get_or_insert_default().push(payload);
            return Ok(());
        }
        if self.assembly.is_empty() {
            self.assembly = Assembly::begin(frame.opcode, frame.rsv1);
        }
        self.assembly.push(payload)
    }

    /// Nothing is decoded any more; a message that has begun will not end.
    #[cold]
    fn end(&mut self, state: State) {
        self.state = state;
        self.assembly = Assembly::Empty;
    }
}

/// Where in the byte stream the decoder stands.
#[derive(Clone, Copy, Debug)]
enum State {
    /// Between frames, or in a frame's header.
    Header(HeaderPart),
    /// In a frame's payload.
    Payload(Frame),
    /// After a close frame.
    Closed,
    /// After the peer's first violation.
    Failed(ProtocolError),
}

impl State {
    const BETWEEN_FRAMES: State = State::Header(HeaderPart { bytes: [0; HEADER_BYTES_MAX], len: 0 });

    /// The state in which `event` ends the decoding; `None` when it goes on.
    #[inline]
    fn after(event: &Result<Event<'_>, ProtocolError>) -> Option<State> {
        match event {
            Ok(Event::Close(_)) => Some(State::Closed),
            Ok(_) => None,
            Err(error) => Some(State::Failed(*error)),
        }
    }
}

/// The bytes of a header that is not whole yet.
#[derive(Clone, Copy, Debug)]
struct HeaderPart {
    bytes: [u8; HEADER_BYTES_MAX],
    len: u8,
}

impl HeaderPart {
    /// The header that ends in `input`, and how many bytes of `input` belong to it; keeps them when it does not end.
    fn resume(
        &mut self,
        input: &[u8],
        role: Role,
        compression: bool,
    ) -> Result<Option<(FrameHeader, usize)>, ProtocolError> {
        let held = usize::from(self.len);
        let mut len = held;
        for (place, byte) in self.bytes[held..].iter_mut().zip(input) {
            *place = *byte;
            len += 1;
        }
        self.len = len as u8;
        let header = FrameHeader::decode(&self.bytes[..len], role, compression)?;
        Ok(header.map(|(header, header_bytes)| (header, header_bytes - held)))
    }
}

/// A frame whose payload has not ended.
#[derive(Clone, Copy, Debug)]
struct Frame {
    remaining_bytes: u64,
    mask: Option<[u8; 4]>,
    /// Place in the masking key of the next payload byte.
    phase: u8,
    opcode: Opcode,
    rsv1: bool,
    fin: bool,
}

/// What the last event borrowed from the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lent {
    Nothing,
    Message,
    Control,
}

/// How far [`Decoder::part`] came.
enum Part {
    /// To the end of the input: the frame goes on.
    Unfinished,
    /// To the end of a frame, and the message goes on.
    Frame,
    /// To the end of a message, which is in the assembly.
    Message,
    /// To the end of a control frame, which is in its buffer.
    Control(Opcode),
}

#[cfg(test)]
mod tests {
    use super::super::{CloseCode, append_frame};
    use super::*;

    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    /// A client's frame.
    fn frame(opcode: Opcode, fin: bool, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        append_frame(&mut out, opcode, fin, Some(KEY), payload);
        out
    }

    fn server(limits: Limits) -> Decoder {
        Decoder::new(Role::Server, limits)
    }

    /// Feeds `stream` in pieces of `piece` bytes: what each event says, then the error if one came.
    fn decode_all(decoder: &mut Decoder, stream: &[u8], piece: usize) -> Vec<String> {
        let mut events = Vec::new();
        for chunk in stream.chunks(piece) {
            let mut input = chunk.to_vec();
            let mut at = 0;
            loop {
                match decoder.decode(&mut input[at..]) {
                    Ok(Decoded { consumed, event: Some(event) }) => {
                        at += consumed;
                        events.push(format!("{event:?}"));
                    }
                    Ok(Decoded { consumed, event: None }) => {
                        assert_eq!(at + consumed, input.len(), "without an event the input is used up");
                        break;
                    }
                    Err(error) => {
                        events.push(format!("{error:?}"));
                        return events;
                    }
                }
            }
        }
        events
    }

    /// `stream` gives `expected` at once and cut at every distance.
    fn assert_events(stream: &[u8], limits: Limits, expected: &[&str]) {
        for piece in (1..=stream.len().min(200)).chain([stream.len().max(1)]) {
            assert_eq!(decode_all(&mut server(limits), stream, piece), expected, "pieces of {piece}");
        }
    }

    fn assert_default(frames: &[Vec<u8>], expected: &[&str]) {
        assert_events(&frames.concat(), Limits::default(), expected);
    }

    fn limits(message_bytes_max: usize, frame_bytes_max: usize, fragments_max: usize) -> Limits {
        Limits { message_bytes_max, frame_bytes_max, fragments_max }
    }

    #[test]
    fn messages_of_one_frame() {
        assert_default(
            &[
                frame(Opcode::Text, true, b""),
                frame(Opcode::Text, true, "žluť".as_bytes()),
                frame(Opcode::Binary, true, b"\xff\x00"),
            ],
            &["Message(Text(\"\"))", "Message(Text(\"žluť\"))", "Message(Binary([255, 0]))"],
        );
    }

    #[test]
    fn fragments_with_control_frames_between_them() {
        assert_default(
            &[
                frame(Opcode::Text, false, b"a\xc3"),
                frame(Opcode::Ping, true, b"p"),
                frame(Opcode::Continuation, false, b""),
                frame(Opcode::Pong, true, b""),
                frame(Opcode::Continuation, true, b"\xa9b"),
                frame(Opcode::Binary, true, b"z"),
                frame(Opcode::Close, true, b"\x03\xe8bye"),
            ],
            &[
                "Ping([112])",
                "Pong([])",
                "Message(Text(\"aéb\"))",
                "Message(Binary([122]))",
                "Close(Close { code: CloseCode(1000), reason: \"bye\" })",
            ],
        );
    }

    #[test]
    fn a_message_of_empty_fragments_is_empty() {
        let empty = [
            frame(Opcode::Binary, false, b""),
            frame(Opcode::Continuation, false, b""),
            frame(Opcode::Continuation, true, b""),
        ];
        assert_default(&empty, &["Message(Binary([]))"]);
    }

    #[test]
    fn nothing_is_decoded_after_close() {
        let frames = [
            frame(Opcode::Text, false, b"unfinished"),
            frame(Opcode::Close, true, b""),
            frame(Opcode::Text, true, b"late"),
            b"\xff\xff not even a frame".to_vec(),
        ];
        assert_default(&frames, &["Close(Close { code: CloseCode(1005), reason: \"\" })"]);
    }

    #[test]
    fn an_error_is_repeated_and_frees_what_was_held() {
        let mut decoder = server(Limits::default());
        let mut stream = [frame(Opcode::Text, false, b"held"), frame(Opcode::Text, true, b"x")].concat();
        for _ in 0..3 {
            let error = decoder.decode(&mut stream).unwrap_err();
            assert_eq!(error, ProtocolError::ContinuationExpected);
            assert_eq!(decoder.heap_bytes(), 0);
            assert!(!decoder.mid_message());
        }
    }

    #[test]
    fn a_bad_close_ends_the_decoder_too() {
        let mut decoder = server(Limits::default());
        let mut stream = [frame(Opcode::Text, false, b"held"), frame(Opcode::Close, true, b"\x03")].concat();
        for _ in 0..2 {
            assert_eq!(decoder.decode(&mut stream).unwrap_err(), ProtocolError::CloseCodeCut);
            assert_eq!(decoder.heap_bytes(), 0);
        }
        let close = frame(Opcode::Close, true, b"\x03\xee");
        assert_default(&[close], &["CloseCodeForbidden { code: 1006 }"]);
        assert_default(&[frame(Opcode::Close, true, b"\x03\xe8\xc3")], &["CloseReasonNotUtf8"]);
    }

    #[test]
    fn the_order_of_frames_in_a_message() {
        assert_default(&[frame(Opcode::Continuation, true, b"x")], &["ContinuationUnexpected"]);
        assert_default(
            &[
                frame(Opcode::Text, false, b"x"),
                frame(Opcode::Continuation, true, b"y"),
                frame(Opcode::Continuation, true, b"z"),
            ],
            &["Message(Text(\"xy\"))", "ContinuationUnexpected"],
        );
        assert_default(
            &[frame(Opcode::Binary, false, b"x"), frame(Opcode::Binary, false, b"y")],
            &["ContinuationExpected"],
        );
    }

    #[test]
    fn text_fails_within_an_unfinished_frame() {
        // A frame of 100 bytes of which the third is bad: 6 of header and 3 of payload are enough.
        let stream = frame(Opcode::Text, false, &[&b"ab\xff"[..], &[b'c'; 97]].concat());
        let mut decoder = server(Limits::default());
        assert!(decoder.decode(&mut stream[..8].to_vec()).is_ok());
        let error = decoder.decode(&mut stream[8..9].to_vec()).unwrap_err();
        assert_eq!(error, ProtocolError::TextNotUtf8);
        // Also at the end of a fragment that is not the last, and inside a character.
        assert_default(&[frame(Opcode::Text, false, b"\xed\xa0")], &["TextNotUtf8"]);
        assert_default(
            &[frame(Opcode::Text, false, b"\xe2\x82"), frame(Opcode::Continuation, true, b"")],
            &["TextNotUtf8"],
        );
    }

    #[test]
    fn limits_fail_on_the_header_alone() {
        let header_of = |opcode, fin, bytes: usize| {
            let mut stream = frame(opcode, fin, &vec![b'x'; bytes]);
            stream.truncate(stream.len() - bytes);
            stream
        };
        let cases = [
            (vec![header_of(Opcode::Binary, true, 101)], limits(1000, 100, 9), "FrameTooBig { limit: 100 }"),
            (vec![header_of(Opcode::Text, true, 101)], limits(100, 1000, 9), "MessageTooBig { limit: 100 }"),
            (
                vec![frame(Opcode::Text, false, &[b'x'; 60]), header_of(Opcode::Continuation, true, 41)],
                limits(100, 100, 9),
                "MessageTooBig { limit: 100 }",
            ),
            (
                vec![
                    frame(Opcode::Text, false, b""),
                    frame(Opcode::Continuation, false, b""),
                    header_of(Opcode::Continuation, true, 1),
                ],
                limits(100, 100, 2),
                "TooManyFragments { limit: 2 }",
            ),
        ];
        for (frames, limits, expected) in cases {
            assert_events(&frames.concat(), limits, &[expected]);
        }
    }

    #[test]
    fn the_bytes_of_a_character_that_is_not_whole_count_too() {
        let frames = [
            frame(Opcode::Text, false, "xx😀".as_bytes().split_at(4).0),
            frame(Opcode::Continuation, true, b"123"),
        ];
        assert_events(&frames.concat(), limits(6, 6, 9), &["MessageTooBig { limit: 6 }"]);
    }

    #[test]
    fn what_meets_the_limits_exactly_passes() {
        let stream = [
            frame(Opcode::Binary, false, b"123"),
            frame(Opcode::Continuation, true, b"45"),
            frame(Opcode::Binary, true, b"678"),
            frame(Opcode::Ping, true, b"not a message"),
        ];
        let ping = format!("Ping({:?})", b"not a message");
        let expected = ["Message(Binary([49, 50, 51, 52, 53]))", "Message(Binary([54, 55, 56]))", &ping];
        assert_events(&stream.concat(), limits(5, 3, 2), &expected);
    }

    #[test]
    fn a_declared_length_allocates_nothing() {
        let mut decoder = server(Limits::default());
        let mut stream = frame(Opcode::Binary, true, &vec![7; 1 << 20]);
        stream.truncate(14 + 10);
        assert!(decoder.decode(&mut stream[..14]).is_ok());
        assert_eq!(decoder.heap_bytes(), 0);
        assert!(decoder.mid_message());
        assert!(decoder.decode(&mut stream[14..]).is_ok());
        assert!((10..=20).contains(&decoder.heap_bytes()));
    }

    #[test]
    fn memory_is_given_back_after_the_message() {
        let mut decoder = server(Limits::default());
        let stream = frame(Opcode::Binary, true, &[7; 1000]);
        assert!(decoder.decode(&mut stream[..500].to_vec()).unwrap().event.is_none());
        assert!(decoder.mid_message());
        assert!(decoder.decode(&mut stream[500..].to_vec()).unwrap().event.is_some());
        assert!(!decoder.mid_message());
        assert!(decoder.heap_bytes() > 0, "the event lies there");
        decoder.reclaim();
        assert_eq!(decoder.heap_bytes(), 0);
        assert_eq!(decode_all(&mut decoder, &frame(Opcode::Ping, true, b"12"), 7), ["Ping([49, 50])"]);
        decoder.reclaim();
        assert_eq!(decoder.heap_bytes(), 0);
    }

    #[test]
    fn a_whole_frame_is_lent_from_the_input() {
        let mut decoder = server(Limits::default());
        // Also after a message that was assembled.
        let mut stream = [
            frame(Opcode::Text, false, b"assembled"),
            frame(Opcode::Continuation, true, b""),
            frame(Opcode::Binary, true, &[1; 300]),
            frame(Opcode::Ping, true, b"ping"),
        ]
        .concat();
        let (first, second) = stream.split_at_mut(15 + 6);
        assert!(decoder.decode(first).unwrap().event.is_some());
        let place = second.as_ptr_range();
        let mut at = 0;
        for _ in 0..2 {
            let Decoded { consumed, event } = decoder.decode(&mut second[at..]).unwrap();
            let payload = match event {
                Some(Event::Message(message)) => message.as_bytes(),
                Some(Event::Ping(payload)) => payload,
                other => panic!("{other:?}"),
            };
            assert!(place.contains(&payload.as_ptr()));
            assert_eq!(decoder.heap_bytes(), 0);
            at += consumed;
        }
    }

    #[test]
    fn a_client_reads_frames_without_a_mask() {
        let mut stream = Vec::new();
        append_frame(&mut stream, Opcode::Text, true, None, b"Hello");
        append_frame(&mut stream, Opcode::Close, true, None, &CloseCode::GOING_AWAY.0.to_be_bytes());
        for piece in 1..=stream.len() {
            let mut decoder = Decoder::new(Role::Client, Limits::default());
            let events = decode_all(&mut decoder, &stream, piece);
            assert_eq!(
                events,
                ["Message(Text(\"Hello\"))", "Close(Close { code: CloseCode(1001), reason: \"\" })"]
            );
        }
    }

    #[test]
    fn a_compressed_message_in_fragments() {
        let compressed = |opcode, fin, payload: &[u8]| {
            let mut bytes = frame(opcode, fin, payload);
            bytes[0] |= 0x40;
            bytes
        };
        let stream = [
            compressed(Opcode::Text, false, b"ab"),
            frame(Opcode::Ping, true, b"p"),
            frame(Opcode::Continuation, true, b"c"),
            compressed(Opcode::Binary, true, b"\xff"),
            frame(Opcode::Text, true, b"plain"),
        ]
        .concat();
        let expected = [
            "Ping([112])",
            "Compressed(Compressed { is_text: true, payload: [97, 98, 99] })",
            "Compressed(Compressed { is_text: false, payload: [255] })",
            "Message(Text(\"plain\"))",
        ];
        for piece in 1..=stream.len() {
            let mut decoder = server(Limits::default()).with_compression();
            assert_eq!(decode_all(&mut decoder, &stream, piece), expected, "pieces of {piece}");
        }
        assert_eq!(decode_all(&mut server(Limits::default()), &stream, 1000), ["ReservedBits"]);
        for wrong in [(Opcode::Continuation, true), (Opcode::Ping, true), (Opcode::Close, true)] {
            let stream = [frame(Opcode::Text, false, b"a"), compressed(wrong.0, wrong.1, b"")].concat();
            let mut decoder = server(Limits::default()).with_compression();
            assert_eq!(decode_all(&mut decoder, &stream, 1000), ["ReservedBits"], "{wrong:?}");
        }
    }

    #[test]
    fn what_does_not_shrink_may_be_a_little_longer_than_the_limit() {
        let message = |compressed: u8, payload_bytes| {
            let mut bytes = frame(Opcode::Binary, true, &vec![0; payload_bytes]);
            bytes[0] |= compressed;
            let mut decoder = server(limits(6400, 6400, 1)).with_compression();
            decode_all(&mut decoder, &bytes, bytes.len()).remove(0)
        };
        assert!(message(0x40, 6400 + 164).starts_with("Compressed"));
        assert_eq!(message(0x40, 6400 + 165), "FrameTooBig { limit: 6564 }");
        assert_eq!(message(0, 6401), "FrameTooBig { limit: 6400 }");
    }

    #[test]
    fn an_idle_decoder_is_small() {
        assert!(size_of::<Decoder>() <= 96, "{} bytes", size_of::<Decoder>());
    }
}
