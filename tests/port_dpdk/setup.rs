//! Opening devices, and what a port does when it has run out of something.

use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use unsocket::port::dpdk::{Checksums, DpdkConfig, DpdkError, DpdkFrame, DpdkPort, Memory, Steering, open};
use unsocket::port::{Frame, Port};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A configuration for `spec` with the memory that `DPDK_MEMORY` asks for.
pub(crate) fn config(spec: &str) -> DpdkConfig {
    let memory = match std::env::var("DPDK_MEMORY").as_deref() {
        Err(_) | Ok("ordinary") => Memory::Ordinary { mib: 256 },
        Ok("huge") => Memory::HugePages,
        Ok(other) => panic!("DPDK_MEMORY={other}: it is `huge` or `ordinary`"),
    };
    DpdkConfig { memory, ..spec.parse().unwrap_or_else(|error| panic!("{error}")) }
}

pub(crate) fn open_one(config: &DpdkConfig) -> DpdkPort {
    open(config).unwrap_or_else(|error| panic!("{error}")).remove(0)
}

/// Sends one frame and waits until the device has taken it.
pub(crate) fn send(port: &mut DpdkPort, bytes: &[u8]) {
    let mut burst = VecDeque::from([frame(port, bytes)]);
    let deadline = Instant::now() + PATIENCE;
    while port.tx_burst(&mut burst) == 0 {
        assert!(Instant::now() < deadline, "the frame was not taken");
        std::thread::yield_now();
    }
}

pub(crate) fn frame(port: &mut DpdkPort, bytes: &[u8]) -> DpdkFrame {
    let mut frame = port.alloc().expect("a free frame");
    Frame::set_len(&mut frame, bytes.len());
    frame.bytes_mut().copy_from_slice(bytes);
    frame
}

/// The first received frame that `pick` makes something of; the others are released.
pub(crate) fn receive<T>(port: &mut DpdkPort, mut pick: impl FnMut(&mut DpdkPort, &[u8]) -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    let mut burst = VecDeque::new();
    loop {
        assert!(Instant::now() < deadline, "no such frame came");
        port.rx_burst(&mut burst, 32);
        let mut picked = None;
        for frame in burst.drain(..) {
            picked = picked.or_else(|| pick(port, frame.bytes()));
            port.release(frame);
        }
        if let Some(picked) = picked {
            return picked;
        }
        std::thread::yield_now();
    }
}

fn refusal(config: &DpdkConfig) -> DpdkError {
    open(config).map(|_| ()).expect_err("the device must not open")
}

pub(crate) fn refused() {
    let sound = config("dpdk:net_null0");
    assert!(matches!(refusal(&DpdkConfig { mtu: 575, ..sound.clone() }), DpdkError::Mtu(575)));
    assert!(matches!(refusal(&DpdkConfig { mtu: 9001, ..sound.clone() }), DpdkError::Mtu(9001)));
    for (config, expected) in [
        (DpdkConfig { workers: 0, ..sound.clone() }, "workers on a device must be 1 to 1024, not 0"),
        (
            DpdkConfig { queues: Some(1025), ..sound.clone() },
            "queues of a device must be 1 to 1024, not 1025",
        ),
        (
            DpdkConfig { workers: 2, queues: Some(3), ..sound.clone() },
            "3 queue pairs cannot be divided evenly between 2 workers: make it a multiple",
        ),
        (
            config("dpdk:net_vhost0,iface=/tmp/unsocket-tso.sock,tso=1"),
            "net_vhost0,iface=/tmp/unsocket-tso.sock,tso=1: `tso=1` lets the other end send segments that are larger than \
             the MTU, and those are not received: leave it out",
        ),
        (DpdkConfig { vlan: Some(4095), ..sound.clone() }, "the VLAN of a port must be 1 to 4094, not 4095"),
        (
            DpdkConfig { descriptors: 16, ..sound.clone() },
            "descriptors of a ring must be 32 to 32768, not 16",
        ),
        (DpdkConfig { frames: 255, ..sound.clone() }, "frames of a queue must be 256 to 1048576, not 255"),
    ] {
        let error = refusal(&config).to_string();
        assert_eq!(error, expected);
    }
    // None of these got as far as DPDK, which starts once.
    let port = open_one(&sound.clone());
    assert!(refusal(&sound).to_string().contains("attached already"));
    let error = refusal(&config("dpdk:net_memif0,role=emperor")).to_string();
    assert!(error.contains("role"), "{error}");
    assert_eq!(port.info().name, "dpdk:net_null0");
}

