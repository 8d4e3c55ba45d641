use crate::time::Instant;
pub(crate) struct TokenBucket(u32);
impl TokenBucket {
    pub(crate) fn new(r: u32, _n: Instant) -> Self {
        Self(r)
    }
    pub(crate) fn take(&mut self, _n: Instant) -> bool {
        if self.0 == 0 {
            false
        } else {
            self.0 -= 1;
            true
        }
    }
}
