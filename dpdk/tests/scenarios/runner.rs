//! Runs scenarios, each in a process of its own: EAL starts once per process. Shared with the port tests of the engine.

use std::io::Read;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Longer than any scenario takes on a loaded machine.
const TIME_MAX: Duration = Duration::from_secs(60);

/// A name and what it runs.
pub(crate) type Scenario = (&'static str, fn());

/// The test's `main`. `peers` are what a scenario may start as its second process, see [`Peer::start`].
pub(crate) fn main(scenarios: &[Scenario], peers: &[Scenario]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--run", name, ..] => run_here(scenarios, name),
        ["--peer", name, ..] => run_here(peers, name),
        _ => run_all(
            scenarios,
            arguments.iter().find(|argument| !argument.starts_with('-')).map_or("", String::as_str),
        ),
    }
}

/// What [`Peer::start`] was given, in the second process.
pub(crate) fn peer_arguments() -> Vec<String> {
    std::env::args().skip(3).collect()
}

/// A second process, ended with the scenario at the latest.
pub(crate) struct Peer(Child);

impl Peer {
    /// Starts our own program as `name` of the peers, with `arguments`. It should end when its standard input does, see
    /// [`until_stdin_ends`].
    pub(crate) fn start(name: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("our own path"));
        command.args(["--peer", name]).args(arguments).stdin(Stdio::piped());
        Self(command.spawn().expect("our own program starts"))
    }

    /// Asks it to end, and checks that it found everything in order.
    pub(crate) fn finish(mut self) {
        drop(self.0.stdin.take());
        let status = wait_for_exit(&mut self.0, Duration::from_secs(20)).expect("the peer ends");
        assert!(status.success(), "the peer: {status}");
    }

    /// Kills it in the midst of its work.
    pub(crate) fn kill(mut self) {
        self.0.kill().expect("our own child");
        self.0.wait().expect("our own child");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// Ends when the standard input does.
pub(crate) fn until_stdin_ends(mut work: impl FnMut()) {
    let ended = std::thread::spawn(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    while !ended.is_finished() {
        work();
        std::thread::yield_now();
    }
}

fn run_here(table: &[Scenario], name: &str) -> ExitCode {
    let (_, run) = table.iter().find(|(known, _)| *known == name).expect("a name from the table");
    run();
    ExitCode::SUCCESS
}

fn run_all(scenarios: &[Scenario], filter: &str) -> ExitCode {
    let chosen: Vec<_> = scenarios.iter().filter(|(name, _)| name.contains(filter)).collect();
    println!("\nrunning {} scenarios", chosen.len());
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

/// The status, or `None` when the child had to be killed.
fn wait_for_exit(child: &mut Child, at_most: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + at_most;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().expect("our own child") {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().expect("our own child");
    child.wait().expect("our own child");
    None
}
