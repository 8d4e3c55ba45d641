use super::key::FlowKey;
use crate::time::Instant;
pub(crate) struct SequenceNumbers;
impl SequenceNumbers {
    pub(crate) fn new(_s: &[u8; 32]) -> Self {
        Self
    }
    pub(crate) fn generate(&self, _f: &FlowKey, now: Instant, floor: Option<u32>) -> u32 {
        (now.as_micros() / 4) as u32 + floor.unwrap_or(0)
    }
}
pub(crate) fn pcg_seed_for(_w: u32) -> u64 {
    1
}
