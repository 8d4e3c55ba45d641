//! Names to addresses: a stub resolver, RFC 1035, for clients.
//!
//! smoltcp asks, one socket a server; it has an interface of its own that runs on real time, as DHCP has, and touches no
//! connection. A name is asked for both families that we have addresses of, at one server after the other.
//!
//! An answer counts when it comes from the server that was asked, to the port and with the number that the question had, both
//! of which are keyed random. What it holds has a bound; a name gives at most [`ADDRS_PER_NAME_MAX`] addresses.

use super::classify::udp_source;
use super::device::{Listener, OneFrame, TxQueue};
use super::dhcp::{RETRY, next_try, real};
use super::net::Nets;
use super::secret::derive_key;
use super::{Lease, Stack};
use crate::port::{ETHERNET_HEADER_BYTES, Frame};
use crate::time::{Duration, Instant};
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, DeviceCapabilities, Medium};
use smoltcp::socket::dns::{GetQueryResultError, QueryHandle, Socket, StartQueryError};
use smoltcp::wire::{DnsQueryType, EthernetAddress, HardwareAddress};
use std::collections::VecDeque;
use std::net::IpAddr;

/// Most servers that are asked.
pub const DNS_SERVERS_MAX: usize = 4;
/// Names that are looked up at once; each of them is two questions.
pub const LOOKUPS_MAX: usize = 32;
/// Most addresses that one name gives: so many of each family.
pub const ADDRS_PER_NAME_MAX: usize = 2 * 8;
/// How long a name may take, over all servers.
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one server is waited for, before the next one is asked. Within it smoltcp asks at once, and again after a second.
const SERVER_TIMEOUT: Duration = Duration::from_millis(2_500);

/// Why a name has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LookupError {
    /// There is nobody to ask.
    #[error(
        "no DNS server is known: give one (`--dns`, or `dns` in `[port]`), or the address instead of the name"
    )]
    NoServer,
    /// DNS has no such names (RFC 1035 section 2.3.1: labels of 1 to 63 bytes, 253 in all).
    #[error("it is no name that DNS can have")]
    Name,
    /// The servers say that there is no such name, or none of our addresses' families.
    #[error("the DNS servers know no address for it, of the families of our own addresses")]
    NoAddress,
    /// No server answered.
    #[error("no DNS server answered in time: is the server's address right, and is there a route to it?")]
    TimedOut,
    /// [`LOOKUPS_MAX`] names are being looked up: ask again when one is done.
    #[error("too many names are being looked up")]
    Busy,
}

/// The resolver of one stack.
pub(super) struct Resolver {
    iface: Interface,
    caps: DeviceCapabilities,
    set: SocketSet<'static>,
    /// Configured; those of a lease count when there are none.
    configured: Vec<IpAddr>,
    /// Those that are asked.
    servers: Vec<IpAddr>,
    /// A socket for each server, in their order.
    sockets: Vec<SocketHandle>,
    lookups: Vec<Lookup>,
    done: VecDeque<(String, Result<Vec<IpAddr>, LookupError>)>,
    /// When there is next something to do; `None` while no name is looked up.
    next_at: Option<Instant>,
    /// When it was last let send: frames that come meanwhile do not put off what is due.
    tried_at: Instant,
}

/// A name that is looked up.
struct Lookup {
    name: String,
    /// Which server is asked now.
    server: usize,
    /// Until when.
    server_until: Instant,
    until: Instant,
    questions: Vec<QueryHandle>,
    found: Vec<IpAddr>,
    /// Some server has answered.
    answered: bool,
}

