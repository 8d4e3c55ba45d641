//! Deadlines of connections: a hierarchical timing wheel (Varghese and Lauck, 1987).
//!
//! Eight levels of 64 slots. A slot of level 0 is one tick wide, a slot of level `n` 64 times a slot of level `n - 1`,
//! so eight levels span every [`Instant`] there is. An entry lies on the level of the highest group of six bits in
//! which its tick differs from the current one; when time reaches its slot it fires or moves to a lower level, at most
//! seven times in its life. Bitmaps say which slots are occupied: a jump of hours or days visits those and no others,
//! and an entry that is not due costs nothing.
//!
//! Entries are 16 bytes, one for each key, linked within a flat vector: scheduling allocates nothing.

use crate::time::Instant;

/// Width of a tick: 2^17 ns, 131 us.
const TICK_BITS: u32 = 17;
const LEVEL_BITS: u32 = 6;
const LEVELS: usize = 8;
const SLOTS: usize = 1 << LEVEL_BITS;

/// In [`Entry::prev`]: the entry is not scheduled.
const IDLE: u32 = u32::MAX;
/// In [`Entry::next`]: the last of its list.
const END: u32 = u32::MAX;
/// In [`Entry::prev`]: the first of its list; the other bits name the list.
const HEAD: u32 = 1 << 31;
/// The list of entries that are due and were not handed out yet.
const DUE: usize = LEVELS * SLOTS;

#[derive(Clone, Copy)]
struct Entry {
    at: Instant,
    prev: u32,
    next: u32,
}

/// At most one deadline for each key under a fixed number.
pub(crate) struct TimerWheel {
    entries: Vec<Entry>,
    /// First entry of each slot's list, level by level, then that of the due ones.
    heads: [u32; DUE + 1],
    /// A bit for each slot of a level that is not empty.
    occupied: [u64; LEVELS],
    /// The tick up to which every entry has fired.
    tick: u64,
    keys_max: usize,
}

impl TimerWheel {
    /// A wheel for keys under `keys_max`. Memory is reserved here and touched as keys are used.
    ///
    /// # Panics
    /// When `keys_max` is over 2^31 - 1024.
    pub(crate) fn new(keys_max: usize, now: Instant) -> Self {
        assert!(keys_max <= (HEAD - 1_024) as usize, "{keys_max} timers are more than the wheel can link");
        TimerWheel {
            entries: Vec::with_capacity(keys_max),
            heads: [END; DUE + 1],
            occupied: [0; LEVELS],
            tick: tick_before(now),
            keys_max,
        }
    }

    /// Keys that have a deadline. Walks over all of them.
    pub(crate) fn len(&self) -> usize {
        self.entries.iter().filter(|entry| entry.prev != IDLE).count()
    }

    /// Sets the key's deadline; it replaces the one before.
    ///
    /// It fires within one tick of `at`, never before. A deadline in the past fires with the next tick, so that
    /// scheduling from within a [`Self::pop_due`] loop cannot make the loop endless.
    ///
    /// # Panics
    /// When the key is not under the wheel's `keys_max`.
    pub(crate) fn schedule(&mut self, key: u32, at: Instant) {
        let place = key as usize;
        assert!(place < self.keys_max, "timer key {place} in a wheel for {}", self.keys_max);
        if place >= self.entries.len() {
            self.entries.resize(place + 1, Entry { at: Instant::ZERO, prev: IDLE, next: END });
        }
        self.unlink(key);
        self.entries[place].at = at;
        self.link(key, self.slot(tick_after(at).max(self.tick + 1)));
    }

    /// Takes the key's deadline away, if it has one.
    pub(crate) fn cancel(&mut self, key: u32) {
        if (key as usize) < self.entries.len() {
            self.unlink(key);
        }
    }

    /// The key's deadline.
    pub(crate) fn scheduled(&self, key: u32) -> Option<Instant> {
        let entry = self.entries.get(key as usize)?;
        (entry.prev != IDLE).then_some(entry.at)
    }

    /// Takes one key whose deadline has passed, in no particular order; call it until there is none. A clock that
    /// goes back is taken to stand still.
    #[inline]
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<u32> {
        let now = tick_before(now);
        if self.heads[DUE] == END && now > self.tick {
            self.turn(now);
        }
        let key = self.heads[DUE];
        if key == END {
            return None;
        }
        self.unlink(key);
        Some(key)
    }

