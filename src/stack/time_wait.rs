use super::classify::TcpInfo;
use super::key::FlowKey;
use crate::time::*;
pub(crate) enum Verdict {
    Acknowledge(Ack),
    Drop,
    Reuse { isn_floor: u32 },
}
pub(crate) struct Ack;
impl Ack {
    pub(crate) fn frame_bytes(&self, _f: &[u8]) -> usize {
        60
    }
    pub(crate) fn emit(&self, _f: &[u8], _o: &mut [u8]) {}
}
pub(crate) struct TimeWait;
impl TimeWait {
    pub(crate) fn new(_m: usize, _d: Duration) -> Self {
        Self
    }
    pub(crate) fn insert(&mut self, _n: Instant, _f: FlowKey, _a: u32, _b: u32) {}
    pub(crate) fn remove(&mut self, _f: &FlowKey) {}
    pub(crate) fn contains(&self, _f: &FlowKey) -> bool {
        false
    }
    pub(crate) fn len(&self) -> usize {
        0
    }
    pub(crate) fn on_segment(&mut self, _n: Instant, _s: &TcpInfo) -> Option<Verdict> {
        None
    }
}
