//! Whose connection it is: a peer's own, or a proxy's that says for whom it speaks; and whether that one may have
//! another.

use super::handler::Handler;
use super::rates::Terms;
use super::session::{Inbound, Phase};
use super::worker::Worker;
use crate::http::{PROXY_HEADER_BYTES_MAX, parse_proxy_header};
use crate::port::Port;
use crate::stack::ConnId;
use std::net::IpAddr;

impl<P: Port, H: Handler> Worker<P, H> {
    /// Whether a connection comes from a proxy that is listed.
    pub(super) fn is_from_a_proxy(&self, id: ConnId) -> bool {
        let is_a_proxy = |ip| self.proxies.iter().any(|network| network.contains(ip));
        !self.proxies.is_empty() && self.stack.peer(id).is_some_and(|peer| is_a_proxy(peer.ip()))
    }

    /// Counts a connection among its peer's; one too many is reset.
    pub(super) fn count_peer(&mut self, id: ConnId) {
        let Some(peer) = self.peer_of(id) else { return };
        if !self.local.peers.enter(peer) {
            self.local.stats.refused_peer += 1;
            self.reset(id);
        } else if let Some(session) = self.local.session(id) {
            session.counted = true;
        }
    }

    /// A connection is over.
    pub(super) fn uncount_peer(&mut self, id: ConnId) {
        let counted = self.local.session(id).is_some_and(|session| std::mem::take(&mut session.counted));
        if counted && let Some(peer) = self.peer_of(id) {
            self.local.peers.leave(peer);
        }
    }

    /// What the proxy says before the client's own bytes; returns how many bytes that was.
    pub(super) fn read_proxy(&mut self, id: ConnId) -> usize {
        let Worker { stack, inbound, .. } = self;
        let Some(Inbound::Proxy(buffer)) = inbound.get_mut(id.index as usize) else { return 0 };
        let before = buffer.len();
        let read = stack.with_received(id, |bytes, _| {
            let room = PROXY_HEADER_BYTES_MAX.saturating_sub(before).min(bytes.len());
            buffer.extend_from_slice(&bytes[..room]);
            let parsed = parse_proxy_header(buffer);
            let used = match &parsed {
                Ok(Some(header)) => header.bytes.saturating_sub(before),
                Ok(None) | Err(_) => room,
            };
            (used, (used, parsed.map(|header| header.map(|header| header.client))))
        });
        match read {
            None | Some((_, Ok(None))) => {}
            Some((_, Ok(Some(client)))) => {
                let now = self.local.now;
                if let Some(session) = self.local.session(id) {
                    session.terms = client.map(|client| Box::new(Terms::new(now, Some(client))));
                }
                self.inbound[id.index as usize] = Inbound::AWAITS_HEAD;
                self.count_peer(id);
            }
            Some((_, Err(_))) => {
                self.local.stats.refused_proxy += 1;
                self.reset(id);
            }
        }
        read.map_or(0, |(used, _)| used)
    }

    fn peer_of(&self, id: ConnId) -> Option<IpAddr> {
        let told = self.local.told_peer(id.index);
        told.or_else(|| self.stack.peer(id)).map(|peer| peer.ip())
    }

    fn reset(&mut self, id: ConnId) {
        debug_assert_eq!(self.phase(id), Some(Phase::Head), "nobody knows of it yet");
        self.stack.abort(id);
        self.remove(id);
    }
}
