//! From the configuration to what each layer is configured with.

#[cfg(feature = "dpdk")]
use super::Checksum;
use super::{
    ClientCertificates, CompressionConfig, Config, Congestion, Poll, PortSpec, RatePolicy, SlowConsumer,
    Steering, TcpSettings, WorkersConfig,
};
use crate::engine::{self, Burst, Deadlines, EngineConfig, Idle, SlowReader};
use crate::http::Routes;
#[cfg(feature = "dpdk")]
use crate::port::dpdk::{Checksums, DpdkConfig, Memory, tso_memory_bytes};
use crate::port::tap::TapConfig;
use crate::stack::{Cidr, CongestionControl, Route, StackConfig, TcpConfig};
use crate::time::Duration;
use crate::tls::{ClientAuth, Identity, ServerOptions};
use crate::ws::{self, deflate::DeflateConfig};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

/// Slots of the stack beyond the connections served and the half-open ones: for those that are closing, and for
/// those that are refused with an answer.
const SPARE_CONNECTIONS: usize = 1_024;

impl Config {
    /// The configuration of each port: as if it were the only one, with its workers and their cores. `[port]` comes first,
    /// then `[[more_ports]]`; `workers.cores` is dealt out in that order.
    pub fn each_port(&self) -> Vec<Config> {
        let mut cores = self.workers.cores.as_slice();
        let mut ports = std::iter::once(&self.port).chain(&self.more_ports).peekable();
        let mut configs = Vec::new();
        while let Some(port) = ports.next() {
            let count = port.workers.unwrap_or(self.workers.count);
            // What is left over is the last one's, where it is found to be too many.
            let own = if ports.peek().is_some() { count.min(cores.len()) } else { cores.len() };
            let (own, rest) = cores.split_at(own);
            cores = rest;
            let workers = WorkersConfig { count, cores: own.to_vec(), ..self.workers.clone() };
            configs.push(Config { port: port.clone(), more_ports: Vec::new(), workers, ..self.clone() });
        }
        configs
    }

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
            dns: self.port.dns.clone(),
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

    /// What the workers are configured with; `routes` is what they answer over plain HTTP.
    pub fn engine(&self, routes: Routes) -> EngineConfig {
        let Config { websocket: ws, limits, burst, .. } = self;
        let defaults = EngineConfig::default();
        EngineConfig {
            listen: self.server.listen.clone(),
            listen_tls: self.tls.listen.clone(),
            tls_watch: off_at_zero(self.tls.watch_ms),
            stack: self.stack(),
            steering: match self.workers.steering {
                Steering::Device => engine::Steering::Device,
                Steering::Software => engine::Steering::Software,
            },
            routes: routes.into(),
            origins: self.origins(),
            proxies: self.server.proxies.clone(),
            limits: engine::Limits {
                connections_max: limits.connections_max,
                connections_per_peer_max: limits.connections_per_peer_max,
                rates: engine::RateLimits {
                    bytes_per_second: ws.bytes_per_second_max,
                    messages_per_second: ws.messages_per_second_max,
                    control_frames_per_second: ws.control_frames_per_second_max,
                    policy: match ws.rate_policy {
                        RatePolicy::Delay => engine::RatePolicy::Delay,
                        RatePolicy::Drop => engine::RatePolicy::Drop,
                        RatePolicy::Close => engine::RatePolicy::Close,
                    },
                },
                message: ws::Limits {
                    message_bytes_max: ws.message_bytes_max,
                    frame_bytes_max: ws.frame_bytes_max,
                    fragments_max: ws.fragments_max,
                },
                head_bytes_max: ws.head_bytes_max,
                overflow_bytes_max: ws.send_queue_bytes_max,
                overflow_bytes_high_water: ws.send_queue_bytes_high_water,
                memory_bytes_max: limits.memory_bytes_max,
                topics_max: limits.topics_max,
                subscriptions_max: limits.subscriptions_max,
                topic_bytes_max: limits.topic_bytes_max,
                mailbox_commands_max: limits.mailbox_commands_max,
                mailbox_bytes_max: limits.mailbox_bytes_max,
            },
            deadlines: Deadlines {
                handshake: Duration::from_millis(ws.handshake_timeout_ms),
                http_keep_alive: Duration::from_millis(ws.http_idle_timeout_ms),
                close: Duration::from_millis(ws.close_timeout_ms),
                idle: off_at_zero(ws.idle_timeout_ms),
                lifetime: off_at_zero(ws.lifetime_max_ms),
                ping: off_at_zero(ws.ping_interval_ms),
                pong: Duration::from_millis(ws.pong_timeout_ms),
                drain: Duration::from_millis(self.drain.deadline_ms),
                ..defaults.deadlines
            },
            deflate: self.compression.enabled.then(|| self.compression.deflate_config()),
            slow_reader: match ws.slow_consumer {
                SlowConsumer::Drop => SlowReader::Drop,
                SlowConsumer::Close => SlowReader::Close,
            },
            burst: Burst {
                rx_frames: burst.rx_frames,
                tx_frames: burst.tx_frames,
                connection_bytes: burst.connection_bytes,
                connection_messages: burst.connection_messages,
                total_bytes: burst.total_bytes,
                mailbox_commands: burst.mailbox_commands,
                tls_handshakes: burst.tls_handshakes,
            },
            idle: match self.poll() {
                Poll::Spin => Idle::Spin,
                Poll::Adaptive => Idle::Adaptive {
                    spin: Duration::from_micros(self.workers.spin_us),
                    coalesce: Duration::from_micros(self.workers.coalesce_us),
                },
            },
            cores: self.workers.cores.clone(),
            ..defaults
        }
    }

