//! The options that say what is sent, by whom, for how long.

use super::refuse;
use crate::bench::{BenchError, Plan, Scenario, Sizes, Stop, memory};
use crate::stack::Cidr;
use crate::time::Duration;
use clap::{Args, ValueEnum};
use std::net::IpAddr;
use std::str::FromStr;

/// Warm-up of a load that is measured for a duration.
const WARMUP: Duration = Duration::from_millis(500);
/// Most messages on their way over all connections: 8 bytes are kept for each.
const OUTSTANDING_MAX: u64 = 1 << 28;
/// Messages on their way per connection of an open loop, at most.
const OPEN_IN_FLIGHT: u32 = 1_024;
/// Most addresses of a network to connect from: 2 to this power.
const SOURCE_BITS_MAX: u32 = 16;

/// What is sent, by whom, for how long.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Load")]
pub(super) struct LoadArgs {
    /// What is done: echo (each connection keeps messages on their way); stream (the same with messages so long that bytes
    /// count); broadcast (one connection more publishes, all get it from a server that sends each message to everyone on
    /// the path, such as --app pubsub; deliveries are counted and timed); connect (each is opened, used for --echoes messages,
    /// closed and opened again; openings are counted and timed); idle (connections are held, their memory is measured, then
    /// each echoes once)
    #[arg(long, value_name = "WHICH", default_value = "echo")]
    scenario: ScenarioName,
    /// With --scenario connect: messages in the life of a connection, one after the other [default: 1]
    #[arg(long, value_name = "N")]
    echoes: Option<u32>,
    /// With --scenario idle: percent of the connections, chosen at random, that echo meanwhile [default: 0]
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    active: Option<f64>,
    /// With --scenario idle and a URL: process id of the server on this machine, for its memory [default: none]
    #[arg(long, value_name = "PID", requires = "url")]
    server_pid: Option<u32>,
    /// Connections in all; with --scenario connect, at a time; with --scenario broadcast, subscribers
    /// [default: 1000, with --scenario stream 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    connections: Option<u32>,
    /// Messages on their way per connection; with --rate, at most; with --scenario broadcast, on their way to all
    /// [default: 1, with --scenario stream 16, with --rate 1024]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    in_flight: Option<u32>,
    /// An open loop: messages a second over all connections (with --scenario broadcast, published), sent whether replies come
    /// or not, and timed from the moment at which each was due [default: none, a closed loop]
    #[arg(long, value_name = "MESSAGES", value_parser = rate)]
    rate: Option<f64>,
    /// Seconds over which the opening of the connections is drawn out, and with --rate after that the rise of the rate
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = crate::cli::seconds)]
    ramp: Duration,
    /// Payload of the messages in bytes, at most 64 MiB: one size (20, 16KiB), a list (20,1024,16KiB: each as often),
    /// uniform:LEAST-MOST, exp:MEAN or exp:MEAN-MOST (exponential, cut at MOST or 16 x MEAN)
    /// [default: 20, with --scenario stream 64KiB]
    #[arg(long, value_name = "SIZE")]
    size: Option<Sizes>,
    /// Text messages instead of binary ones
    #[arg(long)]
    text: bool,
    /// Offer permessage-deflate (in one process: on both sides), and send what compresses as JSON does; a server that
    /// declines is an error. Messages under 256 bytes are not compressed
    #[arg(long)]
    deflate: bool,
    /// How long to measure, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = crate::cli::seconds)]
    duration: Duration,
    /// Stop after this many messages over all connections (with --scenario connect, so many openings), not after a duration [default: none]
    #[arg(long, value_name = "N", conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    messages: Option<u64>,
    /// How long to run before measuring, in seconds [default: 0.5, with --messages 0]
    #[arg(long, value_name = "SECONDS", value_parser = crate::cli::seconds)]
    warmup: Option<Duration>,
    /// How long a reply, or the opening of a connection, may take before it is an error, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = crate::cli::seconds)]
    timeout: Duration,
    /// Generator threads, the connections divided between them; in one process also as many server threads
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    workers: u32,
    /// Cores to pin the generator threads to, in turn, e.g. 1,2 [default: none, not pinned]
    #[arg(long, value_name = "CORE,..", value_delimiter = ',')]
    pub(super) cores: Vec<usize>,
    /// In one process: cores to pin the server threads to, in turn [default: none, not pinned]
    #[arg(long, value_name = "CORE,..", value_delimiter = ',', conflicts_with = "url")]
    pub(super) server_core: Vec<usize>,
    /// With a URL: so many TCP ports from the URL's on, in turn: each has 32,768 connections for each address of ours
    #[arg(long, value_name = "N", default_value_t = 1, requires = "url", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) ports: u16,
    /// Over kernel sockets: addresses of this machine to connect from, in turn, or networks for all their addresses, e.g.
    /// 127.0.1.0/24 [default: none, the kernel's choice]
    #[arg(long, value_name = "ADDR[/BITS],..", value_delimiter = ',', requires = "url")]
    pub(super) source: Vec<Sources>,
    /// With a URL: poll without ever sleeping, so that no wake-up is in the round-trip time
    #[arg(long, requires = "url")]
    pub(super) spin: bool,
    /// Seed of the payloads and of the faults
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seed: u64,
}

