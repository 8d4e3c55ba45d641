//! One connection over a kernel socket: from the TCP handshake to the closing one.

use super::connect_failure;
use super::wires::{Compression, OUTPUT_BYTES, Wires, transmit};
use crate::bench::generator::Generator;
use crate::bench::load::{Birth, Failure, Load};
use crate::bench::tally::Cause;
use crate::time::{Duration, Instant};
use crate::tls::{Data, Stream as Tls};
use crate::ws::deflate::{DeflateConfig, History, Outgoing};
use crate::ws::handshake::ClientRequest;
use crate::ws::{Close, CloseCode, Decoder, Event, Message, Opcode, Role, WsUrl};
use mio::net::TcpStream;
use rand_core::RngCore;
use std::io::{ErrorKind, Read};

/// Reads of one connection before the others have their turn.
const READS_MAX: usize = 8;
/// Longest answer to the upgrade request, bytes.
const RESPONSE_BYTES_MAX: usize = 16 << 10;
/// How long the peer may take to close after our close frame. Not an error: the load is over by then.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What becomes of a connection after it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing until the kernel says more.
    Wait,
    /// There is more to read; the others first.
    Again,
    /// It is over.
    Gone,
}

/// One connection.
pub(super) struct Connection {
    stream: TcpStream,
    /// With TLS: what the kernel gets and gives are records.
    tls: Option<Box<Tls>>,
    stage: Stage,
    /// What the kernel has not taken yet.
    unsent: Vec<u8>,
    /// Of a connection that comes and goes.
    life: Option<Life>,
}

/// How long a connection lives that is opened, used and closed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    /// When it began.
    pub(super) birth: Birth,
    /// Messages still to be sent, one after the other.
    pub(super) left: u32,
}

enum Stage {
    Connecting {
        deadline: Instant,
    },
    Securing {
        deadline: Instant,
    },
    Upgrading(Box<Upgrade>),
    Open {
        decoder: Decoder,
        load: Load,
        compression: Option<Box<Compression>>,
    },
    /// Its life is over: ours is the close frame; `answered` when the peer's has come.
    Leaving {
        decoder: Decoder,
        load: Load,
        deadline: Instant,
        answered: bool,
    },
    /// The load is over.
    Closing {
        deadline: Instant,
    },
}

struct Upgrade {
    nonce: [u8; 16],
    response: Vec<u8>,
    deadline: Instant,
}

impl Connection {
    /// A connection whose TCP handshake has begun; it must be open by `deadline`.
    pub(super) fn new(stream: TcpStream, tls: Option<Tls>, deadline: Instant, life: Option<Life>) -> Self {
        let tls = tls.map(Box::new);
        Connection { stream, tls, stage: Stage::Connecting { deadline }, unsent: Vec::new(), life }
    }

    /// Whether no message can be sent yet.
    pub(super) fn is_opening(&self) -> bool {
        matches!(self.stage, Stage::Connecting { .. } | Stage::Securing { .. } | Stage::Upgrading(_))
    }

    /// The kernel says that something can be read or written; `ended` when the peer's FIN may be among it.
    pub(super) fn on_ready(&mut self, row: u32, ended: bool, wires: &mut Wires<'_>) -> Next {
        match self.advance(row, ended, wires) {
            Ok(next) => next,
            Err(failure) => self.fail(failure, wires),
        }
    }

    /// Nothing happened for a while: deadlines, and the end of the load.
    pub(super) fn on_idle(&mut self, wires: &mut Wires<'_>) -> Next {
        let now = wires.generator.now();
        match &self.stage {
            Stage::Connecting { deadline } if now >= *deadline => {
                let detail = format!("no TCP connection within {:?}", wires.generator.timeout());
                self.fail(Failure::new(Cause::Timeout, detail), wires)
            }
            Stage::Securing { deadline } if now >= *deadline => {
                let detail = format!("no TLS handshake within {:?}", wires.generator.timeout());
                self.fail(Failure::new(Cause::Timeout, detail), wires)
            }
            Stage::Upgrading(upgrade) if now >= upgrade.deadline => {
                let detail =
                    format!("no answer to the upgrade request within {:?}", wires.generator.timeout());
                self.fail(Failure::new(Cause::Timeout, detail), wires)
            }
            Stage::Open { load, .. } if wires.generator.is_overdue(load) => {
                let failure = wires.generator.overdue();
                self.fail(failure, wires)
            }
            Stage::Open { .. } => match self.send(wires) {
                Ok(()) => Next::Wait,
                Err(failure) => self.fail(failure, wires),
            },
            Stage::Leaving { deadline, .. } if now >= *deadline => match self.on_end(wires) {
                Ok(next) => next,
                Err(failure) => self.fail(failure, wires),
            },
            Stage::Closing { deadline } if now >= *deadline => Next::Gone,
            _ => Next::Wait,
        }
    }

