//! Ports of software within one process.

use crate::support::{device, eal_and_pool, filled, pattern, receive, send, start};
use dpdk::{
    Error, L4Checksum, Mbuf, Mempool, MempoolConfig, Offloads, Port, PortConfig, RssConfig, RssFunctions,
    TxOffload,
};
use std::collections::VecDeque;
use std::time::Duration;

pub(crate) fn ring_loopback() {
    let (eal, pool) = eal_and_pool("net_ring0", 2048);
    let (port, mut rx, mut tx) = start(&eal, "net_ring0", &PortConfig::default(), &pool);
    assert!(port.wait_link(Duration::from_secs(2)).unwrap().up);
    let mut burst = VecDeque::new();
    for round in 0..200u64 {
        let lengths: Vec<usize> = (0..32).map(|at| 14 + (round as usize * 37 + at * 11) % 1500).collect();
        burst.extend(lengths.iter().zip(0..).map(|(&len, at)| filled(&pool, &pattern(round << 8 | at, len))));
        assert_eq!(tx.tx_burst(&mut burst), 32);
        assert!(burst.is_empty());
        receive(&mut rx, &mut burst, 32);
        for ((mbuf, len), at) in burst.drain(..).zip(lengths).zip(0..) {
            assert_eq!(mbuf.data(), pattern(round << 8 | at, len));
        }
    }
    let stats = port.stats().unwrap();
    assert_eq!((stats.tx_frames, stats.rx_frames), (6400, 6400));
    let xstats = port.xstats().unwrap();
    assert!(xstats.contains(&("tx_good_packets".into(), 6400)), "{xstats:?}");
    port.reset_stats().unwrap();
    assert_eq!(port.stats().unwrap().tx_frames, 0);
    assert_eq!(pool.in_use(), 0);
    // The queues keep the port running without its handle.
    drop(port);
    burst.push_back(filled(&pool, &pattern(7, 60)));
    send(&mut tx, &mut burst);
    receive(&mut rx, &mut burst, 1);
    assert_eq!(burst[0].data(), pattern(7, 60));
}

pub(crate) fn ring_full() {
    let (eal, pool) = eal_and_pool("net_ring0", 2048);
    let (_port, mut rx, mut tx) = start(&eal, "net_ring0", &PortConfig::default(), &pool);
    let mut burst: VecDeque<Mbuf> = (0..2000).map(|seed| filled(&pool, &pattern(seed, 64))).collect();
    let taken = tx.tx_burst(&mut burst);
    assert!(taken > 0 && taken < 2000, "{taken}");
    assert_eq!(burst.len(), 2000 - taken);
    assert_eq!(burst[0].data(), pattern(taken as u64, 64), "those in front were taken");
    assert_eq!(tx.tx_burst(&mut burst), 0);
    assert_eq!(burst.len(), 2000 - taken);
    assert_eq!(tx.refused(), 0);

    let mut received = VecDeque::new();
    while !burst.is_empty() {
        rx.rx_burst(&mut received, 32);
        tx.tx_burst(&mut burst);
    }
    receive(&mut rx, &mut received, 2000);
    for (mbuf, seed) in received.iter().zip(0..) {
        assert_eq!(mbuf.data(), pattern(seed, 64), "in order");
    }
    Mbuf::free_burst(&mut received);
    assert_eq!(pool.in_use(), 0);
}

pub(crate) fn null() {
    let (eal, pool) = eal_and_pool("net_null0,size=128", 2048);
    let (_port, mut rx, mut tx) = start(&eal, "net_null0", &PortConfig::default(), &pool);
    let mut burst = VecDeque::new();
    for _ in 0..1000 {
        assert_eq!(rx.rx_burst(&mut burst, 32), 32);
        assert!(burst.iter().all(|mbuf| mbuf.len() == 128));
        assert_eq!(tx.tx_burst(&mut burst), 32);
    }
    assert_eq!(rx.rx_burst(&mut burst, usize::MAX), dpdk::BURST_MAX);
    assert_eq!(pool.in_use(), 64);
    burst.clear();
    assert_eq!(pool.in_use(), 0);
}

