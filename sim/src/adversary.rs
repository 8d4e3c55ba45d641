//! Hosts that keep no rule: they craft segments by hand.

use crate::host::Host;
use crate::scenario::Scenario;
use unsocket::time::Instant;

pub(crate) struct Adversaries {
    pub(crate) connections: u64,
}

impl Adversaries {
    pub(crate) fn new(_scenario: &Scenario, _hosts: &[Host]) -> Self {
        Adversaries { connections: 0 }
    }

    pub(crate) fn are_done(&self) -> bool {
        true
    }

    pub(crate) fn receive(&mut self, _now: Instant, _frame: &[u8]) -> Vec<Vec<u8>> {
        Vec::new()
    }

    pub(crate) fn act(&mut self, _index: usize, _now: Instant) -> (Vec<Vec<u8>>, Option<Instant>) {
        (Vec::new(), None)
    }
}