impl Resolver {
    pub(super) fn new(servers: &[IpAddr], nets: &Nets, mtu: usize, secret: &[u8; 32], now: Instant) -> Self {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        caps.max_transmission_unit = mtu + ETHERNET_HEADER_BYTES;
        // Received ones are verified (or believed) and counted before smoltcp sees the frame.
        caps.checksum.udp = Checksum::Tx;
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(nets.mac())));
        let key = derive_key(secret, "dns");
        config.random_seed =
            u64::from_le_bytes([key[0], key[1], key[2], key[3], key[4], key[5], key[6], key[7]]);
        let iface = Interface::new(config, &mut Listener { rx: None, caps: &caps }, real(now));
        let mut resolver = Resolver {
            iface,
            caps,
            set: SocketSet::new(Vec::new()),
            configured: servers.to_vec(),
            servers: Vec::new(),
            sockets: Vec::new(),
            lookups: Vec::new(),
            done: VecDeque::new(),
            next_at: None,
            tried_at: Instant::ZERO,
        };
        resolver.configure(nets, None);
        resolver
    }

    /// Takes over our addresses, routes and servers. What is being looked up begins anew.
    fn configure(&mut self, nets: &Nets, lease: Option<&Lease>) {
        nets.configure(&mut self.iface);
        for handle in self.sockets.drain(..) {
            self.set.remove(handle);
        }
        let leased = || lease.into_iter().flat_map(|lease| lease.dns.into_iter().flatten()).map(IpAddr::V4);
        self.servers = if self.configured.is_empty() { leased().collect() } else { self.configured.clone() };
        self.servers.truncate(DNS_SERVERS_MAX);
        for server in &self.servers {
            self.sockets.push(self.set.add(Socket::new(&[(*server).into()], Vec::new())));
        }
        let Resolver { iface, set, sockets, lookups, done, .. } = self;
        lookups.retain_mut(|lookup| {
            lookup.questions.clear();
            lookup.server = 0;
            let asked = lookup.ask(iface, set, sockets);
            if let Err(error) = asked {
                done.push_back((std::mem::take(&mut lookup.name), Err(error)));
            }
            asked.is_ok()
        });
    }

    fn start(&mut self, name: &str, now: Instant) -> Result<(), LookupError> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if !is_dns_name(&name) {
            return Err(LookupError::Name);
        }
        if self.sockets.is_empty() {
            return Err(LookupError::NoServer);
        }
        if self.lookups.iter().any(|lookup| lookup.name == name) {
            return Ok(());
        }
        if self.lookups.len() >= LOOKUPS_MAX {
            return Err(LookupError::Busy);
        }
        let (questions, found) = (Vec::new(), Vec::new());
        let mut lookup = Lookup {
            name,
            server: 0,
            server_until: now + SERVER_TIMEOUT,
            until: now + LOOKUP_TIMEOUT,
            questions,
            found,
            answered: false,
        };
        lookup.ask(&mut self.iface, &mut self.set, &self.sockets)?;
        self.lookups.push(lookup);
        self.next_at = Some(now);
        Ok(())
    }

    /// Looks at every question: what was answered, and who is asked next.
    fn advance(&mut self, now: Instant) {
        let Resolver { iface, set, sockets, done, .. } = self;
        self.lookups.retain_mut(|lookup| {
            let waits = lookup.hear(set, sockets);
            let server_is_over = !waits || now >= lookup.server_until;
            let has_found = server_is_over && !lookup.found.is_empty();
            let nobody_knows = !waits && lookup.server + 1 >= sockets.len();
            if has_found || nobody_knows || now >= lookup.until {
                lookup.forget_questions(set, sockets);
                // IPv6 first, as it is preferred (RFC 6724 section 2.1); else in the server's order.
                let mut found = std::mem::take(&mut lookup.found);
                found.sort_by_key(IpAddr::is_ipv4);
                let result = match (found.is_empty(), lookup.answered) {
                    (false, _) => Ok(found),
                    (true, true) => Err(LookupError::NoAddress),
                    (true, false) => Err(LookupError::TimedOut),
                };
                done.push_back((std::mem::take(&mut lookup.name), result));
                return false;
            }
            if server_is_over {
                lookup.forget_questions(set, sockets);
                lookup.server = (lookup.server + 1) % sockets.len().max(1);
                lookup.server_until = now + SERVER_TIMEOUT;
                if lookup.ask(iface, set, sockets).is_err() {
                    done.push_back((std::mem::take(&mut lookup.name), Err(LookupError::NoServer)));
                    return false;
                }
            }
            true
        });
    }

    /// Looks up when there is next something to do.
    fn rest(&mut self, now: Instant) {
        let deadlines = self.lookups.iter().map(|lookup| lookup.server_until.min(lookup.until));
        self.next_at = deadlines.min().map(|deadline| {
            let at = self.iface.poll_at(real(now), &self.set);
            next_try(at, self.tried_at).min(deadline.max(self.tried_at + RETRY))
        });
    }

    fn learn(&mut self, frame: &[u8], now: Instant) {
        let mut device = Listener { rx: Some(frame), caps: &self.caps };
        self.iface.poll_ingress_single(real(now), &mut device, &mut self.set);
        if !self.lookups.is_empty() {
            self.advance(now);
            self.rest(now);
        }
    }
}

impl Lookup {
    /// Asks the server whose turn it is, for both families.
    fn ask(
        &mut self,
        iface: &mut Interface,
        set: &mut SocketSet<'static>,
        sockets: &[SocketHandle],
    ) -> Result<(), LookupError> {
        let handle = *sockets.get(self.server).ok_or(LookupError::NoServer)?;
        let has = |ipv4: bool| {
            iface.ip_addrs().iter().any(|cidr| match IpAddr::from(cidr.address()) {
                IpAddr::V4(_) => ipv4,
                IpAddr::V6(addr) => !ipv4 && !addr.is_unicast_link_local(),
            })
        };
        let kinds = [(has(true), DnsQueryType::A), (has(false), DnsQueryType::Aaaa)];
        for (_, kind) in kinds.into_iter().filter(|(has, _)| *has) {
            let asked = set.get_mut::<Socket<'_>>(handle).start_query(iface.context(), &self.name, kind);
            match asked {
                Ok(question) => self.questions.push(question),
                Err(StartQueryError::InvalidName | StartQueryError::NameTooLong) => {
                    return Err(LookupError::Name);
                }
                Err(StartQueryError::NoFreeSlot) => return Err(LookupError::Busy),
            }
        }
        Ok(())
    }

