//! Ranges, and values that must fit each other. Once this has passed, nothing later refuses a number.

use super::{Checksum, ClientCertificates, Config, ConfigError, PortSpec};
use crate::stack::{Cidr, DNS_SERVERS_MAX};
use std::net::IpAddr;

/// A number and where it may lie.
struct Range {
    key: &'static str,
    value: u64,
    min: u64,
    max: u64,
    /// 0 is allowed below `min`, too, and turns the thing off.
    zero_is_off: bool,
}

/// 1 hour.
const HOUR_MS: u64 = 3_600_000;
/// 1 GiB.
const GIB: u64 = 1 << 30;
/// Most workers; more than cores of any machine that one port serves.
const WORKERS_MAX: u64 = 256;
/// Addresses that the stack holds, less the IPv6 link-local one that it adds.
const ADDRESSES_MAX: usize = 7;
/// Least MTU that IPv6 works with, bytes (RFC 8200 section 5).
const IPV6_MTU_MIN: usize = 1_280;
/// Fewest frames of a DPDK queue, beside those in its rings.
const DPDK_FRAMES_MIN: usize = 256;
/// Routes that the stack holds.
const ROUTES_MAX: usize = 128;

impl Config {
    /// Checks every number's range and what must fit together.
    ///
    /// # Errors
    /// The first thing that cannot work: its key, its value, and what is allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.more_ports.is_empty() && self.port.workers.is_none() {
            return self.validate_for_one_port();
        }
        self.for_each_port(Config::validate_for_one_port)?;
        self.validate_ports_together()
    }

    /// Checks that every port has its device: it and an address on it are what has no default.
    ///
    /// # Errors
    /// When one of them was not given.
    pub fn devices(&self) -> Result<(), ConfigError> {
        self.for_each_port(|config| config.device().map(drop))
    }

    fn for_each_port(&self, check: impl Fn(&Config) -> Result<(), ConfigError>) -> Result<(), ConfigError> {
        for (at, config) in self.each_port().iter().enumerate() {
            check(config).map_err(|source| match self.more_ports.is_empty() {
                true => source,
                false => ConfigError::OfPort {
                    number: at + 1,
                    spec: config.port.spec.as_ref().map_or_else(|| "no device".into(), PortSpec::to_string),
                    source: Box::new(source),
                },
            })?;
        }
        Ok(())
    }

    /// What several ports must not have in common, and what they must.
    fn validate_ports_together(&self) -> Result<(), ConfigError> {
        let ports: Vec<_> = std::iter::once(&self.port).chain(&self.more_ports).collect();
        let exits = ports.iter().filter_map(|port| port.exception_path.as_ref());
        let devices: Vec<String> = ports
            .iter()
            .filter_map(|port| port.spec.as_ref().map(PortSpec::to_string))
            .chain(exits.map(|name| format!("tap:{name}")))
            .collect();
        if let Some(twice) = first_repeated(&devices) {
            return Err(invalid(
                "more_ports.spec",
                twice,
                "it is another port's device or exception path, too",
            ));
        }
        let is_dpdk = |port: &&super::PortConfig| port.spec.as_ref().is_some_and(PortSpec::is_dpdk);
        if let Some(port) = ports.iter().find(|port| is_dpdk(port) != is_dpdk(&&self.port)) {
            let reason = "the ports of one server are all tap:NAME or all dpdk:DEVARGS; a TAP device beside a NIC is \
                          dpdk:net_tap0,iface=NAME";
            return Err(invalid("more_ports.spec", display(&port.spec), reason));
        }
        if let Some(port) = self.more_ports.iter().find(|port| !port.eal.is_empty()) {
            let reason = "DPDK starts once, with the arguments of `port.eal`";
            return Err(invalid("more_ports.eal", port.eal.join(" "), reason));
        }
        if let Some(port) = ports.iter().find(|port| port.hugepages != self.port.hugepages) {
            let reason = "DPDK has one kind of memory for all ports: set it alike for each";
            return Err(invalid("more_ports.hugepages", port.hugepages, reason));
        }
        let workers: usize = self.each_port().iter().map(|config| config.workers.count).sum();
        if workers as u64 > WORKERS_MAX {
            let reason = format!("one server has at most {WORKERS_MAX} workers, over all ports");
            return Err(invalid("workers.count", workers, reason));
        }
        if let Some(twice) = first_repeated(&self.workers.cores) {
            return Err(invalid("workers.cores", twice, "two workers on one core would wait for each other"));
        }
        Ok(())
    }

    /// [`Config::validate`] of a configuration that has one port alone.
    fn validate_for_one_port(&self) -> Result<(), ConfigError> {
        for Range { key, value, min, max, zero_is_off } in self.ranges() {
            let allowed = (min..=max).contains(&value) || zero_is_off && value == 0;
            if !allowed {
                let off = if zero_is_off { ", or 0 for off" } else { "" };
                return Err(ConfigError::OutOfRange { key, value, allowed: format!("{min}..={max}{off}") });
            }
        }
        self.validate_server()?;
        self.validate_guards()?;
        self.validate_tls()?;
        self.validate_port()?;
        self.validate_workers()?;
        self.validate_pairs()?;
        if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(&self.log.level) {
            let reason = format!("{error}; write a level (error, warn, info, debug, trace) or module=level");
            return Err(invalid("log.level", &self.log.level, reason));
        }
        Ok(())
    }

    /// The device to open: it and an address on it are what has no default.
    ///
    /// # Errors
    /// When one of them was not given.
    pub fn device(&self) -> Result<&PortSpec, ConfigError> {
        let hint = "give --port tap:NAME or --port dpdk:DEVARGS, or set it in the file";
        let spec = self.port.spec.as_ref().ok_or(ConfigError::Missing { key: "port.spec", hint })?;
        if self.port.ip.is_empty() && !self.port.dhcp {
            let hint =
                "give --ip ADDRESS/PREFIX[,...], e.g. --ip 10.73.0.2/24, or --dhcp, or set it in the file";
            return Err(ConfigError::Missing { key: "port.ip", hint });
        }
        Ok(spec)
    }

    /// Each number with its range.
    #[rustfmt::skip]
    fn ranges(&self) -> Vec<Range> {
        let Config { tcp, websocket: ws, compression, limits, workers, burst, .. } = self;
        let range = |key, value: u64, min, max| Range { key, value, min, max, zero_is_off: false };
        let size = |key, value: usize, min, max| range(key, value as u64, min, max);
        let or_off = |key, value: u64, min, max| Range { key, value, min, max, zero_is_off: true };
        vec![
            size("port.mtu", self.port.mtu.unwrap_or(1500), 576, 9_000),
            size("port.frames", self.port.frames, 64, 65_536),
            size("port.workers", self.port.workers.unwrap_or(1), 1, WORKERS_MAX),
            size("port.queues", self.port.queues.unwrap_or(1), 1, 1_024),
            // IEEE 802.1Q: 0 is no VLAN, 4095 is reserved.
            range("port.vlan", self.port.vlan.unwrap_or(1).into(), 1, 4_094),

            // The floor of two full segments at the largest MTU; the ceiling of RFC 7323's window (65,535 << 14).
            size("tcp.recv_buffer_bytes", tcp.recv_buffer_bytes, 18_000, GIB - (1 << 14)),
            size("tcp.send_buffer_bytes", tcp.send_buffer_bytes, 18_000, GIB),
            // The stack's clock runs 1000 / min_rto_ms times as fast as ours, for every timer in it. 1000 is the
            // stack's own floor. At 4 the clock is 250 times as fast: the first timeout of a SYN comes after 4 ms
            // and the longest backoff is 240 ms; below that every path longer than a rack would see its SYNs and
            // probes repeated for nothing.
            range("tcp.min_rto_ms", tcp.min_rto_ms, 4, 1_000),
            // RFC 9293 section 3.8.6.3 says below 500 ms; past 200 ms a Linux peer's timeout would fire first.
            range("tcp.ack_delay_ms", tcp.ack_delay_ms, 0, 200),
            or_off("tcp.keep_alive_ms", tcp.keep_alive_ms, 1_000, 24 * HOUR_MS),
            range("tcp.user_timeout_ms", tcp.user_timeout_ms, 1_000, 24 * HOUR_MS),
            range("tcp.syn_timeout_ms", tcp.syn_timeout_ms, 100, HOUR_MS),
            range("tcp.fin_wait2_timeout_ms", tcp.fin_wait2_timeout_ms, 100, HOUR_MS),
            range("tcp.time_wait_ms", tcp.time_wait_ms, 0, 4 * 60_000),
            size("tcp.time_wait_max", tcp.time_wait_max, 0, 1 << 24),
            size("tcp.half_open_max", tcp.half_open_max, 1, 1 << 20),
            range("tcp.rst_per_second_max", tcp.rst_per_second_max.into(), 0, 1_000_000),

            // RFC 6455 section 5.5: a control frame has up to 125 bytes.
            size("websocket.message_bytes_max", ws.message_bytes_max, 125, GIB),
            size("websocket.frame_bytes_max", ws.frame_bytes_max, 125, GIB),
            size("websocket.fragments_max", ws.fragments_max, 1, 1 << 30),
            // A browser's upgrade request has about 500 bytes; this much may be kept for each that is not whole.
            size("websocket.head_bytes_max", ws.head_bytes_max, 512, 64 << 10),
            range("websocket.handshake_timeout_ms", ws.handshake_timeout_ms, 100, HOUR_MS),
            range("websocket.http_idle_timeout_ms", ws.http_idle_timeout_ms, 100, HOUR_MS),
            or_off("websocket.idle_timeout_ms", ws.idle_timeout_ms, 100, 24 * HOUR_MS),
            or_off("websocket.ping_interval_ms", ws.ping_interval_ms, 100, 24 * HOUR_MS),
            range("websocket.pong_timeout_ms", ws.pong_timeout_ms, 100, HOUR_MS),
            range("websocket.close_timeout_ms", ws.close_timeout_ms, 100, HOUR_MS),
            size("websocket.send_queue_bytes_max", ws.send_queue_bytes_max, 1_024, GIB),
            size("websocket.send_queue_bytes_high_water", ws.send_queue_bytes_high_water, 0, GIB),

            or_off("websocket.lifetime_max_ms", ws.lifetime_max_ms, 1_000, 365 * 24 * HOUR_MS),
            or_off("websocket.bytes_per_second_max", ws.bytes_per_second_max, 1_024, 1 << 40),
            or_off("websocket.messages_per_second_max", ws.messages_per_second_max, 1, 1_000_000_000),
            or_off("websocket.control_frames_per_second_max", ws.control_frames_per_second_max, 1, 1_000_000_000),

            range("compression.level", compression.level.into(), 1, 9),
            size("compression.threshold_bytes", compression.threshold_bytes, 1, GIB),
            // With 8 bits zlib does not compress, and with more than 15 nobody does (RFC 7692 section 7.1.2.1).
            range("compression.send_window_bits", compression.send_window_bits.into(), 9, 15),
            range("compression.receive_window_bits", compression.receive_window_bits.into(), 9, 15),
            range("guards.jwt_leeway_ms", self.guards.jwt_leeway_ms, 0, HOUR_MS),

            size("limits.connections_max", limits.connections_max, 1, 1 << 24),
            or_off("limits.connections_per_peer_max", limits.connections_per_peer_max.into(), 1, 1 << 24),
            size("limits.memory_bytes_max", limits.memory_bytes_max, 1 << 20, 1 << 40),
            size("limits.topics_max", limits.topics_max, 0, 1 << 24),
            size("limits.subscriptions_max", limits.subscriptions_max, 0, 1 << 20),
            size("limits.topic_bytes_max", limits.topic_bytes_max, 1, 64 << 10),
            size("limits.mailbox_commands_max", limits.mailbox_commands_max, 1, 1 << 24),
            size("limits.mailbox_bytes_max", limits.mailbox_bytes_max, 1 << 10, 1 << 40),

            size("workers.count", workers.count, 1, WORKERS_MAX),
            range("workers.spin_us", workers.spin_us, 0, 1_000_000),
            range("workers.coalesce_us", workers.coalesce_us, 0, 10_000),

            or_off("tls.watch_ms", self.tls.watch_ms, 100, HOUR_MS),

            size("burst.rx_frames", burst.rx_frames, 1, 1_024),
            size("burst.tx_frames", burst.tx_frames, 1, 8_192),
            size("burst.connection_bytes", burst.connection_bytes, 1, GIB),
            size("burst.connection_messages", burst.connection_messages, 1, 1 << 20),
            size("burst.total_bytes", burst.total_bytes, 1, GIB),
            size("burst.mailbox_commands", burst.mailbox_commands, 1, 1 << 20),
            size("burst.tls_handshakes", burst.tls_handshakes, 1, 1_024),

            range("drain.deadline_ms", self.drain.deadline_ms, 0, HOUR_MS),
        ]
    }

    fn validate_server(&self) -> Result<(), ConfigError> {
        let listen = &self.server.listen;
        if listen.is_empty() && self.tls.listen.is_empty() {
            return Err(ConfigError::Missing { key: "server.listen", hint: "name a TCP port, e.g. 80" });
        }
        if let Some(port) = listen.iter().find(|&&port| port == 0) {
            return Err(invalid("server.listen", port, "ports are 1..=65535"));
        }
        if let Some(twice) = first_repeated(listen) {
            return Err(invalid("server.listen", twice, "it is listed twice"));
        }
        if let Some(path) =
            self.server.paths.iter().find(|path| !path.starts_with('/') || path.contains(['?', '#']))
        {
            return Err(invalid(
                "server.paths",
                path,
                "a path begins with `/` and has no `?` or `#`, e.g. /ws",
            ));
        }
        let origins = &self.server.allowed_origins;
        if let Some(origin) = origins.iter().find(|o| {
            *o != "*" && o.split_once("://").is_none_or(|(_, host)| host.is_empty() || host.contains('/'))
        }) {
            let reason =
                "an origin is scheme://host or scheme://host:port, e.g. https://example.org (no path)";
            return Err(invalid("server.allowed_origins", origin, reason));
        }
        Ok(())
    }

    fn validate_tls(&self) -> Result<(), ConfigError> {
        let tls = &self.tls;
        if let Some(port) = tls.listen.iter().find(|&&port| port == 0) {
            return Err(invalid("tls.listen", port, "ports are 1..=65535"));
        }
        if let Some(twice) = first_repeated(&tls.listen) {
            return Err(invalid("tls.listen", twice, "it is listed twice"));
        }
        if let Some(port) = tls.listen.iter().find(|port| self.server.listen.contains(port)) {
            let reason = "`server.listen` has it, too: a port speaks TLS or does not";
            return Err(invalid("tls.listen", port, reason));
        }
        if tls.certs.len() != tls.keys.len() {
            let reason = format!(
                "there are {} certificates and {} keys: each certificate needs its key, in the same order",
                tls.certs.len(),
                tls.keys.len()
            );
            return Err(invalid("tls.certs", list_of(&tls.certs), reason));
        }
        if !tls.listen.is_empty() && tls.certs.is_empty() {
            let hint = "give --cert FILE and --key FILE for the ports of `tls.listen`";
            return Err(ConfigError::Missing { key: "tls.certs", hint });
        }
        if tls.listen.is_empty() && !tls.certs.is_empty() {
            let hint = "name the ports that the certificates are for, e.g. --listen-tls 443";
            return Err(ConfigError::Missing { key: "tls.listen", hint });
        }
        match (tls.client_auth, &tls.client_ca) {
            (ClientCertificates::None, Some(path)) => {
                let reason = "set `tls.client_auth` to `optional` or `required`, or nobody is asked for one";
                Err(invalid("tls.client_ca", path.display(), reason))
            }
            (ClientCertificates::Optional | ClientCertificates::Required, None) => {
                let hint = "name the PEM file of the authorities that issue clients' certificates";
                Err(ConfigError::Missing { key: "tls.client_ca", hint })
            }
            _ => Ok(()),
        }
    }

    fn validate_port(&self) -> Result<(), ConfigError> {
        let port = &self.port;
        for (key, addresses) in [("port.ip", &port.ip), ("port.host_ip", &port.host_ip)] {
            if let Some(cidr) = addresses.iter().find(|cidr| !is_host_address(cidr)) {
                let reason = "a network's own, broadcast, multicast or zero address belongs to no host";
                return Err(invalid(key, cidr, reason));
            }
            if let Some(twice) = first_repeated(addresses) {
                return Err(invalid(key, twice, "it is listed twice"));
            }
        }
        if let Some(cidr) = port.ip.iter().find(|ours| port.host_ip.iter().any(|host| host.addr == ours.addr))
        {
            let reason =
                "both ends of the device have this address; give `port.host_ip` another one of the network";
            return Err(invalid("port.ip", cidr, reason));
        }
        if port.dns.len() > DNS_SERVERS_MAX {
            let reason = format!("at most {DNS_SERVERS_MAX} servers are asked");
            return Err(invalid("port.dns", port.dns.len(), reason));
        }
        if let Some(server) = port.dns.iter().find(|server| server.is_unspecified() || server.is_multicast())
        {
            return Err(invalid("port.dns", server, "it is no host's address"));
        }
        // The lease brings one more of each.
        let by_dhcp = usize::from(port.dhcp);
        if port.ip.len() > ADDRESSES_MAX - by_dhcp {
            let reason = format!("at most {} addresses are possible", ADDRESSES_MAX - by_dhcp);
            return Err(invalid("port.ip", port.ip.len(), reason));
        }
        if port.dhcp {
            let addresses = port.ip.iter().map(|cidr| ("port.ip", cidr.addr));
            let routers = port.gateway.iter().map(|router| ("port.gateway", *router));
            if let Some((key, addr)) = addresses.chain(routers).find(|(_, addr)| addr.is_ipv4()) {
                let reason = "`port.dhcp` is on, and the lease brings the IPv4 address and the default router: leave \
                              this one out, or turn DHCP off (IPv6 goes beside it)";
                return Err(invalid(key, addr, reason));
            }
        }
        let v6 = port.ip.iter().chain(&port.host_ip).find(|cidr| cidr.addr.is_ipv6());
        if let (Some(mtu @ ..IPV6_MTU_MIN), Some(cidr)) = (port.mtu, v6) {
            let reason =
                format!("IPv6 needs {IPV6_MTU_MIN} or more (RFC 8200 section 5), and there is {cidr}");
            return Err(invalid("port.mtu", mtu, reason));
        }
        let tap = matches!(port.spec, Some(PortSpec::Tap { .. }) | None);
        for (key, set) in [("port.host_ip", !port.host_ip.is_empty()), ("port.netns", port.netns.is_some())] {
            if set && !tap {
                return Err(invalid(
                    "port.spec",
                    display(&port.spec),
                    format!("`{key}` is for tap:NAME ports only"),
                ));
            }
        }
        let for_tap_alone = "on other ports it stays `true`: it is for tap:NAME ports only";
        if !port.offload && !tap {
            return Err(invalid("port.offload", false, for_tap_alone));
        }
        if port.exception_path.is_some() && port.checksum == Checksum::Trust {
            let reason =
                "`port.exception_path` is set, and the kernel needs checksums: use `verify` at both ends";
            return Err(invalid("port.checksum", "trust", reason));
        }
        if let (Some(name), Some(PortSpec::Tap { name: of_port })) = (&port.exception_path, &port.spec)
            && name == of_port
        {
            return Err(invalid(
                "port.exception_path",
                name,
                "it is the port itself: name another TAP device",
            ));
        }
        self.validate_dpdk()?;
        if let Some(netns) = port
            .netns
            .as_ref()
            .filter(|name| name.contains(['/', '\0']) || ["", ".", ".."].contains(&name.as_str()))
        {
            return Err(invalid("port.netns", netns, "the name that `ip netns add NAME` was given"));
        }
        self.validate_routes()
    }

    /// What only DPDK devices know is given to no other, and what they need is there.
    fn validate_dpdk(&self) -> Result<(), ConfigError> {
        let port = &self.port;
        if port.spec.as_ref().is_some_and(PortSpec::is_dpdk) {
            if port.frames < DPDK_FRAMES_MIN {
                let reason = format!("a queue of a DPDK device needs {DPDK_FRAMES_MIN} or more");
                return Err(invalid("port.frames", port.frames, reason));
            }
            if let Some(queues) = port.queues.filter(|queues| queues % self.workers.count.max(1) != 0) {
                let reason = format!("it must be a multiple of `workers.count`, {}", self.workers.count);
                return Err(invalid("port.queues", queues, reason));
            }
            return Ok(());
        }
        let only = "it is for dpdk:DEVARGS ports only";
        for (key, given) in [("port.queues", port.queues), ("port.vlan", port.vlan.map(usize::from))] {
            if let Some(given) = given {
                return Err(invalid(key, given, only));
            }
        }
        if port.checksum == Checksum::Trust {
            return Err(invalid("port.checksum", "trust", only));
        }
        if !port.hugepages {
            return Err(invalid("port.hugepages", false, only));
        }
        if let Some(argument) = port.eal.first() {
            return Err(invalid("port.eal", argument, only));
        }
        Ok(())
    }

    fn validate_routes(&self) -> Result<(), ConfigError> {
        let port = &self.port;
        for family_is_v4 in [true, false] {
            let mut routers = port.gateway.iter().filter(|router| router.is_ipv4() == family_is_v4);
            if let (Some(_), Some(second)) = (routers.next(), routers.next()) {
                let reason = "there is one default router for each of IPv4 and IPv6";
                return Err(invalid("port.gateway", second, reason));
            }
        }
        let gateways = port.gateway.iter().map(|router| ("port.gateway", *router));
        let routes = port.routes.iter().map(|route| ("port.routes", route.via));
        for (key, router) in gateways.chain(routes) {
            // A router is reached without a router. By DHCP the network is not known yet.
            let reachable = is_link_local(router)
                || port.ip.iter().any(|cidr| contains(cidr, router))
                || port.dhcp && router.is_ipv4();
            if !reachable {
                return Err(invalid(key, router, "it is on none of the networks of `port.ip`"));
            }
        }
        if let Some(route) = port.routes.iter().find(|route| route.to.addr.is_ipv4() != route.via.is_ipv4()) {
            let text = format!("{} via {}", route.to, route.via);
            return Err(invalid("port.routes", text, "both must be IPv4 or both IPv6"));
        }
        if port.routes.len() + port.gateway.len() + usize::from(port.dhcp) > ROUTES_MAX {
            let reason = format!("at most {ROUTES_MAX} routes are possible, the default ones included");
            return Err(invalid("port.routes", port.routes.len(), reason));
        }
        Ok(())
    }

    fn validate_workers(&self) -> Result<(), ConfigError> {
        let workers = &self.workers;
        if workers.cores.len() > workers.count {
            let reason = format!("{} cores are listed in `workers.cores`", workers.cores.len());
            return Err(invalid("workers.count", workers.count, reason));
        }
        if let Some(twice) = first_repeated(&workers.cores) {
            return Err(invalid("workers.cores", twice, "two workers on one core would wait for each other"));
        }
        Ok(())
    }

    fn validate_pairs(&self) -> Result<(), ConfigError> {
        let ws = &self.websocket;
        if ws.send_queue_bytes_high_water > ws.send_queue_bytes_max {
            let reason = format!(
                "it must not be over `websocket.send_queue_bytes_max` ({}): input would be read whose answers find no room",
                ws.send_queue_bytes_max
            );
            return Err(invalid(
                "websocket.send_queue_bytes_high_water",
                ws.send_queue_bytes_high_water,
                reason,
            ));
        }
        if ws.idle_timeout_ms != 0 && ws.ping_interval_ms >= ws.idle_timeout_ms {
            let reason = format!(
                "pings keep a connection open only when they come before `websocket.idle_timeout_ms` ({}) is over; \
                 0 turns them off",
                ws.idle_timeout_ms
            );
            return Err(invalid("websocket.ping_interval_ms", ws.ping_interval_ms, reason));
        }
        Ok(())
    }
}

