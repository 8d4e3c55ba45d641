//! What can go wrong when a stack is made or a connection opened.

use super::config::Cidr;
use super::rings::RingError;
use std::net::IpAddr;

/// Why a stack could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StackError {
    /// More addresses than smoltcp was built for.
    #[error("{given} addresses configured, at most {max} are possible (`ip`)")]
    TooManyAddresses {
        /// How many there are, the IPv6 link-local one included.
        given: usize,
        /// How many fit.
        max: usize,
    },
    /// More routes than smoltcp was built for.
    #[error("{given} routes configured, at most {max} are possible (`routes`)")]
    TooManyRoutes {
        /// How many there are.
        given: usize,
        /// How many fit.
        max: usize,
    },
    /// An address that cannot be a host's own.
    #[error("{addr} cannot be a host's own address (`ip`): it is unspecified, broadcast or multicast")]
    Address {
        /// The address.
        addr: IpAddr,
    },
    /// An IPv4 address or default route beside DHCP, which manages both.
    #[error("{addr} beside DHCP (`dhcp`): the lease brings the IPv4 address and the default router")]
    BesideDhcp {
        /// The address or the router.
        addr: IpAddr,
    },
    /// A route whose router is of the other family.
    #[error("the route to {to} via {via} mixes IPv4 and IPv6 (`routes`)")]
    RouteFamilies {
        /// The destinations.
        to: Cidr,
        /// The router.
        via: IpAddr,
    },
    /// An MTU outside 576..=9000.
    #[error("an MTU of {mtu} bytes is outside 576..=9000 (`mtu`)")]
    Mtu {
        /// The MTU, bytes.
        mtu: usize,
    },
    /// IPv6 on a link that is too narrow for it.
    #[error("IPv6 needs an MTU of 1280 bytes or more (RFC 8200 section 5), not {mtu} (`mtu`)")]
    Ipv6Mtu {
        /// The MTU, bytes.
        mtu: usize,
    },
    /// No address for ring memory.
    #[error(transparent)]
    Rings(#[from] RingError),
}

/// Why a connection could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// All connection slots are in use (`limits.connections_max`).
    #[error("all connection slots are in use (`limits.connections_max`)")]
    Full,
    /// Every ephemeral port towards that address is in use.
    #[error("no local port is free towards that address")]
    NoPort,
    /// No local address of the remote's family, or no route; or the address to come from is not ours.
    #[error("no local address or route for that destination")]
    NoRoute,
}