    /// What TLS is made from; `None` when it is not listened for.
    pub fn tls(&self) -> Option<ServerOptions> {
        let tls = &self.tls;
        let identity = |(certificate, key): (&PathBuf, &PathBuf)| Identity {
            certificate: certificate.clone(),
            key: key.clone(),
        };
        let authorities = tls.client_ca.clone();
        (!tls.listen.is_empty()).then(|| ServerOptions {
            identities: tls.certs.iter().zip(&tls.keys).map(identity).collect(),
            client_auth: match (tls.client_auth, authorities) {
                (ClientCertificates::Optional, Some(authorities)) => ClientAuth::Optional { authorities },
                (ClientCertificates::Required, Some(authorities)) => ClientAuth::Required { authorities },
                (ClientCertificates::None, _) | (_, None) => ClientAuth::None,
            },
        })
    }

    /// How the TAP device is opened; `None` when the port is another one.
    pub fn tap(&self) -> Option<TapConfig> {
        let Some(PortSpec::Tap { name }) = &self.port.spec else { return None };
        let port = &self.port;
        let defaults = TapConfig::new(name);
        Some(TapConfig {
            queues: self.workers.count,
            mtu: port.mtu.unwrap_or(defaults.mtu),
            mac: port.mac.map(|mac| mac.0),
            host_addresses: port.host_ip.iter().map(|cidr| (cidr.addr, cidr.prefix)).collect(),
            netns: port.netns.clone(),
            // Frames of offloads are larger than workers can hand to each other.
            offload: port.offload && self.workers.count == 1,
            tso: port.tso,
            frames: port.frames,
            ..defaults
        })
    }

    /// How the TAP device of the exception path is opened, beside a port with this MAC address; `None` without one. The
    /// kernel's end has our addresses.
    pub fn exception_tap(&self, mac: [u8; 6]) -> Option<TapConfig> {
        let name = self.port.exception_path.as_ref()?;
        let defaults = TapConfig::new(name);
        Some(TapConfig {
            queues: self.workers.count,
            mtu: self.port.mtu.unwrap_or(defaults.mtu),
            host_mac: Some(mac),
            host_addresses: self.port.ip.iter().map(|cidr| (cidr.addr, cidr.prefix)).collect(),
            // What comes from it goes out of the port as it is.
            offload: false,
            ..defaults
        })
    }

    /// How the DPDK device is opened; `None` when the port is another one.
    #[cfg(feature = "dpdk")]
    pub fn dpdk(&self) -> Option<DpdkConfig> {
        let Some(PortSpec::Dpdk { device }) = &self.port.spec else { return None };
        let port = &self.port;
        let defaults = DpdkConfig::new(device.clone());
        let mut dpdk = DpdkConfig {
            whole_checksums: port.exception_path.is_some(),
            workers: self.workers.count,
            mtu: port.mtu.unwrap_or(defaults.mtu),
            // Range-checked long before: at most 65,536.
            frames: u32::try_from(port.frames).unwrap_or(u32::MAX),
            queues: port.queues,
            tso: port.tso,
            vlan: port.vlan,
            interrupts: self.poll() == Poll::Adaptive,
            mac: port.mac.map(|mac| mac.0),
            checksums: match port.checksum {
                Checksum::Verify => Checksums::Verify,
                Checksum::Trust => Checksums::Trust,
            },
            // Their other end maps our memory by its files, and takes only a few of them.
            single_file_segments: device.name().contains("virtio_user")
                || device.argument("zero-copy") == Some("yes"),
            eal_arguments: port.eal.clone(),
            ..defaults
        };
        if !port.hugepages {
            dpdk.memory = Memory::Ordinary { mib: ordinary_mib(&dpdk) };
        }
        Some(dpdk)
    }

