//! A WebSocket library as a client of an echo server, or as the server.
//!
//! ```text
//! unsocket-interop LIBRARY client URL echo|told [ca FILE] [most BYTES]
//! unsocket-interop LIBRARY server PORT [files CERTIFICATE KEY]
//! ```
//!
//! A client prints its plan and then a line of JSON for each case, a server one line when it listens; see
//! `examples/interop.rs` for what a server does when it is told in a text.

mod cases;
mod fast;
mod framed;
mod told;
mod transport;
mod tungstenite;

use std::error::Error;
use std::process::ExitCode;

use transport::{Stream, Target};

/// Why something failed: what was expected and what came.
pub type Failure = Box<dyn Error + Send + Sync>;

/// What is sent.
pub enum Out {
    Text(String),
    Binary(Vec<u8>),
    /// A message in these parts, or cut by the library itself where it takes none.
    Parts {
        text: bool,
        parts: Vec<Vec<u8>>,
    },
    Ping(Vec<u8>),
    Close(u16, String),
}

/// What comes.
#[derive(Debug, PartialEq)]
pub enum In {
    Text(String),
    Binary(Vec<u8>),
    Pong(Vec<u8>),
    /// The close frame, and 1005 for one without a code.
    Close(u16, String),
    /// TCP's or TLS' end.
    End,
}

/// A connection by one of the libraries. Pings that come are answered by it.
pub trait Socket: Send + Sized + 'static {
    /// The opening handshake of a client.
    fn connect(target: &Target, stream: Stream) -> impl Future<Output = Result<Self, Failure>> + Send;
    /// The opening handshake of a server.
    fn accept(stream: Stream, serve: fn(Self) -> Serving)
    -> impl Future<Output = Result<(), Failure>> + Send;
    fn send(&mut self, message: Out) -> impl Future<Output = Result<(), Failure>> + Send;
    fn next(&mut self) -> impl Future<Output = Result<In, Failure>> + Send;
}

/// A server's work on one connection.
pub type Serving = std::pin::Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((library, rest)) = arguments.split_first() else {
        eprintln!(
            "usage: unsocket-interop LIBRARY client URL echo|told [ca FILE] [most BYTES] | server PORT [files CERTIFICATE KEY]"
        );
        return ExitCode::from(2);
    };
    let done = match library.as_str() {
        "tokio-tungstenite" => play::<tungstenite::Tungstenite>(rest, tungstenite::serve).await,
        "fastwebsockets" => play::<fast::Fast>(rest, fast::serve).await,
        "tokio-websockets" => play::<framed::Framed>(rest, framed::serve).await,
        _ => Err(format!("there is no library {library} here").into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("unsocket-interop: {error}");
            ExitCode::from(2)
        }
    }
}

async fn play<S: Socket>(arguments: &[String], serve: fn(S) -> Serving) -> Result<(), Failure> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["client", url, which, ref options @ ..] => {
            let target = Target::parse(url, options)?;
            cases::run::<S>(&target, which == "told").await;
            Ok(())
        }
        ["server", port, ref files @ ..] => {
            let (listener, tls) = transport::listen(port.parse()?, files).await?;
            println!("{}", serde_json::json!({ "serves": true }));
            loop {
                let (tcp, _) = listener.accept().await?;
                let tls = tls.clone();
                tokio::spawn(async move {
                    let served = async { S::accept(transport::secure(tcp, tls).await?, serve).await };
                    if let Err(error) = served.await {
                        eprintln!("a connection ended: {error}");
                    }
                });
            }
        }
        _ => Err("expected client or server".into()),
    }
}
