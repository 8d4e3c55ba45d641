//! The memory of all connections' receive and send rings: one reserved mapping per worker, cut into slots.
//!
//! Reserving costs address space only. A page comes into being when a ring is first written there, and goes back to
//! the system with [`RingPool::reclaim`] when its connection is idle. Huge pages are kept out, because one byte in a
//! ring would then cost 2 MiB. The slot used last is lent first: its pages are there already. Of more than [`WARM_MAX`] free
//! slots the pages go back, too: a crowd that has left holds no memory.
//!
//! Page tables count as well: 8 bytes for each page of a slot, 272 a connection with rings of 64 KiB, and a slot that
//! is reclaimed alone leaves its table behind. Linux frees a table when all that it maps is given back by one call
//! (since 6.14, where the architecture has it). So when every slot under a [`Table`] rests, its whole span goes back.
#![allow(unsafe_code)] // The rings are lent to sockets, which know only slices that live for ever.

use core::mem::ManuallyDrop;
use core::slice;
use memmap2::{Advice, MmapOptions, MmapRaw, UncheckedAdvice};
use smoltcp::socket::tcp::SocketBuffer;
use std::collections::VecDeque;
use std::io;

/// What the caches of current processors fetch at once.
const CACHE_LINE_BYTES: usize = 64;

/// Of what is larger most will not be used at once.
const PREFETCH_BYTES_MAX: usize = 640;

/// Free slots that keep their pages for the next connections.
const WARM_MAX: usize = 4_096;

/// The rings of a fixed number of connections.
pub(crate) struct RingPool {
    mapping: ManuallyDrop<MmapRaw>,
    layout: Layout,
    /// Slots that were lent before and came back, the last one at the back; their pages are there.
    warm: VecDeque<u32>,
    /// Those beyond [`WARM_MAX`]; their pages went back to the system.
    cold: Vec<u32>,
    /// Slots from here on were never lent.
    fresh: u32,
}

/// Names the slot of two rings that are lent; there is only one for each, so it can be given back only once.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RingPair {
    slot: u32,
}

impl RingPair {
    /// The number of the slot. Slots are lent like a stack's entries: the one given back last first, then those that
    /// were never lent in order. A slab whose free list does the same has its connections at these numbers.
    pub(crate) fn slot(&self) -> u32 {
        self.slot
    }
}

/// The part of the mapping whose pages one page table describes, 2 MiB where pages have 4 KiB; it holds several slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// Byte of the mapping where it starts.
    start: usize,
    /// The slots that have bytes there; the first and the last may reach beyond.
    pub(crate) slots: core::ops::Range<u32>,
}

/// Why the rings' memory could not be had.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot reserve {} of address space for the rings of {connections_max} connections, {recv_bytes} bytes to receive \
     and {send_bytes} to send each: {cause}; lower `limits.connections_max`, `tcp.recv_buffer_bytes` or \
     `tcp.send_buffer_bytes`, or raise the limit of the process (`ulimit -v`) or of the system \
     (`vm.overcommit_memory`)",
    .bytes.map_or("more than 2^64 bytes".into(), |bytes| format!("{bytes} bytes"))
)]
pub struct RingError {
    /// Bytes of the mapping; `None` when their number does not fit 64 bits.
    pub bytes: Option<usize>,
    /// Connections there should be rings for.
    pub connections_max: usize,
    /// Receive ring of one connection, bytes.
    pub recv_bytes: usize,
    /// Send ring of one connection, bytes.
    pub send_bytes: usize,
    /// What the system said.
    #[source]
    pub cause: io::Error,
}

impl RingPool {
    /// Reserves the rings of `connections_max` connections; each ring has its own pages.
    ///
    /// # Errors
    /// When the address space cannot be had.
    pub(crate) fn new(
        connections_max: usize,
        recv_bytes: usize,
        send_bytes: usize,
    ) -> Result<Self, RingError> {
        let error = |bytes, cause| RingError { bytes, connections_max, recv_bytes, send_bytes, cause };
        let too_many = || error(None, io::ErrorKind::OutOfMemory.into());
        let layout = Layout::new(connections_max, recv_bytes, send_bytes).ok_or_else(too_many)?;
        let bytes = layout.mapping_bytes;
        // A mapping of no bytes is refused by the system, a pool without connections is not by us.
        let mapping = MmapOptions::new().len(bytes.max(1)).no_reserve_swap().map_anon();
        let mapping = MmapRaw::from(mapping.map_err(|cause| error(Some(bytes), cause))?);
        match mapping.advise(Advice::NoHugePage) {
            Ok(()) => {}
            // A kernel built without transparent huge pages does not know the advice, nor needs it.
            Err(refused) if refused.kind() == io::ErrorKind::InvalidInput => {}
            Err(cause) => return Err(error(Some(bytes), cause)),
        }
        Ok(RingPool {
            mapping: ManuallyDrop::new(mapping),
            layout,
            warm: VecDeque::new(),
            cold: Vec::new(),
            fresh: 0,
        })
    }

