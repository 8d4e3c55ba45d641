//! Frames in: to the connection that owns them, to the interface, or to nobody.

use super::classify::{Class, PathMtu, TcpInfo, Unsupported, udp_checksum_is_good};
use super::conn::{Phase, Received, Slot};
use super::device::{Listener, OneFrame, TxQueue};
use super::late_ack::BareAck;
use super::merge::SEGMENT_BYTES_MIN;
use super::net::Net;
use super::reply::Reply;
use super::time_wait::Verdict;
use super::{CloseCause, Onward, Stack};
use crate::port::{Frame, RxChecksum};
use crate::time::Instant;
use smoltcp::iface::SocketSet;
use smoltcp::socket::tcp::State;
use smoltcp::time::Instant as StackInstant;
use smoltcp::wire::{IpAddress, IpEndpoint};

impl Stack {
    /// Feeds one received frame by itself, and says where else it must go. Every frame may cause an answer; one that finds no room in
    /// `tx` is lost and counted ([`TxQueue::lost`]), and TCP recovers. Refusing to receive instead could lock two
    /// ends that are both full.
    pub fn ingress<F: Frame>(&mut self, frame: &[u8], checksum: RxChecksum, tx: &mut TxQueue<F>) -> Onward {
        let onward = self.ingress_of_burst(frame, checksum, tx);
        self.end_burst(tx);
        onward
    }

    /// Feeds one frame of a burst like [`Stack::ingress`]. A connection's data may wait for what follows it, until
    /// [`Stack::end_burst`].
    pub fn ingress_of_burst<F: Frame>(
        &mut self,
        frame: &[u8],
        checksum: RxChecksum,
        tx: &mut TxQueue<F>,
    ) -> Onward {
        if checksum == RxChecksum::Bad {
            self.stats.rx_bad_checksum += 1;
            return Onward::Done;
        }
        let verify = checksum == RxChecksum::Unknown && !self.rx_checksum_trusted;
        // Not moved out of where it was written.
        match &super::classify::classify(frame, self.nets.mac()) {
            Class::Tcp(segment) => return self.ingress_segment(frame, segment, verify, tx),
            Class::Arp | Class::Ndp => {
                self.ingress_control(frame, tx);
                self.learn_neighbors(frame);
                return Onward::Everyone;
            }
            Class::PathMtu(too_big) => {
                if verify && !too_big.checksum_is_good(frame) {
                    self.stats.rx_bad_checksum += 1;
                    return Onward::Done;
                }
                return self.ingress_path_report(too_big);
            }
            Class::Dhcp if self.share.as_ref().is_some_and(|share| share.worker != 0) => {
                return Onward::Worker(0);
            }
            Class::Dhcp if self.dhcp.is_none() && self.has_exception_path => return self.leave_to_kernel(),
            Class::Dhcp => {
                if verify && !udp_checksum_is_good(frame) {
                    self.stats.rx_bad_checksum += 1;
                    return Onward::Done;
                }
                self.stats.rx_control += 1;
                self.ingress_dhcp(frame);
            }
            Class::Dns if self.asks_server_of(frame) => {
                if verify && !udp_checksum_is_good(frame) {
                    self.stats.rx_bad_checksum += 1;
                    return Onward::Done;
                }
                self.stats.rx_control += 1;
                self.ingress_dns(frame);
                // Whoever asked may be another worker, or the kernel.
                return Onward::Everyone;
            }
            Class::Dns if self.has_exception_path => return self.leave_to_kernel(),
            Class::Dns => self.stats.rx_unsupported += 1,
            Class::Icmp if self.has_exception_path => return self.leave_to_kernel(),
            Class::Icmp => self.ingress_control(frame, tx),
            Class::Unsupported(reason) if self.has_exception_path && !is_tcp_fragment(*reason, frame) => {
                return self.leave_to_kernel();
            }
            Class::NotOurs => self.stats.rx_not_ours += 1,
            Class::Malformed(_) => self.stats.rx_malformed += 1,
            Class::Unsupported(_) => self.stats.rx_unsupported += 1,
        }
        Onward::Done
    }

    /// The last frame of the burst was fed.
    #[inline]
    pub fn end_burst<F: Frame>(&mut self, tx: &mut TxQueue<F>) {
        if !self.merger.is_empty() {
            self.feed_run(tx);
        }
    }

    #[inline(never)]
    fn feed_run<F: Frame>(&mut self, tx: &mut TxQueue<F>) {
        let Some((index, mut run)) = self.merger.take() else { return };
        self.stats.rx_merged += u64::from(run.is_merged());
        run.feed(|frame, segment| self.feed(index, frame, segment, tx));
        self.merger.give_back(run);
    }