pub(crate) fn second_device() {
    let mut first = open_one(&config("dpdk:net_ring0"));
    let trusting = DpdkConfig { checksums: Checksums::Trust, ..config("dpdk:net_ring1") };
    let mut second = open_one(&trusting);
    for port in [&mut first, &mut second] {
        send(port, &[7; 60]);
        receive(port, |_, bytes| (bytes == [7; 60]).then_some(()));
        assert_eq!((port.stats().rx_frames, port.stats().tx_bytes), (1, 60));
        assert_eq!((port.info().mtu, port.info().frame_bytes_max), (1500, 2048));
        assert_eq!(port.summary().steering, Steering::Single);
    }
    assert!(!first.info().tx_checksum_offload && !first.info().rx_checksum_trusted);
    assert!(second.info().tx_checksum_offload && second.info().rx_checksum_trusted);
    let told = first.summary().to_string();
    for part in [
        "net_ring0 (net_ring, DPDK ",
        "link up",
        "queues 1 rx x 1024, 1 tx x 1024",
        "mtu 1500",
        "steering: one queue",
    ] {
        assert!(told.contains(part), "{told}");
    }
}

pub(crate) fn exhaustion() {
    let few = DpdkConfig { frames: 256, descriptors: 32, ..config("dpdk:net_ring0") };
    let mut port = open_one(&few);
    let mut held = VecDeque::new();
    while let Some(frame) = port.alloc() {
        held.push_back(frame);
    }
    assert_eq!(held.len(), 256 + 2 * 32);
    assert_eq!(port.stats().alloc_failed, 1);
    // A frame given back can be had again at once.
    port.release(held.pop_front().unwrap());
    held.push_back(port.alloc().expect("the frame that was released"));
    assert!(port.alloc().is_none());
    held.drain(..).for_each(|frame| port.release(frame));
    send(&mut port, &[1; 60]);
    receive(&mut port, |_, bytes| (bytes == [1; 60]).then_some(()));
    port.rx_burst(&mut held, 32);
    assert!(port.frames_in_use() <= 64, "{} frames are lost", port.frames_in_use());
}

pub(crate) fn unsent() {
    let mut port = open_one(&config("dpdk:net_ring0"));
    let mut burst: VecDeque<_> =
        (0..2000u16).map(|mark| frame(&mut port, &[mark.to_be_bytes(); 30].concat())).collect();
    let taken = port.tx_burst(&mut burst);
    assert!(taken > 0 && taken < 2000, "{taken} of 2000");
    assert_eq!(burst.len(), 2000 - taken);
    assert_eq!((port.tx_burst(&mut burst), port.stats().tx_full), (0, 2));
    let mut received = 0u16;
    while received < 2000 {
        let mut arrived = VecDeque::new();
        port.rx_burst(&mut arrived, 32);
        for frame in arrived {
            assert_eq!(frame.bytes()[..2], received.to_be_bytes(), "in order");
            received += 1;
            port.release(frame);
        }
        port.tx_burst(&mut burst);
    }
    let stats = port.stats();
    assert_eq!((stats.tx_frames, stats.rx_frames), (2000, 2000));
    assert_eq!((stats.tx_bytes, stats.rx_bytes, stats.tx_errors), (120_000, 120_000, 0));
}

pub(crate) fn ordinary_user() {
    // No group beside its own, and no capability: what `nobody` has.
    set_thread_groups(&[]).unwrap();
    set_thread_gid(Gid::from_raw(65_534)).unwrap();
    set_thread_uid(Uid::from_raw(65_534)).unwrap();
    let mut port = open_one(&config("dpdk:net_ring0"));
    send(&mut port, &[3; 60]);
    receive(&mut port, |_, bytes| (bytes == [3; 60]).then_some(()));
    let error = refusal(&config("dpdk:net_af_packet0,iface=lo")).to_string();
    assert!(error.contains("CAP_NET_RAW"), "{error}");
}