    /// Lends the rings of one connection, to receive and to send; `None` when all are lent. What they contain is
    /// left over from whoever had them before.
    pub(crate) fn take(&mut self) -> Option<(RingPair, SocketBuffer<'static>, SocketBuffer<'static>)> {
        let slot = self.warm.pop_back().or_else(|| self.cold.pop()).or_else(|| {
            let fresh = self.fresh;
            ((fresh as usize) < self.layout.slots).then(|| {
                self.fresh += 1;
                fresh
            })
        })?;
        let Layout { recv_bytes, send_bytes, recv_span, .. } = self.layout;
        // SAFETY: A slot begins with its receive ring, and nobody has it: it comes from `fresh`, which only rises, or from
        // where `give_back` put it, whose caller vouches that its borrowers are gone.
        let recv = unsafe { self.ring(slot, 0, recv_bytes) };
        // SAFETY: As above; the send ring lies behind the receive ring's span, so they do not overlap.
        let send = unsafe { self.ring(slot, recv_span, send_bytes) };
        Some((RingPair { slot }, SocketBuffer::new(recv), SocketBuffer::new(send)))
    }

    /// Takes the rings of one connection back.
    ///
    /// # Safety
    /// `rings` are from this pool, and both buffers that were lent with them are dropped, with the socket that had
    /// them.
    pub(crate) unsafe fn give_back(&mut self, rings: RingPair) {
        self.warm.push_back(rings.slot);
        if self.warm.len() > WARM_MAX
            && let Some(slot) = self.warm.pop_front()
        {
            // SAFETY: The slot is free: by the word of those who gave it back, nobody refers to its bytes.
            unsafe { self.clear(slot) };
            self.cold.push(slot);
        }
    }

    /// Gives the pages under two empty rings back to the system; the next bytes get new ones. One system call.
    ///
    /// # Safety
    /// `rings` are from this pool. No byte in them will be read before it is written again, and no slice of them
    /// that the socket lent is alive.
    pub(crate) unsafe fn reclaim(&self, rings: &RingPair) {
        // SAFETY: The caller's word.
        unsafe { self.clear(rings.slot) };
    }

    /// The tables that a slot shares with its neighbours: those under its first and its last byte. One that hangs over
    /// the mapping's ends is left out: no call could free it.
    pub(crate) fn shared_tables(&self, rings: &RingPair) -> impl Iterator<Item = Table> + use<> {
        let Layout { slots, slot_bytes, mapping_bytes, .. } = self.layout;
        let table_bytes = table_bytes();
        // Tables are aligned in the address space, the mapping need not be.
        let lead = self.mapping.as_mut_ptr() as usize % table_bytes;
        let table_at = move |byte: usize| {
            let start = ((byte + lead) / table_bytes * table_bytes).checked_sub(lead)?;
            let end = start.checked_add(table_bytes).filter(|end| *end <= mapping_bytes)?;
            let last = end.div_ceil(slot_bytes).min(slots);
            Some(Table { start, slots: (start / slot_bytes) as u32..last as u32 })
        };
        let start = slot_bytes * rings.slot as usize;
        let (first, last) = (table_at(start), table_at(start + slot_bytes - 1));
        let last = last.filter(|last| first.as_ref() != Some(last));
        first.into_iter().chain(last)
    }

    /// Gives the pages under all slots of a table back to the system, and with them, where the kernel can, the table.
    /// One system call.
    ///
    /// # Safety
    /// What [`RingPool::reclaim`] asks for one slot holds for every one in `table.slots` that is lent, and `table` is from this pool.
    pub(crate) unsafe fn reclaim_table(&self, table: &Table) {
        // SAFETY: The range lies within the slots for which the caller gives its word.
        unsafe { self.clear_range(table.start, table_bytes()) };
    }

    /// Gives the pages of a slot back to the system.
    ///
    /// # Safety
    /// No byte of the slot will be read before it is written again, and no slice of one that a socket lent is alive.
    unsafe fn clear(&self, slot: u32) {
        // SAFETY: The range is the slot's own, pages that no other slot shares; the rest is the caller's word.
        unsafe { self.clear_range(self.layout.slot_bytes * slot as usize, self.layout.slot_bytes) };
    }

