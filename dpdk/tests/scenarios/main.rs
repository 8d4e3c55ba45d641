//! Everything here runs against the real DPDK on ports of software. EAL starts once per process, so each scenario is a
//! process of its own, and one that needs a peer starts it as another.
//!
//! `cargo test -p unsocket-dpdk [-- NAME]`, as root. Memory is ordinary pages; `DPDK_MEMORY=huge` takes hugepages.

mod errors;
mod memif;
mod memory;
mod ports;
mod support;

use std::io::Read;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use support::wait_for_exit;

/// Longer than any scenario takes on a loaded machine.
const TIME_MAX: Duration = Duration::from_secs(60);

type Scenario = (&'static str, fn());

const SCENARIOS: &[Scenario] = &[
    ("eal_starts_once_and_logs_to_tracing", errors::starts_once),
    ("hugepages_or_a_clear_error", errors::hugepages_or_error),
    ("wrong_argument", errors::wrong_argument),
    ("secondary_without_primary", errors::secondary),
    ("absent_pci_device", errors::absent_pci),
    ("unknown_driver", errors::unknown_driver),
    ("wrong_devargs", errors::wrong_devargs),
    ("mempool_counts", memory::counts),
    ("mbufs_outlive_their_pool_and_eal", memory::outlive),
    ("mbuf_data_and_length", memory::data),
    ("threads_register_and_free_for_each_other", memory::threads),
    ("ring_loopback", ports::ring_loopback),
    ("ring_full_keeps_frames_with_the_caller", ports::ring_full),
    ("null_port_gives_every_mbuf_back", ports::null),
    ("port_is_set_up_within_its_capabilities", ports::capabilities),
    ("port_mac_and_rss_table", ports::mac_and_rss_table),
    ("port_has_one_owner", ports::one_owner),
    ("frames_that_cannot_be_sent_are_refused", ports::refused),
    ("memif_frames_byte_for_byte", memif::byte_for_byte),
    ("memif_chains_are_linearized", memif::chains),
    ("memif_peer_is_killed_and_comes_back", memif::killed),
];

/// What a scenario's second process runs.
const PEERS: &[Scenario] = &[("echo", memif::echo_peer), ("digest", memif::digest_peer)];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--run", name, ..] => run_here(SCENARIOS, name),
        ["--peer", name, ..] => run_here(PEERS, name),
        _ => run_all(arguments.iter().find(|argument| !argument.starts_with('-')).map_or("", String::as_str)),
    }
}

fn run_here(table: &[Scenario], name: &str) -> ExitCode {
    let (_, run) = table.iter().find(|(known, _)| *known == name).expect("a name from the table");
    run();
    ExitCode::SUCCESS
}

fn run_all(filter: &str) -> ExitCode {
    let chosen: Vec<_> = SCENARIOS.iter().filter(|(name, _)| name.contains(filter)).collect();
    println!("\nrunning {} scenarios on {:?}", chosen.len(), support::memory());
    let mut failed = 0;
    for (name, _) in &chosen {
        let started = Instant::now();
        let outcome = run_apart(name);
        let seconds = started.elapsed().as_secs_f32();
        match outcome {
            Ok(()) => println!("scenario {name} ... ok ({seconds:.1} s)"),
            Err(said) => {
                failed += 1;
                println!("scenario {name} ... FAILED ({seconds:.1} s)\n{said}");
            }
        }
    }
    println!("\nscenario result: {} passed; {failed} failed", chosen.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a scenario in a process of its own; on failure, what it wrote.
fn run_apart(name: &str) -> Result<(), String> {
    let mut child = Command::new(std::env::current_exe().expect("our own path"))
        .args(["--run", name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let mut output = child.stdout.take().expect("piped");
    let mut errors = child.stderr.take().expect("piped");
    let readers =
        [std::thread::spawn(move || drain(&mut output)), std::thread::spawn(move || drain(&mut errors))];
    let status = wait_for_exit(&mut child, TIME_MAX);
    let said: String = readers.into_iter().map(|reader| reader.join().unwrap_or_default()).collect();
    match status {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!("{status}\n{said}")),
        None => Err(format!("still running after {TIME_MAX:?}\n{said}")),
    }
}

fn drain(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    // A peer killed in mid-line leaves half a character.
    let _ = from.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}
