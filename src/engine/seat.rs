//! The places of workers among the others: who shares a device, and what all have in common.

use super::Handle;
use super::config::EngineConfig;
use super::exception::{Exit, Kernel};
use super::mailbox::{Crew, Wake};
use super::peers::Peers;
use super::steering::Links;
use super::worker::WorkerError;
use crate::port::Port;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use std::ops::Range;
use std::sync::Arc;

/// A worker's place among the others: its index, its group, its mailbox, its links, its secret.
pub struct Seat {
    pub(super) index: usize,
    pub(super) group: Range<usize>,
    pub(super) crew: Arc<Crew>,
    pub(super) peers: Arc<Peers>,
    pub(super) links: Links,
    pub(super) secret: [u8; 32],
    pub(super) exit: Option<Box<dyn Kernel>>,
}

impl Seat {
    /// The worker's index among all.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// The exception path of this place: a port at whose other end the kernel is. Frames for nobody go there, and what comes
    /// from there is sent out of the worker's port.
    #[must_use]
    pub fn with_exception_path<Q>(mut self, port: Q) -> Self
    where
        Q: Port<Frame: Send> + Send + 'static,
    {
        self.exit = Some(Box::new(Exit::new(port)));
        self
    }
}

/// Workers that own the queues of one device: they hand frames to each other, and one of them answers ARP for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupSize {
    /// How many.
    pub(super) workers: usize,
    /// The largest MTU of their ports, bytes.
    pub(super) mtu: usize,
}

/// The seats of as many workers as there are `wakers`, all of one group, and the handle that reaches them all. `mtu` is
/// the largest of their ports; `secret` must be random wherever peers are not to be trusted.
///
/// # Errors
/// When the configuration cannot work or there are no descriptors for the links between several workers.
pub fn seats(
    config: &EngineConfig,
    mtu: usize,
    secret: [u8; 32],
    wakers: Vec<Arc<dyn Wake>>,
) -> Result<(Handle, Vec<Seat>), WorkerError> {
    let group = GroupSize { workers: wakers.len(), mtu };
    seats_of_groups(config, &[group], secret, wakers)
}

/// The seats of several groups of workers, one group after the other; `wakers` has one for each worker of all of them.
/// Frames stay within a group; the handle, topics and the limits of a peer are for all.
pub(super) fn seats_of_groups(
    config: &EngineConfig,
    groups: &[GroupSize],
    secret: [u8; 32],
    wakers: Vec<Arc<dyn Wake>>,
) -> Result<(Handle, Vec<Seat>), WorkerError> {
    config.validate()?;
    let limits = &config.limits;
    let crew = Arc::new(Crew::new(
        limits.mailbox_commands_max,
        limits.mailbox_bytes_max,
        groups.iter().map(|size| size.workers),
        wakers,
    ));
    let mut rng = ChaCha20Rng::from_seed(secret);
    let mut peers_key = [0; 16];
    rng.fill_bytes(&mut peers_key);
    let peers = Arc::new(Peers::new(limits.connections_per_peer_max, peers_key));
    let mut seats = Vec::with_capacity(crew.workers());
    for (group, size) in crew.groups().iter().zip(groups) {
        for (index, links) in group.clone().zip(Links::new(size.workers, size.mtu)?) {
            let mut secret = [0; 32];
            rng.fill_bytes(&mut secret);
            let (group, crew, peers) = (group.clone(), crew.clone(), peers.clone());
            seats.push(Seat { index, group, crew, peers, links, secret, exit: None });
        }
    }
    Ok((Handle { crew }, seats))
}
