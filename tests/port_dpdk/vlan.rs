//! One VLAN of a port: tags go on and come off, and other VLANs stay out.

use crate::memif::Meeting;
use crate::runner::{self, Peer};
use crate::setup::{PATIENCE, config, frame, open_one};
use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;
use unsocket::port::dpdk::{DpdkConfig, DpdkPort};
use unsocket::port::{Frame, Port};

const ADDRESSES: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

fn vlan_port(device: &str) -> DpdkPort {
    open_one(&DpdkConfig { vlan: Some(5), ..config(device) })
}

fn tagged(tag: u16, rest: &[u8]) -> Vec<u8> {
    [&ADDRESSES[..], &[0x81, 0x00], &tag.to_be_bytes(), rest].concat()
}

/// Two rings of one process are not joined: each gives back what it was sent.
pub(crate) fn tags() {
    let rest = content(7);
    let plain = [&ADDRESSES[..], &rest].concat();

    // What is sent comes back tagged, and is untagged again; twice, as a frame that was not taken is offered again.
    let mut port = vlan_port("dpdk:net_ring0");
    assert!(port.summary().to_string().contains("VLAN 5"), "{}", port.summary());
    let mut burst: VecDeque<_> = (0..1500).map(|_| frame(&mut port, &plain)).collect();
    let mut received = 0;
    let deadline = Instant::now() + PATIENCE;
    while received < 1500 {
        assert!(Instant::now() < deadline, "{received} of 1500, {:?}", port.stats());
        port.tx_burst(&mut burst);
        let mut arrived = VecDeque::new();
        port.rx_burst(&mut arrived, 32);
        for frame in arrived {
            assert_eq!(frame.bytes(), plain);
            received += 1;
            port.release(frame);
        }
    }
    assert!(port.stats().tx_full > 0, "some were offered twice");
    assert_eq!((port.stats().rx_other_vlan, port.stats().tx_errors), (0, 0));

    // Without a VLAN the tag is seen on the way.
    let mut raw = open_one(&config("dpdk:net_ring1"));
    let mut burst = VecDeque::from([frame(&mut raw, &tagged(5, &rest))]);
    raw.tx_burst(&mut burst);
    raw.rx_burst(&mut burst, 8);
    assert_eq!(burst[0].bytes(), tagged(5, &rest));
    burst.drain(..).for_each(|frame| raw.release(frame));
}

/// The other process: sends frames of all kinds, tagged by hand.
pub(crate) fn tag_peer() {
    let mut port = open_one(&config(&runner::peer_arguments()[0]));
    let mut burst = VecDeque::new();
    runner::until_stdin_ends(|| {
        if burst.is_empty() {
            let kinds = [
                tagged(5, &content(1)),
                tagged(6, &content(2)),
                [&ADDRESSES[..], &content(3)].concat(),
                // Priority 5, drop eligible, VLAN 5.
                tagged(0xb005, &content(4)),
                // Priority tagged: no VLAN.
                tagged(0, &content(5)),
                tagged(5, &[]),
            ];
            burst.extend(kinds.iter().map(|bytes| frame(&mut port, bytes)));
        }
        port.tx_burst(&mut burst);
        std::thread::sleep(std::time::Duration::from_millis(1));
    });
}

/// EtherType and payload.
fn content(mark: u8) -> Vec<u8> {
    [&[0x08, 0x00][..], &[mark; 50]].concat()
}

/// Only frames of the port's VLAN come in, whatever their priority.
pub(crate) fn others_stay_out() {
    let meeting = Meeting::new();
    let mut port = vlan_port(&meeting.spec("server"));
    let peer = Peer::start("tag", &[&meeting.spec("client")]);
    let mut marks = BTreeSet::new();
    let deadline = Instant::now() + PATIENCE;
    while port.stats().rx_other_vlan < 40 {
        assert!(Instant::now() < deadline, "{:?}", port.stats());
        let mut arrived = VecDeque::new();
        port.rx_burst(&mut arrived, 32);
        for frame in arrived {
            assert_eq!(frame.bytes().len(), 64);
            assert_eq!(frame.bytes()[..14], [&ADDRESSES[..], &[0x08, 0x00]].concat());
            marks.insert(frame.bytes()[14]);
            port.release(frame);
        }
        std::thread::yield_now();
    }
    assert_eq!(marks, BTreeSet::from([1, 4]));
    peer.finish();
}

/// The engine at both ends, in one VLAN.
pub(crate) fn engines() {
    let meeting = Meeting::new();
    let config = |spec: &str| DpdkConfig { vlan: Some(4094), ..config(spec) };
    crate::engine::messages_between(
        &config(&meeting.spec("server")),
        &[&meeting.spec("client"), "1500", "vlan"],
    );
}
