//! tokio-tungstenite.

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};
use tokio_tungstenite::tungstenite::protocol::{Message, WebSocketConfig};

use crate::transport::{Stream, Target};
use crate::{Failure, In, Out, Serving, Socket, told};

pub struct Tungstenite(WebSocketStream<Stream>);

pub fn serve(socket: Tungstenite) -> Serving {
    Box::pin(told::serve(socket))
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default().max_message_size(None).max_frame_size(None)
}

impl Socket for Tungstenite {
    async fn connect(target: &Target, stream: Stream) -> Result<Self, Failure> {
        let url = target.url.to_string();
        Ok(Tungstenite(tokio_tungstenite::client_async_with_config(url, stream, Some(config())).await?.0))
    }

    async fn accept(stream: Stream, serve: fn(Self) -> Serving) -> Result<(), Failure> {
        serve(Tungstenite(tokio_tungstenite::accept_async_with_config(stream, Some(config())).await?)).await
    }

    async fn send(&mut self, message: Out) -> Result<(), Failure> {
        match message {
            Out::Text(text) => self.0.send(Message::text(text)).await?,
            Out::Binary(bytes) => self.0.send(Message::binary(bytes)).await?,
            Out::Ping(payload) => self.0.send(Message::Ping(payload.into())).await?,
            Out::Close(code, reason) => {
                self.0.close(Some(CloseFrame { code: code.into(), reason: reason.into() })).await?;
            }
            Out::Parts { text, parts } => {
                let last = parts.len() - 1;
                for (at, part) in parts.into_iter().enumerate() {
                    let kind = match (at, text) {
                        (0, true) => Data::Text,
                        (0, false) => Data::Binary,
                        _ => Data::Continue,
                    };
                    self.0.send(Message::Frame(Frame::message(part, OpCode::Data(kind), at == last))).await?;
                }
            }
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<In, Failure> {
        loop {
            return Ok(match self.0.next().await.transpose()? {
                None => In::End,
                Some(Message::Text(text)) => In::Text(text.to_string()),
                Some(Message::Binary(bytes)) => In::Binary(bytes.into()),
                Some(Message::Pong(payload)) => In::Pong(payload.into()),
                Some(Message::Close(Some(frame))) => In::Close(frame.code.into(), frame.reason.to_string()),
                Some(Message::Close(None)) => In::Close(1005, String::new()),
                Some(Message::Ping(_) | Message::Frame(_)) => continue,
            });
        }
    }
}