    /// When [`Self::pop_due`] next has something to do: no later than the earliest entry's tick, and earlier by no more
    /// than the width of the slot that the entry lies in.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        if self.heads[DUE] != END {
            return Some(tick_start(self.tick));
        }
        self.next_slot().map(|(_, start)| tick_start(start))
    }

    /// Moves time on to tick `now`, and what has become due to its list. All the way at once: were the wheel to stop
    /// at the first due slot, an entry scheduled meanwhile could become due again within the same `now`.
    fn turn(&mut self, now: u64) {
        while let Some((list, start)) = self.next_slot()
            && start <= now
        {
            self.tick = start;
            let mut key = self.heads[list];
            while key != END {
                let next = self.entries[key as usize].next;
                self.unlink(key);
                let tick = tick_after(self.entries[key as usize].at);
                self.link(key, if tick <= start { DUE } else { self.slot(tick) });
                key = next;
            }
        }
        self.tick = now;
    }

    /// The occupied slot that comes first, and the tick at which it starts. A lower level's slots all come before a
    /// higher one's, and none lies behind the current tick's.
    fn next_slot(&self) -> Option<(usize, u64)> {
        let level = self.occupied.iter().position(|&slots| slots != 0)?;
        let slot = self.occupied[level].trailing_zeros();
        let shift = LEVEL_BITS * level as u32;
        let rotation = self.tick >> (shift + LEVEL_BITS) << (shift + LEVEL_BITS);
        Some((level * SLOTS + slot as usize, rotation | u64::from(slot) << shift))
    }

    /// The list for an entry that fires at `tick`, a later one than the current.
    fn slot(&self, tick: u64) -> usize {
        debug_assert!(tick > self.tick);
        let level = (63 - (tick ^ self.tick).leading_zeros()) / LEVEL_BITS;
        let slot = (tick >> (LEVEL_BITS * level)) as usize & (SLOTS - 1);
        level as usize * SLOTS + slot
    }

    fn link(&mut self, key: u32, list: usize) {
        let first = core::mem::replace(&mut self.heads[list], key);
        let entry = &mut self.entries[key as usize];
        entry.prev = HEAD | list as u32;
        entry.next = first;
        if first != END {
            self.entries[first as usize].prev = key;
        } else if list != DUE {
            self.occupied[list / SLOTS] |= 1 << (list % SLOTS);
        }
    }

    fn unlink(&mut self, key: u32) {
        let Entry { prev, next, .. } = self.entries[key as usize];
        if prev == IDLE {
            return;
        }
        self.entries[key as usize].prev = IDLE;
        if next != END {
            self.entries[next as usize].prev = prev;
        }
        if prev & HEAD == 0 {
            self.entries[prev as usize].next = next;
            return;
        }
        let list = (prev & !HEAD) as usize;
        self.heads[list] = next;
        if next == END && list != DUE {
            self.occupied[list / SLOTS] &= !(1 << (list % SLOTS));
        }
    }
}

/// The tick that an instant lies in.
fn tick_before(at: Instant) -> u64 {
    at.as_nanos() >> TICK_BITS
}

/// The first tick that starts no earlier than an instant.
fn tick_after(at: Instant) -> u64 {
    at.as_nanos().div_ceil(1 << TICK_BITS)
}