    /// Gives the pages of a part of the mapping back to the system.
    ///
    /// # Safety
    /// No byte of it will be read before it is written again, and no slice of one that a socket lent is alive.
    unsafe fn clear_range(&self, start: usize, bytes: usize) {
        // SAFETY: The bytes become zeros behind the back of the sockets' slices, which is sound as plain bytes stay
        // valid and, by the caller's word, nobody reads what was there nor holds a slice of it just now.
        let given = unsafe { self.mapping.unchecked_advise_range(UncheckedAdvice::DontNeed, start, bytes) };
        // It fails when the process has locked its memory (mlockall): then the pages are meant to stay.
        drop(given);
    }

    /// Where the send ring of a connection starts.
    pub(crate) fn send_start(&self, rings: &RingPair) -> *const u8 {
        self.mapping.as_mut_ptr().wrapping_add(self.layout.ring_start(rings.slot, self.layout.recv_span))
    }

    /// Slots that are lent.
    pub(crate) fn in_use(&self) -> usize {
        self.fresh as usize - self.warm.len() - self.cold.len()
    }

    /// Address space of the whole pool, bytes.
    pub(crate) fn reserved_bytes(&self) -> usize {
        self.layout.mapping_bytes
    }

    /// The ring at `offset` of a slot.
    ///
    /// # Safety
    /// `offset` and `len` are a ring of `Layout`, and no other reference to its bytes is alive.
    unsafe fn ring(&self, slot: u32, offset: usize, len: usize) -> &'static mut [u8] {
        let ring = self.mapping.as_mut_ptr().wrapping_add(self.layout.ring_start(slot, offset));
        // SAFETY: `Layout` keeps every ring within the mapping, which is readable and writable, was zeroed by the
        // system, and stays while a slot is lent (see `Drop`): for the borrowers that is for ever. That nobody else
        // refers to the bytes is the caller's word.
        unsafe { slice::from_raw_parts_mut(ring, len) }
    }
}

impl Drop for RingPool {
    /// A pool that is dropped while rings are lent leaves its mapping behind for them: a leak, never a dangling slice.
    fn drop(&mut self) {
        if self.in_use() == 0 {
            // SAFETY: The pool is being dropped, so nobody uses the field again, and no ring is lent.
            unsafe { ManuallyDrop::drop(&mut self.mapping) }
        }
    }
}

