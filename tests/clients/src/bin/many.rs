//! Opens many connections and keeps them: `many URL CONNECTIONS SIZE`.
//!
//! Each line on stdin is a command to all connections, each is answered with one line of JSON:
//! `echo ROUNDS` sends ROUNDS messages of SIZE random bytes on every connection, one in flight each, and compares
//! every echo; `close` runs every closing handshake and ends the program.

use futures_util::{SinkExt, StreamExt};
use rand::RngCore;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Bytes, Message};
use unsocket_test_clients::{Failure, Outcome, Ws, expect_equal, open};

/// How many handshakes are under way at once: many, but no SYN flood.
const OPENING: usize = 256;
/// How long one echo or one closing handshake may take while all the others go on as well.
const PATIENCE: Duration = Duration::from_secs(30);
/// A small buffer: this process holds tens of thousands of them.
const READ_BUFFER_BYTES: usize = 4 << 10;

#[derive(Clone, Copy)]
enum Command {
    Wait,
    Echo { serial: u32, rounds: u32 },
    Close,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, connections, size] = arguments.as_slice() else {
        return Err("usage: many URL CONNECTIONS SIZE".into());
    };
    let url: Arc<str> = url.as_str().into();
    let (connections, size): (usize, usize) = (connections.parse()?, size.parse()?);

    let (command, commands) = watch::channel(Command::Wait);
    let (outcome, mut outcomes) = mpsc::channel(1024);
    let gate = Arc::new(Semaphore::new(OPENING));
    let started = Instant::now();
    for _ in 0..connections {
        let (url, gate) = (Arc::clone(&url), Arc::clone(&gate));
        tokio::spawn(live(url, gate, size, commands.clone(), outcome.clone()));
    }
    let mut alive = report("open", connections, started, &mut outcomes).await;

    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut serial = 0;
    while let Some(line) = lines.next_line().await? {
        let started = Instant::now();
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["echo", rounds] => {
                serial += 1;
                command.send(Command::Echo { serial, rounds: rounds.parse()? })?;
                alive = report("echo", alive, started, &mut outcomes).await;
            }
            ["close"] => {
                command.send(Command::Close)?;
                report("close", alive, started, &mut outcomes).await;
                return Ok(());
            }
            _ => return Err(format!("no such command: {line}; expected `echo ROUNDS` or `close`").into()),
        }
    }
    Ok(())
}

/// Collects one outcome per connection, prints the phase's line, and returns how many connections are well.
async fn report(
    phase: &str,
    connections: usize,
    started: Instant,
    outcomes: &mut mpsc::Receiver<Outcome>,
) -> usize {
    let mut errors: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..connections {
        if let Some(Err(error)) = outcomes.recv().await {
            *errors.entry(error.to_string()).or_default() += 1;
        }
    }
    let well = connections - errors.values().sum::<usize>();
    let seconds = started.elapsed().as_secs_f64();
    println!("{}", json!({ "phase": phase, "connections": well, "errors": errors, "seconds": seconds }));
    well
}

/// The life of one connection; after each phase it says how that went, and the first error is its end.
async fn live(
    url: Arc<str>,
    gate: Arc<Semaphore>,
    size: usize,
    mut commands: watch::Receiver<Command>,
    outcome: mpsc::Sender<Outcome>,
) {
    let opened = {
        let _permit = gate.acquire().await;
        open(&url, READ_BUFFER_BYTES).await
    };
    let mut ws = match opened {
        Ok(ws) => ws,
        Err(error) => return drop(outcome.send(Err(error)).await),
    };
    let mut told = outcome.send(Ok(())).await;
    let mut done = 0;
    while told.is_ok() {
        tokio::select! {
            changed = commands.changed() => if changed.is_err() { return },
            message = ws.next() => {
                if matches!(message, Some(Ok(Message::Ping(_)))) {
                    continue; // reading on sends the pong
                }
                let message = format!("while it was idle the connection got {message:?}");
                return drop(outcome.send(Err(message.into())).await);
            }
        }
        let command = *commands.borrow_and_update();
        let result = match command {
            Command::Echo { serial, rounds } if serial != done => {
                done = serial;
                echo(&mut ws, rounds, size).await
            }
            Command::Close => return drop(outcome.send(close(ws).await).await),
            Command::Wait | Command::Echo { .. } => continue,
        };
        let failed = result.is_err();
        told = outcome.send(result).await;
        if failed {
            return;
        }
    }
}

async fn echo(ws: &mut Ws, rounds: u32, size: usize) -> Outcome {
    let mut payload = vec![0; size];
    for _ in 0..rounds {
        rand::rng().fill_bytes(&mut payload);
        let message = Message::Binary(Bytes::copy_from_slice(&payload));
        ws.send(message.clone()).await?;
        let echoed = tokio::time::timeout(PATIENCE, ws.next())
            .await
            .map_err(|_| format!("no echo within {} s", PATIENCE.as_secs()))?
            .ok_or("the connection ended while an echo was awaited")??;
        expect_equal(&echoed, &message, "echo")?;
    }
    Ok(())
}

async fn close(mut ws: Ws) -> Outcome {
    let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    ws.close(Some(frame)).await?;
    let answer = tokio::time::timeout(PATIENCE, ws.next())
        .await
        .map_err(|_| format!("no close frame within {} s", PATIENCE.as_secs()))?
        .ok_or("the connection ended without a close frame")??;
    match answer {
        Message::Close(Some(frame)) if frame.code == CloseCode::Normal => Ok(()),
        other => Err(format!("expected close 1000, got {other:?}").into()),
    }
}