    fn fail(&mut self, failure: Failure, wires: &mut Wires<'_>) -> Next {
        wires.output.clear();
        match &self.stage {
            Stage::Connecting { .. } | Stage::Securing { .. } | Stage::Upgrading(_) => {
                wires.generator.failed_to_open(failure);
            }
            Stage::Leaving { answered: true, load, .. } => wires.generator.closed(load),
            Stage::Open { load, .. } | Stage::Leaving { load, .. } => wires.generator.failed(load, failure),
            // The load is over; how the peer goes does not matter any more.
            Stage::Closing { .. } => {}
        }
        Next::Gone
    }

    fn advance(&mut self, row: u32, ended: bool, wires: &mut Wires<'_>) -> Result<Next, Failure> {
        if let Stage::Connecting { deadline } = self.stage
            && !self.upgrade(deadline, wires)?
        {
            return Ok(Next::Wait);
        }
        let mut input = std::mem::take(&mut wires.input);
        let read = self.read(row, ended, &mut input, wires);
        wires.input = input;
        let next = read?;
        if next != Next::Gone {
            self.send(wires)?;
        }
        Ok(next)
    }

    /// Goes on if the TCP handshake is done: with the TLS handshake, or the upgrade request. Returns whether it is.
    fn upgrade(&mut self, deadline: Instant, wires: &mut Wires<'_>) -> Result<bool, Failure> {
        if let Some(error) = self.stream.take_error().map_err(|error| connect_failure(&error))? {
            return Err(connect_failure(&error));
        }
        match self.stream.peer_addr() {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(false),
            Err(error) => return Err(connect_failure(&error)),
        }
        if self.tls.is_some() {
            self.stage = Stage::Securing { deadline };
            self.flush(wires)?;
        } else {
            self.ask(deadline, wires)?;
        }
        Ok(true)
    }

    /// Sends the upgrade request.
    fn ask(&mut self, deadline: Instant, wires: &mut Wires<'_>) -> Result<(), Failure> {
        let mut nonce = [0; 16];
        wires.random.fill_bytes(&mut nonce);
        request(nonce, wires.url, wires.deflate.as_ref())
            .write(&mut wires.output)
            .map_err(|error| Failure::new(Cause::Connect, error.to_string()))?;
        self.stage = Stage::Upgrading(Box::new(Upgrade { nonce, response: Vec::new(), deadline }));
        self.flush(wires)
    }

