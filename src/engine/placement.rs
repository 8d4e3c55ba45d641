//! Whether the device puts flows on the queues of the workers that own them: the first flows show it.

/// New flows after which a device that made no mistake is believed.
const FLOWS_CHECKED: u32 = 16;

/// What the first flows have shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// So many came, all of them to the workers that own them.
    Confirmed { flows: u32 },
    /// One came to a worker that does not own it. Frames are handed over, which works and costs time.
    Misplaced(Cause),
}

/// Why a flow came to a worker that does not own it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The device does not say how it chooses queues, so the workers share flows by a hash of their own.
    NoRule,
    /// The device hashes otherwise than it was told: by another key, or other headers.
    OtherHash,
    /// The device chooses another queue than its redirection table says for the hash.
    OtherQueue,
}

/// One worker's check.
#[derive(Debug)]
pub(super) struct Placement {
    has_rule: bool,
    right: u32,
    is_over: bool,
    found: Option<Finding>,
}

impl Placement {
    /// `has_rule`: the device says how it chooses queues. With one worker there is nothing to check.
    pub(super) fn new(workers: usize, has_rule: bool) -> Self {
        Placement { has_rule, right: 0, is_over: workers <= 1, found: None }
    }

    /// Whether flows are still looked at.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// A flow began on the worker that owns it, with a frame that the device gave to it.
    pub(super) fn right(&mut self) {
        self.right += 1;
        if self.right == FLOWS_CHECKED {
            self.settle(Finding::Confirmed { flows: FLOWS_CHECKED });
        }
    }

    /// The device gave a flow's frame to a worker that does not own it: the hash it should have had, and the one it was told
    /// to have.
    pub(super) fn wrong(&mut self, expected_hash: Option<u32>, told_hash: Option<u32>) {
        let cause = match (self.has_rule, expected_hash, told_hash) {
            (false, ..) => Cause::NoRule,
            (true, Some(expected), Some(told)) if expected == told => Cause::OtherQueue,
            (true, ..) => Cause::OtherHash,
        };
        self.settle(Finding::Misplaced(cause));
    }

    /// What was found, once.
    pub(super) fn take_found(&mut self) -> Option<Finding> {
        self.found.take()
    }

    fn settle(&mut self, found: Finding) {
        self.is_over = true;
        self.found = Some(found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_that_come_where_they_belong_confirm_the_device() {
        let mut placement = Placement::new(2, true);
        for _ in 1..FLOWS_CHECKED {
            placement.right();
            assert_eq!(placement.take_found(), None);
        }
        placement.right();
        assert!(placement.is_over());
        assert_eq!(placement.take_found(), Some(Finding::Confirmed { flows: FLOWS_CHECKED }));
        assert_eq!(placement.take_found(), None, "told once");
    }

    #[test]
    fn a_flow_at_the_wrong_worker_has_a_cause() {
        for (has_rule, expected, told, cause) in [
            (false, None, None, Cause::NoRule),
            (false, None, Some(7), Cause::NoRule),
            (true, Some(7), Some(8), Cause::OtherHash),
            (true, Some(7), None, Cause::OtherHash),
            (true, None, Some(7), Cause::OtherHash),
            (true, Some(7), Some(7), Cause::OtherQueue),
        ] {
            let mut placement = Placement::new(2, has_rule);
            placement.wrong(expected, told);
            assert!(placement.is_over());
            assert_eq!(placement.take_found(), Some(Finding::Misplaced(cause)), "{expected:?} {told:?}");
        }
    }

    #[test]
    fn one_worker_has_nothing_to_check() {
        assert!(Placement::new(1, true).is_over());
    }
}
