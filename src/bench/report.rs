//! The result of a run: one JSON object for scripts, a page of lines for people.

use super::crew::Outcome;
use super::memory::MemoryReport;
use super::plan::{Plan, Scenario};
use super::series::Series;
use super::sizes::Sizes;
use super::tally::{Cause, Tally};
use super::usage::{Machine, Usage};
use crate::port::fault::{self, FaultConfig};
use crate::time::Duration;
use serde::Serialize;
use std::collections::BTreeMap;

/// Frames under way because of a delay, each way; what is above that is dropped.
const DELAYED_FRAMES_MAX: usize = 8_192;
/// A thread that is busy for longer is itself the limit.
const SATURATED_PERCENT: f64 = 97.0;

/// Everything a run found out. Field names with a unit carry it last.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this program.
    pub version: &'static str,
    /// How the messages travelled.
    pub mode: Mode,
    /// The server's URL; none when the server is in the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The engine's port; none over kernel sockets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,

    /// What was done over and over. With `connect`, `messages` counts connections opened, and `rtt_us` is the time from SYN to the
    /// answer to the upgrade request; with `broadcast`, they are deliveries, and the time from publishing to each.
    pub scenario: &'static str,
    /// Messages in the life of a connection; with `connect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub echoes: Option<u32>,
    /// Connections in all; with `connect`, at a time; with `broadcast`, subscribers.
    pub connections: u32,
    /// Messages on their way per connection.
    pub in_flight: u32,
    /// Messages a second that were asked for; none for a closed loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Payload of the messages, bytes.
    pub size: Sizes,
    /// Text messages instead of binary ones.
    pub text: bool,
    /// Generator threads.
    pub workers: usize,
    /// Who computes and verifies TCP checksums: `software`, `trust` (nobody) or `kernel`.
    pub checksum: String,
    /// The generator's congestion control.
    pub congestion: String,
    /// With TLS.
    pub tls: bool,
    /// With permessage-deflate, and payloads that compress.
    pub deflate: bool,
    /// Largest IP packet, bytes; none over kernel sockets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<usize>,
    /// Faults put into the path on purpose, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub faults: Option<Faults>,

    /// How long it took to open all connections, with `--ramp` as long as that at least; none where opening them is the load.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opening_seconds: Option<f64>,
    /// How long was measured.
    pub seconds: f64,
    /// Replies within that time, each verified byte for byte and in order.
    pub messages: u64,
    /// Replies per second.
    pub messages_per_second: f64,
    /// Payload per second and direction, bytes.
    pub payload_bytes_per_second: f64,
    /// The same in bits.
    pub gbit_per_second: f64,
    /// Messages published per second; with `broadcast`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published_per_second: Option<f64>,
    /// Round-trip times, microseconds; with a rate, from the moment at which each message was due.
    pub rtt_us: Rtt,
    /// The same over time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub series: Vec<PartReport>,
    /// What the connections took; with `idle`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryReport>,

    /// Errors over the whole run.
    pub errors: u64,
    /// The same by cause, with the first example of each.
    pub errors_by_cause: BTreeMap<&'static str, ErrorReport>,
    /// Messages that will have no reply, because their connections failed.
    pub lost: u64,
    /// Messages that were due in the measured time and not sent: server or generator could not keep up with the rate. The times
    /// have them with the least that they took.
    pub unsent: u64,

    /// Time of the server's polls that did work, per message, nanoseconds; where the server is in the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_busy_ns_per_message: Option<f64>,
    /// What each server thread got of its core; where the server is in the process.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<ThreadReport>,
    /// CPU time of all generator threads per message, nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generator_cpu_ns_per_message: Option<f64>,
    /// What each generator thread got of its core.
    pub generators: Vec<ThreadReport>,
    /// Round trip of one cache line between a server's and a generator's core, nanoseconds; when both are pinned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub core_to_core_ns: Option<f64>,
    /// The machine.
    pub machine: Machine,
}

/// How the messages travelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Server and clients in this process, over the in-process wire.
    Wire,
    /// Ordinary kernel sockets.
    Kernel,
    /// The engine's own client over a port.
    Port,
}

/// Faults put into the path, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Faults {
    /// Probability that a frame is lost.
    pub loss: f64,
    /// Probability that a frame is overtaken by later ones.
    pub reorder: f64,
    /// Probability that a frame is sent twice.
    pub duplicate: f64,
    /// Probability that a bit of a frame is flipped.
    pub corrupt: f64,
    /// Delay of every frame, microseconds.
    pub delay_us: u64,
    /// Seed of the dice.
    pub seed: u64,
}

