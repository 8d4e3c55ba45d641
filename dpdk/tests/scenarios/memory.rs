//! Mempools and mbufs: nothing is lost, nothing is freed too early.

use crate::support::{args, filled, pattern, pool};
use dpdk::{BURST_MAX, Eal, Error, Mbuf, Mempool, MempoolConfig};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub(crate) fn counts() {
    let eal = Eal::init(&args()).unwrap();
    let pool = pool(&eal, 255, 2048);
    assert_eq!((pool.available(), pool.in_use()), (255, 0));

    let mut burst = VecDeque::new();
    while pool.alloc_burst(&mut burst, BURST_MAX) == BURST_MAX {}
    assert_eq!(burst.len(), 255 / BURST_MAX * BURST_MAX, "all of a burst or none of it");
    while let Some(mbuf) = pool.alloc() {
        burst.push_back(mbuf);
    }
    assert_eq!((burst.len(), pool.available(), pool.in_use()), (255, 0, 255));
    assert!(pool.alloc().is_none());

    drop(burst.pop_front());
    assert_eq!((pool.available(), pool.in_use()), (1, 254));
    burst.rotate_left(100);
    Mbuf::free_burst(&mut burst);
    assert!(burst.is_empty());
    Mbuf::free_burst(&mut burst);
    assert_eq!((pool.available(), pool.in_use()), (255, 0));

    let config = MempoolConfig { mbufs: 1 << 24, ..MempoolConfig::default() };
    let error = Mempool::new(&eal, config).unwrap_err();
    assert!(matches!(error, Error::NoMemory { bytes, .. } if bytes > 1 << 35), "{error}");
}

/// Where a driver takes the pool for one array of mbufs, none may lie elsewhere.
pub(crate) fn packed() {
    let eal = Eal::init(&args()).unwrap();
    let config = MempoolConfig { mbufs: 4096, packed: true, ..MempoolConfig::default() };
    let pool = Mempool::new(&eal, config).unwrap();
    let mut burst = VecDeque::new();
    while pool.alloc_burst(&mut burst, BURST_MAX) == BURST_MAX {}
    let mut at: Vec<_> = burst.iter().map(|mbuf| mbuf.data().as_ptr() as usize).collect();
    at.sort_unstable();
    let distance = at[1] - at[0];
    assert!((2048 + 128..4096).contains(&distance), "{distance}");
    assert!(at.len() == 4096 && at.windows(2).all(|two| two[1] - two[0] == distance));
    drop(burst);
    assert_eq!(pool.in_use(), 0);

    let config = MempoolConfig { mbufs: 1 << 24, ..config };
    assert!(matches!(Mempool::new(&eal, config), Err(Error::NoMemory { .. })));
}

pub(crate) fn outlive() {
    let eal = Eal::init(&args()).unwrap();
    let pool = pool(&eal, 63, 2048);
    let kept = filled(&pool, &pattern(1, 1000));
    let moved = filled(&pool, &pattern(2, 1000));
    drop(pool);
    drop(eal);
    // The pool and EAL have no handle left, and their memory is still there.
    std::thread::spawn(move || assert_eq!(moved.data(), pattern(2, 1000))).join().unwrap();
    assert_eq!(kept.data(), pattern(1, 1000));
    drop(kept);
}

pub(crate) fn data() {
    let eal = Eal::init(&args()).unwrap();
    let pool = pool(&eal, 63, 9014);
    let mut mbuf = pool.alloc().unwrap();
    assert!(mbuf.is_empty() && mbuf.is_contiguous());
    assert_eq!((mbuf.data().len(), mbuf.capacity()), (0, 9014));
    for len in [1, 64, 9014, 0, 60] {
        mbuf.set_len(len);
        let bytes = pattern(len as u64, len);
        mbuf.data_mut().copy_from_slice(&bytes);
        assert_eq!((mbuf.len(), mbuf.data()), (len, &bytes[..]));
    }
    let too_long = catch_unwind(AssertUnwindSafe(|| mbuf.set_len(9015)));
    assert!(too_long.is_err());
    assert_eq!(mbuf.len(), 60, "a refused length changes nothing");
    // A used mbuf comes back empty.
    drop(mbuf);
    let fresh: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
    assert_eq!(fresh.len(), 63);
    assert!(
        fresh
            .iter()
            .all(|mbuf| mbuf.is_empty() && mbuf.rss_hash().is_none() && mbuf.vlan_stripped().is_none())
    );
}

pub(crate) fn threads() {
    let eal = Eal::init(&args()).unwrap();
    let pool = pool(&eal, 1023, 2048);
    let main = eal.register_thread().unwrap();
    assert!(main.was_known() && main.lcore_id() == 0, "EAL's main thread is known already");
    let (give, take) = std::sync::mpsc::channel::<Mbuf>();
    let mut ids = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..3)
            .map(|worker| {
                let (eal, pool, give) = (eal.clone(), pool.clone(), give.clone());
                scope.spawn(move || {
                    let registered = eal.register_thread().unwrap();
                    assert!(!registered.was_known() && eal.register_thread().unwrap().was_known());
                    for round in 0..5000 {
                        if let Some(mbuf) = pool.alloc()
                            && (round + worker) % 3 == 0
                        {
                            give.send(mbuf).unwrap();
                        }
                    }
                    registered.lcore_id()
                })
            })
            .collect();
        drop(give);
        // Freed on another thread than the one that took it.
        for mbuf in take {
            drop(mbuf);
        }
        workers.into_iter().map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(ids.iter().all(|&id| id != 0));
    ids.dedup();
    assert!(!ids.is_empty());
    assert_eq!((pool.available(), pool.in_use()), (1023, 0));
}
