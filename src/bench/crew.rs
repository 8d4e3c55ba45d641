//! The generator threads and the one that supervises them: when measuring begins and ends, live progress.

use super::generator::Generator;
use super::memory::{MemoryReport, Sample};
use super::pattern::Pattern;
use super::plan::{Plan, Scenario, Stop};
use super::publication::Publication;
use super::tally::Tally;
use super::usage::Usage;
use super::{BenchError, Clock};
use crate::time::{Duration, Instant};
use crossbeam_utils::CachePadded;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::{Builder, Scope, ScopedJoinHandle};

/// How often the supervisor looks at its generators.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// When the load begins and when it is measured; set once every connection has been opened or has failed.
#[derive(Debug)]
pub struct Window {
    start: AtomicU64,
    from: AtomicU64,
    until: AtomicU64,
}

/// The instants of a [`Window`]; [`Instant::FAR_FUTURE`] stands for unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The first messages go.
    pub start: Instant,
    /// Measuring begins.
    pub from: Instant,
    /// Measuring and sending end.
    pub until: Instant,
}

impl Bounds {
    /// Nothing is known.
    pub const UNKNOWN: Bounds =
        Bounds { start: Instant::FAR_FUTURE, from: Instant::FAR_FUTURE, until: Instant::FAR_FUTURE };
}

impl Default for Window {
    /// Nothing is known.
    fn default() -> Self {
        let unknown = || AtomicU64::new(Instant::FAR_FUTURE.as_nanos());
        Window { start: unknown(), from: unknown(), until: unknown() }
    }
}

impl Window {
    /// Sets all bounds.
    pub fn open(&self, bounds: Bounds) {
        self.until.store(bounds.until.as_nanos(), Ordering::Relaxed);
        self.from.store(bounds.from.as_nanos(), Ordering::Relaxed);
        self.start.store(bounds.start.as_nanos(), Ordering::Release);
    }

    /// Ends everything at `now`, unless it has ended before.
    pub fn close(&self, now: Instant) {
        for bound in [&self.until, &self.from, &self.start] {
            bound.fetch_min(now.as_nanos(), Ordering::Release);
        }
    }

    /// What is known.
    pub fn bounds(&self) -> Bounds {
        let start = Instant::from_nanos(self.start.load(Ordering::Acquire));
        let from = Instant::from_nanos(self.from.load(Ordering::Relaxed));
        Bounds { start, from, until: Instant::from_nanos(self.until.load(Ordering::Relaxed)) }
    }
}

/// Where one generator shows how far it is. It alone writes.
#[derive(Debug, Default)]
pub struct Board {
    open: AtomicU32,
    settled: AtomicU32,
    unmeasured: AtomicU64,
    measured: AtomicU64,
}

impl Board {
    /// Shows connections open now, connections that were opened or failed to, and replies before and within the
    /// measured time.
    pub fn publish(&self, open: u32, settled: u32, unmeasured: u64, measured: u64) {
        self.open.store(open, Ordering::Relaxed);
        self.settled.store(settled, Ordering::Relaxed);
        self.unmeasured.store(unmeasured, Ordering::Relaxed);
        self.measured.store(measured, Ordering::Relaxed);
    }

    /// Connections open now.
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections that were opened or failed to.
    pub fn settled(&self) -> u32 {
        self.settled.load(Ordering::Relaxed)
    }

    /// All replies.
    pub fn replies(&self) -> u64 {
        self.unmeasured.load(Ordering::Relaxed) + self.measured()
    }

    /// Replies within the measured time.
    pub fn measured(&self) -> u64 {
        self.measured.load(Ordering::Relaxed)
    }
}

/// What a run is doing just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Connections are being opened.
    Connecting,
    /// All are open, nothing is measured yet.
    WarmingUp,
    /// Replies count.
    Measuring,
    /// Waiting for the last replies.
    Draining,
}

/// How far a run is, over all its generators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// Since the run began.
    pub elapsed: Duration,
    /// Expected until its end; `None` while nothing is known.
    pub remaining: Option<Duration>,
    /// Connections open now.
    pub open: u32,
    /// Replies so far, those of the warm-up included.
    pub replies: u64,
}