    /// Feeds a frame of a burst that another worker received: one that is ours alone is taken, or left to the kernel, and from one that it
    /// answered we learn.
    pub fn take_over<F: Frame>(&mut self, frame: &[u8], checksum: RxChecksum, tx: &mut TxQueue<F>) -> Onward {
        match super::classify::classify(frame, self.nets.mac()) {
            Class::Arp | Class::Ndp => {
                let now = self.stack_now;
                self.nets.main().learn(frame, now);
                self.learn_neighbors(frame);
            }
            Class::Dns => {
                let is_sound = self.rx_checksum_trusted || checksum == RxChecksum::Good;
                if is_sound || udp_checksum_is_good(frame) {
                    self.ingress_dns(frame);
                }
            }
            // All workers know one rule: what comes to us by it goes to no other worker.
            _ => return self.ingress_of_burst(frame, checksum, tx),
        }
        Onward::Done
    }

    /// A TCP segment. The flow table first: it costs one that is in it nothing that there are other workers.
    #[inline]
    fn ingress_segment<F: Frame>(
        &mut self,
        frame: &[u8],
        segment: &TcpInfo,
        verify: bool,
        tx: &mut TxQueue<F>,
    ) -> Onward {
        if segment.flags.is_opening() {
            // It will be looked for there as well: two reads from memory at once.
            self.time_wait.touch(&segment.key);
        }
        let flow = self.flows.get(&segment.key);
        if flow.is_none()
            && let Some(share) = &self.share
            && let owner = share.owner(&segment.key)
            && owner != share.worker
        {
            return Onward::Owner(owner);
        }
        if verify && !segment.checksum_is_good(frame) {
            self.stats.rx_bad_checksum += 1;
            return Onward::Done;
        }
        match flow {
            None => return self.ingress_new_segment(frame, segment, None, tx),
            Some(index) => self.ingress_known(index, frame, segment, tx),
        }
        Onward::Done
    }

    /// A segment of a connection, checksums right.
    fn ingress_known<F: Frame>(&mut self, index: u32, frame: &[u8], segment: &TcpInfo, tx: &mut TxQueue<F>) {
        let goes_on = self.merger.holds(index);
        // One that its sender pushes is the last of a run, or most likely alone.
        if segment.payload_len >= SEGMENT_BYTES_MIN
            && (goes_on || !segment.flags.psh())
            && self.merge(index, frame, segment, tx)
        {
            self.stats.rx_segments += 1;
            return;
        }
        if goes_on {
            // What came before it comes first.
            self.end_burst(tx);
        }
        let slot = self.slab.slot(index);
        if matches!(slot.phase, Phase::HalfOpen)
            && segment.flags.ack()
            && !segment.flags.rst()
            && segment.ack != slot.unacknowledged
        {
            // RFC 9293 section 3.10.7.4: it acknowledges what was never sent. As many RSTs as to nobody's segments.
            self.refuse(frame, segment, tx);
        } else if !segment.flags.is_opening() || !slot.is_live() {
            if segment.flags.rst() && slot.socket().state() == State::TimeWait {
                // The record of TIME-WAIT must hear of it, too; what it says of a reset is not to be answered.
                let _ = self.time_wait.on_segment(self.now, segment);
            }
            self.stats.rx_segments += 1;
            self.feed(index, frame, segment, tx);
        } else if slot.socket().state() != State::TimeWait {
            self.stats.rx_segments += 1;
            self.challenge(index, tx);
        } else {
            // Over but for what its owner has not read or let go of yet: the record of TIME-WAIT decides.
            let _ = self.ingress_new_segment(frame, segment, Some(index), tx);
        }
    }

    /// Keeps a segment of a connection to make it one with those that follow; whether it did.
    #[inline(never)]
    fn merge<F: Frame>(&mut self, index: u32, frame: &[u8], segment: &TcpInfo, tx: &mut TxQueue<F>) -> bool {
        if self.merger.go_on(index, frame, segment) {
            return true;
        }
        self.end_burst(tx);
        let slot = self.slab.slot(index);
        let socket = slot.socket();
        let is_next = slot.is_live()
            && slot.owned
            && socket.state() == State::Established
            && !slot.received.has_gap()
            && segment.seq == slot.received.next();
        is_next && self.merger.begin(index, frame, segment, socket.recv_capacity() - socket.recv_queue())
    }

