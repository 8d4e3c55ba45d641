use super::key::FlowKey;
use crate::time::Instant;
use std::net::*;
pub(crate) struct EphemeralPorts(u16);
impl EphemeralPorts {
    pub(crate) fn new(_s: &[u8; 32], _sh: Option<(u32, u32)>) -> Self {
        Self(49152)
    }
    pub(crate) fn choose(
        &mut self,
        s: IpAddr,
        r: SocketAddr,
        _n: Instant,
        used: impl Fn(&FlowKey) -> bool,
    ) -> Option<FlowKey> {
        self.0 += 1;
        let k = FlowKey::new(SocketAddr::new(s, self.0), r);
        if used(&k) { None } else { Some(k) }
    }
}
