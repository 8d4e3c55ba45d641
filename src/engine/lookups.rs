//! Outgoing connections to a server that is known by its name: looked up before each attempt, its addresses tried one after
//! the other.

use super::handler::{Connect, ConnectFailure, Handler};
use super::worker::Worker;
use crate::port::Port;
use crate::stack::LookupError;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// A server's name, and what was found for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByName {
    name: String,
    /// Addresses that were not tried, the best one first.
    left: VecDeque<IpAddr>,
    /// The connection's `remote` is one of its addresses, to be tried now.
    is_found: bool,
}

/// Connections that wait for the address of a name.
#[derive(Default)]
pub(super) struct Lookups {
    /// By name, in lower case. However many want it, it is looked up once.
    waiting: BTreeMap<String, Vec<Connect>>,
    /// Names that nobody was asked for yet.
    queue: VecDeque<String>,
}

impl ByName {
    fn new(name: String) -> Self {
        ByName { name: name.to_ascii_lowercase(), left: VecDeque::new(), is_found: false }
    }

    /// The name, in lower case.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Connect {
    /// A WebSocket at `ws://name:port` + `target`. The name is looked up by DNS before each attempt, at
    /// [`StackConfig::dns`](crate::stack::StackConfig::dns) or the servers of the DHCP lease; its addresses are tried one
    /// after the other. A name that is an IP address is one.
    pub fn by_name(name: &str, port: u16, target: impl Into<String>) -> Self {
        if let Ok(addr) = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Connect::new(SocketAddr::new(addr, port), target);
        }
        let host = if port == 80 { name.to_owned() } else { format!("{name}:{port}") };
        let remote = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
        let name = Some(ByName::new(name.strip_suffix('.').unwrap_or(name).to_owned()));
        Connect { name, host, ..Connect::new(remote, target) }
    }

    /// Whether its name has to be looked up first; what was found is used once.
    fn wants_lookup(&mut self) -> bool {
        self.name.as_mut().is_some_and(|name| !std::mem::take(&mut name.is_found))
    }

    /// Turns to the next address of its name; `false` when there is none.
    fn turn_to_next(&mut self) -> bool {
        let Some(name) = &mut self.name else { return false };
        let Some(addr) = name.left.pop_front() else { return false };
        name.is_found = true;
        self.remote.set_ip(addr);
        true
    }

    /// Forgets the addresses that were not tried: the next attempt looks the name up again.
    pub(super) fn forget_addrs(&mut self) {
        if let Some(name) = &mut self.name {
            name.left.clear();
        }
    }
}

impl Lookups {
    fn add(&mut self, connect: Connect) {
        let Some(name) = &connect.name else { return };
        let waiting = self.waiting.entry(name.name.clone()).or_insert_with_key(|name| {
            self.queue.push_back(name.clone());
            Vec::new()
        });
        waiting.push(connect);
    }

    fn take(&mut self, name: &str) -> Vec<Connect> {
        self.waiting.remove(name).unwrap_or_default()
    }

    /// Gives up on everything: what waited.
    pub(super) fn clear(&mut self) -> impl Iterator<Item = Connect> + use<> {
        self.queue.clear();
        std::mem::take(&mut self.waiting).into_values().flatten()
    }
}

impl<P: Port, H: Handler> Worker<P, H> {
    /// Opens a connection, or looks its server's name up first.
    pub(super) fn connect_or_look_up(&mut self, mut connect: Connect) {
        if !self.local.draining && connect.wants_lookup() {
            self.local.lookups.add(connect);
        } else {
            self.connect(connect);
        }
    }

    /// Whether there is another address of the server's to try, and it will be.
    pub(super) fn try_next_addr(&mut self, connect: &mut Connect, cause: &ConnectFailure) -> bool {
        cause.is_of_addr() && !self.local.draining && connect.turn_to_next()
    }

    /// Begins what look-ups it may, and opens the connections whose address was found.
    pub(super) fn look_up_names(&mut self) {
        // Also those that nobody waits for any more.
        while let Some((name, result)) = self.stack.next_lookup() {
            self.looked_up(&name, result);
        }
        if self.local.lookups.waiting.is_empty() {
            return;
        }
        while let Some(name) = self.local.lookups.queue.front() {
            match self.stack.look_up(name) {
                Err(LookupError::Busy) => break,
                Ok(()) => drop(self.local.lookups.queue.pop_front()),
                Err(error) => {
                    let name = self.local.lookups.queue.pop_front().unwrap_or_default();
                    self.looked_up(&name, Err(error));
                }
            }
        }
    }

    fn looked_up(&mut self, name: &str, result: Result<Vec<IpAddr>, LookupError>) {
        for mut connect in self.local.lookups.take(name) {
            match &result {
                Ok(addrs) => {
                    if let Some(name) = &mut connect.name {
                        name.left = addrs.iter().copied().collect();
                    }
                    connect.turn_to_next();
                    self.local.connects.push_back(connect);
                }
                Err(cause) => {
                    self.connect_failed(
                        connect,
                        ConnectFailure::Lookup { name: name.to_owned(), cause: *cause },
                    );
                    self.give_attention();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_not_looked_up() {
        let connect = Connect::by_name("[fd00::1]", 80, "/");
        assert_eq!((connect.remote, connect.name.is_none()), ("[fd00::1]:80".parse().unwrap(), true));
        let connect = Connect::by_name("10.0.0.1", 81, "/");
        assert_eq!((connect.host.as_str(), connect.name.is_none()), ("10.0.0.1:81", true));
    }

    #[test]
    fn a_name_that_many_want_is_looked_up_once() {
        let mut lookups = Lookups::default();
        for name in ["feed.example", "FEED.example.", "other.example"] {
            lookups.add(Connect::by_name(name, 80, "/"));
        }
        assert_eq!(lookups.queue, ["feed.example", "other.example"]);
        assert_eq!(lookups.take("feed.example").len(), 2);
        assert_eq!(lookups.clear().count(), 1);
    }

    #[test]
    fn addresses_are_tried_in_their_order_and_then_the_name_is_looked_up_again() {
        let mut connect = Connect::by_name("feed.example", 8080, "/");
        assert_eq!(connect.host, "feed.example:8080");
        assert!(connect.wants_lookup() && !connect.turn_to_next());
        let addrs: [IpAddr; 2] = ["fd00::1", "10.0.0.1"].map(|addr| addr.parse().unwrap());
        connect.name.as_mut().unwrap().left = addrs.into();
        for addr in addrs {
            assert!(connect.turn_to_next());
            assert_eq!(connect.remote, SocketAddr::new(addr, 8080));
            assert!(!connect.wants_lookup());
        }
        assert!(!connect.turn_to_next() && connect.wants_lookup());
    }
}