/// Which scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ScenarioName {
    /// Messages back and forth.
    Echo,
    /// Bytes back and forth.
    Stream,
    /// One publishes, all get it.
    Broadcast,
    /// Connections that are held.
    Idle,
    /// Connections that come and go.
    Connect,
}

impl LoadArgs {
    /// The load that they ask for.
    ///
    /// # Errors
    /// What they ask for is too much, or does not go together.
    pub(super) fn plan(&self) -> Result<Plan, BenchError> {
        self.refuse_options_of_other_scenarios()?;
        let scenario = self.scenario();
        let stream = scenario == Scenario::Stream;
        let in_flight = self.in_flight.unwrap_or(match self.rate {
            Some(_) => OPEN_IN_FLIGHT,
            None if stream => 16,
            None => 1,
        });
        // The publisher is one more.
        let publishers = u32::from(scenario == Scenario::Broadcast);
        let connections = self.connections.unwrap_or(if stream { 16 } else { 1_000 }) + publishers;
        // With a rate no time is kept for each message, the schedule knows it.
        let kept = if self.rate.is_some() || publishers > 0 { 1 } else { u64::from(in_flight) };
        let outstanding = u64::from(connections) * kept;
        if outstanding > OUTSTANDING_MAX {
            return Err(BenchError::Outstanding { outstanding, limit: OUTSTANDING_MAX });
        }
        if let Scenario::Idle { server: Some(pid), .. } = scenario
            && !memory::can_be_seen(pid)
        {
            return Err(BenchError::ServerPid { pid });
        }
        Ok(Plan {
            scenario,
            connections,
            in_flight,
            rate: self.rate,
            ramp: self.ramp,
            size: self.size.clone().unwrap_or(Sizes::Fixed(if stream { 64 << 10 } else { 20 })),
            text: self.text,
            deflate: self.deflate,
            stop: self.messages.map_or(Stop::After(self.duration), Stop::Messages),
            warmup: self.warmup.unwrap_or(if self.messages.is_some() { Duration::ZERO } else { WARMUP }),
            timeout: self.timeout,
            workers: self.workers,
            cores: self.cores.clone(),
            seed: self.seed,
            series: false,
        })
    }

    fn scenario(&self) -> Scenario {
        match self.scenario {
            ScenarioName::Echo => Scenario::Echo,
            ScenarioName::Stream => Scenario::Stream,
            ScenarioName::Broadcast => Scenario::Broadcast,
            ScenarioName::Connect => Scenario::Connect { echoes: self.echoes.unwrap_or(1) },
            ScenarioName::Idle => {
                let every =
                    self.active.filter(|percent| *percent > 0.0).map(|percent| (100.0 / percent).round());
                Scenario::Idle { active: every.unwrap_or_default() as u32, server: self.server_pid }
            }
        }
    }

    fn refuse_options_of_other_scenarios(&self) -> Result<(), BenchError> {
        let which = self.scenario;
        let (connect, idle) = (which == ScenarioName::Connect, which == ScenarioName::Idle);
        let given = [
            ("--echoes", self.echoes.is_some() && !connect),
            ("--in-flight", self.in_flight.is_some_and(|in_flight| in_flight > 1) && connect),
            ("--rate", self.rate.is_some() && connect),
            ("--ramp", !self.ramp.is_zero() && connect),
            ("--active", self.active.is_some() && !idle),
            ("--server-pid", self.server_pid.is_some() && !idle),
            ("--messages", self.messages.is_some() && idle),
        ];
        let scenario = self.scenario().name();
        refuse(given, |option| BenchError::OptionOfOtherScenario { option, scenario })
    }
}

/// Addresses to connect from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sources(pub(super) Vec<IpAddr>);

impl FromStr for Sources {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("{text:?} is neither an address nor a network such as 127.0.1.0/24");
        if !text.contains('/') {
            return text.parse().map(|addr| Sources(vec![addr])).map_err(|_| error());
        }
        let Cidr { addr, prefix } = text.parse().map_err(|_| error())?;
        let bits = if addr.is_ipv4() { 32 } else { 128 } - u32::from(prefix);
        if bits > SOURCE_BITS_MAX {
            return Err(format!("{text:?} has too many addresses; at most 2^{SOURCE_BITS_MAX}"));
        }
        // A network's first address is its name, and its last one in IPv4 everybody's.
        let hosts = if bits > 1 { 1..(1u32 << bits) - 1 } else { 0..1 << bits };
        let nth = |host: u32| match addr {
            IpAddr::V4(addr) => IpAddr::from((u32::from(addr) >> bits << bits | host).to_be_bytes()),
            IpAddr::V6(addr) => {
                IpAddr::from((u128::from(addr) >> bits << bits | u128::from(host)).to_be_bytes())
            }
        };
        Ok(Sources(hosts.map(nth).collect()))
    }
}

/// A rate on the command line.
fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.001..=1e9).contains(rate));
    rate.ok_or_else(|| "a number of messages a second is expected, 0.001 to 1e9, e.g. 100000".to_owned())
}

/// A share of the connections on the command line.
fn percent(text: &str) -> Result<f64, String> {
    let percent =
        text.parse::<f64>().ok().filter(|percent| *percent == 0.0 || (0.0001..=100.0).contains(percent));
    percent.ok_or_else(|| "0, or 0.0001 to 100 percent are expected, e.g. 1".to_owned())
}
