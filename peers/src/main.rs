//! One-thread echo servers on the WebSocket crates that unsocket is compared with.
//!
//! `unsocket-peers LIBRARY ADDRESS:PORT`, with LIBRARY one of those in [`serve`]; prints `ready` when it listens. All of
//! them get the same [`Batched`] stream, with Nagle's algorithm off.

mod batched;

use std::error::Error;
use std::process::ExitCode;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use batched::Batched;

/// What any of the libraries may fail with: a connection that ends is no news here.
type Ended = Result<(), Box<dyn Error + Send + Sync>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [library, address] = &arguments[..] else {
        eprintln!(
            "usage: unsocket-peers fastwebsockets|sockudo-ws|tokio-tungstenite|tokio-websockets ADDRESS:PORT"
        );
        return ExitCode::from(2);
    };
    let error = serve(library, address).await;
    eprintln!("unsocket-peers: {library} on {address}: {error}");
    ExitCode::from(2)
}

async fn serve(library: &str, address: &str) -> Box<dyn Error + Send + Sync> {
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => return error.into(),
    };
    println!("ready");
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => return error.into(),
        };
        if let Err(error) = stream.set_nodelay(true) {
            return error.into();
        }
        let stream = Batched::new(stream);
        match library {
            "fastwebsockets" => drop(tokio::spawn(tokio::task::unconstrained(fastwebsockets(stream)))),
            "sockudo-ws" => drop(tokio::spawn(tokio::task::unconstrained(sockudo_ws(stream)))),
            "tokio-tungstenite" => drop(tokio::spawn(tokio::task::unconstrained(tokio_tungstenite(stream)))),
            "tokio-websockets" => drop(tokio::spawn(tokio::task::unconstrained(tokio_websockets(stream)))),
            _ => return format!("there is no library {library} here").into(),
        }
    }
}

async fn fastwebsockets(stream: Batched) -> Ended {
    use fastwebsockets::{FragmentCollector, OpCode, WebSocketError, upgrade};
    use hyper::service::service_fn;

    let service = service_fn(|mut request| async move {
        let (response, upgraded) = upgrade::upgrade(&mut request)?;
        tokio::spawn(tokio::task::unconstrained(async move {
            let mut socket = FragmentCollector::new(upgraded.await?);
            loop {
                let frame = socket.read_frame().await?;
                match frame.opcode {
                    OpCode::Close => return Ok::<_, WebSocketError>(()),
                    OpCode::Text | OpCode::Binary => socket.write_frame(frame).await?,
                    _ => {}
                }
            }
        }));
        Ok::<_, WebSocketError>(response)
    });
    let io = hyper_util::rt::TokioIo::new(stream);
    hyper::server::conn::http1::Builder::new().serve_connection(io, service).with_upgrades().await?;
    Ok(())
}

async fn sockudo_ws(mut stream: Batched) -> Ended {
    use sockudo_ws::handshake::{build_response, generate_accept_key, parse_request};
    use sockudo_ws::protocol::Message;
    use sockudo_ws::{Config, WebSocketStream};

    let mut head = bytes::BytesMut::with_capacity(4096);
    let accept = loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
        if let Some((request, _)) = parse_request(&head)? {
            break generate_accept_key(request.key);
        }
    };
    stream.write_all(&build_response(&accept, None, None)).await?;
    let mut socket = WebSocketStream::server(stream, Config::default());
    while let Some(message) = socket.next().await {
        match message? {
            message @ (Message::Text(_) | Message::Binary(_)) => socket.send(message).await?,
            Message::Close(_) => break,
            _ => {}
        }
    }
    Ok(())
}

async fn tokio_tungstenite(stream: Batched) -> Ended {
    let mut socket = tokio_tungstenite::accept_async(stream).await?;
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            socket.send(message).await?;
        }
    }
    Ok(())
}

async fn tokio_websockets(stream: Batched) -> Ended {
    let (_request, mut socket) = tokio_websockets::ServerBuilder::new().accept(stream).await?;
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            socket.send(message).await?;
        }
    }
    Ok(())
}
