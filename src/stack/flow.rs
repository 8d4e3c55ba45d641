//! The flow table: which slab slot owns a 4-tuple.
//!
//! Open addressing with linear probing over 4-byte slots (the slab index, how far the flow lies behind its home, and of the keyed
//! hash as many bits as are left), never more than half full; the keys lie apart, by slab index. A lookup thus reads one cache line
//! of slots and one of keys. Removing shifts the run behind it back, and reads no key for that: so there are no tombstones, the
//! table never rehashes and never grows, and no burst of connections ends in a pause. All of that memory is reserved when the table is made and touched only
//! as connections come: 40 bytes a connection, and 8 bytes of slots for each of the most there can be. As flows lie
//! scattered, few connections touch all slots: these 8 are paid for the most there can be.

use super::key::FlowKey;
use super::secret::derive_key;
use core::hash::{Hash, Hasher};
use foldhash::SharedSeed;
use foldhash::fast::FoldHasher;
use std::hint::black_box;

/// Bits of a slot for the displacement. Half full, one run in thousands is that long.
const DISPLACEMENT_BITS: u32 = 5;
/// This displacement or a larger one, which the key's hash tells.
const FAR: u32 = (1 << DISPLACEMENT_BITS) - 1;

/// Flow to slab index, for at most a fixed number of flows.
pub(crate) struct FlowTable {
    /// The slab index plus one in the low `index_bits`, the displacement above, then the low bits of the hash; 0 is a free slot.
    slots: Box<[u32]>,
    index_bits: u32,
    keys: Vec<FlowKey>,
    flows_max: usize,
    len: usize,
    seed: u64,
    shared_seed: SharedSeed,
}

impl FlowTable {
    /// A table for slab indices under `flows_max`. The secret keeps peers from choosing flows that collide.
    ///
    /// # Panics
    /// When `flows_max` is over 2^25.
    pub(crate) fn new(flows_max: usize, secret: &[u8; 32]) -> Self {
        assert!(flows_max <= 1 << 25, "{flows_max} flows are more than the table's slots can count");
        let key = u128::from_ne_bytes(derive_key(secret, "flow table"));
        FlowTable {
            slots: vec![0; (2 * flows_max).max(1)].into_boxed_slice(),
            index_bits: flows_max.checked_ilog2().map_or(0, |log| log + 1),
            keys: Vec::with_capacity(flows_max),
            flows_max,
            len: 0,
            seed: key as u64,
            shared_seed: SharedSeed::from_u64((key >> 64) as u64),
        }
    }

    /// The slab index of a flow.
    #[inline]
    pub(crate) fn get(&self, key: &FlowKey) -> Option<u32> {
        self.find(key).map(|(_, index)| index)
    }

    /// Adds a flow that is not in the table, at a slab index that no other flow of the table has.
    ///
    /// # Panics
    /// When the index is not under the table's `flows_max`.
    pub(crate) fn insert(&mut self, key: FlowKey, index: u32) {
        let place = index as usize;
        assert!(place < self.flows_max, "slab index {place} in a table for {}", self.flows_max);
        debug_assert!(self.find(&key).is_none(), "the flow is in the table already");
        if place >= self.keys.len() {
            self.keys.resize(place + 1, FlowKey::default());
        }
        self.keys[place] = key;
        let hash = self.hash(&key);
        let mut at = self.home(hash);
        let mut marks = self.marks_at_home(hash);
        while self.slots[at] != 0 {
            at = self.after(at);
            marks = self.one_farther(marks);
        }
        self.slots[at] = marks | (index + 1);
        self.len += 1;
    }

    /// Removes a flow; its slab index, or `None` when it is not in the table.
    pub(crate) fn remove(&mut self, key: &FlowKey) -> Option<u32> {
        let (mut hole, index) = self.find(key)?;
        let mut at = self.after(hole);
        while self.slots[at] != 0 {
            // Whoever is displaced at least as far as the hole lies before it may move there.
            let displacement = self.displacement(at);
            let distance = self.distance(hole, at);
            if displacement >= distance {
                let left = (displacement - distance).min(FAR as usize) as u32;
                self.slots[hole] = self.slots[at] & !(FAR << self.index_bits) | left << self.index_bits;
                hole = at;
            }
            at = self.after(at);
        }
        self.slots[hole] = 0;
        self.len -= 1;
        Some(index)
    }