fn invalid(key: &'static str, value: impl ToString, reason: impl Into<String>) -> ConfigError {
    ConfigError::Invalid { key, value: value.to_string(), reason: reason.into() }
}

fn display(spec: &Option<PortSpec>) -> String {
    spec.as_ref().map_or_else(String::new, PortSpec::to_string)
}

/// Paths as a list is written.
fn list_of(paths: &[std::path::PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn first_repeated<T: PartialEq>(list: &[T]) -> Option<&T> {
    list.iter()
        .enumerate()
        .find(|(at, item)| list.iter().take(*at).any(|before| before == *item))
        .map(|(_, item)| item)
}

/// Whether a host can have this address: not the network's own or broadcast address (RFC 3021 lets a /31 use both).
fn is_host_address(cidr: &Cidr) -> bool {
    if cidr.prefix == 0 || cidr.addr.is_unspecified() || cidr.addr.is_multicast() || cidr.addr.is_loopback() {
        return false;
    }
    match cidr.addr {
        IpAddr::V4(addr) if cidr.prefix < 31 => {
            let host = u32::MAX.checked_shr(cidr.prefix.into()).unwrap_or(0);
            let bits = addr.to_bits() & host;
            bits != 0 && bits != host
        }
        IpAddr::V4(_) | IpAddr::V6(_) => true,
    }
}

fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => addr.is_link_local(),
        IpAddr::V6(addr) => addr.is_unicast_link_local(),
    }
}

