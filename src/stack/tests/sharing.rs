//! Several workers behind one address: whose a frame is, and what becomes of one that comes to another.

use super::host::{Host, Raw, arp_of_raw, config, fragmentation_needed};
use crate::port::spread::{Hashed, Rss};
use crate::stack::key::FlowKey;
use crate::stack::{ConnectError, Onward, Share, StackConfig};
use smoltcp::wire::TcpControl;
use std::sync::Arc;

/// The two workers of one host.
fn workers(rss: Option<Rss>) -> [Host; 2] {
    let rss = rss.map(Arc::new);
    [0, 1].map(|worker| {
        let share = Some(Share { worker, workers: 2, rss: rss.clone() });
        let mut host = Host::new(2, &StackConfig { share, ..config(&["10.0.0.2/24"]) });
        host.stack.listen(80);
        host
    })
}

/// RSS over two queues, as NICs are set up for it.
fn rss() -> Rss {
    let table = (0..128).map(|at| at % 2).collect();
    Rss::new([0x6d, 0x5a].repeat(20), table, Hashed::AddressesAndPorts, Hashed::AddressesAndPorts).unwrap()
}

#[test]
fn a_flow_is_its_owners_wherever_its_segments_come() {
    for rule in [None, Some(rss())] {
        let mut owned = [0, 0];
        for port in 5000..5040 {
            let syn = Raw::syn(port, 7);
            let mut hosts = workers(rule.clone());
            let onward = hosts.each_mut().map(|host| host.onward(&syn.frame()));
            let owner = onward.iter().position(|onward| *onward == Onward::Done).expect("an owner");
            owned[owner] += 1;
            assert_eq!(onward[1 - owner], Onward::Owner(owner as u32));
            // Once it is in the table, a segment is looked for nowhere else; the other one still sends it on, and no RST.
            let later = Raw { control: TcpControl::None, ack: Some(1), ..syn };
            assert_eq!(hosts[owner].onward(&later.frame()), Onward::Done);
            assert_eq!(hosts[1 - owner].onward(&later.frame()), Onward::Owner(owner as u32));
            let stats = hosts[1 - owner].stack.stats();
            assert_eq!((stats.rx_rst_sent, stats.rx_no_flow, stats.rx_syn_accepted), (0, 0, 0));
        }
        assert!(owned.iter().all(|&owned| owned > 5), "{owned:?}");
    }
}

#[test]
fn what_is_handed_over_is_not_handed_on() {
    let mut hosts = workers(None);
    let syn =
        (5000..).map(|port| Raw::syn(port, 7)).find(|syn| hosts[0].onward(&syn.frame()) != Onward::Done);
    let frame = syn.expect("half of them").frame();
    hosts[1].take_over(&frame);
    assert_eq!(hosts[1].stack.stats().rx_syn_accepted, 1);
    // Neither is what its receiver answered already.
    hosts[1].take_over(&arp_of_raw());
    assert_eq!(hosts[1].stack.stats().rx_control, 0);
}

#[test]
fn a_damaged_segment_of_another_workers_is_left_to_its_checks() {
    let mut hosts = workers(None);
    let frame = (5000..)
        .map(|port| Raw::syn(port, 7).frame())
        .find(|frame| hosts[0].onward(frame) == Onward::Owner(1))
        .expect("half of them");
    let mut damaged = frame.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert_eq!(hosts[0].onward(&damaged), Onward::Owner(1));
    hosts[1].take_over(&damaged);
    let stats = hosts[1].stack.stats();
    assert_eq!((stats.rx_bad_checksum, stats.rx_syn_accepted), (1, 0));
}

#[test]
fn answers_to_an_outgoing_connection_come_to_who_opened_it() {
    for rule in [None, Some(rss())] {
        for host in &mut workers(rule) {
            let share = host.stack.share.clone().expect("two workers");
            for _ in 0..20 {
                let id = host.stack.connect("10.0.0.9:81".parse().unwrap()).unwrap();
                let (local, remote) = (host.stack.local(id).unwrap(), host.stack.peer(id).unwrap());
                let owner = match &share.rss {
                    Some(rss) => u32::from(rss.queue(remote, local)) % 2,
                    None => share.owner(&FlowKey::new(local, remote)),
                };
                assert_eq!(owner, share.worker);
            }
        }
    }
}

#[test]
fn an_outgoing_connection_needs_a_port_that_steers_home() {
    // A device that puts everything on the first queue.
    let rss = Rss::new(Vec::new(), vec![0], Hashed::Nothing, Hashed::Nothing).map(Arc::new);
    let share = Some(Share { worker: 1, workers: 2, rss });
    let mut host = Host::new(2, &StackConfig { share, ..config(&["10.0.0.2/24"]) });
    assert_eq!(host.stack.connect("10.0.0.9:81".parse().unwrap()), Err(ConnectError::NoPort));
}

#[test]
fn a_report_about_a_path_goes_to_the_flows_owner_alone() {
    for rule in [None, Some(rss())] {
        for port in 5000..5020 {
            let mut hosts = workers(rule.clone());
            let syn = Raw::syn(port, 7);
            let onward = hosts.each_mut().map(|host| host.onward(&syn.frame()));
            let owner = onward.iter().position(|onward| *onward == Onward::Done).expect("an owner");
            let report = fragmentation_needed(syn.to, syn.from, 1_000);
            assert_eq!(hosts[owner].onward(&report), Onward::Done);
            assert_eq!(hosts[1 - owner].onward(&report), Onward::Worker(owner as u32));
            hosts[owner].take_over(&report);
            let counted = hosts.map(|host| host.stack.stats().rx_control);
            assert_eq!((counted[owner], counted[1 - owner]), (2, 0));
        }
    }
}