    /// A segment of no connection, or a SYN for one that is in TIME-WAIT while slot `in_time_wait` still holds it.
    fn ingress_new_segment<F: Frame>(
        &mut self,
        frame: &[u8],
        segment: &TcpInfo,
        in_time_wait: Option<u32>,
        tx: &mut TxQueue<F>,
    ) -> Onward {
        let is_ours = self.nets.owns(segment.key.local().ip());
        let listens = is_ours && self.listening.contains(&segment.key.local().port());
        if self.has_exception_path && !listens && !self.time_wait.contains(self.now, &segment.key) {
            return self.leave_to_kernel();
        }
        if !is_ours {
            self.stats.rx_not_ours += 1;
            return Onward::Done;
        }
        // smoltcp's listener would answer them: it knows none of our networks when a SYN is fed to it.
        if !self.nets.may_be_a_peer(segment.key.remote().ip()) {
            self.stats.rx_malformed += 1;
            return Onward::Done;
        }
        let isn_floor = match self.time_wait.on_segment(self.now, segment) {
            None => None,
            Some(Verdict::Reuse { isn_floor }) => Some(isn_floor),
            Some(Verdict::Drop) => {
                self.stats.rx_time_wait += 1;
                return Onward::Done;
            }
            Some(Verdict::Acknowledge(reply)) => {
                self.stats.rx_time_wait += 1;
                if self.time_wait_rate.take(self.now) {
                    tx.push(reply.frame_bytes(), |out| reply.emit(frame, out));
                }
                return Onward::Done;
            }
        };
        if let Some(index) = in_time_wait {
            self.close(index, CloseCause::Finished);
        }
        if listens && segment.flags.is_opening() {
            self.accept(frame, segment, isn_floor);
        } else {
            self.refuse(frame, segment, tx);
        }
        Onward::Done
    }

    fn leave_to_kernel(&mut self) -> Onward {
        self.stats.rx_to_kernel += 1;
        Onward::Kernel
    }

    /// Hands a segment to its connection and looks at what changed.
    #[inline]
    fn feed<F: Frame>(&mut self, index: u32, frame: &[u8], segment: &TcpInfo, tx: &mut TxQueue<F>) {
        let slot = self.slab.slot_mut(index);
        let mac = self.nets.mac();
        let net = self.nets.get(slot.net);
        let socket = slot.socket();
        let (queued_before, unacknowledged_before) = (socket.recv_queue(), socket.send_queue());
        let is_plausible = slot.is_plausible(socket, segment);
        if slot.is_late_ack(socket, segment) {
            show_late_ack(net, slot, segment, mac, self.stack_now, tx);
        }
        let mut device =
            OneFrame { rx: Some(frame), tx, caps: &net.caps, fills_in: net.fills_in, wanted: false };
        net.iface.poll_ingress_single(self.stack_now, &mut device, &mut slot.set);

        let socket = slot.socket();
        let state = socket.state();
        let queued = socket.recv_queue();
        let unacknowledged = socket.send_queue();
        let (ring_bytes, send_bytes) = (socket.recv_capacity(), socket.send_capacity());
        if is_plausible {
            slot.progress_at = self.now;
            slot.window = segment.window;
        }
        slot.rings_touched = true;
        let acknowledged = unacknowledged_before.saturating_sub(unacknowledged);
        slot.unacknowledged = slot.unacknowledged.wrapping_add(acknowledged as u32);
        if segment.payload_len > 0 {
            slot.received.advance(queued.saturating_sub(queued_before), segment, ring_bytes);
        }
        let has_bytes = queued > 0;
        let has_room = slot.write_blocked && unacknowledged <= send_bytes / 2;
        if has_room {
            slot.write_blocked = false;
        }
        let (phase, owned) = (slot.phase, slot.owned);
        if slot.is_live() && state == State::Established {
            // The common case first: data or an acknowledgement on an open connection.
            if !core::mem::replace(&mut slot.dirty, true) {
                self.dirty.push_back(index);
            }
            if owned && (has_bytes || has_room) && !core::mem::replace(&mut slot.ready, true) {
                self.ready.push_back(index);
            }
            if !owned {
                self.discard_received(index);
            }
            return;
        }
        if phase == Phase::Connecting && segment.flags.syn() {
            let is_large = self.sends_large(frame, segment);
            let slot = self.slab.slot_mut(index);
            // Two SYNs may meet (RFC 9293 section 3.5): the peer's numbers are known from its SYN on, not from what ends the
            // handshake. Those of a later one do not count.
            if state != State::SynSent && !slot.received.has_begun() {
                slot.received = Received::after_syn(segment.seq);
                slot.large_segments = is_large;
            }
        }
        self.on_state(index, phase, state, segment);
    }

