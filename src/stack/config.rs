//! What a stack is configured with. Limits have their unit in the name.

use super::share::Share;
use crate::time::Duration;
use std::net::IpAddr;

/// An address with its prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    /// The address.
    pub addr: IpAddr,
    /// Prefix length in bits.
    pub prefix: u8,
}

impl Cidr {
    /// Whether an address lies in the network.
    pub fn contains(&self, addr: IpAddr) -> bool {
        // An array of the address's bits from the highest, so that both families are compared alike.
        let bits = |addr: IpAddr| match addr {
            IpAddr::V4(addr) => (u128::from(addr.to_bits()) << 96, 32),
            IpAddr::V6(addr) => (addr.to_bits(), 128),
        };
        let ((ours, length), (theirs, their_length)) = (bits(self.addr), bits(addr));
        let differing = (ours ^ theirs).leading_zeros();
        length == their_length && differing >= u32::from(self.prefix)
    }
}

impl core::str::FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted =
            || format!("`{text}` is not an address with a prefix length, like 10.73.0.2/24 or fd73::2/64");
        let (addr, prefix) = text.split_once('/').ok_or_else(wanted)?;
        let addr: IpAddr = addr.parse().map_err(|_| wanted())?;
        let prefix: u8 = prefix.parse().map_err(|_| wanted())?;
        let bits = if addr.is_ipv4() { 32 } else { 128 };
        if prefix > bits {
            return Err(format!("`{text}`: the prefix length is over {bits}"));
        }
        Ok(Cidr { addr, prefix })
    }
}

impl core::fmt::Display for Cidr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

/// A static route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destinations; a prefix of 0 is the default route.
    pub to: Cidr,
    /// The router, on one of our own networks.
    pub via: IpAddr,
}

/// Which congestion control the connections use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CongestionControl {
    /// RFC 9438.
    #[default]
    Cubic,
    /// None at all: for a dedicated LAN or shared memory only.
    None,
}

/// TCP settings, for every connection of the stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpConfig {
    /// Receive ring of one connection, bytes: the largest window it can offer.
    pub recv_buffer_bytes: usize,
    /// Send ring of one connection, bytes: how much may be unacknowledged.
    pub send_buffer_bytes: usize,
    /// Congestion control.
    pub congestion: CongestionControl,
    /// Least retransmission timeout; sets the speed of the stack clock.
    pub min_rto: Duration,
    /// How long an acknowledgement may wait for data to ride on.
    pub ack_delay: Duration,
    /// Interval of TCP keep-alive probes; `None` for no probes.
    pub keep_alive: Option<Duration>,
    /// Give up when the peer has acknowledged nothing for this long (RFC 5482).
    pub user_timeout: Duration,
    /// How long a half-open connection may take to complete its handshake.
    pub syn_timeout: Duration,
    /// How long a released connection waits for the peer's FIN.
    pub fin_wait2_timeout: Duration,
    /// How long a closed 4-tuple is remembered (RFC 9293 says 2 MSL).
    pub time_wait: Duration,
    /// Most TIME-WAIT records; the oldest make room.
    pub time_wait_max: usize,
    /// Most half-open connections; the oldest make room.
    pub half_open_max: usize,
    /// Most connections, half-open and closing ones included.
    pub connections_max: usize,
    /// Most RSTs a second in answer to segments of no flow, and most acknowledgements to those of flows in TIME-WAIT.
    pub rst_per_second_max: u32,
}

impl Default for TcpConfig {
    fn default() -> Self {
        TcpConfig {
            recv_buffer_bytes: 65_535,
            send_buffer_bytes: 65_536,
            congestion: CongestionControl::Cubic,
            min_rto: Duration::from_millis(200),
            ack_delay: Duration::from_millis(10),
            keep_alive: None,
            user_timeout: Duration::from_secs(60),
            syn_timeout: Duration::from_secs(10),
            fin_wait2_timeout: Duration::from_secs(20),
            time_wait: Duration::from_secs(60),
            time_wait_max: 65_536,
            half_open_max: 4_096,
            connections_max: 65_536,
            rst_per_second_max: 1_000,
        }
    }
}

impl TcpConfig {
    /// The receive ring that is used for [`TcpConfig::recv_buffer_bytes`]: itself up to 65,535, above that the
    /// largest 2^n - 1 that is not over it.
    ///
    /// smoltcp 0.14 remembers the window of its SYN-ACK unscaled and later shifts it, so it accepts
    /// `65535 << shift` bytes at first. Only rings of 2^n - 1 hold them; any other size lets a peer that fills the
    /// window run into an assertion of smoltcp's.
    pub fn recv_ring_bytes(&self) -> usize {
        match self.recv_buffer_bytes {
            bytes @ 0..=65_535 => bytes,
            // RFC 7323 section 2.3 ends window scaling at a shift of 14.
            bytes => (1 << (bytes + 1).ilog2().min(30)) - 1,
        }
    }
}

/// Everything a stack is configured with.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct StackConfig {
    /// Our addresses; an IPv6 link-local one is added when there is any IPv6 address.
    pub addrs: Vec<Cidr>,
    /// Default and static routes.
    pub routes: Vec<Route>,
    /// Get an IPv4 address, router and their lease by DHCP.
    pub dhcp: bool,
    /// DNS servers, of which the first [`DNS_SERVERS_MAX`](super::DNS_SERVERS_MAX) are asked; without any those of the DHCP
    /// lease.
    pub dns: Vec<IpAddr>,
    /// Clamp the MTU below the port's, bytes; 576..=9000.
    pub mtu: Option<usize>,
    /// Frames for nobody have somewhere to go: see [`Onward::Kernel`](super::Onward::Kernel).
    pub has_exception_path: bool,
    /// This worker's share of the flows, where there are several workers; `None` when all are its own.
    pub share: Option<Share>,
    /// TCP settings.
    pub tcp: TcpConfig,
}