/// The generators of one run.
#[derive(Debug)]
pub struct Crew {
    window: Arc<Window>,
    boards: Vec<Arc<CachePadded<Board>>>,
    plan: Plan,
    clock: Clock,
}

impl Crew {
    /// A crew for `plan`, with a generator for each of its shares.
    pub fn new(plan: &Plan, clock: Clock) -> (Crew, Vec<Generator>) {
        let window = Arc::new(Window::default());
        let pattern = Arc::new(Pattern::new(plan));
        let publication = Arc::new(Publication::new(plan.in_flight));
        let (boards, generators) = plan
            .shares()
            .into_iter()
            .map(|share| {
                let board = Arc::new(CachePadded::new(Board::default()));
                let (pattern, window) = (Arc::clone(&pattern), Arc::clone(&window));
                (Arc::clone(&board), Generator::new(plan, share, pattern, window, board, &publication))
            })
            .unzip();
        (Crew { window, boards, plan: plan.clone(), clock }, generators)
    }

    /// When the load begins and is measured.
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// Starts the load when every connection is settled, ends it when `interrupted`, reports to `observer`;
    /// returns when `finished` says that every generator has ended.
    pub fn supervise(
        &self,
        interrupted: impl Fn() -> bool,
        mut finished: impl FnMut() -> bool,
        observer: &mut dyn FnMut(Progress),
    ) -> Seen {
        let begun = self.clock.now();
        let mut opened = false;
        let held = match self.plan.scenario {
            Scenario::Idle { server, .. } => Some((server, Sample::take(server))),
            _ => None,
        };
        let mut seen = Seen::default();
        while !finished() {
            let now = self.clock.now();
            if interrupted() {
                self.window.close(now);
            } else if !opened && self.sum(Board::settled) >= u64::from(self.plan.connections) {
                opened = true;
                seen.opening = Some(now - begun);
                self.window.open(self.plan.bounds(now));
            }
            if let Some((server, before)) = &held
                && seen.memory.is_none()
                && now >= self.ends_at()
            {
                seen.memory = Sample::take(*server).since(before, self.sum(Board::open));
                self.window.close(self.clock.now());
            }
            observer(self.progress(begun, now));
            std::thread::sleep(LOOK_INTERVAL);
        }
        seen
    }

    /// When measuring is to end, by time; [`Instant::FAR_FUTURE`] while that is not known.
    fn ends_at(&self) -> Instant {
        let Bounds { from, until, .. } = self.window.bounds();
        match self.plan.stop {
            Stop::After(duration) => until.min(from + duration),
            Stop::Messages(_) => until,
        }
    }

    /// How long was measured, given the merged counts of all generators.
    pub fn measured(&self, tally: &Tally) -> Duration {
        let Bounds { from, until, .. } = self.window.bounds();
        let end = match self.plan.stop {
            // The last replies of an open loop count, however late they are.
            Stop::After(_) if self.plan.rate.is_some() && tally.messages > 0 => {
                until.max(tally.last_reply_at)
            }
            Stop::After(_) => until.min(tally.ended_at),
            Stop::Messages(_) => tally.last_reply_at,
        };
        end.saturating_since(from)
    }

    fn sum(&self, count: impl Fn(&Board) -> u32) -> u64 {
        self.boards.iter().map(|board| u64::from(count(board))).sum()
    }

    fn progress(&self, begun: Instant, now: Instant) -> Progress {
        let Bounds { from, until, .. } = self.window.bounds();
        let phase = match () {
            () if now >= until => Phase::Draining,
            () if now >= from => Phase::Measuring,
            () if from < Instant::FAR_FUTURE => Phase::WarmingUp,
            () => Phase::Connecting,
        };
        let measured: u64 = self.boards.iter().map(|board| board.measured()).sum();
        let ends_at = self.ends_at();
        let remaining = match self.plan.stop {
            Stop::After(_) if ends_at < Instant::FAR_FUTURE => Some(ends_at - now),
            Stop::After(duration) => self.expected_opening(now - begun).map(|opening| {
                let rise = if self.plan.rate.is_some() { self.plan.ramp } else { Duration::ZERO };
                opening + rise + self.plan.warmup + duration
            }),
            Stop::Messages(messages) if phase == Phase::Measuring && measured > 0 => {
                let subscribers = match self.plan.scenario {
                    Scenario::Broadcast => u64::from(self.plan.connections.saturating_sub(1)),
                    _ => 1,
                };
                let all = messages.saturating_mul(subscribers);
                let left = all.saturating_sub(measured) as f64 / measured as f64;
                Some((now - from).mul_f64(left))
            }
            Stop::Messages(_) => None,
        };
        Progress {
            phase,
            elapsed: now - begun,
            remaining,
            open: u32::try_from(self.sum(Board::open)).unwrap_or(u32::MAX),
            replies: self.boards.iter().map(|board| board.replies()).sum(),
        }
    }
}