/// Whether the address is on the network.
fn contains(network: &Cidr, addr: IpAddr) -> bool {
    let prefix = u32::from(network.prefix);
    match (network.addr, addr) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            (a.to_bits() ^ b.to_bits()).checked_shr(32 - prefix.min(32)).unwrap_or(0) == 0
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            (a.to_bits() ^ b.to_bits()).checked_shr(128 - prefix.min(128)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::from_toml(text, "test").unwrap()
    }

    fn refused(text: &str) -> String {
        config(text).validate().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_valid_and_lack_only_the_device() {
        let config = Config::default();
        config.validate().unwrap();
        assert!(config.device().unwrap_err().to_string().contains("--port tap:NAME"));
    }

    #[test]
    fn a_device_needs_an_address() {
        assert!(
            config("port.spec = 'tap:t'").device().unwrap_err().to_string().contains("`port.ip` is not set")
        );
        assert!(config("port = { spec = 'tap:t', dhcp = true }").device().is_ok());
        assert!(config("port = { spec = 'tap:t', ip = ['10.0.0.2/24'] }").device().is_ok());
    }

    #[test]
    fn numbers_out_of_range_say_key_value_and_range() {
        assert_eq!(refused("tcp.min_rto_ms = 3"), "`tcp.min_rto_ms` is 3, allowed is 4..=1000");
        assert_eq!(refused("tcp.min_rto_ms = 1001"), "`tcp.min_rto_ms` is 1001, allowed is 4..=1000");
        assert_eq!(
            refused("tcp.keep_alive_ms = 1"),
            "`tcp.keep_alive_ms` is 1, allowed is 1000..=86400000, or 0 for off"
        );
        assert_eq!(refused("port.mtu = 9001"), "`port.mtu` is 9001, allowed is 576..=9000");
    }

    #[test]
    fn every_range_holds_its_default_and_ends_at_its_bounds() {
        for range in Config::default().ranges() {
            assert!(range.min <= range.max, "{}", range.key);
            assert!((range.min..=range.max).contains(&range.value) || range.zero_is_off, "{}", range.key);
        }
    }

    #[test]
    fn every_number_has_a_range() {
        let text = toml::Table::try_from(Config::default()).unwrap();
        let ranged: Vec<_> = Config::default().ranges().iter().map(|range| range.key).collect();
        for (table, keys) in &text {
            for (key, value) in keys.as_table().unwrap() {
                let path = format!("{table}.{key}");
                assert!(!value.is_integer() || ranged.contains(&path.as_str()), "{path} has no range");
            }
        }
    }

    /// The rows of the tables of docs/configuration.md: key with its table, default, what is allowed.
    fn documented() -> Vec<(String, String, String)> {
        let page = include_str!("../../docs/configuration.md");
        let mut table = "";
        let mut rows = Vec::new();
        for line in page.lines() {
            if let Some(name) = line.strip_prefix("## `[") {
                table = name.trim_end_matches("]`");
            } else if line.starts_with("| `") {
                let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
                assert_eq!(cells.len(), 4, "{line}");
                rows.push((
                    format!("{table}.{}", cells[0].trim_matches('`')),
                    cells[1].into(),
                    cells[2].into(),
                ));
            }
        }
        rows
    }

    #[test]
    fn the_page_lists_every_key_with_its_default() {
        let defaults = toml::Table::try_from(Config::default()).unwrap();
        let expected: Vec<_> = Config::keys()
            .into_iter()
            .map(|path| {
                let (table, key) = path.split_once('.').unwrap();
                let default = match defaults[table].get(key) {
                    None => "not set".to_owned(),
                    Some(number @ toml::Value::Integer(_)) => number.to_string(),
                    Some(value) => format!("`{value}`"),
                };
                (path, default)
            })
            .collect();
        let documented: Vec<_> = documented().into_iter().map(|(path, default, _)| (path, default)).collect();
        assert_eq!(documented, expected);
    }

    #[test]
    fn the_page_states_every_range() {
        let rows = documented();
        for Range { key, min, max, zero_is_off, .. } in Config::default().ranges() {
            let off = if zero_is_off { ", or 0 for off" } else { "" };
            let row = rows.iter().find(|row| row.0 == key).unwrap();
            assert_eq!(row.2, format!("{min}..={max}{off}"), "{key}");
        }
    }

    #[test]
    fn the_example_on_the_page_is_valid() {
        let page = include_str!("../../docs/configuration.md");
        let example = page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
        let config = config(example);
        config.validate().unwrap();
        config.device().unwrap();
    }

    #[test]
    fn what_must_fit_together() {
        for (text, key) in [
            ("server.listen = []", "server.listen"),
            ("tls.listen = [0]", "tls.listen"),
            ("tls.listen = [443]", "tls.certs"),
            ("tls = { listen = [80], certs = ['a'], keys = ['b'] }", "tls.listen"),
            ("tls = { listen = [443, 443], certs = ['a'], keys = ['b'] }", "tls.listen"),
            ("tls = { listen = [443], certs = ['a', 'b'], keys = ['b'] }", "tls.certs"),
            ("tls = { certs = ['a'], keys = ['b'] }", "tls.listen"),
            (
                "tls = { listen = [443], certs = ['a'], keys = ['b'], client_auth = 'required' }",
                "tls.client_ca",
            ),
            ("tls = { listen = [443], certs = ['a'], keys = ['b'], client_ca = 'c' }", "tls.client_ca"),
            ("server.listen = [0]", "server.listen"),
            ("server.listen = [80, 80]", "server.listen"),
            ("server.paths = ['ws']", "server.paths"),
            ("server.allowed_origins = ['example.org']", "server.allowed_origins"),
            ("server.allowed_origins = ['https://example.org/']", "server.allowed_origins"),
            ("port.ip = ['10.0.0.0/24']", "port.ip"),
            ("port.ip = ['10.0.0.255/24']", "port.ip"),
            ("port.ip = ['224.0.0.1/24']", "port.ip"),
            ("port.ip = ['10.0.0.1/24', '10.0.0.1/24']", "port.ip"),
            ("port = { ip = ['10.0.0.1/24'], host_ip = ['10.0.0.1/24'] }", "port.ip"),
            ("port = { spec = 'wire', netns = 'x' }", "port.spec"),
            ("port.netns = 'a/b'", "port.netns"),
            ("port = { spec = 'wire', offload = false }", "port.offload"),
            ("port = { spec = 'tap:t', queues = 2 }", "port.queues"),
            ("port = { spec = 'tap:t', exception_path = 't' }", "port.exception_path"),
            ("port = { checksum = 'trust', exception_path = 't' }", "port.checksum"),
            ("port = { spec = 'tap:t', vlan = 2 }", "port.vlan"),
            ("port = { spec = 'tap:t', checksum = 'trust' }", "port.checksum"),
            ("port = { spec = 'tap:t', hugepages = false }", "port.hugepages"),
            ("port = { spec = 'tap:t', eal = ['-m', '64'] }", "port.eal"),
            ("port = { mtu = 1279, ip = ['fd73::2/64'] }", "port.mtu"),
            ("port = { ip = ['10.0.0.2/24'], gateway = ['10.0.1.1'] }", "port.gateway"),
            ("port = { ip = ['10.0.0.2/24'], gateway = ['10.0.0.1', '10.0.0.3'] }", "port.gateway"),
            ("port = { ip = ['fd73::2/64'], gateway = ['fd74::1'] }", "port.gateway"),
            ("port = { ip = ['10.0.0.2/24'], routes = [{ to = '::/0', via = '10.0.0.1' }] }", "port.routes"),
            ("workers = { count = 1, cores = [1, 2] }", "workers.count"),
            ("workers = { count = 2, cores = [1, 1] }", "workers.cores"),
            ("websocket.send_queue_bytes_max = 2048", "websocket.send_queue_bytes_high_water"),
            ("websocket.idle_timeout_ms = 30000", "websocket.ping_interval_ms"),
            ("log.level = 'loud,,=='", "log.level"),
        ] {
            let message = refused(text);
            assert!(message.starts_with(&format!("`{key}` is ")), "{text}: {message}");
        }
    }

    #[cfg(feature = "dpdk")]
    #[test]
    fn what_a_dpdk_device_does_not_take() {
        for (text, key) in [
            ("port = { spec = 'dpdk:net_null0', netns = 'blue' }", "port.spec"),
            ("port = { spec = 'dpdk:net_null0', offload = false }", "port.offload"),
            ("port = { spec = 'dpdk:net_null0', frames = 255 }", "port.frames"),
        ] {
            let message = refused(text);
            assert!(message.starts_with(&format!("`{key}` is ")), "{text}: {message}");
        }
    }

    #[test]
    fn ports_that_do_not_go_together() {
        const TWO: &str = "port = { spec = 'tap:a', ip = ['10.0.0.2/24'] }\nmore_ports = ";
        for (more, word) in [
            ("[{ spec = 'tap:a', ip = ['10.1.0.2/24'] }]", "`more_ports.spec` is `tap:a`"),
            ("[{ spec = 'tap:b', exception_path = 'a' }]", "`more_ports.spec` is `tap:a`"),
            ("[{ spec = 'tap:b', ip = ['10.1.0.0/24'] }]", "port 2, tap:b: `port.ip` is `10.1.0.0/24`"),
            (
                "[{ spec = 'tap:b', workers = 257 }]",
                "port 2, tap:b: `port.workers` is 257, allowed is 1..=256",
            ),
            ("[{ spec = 'tap:b', workers = 256 }]", "`workers.count` is `257`"),
            ("[{ spec = 'tap:b', vlan = 3 }]", "port 2, tap:b: `port.vlan`"),
            ("[{}]\nworkers.cores = [1, 2, 3]", "port 2, no device: `workers.count` is `1`"),
            ("[{}]\nworkers.cores = [1, 1]", "`workers.cores` is `1`"),
        ] {
            let message = refused(&format!("{TWO}{more}"));
            assert!(message.starts_with(word), "{more}: {message}");
        }
        let missing = config(&format!("{TWO}[{{ spec = 'tap:b' }}]")).devices().unwrap_err().to_string();
        assert!(missing.starts_with("port 2, tap:b: `port.ip` is not set"), "{missing}");
    }

    #[test]
    fn what_fits_together() {
        for text in [
            "port.ip = ['10.0.0.0/31', '10.9.9.9/32', 'fd73::/64']",
            "port = { ip = ['10.0.0.2/24', 'fd73::2/64'], gateway = ['10.0.0.1', 'fe80::1'] }",
            "port = { dhcp = true, ip = ['fd73::2/64'], gateway = ['fd73::1'] }",
            "port = { dhcp = true, routes = [{ to = '10.1.0.0/16', via = '10.0.0.3' }] }",
            "websocket = { idle_timeout_ms = 0, ping_interval_ms = 30000 }",
            "port = { ip = ['10.0.0.2/24'], dns = ['10.0.0.1', 'fd73::53'] }",
            "log.level = 'info,unsocket::engine=debug'",
        ] {
            config(text).validate().unwrap();
        }
    }
}
