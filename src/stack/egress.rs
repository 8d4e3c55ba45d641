//! Frames out: one pass over the connections that became dirty, and what to do when one is over.

use super::conn::{Phase, Slot};
use super::device::{Listener, OneFrame, TxQueue};
use super::late_ack::BareAck;
use super::net::{CUT_SEGMENT_BYTES_MIN, Net, Nets};
use super::{CloseCause, Stack};
use crate::port::{ETHERNET_HEADER_BYTES, Frame};
use crate::time::Duration;
use smoltcp::iface::PollResult;
use smoltcp::socket::tcp::State;
use smoltcp::time::{Duration as StackDuration, Instant as StackInstant};

/// Most segments that one connection sends in one pass; the rest waits for its next turn.
pub const SEGMENTS_PER_PASS: usize = 64;

/// How long a connection rests that wants to send, may, and yet does not: until smoltcp's own timer at the latest.
const STALL_RETRY: StackDuration = StackDuration::from_millis(10);

/// Duplicates of an acknowledgement after the first that make smoltcp retransmit.
const DUPLICATE_ACKS: usize = 3;
/// How soon a connection that could not be reminded is looked at again.
const REMIND_INTERVAL: StackDuration = StackDuration::from_secs(1);

/// How long a connection without an owner waits for a neighbour's address to send its last segment.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Headers of a TCP segment without options over IPv4, bytes.
const IPV4_HEADERS_BYTES: usize = ETHERNET_HEADER_BYTES + 20 + 20;
/// Headers of a TCP segment without options over IPv6, bytes.
const IPV6_HEADERS_BYTES: usize = ETHERNET_HEADER_BYTES + 40 + 20;

/// How a connection left its turn.
enum Turn {
    /// Nothing to send before `wake_at`.
    Done { wake_at: Option<StackInstant> },
    /// Everything is sent, and its timer stands early enough.
    Armed,
    /// More to send, and it may: its share of this pass is used up, or the queue is full.
    Unfinished,
    /// It wants to send, but the next hop's address is not known yet; whether smoltcp has asked for it.
    AwaitsNeighbor { wake_at: StackInstant, asked: bool },
}

impl Stack {
    /// Sends what the dirty connections have, as far as `tx` has room; the rest stays dirty.
    pub fn egress<F: Frame>(&mut self, tx: &mut TxQueue<F>) {
        self.egress_dhcp(tx);
        self.egress_dns(tx);
        self.refresh_routers(tx);
        for _ in 0..self.dirty.len() {
            if !tx.has_room() {
                break;
            }
            let Some(index) = self.dirty.pop_front() else { break };
            let slot = self.slab.slot_mut(index);
            slot.dirty = false;
            if slot.phase == Phase::Free {
                continue;
            }
            match self.take_turn(index, tx) {
                Turn::Done { wake_at } => self.settle(index, wake_at, false),
                Turn::Armed => {}
                Turn::Unfinished => self.mark_dirty(index),
                Turn::AwaitsNeighbor { wake_at, asked } => {
                    self.await_neighbor(index, asked, tx);
                    self.settle(index, Some(wake_at), true);
                }
            }
        }
        self.stats.tx_frames = tx.pushed();
        self.stats.tx_cut = tx.cut_here();
        self.stats.tx_answers_lost = tx.lost();
    }