    /// Reads what there is, within the connection's share.
    fn read(
        &mut self,
        row: u32,
        ended: bool,
        input: &mut [u8],
        wires: &mut Wires<'_>,
    ) -> Result<Next, Failure> {
        for _ in 0..READS_MAX {
            let length = match self.stream.read(input) {
                Ok(0) => return self.on_end(wires),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Next::Wait),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(Failure::new(Cause::Reset, error.to_string())),
            };
            self.on_received(row, &mut input[..length], wires)?;
            // epoll(7): a read that was cut short has emptied the socket, and what comes next is a new edge. Only a
            // FIN that is there already is not.
            if length < input.len() && !ended {
                return Ok(Next::Wait);
            }
        }
        Ok(Next::Again)
    }

    /// The peer sent FIN.
    fn on_end(&self, wires: &mut Wires<'_>) -> Result<Next, Failure> {
        match &self.stage {
            Stage::Leaving { answered: true, load, .. } => {
                wires.generator.closed(load);
                Ok(Next::Gone)
            }
            Stage::Leaving { .. } => {
                Err(Failure::new(Cause::Closed, "the closing handshake was not completed"))
            }
            Stage::Closing { .. } => Ok(Next::Gone),
            Stage::Open { .. } => {
                Err(Failure::new(Cause::Closed, "the peer ended the connection without a close frame"))
            }
            Stage::Connecting { .. } | Stage::Securing { .. } | Stage::Upgrading(_) => {
                Err(Failure::new(Cause::Upgrade, "the peer ended the connection before it answered"))
            }
        }
    }

    fn on_received(&mut self, row: u32, mut bytes: &mut [u8], wires: &mut Wires<'_>) -> Result<(), Failure> {
        let Some(mut tls) = self.tls.take() else { return self.on_bytes(row, bytes, wires) };
        let mut result = Ok(());
        while !bytes.is_empty() && result.is_ok() {
            result = match tls.receive(bytes) {
                Err(error) => Err(Failure::new(Cause::Tls, error.to_string())),
                Ok(step) => {
                    let result = match step.data {
                        Data::Nothing => Ok(()),
                        Data::Shown(data) => self.on_bytes(row, &mut bytes[data], wires),
                        Data::Held(data) => {
                            let mut held = tls.take_held();
                            let result = self.on_bytes(row, &mut held[data], wires);
                            tls.put_held(held);
                            result
                        }
                    };
                    bytes = &mut bytes[step.taken..];
                    result
                }
            };
        }
        let secured = tls.can_send();
        self.tls = Some(tls);
        result?;
        match self.stage {
            Stage::Securing { deadline } if secured => self.ask(deadline, wires),
            _ => Ok(()),
        }
    }

    fn on_bytes(&mut self, row: u32, bytes: &mut [u8], wires: &mut Wires<'_>) -> Result<(), Failure> {
        match &mut self.stage {
            Stage::Open { decoder, load, compression } => {
                let history = compression.as_mut().and_then(|compression| compression.history.as_mut());
                // A peer that pings without reading gets no pile of pongs.
                on_frames(decoder, load, self.life.as_mut(), history, self.unsent.is_empty(), bytes, wires)
            }
            Stage::Leaving { decoder, answered, .. } => {
                let mut at = 0;
                while at < bytes.len() && !*answered {
                    let decoded = decoder
                        .decode(&mut bytes[at..])
                        .map_err(|error| Failure::new(Cause::Protocol, error.to_string()))?;
                    at += decoded.consumed;
                    *answered = matches!(decoded.event, Some(Event::Close(_)));
                }
                Ok(())
            }
            Stage::Upgrading(upgrade) => {
                upgrade.response.extend_from_slice(bytes);
                let accepted = request(upgrade.nonce, wires.url, wires.deflate.as_ref())
                    .check_response(&upgrade.response)
                    .map_err(|error| Failure::new(Cause::Upgrade, error.to_string()))?;
                let Some(accepted) = accepted else {
                    let over = upgrade.response.len() > RESPONSE_BYTES_MAX;
                    let detail = || format!("the answer is over {RESPONSE_BYTES_MAX} bytes");
                    return if over { Err(Failure::new(Cause::Upgrade, detail())) } else { Ok(()) };
                };
                wires.generator.check_compression(accepted.deflate.is_some())?;
                let compression = accepted.deflate.map(|agreed| {
                    let outgoing = Outgoing::new(agreed.send);
                    Box::new(Compression { outgoing, history: agreed.receive.history() })
                });
                let consumed = accepted.consumed;
                let mut response = std::mem::take(&mut upgrade.response);
                let decoder = Decoder::new(Role::Client, wires.limits);
                let decoder = if compression.is_some() { decoder.with_compression() } else { decoder };
                self.stage = Stage::Open { decoder, load: wires.open(row, self.life), compression };
                match response.get_mut(consumed..) {
                    Some(frames) if !frames.is_empty() => self.on_bytes(row, frames, wires),
                    _ => Ok(()),
                }
            }
            Stage::Connecting { .. } | Stage::Securing { .. } | Stage::Closing { .. } => Ok(()),
        }
    }

    /// Sends what is due: the rest of what was begun, the loop's next messages, at the end a close frame.
    fn send(&mut self, wires: &mut Wires<'_>) -> Result<(), Failure> {
        self.flush(wires)?;
        if self.life.is_some() {
            return self.live(wires);
        }
        let Stage::Open { load, compression, .. } = &mut self.stage else { return Ok(()) };
        while self.unsent.is_empty() && wires.generator.may_send(load) {
            while wires.output.len() < OUTPUT_BYTES && wires.generator.may_send(load) {
                wires.write_message(load, compression.as_deref_mut());
            }
            transmit(&mut self.stream, self.tls.as_deref_mut(), &mut self.unsent, wires)?;
        }
        if wires.generator.is_done(load) {
            wires.generator.closed(load);
            wires.write_control(Opcode::Close, &CloseCode::NORMAL.0.to_be_bytes());
            self.stage = Stage::Closing { deadline: wires.generator.now() + CLOSE_TIMEOUT };
            self.flush(wires)?;
        }
        Ok(())
    }

    /// Sends the next message of a connection that comes and goes, or the close frame after the last one.
    fn live(&mut self, wires: &mut Wires<'_>) -> Result<(), Failure> {
        let Some(Life { left, .. }) = self.life else { return Ok(()) };
        let deadline = wires.generator.now() + wires.generator.timeout();
        match std::mem::replace(&mut self.stage, Stage::Closing { deadline }) {
            Stage::Open { mut load, decoder, mut compression } if left > 0 => {
                if !load.is_waiting() {
                    wires.write_frame_of(&load, compression.as_deref_mut());
                    wires.generator.sent_beside(&mut load);
                }
                self.stage = Stage::Open { load, decoder, compression };
            }
            Stage::Open { load, decoder, .. } => {
                wires.write_control(Opcode::Close, &CloseCode::NORMAL.0.to_be_bytes());
                self.stage = Stage::Leaving { decoder, load, deadline, answered: false };
            }
            stage => self.stage = stage,
        }
        self.flush(wires)
    }

    fn flush(&mut self, wires: &mut Wires<'_>) -> Result<(), Failure> {
        transmit(&mut self.stream, self.tls.as_deref_mut(), &mut self.unsent, wires)
    }
}

