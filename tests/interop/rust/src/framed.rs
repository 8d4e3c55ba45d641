//! tokio-websockets, which takes no parts of messages: it cuts them itself, into frames of the size it was set up with.

use futures_util::{SinkExt, StreamExt};
use tokio_websockets::{ClientBuilder, CloseCode, Config, Limits, Message, ServerBuilder, WebSocketStream};

use crate::transport::{Stream, Target};
use crate::{Failure, In, Out, Serving, Socket, told};

pub struct Framed {
    /// Always there, but while it is set up anew.
    socket: Option<WebSocketStream<Stream>>,
    is_client: bool,
}

pub fn serve(socket: Framed) -> Serving {
    Box::pin(told::serve(socket))
}

impl Framed {
    fn socket(&mut self) -> Result<&mut WebSocketStream<Stream>, Failure> {
        self.socket.as_mut().ok_or_else(|| "the connection is gone".into())
    }

    /// Sends the next messages in frames of at most that many bytes.
    fn cut(&mut self, frame_bytes: usize) -> Result<(), Failure> {
        let stream = self.socket.take().ok_or("the connection is gone")?.into_inner();
        let config = Config::default().frame_size(frame_bytes);
        self.socket = Some(match self.is_client {
            true => ClientBuilder::new().limits(Limits::unlimited()).config(config).take_over(stream),
            false => ServerBuilder::new().limits(Limits::unlimited()).config(config).serve(stream),
        });
        Ok(())
    }
}

impl Socket for Framed {
    async fn connect(target: &Target, stream: Stream) -> Result<Self, Failure> {
        let builder = ClientBuilder::from_uri(target.url.clone()).limits(Limits::unlimited());
        Ok(Framed { socket: Some(builder.connect_on(stream).await?.0), is_client: true })
    }

    async fn accept(stream: Stream, serve: fn(Self) -> Serving) -> Result<(), Failure> {
        let (_, socket) = ServerBuilder::new().limits(Limits::unlimited()).accept(stream).await?;
        serve(Framed { socket: Some(socket), is_client: false }).await
    }

    async fn send(&mut self, message: Out) -> Result<(), Failure> {
        let message = match message {
            Out::Text(text) => Message::text(text),
            Out::Binary(bytes) => Message::binary(bytes),
            Out::Ping(payload) => Message::ping(payload),
            Out::Close(code, reason) => Message::close(Some(CloseCode::try_from(code)?), &reason),
            Out::Parts { text: true, parts } => {
                self.cut(7)?;
                Message::text(String::from_utf8(parts.concat())?)
            }
            Out::Parts { text: false, parts } => {
                self.cut(1000)?;
                Message::binary(parts.concat())
            }
        };
        Ok(self.socket()?.send(message).await?)
    }

    async fn next(&mut self) -> Result<In, Failure> {
        loop {
            let Some(message) = self.socket()?.next().await.transpose()? else { return Ok(In::End) };
            if let Some(text) = message.as_text() {
                return Ok(In::Text(text.to_owned()));
            } else if let Some((code, reason)) = message.as_close() {
                return Ok(In::Close(code.into(), reason.to_owned()));
            } else if message.is_binary() {
                return Ok(In::Binary(message.into_payload().to_vec()));
            } else if message.is_pong() {
                return Ok(In::Pong(message.into_payload().to_vec()));
            }
        }
    }
}