    /// Lets one connection send.
    fn take_turn<F: Frame>(&mut self, index: u32, tx: &mut TxQueue<F>) -> Turn {
        let now = self.stack_now;
        let slot = self.slab.slot_mut(index);
        let mac = self.nets.mac();
        // What any peer takes in one segment is not cut.
        let large =
            slot.large_segments && slot.socket().send_queue() > CUT_SEGMENT_BYTES_MIN && tx.has_large();
        slot.net = Nets::twin(slot.net, large);
        let net = self.nets.get(slot.net);
        if slot.large_segments && !large && tx.has_pending_large() && slot.socket().send_queue() > net.mtu() {
            // The large frames of this pass are used up: with the next one it gets more for its turn. When the device holds
            // on to all of them there is no waiting: devices may do so until other frames push those out.
            return Turn::Unfinished;
        }
        let segments_before = tx.segments();
        let mut reminded = false;
        for round in 0..SEGMENTS_PER_PASS {
            // Whoever gives it its turn has seen that the first segment has room.
            if round > 0 {
                // Counted as they leave the device, so that large ones give nobody more than its share.
                let segments = (tx.segments() - segments_before) as usize;
                let is_used_up = segments + net.segments_max > SEGMENTS_PER_PASS;
                if is_used_up || !tx.has_room() || large && !tx.has_large() {
                    return Turn::Unfinished;
                }
            }
            let frames_before = tx.pushed();
            let mut device =
                OneFrame { rx: None, tx: &mut *tx, caps: &net.caps, fills_in: net.fills_in, wanted: false };
            let sent =
                net.iface.poll_egress(now, &mut device, &mut slot.set) == PollResult::SocketStateChanged;
            let wanted = device.wanted;
            if sent && self.wheel.scheduled(index).is_some_and(|at| at <= self.now + self.least_wake) {
                // The common turn: one segment carried all there was, and whatever it started to wait for (a
                // retransmission, a keep-alive) comes after the timer's entry, which will look it up.
                let headers = if slot.key.is_ipv4() { IPV4_HEADERS_BYTES } else { IPV6_HEADERS_BYTES };
                let socket = slot.socket();
                let all_sent = tx.last_frame_bytes() == headers + socket.send_queue();
                if all_sent && slot.is_live() && socket.state() == State::Established {
                    return Turn::Armed;
                }
            }
            let wake_at = net.iface.poll_at(now, &slot.set);
            if slot.retransmission_is_forgotten(wake_at) {
                if core::mem::replace(&mut reminded, true) {
                    return Turn::Done { wake_at: Some(now + REMIND_INTERVAL) };
                }
                remind(net, slot, mac, now);
                continue;
            }
            let again = wake_at.filter(|&at| at <= now);
            if sent && again.is_some() {
                if slot.socket().state() == State::FinWait2 {
                    end_probes(net, slot, mac, now);
                }
                continue;
            }
            // It wanted to send, there was room, and no segment went out: the next hop is unknown, and smoltcp rests the
            // socket until it may ask for it again. Or it says "now" and does nothing: then it rests, too.
            if !sent && (wanted || again.is_some()) {
                let earliest = now + STALL_RETRY;
                let asked = tx.pushed() > frames_before;
                return Turn::AwaitsNeighbor { wake_at: wake_at.unwrap_or(earliest).max(earliest), asked };
            }
            return Turn::Done { wake_at };
        }
        Turn::Unfinished
    }

    /// After a turn: frees the slot when it is over and nobody owns it, else arms its timer. A last segment that
    /// waits for a neighbour gets [`LAST_WORDS`] to go out.
    fn settle(&mut self, index: u32, wake_at: Option<StackInstant>, waiting: bool) {
        let now = self.now;
        let slot = self.slab.slot_mut(index);
        let state = slot.socket().state();
        if slot.is_live() && state == State::Closed {
            // smoltcp closed it without a segment: the address went away, or its own TIME-WAIT is over.
            let cause = if self.nets.owns(slot.key.local().ip()) {
                CloseCause::Finished
            } else {
                CloseCause::AddressLost
            };
            self.close(index, cause);
            return;
        }
        let over = matches!(slot.phase, Phase::Closed(_)) || (slot.is_live() && state == State::TimeWait);
        if over && !slot.owned {
            if !waiting {
                self.remove(index);
                return;
            }
            slot.closing_deadline = slot.closing_deadline.min(now + LAST_WORDS);
        }
        self.arm(index, wake_at);
    }
}

/// Starts the retransmission that smoltcp forgot: shows it the peer's last acknowledgement as often as makes it send
/// the oldest segment again (RFC 5681 section 3.2). A probe on the wire would not do: smoltcp's carry a byte that is
/// not the stream's, and a peer that lacks the bytes before it would keep it.
fn remind(net: &mut Net, slot: &mut Slot, mac: [u8; 6], now: StackInstant) {
    // Duplicates may have been counted before; another window, if only for a moment, starts the count anew.
    let window = slot.window;
    let ack = slot.unacknowledged;
    acknowledge(net, slot, mac, now, ack, if window > 0 { window - 1 } else { 1 });
    for _ in 0..=DUPLICATE_ACKS {
        acknowledge(net, slot, mac, now, ack, window);
    }
}

/// Ends the probes of a window that closed before the peer acknowledged our FIN: smoltcp lets their timer stand although
/// nothing is left to send, and in FIN-WAIT-2 sends an acknowledgement whenever it is asked. Any open window stops it.
fn end_probes(net: &mut Net, slot: &mut Slot, mac: [u8; 6], now: StackInstant) {
    let after_fin = slot.unacknowledged.wrapping_add(1);
    acknowledge(net, slot, mac, now, after_fin, 1);
}

/// Shows smoltcp an acknowledgement from the peer of all before `ack`, with `window`, unscaled.
fn acknowledge(net: &mut Net, slot: &mut Slot, mac: [u8; 6], now: StackInstant, ack: u32, window: u16) {
    let ack = BareAck::new(&slot.key, mac, slot.expected_next(), ack, window);
    let mut device = Listener { rx: Some(ack.frame()), caps: &net.caps };
    net.iface.poll_ingress_single(now, &mut device, &mut slot.set);
}