/// Round-trip times in microseconds; all zero when there was no reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rtt {
    /// Least.
    pub min: f64,
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90 of 100 are no longer.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1,000.
    pub p99_9: f64,
    /// 9,999 of 10,000.
    pub p99_99: f64,
    /// Greatest.
    pub max: f64,
}

/// One cause of errors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorReport {
    /// How often.
    pub count: u64,
    /// The first one, in words.
    pub first: String,
}

/// One part of the measured time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PartReport {
    /// Its end, from the beginning of measuring, seconds.
    pub until_seconds: f64,
    /// Messages a second.
    pub messages_per_second: f64,
    /// Median, microseconds.
    pub p50: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1,000.
    pub p99_9: f64,
    /// Greatest.
    pub max: f64,
}

/// One thread's share of its core while it was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ThreadReport {
    /// Time on a core, seconds.
    pub cpu_seconds: f64,
    /// Time on a core, percent of the measured time.
    pub cpu_percent: f64,
    /// Time with something to do, percent of the measured time; of threads that never sleep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub busy_percent: Option<f64>,
    /// Time it waited for a core, percent of the measured time. Over 3 the run is better repeated.
    pub run_delay_percent: f64,
}

impl ThreadReport {
    /// `usage` in percent of `measured`.
    pub fn new(usage: Usage, measured: Duration) -> Self {
        let percent = |part: Duration| match measured {
            Duration::ZERO => 0.0,
            whole => round(100.0 * part.as_secs_f64() / whole.as_secs_f64(), 2),
        };
        ThreadReport {
            cpu_seconds: round(usage.cpu.as_secs_f64(), 6),
            cpu_percent: percent(usage.cpu),
            busy_percent: usage.busy.map(percent),
            run_delay_percent: percent(usage.run_delay),
        }
    }

    /// Whether the thread had no time left, so that it and not the server may have set the pace.
    pub(super) fn is_saturated(&self) -> bool {
        self.busy_percent.unwrap_or(self.cpu_percent) > SATURATED_PERCENT
    }
}

impl Faults {
    /// The same for the port of generator `index`: each way of the path is a direction of that port.
    pub fn config(&self, index: u64) -> FaultConfig {
        let defaults = fault::Faults::default();
        let way = fault::Faults {
            loss: self.loss,
            corruption: self.corrupt,
            duplication: self.duplicate,
            reordering: self.reorder,
            delay: Duration::from_micros(self.delay_us),
            held_frames_max: if self.delay_us > 0 { DELAYED_FRAMES_MAX } else { defaults.held_frames_max },
            ..defaults
        };
        FaultConfig { seed: self.seed.wrapping_add(index), rx: way.clone(), tx: way }
    }

    /// Frames that the port may hold back, both ways together.
    pub fn held_frames_max(&self) -> usize {
        let FaultConfig { rx, tx, .. } = self.config(0);
        rx.held_frames_max + tx.held_frames_max
    }
}

impl PartReport {
    fn all(series: &Series) -> Vec<PartReport> {
        let part = series.part().as_secs_f64();
        let report = |(index, latencies): (usize, &hdrhistogram::Histogram<u32>)| {
            let at = |quantile: f64| latencies.value_at_quantile(quantile) as f64 / 1e3;
            PartReport {
                until_seconds: round(part * (index + 1) as f64, 3),
                messages_per_second: round(latencies.len() as f64 / part, 1),
                p50: at(0.5),
                p99: at(0.99),
                p99_9: at(0.999),
                max: at(1.0),
            }
        };
        series.parts().iter().enumerate().map(report).collect()
    }
}

impl Rtt {
    fn of(tally: &Tally) -> Rtt {
        let rtt = &tally.rtt;
        if rtt.is_empty() {
            return Rtt::default();
        }
        let micros = |nanos: u64| nanos as f64 / 1e3;
        let at = |quantile: f64| micros(rtt.value_at_quantile(quantile));
        Rtt {
            min: micros(rtt.min()),
            mean: round(rtt.mean() / 1e3, 3),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: micros(rtt.max()),
        }
    }
}