    /// How workers wait: as configured, else adaptively on a TAP device and the wire, where a spinning core would
    /// be taken from the other end, and by spinning on a DPDK device, which announces nothing.
    pub fn poll(&self) -> Poll {
        self.workers.poll.unwrap_or(match self.port.spec {
            #[cfg(feature = "dpdk")]
            Some(PortSpec::Dpdk { .. }) => Poll::Spin,
            Some(PortSpec::Tap { .. } | PortSpec::Wire) | None => Poll::Adaptive,
        })
    }
}

impl CompressionConfig {
    fn deflate_config(&self) -> DeflateConfig {
        DeflateConfig {
            level: self.level,
            threshold_bytes: self.threshold_bytes,
            send_takeover: self.send_takeover,
            receive_takeover: self.receive_takeover,
            send_window_bits: self.send_window_bits,
            receive_window_bits: self.receive_window_bits,
        }
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

/// Ordinary memory for a device, in MiB, as it is all taken at the start: twice its frames, for what an allocator
/// loses to alignment, and what EAL and a driver take for themselves.
#[cfg(feature = "dpdk")]
fn ordinary_mib(dpdk: &DpdkConfig) -> u32 {
    /// EAL, rings, a driver's tables.
    const BASE_MIB: usize = 64;
    /// DPDK's own of each frame: the mbuf, its headroom, the mempool's header; and room for link-layer headers.
    const FRAME_EXTRA_BYTES: usize = 512;
    let pairs = dpdk.queues.unwrap_or(dpdk.workers).div_ceil(dpdk.workers.max(1));
    let frames = dpdk.workers * (dpdk.frames as usize + 2 * pairs * usize::from(dpdk.descriptors));
    // Whether the device cuts large segments is known only once it is opened.
    let large = if dpdk.tso { dpdk.workers * tso_memory_bytes() } else { 0 };
    let bytes = 2 * (frames * (dpdk.mtu.max(2_048) + FRAME_EXTRA_BYTES) + large);
    u32::try_from(BASE_MIB + bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX)
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
    fn the_defaults_of_the_file_are_those_of_the_engine() {
        let (ours, theirs) = (Config::default().engine(Routes::default()), EngineConfig::default());
        assert_eq!(ours.limits, theirs.limits);
        assert_eq!(ours.deadlines, theirs.deadlines);
        assert_eq!(ours.deflate, theirs.deflate);
        assert_eq!(Config::default().compression.deflate_config(), DeflateConfig::default());
        assert_eq!(ours.burst, theirs.burst);
        assert_eq!(
            (ours.slow_reader, ours.idle, ours.steering),
            (theirs.slow_reader, theirs.idle, theirs.steering)
        );
        assert_eq!((ours.listen, ours.cores), (vec![80], theirs.cores));
        assert!(ours.handle_signals);
    }

    #[test]
    fn each_port_has_its_workers_and_their_cores() {
        let text = "
            port = { spec = 'tap:a', ip = ['10.0.0.2/24'] }
            more_ports = [{ spec = 'tap:b', ip = ['10.1.0.2/24'], workers = 1 }, { spec = 'tap:c', dhcp = true }]
            workers = { count = 2, cores = [5, 6, 7, 8] }
        ";
        let config = Config::from_toml(text, "test").unwrap();
        config.validate().unwrap();
        let each: Vec<_> = config.each_port();
        let seen: Vec<_> = each.iter().map(|port| (port.workers.count, port.workers.cores.clone())).collect();
        assert_eq!(seen, [(2, vec![5, 6]), (1, vec![7]), (2, vec![8])]);
        let taps: Vec<_> = each.iter().map(|port| port.tap().unwrap()).collect();
        assert_eq!(
            taps.iter().map(|tap| (tap.name.as_str(), tap.queues)).collect::<Vec<_>>(),
            [("a", 2), ("b", 1), ("c", 2)]
        );
        assert_eq!(each.iter().map(|port| port.stack().dhcp).collect::<Vec<_>>(), [false, false, true]);
    }

    #[test]
    fn what_is_valid_here_is_valid_in_the_engine() {
        let least = "
            [websocket]
            head_bytes_max = 512
            send_queue_bytes_max = 1024
            send_queue_bytes_high_water = 1024
            [limits]
            connections_max = 1
            mailbox_commands_max = 1
            [burst]
            rx_frames = 1
            tx_frames = 1
            connection_bytes = 1
            connection_messages = 1
            total_bytes = 1
            mailbox_commands = 1
        ";
        let config = Config::from_toml(least, "test").unwrap();
        config.validate().unwrap();
        config.engine(Routes::default()).validate().unwrap();
    }

    #[test]
    fn settings_reach_the_engine() {
        let text = "
            server = { listen = [81], allowed_origins = ['https://a'], proxies = ['10.0.0.0/8'] }
            limits.connections_per_peer_max = 7
            workers = { count = 2, cores = [1], poll = 'spin', steering = 'software' }
            websocket = { slow_consumer = 'close', ping_interval_ms = 0, message_bytes_max = 125,
                          lifetime_max_ms = 60000, bytes_per_second_max = 1000, messages_per_second_max = 10,
                          control_frames_per_second_max = 0, rate_policy = 'close' }
        ";
        let engine = Config::from_toml(text, "test").unwrap().engine(Routes::default());
        assert_eq!((engine.listen, engine.cores), (vec![81], vec![1]));
        assert_eq!(engine.origins, engine::guards::Origins::Own { also: vec!["https://a".into()] });
        assert_eq!(engine.proxies, ["10.0.0.0/8".parse().unwrap()]);
        let rates = engine.limits.rates;
        assert_eq!((rates.bytes_per_second, rates.messages_per_second), (1_000, 10));
        assert_eq!((rates.control_frames_per_second, rates.policy), (0, engine::RatePolicy::Close));
        assert_eq!(engine.limits.connections_per_peer_max, 7);
        assert_eq!(engine.deadlines.lifetime, Some(Duration::from_secs(60)));
        assert_eq!((engine.idle, engine.steering), (Idle::Spin, engine::Steering::Software));
        assert_eq!((engine.slow_reader, engine.deadlines.ping), (SlowReader::Close, None));
        assert_eq!(engine.limits.message.message_bytes_max, 125);
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
            tso = false
            frames = 64
            [workers]
            count = 3
        ";
        let tap = Config::from_toml(text, "test").unwrap().tap().unwrap();
        assert_eq!((tap.queues, tap.mtu, tap.frames, tap.offload, tap.tso), (3, 9000, 64, false, false));
        let one = Config::from_toml("port.spec = 'tap:t0'", "test").unwrap().tap().unwrap();
        assert!(one.offload && one.tso);
        let two =
            Config::from_toml("port.spec = 'tap:t0'\nworkers.count = 2", "test").unwrap().tap().unwrap();
        assert!(!two.offload, "workers hand frames to each other");
        assert_eq!((tap.mac, tap.netns.as_deref()), (Some([2, 0, 0, 0, 0, 2]), Some("blue")));
        assert_eq!(tap.host_addresses, [("10.0.0.1".parse().unwrap(), 24)]);
    }

    #[cfg(feature = "dpdk")]
    #[test]
    fn settings_reach_the_dpdk_device() {
        let text = "
            [port]
            spec = 'dpdk:net_memif0,role=server,socket=/run/m.sock'
            mac = '02:00:00:00:00:02'
            mtu = 9000
            frames = 512
            queues = 6
            vlan = 7
            checksum = 'trust'
            tso = false
            eal = ['--log-level=pmd:8']
            [workers]
            count = 3
        ";
        let config = Config::from_toml(text, "test").unwrap();
        config.validate().unwrap();
        assert!(config.tap().is_none());
        assert_eq!(config.poll(), Poll::Spin);
        let dpdk = config.dpdk().unwrap();
        assert_eq!(dpdk.device.name(), "net_memif0");
        assert_eq!((dpdk.workers, dpdk.mtu, dpdk.frames), (3, 9000, 512));
        assert_eq!((dpdk.queues, dpdk.vlan, dpdk.interrupts, dpdk.tso), (Some(6), Some(7), false, false));
        assert_eq!((dpdk.mac, dpdk.checksums), (Some([2, 0, 0, 0, 0, 2]), Checksums::Trust));
        assert_eq!((dpdk.memory, dpdk.single_file_segments), (Memory::HugePages, false));
        assert_eq!(dpdk.eal_arguments, ["--log-level=pmd:8"]);
    }

    #[cfg(feature = "dpdk")]
    #[test]
    fn ordinary_memory_is_as_large_as_the_frames_need() {
        let mib = |text: &str| match Config::from_toml(text, "test").unwrap().dpdk().unwrap().memory {
            Memory::Ordinary { mib } => mib,
            Memory::HugePages => panic!("hugepages were not asked for"),
        };
        let one = mib("port = { spec = 'dpdk:net_null0', hugepages = false }");
        let four =
            mib("port = { spec = 'dpdk:net_null0', hugepages = false, mtu = 9000 }\nworkers.count = 4");
        assert!((64..128).contains(&one), "{one}");
        assert!((256..512).contains(&four), "{four}");
    }

    #[cfg(feature = "dpdk")]
    #[test]
    fn virtio_user_shares_few_files() {
        let config =
            Config::from_toml("port.spec = 'dpdk:net_virtio_user0,path=/run/v.sock'", "test").unwrap();
        assert!(config.dpdk().unwrap().single_file_segments);
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
