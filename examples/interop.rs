//! Both roles of the library for `scripts/interop`, which has other people's programs at the other end.
//!
//! ```text
//! sudo ./target/release/examples/interop KEY=VALUE.. connect URL [compressed] [ca FILE] [most BYTES] [without CASE]..
//! sudo ./target/release/examples/interop KEY=VALUE.. serve
//! ```
//!
//! KEY=VALUE sets keys of the configuration, as `unsocket serve --set` does. `connect` runs cases against an echo server,
//! a connection for each, and prints their plan and a line of JSON for each; with `compressed` the server must agree to
//! compression, and without it must not. A server does what it is told in a text: `fragments` (send a text in five parts),
//! `ping` (send one, and say `ponged` when its answer came), `close CODE REASON`; all else it echoes.

use serde_json::json;
use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use unsocket::config::Config;
use unsocket::engine::{
    Client, Closed, Conn, Connect, ConnectFailure, ConnectTls, Context, EngineConfig, Handle, Handler,
    SendOutcome, Server,
};
use unsocket::http::Routes;
use unsocket::port::{Port, tap};
use unsocket::tls::{ClientTls, ServerTls, Trust};
use unsocket::ws::{CloseCode, Message, WsUrl};

const SIZES: [usize; 7] = [1, 125, 126, 65_535, 65_536, 1 << 20, 16 << 20];
const PARTS_TEXT: [&str; 5] = ["one ", "", "é漢", "😀", " five"];
const PARTS_BINARY: [usize; 5] = [1, 70_000, 125, 126, 3];
const CLOSES: [(u16, &str); 3] = [(1000, "done"), (3000, "the library says so"), (4999, "so, é漢😀")];
const TOLD_CLOSE: (u16, &str) = (4001, "as told");
const PING: [u8; 125] = [b'p'; 125];

/// What one connection is for.
#[derive(Clone, Copy)]
enum Case {
    Open,
    Echo { text: bool, size: usize },
    Fragments { text: bool },
    Ping,
    Close(u16, &'static str),
    ToldFragments,
    ToldPing,
    ToldClose,
}

impl Case {
    fn name(self) -> String {
        let kind = |text| if text { "text" } else { "binary" };
        match self {
            Case::Open => "open".into(),
            Case::Echo { text, size } => format!("echo-{}-{size}", kind(text)),
            Case::Fragments { text } => format!("fragments-{}", kind(text)),
            Case::Ping => "ping".into(),
            Case::Close(code, _) => format!("close-{code}"),
            Case::ToldFragments => "told-fragments".into(),
            Case::ToldPing => "told-ping".into(),
            Case::ToldClose => "told-close".into(),
        }
    }

    /// The message that must come back, if one must.
    fn wanted(self) -> Vec<u8> {
        match self {
            Case::Open | Case::Ping | Case::ToldClose => Vec::new(),
            Case::Echo { text: true, size } => text(size).into_bytes(),
            Case::Echo { text: false, size } => bytes(size),
            Case::Fragments { text: true } | Case::ToldFragments => PARTS_TEXT.concat().into_bytes(),
            Case::Fragments { text: false } => PARTS_BINARY.map(bytes).concat(),
            Case::Close(..) => b"before".into(),
            Case::ToldPing => b"ponged".into(),
        }
    }