impl Report {
    /// The report of `plan`, carried out as `mode`, that took `measured` and came to `outcome`.
    /// What only some modes know is left out.
    pub fn new(plan: &Plan, mode: Mode, measured: Duration, outcome: &Outcome) -> Report {
        let tally = &outcome.tally;
        let seconds = measured.as_secs_f64();
        let each_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let cpu: Duration = outcome.usage.iter().map(|usage| usage.cpu).sum();
        let error = |(cause, error): (Cause, &super::tally::ErrorCount)| {
            (cause.name(), ErrorReport { count: error.count, first: error.first.clone().into_owned() })
        };
        Report {
            version: env!("CARGO_PKG_VERSION"),
            mode,
            url: None,
            port: None,
            scenario: plan.scenario.name(),
            echoes: match plan.scenario {
                Scenario::Connect { echoes } => Some(echoes),
                _ => None,
            },
            connections: plan.connections - u32::from(plan.scenario == Scenario::Broadcast),
            rate: plan.rate,
            in_flight: plan.in_flight,
            size: plan.size.clone(),
            text: plan.text,
            deflate: plan.deflate,
            workers: outcome.usage.len(),
            checksum: String::new(),
            congestion: String::new(),
            mtu: None,
            tls: false,
            faults: None,
            opening_seconds: outcome
                .seen
                .opening
                .filter(|_| !matches!(plan.scenario, Scenario::Connect { .. }))
                .map(|opening| round(opening.as_secs_f64(), 3)),
            seconds: round(seconds, 6),
            messages: tally.messages,
            messages_per_second: round(each_second(tally.messages), 1),
            payload_bytes_per_second: round(each_second(tally.payload_bytes), 1),
            gbit_per_second: round(each_second(tally.payload_bytes) * 8.0 / 1e9, 3),
            published_per_second: (plan.scenario == Scenario::Broadcast)
                .then(|| round(each_second(tally.published), 1)),
            rtt_us: Rtt::of(tally),
            series: tally.series.as_ref().map(PartReport::all).unwrap_or_default(),
            memory: outcome.seen.memory,
            errors: tally.errors(),
            errors_by_cause: tally.errors_by_cause().map(error).collect(),
            lost: tally.lost,
            unsent: tally.unsent,
            server_busy_ns_per_message: None,
            servers: Vec::new(),
            generator_cpu_ns_per_message: (tally.messages > 0)
                .then(|| round(cpu.as_nanos() as f64 / tally.messages as f64, 1)),
            generators: outcome.usage.iter().map(|usage| ThreadReport::new(*usage, measured)).collect(),
            core_to_core_ns: None,
            machine: Machine::this(),
        }
    }

    /// The servers of this process were at work for `busy` while it was measured.
    pub fn set_server_busy(&mut self, busy: Duration) {
        if self.messages > 0 {
            self.server_busy_ns_per_message = Some(round(busy.as_nanos() as f64 / self.messages as f64, 1));
        }
    }

    /// The report as one JSON object on one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a report has only string keys and finite numbers")
    }
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::super::plan::Stop;
    use super::*;
    use crate::time::Instant;

    fn report() -> Report {
        let plan = Plan::small(1_000, 2, Stop::After(Duration::from_secs(2)));
        let mut outcome = Outcome::default();
        let mut tally = Tally::default();
        for micros in 1..=1_000 {
            tally.reply(Instant::from_millis(1), Duration::from_micros(micros));
        }
        tally.error(Cause::Corrupt, || "the reply differs from byte 3 on".into());
        let usage = Usage { cpu: Duration::from_secs(1), run_delay: Duration::from_millis(100), busy: None };
        outcome.add((tally, usage));
        Report::new(&plan, Mode::Kernel, Duration::from_secs(2), &outcome)
    }

    #[test]
    fn the_json_has_the_fields_that_scripts_rely_on() {
        let json: serde_json::Value = serde_json::from_str(&report().to_json()).unwrap();
        assert_eq!(json["messages_per_second"], 500.0);
        assert_eq!((&json["messages"], &json["errors"]), (&1_000.into(), &1.into()));
        assert_eq!((&json["connections"], &json["in_flight"]), (&1_000.into(), &2.into()));
        assert_eq!(
            (&json["size"], &json["seconds"], &json["mode"]),
            (&20.into(), &2.0.into(), &"kernel".into())
        );
        assert_eq!(json["errors_by_cause"]["corrupt"]["count"], 1);
        for (name, micros) in [("p50", 500.0), ("p99", 990.0), ("p99_9", 999.0), ("max", 1_000.0)] {
            let value = json["rtt_us"][name].as_f64().unwrap();
            assert!((value - micros).abs() / micros < 0.002, "{name} is {value}");
        }
        assert_eq!(json["generators"][0]["cpu_percent"], 50.0);
        assert_eq!(json["generators"][0]["run_delay_percent"], 5.0);
    }

    #[test]
    fn the_summary_tells_rate_percentiles_and_the_first_error() {
        let text = report().to_string();
        for part in [
            "500 messages/s",
            "1 errors",
            "p99.99",
            "1 x corrupt, first: the reply differs",
            "repeat the run",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn a_run_without_a_reply_has_zeros() {
        let plan = Plan::small(1, 1, Stop::Messages(1));
        let report = Report::new(&plan, Mode::Wire, Duration::ZERO, &Outcome::default());
        assert_eq!((report.messages_per_second, report.rtt_us), (0.0, Rtt::default()));
    }
}
