//! Mempools: fixed sets of packet buffers, taken at the start.

use crate::eal::{Eal, c_string};
use crate::error::{Errno, Error, Result};
use crate::mbuf::{self, BURST_MAX, Mbuf};
use crate::{ledger, log, sys};
use std::collections::VecDeque;
use std::fmt;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How large a mempool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MempoolConfig {
    /// Number of mbufs. Best one less than a power of two.
    pub mbufs: u32,
    /// Mbufs that each registered thread may keep aside for itself, so that most allocations touch no shared memory.
    /// At most 512, and two thirds of `mbufs`. They count as available.
    pub cache_mbufs: u32,
    /// Bytes of data that one mbuf holds, the headroom of 128 bytes not counted.
    pub data_bytes: u16,
    /// NUMA node to take the memory from; `None`: any.
    pub numa_node: Option<u32>,
    /// All mbufs side by side in one piece of memory, across the ends of pages. For devices without DMA only; net_af_xdp
    /// needs it, because it takes the pool for that up to DPDK 22.11 at least, and loses the frames that lie elsewhere.
    pub packed: bool,
}

impl Default for MempoolConfig {
    fn default() -> Self {
        Self { mbufs: 8191, cache_mbufs: 256, data_bytes: 2048, numa_node: None, packed: false }
    }
}

/// A set of mbufs of one size. Clones share it; any thread may allocate from it and free to it.
#[derive(Clone)]
pub struct Mempool {
    shared: Arc<Shared>,
}

struct Shared {
    pool: PoolPointer,
    config: MempoolConfig,
    _eal: Eal,
}

#[derive(Clone, Copy)]
struct PoolPointer(NonNull<sys::rte_mempool>);

// SAFETY: DPDK's default mempools (multi-producer, multi-consumer rings with one cache per lcore) are made for use by any
// thread, and the pointer is to memory that no thread owns.
unsafe impl Send for PoolPointer {}
// SAFETY: as above.
unsafe impl Sync for PoolPointer {}

/// What decides when the memory of a dropped mempool may go.
struct Retired {
    /// Ports that are open: their rings may hold mbufs of any mempool.
    ports_open: usize,
    /// Mempools whose last handle is gone.
    pools: Vec<PoolPointer>,
}

static RETIRED: Mutex<Retired> = Mutex::new(Retired { ports_open: 0, pools: Vec::new() });

fn retired() -> MutexGuard<'static, Retired> {
    RETIRED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mempool {
    /// Takes the memory and makes the mbufs.
    ///
    /// # Errors
    /// [`Error::Setting`] for a size that cannot work, [`Error::NoMemory`] when DPDK's memory does not hold it.
    pub fn new(eal: &Eal, config: MempoolConfig) -> Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let room = check_size(&config)?;
        let name = c_string(&format!("mbufs_{}", NUMBER.fetch_add(1, Ordering::Relaxed)))?;
        let node = config.numa_node.map_or(-1, |node| i32::try_from(node).unwrap_or(i32::MAX));
        log::forget();
        // SAFETY: EAL runs (we hold it), the name outlives the call, and the sizes have been checked.
        let pool = unsafe {
            let packed = i32::from(config.packed);
            sys::shim_mempool_create(name.as_ptr(), config.mbufs, config.cache_mbufs, room, node, packed)
        };
        let Some(pool) = NonNull::new(pool) else {
            return Err(match Errno::last() {
                errno if errno.number() == libc::ENOMEM => Error::NoMemory {
                    what: format!("a mempool of {} mbufs of {} bytes", config.mbufs, config.data_bytes),
                    bytes: u64::from(config.mbufs) * (u64::from(room) + MBUF_OVERHEAD_BYTES),
                    node: config.numa_node.map_or("any NUMA node".into(), |node| format!("NUMA node {node}")),
                },
                errno => Error::Call { what: "creating a mempool".into(), errno, log: log::recent() },
            });
        };
        Ok(Self { shared: Arc::new(Shared { pool: PoolPointer(pool), config, _eal: eal.clone() }) })
    }

    /// An empty mbuf, or `None` when all are in use.
    pub fn alloc(&self) -> Option<Mbuf> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the pool lives as long as `self`, and there is room for one pointer.
        if unsafe { sys::shim_mbuf_alloc(self.as_ptr(), &mut raw, 1) } != 0 {
            return None;
        }
        ledger::took(1);
        // SAFETY: a fresh mbuf of one segment that nobody else has.
        Some(unsafe { Mbuf::from_raw(raw) })
    }

    /// Appends `count` (at most [`BURST_MAX`]) empty mbufs to `to`, or none when there are not so many; returns how many. One call into DPDK.
    pub fn alloc_burst(&self, to: &mut VecDeque<Mbuf>, count: usize) -> usize {
        let mut raw = [const { MaybeUninit::uninit() }; BURST_MAX];
        let count = count.min(BURST_MAX);
        // SAFETY: the pool lives as long as `self`, and there is room for `count` pointers.
        if unsafe { sys::shim_mbuf_alloc(self.as_ptr(), raw.as_mut_ptr().cast(), count as u32) } != 0 {
            return 0;
        }
        ledger::took(count);
        // SAFETY: `count` pointers were written, to fresh mbufs of one segment each that nobody else has.
        unsafe { mbuf::append(to, &raw[..count]) };
        count
    }

    /// What it was made with.
    pub fn config(&self) -> &MempoolConfig {
        &self.shared.config
    }

    /// Mbufs that can be allocated, those in threads' caches included. Walks all caches: not for the data path, and
    /// exact only while nobody allocates or frees.
    pub fn available(&self) -> u32 {
        // SAFETY: the pool lives as long as `self`.
        unsafe { sys::rte_mempool_avail_count(self.as_ptr()) }
    }

    /// Mbufs that are somewhere else: with the program, or in a port's rings. As exact as [`Mempool::available`].
    pub fn in_use(&self) -> u32 {
        // SAFETY: the pool lives as long as `self`.
        unsafe { sys::rte_mempool_in_use_count(self.as_ptr()) }
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::rte_mempool {
        self.shared.pool.0.as_ptr()
    }
}