    /// Takes what was answered; returns whether the server still has to answer a question.
    fn hear(&mut self, set: &mut SocketSet<'static>, sockets: &[SocketHandle]) -> bool {
        let Some(&handle) = sockets.get(self.server) else { return false };
        let socket = set.get_mut::<Socket<'_>>(handle);
        let (found, answered) = (&mut self.found, &mut self.answered);
        self.questions.retain(|question| match socket.get_query_result(*question) {
            Err(GetQueryResultError::Pending) => true,
            Err(GetQueryResultError::Failed) => {
                *answered = true;
                false
            }
            Ok(addrs) => {
                *answered = true;
                found.extend(addrs.into_iter().map(IpAddr::from));
                false
            }
        });
        !self.questions.is_empty()
    }

    fn forget_questions(&mut self, set: &mut SocketSet<'static>, sockets: &[SocketHandle]) {
        let Some(&handle) = sockets.get(self.server) else { return };
        let socket = set.get_mut::<Socket<'_>>(handle);
        for question in self.questions.drain(..) {
            socket.cancel_query(question);
        }
    }
}

impl Stack {
    /// Begins to look a name up; [`Stack::next_lookup`] will say what came of it. A name that is being looked up already is not
    /// asked for twice.
    ///
    /// # Errors
    /// See [`LookupError`].
    pub fn look_up(&mut self, name: &str) -> Result<(), LookupError> {
        let now = self.now;
        self.resolver.as_mut().ok_or(LookupError::NoServer)?.start(name, now)
    }

    /// A name, in lower case, that was looked up, and its addresses: at least one, those of IPv6 first.
    pub fn next_lookup(&mut self) -> Option<(String, Result<Vec<IpAddr>, LookupError>)> {
        self.resolver.as_mut()?.done.pop_front()
    }

    /// Whether a frame comes from a server that may be asked for names, so that it may be an answer for one of the workers.
    pub(super) fn asks_server_of(&self, frame: &[u8]) -> bool {
        let from = udp_source(frame);
        self.resolver
            .as_ref()
            .is_some_and(|resolver| resolver.servers.iter().any(|server| Some(*server) == from))
    }

    /// Feeds an answer.
    pub(super) fn ingress_dns(&mut self, frame: &[u8]) {
        let now = self.now;
        if let Some(resolver) = &mut self.resolver
            && !resolver.lookups.is_empty()
        {
            resolver.learn(frame, now);
        }
    }

    /// The resolver's own interface learns neighbours too.
    pub(super) fn learn_dns_neighbor(&mut self, frame: &[u8]) {
        if let Some(resolver) = &mut self.resolver {
            resolver.learn(frame, self.now);
        }
    }

    /// Our addresses are others, or the lease names other servers.
    pub(super) fn configure_resolver(&mut self, lease: Option<&Lease>) {
        let now = self.now;
        if let Some(resolver) = &mut self.resolver {
            resolver.configure(&self.nets, lease);
            resolver.advance(now);
            resolver.rest(now);
        }
    }

    /// Sends the questions.
    pub(super) fn egress_dns<F: Frame>(&mut self, tx: &mut TxQueue<F>) {
        let now = self.now;
        let Some(resolver) = &mut self.resolver else { return };
        if resolver.next_at.is_none_or(|at| now < at) {
            return;
        }
        // Each pass sends one question of each socket.
        for _ in 0..2 * LOOKUPS_MAX {
            let mut device = OneFrame { rx: None, tx, caps: &resolver.caps, fills_in: false, wanted: false };
            let sent = resolver.iface.poll_egress(real(now), &mut device, &mut resolver.set);
            if sent == PollResult::None || !tx.has_room() {
                break;
            }
        }
        resolver.tried_at = now;
        resolver.advance(now);
        resolver.rest(now);
    }

    /// When the resolver next has something to do.
    pub(super) fn next_dns(&self) -> Option<Instant> {
        let resolver = self.resolver.as_ref()?;
        if resolver.done.is_empty() { resolver.next_at } else { Some(self.now) }
    }
}

/// RFC 1035 section 2.3.4; an underscore is in many a name that nothing forbids.
fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(plain)
    };
    name.len() <= 253 && name.split('.').all(is_label)
}