    /// Reads where the search for a flow begins, so that it is on its way from memory when that comes.
    #[inline]
    pub(crate) fn touch(&self, key: &FlowKey) {
        black_box(self.slots.get(self.home(self.hash(key))));
    }

    /// The flow at a slab index that is in the table.
    pub(crate) fn key(&self, index: u32) -> FlowKey {
        self.keys[index as usize]
    }

    /// How many flows there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn find(&self, key: &FlowKey) -> Option<(usize, u32)> {
        let hash = self.hash(key);
        let mut at = self.home(hash);
        let mut marks = self.marks_at_home(hash);
        // Ends at a free slot: at least half of them are.
        while self.slots[at] != 0 {
            let slot = self.slots[at];
            if slot & !self.index_mask() == marks {
                let index = self.index(slot);
                if self.keys[index as usize] == *key {
                    return Some((at, index));
                }
            }
            at = self.after(at);
            marks = self.one_farther(marks);
        }
        None
    }

    /// What is above the index in the slot of a flow that lies at its home.
    fn marks_at_home(&self, hash: u32) -> u32 {
        hash << (self.index_bits + DISPLACEMENT_BITS)
    }

    /// The same of a flow one slot farther from its home.
    #[inline]
    fn one_farther(&self, marks: u32) -> u32 {
        if (marks >> self.index_bits) & FAR == FAR { marks } else { marks + (1 << self.index_bits) }
    }

    fn index_mask(&self) -> u32 {
        (1 << self.index_bits) - 1
    }

    /// The slab index in a slot that is not free.
    fn index(&self, slot: u32) -> u32 {
        (slot & self.index_mask()) - 1
    }

    fn hash(&self, key: &FlowKey) -> u32 {
        let mut hasher = FoldHasher::with_seed(self.seed, &self.shared_seed);
        key.hash(&mut hasher);
        (hasher.finish() >> 32) as u32
    }

    /// Where a flow's search begins. It is the high bits of the hash that decide it, the low ones tell flows apart.
    fn home(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.slots.len() as u64) >> 32) as usize
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 == self.slots.len() { 0 } else { at + 1 }
    }

    /// Steps from one slot to another.
    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.slots.len() - from }
    }

    /// How far the flow in a slot lies behind its home.
    #[inline]
    fn displacement(&self, at: usize) -> usize {
        let displacement = (self.slots[at] >> self.index_bits) & FAR;
        if displacement < FAR { displacement as usize } else { self.far_displacement(at) }
    }

    /// The slot has not all of the hash, so it is made again.
    #[cold]
    fn far_displacement(&self, at: usize) -> usize {
        let key = &self.keys[self.index(self.slots[at]) as usize];
        self.distance(self.home(self.hash(key)), at)
    }
}

#[cfg(test)]
mod tests {
    use super::super::frames::ours_v4;
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::net::SocketAddr;

    fn flow(n: u32) -> FlowKey {
        let [a, b, c, d] = n.to_be_bytes();
        FlowKey::new(ours_v4(), SocketAddr::from(([10, a, b, c], 1_024 + u16::from(d))))
    }

    #[test]
    fn a_flow_is_found_by_its_four_parts() {
        let mut table = FlowTable::new(4, &[1; 32]);
        assert_eq!(table.get(&flow(1)), None);
        table.insert(flow(1), 3);
        table.insert(flow(2), 0);
        assert_eq!((table.get(&flow(1)), table.get(&flow(2)), table.len()), (Some(3), Some(0), 2));
        assert_eq!(table.get(&flow(1).reversed()), None);
        assert_eq!(table.remove(&flow(1)), Some(3));
        assert_eq!(table.remove(&flow(1)), None);
        assert_eq!((table.get(&flow(2)), table.len()), (Some(0), 1));
    }

    #[test]
    fn a_full_table_takes_no_new_memory() {
        let mut table = FlowTable::new(1_000, &[1; 32]);
        let (slots, keys) = (table.slots.as_ptr(), table.keys.as_ptr());
        for round in 0..5 {
            for n in 0..1_000 {
                table.insert(flow(round * 1_000 + n), n);
            }
            assert_eq!(table.len(), 1_000);
            for n in 0..1_000 {
                assert_eq!(table.remove(&flow(round * 1_000 + n)), Some(n));
            }
        }
        assert_eq!((slots, keys), (table.slots.as_ptr(), table.keys.as_ptr()));
        assert!(table.slots.iter().all(|&slot| slot == 0));
    }

