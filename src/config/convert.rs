//! From the configuration to what each layer is configured with.

use super::{Config, Congestion, Poll, PortSpec, TcpSettings};
use crate::port::tap::TapConfig;
use crate::stack::{Cidr, CongestionControl, Route, StackConfig, TcpConfig};
use crate::time::Duration;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Slots of the stack beyond the connections served and the half-open ones: for those that are closing, and for
/// those that are refused with an answer.
const SPARE_CONNECTIONS: usize = 1_024;

impl Config {
    /// What every worker's stack is configured with.
    pub fn stack(&self) -> StackConfig {
        let default_routes = self.port.gateway.iter().map(|&via| {
            let any: IpAddr =
                if via.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            Route { to: Cidr { addr: any, prefix: 0 }, via }
        });
        let routes = self.port.routes.iter().map(|route| Route { to: route.to, via: route.via });
        StackConfig {
            addrs: self.port.ip.clone(),
            routes: default_routes.chain(routes).collect(),
            dhcp: self.port.dhcp,
            mtu: self.port.mtu,
            tcp: TcpConfig {
                connections_max: self
                    .limits
                    .connections_max
                    .saturating_add(self.tcp.half_open_max)
                    .saturating_add(SPARE_CONNECTIONS),
                ..self.tcp.tcp_config()
            },
            ..StackConfig::default()
        }
    }

    /// How the TAP device is opened; `None` when the port is another one.
    pub fn tap(&self) -> Option<TapConfig> {
        let Some(PortSpec::Tap { name }) = &self.port.spec else { return None };
        let port = &self.port;
        let defaults = TapConfig::new(name);
        Some(TapConfig {
            queues: port.queues.unwrap_or(self.workers.count),
            mtu: port.mtu.unwrap_or(defaults.mtu),
            mac: port.mac.map(|mac| mac.0),
            host_addresses: port.host_ip.iter().map(|cidr| (cidr.addr, cidr.prefix)).collect(),
            netns: port.netns.clone(),
            offload: port.offload,
            frames: port.frames,
            ..defaults
        })
    }

    /// How workers wait: as configured, else adaptively on a TAP device and the wire, where a spinning core would
    /// be taken from the other end.
    pub fn poll(&self) -> Poll {
        self.workers.poll.unwrap_or(match self.port.spec {
            Some(PortSpec::Tap { .. } | PortSpec::Wire) | None => Poll::Adaptive,
        })
    }
}

impl TcpSettings {
    fn tcp_config(&self) -> TcpConfig {
        TcpConfig {
            recv_buffer_bytes: self.recv_buffer_bytes,
            send_buffer_bytes: self.send_buffer_bytes,
            congestion: match self.congestion {
                Congestion::Cubic => CongestionControl::Cubic,
                Congestion::None => CongestionControl::None,
            },
            min_rto: Duration::from_millis(self.min_rto_ms),
            ack_delay: Duration::from_millis(self.ack_delay_ms),
            keep_alive: off_at_zero(self.keep_alive_ms),
            user_timeout: Duration::from_millis(self.user_timeout_ms),
            syn_timeout: Duration::from_millis(self.syn_timeout_ms),
            fin_wait2_timeout: Duration::from_millis(self.fin_wait2_timeout_ms),
            time_wait: Duration::from_millis(self.time_wait_ms),
            time_wait_max: self.time_wait_max,
            half_open_max: self.half_open_max,
            rst_per_second_max: self.rst_per_second_max,
            ..TcpConfig::default()
        }
    }
}

fn off_at_zero(millis: u64) -> Option<Duration> {
    (millis != 0).then(|| Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_of_the_file_are_those_of_the_stack() {
        let tcp = TcpConfig { connections_max: 0, ..Config::default().stack().tcp };
        assert_eq!(tcp, TcpConfig { connections_max: 0, ..TcpConfig::default() });
    }

    #[test]
    fn the_defaults_of_the_file_are_those_of_a_tap_device() {
        let config = Config::from_toml("port.spec = 'tap:t0'", "test").unwrap();
        assert_eq!(format!("{:?}", config.tap().unwrap()), format!("{:?}", TapConfig::new("t0")));
        assert!(Config::default().tap().is_none());
    }

    #[test]
    fn settings_reach_the_tap_device() {
        let text = "
            [port]
            spec = 'tap:t0'
            host_ip = ['10.0.0.1/24']
            netns = 'blue'
            mac = '02:00:00:00:00:02'
            mtu = 9000
            offload = false
            frames = 64
            [workers]
            count = 3
        ";
        let tap = Config::from_toml(text, "test").unwrap().tap().unwrap();
        assert_eq!((tap.queues, tap.mtu, tap.frames, tap.offload), (3, 9000, 64, false));
        assert_eq!((tap.mac, tap.netns.as_deref()), (Some([2, 0, 0, 0, 0, 2]), Some("blue")));
        assert_eq!(tap.host_addresses, [("10.0.0.1".parse().unwrap(), 24)]);
    }

    #[test]
    fn settings_reach_the_stack() {
        let text = "
            [port]
            ip = ['10.0.0.2/24', 'fd73::2/64']
            gateway = ['10.0.0.1', 'fd73::1']
            routes = [{ to = '10.1.0.0/16', via = '10.0.0.3' }]
            mtu = 1400
            [tcp]
            congestion = 'none'
            keep_alive_ms = 5000
            half_open_max = 10
            [limits]
            connections_max = 100
        ";
        let stack = Config::from_toml(text, "test").unwrap().stack();
        let route = |to: &str, via: &str| Route { to: to.parse().unwrap(), via: via.parse().unwrap() };
        assert_eq!(
            stack.routes,
            [route("0.0.0.0/0", "10.0.0.1"), route("::/0", "fd73::1"), route("10.1.0.0/16", "10.0.0.3")]
        );
        assert_eq!((stack.addrs.len(), stack.mtu), (2, Some(1400)));
        assert_eq!(stack.tcp.congestion, CongestionControl::None);
        assert_eq!(stack.tcp.keep_alive, Some(Duration::from_secs(5)));
        assert_eq!(stack.tcp.connections_max, 100 + 10 + SPARE_CONNECTIONS);
    }
}
