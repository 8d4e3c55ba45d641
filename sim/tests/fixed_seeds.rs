//! Worlds that must always go well, and the same way each time.

use unsocket_sim::{Fleet, Replay, examine, run_fleet};

/// Trace hashes of three worlds.
const HASHES: [u64; 3] = [0x8332_df99_c16e_c05a, 0x50a4_4ca5_0292_d9bc, 0x50cc_7996_3734_89fd];

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[test]
fn fixed_seeds_break_no_rule() {
    // A debug build has the arithmetic checks, a release the speed.
    let until = if cfg!(debug_assertions) { 40 } else { 600 };
    let fleet = Fleet { from: 0, until, time_limit: None, threads: threads() };
    let totals = run_fleet(&fleet, |_, _| {}, |_, _| {});
    assert_eq!(totals.worlds, until);
    assert!(totals.failures.is_empty(), "scripts/simulate --seed N shows each: {:#?}", totals.failures);
    // What excuses a connection is narrow: most worlds have faults or adversaries, few connections need an excuse.
    let excused: u64 = totals.excused.values().sum();
    assert!(
        excused * 10 < totals.judged,
        "{excused} of {} connections excused: {:?}",
        totals.judged,
        totals.excused
    );
    let evicted = totals.excused.get("half-open eviction").copied().unwrap_or(0);
    assert!(evicted * 100 < totals.judged, "{evicted} of {} connections evicted", totals.judged);
    assert!(totals.messages > 100 * until, "worlds in which little happens: {totals:?}");
}

#[test]
fn a_seed_is_a_world() {
    // The same in every build and process: `hash` covers every frame, burst and message.
    let hashes = [7, 8, 11].map(|seed| {
        let world = |lines| examine(&Replay { seed, lines, ..Replay::default() });
        let (once, twice) = (world(0), world(10));
        assert_eq!(once.broken, None);
        assert_eq!(once.hash, twice.hash, "seed {seed}: reading along changes nothing");
        once.hash
    });
    assert_eq!(hashes, HASHES, "after a change of the engine or the worlds, write {hashes:#018x?} here");
}
