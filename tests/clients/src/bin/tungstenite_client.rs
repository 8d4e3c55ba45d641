//! Drives a WebSocket echo server with `tokio-tungstenite`. Argument: the URL.

use futures_util::{SinkExt, StreamExt};
use rand::RngCore;
use std::time::Duration;
use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};
use tokio_tungstenite::tungstenite::{Bytes, Message};
use unsocket_test_clients::{Failure, Outcome, Plan, Ws, expect_equal, open};

const SIZES: [usize; 8] = [0, 1, 125, 126, 65_535, 65_536, 1 << 20, 16 << 20];
const CLOSES: [(u16, &str); 3] =
    [(1000, "done"), (3000, "the library says so"), (4999, "the application says so, é漢😀")];
const READ_BUFFER_BYTES: usize = 128 << 10;

#[tokio::main]
async fn main() {
    let url: &'static str = std::env::args().nth(1).expect("usage: tungstenite_client URL").leak();
    let mut plan = Plan::default();
    plan.add("open", move || async { close(connect(url).await?).await });
    for size in SIZES {
        plan.add(format!("echo-text-{size}"), move || echo(url, Message::text(random_text(size))));
        plan.add(format!("echo-binary-{size}"), move || echo(url, Message::binary(random_bytes(size))));
    }
    plan.add("fragments-text", move || {
        let parts = ["one ", "", "é漢", "😀", " five"].map(Bytes::from);
        fragments(url, Data::Text, parts, Message::text("one é漢😀 five"))
    });
    plan.add("fragments-binary", move || {
        let parts = [1, 70_000, 125, 126, 3].map(|size| Bytes::from(random_bytes(size)));
        let whole = parts.concat();
        fragments(url, Data::Binary, parts, Message::binary(whole))
    });
    plan.add("ping", move || ping(url));
    plan.add("ping-between-fragments", move || ping_between_fragments(url));
    for (code, reason) in CLOSES {
        plan.add(format!("close-{code}"), move || closes(url, code, reason));
    }
    plan.add("in-flight-1000", move || in_flight(url));
    plan.add("connections-200", move || connections(url));
    plan.add("reset", move || reset(url));
    plan.add("fin-without-close", move || fin_without_close(url));
    plan.main(Duration::from_secs(60)).await;
}

async fn connect(url: &str) -> Result<Ws, Failure> {
    open(url, READ_BUFFER_BYTES).await
}

async fn next(ws: &mut Ws) -> Result<Message, Failure> {
    Ok(ws.next().await.ok_or("the connection ended while a message was awaited")??)
}

/// The closing handshake with code 1000, to the end of the connection.
async fn close(mut ws: Ws) -> Outcome {
    ws.close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() })).await?;
    while let Some(message) = ws.next().await {
        if let Message::Close(frame) = message? {
            expect_equal(&frame.map(|frame| u16::from(frame.code)), &Some(1000), "close code")?;
        }
    }
    Ok(())
}

