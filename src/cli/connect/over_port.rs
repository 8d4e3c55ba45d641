//! A connection over a device: the engine's own client, one worker in this thread.

use super::ConnectError;
use super::transport::{Ended, Event, Target, Transport};
use crate::engine::{
    Cause, Closed, Conn, ConnRef, Connect, ConnectFailure, ConnectTls, Context, Deadlines, EngineConfig,
    Handler, NoWake, SendOutcome, Wake, Worker, seats,
};
use crate::port::Port;
use crate::stack::StackConfig;
use crate::time::{Duration, Instant};
use crate::ws::{CloseCode, Message};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// How long a worker whose device cannot be waited for polls it before it sleeps a little.
const SPIN: Duration = Duration::from_micros(200);
/// How long TCP may take to end.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait while it ends.
const TURN_MAX: Duration = Duration::from_millis(50);
/// Nobody waits at a keyboard for less.
const DOZE: Duration = Duration::from_micros(200);

/// See the module.
pub(super) struct EnginePort<P: Port> {
    worker: Worker<P, Line>,
    target: Target,
    epoch: std::time::Instant,
    busy_at: Instant,
    spin: bool,
}

/// What the handler notes down.
#[derive(Default)]
struct Line {
    conn: Option<ConnRef>,
    events: VecDeque<Event>,
    /// Addresses of the server that this attempt has not tried.
    untried: VecDeque<SocketAddr>,
    protocol: Option<String>,
}

impl<P: Port> EnginePort<P> {
    /// The first of `ports` is used.
    pub(super) fn new(
        target: Target,
        stack: StackConfig,
        ports: Vec<P>,
        spin: bool,
    ) -> Result<Self, ConnectError> {
        let by_dhcp = stack.dhcp;
        let config = EngineConfig {
            stack,
            deflate: target.deflate,
            deadlines: Deadlines {
                // Each address has its share of the time.
                handshake: target.timeout / target.remotes.len().max(1) as u32,
                idle: None,
                ping: target.ping,
                pong: target.ping.unwrap_or_default(),
                tick: None,
                ..Deadlines::default()
            },
            ..EngineConfig::default()
        };
        let Some(port) = ports.into_iter().next() else {
            let cause = std::io::ErrorKind::NotFound.into();
            return Err(ConnectError::Kernel { what: "the device has no queue", cause });
        };
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)
            .map_err(|cause| ConnectError::Kernel { what: "no random bytes", cause: cause.into() })?;
        let wakers: Vec<Arc<dyn Wake>> = vec![Arc::new(NoWake)];
        let (_, seats) = seats(&config, port.info().mtu, secret, wakers)?;
        let Some(seat) = seats.into_iter().next() else { unreachable!("a waker, so a seat") };
        let worker = Worker::new(&config, seat, port, Line::default(), Instant::ZERO)?;
        let epoch = std::time::Instant::now();
        let mut transport = EnginePort { worker, target, epoch, busy_at: Instant::ZERO, spin };
        if by_dhcp {
            transport.await_lease();
        }
        Ok(transport)
    }

    /// Without an address nothing can be opened; when none comes in time, the attempt will say so.
    fn await_lease(&mut self) {
        let until = self.now() + self.target.timeout;
        while self.worker.stack().lease().is_none() && self.now() < until {
            self.turn(None, TURN_MAX);
        }
    }

    fn now(&self) -> Instant {
        Instant::ZERO + self.epoch.elapsed()
    }

    fn with_conn(&mut self, f: impl FnOnce(&mut Context<'_, Line>, ConnRef) -> SendOutcome) -> SendOutcome {
        self.worker.with_context(|line, context| match line.conn {
            Some(conn) => f(context, conn),
            None => SendOutcome::Closed,
        })
    }
}

impl<P: Port> Transport for EnginePort<P> {
    fn open(&mut self) {
        let Target { url, remotes, protocols, headers, tls, .. } = &self.target;
        let mut untried = VecDeque::from(remotes.clone());
        let to = match untried.pop_front() {
            Some(remote) => Connect::new(remote, url.target()),
            None => Connect::by_name(url.host(), url.port(), url.target()),
        };
        let connect = Connect {
            host: url.authority().to_owned(),
            protocols: protocols.clone(),
            headers: headers.clone(),
            tls: tls.clone().map(|config| ConnectTls { config, server_name: url.host().to_owned() }),
            ..to
        };
        self.worker.with_context(|line, context| {
            line.untried = untried;
            context.connect(connect);
        });
    }

    fn turn(&mut self, also: Option<BorrowedFd<'_>>, at_most: Duration) -> bool {
        let now = self.now();
        let progress = self.worker.poll(now);
        if progress.busy {
            self.busy_at = now;
        }
        let mut wait = Duration::ZERO;
        let mut asleep = false;
        let has_events = !self.worker.handler().events.is_empty();
        if !progress.busy && !self.spin && !has_events && now - self.busy_at >= SPIN {
            asleep = self.worker.prepare_sleep();
            if asleep {
                let due = progress.deadline.map_or(at_most, |deadline| deadline.saturating_since(now));
                wait = due.min(at_most).min(self.worker.wait_max().unwrap_or(at_most));
            }
        }
        let mut fds: Vec<PollFd<'_>> =
            also.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        if asleep {
            let waits = self.worker.wait_fds();
            if waits.is_empty() {
                wait = wait.min(DOZE);
            }
            fds.extend(waits.into_iter().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        }
        let timeout = Timespec::try_from(wait).unwrap_or_default();
        let ready = poll(&mut fds, Some(&timeout)).is_ok();
        ready && also.is_some() && fds.first().is_some_and(|fd| !fd.revents().is_empty())
    }

    fn next_event(&mut self) -> Option<Event> {
        self.worker.handler_mut().events.pop_front()
    }

    fn send(&mut self, message: Message<'_>) -> SendOutcome {
        self.with_conn(|context, conn| context.send(conn, message))
    }

    fn ping(&mut self, payload: &[u8]) {
        self.with_conn(|context, conn| context.ping(conn, payload));
    }

    fn close(&mut self, code: CloseCode, reason: &str) {
        self.with_conn(|context, conn| {
            context.close(conn, code, reason);
            SendOutcome::Sent
        });
    }

    fn finish(&mut self) {
        // With the process the TCP connection would vanish: the server would wait for a FIN that never comes.
        let until = self.now() + FINISH_TIMEOUT;
        while self.worker.stack().connections() > 0 && self.now() < until {
            self.turn(None, TURN_MAX);
        }
    }
}

impl Handler for Line {
    type Session = ();

