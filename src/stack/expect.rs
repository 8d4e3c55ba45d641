//! Fetching what a burst needs before it needs it.
//!
//! What a segment touches lies in places far apart, each found in the one before: the flow table, the connection's slot,
//! its socket, its rings. With thousands of connections each of them is a wait for memory, and the waits of a segment
//! follow one another. So the flows of a burst are looked up first, and what they name is fetched for all of them at once.

use super::Stack;
use super::classify::likely_flow;
use super::rings::prefetch;

/// With fewer connections all that they need lies in the caches.
const FLOWS_MIN: usize = 512;

impl Stack {
    /// These frames will be fed next. Nothing but time depends on it.
    pub fn expect<'a>(&mut self, burst: impl Iterator<Item = &'a [u8]>) {
        self.expected.clear();
        if self.flows.len() < FLOWS_MIN {
            return;
        }
        for key in burst.filter_map(likely_flow) {
            if let Some(index) = self.flows.get(&key) {
                prefetch(self.slab.slot(index));
                self.expected.push(index);
            }
        }
        for &index in &self.expected {
            let slot = self.slab.slot_mut(index);
            // Of a queue that is empty, where the next byte goes.
            if let Ok(queue) = slot.socket_mut().peek(1) {
                prefetch(queue.as_ptr());
            }
            if let Some(rings) = &slot.rings {
                // smoltcp begins anew at the start of a send ring that is empty.
                prefetch(self.rings.send_start(rings));
            }
        }
    }

    /// The connections that the last [`Stack::expect`] found, by [`ConnId::index`](super::ConnId::index): the owner may want to fetch
    /// what it keeps of them.
    pub fn expected(&self) -> &[u32] {
        &self.expected
    }
}