pub(crate) fn capabilities() {
    let (eal, pool) = eal_and_pool("net_ring0", 2048);
    let id = eal.ports_of(&device("net_ring0")).unwrap()[0];
    let mut port = Port::open(&eal, id).unwrap();
    assert_eq!((port.id(), port.name()), (id, "net_ring0"));
    assert!(port.in_use().is_none());
    let can = port.capabilities().clone();
    assert!(can.driver.contains("ring"), "{}", can.driver);
    let wanted = PortConfig {
        rx_queues: 4000,
        tx_queues: 1,
        offloads: Offloads::all(),
        rss: Some(RssConfig { functions: RssFunctions::tcp(), key: None }),
        promiscuous: true,
        mac: Some([2, 0, 0, 0, 0, 9]),
        ..PortConfig::default()
    };
    let error = port.start(&wanted, &[]).unwrap_err();
    assert!(error.to_string().contains("mempools is none"), "{error}");
    let (rx, tx) = port.start(&wanted, std::slice::from_ref(&pool)).unwrap();
    let in_use = port.in_use().unwrap();
    assert_eq!((rx.len(), tx.len()), (usize::from(can.rx_queues_max), 1));
    assert_eq!((in_use.rx_queues, in_use.tx_queues, in_use.mtu), (can.rx_queues_max, 1, 1500));
    assert_eq!(in_use.offloads, can.offloads);
    assert_eq!((in_use.promiscuous, in_use.allmulticast), (true, true));
    let told = in_use.to_string();
    for part in [
        "4000 RX queues",
        "MAC address: port 0 (driver net_ring) does not support",
        "RSS over ipv4-tcp ipv6-tcp",
        "offload tx-tso",
        "mtu 1500",
    ] {
        assert!(told.contains(part), "{told}");
    }
    assert!(matches!(port.start(&wanted, &[pool]), Err(Error::Setting { what: "port", .. })));
    assert!(matches!(port.reta(), Err(Error::Unsupported { .. })));
    assert!(matches!(port.set_reta(&[0]), Err(Error::Unsupported { .. })));
    assert!(matches!(port.rss(), Err(Error::Unsupported { .. })));
    port.set_promiscuous(false).unwrap();
    assert!(!port.promiscuous());

    // Mbufs that could not hold a frame of the MTU, on a port that cannot scatter.
    eal.attach(&device("net_null0")).unwrap();
    let small = Mempool::new(
        &eal,
        MempoolConfig { mbufs: 63, cache_mbufs: 0, data_bytes: 512, ..MempoolConfig::default() },
    )
    .unwrap();
    let mut null = Port::open(&eal, eal.ports_of(&device("net_null0")).unwrap()[0]).unwrap();
    let error = null.start(&PortConfig::default(), &[small]).unwrap_err();
    assert!(error.to_string().contains("at least 1522"), "{error}");
}

pub(crate) fn mac_and_rss_table() {
    let (eal, pool) = eal_and_pool("net_null0", 2048);
    let mut port = Port::open(&eal, eal.ports_of(&device("net_null0")).unwrap()[0]).unwrap();
    let rss = Some(RssConfig { functions: RssFunctions::tcp(), key: None });
    let mac = Some([2, 0, 0, 0, 0, 9]);
    let config = PortConfig { rx_queues: 3, tx_queues: 3, rss, mac, ..PortConfig::default() };
    let (rx, _tx) = port.start(&config, &[pool]).unwrap();
    assert_eq!(rx.len(), 3);
    let in_use = port.in_use().unwrap();
    assert_eq!((in_use.rss_functions, in_use.mac), (RssFunctions::tcp(), [2, 0, 0, 0, 0, 9]));
    assert_eq!(port.mac().unwrap(), in_use.mac);
    port.set_reta(&[0, 1, 2]).unwrap();
    let table = port.reta().unwrap();
    assert_eq!(table.len(), port.capabilities().reta_entries);
    assert!(
        table.iter().zip([0, 1, 2].into_iter().cycle()).all(|(&queue, expected)| queue == expected),
        "{table:?}"
    );
    assert!(matches!(port.set_reta(&[3]), Err(Error::Unsupported { .. })), "there is no queue 3");
}

pub(crate) fn one_owner() {
    let (eal, pool) = eal_and_pool("net_null0", 2048);
    let (port, rx, tx) = start(&eal, "net_null0", &PortConfig::default(), &pool);
    let id = port.id();
    assert!(matches!(Port::open(&eal, id), Err(Error::PortTaken { port }) if port == id));
    drop((port, tx));
    assert!(matches!(Port::open(&eal, id), Err(Error::PortTaken { .. })), "a queue still has it");
    drop(rx);
    assert!(matches!(Port::open(&eal, id), Err(Error::Call { .. })), "it is closed for good");
    assert!(matches!(Port::open(&eal, 31), Err(Error::Call { .. })));
    assert!(eal.ports().is_empty());
}

pub(crate) fn refused() {
    let (eal, pool) = eal_and_pool("net_ring0", 2048);
    let (_port, mut rx, mut tx) = start(&eal, "net_ring0", &PortConfig::default(), &pool);
    let good = |seed| filled(&pool, &pattern(seed, 60));
    let mut offloading = good(0);
    offloading.set_tx_offload(&TxOffload {
        l4_checksum: L4Checksum::Tcp,
        l2_bytes: 14,
        l3_bytes: 20,
        ..TxOffload::default()
    });
    let mut tagging = good(0);
    tagging.set_tx_offload(&TxOffload { vlan: Some(5), ..TxOffload::default() });
    let mut plain_again = good(3);
    plain_again.set_tx_offload(&TxOffload { vlan: Some(5), ..TxOffload::default() });
    plain_again.set_tx_offload(&TxOffload::default());

    let mut burst = VecDeque::from([
        good(1),
        filled(&pool, &[0; 13]),
        filled(&pool, &[0; 1523]),
        good(2),
        offloading,
        tagging,
        plain_again,
        pool.alloc().unwrap(),
    ]);
    assert_eq!(tx.tx_burst(&mut burst), 3);
    assert!(burst.is_empty());
    assert_eq!(tx.refused(), 5);
    receive(&mut rx, &mut burst, 3);
    for (mbuf, seed) in burst.iter().zip(1..) {
        assert_eq!(mbuf.data(), pattern(seed, 60));
    }
    assert_eq!(pool.in_use(), 3, "what was refused went back");
}