    #[test]
    fn a_table_for_no_flows_answers() {
        assert_eq!(FlowTable::new(0, &[1; 32]).get(&flow(1)), None);
    }

    #[test]
    fn the_largest_index_leaves_room_for_the_hash() {
        for flows_max in [1, 2, 3, 4, 1_000, 65_535, 65_536, 65_537] {
            let mut table = FlowTable::new(flows_max, &[1; 32]);
            assert_eq!(size_of_val(&*table.slots), 8 * flows_max);
            let last = flows_max as u32 - 1;
            table.insert(flow(1), last);
            assert_eq!((table.get(&flow(1)), table.get(&flow(2))), (Some(last), None));
            assert_eq!(table.remove(&flow(1)), Some(last));
            assert_eq!(table.get(&flow(1)), None);
        }
    }

    #[test]
    #[should_panic(expected = "slab index 4 in a table for 4")]
    fn an_index_beyond_the_slab_is_refused() {
        FlowTable::new(4, &[1; 32]).insert(flow(1), 4);
    }

    #[test]
    fn the_secret_decides_where_flows_lie() {
        let hashes = |secret: u8| {
            let table = FlowTable::new(64, &[secret; 32]);
            (0..64).map(|n| table.hash(&flow(n))).collect::<Vec<_>>()
        };
        assert_eq!(hashes(1), hashes(1));
        assert_ne!(hashes(1), hashes(2));
    }

    #[test]
    fn neighbouring_flows_probe_few_slots() {
        let mut table = FlowTable::new(1 << 15, &[9; 32]);
        for n in 0..1 << 15 {
            table.insert(flow(n), n);
        }
        let (mut total, mut most) = (0, 0);
        for (at, _) in table.slots.iter().enumerate().filter(|&(_, &slot)| slot != 0) {
            assert_eq!(table.displacement(at), table.far_displacement(at));
            total += table.displacement(at);
            most = most.max(table.displacement(at));
        }
        // Linear probing at half load: 0.5 more slots than one on average (Knuth, volume 3, section 6.4).
        assert!(total < (1 << 15) * 6 / 10, "{total}");
        assert!(most < 64, "{most}");
    }

    #[test]
    fn a_run_longer_than_a_slot_can_tell_is_taken_apart() {
        let mut table = FlowTable::new(64, &[5; 32]);
        let of_one_home: Vec<u32> =
            (0..).filter(|&n| table.home(table.hash(&flow(n))) == 100).take(60).collect();
        for order in [1, 7, 59] {
            for (&n, index) in of_one_home.iter().zip(0..) {
                table.insert(flow(n), index);
            }
            let mut left: Vec<usize> = (0..of_one_home.len()).collect();
            let mut at = 0;
            while !left.is_empty() {
                at = (at + order) % left.len();
                let index = left.swap_remove(at);
                assert_eq!(table.remove(&flow(of_one_home[index])), Some(index as u32));
                for (&n, index) in of_one_home.iter().zip(0..) {
                    let expected = left.contains(&(index as usize)).then_some(index);
                    assert_eq!(table.get(&flow(n)), expected);
                }
                for (slot, _) in table.slots.iter().enumerate().filter(|&(_, &slot)| slot != 0) {
                    assert_eq!(table.displacement(slot), table.far_displacement(slot));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_map(steps in prop::collection::vec((any::<bool>(), 0_u32..24), 0..200)) {
            // 16 flows at most in 32 slots: runs collide, wrap around the end and are cut in the middle.
            let mut table = FlowTable::new(16, &[3; 32]);
            let mut model = HashMap::new();
            let mut free: Vec<u32> = (0..16).collect();
            for (add, n) in steps {
                let key = flow(n);
                if add && !model.contains_key(&n) {
                    if let Some(index) = free.pop() {
                        table.insert(key, index);
                        model.insert(n, index);
                    }
                } else if !add {
                    let removed = model.remove(&n);
                    prop_assert_eq!(table.remove(&key), removed);
                    free.extend(removed);
                }
                prop_assert_eq!(table.len(), model.len());
                for n in 0..24 {
                    prop_assert_eq!(table.get(&flow(n)), model.get(&n).copied());
                }
            }
        }
    }
}
