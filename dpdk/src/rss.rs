//! Receive-side scaling: which hash of which headers chooses the RX queue.

use crate::sys;
use std::fmt;

/// The headers that RSS hashes, as a set.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct RssFunctions(u64);

impl RssFunctions {
    /// None: no RSS.
    pub const NONE: Self = Self(0);
    /// Source and destination of IPv4 packets.
    pub const IPV4: Self = Self(sys::SHIM_RSS_IPV4);
    /// Addresses and ports of TCP over IPv4.
    pub const IPV4_TCP: Self = Self(sys::SHIM_RSS_IPV4_TCP);
    /// Addresses and ports of UDP over IPv4.
    pub const IPV4_UDP: Self = Self(sys::SHIM_RSS_IPV4_UDP);
    /// Source and destination of IPv6 packets.
    pub const IPV6: Self = Self(sys::SHIM_RSS_IPV6);
    /// Addresses and ports of TCP over IPv6.
    pub const IPV6_TCP: Self = Self(sys::SHIM_RSS_IPV6_TCP);
    /// Addresses and ports of UDP over IPv6.
    pub const IPV6_UDP: Self = Self(sys::SHIM_RSS_IPV6_UDP);

    const NAMES: [(Self, &'static str); 6] = [
        (Self::IPV4, "ipv4"),
        (Self::IPV4_TCP, "ipv4-tcp"),
        (Self::IPV4_UDP, "ipv4-udp"),
        (Self::IPV6, "ipv6"),
        (Self::IPV6_TCP, "ipv6-tcp"),
        (Self::IPV6_UDP, "ipv6-udp"),
    ];

    /// Those in either.
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those in both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// True when there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// TCP over IPv4 and IPv6.
    pub const fn tcp() -> Self {
        Self::IPV4_TCP.or(Self::IPV6_TCP)
    }

    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }
}

impl fmt::Display for RssFunctions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> =
            Self::NAMES.iter().filter(|(one, _)| !self.and(*one).is_empty()).map(|(_, name)| *name).collect();
        let known = Self::NAMES.iter().fold(0, |bits, (one, _)| bits | one.0);
        match (names.as_slice(), self.0 & !known) {
            ([], 0) => f.write_str("none"),
            ([], others) => write!(f, "{others:#x}"),
            (names, 0) => f.write_str(&names.join(" ")),
            (names, others) => write!(f, "{} {others:#x}", names.join(" ")),
        }
    }
}

impl fmt::Debug for RssFunctions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How to spread flows over RX queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RssConfig {
    /// What to hash; of it the port gets what it offers.
    pub functions: RssFunctions,
    /// The Toeplitz key, as long as the port's key; `None`: the driver's own.
    pub key: Option<Vec<u8>>,
}

/// A key of that many bytes under which both directions of a flow hash alike: its bits repeat every 16, the width of the
/// smallest field that source and destination swap.
pub fn symmetric_key(bytes: usize) -> Vec<u8> {
    [0x6d, 0x5a].into_iter().cycle().take(bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_symmetric_key_repeats_every_16_bits() {
        assert_eq!(symmetric_key(5), [0x6d, 0x5a, 0x6d, 0x5a, 0x6d]);
        assert_eq!(symmetric_key(52).len(), 52);
    }

    #[test]
    fn sets_of_functions_show_their_names() {
        assert_eq!(RssFunctions::tcp().to_string(), "ipv4-tcp ipv6-tcp");
        assert_eq!(RssFunctions::NONE.to_string(), "none");
        assert_eq!(
            RssFunctions::from_bits(1 << 40 | RssFunctions::IPV4.bits()).to_string(),
            "ipv4 0x10000000000"
        );
        assert!(RssFunctions::tcp().and(RssFunctions::IPV4).is_empty());
    }
}