    /// A SYN on a connection that is open: RFC 5961 section 4.2. smoltcp is silent about it, so that a peer that was
    /// restarted and takes the same port again would wait for our idle deadline. It is shown what makes it acknowledge
    /// (and limits how often): such a peer answers that with RST, anybody else's connection goes on.
    fn challenge<F: Frame>(&mut self, index: u32, tx: &mut TxQueue<F>) {
        let slot = self.slab.slot_mut(index);
        let before = slot.expected_next().wrapping_sub(1);
        let ack = BareAck::new(&slot.key, self.nets.mac(), before, slot.unacknowledged, slot.window);
        let net = self.nets.get(slot.net);
        let mut device =
            OneFrame { rx: Some(ack.frame()), tx, caps: &net.caps, fills_in: net.fills_in, wanted: false };
        net.iface.poll_ingress_single(self.stack_now, &mut device, &mut slot.set);
        self.mark_dirty(index);
    }

    /// The rare rest of [`Stack::feed`]: handshakes and closings.
    fn on_state(&mut self, index: u32, phase: Phase, state: State, segment: &TcpInfo) {
        match (phase, state) {
            (Phase::Closed(_) | Phase::Free, _) => {}
            // An RST in SYN-RECEIVED returns smoltcp's socket to LISTEN.
            (Phase::HalfOpen, State::Listen | State::Closed) => {
                self.stats.half_open_dropped += 1;
                self.remove(index);
            }
            (Phase::HalfOpen | Phase::Connecting, State::SynReceived | State::SynSent) => {
                self.mark_dirty(index);
            }
            (Phase::Connecting, State::Closed) => self.close(index, CloseCause::Refused),
            (Phase::HalfOpen | Phase::Connecting, _) => {
                self.slab.leave_half_open(index);
                let slot = self.slab.slot_mut(index);
                slot.phase = Phase::Live;
                slot.owned = true;
                slot.closing_deadline = Instant::FAR_FUTURE;
                self.stats.opened += 1;
                self.mark_dirty(index);
                self.mark_ready_index(index);
            }
            (Phase::Live, State::Closed) => {
                let cause = if segment.flags.rst() { CloseCause::Reset } else { CloseCause::Finished };
                self.close(index, cause);
            }
            (Phase::Live, _) => {
                let now = self.now;
                let slot = self.slab.slot_mut(index);
                if state == State::TimeWait {
                    // The segment that brought it here acknowledges our FIN and ends with the peer's. Later ones are
                    // answered by smoltcp as long as the slot lives, and by the record after that.
                    let flow = slot.key;
                    if !self.time_wait.contains(now, &flow) {
                        self.time_wait.insert(now, flow, segment.ack, segment.end_seq());
                    }
                } else if state == State::FinWait2 {
                    slot.closing_deadline = slot.closing_deadline.min(now + self.tcp.fin_wait2_timeout);
                }
                self.mark_dirty(index);
                if self.slab.slot(index).owned {
                    self.mark_ready_index(index);
                } else {
                    self.discard_received(index);
                }
            }
        }
    }

    /// Makes a connection of a SYN. A table full of connections that are open drops it: the client tries again.
    fn accept(&mut self, frame: &[u8], segment: &TcpInfo, isn_floor: Option<u32>) {
        if self.slab.is_full() && self.slab.half_open() == 0 {
            self.drop_oldest_orphan();
        }
        let no_room = self.slab.half_open() >= self.tcp.half_open_max || self.slab.is_full();
        if no_room && let Some(oldest) = self.slab.oldest_half_open() {
            // Clients complete within a round trip; what has waited longest is most likely a flood's.
            self.stats.half_open_dropped += 1;
            self.remove(oldest);
        }
        let flow = segment.key;
        let Some(index) = self.open(flow, Phase::HalfOpen) else {
            self.stats.rx_syn_refused += 1;
            return;
        };
        let local = flow.local();
        let isn = self.isn.generate(&flow, self.now, isn_floor);
        let slot = self.slab.slot_mut(index);
        slot.received = Received::after_syn(segment.seq);
        slot.unacknowledged = isn.wrapping_add(1);
        let endpoint = IpEndpoint::new(IpAddress::from(local.ip()), local.port());
        let listening = slot.socket_mut().listen(endpoint);
        debug_assert!(listening.is_ok(), "a fresh socket listens");
        let now = self.stack_now;
        self.nets.with_first_random(local.ip(), isn, now, |iface, caps| {
            iface.poll_ingress_single(now, &mut Listener { rx: Some(frame), caps }, &mut slot.set)
        });
        if slot.socket().state() != State::SynReceived {
            // smoltcp saw more wrong with it than we did.
            self.stats.rx_malformed += 1;
            self.remove(index);
            return;
        }
        self.slab.slot_mut(index).large_segments = self.sends_large(frame, segment);
        self.time_wait.remove(&flow);
        self.flows.insert(flow, index);
        self.stats.rx_syn_accepted += 1;
        self.mark_dirty(index);
    }

