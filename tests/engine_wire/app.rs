//! An application that does what a test tells it and writes down what happens.

use unsocket::engine::{
    Cause, Closed, Conn, ConnRef, Connect, ConnectFailure, Context, Handler, Request, Upgrade,
};
use unsocket::ws::Message;

/// What happened, in order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Happened {
    Opened(ConnRef),
    Text(ConnRef, String),
    Binary(ConnRef, Vec<u8>),
    Pong(ConnRef, Vec<u8>),
    Drained(ConnRef),
    Closed { conn: ConnRef, code: u16, reason: String, clean: bool, cause: Cause },
    ConnectFailed { token: u64, cause: ConnectFailure },
}

type OnConn = Box<dyn FnMut(&mut Conn<'_, App>)>;
type OnMessage = Box<dyn FnMut(&mut Conn<'_, App>, Message<'_>)>;
type OnUpgrade = Box<dyn FnMut(&Request<'_>) -> Upgrade<u64>>;
type OnContext = Box<dyn FnMut(&mut Context<'_, App>)>;

/// The application. Its sessions are numbers: a client's is the token of its `Connect`.
pub(crate) struct App {
    pub(crate) log: Vec<Happened>,
    /// Whether messages are written down (big ones would only cost memory).
    pub(crate) keeps_messages: bool,
    pub(crate) messages: usize,
    pub(crate) message_bytes: usize,
    upgrade: OnUpgrade,
    open: OnConn,
    message: OnMessage,
    drain: OnConn,
    tick: OnContext,
}

impl App {
    /// Accepts everything and says nothing.
    pub(crate) fn new() -> Self {
        App {
            log: Vec::new(),
            keeps_messages: true,
            messages: 0,
            message_bytes: 0,
            upgrade: Box::new(|_| Upgrade::accept(0)),
            open: Box::new(|_| {}),
            message: Box::new(|_, _| {}),
            drain: Box::new(|_| {}),
            tick: Box::new(|_| {}),
        }
    }

    /// Sends every message back.
    pub(crate) fn echo() -> Self {
        App::new().on_message(|conn, message| {
            conn.send(message);
        })
    }

    pub(crate) fn on_upgrade(mut self, f: impl FnMut(&Request<'_>) -> Upgrade<u64> + 'static) -> Self {
        self.upgrade = Box::new(f);
        self
    }

    pub(crate) fn on_open(mut self, f: impl FnMut(&mut Conn<'_, App>) + 'static) -> Self {
        self.open = Box::new(f);
        self
    }

    pub(crate) fn on_message(mut self, f: impl FnMut(&mut Conn<'_, App>, Message<'_>) + 'static) -> Self {
        self.message = Box::new(f);
        self
    }

    pub(crate) fn on_drain(mut self, f: impl FnMut(&mut Conn<'_, App>) + 'static) -> Self {
        self.drain = Box::new(f);
        self
    }

    pub(crate) fn on_tick(mut self, f: impl FnMut(&mut Context<'_, App>) + 'static) -> Self {
        self.tick = Box::new(f);
        self
    }

    pub(crate) fn without_messages(mut self) -> Self {
        self.keeps_messages = false;
        self
    }

    /// The connections that opened, in order.
    pub(crate) fn opened(&self) -> Vec<ConnRef> {
        let opened = |happened: &Happened| match happened {
            Happened::Opened(conn) => Some(*conn),
            _ => None,
        };
        self.log.iter().filter_map(opened).collect()
    }

    /// How many connections ended.
    pub(crate) fn closed(&self) -> usize {
        self.log.iter().filter(|happened| matches!(happened, Happened::Closed { .. })).count()
    }

    /// How the only connection that ended did: code, reason, clean, cause.
    pub(crate) fn how_it_closed(&self) -> (u16, String, bool, Cause) {
        let mut ends = self.log.iter().filter_map(|happened| match happened {
            Happened::Closed { code, reason, clean, cause, .. } => {
                Some((*code, reason.clone(), *clean, *cause))
            }
            _ => None,
        });
        let end = ends.next().expect("a connection has ended");
        assert_eq!(ends.next(), None, "only one connection has ended");
        end
    }

    /// All texts received, in order.
    pub(crate) fn texts(&self) -> Vec<String> {
        let text = |happened: &Happened| match happened {
            Happened::Text(_, text) => Some(text.clone()),
            _ => None,
        };
        self.log.iter().filter_map(text).collect()
    }
}

impl Handler for App {
    type Session = u64;

    fn on_upgrade(&mut self, request: &Request<'_>) -> Upgrade<u64> {
        (self.upgrade)(request)
    }

    fn on_connect(&mut self, connect: &Connect, _: Option<&str>) -> u64 {
        connect.token
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        self.log.push(Happened::Opened(conn.id()));
        (self.open)(conn);
    }

    fn on_message(&mut self, conn: &mut Conn<'_, Self>, message: Message<'_>) {
        self.messages += 1;
        self.message_bytes += message.as_bytes().len();
        if self.keeps_messages {
            self.log.push(match message {
                Message::Text(text) => Happened::Text(conn.id(), text.to_owned()),
                Message::Binary(bytes) => Happened::Binary(conn.id(), bytes.to_vec()),
            });
        }
        (self.message)(conn, message);
    }

    fn on_pong(&mut self, conn: &mut Conn<'_, Self>, payload: &[u8]) {
        self.log.push(Happened::Pong(conn.id(), payload.to_vec()));
    }

    fn on_drain(&mut self, conn: &mut Conn<'_, Self>) {
        self.log.push(Happened::Drained(conn.id()));
        (self.drain)(conn);
    }

    fn on_close(&mut self, conn: &mut Conn<'_, Self>, closed: &Closed<'_>) {
        let Closed { code, reason, clean, cause } = *closed;
        self.log.push(Happened::Closed {
            conn: conn.id(),
            code: code.0,
            reason: reason.to_owned(),
            clean,
            cause,
        });
    }

    fn on_connect_failed(&mut self, _: &mut Context<'_, Self>, connect: &Connect, cause: ConnectFailure) {
        self.log.push(Happened::ConnectFailed { token: connect.token, cause });
    }

    fn on_tick(&mut self, context: &mut Context<'_, Self>) {
        (self.tick)(context);
    }
}