    fn is_text(self) -> bool {
        !matches!(self, Case::Echo { text: false, .. } | Case::Fragments { text: false })
    }
}

fn cases(most: usize, without: &[String]) -> Vec<Case> {
    let sizes = SIZES.into_iter().filter(|size| *size <= most);
    let echoes = sizes.flat_map(|size| [true, false].map(|text| Case::Echo { text, size }));
    let fragments = [true, false].map(|text| Case::Fragments { text });
    let closes = CLOSES.map(|(code, reason)| Case::Close(code, reason));
    let told = [Case::ToldFragments, Case::ToldPing, Case::ToldClose];
    let all =
        [Case::Open].into_iter().chain(echoes).chain(fragments).chain([Case::Ping]).chain(closes).chain(told);
    all.filter(|case| !without.contains(&case.name())).collect()
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

/// Runs the cases, one connection after the other.
struct Runner {
    handle: Handle,
    connect: Connect,
    compressed: bool,
    cases: Vec<Case>,
    at: usize,
    started: Instant,
    /// What the case that runs has come to; `None` until its message, pong or close frame was there.
    outcome: Option<Result<(), String>>,
}

impl Runner {
    /// Opens the connection of the case that is next, or ends.
    fn go_on(&mut self) {
        self.outcome = None;
        self.started = Instant::now();
        let asked = match self.at < self.cases.len() {
            true => self.handle.connect(self.connect.clone()),
            false => {
                self.handle.drain();
                return;
            }
        };
        if let Err(error) = asked {
            self.report(Err(error.to_string()));
        }
    }

    /// Prints the result of the case, and goes on to the next.
    fn report(&mut self, outcome: Result<(), String>) {
        let case = self.cases[self.at].name();
        let seconds = self.started.elapsed().as_secs_f64();
        let note = outcome.as_ref().err().cloned().unwrap_or_default();
        println!("{}", json!({ "case": case, "ok": outcome.is_ok(), "seconds": seconds, "note": note }));
        self.at += 1;
        self.go_on();
    }

    fn settle(&mut self, conn: &mut Conn<'_, Self>, outcome: Result<(), String>) {
        self.outcome = Some(outcome);
        match self.cases[self.at] {
            Case::Close(code, reason) => conn.close(CloseCode(code), reason),
            _ => conn.close(CloseCode::NORMAL, ""),
        }
    }

    /// Judges a close in order: of the right code, and after everything else.
    fn judge(&mut self, closed: &Closed<'_>) -> Result<(), String> {
        let (code, reason) = match self.cases[self.at] {
            Case::Close(code, reason) => (code, reason),
            Case::ToldClose => TOLD_CLOSE,
            _ => (1000, ""),
        };
        let told = matches!(self.cases[self.at], Case::ToldClose);
        match self.outcome.take() {
            Some(Err(error)) => Err(error),
            None if !told => Err(format!("closed too early: {closed:?}")),
            _ if !closed.clean || (closed.code.0, closed.reason) != (code, reason) => {
                Err(format!("expected close code {code} {reason:?}, got {closed:?}"))
            }
            _ => Ok(()),
        }
    }
}

impl Handler for Runner {
    type Session = ();

    fn on_start(&mut self, _: &mut Context<'_, Self>) {
        self.go_on();
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        if conn.is_compressed() != self.compressed {
            let outcome = Err(format!("compressed: {}, expected: {}", conn.is_compressed(), self.compressed));
            return self.settle(conn, outcome);
        }
        let case = self.cases[self.at];
        let sent = match case {
            Case::Open => return self.settle(conn, Ok(())),
            Case::Echo { text: true, size } => conn.send_text(&text(size)),
            Case::Echo { text: false, size } => conn.send_binary(&bytes(size)),
            Case::Fragments { text: true } => send_parts(conn, PARTS_TEXT.map(Message::Text)),
            Case::Fragments { text: false } => {
                let parts = PARTS_BINARY.map(bytes);
                send_parts(conn, parts.each_ref().map(|part| Message::Binary(part)))
            }
            Case::Ping => conn.ping(&PING),
            Case::Close(..) => conn.send_text("before"),
            Case::ToldFragments => conn.send_text("fragments"),
            Case::ToldPing => conn.send_text("ping"),
            Case::ToldClose => conn.send_text(&format!("close {} {}", TOLD_CLOSE.0, TOLD_CLOSE.1)),
        };
        if !matches!(sent, SendOutcome::Sent | SendOutcome::Queued) {
            self.settle(conn, Err(format!("what was to be sent is {sent:?}")));
        }
    }

    fn on_message(&mut self, conn: &mut Conn<'_, Self>, message: Message<'_>) {
        let case = self.cases[self.at];
        let (is_text, payload) = match message {
            Message::Text(text) => (true, text.as_bytes()),
            Message::Binary(bytes) => (false, bytes),
        };
        let right = is_text == case.is_text() && payload == case.wanted();
        let wrong = || format!("not the message expected: {} bytes, text: {is_text}", payload.len());
        self.settle(conn, if right { Ok(()) } else { Err(wrong()) });
    }

    fn on_pong(&mut self, conn: &mut Conn<'_, Self>, payload: &[u8]) {
        if matches!(self.cases[self.at], Case::Ping) {
            let outcome = if payload == PING { Ok(()) } else { Err(format!("the pong says {payload:?}")) };
            self.settle(conn, outcome);
        }
    }

    fn on_close(&mut self, _: &mut Conn<'_, Self>, closed: &Closed<'_>) {
        let outcome = self.judge(closed);
        self.report(outcome);
    }

    fn on_connect_failed(&mut self, _: &mut Context<'_, Self>, _: &Connect, failure: ConnectFailure) {
        self.report(Err(failure.to_string()));
    }
}

fn send_parts<H: Handler>(conn: &mut Conn<'_, H>, parts: [Message<'_>; 5]) -> SendOutcome {
    let outcomes: [SendOutcome; 5] =
        std::array::from_fn(|at| conn.send_fragment(parts[at], at + 1 == parts.len()));
    outcomes.into_iter().find(|outcome| *outcome != SendOutcome::Sent).unwrap_or(SendOutcome::Sent)
}

/// An echo that does what it is told.
struct Told;

impl Handler for Told {
    type Session = ();