impl fmt::Debug for Mempool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mempool").field("config", self.config()).field("in_use", &self.in_use()).finish()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let mut retired = retired();
        retired.pools.push(self.pool);
        retired.free_what_can_go();
    }
}

/// A port has been opened: from now on its rings may hold mbufs of any mempool.
pub(crate) fn port_opened() {
    retired().ports_open += 1;
}

/// A port has been closed, its rings are empty.
pub(crate) fn port_closed() {
    let mut retired = retired();
    retired.ports_open -= 1;
    retired.free_what_can_go();
}

impl Retired {
    /// Frees the mempools whose mbufs are all back. No handle to them is left to allocate from; with no port open and
    /// no mbuf in Rust's hands nobody can return one either, so their counts stand still. A pool that is not full
    /// even so (a software ring keeps mbufs over its close) stays until EAL's end.
    fn free_what_can_go(&mut self) {
        if self.ports_open != 0 || ledger::outstanding() != 0 {
            return;
        }
        self.pools.retain(|PoolPointer(pool)| {
            // SAFETY: the pool is freed nowhere but below, where it also leaves the list.
            let in_use = unsafe { sys::rte_mempool_in_use_count(pool.as_ptr()) };
            if in_use == 0 {
                // SAFETY: nobody has a pointer to the pool or to any of its mbufs, see above.
                unsafe { sys::rte_mempool_free(pool.as_ptr()) };
            }
            in_use != 0
        });
    }
}

/// Head of an mbuf and its mempool header, for estimates.
const MBUF_OVERHEAD_BYTES: u64 = 192;

/// The data room with headroom in bytes.
fn check_size(config: &MempoolConfig) -> Result<u16> {
    let wrong = |what, given: String, expected: String| Err(Error::Setting { what, given, expected });
    if config.mbufs == 0 || config.mbufs > 1 << 28 {
        return wrong("number of mbufs", config.mbufs.to_string(), "from 1 to 2^28".into());
    }
    let cache_max = sys::SHIM_MEMPOOL_CACHE_MAX.min(config.mbufs / 3 * 2);
    if config.cache_mbufs > cache_max {
        return wrong(
            "mbufs in a thread's cache",
            config.cache_mbufs.to_string(),
            format!("at most {cache_max} for a mempool of {}", config.mbufs),
        );
    }
    let room = u32::from(config.data_bytes) + sys::SHIM_MBUF_HEADROOM;
    match u16::try_from(room) {
        Ok(room) if config.data_bytes >= 64 => Ok(room),
        _ => wrong(
            "data bytes of an mbuf",
            config.data_bytes.to_string(),
            format!("from 64 to {}", u32::from(u16::MAX) - sys::SHIM_MBUF_HEADROOM),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_cannot_work_are_refused_with_their_bounds() {
        let sound = MempoolConfig::default();
        assert_eq!(check_size(&sound).unwrap(), 2048 + 128);
        for (config, expected) in [
            (MempoolConfig { mbufs: 0, ..sound }, "number of mbufs is 0"),
            (MempoolConfig { mbufs: 100, ..sound }, "at most 66"),
            (MempoolConfig { cache_mbufs: 513, ..sound }, "at most 512"),
            (MempoolConfig { data_bytes: 63, ..sound }, "from 64"),
            (MempoolConfig { data_bytes: u16::MAX, ..sound }, "to 65407"),
        ] {
            let error = check_size(&config).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