/// The upgrade request with this nonce.
fn request<'a>(nonce: [u8; 16], url: &'a WsUrl, deflate: Option<&'a DeflateConfig>) -> ClientRequest<'a> {
    ClientRequest {
        host: url.authority(),
        target: url.target(),
        nonce,
        protocols: &[],
        headers: &[],
        deflate,
    }
}

/// Decodes `bytes` and acts on every event; answers go to the thread's output.
fn on_frames(
    decoder: &mut Decoder,
    load: &mut Load,
    mut life: Option<&mut Life>,
    mut history: Option<&mut History>,
    may_pong: bool,
    bytes: &mut [u8],
    wires: &mut Wires<'_>,
) -> Result<(), Failure> {
    let mut at = 0;
    while at < bytes.len() {
        let decoded = decoder
            .decode(&mut bytes[at..])
            .map_err(|error| Failure::new(Cause::Protocol, error.to_string()))?;
        at += decoded.consumed;
        match decoded.event {
            Some(Event::Message(message)) => {
                take_reply(load, life.as_deref_mut(), message, &mut wires.generator)?
            }
            Some(Event::Ping(payload)) if may_pong => wires.write_control(Opcode::Pong, payload),
            Some(Event::Compressed(compressed)) => {
                let limit = wires.limits.message_bytes_max;
                let message = wires.inflater.inflate(compressed, history.as_deref_mut(), limit);
                let message = message.map_err(|error| Failure::new(Cause::Protocol, error.to_string()))?;
                take_reply(load, life.as_deref_mut(), message, &mut wires.generator)?;
            }
            Some(Event::Ping(_) | Event::Pong(_)) | None => {}
            Some(Event::Close(close)) => return Err(closed(close)),
        }
    }
    Ok(())
}

/// Verifies a reply; on a connection that comes and goes it is not what counts.
fn take_reply(
    load: &mut Load,
    life: Option<&mut Life>,
    message: Message<'_>,
    generator: &mut Generator,
) -> Result<(), Failure> {
    match life {
        None => generator.reply(load, message),
        Some(life) => {
            generator.verify(load, message)?;
            life.left -= 1;
            Ok(())
        }
    }
}

fn closed(close: Close<'_>) -> Failure {
    let Close { code, reason } = close;
    Failure::new(Cause::Closed, format!("the peer closed with code {} {reason:?}", code.0))
}
