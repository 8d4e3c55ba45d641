//! A worker: one port queue, one stack, one handler, and one burst at a time.

use super::config::{Burst, ConfigError, EngineConfig, Steering};
use super::conn::{ConnRef, Context, SendOutcome};
use super::drain::Ending;
use super::exception::Kernel;
use super::handler::Handler;
use super::local::Local;
use super::mailbox::{Command, Mailbox};
use super::opening::Site;
use super::placement::{Finding, Placement};
use super::seat::Seat;
use super::session::Inbound;
use super::stats::{WorkerReport, WorkerStats};
use super::steering::Links;
use crate::port::wire::WireError;
use crate::port::{ETHERNET_HEADER_BYTES, Frame, MTU_MAX, Port, PortInfo};
use crate::stack::{Cidr, ConnId, Lease, Onward, Share, Stack, StackError, TxQueue, prefetch};
use crate::time::{Duration, Instant};
use crate::tls::ServerTls;
use crate::ws::deflate::Inflater;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use std::collections::VecDeque;
use std::hint::black_box;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// Connections that the stack has room for beyond `connections_max`: those that are being refused politely.
const REFUSALS_MIN: usize = 64;

/// The largest frame of any MTU: a port with larger ones receives what was not cut into segments yet.
const FRAME_BYTES_MAX: usize = MTU_MAX + ETHERNET_HEADER_BYTES;

/// What the caches of current processors fetch at once.
const CACHE_LINE_BYTES: usize = 64;

/// One worker. It knows no thread, no clock and no descriptor: whoever owns it calls [`Worker::poll`] with the time.
pub struct Worker<P: Port, H: Handler> {
    pub(super) port: P,
    pub(super) rx: VecDeque<P::Frame>,
    pub(super) tx: TxQueue<P::Frame>,
    pub(super) stack: Stack,
    pub(super) links: Links,
    pub(super) handler: H,
    /// What the peers send, by [`ConnId::index`]; apart from the sessions, because messages are lent from it.
    pub(super) inbound: Vec<Inbound>,
    /// Decompresses what they send; apart from the sessions for the same reason.
    pub(super) inflater: Inflater,
    pub(super) local: Local<H::Session>,
    pub(super) site: Site,
    /// Networks of proxies.
    pub(super) proxies: Vec<Cidr>,
    pub(super) burst: Burst,
    placement: Placement,
    kernel: Option<Box<dyn Kernel>>,
    /// Connections whose turn ended before their bytes did.
    pub(super) unfinished: Vec<ConnId>,
    /// Responses and requests are built here.
    pub(super) scratch: Vec<u8>,
    /// Received bytes that this burst may still go through.
    pub(super) bytes_left: usize,
    /// Steps of TLS handshakes that this burst may still do.
    pub(super) handshakes_left: usize,
    /// Memory for what the connection whose turn it is sends with TLS.
    pub(super) gather_spare: Vec<u8>,
    /// The ports where TLS is spoken, and how.
    pub(super) tls_ports: Vec<u16>,
    pub(super) tls: Option<Arc<ServerTls>>,
    pub(super) ending: Ending,
    started: bool,
    asleep: bool,
    next_tick: Instant,
    /// The workers of this one's group, who own the queues of the same device.
    group: Range<usize>,
    shares_lease: bool,
    shared_lease: Option<Lease>,
}

/// What one burst came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Something was done: poll again at once rather than sleep.
    pub busy: bool,
    /// Drained or stopped: there is nothing left to do, ever.
    pub ended: bool,
    /// When there will be something to do although nothing arrives.
    pub deadline: Option<Instant>,
}

/// Why a worker could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The stack cannot be set up.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// Frames that are larger than the MTU do not fit into the links between workers.
    #[error(
        "{port} receives frames of up to {frame_bytes_max} bytes, which workers cannot hand to each other: turn the \
         port's offloads off"
    )]
    LargeFrames {
        /// The port's name.
        port: String,
        /// Its largest frame, bytes.
        frame_bytes_max: usize,
    },
    /// The links between the workers cannot be set up.
    #[error("links between workers: {0}")]
    Links(#[from] WireError),
}