fn random_bytes(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

/// `size` bytes of UTF-8 with characters of one to four bytes.
fn random_text(size: usize) -> String {
    let hex: String = random_bytes(509).iter().map(|byte| format!("{byte:02x}")).collect();
    let block = hex + "é漢😀"; // 1,027 bytes: never aligned with a segment or a mask
    let mut text = block.repeat(size / block.len());
    text.extend(std::iter::repeat_n('x', size - text.len()));
    text
}

async fn echo(url: &str, message: Message) -> Outcome {
    let mut ws = connect(url).await?;
    ws.send(message.clone()).await?;
    expect_equal(&next(&mut ws).await?, &message, "echo")?;
    close(ws).await
}

async fn fragments<const N: usize>(url: &str, kind: Data, parts: [Bytes; N], whole: Message) -> Outcome {
    let mut ws = connect(url).await?;
    for (at, part) in parts.into_iter().enumerate() {
        let kind = if at == 0 { kind } else { Data::Continue };
        ws.send(Message::Frame(Frame::message(part, OpCode::Data(kind), at == N - 1))).await?;
    }
    expect_equal(&next(&mut ws).await?, &whole, "echo")?;
    close(ws).await
}

async fn ping(url: &str) -> Outcome {
    let mut ws = connect(url).await?;
    for size in [0, 1, 125] {
        let payload = Bytes::from(random_bytes(size));
        ws.send(Message::Ping(payload.clone())).await?;
        expect_equal(&next(&mut ws).await?, &Message::Pong(payload), "pong")?;
    }
    close(ws).await
}

async fn ping_between_fragments(url: &str) -> Outcome {
    let mut ws = connect(url).await?;
    for (at, kind) in [Data::Binary, Data::Continue, Data::Continue].into_iter().enumerate() {
        let part = vec![b'a' + at as u8; 1000];
        ws.send(Message::Frame(Frame::message(part, OpCode::Data(kind), false))).await?;
        let payload = Bytes::from(vec![at as u8]);
        ws.send(Message::Ping(payload.clone())).await?;
        expect_equal(&next(&mut ws).await?, &Message::Pong(payload), "pong")?;
    }
    ws.send(Message::Frame(Frame::message("", OpCode::Data(Data::Continue), true))).await?;
    let whole = [[b'a'; 1000], [b'b'; 1000], [b'c'; 1000]].concat();
    expect_equal(&next(&mut ws).await?, &Message::binary(whole), "echo")?;
    close(ws).await
}

async fn closes(url: &str, code: u16, reason: &'static str) -> Outcome {
    let mut ws = connect(url).await?;
    ws.send(Message::text("before")).await?;
    expect_equal(&next(&mut ws).await?, &Message::text("before"), "echo")?;
    let frame = CloseFrame { code: code.into(), reason: reason.into() };
    ws.close(Some(frame.clone())).await?;
    expect_equal(&next(&mut ws).await?, &Message::Close(Some(frame)), "close frame")?;
    match ws.next().await {
        None => Ok(()),
        Some(message) => Err(format!("after the close frame came {message:?}").into()),
    }
}

async fn in_flight(url: &str) -> Outcome {
    let mut ws = connect(url).await?;
    let messages: Vec<_> = (0..1000).map(|number| Message::text(format!("{number:<100}"))).collect();
    for message in &messages {
        ws.send(message.clone()).await?;
    }
    for message in &messages {
        expect_equal(&next(&mut ws).await?, message, "echo in order")?;
    }
    close(ws).await
}

async fn connections(url: &'static str) -> Outcome {
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..200 {
        clients.spawn(async move {
            let mut ws = connect(url).await?;
            for round in 0..10 {
                let message = Message::text(format!("connection {number} round {round}"));
                ws.send(message.clone()).await?;
                expect_equal(&next(&mut ws).await?, &message, "echo")?;
            }
            close(ws).await
        });
    }
    while let Some(outcome) = clients.join_next().await {
        outcome??;
    }
    Ok(())
}

async fn still_serves(url: &str) -> Outcome {
    echo(url, Message::text("still there?")).await
}

async fn reset(url: &str) -> Outcome {
    for _ in 0..20 {
        let mut ws = connect(url).await?;
        ws.send(Message::binary(random_bytes(1000))).await?;
        let tcp = match ws.get_ref() {
            MaybeTlsStream::Plain(tcp) => tcp,
            MaybeTlsStream::Rustls(tls) => tls.get_ref().0,
            _ => return Err("another TLS than rustls".into()),
        };
        tcp.set_zero_linger()?; // dropping the connection now sends RST
    }
    still_serves(url).await
}

async fn fin_without_close(url: &str) -> Outcome {
    let mut ws = connect(url).await?;
    ws.send(Message::text("last words")).await?;
    expect_equal(&next(&mut ws).await?, &Message::text("last words"), "echo")?;
    tokio::io::AsyncWriteExt::shutdown(ws.get_mut()).await?;
    match tokio::time::timeout(Duration::from_secs(15), ws.next()).await {
        Err(_) => return Err("the server did not finish its side within 15 s".into()),
        Ok(Some(Ok(message))) if !message.is_close() => {
            return Err(format!("after our FIN came {message:?}").into());
        }
        Ok(_) => {}
    }
    still_serves(url).await
}