    fn on_message(&mut self, conn: &mut Conn<'_, Self>, message: Message<'_>) {
        let words = if let Message::Text(text) = message { text } else { "" };
        match words.split(' ').collect::<Vec<_>>()[..] {
            ["fragments"] => drop(send_parts(conn, PARTS_TEXT.map(Message::Text))),
            ["ping"] => drop(conn.ping(&PING)),
            ["close", code, ref reason @ ..] => {
                conn.close(CloseCode(code.parse().unwrap_or(1002)), &reason.join(" "));
            }
            _ => drop(conn.send(message)),
        }
    }

    fn on_pong(&mut self, conn: &mut Conn<'_, Self>, payload: &[u8]) {
        conn.send_text(if payload == PING { "ponged" } else { "another pong" });
    }
}

/// What to do over the device.
enum Role {
    Connect { url: WsUrl, compressed: bool, authorities: Option<PathBuf>, most: usize, without: Vec<String> },
    Serve,
}

impl Role {
    fn parse(arguments: &[String]) -> Result<Self, Box<dyn Error>> {
        let mut words = arguments.iter().map(String::as_str);
        let url = match (words.next(), words.next()) {
            (Some("serve"), None) => return Ok(Role::Serve),
            (Some("connect"), Some(url)) => url.parse()?,
            _ => return Err("expected KEY=VALUE.., then `serve` or `connect URL`".into()),
        };
        let (mut compressed, mut authorities, mut most) = (false, None, usize::MAX);
        let mut without = Vec::new();
        while let Some(word) = words.next() {
            match word {
                "compressed" => compressed = true,
                "ca" => authorities = words.next().map(PathBuf::from),
                "most" => most = words.next().unwrap_or_default().parse()?,
                "without" => without.extend(words.next().map(str::to_owned)),
                _ => {
                    return Err(
                        format!("{word}: expected compressed, ca FILE, most BYTES or without CASE").into()
                    );
                }
            }
        }
        Ok(Role::Connect { url, compressed, authorities, most, without })
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut config = Config::default();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let role = arguments.iter().position(|word| !word.contains('=')).unwrap_or(arguments.len());
    let (settings, role) = arguments.split_at(role);
    settings.iter().try_for_each(|setting| config.set(setting))?;
    config.validate()?;
    let role = Role::parse(role)?;
    if let Some(tap) = config.tap() {
        return run(&config, tap::open(&tap)?, role);
    }
    #[cfg(feature = "dpdk")]
    if let Some(dpdk) = config.dpdk() {
        return run(&config, unsocket::port::dpdk::open(&dpdk)?, role);
    }
    Err("port.spec is missing".into())
}

fn run<P: Port + Send + 'static>(config: &Config, ports: Vec<P>, role: Role) -> Result<(), Box<dyn Error>> {
    let mut routes = Routes::default();
    routes.insert_healthz();
    routes.insert_upgrade("/ws");
    let engine = config.engine(routes);
    let Role::Connect { url, compressed, authorities, most, without } = role else {
        let tls = config.tls().map(ServerTls::load).transpose()?.map(Arc::new);
        let running = Server::with_ports(EngineConfig { tls, ..engine }, ports)?.start(|_worker| Told)?;
        println!("{}", json!({ "serves": true }));
        return Ok(running.wait()?);
    };
    let address: SocketAddr = (url.host().parse::<std::net::IpAddr>()?, url.port()).into();
    let mut connect = Connect { host: url.authority().to_owned(), ..Connect::new(address, url.target()) };
    if url.is_secure() {
        let trust = authorities.map_or(Trust::Platform, Trust::File);
        let tls = ClientTls::load(&trust, None)?;
        connect.tls = Some(ConnectTls { config: tls, server_name: url.host().to_owned() });
    }
    let client = Client::with_ports(engine, ports)?;
    let handle = client.handle();
    let cases = cases(most, &without);
    println!("{}", json!({ "plan": cases.iter().map(|case| case.name()).collect::<Vec<_>>() }));
    client.run(move |_worker| Runner {
        handle: handle.clone(),
        connect: connect.clone(),
        compressed,
        cases: cases.clone(),
        at: 0,
        started: Instant::now(),
        outcome: None,
    })?;
    Ok(())
}