impl<P: Port, H: Handler> Worker<P, H> {
    /// A worker on a port, with its handler.
    ///
    /// # Errors
    /// When the configuration fits neither the port nor the stack.
    pub fn new(
        config: &EngineConfig,
        seat: Seat,
        port: P,
        handler: H,
        now: Instant,
    ) -> Result<Self, WorkerError> {
        config.validate()?;
        let Seat { index, group, crew, peers, links, secret, exit } = seat;
        // Within the group: the device's queue that this worker owns.
        let (member, workers) = (index - group.start, group.len());
        let mut rng = ChaCha20Rng::from_seed(secret);
        let (mut stack_secret, mut local_secret) = ([0; 32], [0; 32]);
        rng.fill_bytes(&mut stack_secret);
        rng.fill_bytes(&mut local_secret);

        let connections_max = config.limits.connections_max;
        let mut stack_config = config.stack.clone();
        stack_config.tcp.connections_max =
            connections_max.saturating_add(REFUSALS_MIN.max(connections_max / 16));
        stack_config.dhcp &= member == 0;
        stack_config.has_exception_path = exit.is_some();
        let rss = port.info().rss.clone().filter(|_| config.steering == Steering::Device);
        let placement = Placement::new(workers, rss.is_some());
        if workers > 1 {
            stack_config.share = Some(Share { worker: member as u32, workers: workers as u32, rss });
            let PortInfo { name, frame_bytes_max, .. } = port.info();
            if *frame_bytes_max > FRAME_BYTES_MAX {
                return Err(WorkerError::LargeFrames {
                    port: name.clone(),
                    frame_bytes_max: *frame_bytes_max,
                });
            }
        }
        let mut stack = Stack::new(&stack_config, port.info(), stack_secret, now)?;
        for &port in config.listen.iter().chain(&config.listen_tls) {
            stack.listen(port);
        }
        Ok(Worker {
            rx: VecDeque::with_capacity(config.burst.rx_frames),
            tx: TxQueue::new(config.burst.tx_frames, port.info()),
            port,
            stack,
            links,
            handler,
            inbound: Vec::new(),
            inflater: Inflater::default(),
            local: Local::new(config, index, crew, peers, local_secret, now),
            site: Site::new(config),
            proxies: config.proxies.clone(),
            burst: config.burst,
            placement,
            kernel: exit,
            unfinished: Vec::new(),
            scratch: Vec::new(),
            bytes_left: 0,
            handshakes_left: 0,
            gather_spare: Vec::new(),
            tls_ports: config.listen_tls.clone(),
            tls: config.tls.clone(),
            ending: Ending::default(),
            started: false,
            asleep: false,
            next_tick: now,
            shares_lease: config.stack.dhcp && member == 0 && workers > 1,
            group,
            shared_lease: None,
        })
    }

    /// One burst: receive all, process all, transmit all, then look at timers and the mailbox.
    pub fn poll(&mut self, now: Instant) -> Progress {
        self.wake_up();
        self.local.now = now;
        self.handshakes_left = self.burst.tls_handshakes;
        self.port.begin(now);
        self.stack.begin(now);
        self.tx.flush(&mut self.port);
        self.tx.refill(&mut self.port, self.burst.tx_frames);

        let mut work = self.receive();
        work += self.take_over();
        work += self.send_for_kernel();
        work += self.read_mailbox();
        self.heed_wishes();
        self.call_handler();
        self.open_connections();
        self.stack.timers();
        work += self.serve_ready();

        self.stack.egress(&mut self.tx);
        self.share_lease();
        work += self.tx.flush(&mut self.port);
        self.local.stats.hand_over_dropped += self.links.flush();
        self.progress(work > 0)
    }

    /// Tells what the time since 1970 is at an instant of this worker's; what passes from there on it knows itself.
    /// The launcher says so again and again, as wall clocks are set. Guards need it for tokens that expire.
    pub fn set_unix_time(&mut self, now: Instant, unix: Duration) {
        self.site.unix = Some((now, unix));
    }

    /// This worker's index.
    pub fn index(&self) -> usize {
        self.local.worker
    }

    /// The application.
    pub fn handler(&self) -> &H {
        &self.handler
    }

    /// The application.
    pub fn handler_mut(&mut self) -> &mut H {
        &mut self.handler
    }

    /// The port.
    pub fn port(&self) -> &P {
        &self.port
    }

