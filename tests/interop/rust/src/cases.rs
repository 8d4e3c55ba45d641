//! The cases of a client, each on a connection of its own, each reported as one line of JSON.

use std::pin::Pin;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::told::{PARTS, PING, parts};
use crate::transport::Target;
use crate::{Failure, In, Out, Socket};

const SIZES: [usize; 7] = [1, 125, 126, 65_535, 65_536, 1 << 20, 16 << 20];
const CLOSES: [(u16, &str); 3] = [(1000, "done"), (3000, "the library says so"), (4999, "so, é漢😀")];
const LIMIT: Duration = Duration::from_secs(60);

type Case<'a> = (String, Pin<Box<dyn Future<Output = Result<(), Failure>> + 'a>>);

/// Runs those of the echo, or those in which the server is told what to do.
pub async fn run<S: Socket>(target: &Target, told: bool) {
    let cases = if told { told_cases::<S>(target) } else { echo_cases::<S>(target) };
    println!("{}", json!({ "plan": cases.iter().map(|(name, _)| name).collect::<Vec<_>>() }));
    for (name, case) in cases {
        let started = Instant::now();
        let outcome = match tokio::time::timeout(LIMIT, case).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("not done after {} s", LIMIT.as_secs()).into()),
        };
        let note = outcome.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let seconds = started.elapsed().as_secs_f64();
        println!("{}", json!({ "case": name, "ok": outcome.is_ok(), "seconds": seconds, "note": note }));
    }
}

fn echo_cases<S: Socket>(target: &Target) -> Vec<Case<'_>> {
    let mut cases: Vec<Case<'_>> = Vec::new();
    let mut add = |name: String, case| cases.push((name, case));
    add("open".into(), Box::pin(async { ends(open::<S>(target).await?, 1000, "").await }));
    for size in SIZES.into_iter().filter(|size| *size <= target.most) {
        add(
            format!("echo-text-{size}"),
            Box::pin(async move {
                let text = text(size);
                exchange::<S>(target, Out::Text(text.clone()), In::Text(text)).await
            }),
        );
        add(
            format!("echo-binary-{size}"),
            Box::pin(async move {
                exchange::<S>(target, Out::Binary(bytes(size)), In::Binary(bytes(size))).await
            }),
        );
    }
    add("fragments-text".into(), Box::pin(exchange::<S>(target, parts(), In::Text(PARTS.concat()))));
    add(
        "fragments-binary".into(),
        Box::pin(async {
            let parts: Vec<_> = [1, 70_000, 125, 126, 3].map(bytes).into();
            let whole = parts.concat();
            exchange::<S>(target, Out::Parts { text: false, parts }, In::Binary(whole)).await
        }),
    );
    add("ping".into(), Box::pin(exchange::<S>(target, Out::Ping(PING.into()), In::Pong(PING.into()))));
    for (code, reason) in CLOSES {
        add(
            format!("close-{code}"),
            Box::pin(async move { ends(open::<S>(target).await?, code, reason).await }),
        );
    }
    cases
}

fn told_cases<S: Socket>(target: &Target) -> Vec<Case<'_>> {
    let tell = |words: &str| Out::Text(words.into());
    vec![
        (
            "told-fragments".into(),
            Box::pin(exchange::<S>(target, tell("fragments"), In::Text(PARTS.concat()))),
        ),
        ("told-ping".into(), Box::pin(exchange::<S>(target, tell("ping"), In::Text("ponged".into())))),
        (
            "told-close".into(),
            Box::pin(async {
                let mut socket = open::<S>(target).await?;
                socket.send(Out::Text("close 4001 as told".into())).await?;
                expect(socket.next().await?, &In::Close(4001, "as told".into()))?;
                end(&mut socket).await
            }),
        ),
    ]
}

async fn open<S: Socket>(target: &Target) -> Result<S, Failure> {
    S::connect(target, target.open().await?).await
}

/// Sends one message, and expects one back.
async fn exchange<S: Socket>(target: &Target, message: Out, wanted: In) -> Result<(), Failure> {
    let mut socket = open::<S>(target).await?;
    socket.send(message).await?;
    expect(socket.next().await?, &wanted)?;
    ends(socket, 1000, "").await
}

/// Closes, and expects the answer and the end.
async fn ends<S: Socket>(mut socket: S, code: u16, reason: &str) -> Result<(), Failure> {
    socket.send(Out::Close(code, reason.into())).await?;
    expect(socket.next().await?, &In::Close(code, reason.into()))?;
    end(&mut socket).await
}

async fn end(socket: &mut impl Socket) -> Result<(), Failure> {
    expect(socket.next().await?, &In::End)
}

fn expect(got: In, wanted: &In) -> Result<(), Failure> {
    if got == *wanted {
        return Ok(());
    }
    let shorten = |message: &In| format!("{message:?}").chars().take(100).collect::<String>();
    Err(format!("expected {}, got {}", shorten(wanted), shorten(&got)).into())
}

/// Bytes that look random, and are the same each time.
fn bytes(size: usize) -> Vec<u8> {
    let mut state = size as u64 | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..size).map(|_| next()).collect()
}

/// `size` bytes of UTF-8 with characters of one to four bytes.
fn text(size: usize) -> String {
    let digits: String = bytes(509).iter().map(|byte| format!("{byte:02x}")).collect();
    let block = digits + "é漢😀"; // 1,027 bytes: never aligned with a segment or a mask
    let mut text = block.repeat(size / block.len());
    text.extend(std::iter::repeat_n('x', size - text.len()));
    text
}