/// Has a value fetched into the cache that is about to be used, up to [`PREFETCH_BYTES_MAX`] of it, on processors for which
/// the compiler has an instruction. A hint: where nothing lies nothing happens.
#[inline]
pub(crate) fn prefetch<T>(value: *const T) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..size_of::<T>().min(PREFETCH_BYTES_MAX)).step_by(CACHE_LINE_BYTES) {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let line = value.cast::<i8>().wrapping_add(line);
        // SAFETY: the instruction reads nothing into the program and faults on no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// What one page table describes: it is a page of entries, of 8 bytes each.
fn table_bytes() -> usize {
    let page = rustix::param::page_size();
    page / 8 * page
}

/// How the mapping is cut: `slots * slot_bytes <= mapping_bytes`, and a slot is its receive ring, rounded up to
/// `recv_span`, and behind it its send ring, rounded up as well.
///
/// Were every ring to begin on a page, the first lines of all rings would fall into the same few sets of the L1 and
/// L2 caches, and those are the lines that small messages use. So the rings of neighbouring slots begin one cache
/// line after another, and each has room for that: `color_bytes`, less than a page of address space.
#[derive(Clone, Copy, Debug)]
struct Layout {
    slots: usize,
    recv_bytes: usize,
    send_bytes: usize,
    recv_span: usize,
    slot_bytes: usize,
    color_bytes: usize,
    mapping_bytes: usize,
}

impl Layout {
    fn new(slots: usize, recv_bytes: usize, send_bytes: usize) -> Option<Self> {
        let page = rustix::param::page_size();
        let span = |ring_bytes: usize| {
            ring_bytes.checked_add(page - CACHE_LINE_BYTES)?.checked_next_multiple_of(page)
        };
        let recv_span = span(recv_bytes)?;
        let slot_bytes = span(send_bytes)?.checked_add(recv_span)?;
        let mapping_bytes = slot_bytes.checked_mul(slots)?;
        u32::try_from(slots).ok()?;
        // No slice, and so no mapping, is larger than this.
        isize::try_from(mapping_bytes).ok()?;
        Some(Layout {
            slots,
            recv_bytes,
            send_bytes,
            recv_span,
            slot_bytes,
            color_bytes: page,
            mapping_bytes,
        })
    }

    /// The byte of the mapping where the ring at `offset` of a slot starts.
    fn ring_start(&self, slot: u32, offset: usize) -> usize {
        let color = (slot as usize * CACHE_LINE_BYTES) % self.color_bytes;
        self.slot_bytes * slot as usize + offset + color
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> usize {
        rustix::param::page_size()
    }

    impl RingPool {
        /// Bytes of the mapping that are in memory, as the kernel counts them.
        fn resident_bytes(&self) -> usize {
            let pages = self.layout.mapping_bytes.div_ceil(page());
            let mut states = vec![0_u8; pages];
            // SAFETY: The range is the whole mapping, and there is a byte in `states` for each of its pages.
            let result = unsafe {
                libc::mincore(
                    self.mapping.as_mut_ptr().cast(),
                    self.layout.mapping_bytes,
                    states.as_mut_ptr(),
                )
            };
            assert_eq!(result, 0, "{}", io::Error::last_os_error());
            states.iter().filter(|&&state| state & 1 != 0).count() * page()
        }
    }

    fn pool(connections_max: usize) -> RingPool {
        RingPool::new(connections_max, 65_535, 16_384).unwrap()
    }

    /// Writes to the whole ring and reads all of it back; returns where it lies.
    fn fill(ring: &mut SocketBuffer<'static>, byte: u8) -> core::ops::Range<usize> {
        let start = ring.enqueue_many(ring.capacity()).as_ptr() as usize;
        let len = ring.len();
        let bytes = ring.dequeue_many(len);
        bytes.fill(byte);
        start..start + bytes.len()
    }

    #[test]
    fn every_connection_has_two_rings_of_its_own() {
        let mut pool = pool(3);
        let mut lent: Vec<_> = core::iter::from_fn(|| pool.take()).collect();
        assert_eq!((lent.len(), pool.in_use()), (3, 3));
        let mut ranges = Vec::new();
        for (_, recv, send) in &mut lent {
            assert_eq!((recv.capacity(), send.capacity()), (65_535, 16_384));
            ranges.extend([fill(recv, 1), fill(send, 2)]);
        }
        ranges.sort_by_key(|range| range.start);
        let lines: Vec<usize> = ranges.iter().map(|range| range.start % page() / CACHE_LINE_BYTES).collect();
        assert_eq!(lines, [0, 0, 1, 1, 2, 2], "the rings begin on one cache line after another");
        assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "{ranges:?}");
        assert_eq!(pool.reserved_bytes(), 3 * (65_536 + 16_384 + 2 * page()));
    }

    #[test]
    fn the_slot_given_back_last_is_lent_first() {
        let mut pool = pool(3);
        let (first, ..) = pool.take().unwrap();
        let (second, ..) = pool.take().unwrap();
        assert_eq!((&first, &second), (&RingPair { slot: 0 }, &RingPair { slot: 1 }));
        // SAFETY: The buffers were dropped at once.
        unsafe {
            pool.give_back(second);
        }
        // SAFETY: As above.
        unsafe {
            pool.give_back(first);
        }
        assert_eq!(pool.in_use(), 0);
        let order: Vec<u32> = core::iter::from_fn(|| pool.take()).map(|(pair, ..)| pair.slot).collect();
        assert_eq!(order, [0, 1, 2]);
    }

    #[test]
    fn a_crowd_that_has_left_holds_few_pages() {
        let mut pool = RingPool::new(WARM_MAX + 500, 4_096, 4_096).unwrap();
        let mut lent: Vec<_> = core::iter::from_fn(|| pool.take()).collect();
        for (_, recv, _) in &mut lent {
            assert_eq!(recv.enqueue_slice(b"x"), 1);
        }
        assert_eq!(pool.resident_bytes(), (WARM_MAX + 500) * page());
        for (pair, recv, send) in lent {
            drop((recv, send));
            // SAFETY: The buffers have just been dropped.
            unsafe {
                pool.give_back(pair);
            }
        }
        assert_eq!((pool.in_use(), pool.resident_bytes()), (0, WARM_MAX * page()));
        let slots: Vec<u32> = core::iter::from_fn(|| pool.take()).map(|(pair, ..)| pair.slot).collect();
        assert_eq!(slots.len(), WARM_MAX + 500, "every slot is lent again");
        assert!(slots[..WARM_MAX].iter().all(|slot| *slot >= 500), "those with pages first");
    }

    #[test]
    fn no_page_is_touched_before_it_is_used() {
        let mut pool = pool(100);
        let mut lent: Vec<_> = core::iter::from_fn(|| pool.take()).collect();
        assert_eq!((lent.len(), pool.resident_bytes()), (100, 0));
        assert_eq!(lent[7].1.enqueue_slice(b"hello"), 5);
        assert_eq!(pool.resident_bytes(), page());
    }

    #[test]
    fn reclaim_gives_the_pages_of_one_connection_back() {
        let mut pool = pool(2);
        let (idle, mut recv, mut send) = pool.take().unwrap();
        let (_busy, mut other_recv, _other_send) = pool.take().unwrap();
        fill(&mut recv, 7);
        fill(&mut send, 7);
        assert_eq!(other_recv.enqueue_slice(b"kept"), 4);
        // The other connection's ring begins within a page: its first bytes touch that one alone.
        assert_eq!(pool.resident_bytes(), 65_536 + 16_384 + page());
        // SAFETY: Both rings are empty.
        unsafe {
            pool.reclaim(&idle);
        }
        assert_eq!(pool.resident_bytes(), page());
        assert_eq!(other_recv.dequeue_many(9), b"kept");
        // The rings go on working.
        assert_eq!(recv.enqueue_slice(b"again"), 5);
        assert_eq!(recv.dequeue_many(9), b"again");
    }

    #[test]
    fn the_tables_of_a_slot_cover_it_and_name_all_slots_in_them() {
        let mut pool = pool(100);
        let lent: Vec<_> = core::iter::from_fn(|| pool.take()).collect();
        let slot_bytes = pool.layout.slot_bytes;
        let mut seen = 0;
        for (index, (pair, ..)) in lent.iter().enumerate() {
            for table in pool.shared_tables(pair) {
                seen += 1;
                let (start, end) = (table.start, table.start + table_bytes());
                assert_eq!((pool.mapping.as_mut_ptr() as usize + start) % table_bytes(), 0);
                assert!(end <= pool.layout.mapping_bytes);
                assert!(table.slots.contains(&(index as u32)), "{index} {table:?}");
                for slot in 0..lent.len() {
                    let inside = slot * slot_bytes < end && (slot + 1) * slot_bytes > start;
                    assert_eq!(table.slots.contains(&(slot as u32)), inside, "{slot} {table:?}");
                }
            }
        }
        assert!(seen >= 50, "{seen}");
    }

    #[test]
    fn a_table_that_is_reclaimed_takes_its_span_and_no_more() {
        let mut pool = pool(100);
        let mut lent: Vec<_> = core::iter::from_fn(|| pool.take()).collect();
        for (_, recv, send) in &mut lent {
            assert_eq!((recv.enqueue_slice(b"r"), send.enqueue_slice(b"s")), (1, 1));
        }
        let before = pool.resident_bytes();
        let table = pool.shared_tables(&lent[50].0).next().unwrap();
        for slot in table.slots.clone() {
            let (_, recv, send) = &mut lent[slot as usize];
            assert_eq!((recv.dequeue_many(1), send.dequeue_many(1)), (&mut [b'r'][..], &mut [b's'][..]));
        }
        // SAFETY: All rings that have bytes there are empty.
        unsafe { pool.reclaim_table(&table) };
        let gone = (before - pool.resident_bytes()) / page();
        let rings = 2 * table.slots.len();
        assert!((rings - 3..=rings).contains(&gone), "{gone} of {rings} pages");
        for (slot, (_, recv, send)) in lent.iter_mut().enumerate() {
            if !table.slots.contains(&(slot as u32)) {
                assert_eq!((recv.dequeue_many(1), send.dequeue_many(1)), (&mut [b'r'][..], &mut [b's'][..]));
            }
        }
    }

    #[test]
    fn rings_outlive_a_pool_that_is_dropped_too_early() {
        let mut pool = pool(1);
        let (_rings, mut recv, _send) = pool.take().unwrap();
        drop(pool);
        assert_eq!(recv.enqueue_slice(b"still there"), 11);
        assert_eq!(recv.dequeue_many(20), b"still there");
    }

    #[test]
    fn a_pool_for_no_connections_lends_nothing() {
        assert!(pool(0).take().is_none());
    }

    #[test]
    fn too_much_memory_is_refused_with_advice() {
        let error = RingPool::new(1 << 20, 1 << 40, 1 << 40).err().unwrap().to_string();
        for part in ["2305843017803628544 bytes", "1048576 connections", "`limits.connections_max`", "ulimit"]
        {
            assert!(error.contains(part), "{error}");
        }
        let overflow = RingPool::new(usize::MAX, 65_535, 65_536).err().unwrap().to_string();
        assert!(overflow.contains("more than 2^64 bytes"), "{overflow}");
    }
}