    /// The stack, for those who look closer than [`Worker::report`] does.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// What the first flows have shown of the device's steering, once.
    pub(super) fn steering_found(&mut self) -> Option<Finding> {
        self.placement.take_found()
    }

    /// All counters.
    pub fn report(&self) -> WorkerReport {
        WorkerReport {
            worker: self.local.worker,
            engine: self.local.stats,
            stack: *self.stack.stats(),
            port: self.port.stats(),
        }
    }

    /// Descriptors that poll readable when frames are waiting.
    pub fn wait_fds(&self) -> Vec<BorrowedFd<'_>> {
        let kernel = self.kernel.as_ref().and_then(|kernel| kernel.wait_fd());
        self.port.wait_fd().into_iter().chain(self.links.wait_fds()).chain(kernel).collect()
    }

    /// How long the owner may wait at most, because something can become possible that no descriptor tells of.
    pub fn wait_max(&self) -> Option<Duration> {
        let must_look = self.port.wait_fd().is_none() || self.is_stuck();
        must_look.then(|| self.port.poll_interval())
    }

    /// Announces that the owner is about to wait on [`Worker::wait_fds`] and the worker's
    /// [`Wake`](crate::engine::Wake); `false` when it must not, because something is waiting already.
    /// [`Worker::poll`] must follow every wait.
    pub fn prepare_sleep(&mut self) -> bool {
        let quiet = self.announce_sleep();
        let kernel_is_quiet = self.kernel.as_mut().is_none_or(|kernel| kernel.prepare_sleep());
        self.port.prepare_sleep() & self.links.prepare_sleep() & kernel_is_quiet & quiet
    }

    /// Announces that the owner is about to wait on the worker's [`Wake`](crate::engine::Wake) alone, for a while, and to leave
    /// what arrives where it is; `false` when it must not. [`Worker::poll`] must follow.
    pub fn prepare_rest(&mut self) -> bool {
        self.announce_sleep() && !self.is_stuck()
    }

    /// From here on commands wake the worker; `false` when there is one already.
    fn announce_sleep(&mut self) -> bool {
        let Some(mailbox) = self.local.mailbox() else { return false };
        mailbox.announce_sleep();
        self.asleep = true;
        let over = self.ending.is_told() && self.local.crew.all_are_done();
        mailbox.is_empty() && self.ending.has_heard(self.local.crew.wish()) && !over
    }

    /// Whether the device takes nothing just now, or gives no frame to fill.
    fn is_stuck(&self) -> bool {
        self.tx.pending() > 0 || !self.tx.has_room()
    }

    /// Calls a function with the worker's context: what a callback that is not about a connection can do.
    pub fn with_context<R>(&mut self, f: impl FnOnce(&mut H, &mut Context<'_, H>) -> R) -> R {
        let Worker { stack, local, handler, .. } = self;
        f(handler, &mut Context { stack, local })
    }

    /// Ends what [`Worker::prepare_sleep`] began.
    fn wake_up(&mut self) {
        if std::mem::take(&mut self.asleep)
            && let Some(mailbox) = self.local.mailbox()
        {
            mailbox.awake();
        }
    }

    /// Takes a burst from the port. A full TX queue does not hold it back: see [`Stack::ingress`].
    fn receive(&mut self) -> usize {
        let frames = self.port.rx_burst(&mut self.rx, self.burst.rx_frames);
        self.local.stats.rx_frames += frames as u64;
        let accepted = self.stack.stats().rx_syn_accepted;
        touch(&self.rx);
        self.expect();
        while let Some(frame) = self.rx.pop_front() {
            let onward = self.stack.ingress_of_burst(frame.bytes(), frame.rx_checksum(), &mut self.tx);
            if onward != Onward::Done {
                self.pass_on(onward, &frame);
            }
            self.port.release(frame);
        }
        self.stack.end_burst(&mut self.tx);
        if !self.placement.is_over() {
            (accepted..self.stack.stats().rx_syn_accepted).for_each(|_| self.placement.right());
        }
        frames
    }

    /// Has fetched what the burst's connections need, in all layers.
    fn expect(&mut self) {
        self.stack.expect(self.rx.iter().map(Frame::bytes));
        for &index in self.stack.expected() {
            self.local.sessions.get(index as usize).inspect(|&session| prefetch(session));
            self.inbound.get(index as usize).inspect(|&inbound| prefetch(inbound));
        }
    }

    /// A frame goes to its flow's owner, what all must know to all, and what is for nobody to the kernel.
    fn pass_on(&mut self, onward: Onward, frame: &P::Frame) {
        match onward {
            Onward::Done => {}
            Onward::Owner(owner) => {
                self.local.stats.misplaced += 1;
                if !self.placement.is_over() {
                    self.placement.wrong(self.stack.expected_rss_hash(frame.bytes()), frame.rss_hash());
                }
                self.hand_over(owner as usize, frame);
            }
            Onward::Worker(worker) => self.hand_over(worker as usize, frame),
            Onward::Everyone => {
                let (given, dropped) = self.links.give_all(frame);
                self.local.stats.handed_over += given;
                self.local.stats.hand_over_dropped += dropped;
                give_to_kernel(&mut self.kernel, &mut self.local.stats, frame.bytes());
            }
            Onward::Kernel => give_to_kernel(&mut self.kernel, &mut self.local.stats, frame.bytes()),
        }
    }

    /// Sends what the kernel wants sent. It gets half of the room at most.
    fn send_for_kernel(&mut self) -> usize {
        let frame_bytes_max = self.port.info().mtu + ETHERNET_HEADER_BYTES;
        let Worker { kernel: Some(kernel), tx, local, burst, .. } = self else { return 0 };
        let room = tx.room().saturating_sub(burst.tx_frames / 2);
        let taken = kernel.take(room, &mut |frame| {
            let fits =
                frame.len() <= frame_bytes_max && tx.push(frame.len(), |out| out.copy_from_slice(frame));
            local.stats.from_kernel += u64::from(fits);
            local.stats.exception_dropped += u64::from(!fits);
        });
        local.stats.exception_dropped += kernel.flush();
        taken
    }

    fn hand_over(&mut self, worker: usize, frame: &P::Frame) {
        let given = self.links.give(worker, frame);
        self.local.stats.handed_over += u64::from(given);
        self.local.stats.hand_over_dropped += u64::from(!given);
    }

    /// Takes what other workers handed over: frames of our flows, and frames to learn from.
    fn take_over(&mut self) -> usize {
        if self.links.is_empty() {
            return 0;
        }
        let Worker { links, stack, tx, burst, kernel, local, .. } = self;
        let frames = links.take(burst.rx_frames, |frame| {
            if stack.take_over(frame.bytes(), frame.rx_checksum(), tx) == Onward::Kernel {
                give_to_kernel(kernel, &mut local.stats, frame.bytes());
            }
        });
        stack.end_burst(tx);
        local.stats.taken_over += frames as u64;
        frames
    }

    /// Does what other threads and workers ask for, up to the bound of a burst.
    fn read_mailbox(&mut self) -> usize {
        let mut commands = 0;
        while commands < self.burst.mailbox_commands
            && let Some(command) = self.local.mailbox().and_then(Mailbox::pop)
        {
            commands += 1;
            self.obey(command);
        }
        if commands > 0 {
            self.give_attention();
        }
        commands
    }

    fn obey(&mut self, command: Command) {
        let Worker { stack, local, .. } = self;
        let worker = local.worker;
        match command {
            Command::Send { conn, message } => {
                let conn = ConnRef { worker, id: conn };
                let outcome = Context::<H> { stack, local }.send(conn, message.as_message());
                self.local.stats.dropped_closed += u64::from(outcome == SendOutcome::Closed);
            }
            Command::Publish { topic, message } => {
                local.publish_here(stack, &topic, message.as_message(), None);
            }
            Command::Close { conn, code, reason } => {
                Context::<H> { stack, local }.close(ConnRef { worker, id: conn }, code, &reason);
            }
            Command::Connect(connect) => local.connects.push_back(*connect),
            Command::Lease(lease) => stack.adopt_lease(lease),
            // Whoever asked may have given up waiting.
            Command::Report(sender) => drop(sender.try_send(self.report())),
        }
    }

    /// The first worker of a group alone runs DHCP: what it gets is for the whole group.
    fn share_lease(&mut self) {
        if !self.shares_lease || self.stack.lease() == self.shared_lease {
            return;
        }
        let lease = self.stack.lease();
        let others = self.local.crew.mailboxes().take(self.group.end).skip(self.group.start + 1);
        // Whoever's mailbox is full makes this be tried again; to be told the same lease twice does no harm.
        if others.filter(|mailbox| !mailbox.push(Command::Lease(lease))).count() == 0 {
            self.shared_lease = lease;
        }
    }

    /// The callbacks that are about no connection.
    fn call_handler(&mut self) {
        if !self.started {
            self.started = true;
            self.with_context(|handler, context| handler.on_start(context));
            self.give_attention();
        }
        if let Some(tick) = self.local.deadlines.tick
            && self.local.now >= self.next_tick
        {
            self.next_tick = self.local.now + tick;
            self.with_context(|handler, context| handler.on_tick(context));
            self.give_attention();
        }
    }

    /// Opens the connections that callbacks and other threads asked for.
    fn open_connections(&mut self) {
        while let Some(connect) = self.local.retries.next_due(self.local.now) {
            self.local.connects.push_back(connect);
        }
        for _ in 0..self.burst.mailbox_commands {
            let Some(connect) = self.local.connects.front() else { break };
            if connect.tls.is_some() && !self.local.draining {
                // Even a first message takes long: keys are made for it.
                let Some(left) = self.handshakes_left.checked_sub(1) else { break };
                self.handshakes_left = left;
            }
            if let Some(connect) = self.local.connects.pop_front() {
                self.connect_or_look_up(connect);
            }
        }
        self.look_up_names();
    }

    /// Lets every ready connection have its turn, up to the bound of a burst.
    fn serve_ready(&mut self) -> usize {
        self.bytes_left = self.burst.total_bytes;
        let mut turns = 0;
        while self.bytes_left > 0
            && let Some(id) = self.stack.next_ready()
        {
            self.serve(id);
            self.give_attention();
            turns += 1;
        }
        for id in self.unfinished.drain(..) {
            self.stack.mark_ready(id);
        }
        turns
    }

    /// Connections that another one's callback changed get their turn in this burst, too.
    pub(super) fn give_attention(&mut self) {
        for id in self.local.attention.drain(..) {
            self.stack.mark_ready(id);
        }
    }

    fn progress(&mut self, worked: bool) -> Progress {
        let stats = &mut self.local.stats;
        stats.polls += 1;
        stats.busy_polls += u64::from(worked);
        let busy =
            worked || self.stack.has_ready() || !self.local.connects.is_empty() || self.ending.is_under_way();
        let tick = self.local.deadlines.tick.map(|_| self.next_tick);
        let due = [
            self.stack.next_deadline(),
            self.port.next_deadline(),
            tick,
            self.ending.deadline(),
            self.local.retries.deadline(),
        ];
        let deadline = due.iter().flatten().min().copied();
        // As long as nothing can be sent there is no use in trying to send what is due.
        let stuck = self.is_stuck();
        let retry = self.local.now + self.port.poll_interval();
        let deadline = deadline.map(|deadline| if stuck { deadline.max(retry) } else { deadline });
        Progress { busy, ended: self.has_ended(), deadline }
    }
}

/// Reads a byte of the headers' cache lines of each frame of a burst. Whoever wrote them did so on another core or in a device: the
/// lines are on their way all at once, and not one after the other when each frame is looked at.
#[inline]
fn touch<F: Frame>(burst: &VecDeque<F>) {
    let mut touched = 0;
    for frame in burst {
        let bytes = frame.bytes();
        touched ^=
            bytes.first().copied().unwrap_or(0) ^ bytes.get(CACHE_LINE_BYTES - 1).copied().unwrap_or(0);
    }
    black_box(touched);
}

/// Copies a frame for the kernel, if there is a way to it.
fn give_to_kernel(kernel: &mut Option<Box<dyn Kernel>>, stats: &mut WorkerStats, frame: &[u8]) {
    if let Some(kernel) = kernel {
        let given = kernel.give(frame);
        stats.to_kernel += u64::from(given);
        stats.exception_dropped += u64::from(!given);
    }
}

impl<P: Port, H: Handler> Drop for Worker<P, H> {
    fn drop(&mut self) {
        self.tx.clear(&mut self.port);
        for frame in self.rx.drain(..) {
            self.port.release(frame);
        }
    }
}
