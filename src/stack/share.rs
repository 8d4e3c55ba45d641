//! Which of the workers of one host owns a flow.

use super::key::{FlowKey, symmetric_hash};
use crate::port::spread::Rss;
use std::sync::Arc;

/// One worker's share of a host's flows. All workers of the host must be given the same rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The worker, from 0.
    pub worker: u32,
    /// How many there are; at least 1.
    pub workers: u32,
    /// The owner is whose queue the device chooses, modulo `workers`; `None`: the flow hash modulo `workers` says who it is.
    pub rss: Option<Arc<Rss>>,
}

impl Share {
    /// The worker that owns a flow.
    pub(crate) fn owner(&self, flow: &FlowKey) -> u32 {
        let chosen = match &self.rss {
            None => symmetric_hash(flow),
            Some(rss) => rss.queue(flow.remote(), flow.local()).into(),
        };
        chosen % self.workers.max(1)
    }

    /// Whether it is this worker.
    pub(crate) fn owns(&self, flow: &FlowKey) -> bool {
        self.owner(flow) == self.worker
    }
}

#[cfg(test)]
mod tests {
    use super::super::frames::{ours_v4, ours_v6, peer_v4, peer_v6};
    use super::*;
    use crate::port::spread::Hashed;

    #[test]
    fn every_flow_has_one_owner_under_either_rule() {
        let table = (0..64).map(|at| at % 3).collect();
        let rss = Rss::new([0x6d, 0x5a].repeat(20), table, Hashed::AddressesAndPorts, Hashed::Addresses);
        for rss in [None, rss.map(Arc::new)] {
            for flow in [FlowKey::new(ours_v4(), peer_v4()), FlowKey::new(ours_v6(), peer_v6())] {
                let owners =
                    (0..3).filter(|&worker| Share { worker, workers: 3, rss: rss.clone() }.owns(&flow));
                assert_eq!(owners.count(), 1);
            }
        }
    }

    #[test]
    fn a_queue_without_a_worker_of_its_own_has_one_of_the_others() {
        let rss = Rss::new(Vec::new(), vec![5], Hashed::Nothing, Hashed::Nothing).map(Arc::new);
        let share = Share { worker: 0, workers: 2, rss };
        assert_eq!(share.owner(&FlowKey::new(ours_v4(), peer_v4())), 1);
    }
}