/// When a tick starts.
fn tick_start(tick: u64) -> Instant {
    if tick > u64::MAX >> TICK_BITS {
        return Instant::FAR_FUTURE;
    }
    Instant::from_nanos(tick << TICK_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const TICK: Duration = Duration::from_nanos(1 << TICK_BITS);

    fn pop_all(wheel: &mut TimerWheel, now: Instant) -> Vec<u32> {
        let mut keys: Vec<u32> = core::iter::from_fn(|| wheel.pop_due(now)).collect();
        keys.sort_unstable();
        keys
    }

    fn ms(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    #[test]
    fn it_fires_within_one_tick_and_never_early() {
        for at in [1, 7, 8, 9, 63, 64, 500, 60_000, 86_400_000] {
            let mut wheel = TimerWheel::new(1, Instant::ZERO);
            wheel.schedule(0, ms(at));
            assert_eq!(wheel.scheduled(0), Some(ms(at)));
            assert_eq!(wheel.pop_due(Instant::from_nanos(ms(at).as_nanos() - 1)), None);
            assert_eq!(wheel.scheduled(0), Some(ms(at)));
            assert_eq!(wheel.pop_due(ms(at) + TICK), Some(0));
            assert_eq!((wheel.pop_due(ms(at) + TICK), wheel.scheduled(0)), (None, None));
        }
    }

    #[test]
    fn a_later_deadline_replaces_an_earlier_one_and_cancel_ends_it() {
        let mut wheel = TimerWheel::new(3, Instant::ZERO);
        wheel.schedule(0, ms(10));
        wheel.schedule(1, ms(10));
        wheel.schedule(2, ms(10));
        wheel.schedule(1, ms(5_000));
        wheel.cancel(2);
        wheel.cancel(2);
        assert_eq!(pop_all(&mut wheel, ms(1_000)), [0]);
        assert_eq!(pop_all(&mut wheel, ms(5_001)), [1]);
        assert_eq!(wheel.next_deadline(), None);
    }

    #[test]
    fn a_key_that_was_never_scheduled_can_be_asked_and_cancelled() {
        let mut wheel = TimerWheel::new(10, Instant::ZERO);
        wheel.cancel(9);
        assert_eq!(wheel.scheduled(9), None);
    }

    #[test]
    fn what_is_due_can_be_cancelled_before_it_is_handed_out() {
        let mut wheel = TimerWheel::new(3, Instant::ZERO);
        for key in 0..3 {
            wheel.schedule(key, ms(10));
        }
        let first = wheel.pop_due(ms(20)).unwrap();
        let cancelled = (first + 1) % 3;
        wheel.cancel(cancelled);
        assert_eq!(pop_all(&mut wheel, ms(20)), [3 - first - cancelled]);
    }

    #[test]
    fn scheduling_into_the_past_fires_with_the_next_tick_and_cannot_spin() {
        let mut wheel = TimerWheel::new(1, ms(100));
        wheel.schedule(0, ms(1));
        let mut fired = 0;
        while let Some(key) = wheel.pop_due(ms(200)) {
            fired += 1;
            wheel.schedule(key, ms(1));
        }
        assert_eq!(fired, 1);
        assert_eq!(pop_all(&mut wheel, ms(200) + TICK), [0]);
    }

    #[test]
    fn a_clock_that_goes_back_stands_still() {
        let mut wheel = TimerWheel::new(1, ms(100));
        assert_eq!(wheel.pop_due(ms(50)), None);
        wheel.schedule(0, ms(110));
        assert_eq!(wheel.pop_due(ms(20)), None);
        assert_eq!(wheel.pop_due(ms(111)), Some(0));
    }

    #[test]
    fn the_end_of_time_is_never() {
        let mut wheel = TimerWheel::new(2, Instant::ZERO);
        wheel.schedule(0, Instant::FAR_FUTURE);
        wheel.schedule(1, Instant::from_nanos(u64::MAX - (1 << TICK_BITS)));
        assert_eq!(pop_all(&mut wheel, Instant::FAR_FUTURE), [1]);
        assert_eq!(wheel.scheduled(0), Some(Instant::FAR_FUTURE));
        wheel.schedule(1, Instant::ZERO);
        assert!(pop_all(&mut wheel, Instant::FAR_FUTURE).is_empty());
    }

    #[test]
    fn a_jump_of_days_visits_only_occupied_slots() {
        let mut wheel = TimerWheel::new(1_000, Instant::ZERO);
        for key in 0..1_000 {
            wheel.schedule(key, ms(u64::from(key) * 60_000));
        }
        let started = std::time::Instant::now();
        assert_eq!(pop_all(&mut wheel, ms(365 * 86_400_000)).len(), 1_000);
        // Walking each of the 240 billion ticks would take minutes.
        assert!(started.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn the_next_deadline_leads_there_in_few_steps() {
        let mut wheel = TimerWheel::new(1, ms(12_345));
        let at = ms(12_345 + 3_600_000);
        wheel.schedule(0, at);
        let mut steps = 0;
        loop {
            let next = wheel.next_deadline().unwrap();
            assert!(next <= at + TICK);
            steps += 1;
            if wheel.pop_due(next).is_some() {
                break;
            }
        }
        assert!(steps <= LEVELS, "{steps}");
    }

    #[test]
    #[should_panic(expected = "timer key 2 in a wheel for 2")]
    fn a_key_beyond_the_slab_is_refused() {
        TimerWheel::new(2, Instant::ZERO).schedule(2, ms(1));
    }

    #[test]
    fn an_entry_is_16_bytes() {
        assert_eq!(size_of::<Entry>(), 16);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Schedule(u32, u64),
        Cancel(u32),
        Advance(u64),
        /// Exactly to where the wheel says that it wants to be woken.
        AdvanceToNext,
    }

    fn step() -> impl Strategy<Value = Step> {
        // From below a tick to weeks.
        let nanos = || (0_u32..51, any::<u64>()).prop_map(|(bits, random)| random & ((1 << bits) - 1));
        prop_oneof![
            4 => (0_u32..16, nanos()).prop_map(|(key, after)| Step::Schedule(key, after)),
            1 => (0_u32..16).prop_map(Step::Cancel),
            2 => nanos().prop_map(Step::Advance),
            2 => Just(Step::AdvanceToNext),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn it_agrees_with_a_sorted_map(
            start in 0_u64..1 << 40,
            steps in prop::collection::vec(step(), 0..80),
        ) {
            let mut now = Instant::from_nanos(start);
            let mut wheel = TimerWheel::new(16, now);
            let mut model = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Schedule(key, after) => {
                        let at = now + Duration::from_nanos(after);
                        wheel.schedule(key, at);
                        model.insert(key, at);
                    }
                    Step::Cancel(key) => {
                        wheel.cancel(key);
                        model.remove(&key);
                    }
                    Step::Advance(by) => now += Duration::from_nanos(by),
                    Step::AdvanceToNext => now = wheel.next_deadline().unwrap_or(now).max(now),
                }
                for key in pop_all(&mut wheel, now) {
                    let at = model.remove(&key);
                    prop_assert!(at.is_some_and(|at| at <= now), "{} fired early, twice or cancelled", key);
                }
                for (&key, &at) in &model {
                    prop_assert!(now < at + TICK, "{} is late", key);
                    prop_assert_eq!(wheel.scheduled(key), Some(at));
                }
                match (wheel.next_deadline(), model.values().min()) {
                    (Some(next), Some(&first)) => prop_assert!(next <= first + TICK && next > now),
                    (next, first) => prop_assert_eq!(next, first.copied()),
                }
            }
        }
    }
}