    /// Whether a connection with the peer that sent this SYN, or SYN-ACK, may send segments that the port cuts.
    fn sends_large(&self, frame: &[u8], syn: &TcpInfo) -> bool {
        syn.key.is_ipv4() && syn.flags.syn() && self.nets.cuts_for(syn.segment_bytes_max(frame))
    }

    /// Answers a segment of no flow with RST, within the rate.
    fn refuse<F: Frame>(&mut self, frame: &[u8], segment: &TcpInfo, tx: &mut TxQueue<F>) {
        let reply = Reply::reset(segment).filter(|_| self.rst_rate.take(self.now));
        let Some(reply) = reply else {
            self.stats.rx_no_flow += 1;
            return;
        };
        self.stats.rx_rst_sent += 1;
        tx.push(reply.frame_bytes(), |out| reply.emit(frame, out));
    }

    /// ARP, NDP, ICMP: the first interface answers.
    fn ingress_control<F: Frame>(&mut self, frame: &[u8], tx: &mut TxQueue<F>) {
        self.stats.rx_control += 1;
        let mut nobody = SocketSet::new([]);
        let net = self.nets.main();
        let mut device =
            OneFrame { rx: Some(frame), tx, caps: &net.caps, fills_in: net.fills_in, wanted: false };
        net.iface.poll_ingress_single(self.stack_now, &mut device, &mut nobody);
    }

    /// A report on the path of one flow: its owner's, or, of none of ours, the kernel's.
    fn ingress_path_report(&mut self, too_big: &PathMtu) -> Onward {
        let flow = self.flows.get(&too_big.key);
        if flow.is_none()
            && let Some(share) = &self.share
            && let owner = share.owner(&too_big.key)
            && owner != share.worker
        {
            return Onward::Worker(owner);
        }
        if flow.is_none() && self.has_exception_path {
            return self.leave_to_kernel();
        }
        self.stats.rx_control += 1;
        if let Some(index) = flow {
            self.narrow_path(index, too_big);
        }
        Onward::Done
    }

    /// A router says that a path carries less (RFC 1191, RFC 8201). smoltcp sends in smaller segments from its next
    /// transmission on; what was lost comes again with the retransmission timer.
    fn narrow_path(&mut self, index: u32, too_big: &PathMtu) {
        let slot = self.slab.slot_mut(index);
        // RFC 5927 section 4.1: a report about what is not in flight was made up.
        let ahead = too_big.seq.wrapping_sub(slot.unacknowledged) as usize;
        if ahead >= slot.socket().send_queue() {
            return;
        }
        if let Some(net) = self.nets.narrower(slot.net, too_big, self.stack_now) {
            slot.net = net;
            self.stats.paths_narrowed += 1;
            self.mark_dirty(index);
        }
    }

    /// Nobody will read it: the owner has let go of the connection.
    pub(super) fn discard_received(&mut self, index: u32) {
        let socket = self.slab.slot_mut(index).socket_mut();
        while socket.can_recv() {
            if socket.recv(|bytes| (bytes.len(), ())).is_err() {
                break;
            }
        }
    }
}

/// Shows smoltcp an acknowledgement on its own, at the number that it expects.
#[cold]
fn show_late_ack<F: Frame>(
    net: &mut Net,
    slot: &mut Slot,
    segment: &TcpInfo,
    mac: [u8; 6],
    now: StackInstant,
    tx: &mut TxQueue<F>,
) {
    let ack = BareAck::new(&segment.key, mac, slot.expected_next(), segment.ack, segment.window);
    let mut device =
        OneFrame { rx: Some(ack.frame()), tx, caps: &net.caps, fills_in: net.fills_in, wanted: false };
    net.iface.poll_ingress_single(now, &mut device, &mut slot.set);
}

/// Whether a frame is an IPv4 fragment of TCP. The kernel does not get those: it would put them together and answer what is a
/// connection's of ours with RST.
fn is_tcp_fragment(reason: Unsupported, frame: &[u8]) -> bool {
    const PROTOCOL_AT: usize = 23;
    const PROTOCOL_TCP: u8 = 6;
    reason == Unsupported::Ipv4Fragment && frame.get(PROTOCOL_AT) == Some(&PROTOCOL_TCP)
}
