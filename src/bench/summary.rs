//! The result of a run as a page of lines for people.

use super::report::{Faults, Mode, Report, Rtt, ThreadReport};
use std::fmt;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { connections, in_flight, size, seconds, .. } = self;
        let kind = if self.text { "text" } else { "binary" };
        let kind = if self.deflate { format!("{kind}, compressed") } else { kind.to_owned() };
        let connections = thousands(u64::from(*connections));
        let (what, counted, timed) = match (self.scenario, self.echoes) {
            (_, Some(echoes)) => (
                format!(
                    "{connections} connections at a time, opened, used for {echoes} x {size} B {kind}, closed"
                ),
                "connections opened",
                "opening",
            ),
            ("broadcast", _) => (
                format!("1 publisher, {connections} subscribers x {in_flight} in flight x {size} B {kind}"),
                "deliveries",
                "delivery",
            ),
            ("idle", _) => (format!("{connections} connections held"), "messages", "RTT"),
            _ => (
                format!("{connections} connections x {in_flight} in flight x {size} B {kind}"),
                "messages",
                "RTT",
            ),
        };
        writeln!(f, "{what}, {seconds:.2} s measured")?;
        if let Some(rate) = self.rate {
            let rate = thousands(rate as u64);
            writeln!(f, "open loop, {rate} messages/s asked for, timed from when each was due")?;
        }
        writeln!(f, "{}", self.path())?;
        if let Some(faults) = self.faults {
            writeln!(f, "{faults}")?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "  {} {counted}/s   {} {counted}   {} errors",
            thousands(self.messages_per_second as u64),
            thousands(self.messages),
            thousands(self.errors)
        )?;
        if self.payload_bytes_per_second > 0.0 {
            let (megabytes, gbit) = (self.payload_bytes_per_second / 1e6, self.gbit_per_second);
            writeln!(f, "  {megabytes:.1} MB/s = {gbit:.3} Gbit/s of payload each way")?;
        }
        if let Some(published) = self.published_per_second {
            writeln!(f, "  {} messages published/s, each to all subscribers", thousands(published as u64))?;
        }
        if self.unsent > 0 {
            writeln!(
                f,
                "  {} messages were due and not sent: the rate was not kept up with",
                thousands(self.unsent)
            )?;
        }
        writeln!(f)?;
        if self.messages > 0 {
            self.rtt_us.write(f, timed)?;
            writeln!(f)?;
        }
        if let Some(opening) = self.opening_seconds.filter(|opening| *opening > 0.0) {
            let rate = f64::from(self.connections) / opening;
            writeln!(f, "  opening       {opening:.2} s, {} connections/s", thousands(rate as u64))?;
        }
        if let Some(memory) = &self.memory {
            writeln!(f, "  {memory}")?;
        }
        if let Some(busy) = self.server_busy_ns_per_message {
            writeln!(f, "  server busy   {busy:.1} ns a message")?;
        }
        if let Some(round_trip) = self.core_to_core_ns {
            writeln!(f, "  cache line    {round_trip:.0} ns from core to core and back")?;
        }
        if let Some(cpu) = self.generator_cpu_ns_per_message {
            writeln!(f, "  generator CPU {cpu:.1} ns a message")?;
        }
        for (role, threads) in [("server", &self.servers), ("generator", &self.generators)] {
            for (index, thread) in threads.iter().enumerate() {
                writeln!(f, "  {role} {index:<4} {thread}")?;
            }
        }
        if self.generators.iter().any(ThreadReport::is_saturated) {
            writeln!(
                f,
                "  a generator thread had no time left: it may be the limit, not the server; give it --workers"
            )?;
        }
        writeln!(
            f,
            "  machine       {}, {} cores, {}",
            self.machine.cpu, self.machine.cores, self.machine.kernel
        )?;
        self.write_errors(f)
    }
}

impl Report {
    fn path(&self) -> String {
        let url = self.url.as_deref().unwrap_or_default();
        let (checksum, congestion) = (&self.checksum, &self.congestion);
        let mtu = self.mtu.unwrap_or_default();
        match self.mode {
            Mode::Wire => format!(
                "server and clients in one process over the wire, MTU {mtu}, congestion control {congestion}, checksums {checksum}"
            ),
            Mode::Kernel => format!("{url} over kernel sockets, congestion control {congestion}"),
            Mode::Port => format!(
                "{url} over {}, MTU {mtu}, congestion control {congestion}, checksums {checksum}",
                self.port.as_deref().unwrap_or_default()
            ),
        }
    }

    fn write_errors(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.errors == 0 {
            return Ok(());
        }
        writeln!(f)?;
        for (cause, error) in &self.errors_by_cause {
            writeln!(f, "  {} x {cause}, first: {}", thousands(error.count), error.first)?;
        }
        if self.lost > 0 {
            writeln!(f, "  {} messages without a reply", thousands(self.lost))?;
        }
        Ok(())
    }
}

impl Rtt {
    /// One line each, with `what` was timed.
    fn write(&self, f: &mut fmt::Formatter<'_>, what: &str) -> fmt::Result {
        for (name, value) in [
            ("min", self.min),
            ("mean", self.mean),
            ("p50", self.p50),
            ("p90", self.p90),
            ("p99", self.p99),
            ("p99.9", self.p99_9),
            ("p99.99", self.p99_99),
            ("max", self.max),
        ] {
            writeln!(f, "  {what} {name:<7}{value:>14.2} us")?;
        }
        Ok(())
    }
}

impl fmt::Display for ThreadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.2} s = {:.0} % of a core, kept waiting for it {:.2} %",
            self.cpu_seconds, self.cpu_percent, self.run_delay_percent
        )?;
        if let Some(busy) = self.busy_percent {
            write!(f, ", busy {busy:.0} %")?;
        }
        if self.run_delay_percent > 3.0 {
            f.write_str(" (too much: repeat the run on an idle machine)")?;
        }
        Ok(())
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Faults { loss, reorder, duplicate, corrupt, delay_us, seed } = self;
        write!(
            f,
            "faults each way: {} % lost, {} % reordered, {} % duplicated, {} % corrupted, {delay_us} us delay, seed {seed}",
            loss * 100.0,
            reorder * 100.0,
            duplicate * 100.0,
            corrupt * 100.0
        )
    }
}

/// `value` with a comma before every three digits.
pub fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_three() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(thousands),
            ["0", "999", "1,000", "1,234,567"].map(str::to_owned)
        );
    }
}
