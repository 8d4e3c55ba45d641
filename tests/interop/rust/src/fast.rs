//! fastwebsockets, with hyper for the opening handshake.

use bytes::Bytes;
use fastwebsockets::{FragmentCollector, Frame, OpCode, Payload, WebSocket, WebSocketError};
use http_body_util::Empty;
use hyper::header::{CONNECTION, HOST, UPGRADE};
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;

use crate::transport::{Stream, Target};
use crate::{Failure, In, Out, Serving, Socket, told};

pub struct Fast(FragmentCollector<TokioIo<Upgraded>>);

pub fn serve(socket: Fast) -> Serving {
    Box::pin(told::serve(socket))
}

impl Fast {
    fn new(mut socket: WebSocket<TokioIo<Upgraded>>) -> Self {
        socket.set_max_message_size(64 << 20);
        Fast(FragmentCollector::new(socket))
    }
}

impl Socket for Fast {
    async fn connect(target: &Target, stream: Stream) -> Result<Self, Failure> {
        let request = hyper::Request::get(target.url.path())
            .header(HOST, target.url.authority().ok_or("the URL has no host")?.as_str())
            .header(UPGRADE, "websocket")
            .header(CONNECTION, "upgrade")
            .header("Sec-WebSocket-Key", fastwebsockets::handshake::generate_key())
            .header("Sec-WebSocket-Version", "13")
            .body(Empty::<Bytes>::new())?;
        let (socket, _) = fastwebsockets::handshake::client(&Executor, request, stream).await?;
        Ok(Fast::new(socket))
    }

    async fn accept(stream: Stream, serve: fn(Self) -> Serving) -> Result<(), Failure> {
        let service = service_fn(move |mut request| async move {
            let (response, upgraded) = fastwebsockets::upgrade::upgrade(&mut request)?;
            tokio::spawn(async move {
                let served = async { serve(Fast::new(upgraded.await?)).await };
                if let Err(error) = served.await {
                    eprintln!("a connection ended: {error}");
                }
            });
            Ok::<_, WebSocketError>(response)
        });
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        Ok(connection.with_upgrades().await?)
    }

    async fn send(&mut self, message: Out) -> Result<(), Failure> {
        let frame = match message {
            Out::Text(text) => Frame::text(Payload::Owned(text.into_bytes())),
            Out::Binary(bytes) => Frame::binary(Payload::Owned(bytes)),
            Out::Ping(payload) => Frame::new(true, OpCode::Ping, None, Payload::Owned(payload)),
            Out::Close(code, reason) => Frame::close(code, reason.as_bytes()),
            Out::Parts { text, parts } => {
                let last = parts.len() - 1;
                for (at, part) in parts.into_iter().enumerate() {
                    let opcode = match (at, text) {
                        (0, true) => OpCode::Text,
                        (0, false) => OpCode::Binary,
                        _ => OpCode::Continuation,
                    };
                    self.0.write_frame(Frame::new(at == last, opcode, None, Payload::Owned(part))).await?;
                }
                return Ok(());
            }
        };
        Ok(self.0.write_frame(frame).await?)
    }

    async fn next(&mut self) -> Result<In, Failure> {
        loop {
            let frame = match self.0.read_frame().await {
                Ok(frame) => frame,
                Err(WebSocketError::ConnectionClosed | WebSocketError::UnexpectedEOF) => return Ok(In::End),
                Err(error) => return Err(error.into()),
            };
            let payload = frame.payload.to_vec();
            return Ok(match frame.opcode {
                OpCode::Text => In::Text(String::from_utf8(payload)?),
                OpCode::Binary => In::Binary(payload),
                OpCode::Pong => In::Pong(payload),
                OpCode::Close => match payload.split_first_chunk() {
                    Some((code, reason)) => {
                        In::Close(u16::from_be_bytes(*code), String::from_utf8(reason.to_vec())?)
                    }
                    None => In::Close(1005, String::new()),
                },
                OpCode::Ping | OpCode::Continuation => continue,
            });
        }
    }
}

/// Runs hyper's connection beside the client's.
struct Executor;

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Executor {
    fn execute(&self, future: F) {
        tokio::spawn(future);
    }
}