impl Crew {
    /// How much longer opening the connections will take, if it goes on as it has for `elapsed`.
    fn expected_opening(&self, elapsed: Duration) -> Option<Duration> {
        let settled = self.sum(Board::settled);
        let left = u64::from(self.plan.connections).saturating_sub(settled);
        (settled > 0).then(|| elapsed.mul_f64(left as f64 / settled as f64))
    }
}

/// What the supervisor of a run saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// How long it took until every connection was open or had failed; `None` when the run was ended before.
    pub opening: Option<Duration>,
    /// What the connections took, where they were held.
    pub memory: Option<MemoryReport>,
}

/// What the generators of a run counted.
#[derive(Debug, Default)]
pub struct Outcome {
    /// All counts.
    pub tally: Tally,
    /// What each generator thread got of its core.
    pub usage: Vec<Usage>,
    /// What their supervisor saw.
    pub seen: Seen,
}

impl Outcome {
    /// Adds a generator's result.
    pub fn add(&mut self, (tally, usage): (Tally, Usage)) {
        self.tally.merge(&tally);
        self.usage.push(usage);
    }
}

/// Starts a thread of the run under a name that profilers and `top -H` show, at most 15 bytes.
///
/// # Errors
/// When the kernel gives no thread.
pub fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: String,
    body: impl FnOnce() -> Result<T, BenchError> + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, Result<T, BenchError>>, BenchError> {
    Builder::new()
        .name(name)
        .spawn_scoped(scope, body)
        .map_err(|source| BenchError::Kernel { what: "no thread", source })
}

/// What a thread of the run came to; its panic goes on here.
///
/// # Errors
/// Its error.
pub fn join<T>(thread: ScopedJoinHandle<'_, Result<T, BenchError>>) -> Result<T, BenchError> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The entry of a list of cores that is gone through in turn; `None` when it is empty.
pub fn in_turn(cores: &[usize], index: usize) -> Option<usize> {
    cores.get(index % cores.len().max(1)).copied()
}

/// Pins the calling thread to a core, if there is one.
///
/// # Errors
/// See [`pin`].
pub fn pin_to(core: Option<usize>) -> Result<(), BenchError> {
    core.map_or(Ok(()), pin)
}

/// Checks that this process may use all these cores, before anything depends on it.
///
/// # Errors
/// The first one that it may not use.
pub fn check_cores(cores: &[usize]) -> Result<(), BenchError> {
    let usable = || core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id);
    match cores.iter().find(|core| !usable().any(|usable| usable == **core)) {
        Some(&core) => Err(BenchError::Core { core, usable: usable().collect() }),
        None => Ok(()),
    }
}

/// Pins the calling thread to a core.
///
/// # Errors
/// When the kernel refuses.
pub fn pin(core: usize) -> Result<(), BenchError> {
    if core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        return Ok(());
    }
    check_cores(&[core])?;
    Err(BenchError::Kernel { what: "a thread cannot be pinned", source: std::io::Error::last_os_error() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(micros: [u64; 3]) -> Bounds {
        let [start, from, until] = micros.map(Instant::from_micros);
        Bounds { start, from, until }
    }

    #[test]
    fn a_window_that_was_closed_early_stays_so() {
        let window = Window::default();
        assert_eq!(window.bounds(), Bounds::UNKNOWN);
        window.open(bounds([5, 10, 90]));
        window.close(Instant::from_micros(50));
        window.close(Instant::from_micros(70));
        assert_eq!(window.bounds(), bounds([5, 10, 50]));
    }

    #[test]
    fn an_interruption_before_the_window_measures_nothing() {
        let window = Window::default();
        window.close(Instant::from_micros(5));
        assert_eq!(window.bounds(), bounds([5, 5, 5]));
    }
}