    fn on_connect(&mut self, _connect: &Connect, protocol: Option<&str>) {
        self.protocol = protocol.map(str::to_owned);
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        self.conn = Some(conn.id());
        let tls = conn.tls().map(|agreed| format!("{} {}", agreed.version, agreed.cipher_suite));
        let compressed = conn.is_compressed();
        let protocol = self.protocol.take();
        self.events.push_back(Event::Opened { peer: conn.peer(), protocol, tls, compressed });
    }

    fn on_message(&mut self, _conn: &mut Conn<'_, Self>, message: Message<'_>) {
        self.events.push_back(match message {
            Message::Text(text) => Event::Text(text.to_owned()),
            Message::Binary(bytes) => Event::Binary(bytes.to_vec()),
        });
    }

    fn on_pong(&mut self, _conn: &mut Conn<'_, Self>, payload: &[u8]) {
        self.events.push_back(Event::Pong(payload.to_vec()));
    }

    fn on_drain(&mut self, _conn: &mut Conn<'_, Self>) {
        self.events.push_back(Event::Drained);
    }

    fn on_close(&mut self, _conn: &mut Conn<'_, Self>, closed: &Closed<'_>) {
        self.conn = None;
        let ended = match closed.cause {
            Cause::Peer | Cause::Local if closed.clean => Ended::closed(closed.code, closed.reason),
            Cause::Tls(violation) => Ended::Tls(violation.to_string()),
            Cause::Protocol(error) => Ended::Broke(format!("the server breaks the protocol: {error}")),
            Cause::PongMissing => Ended::Broke("no answer to a ping".into()),
            Cause::Truncated => Ended::Broke("it was cut off: no close_notify".into()),
            Cause::PeerFinished => Ended::Broke("the server ended it without a close frame".into()),
            cause => Ended::Broke(format!("{cause:?}")),
        };
        self.events.push_back(Event::Closed(ended));
    }

    fn on_connect_failed(
        &mut self,
        context: &mut Context<'_, Self>,
        connect: &Connect,
        cause: ConnectFailure,
    ) {
        match self.untried.pop_front().filter(|_| cause.is_of_addr()) {
            Some(remote) => context.connect(Connect { remote, ..connect.clone() }),
            None => self.events.push_back(Event::Failed(Ended::failed(&cause))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Server;
    use crate::port::wire::{self, WireConfig};

    struct Silent;

    impl Handler for Silent {
        type Session = ();
        fn on_message(&mut self, _: &mut Conn<'_, Self>, _: Message<'_>) {}
    }

    fn stack(addr: &str) -> StackConfig {
        StackConfig { addrs: vec![addr.parse().unwrap()], ..StackConfig::default() }
    }

    /// How an attempt at these addresses of a server ends that listens at 10.1.0.1:80.
    fn first_event(remotes: &[&str], timeout: Duration) -> Event {
        let (ours, theirs) = wire::queues(1, &WireConfig::default()).unwrap();
        let mut config = EngineConfig {
            listen: vec![80],
            handle_signals: false,
            stack: stack("10.1.0.1/24"),
            ..EngineConfig::default()
        };
        config.stack.tcp.connections_max = 8;
        let server = Server::with_ports(config, theirs).unwrap().start(|_| Silent).unwrap();
        let target = Target {
            url: "ws://feed.example/".parse().unwrap(),
            remotes: remotes.iter().map(|remote| remote.parse().unwrap()).collect(),
            protocols: Vec::new(),
            headers: Vec::new(),
            tls: None,
            deflate: None,
            timeout,
            ping: None,
        };
        let mut port = EnginePort::new(target, stack("10.1.0.2/24"), ours, true).unwrap();
        port.open();
        let event = loop {
            if let Some(event) = port.next_event() {
                break event;
            }
            port.turn(None, TURN_MAX);
        };
        port.close(CloseCode::NORMAL, "");
        server.handle().drain();
        port.finish();
        server.wait().unwrap();
        event
    }

    #[test]
    fn the_next_address_is_tried_where_one_refuses_or_is_silent() {
        let timeout = Duration::from_secs(2);
        let event = first_event(&["10.1.0.1:81", "10.1.0.9:80", "10.1.0.1:80"], timeout);
        assert!(
            matches!(event, Event::Opened { peer, .. } if peer == "10.1.0.1:80".parse().unwrap()),
            "{event:?}"
        );
    }

    #[test]
    fn silent_addresses_together_take_no_longer_than_the_timeout() {
        let begun = std::time::Instant::now();
        let event = first_event(&["10.1.0.8:80", "10.1.0.9:80"], Duration::from_millis(600));
        let taken = begun.elapsed();
        assert!(matches!(event, Event::Failed(Ended::NoConnection(_))), "{event:?}");
        assert!(taken >= Duration::from_millis(550) && taken < Duration::from_secs(5), "{taken:?}");
    }
}
