//! What is left to the kernel where there is an exception path, and what is not.

use super::host::{Host, Raw, arp_of_raw, config, fragmentation_needed};
use crate::stack::{Onward, StackConfig};
use crate::time::Instant;
use smoltcp::wire::TcpControl;
use std::net::SocketAddr;

fn host() -> Host {
    let mut host = Host::new(2, &StackConfig { has_exception_path: true, ..config(&["10.0.0.2/24"]) });
    host.stack.listen(80);
    host.burst(Instant::ZERO, &[arp_of_raw()]);
    host
}

fn to(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 2], port))
}

fn syn_to(port: u16) -> Vec<u8> {
    Raw { to: to(port), ..Raw::syn(5000, 7) }.frame()
}

/// A packet of another protocol to our address.
fn packet(protocol: u8, fragment: u16) -> Vec<u8> {
    let mut frame = syn_to(22);
    frame[20..22].copy_from_slice(&fragment.to_be_bytes());
    frame[23] = protocol;
    // A UDP header's length, which is looked at.
    frame[38..40].copy_from_slice(&28_u16.to_be_bytes());
    frame
}

#[test]
fn what_is_for_nobody_is_the_kernels() {
    const UDP: u8 = 17;
    const SCTP: u8 = 132;
    const FIRST_FRAGMENT: u16 = 0x2000;
    let mut lldp = syn_to(22);
    lldp[12..14].copy_from_slice(&[0x88, 0xcc]);
    let to_other_addr = Raw { to: SocketAddr::from(([10, 0, 0, 3], 80)), ..Raw::syn(5000, 7) }.frame();
    for frame in [
        syn_to(22),
        Raw { control: TcpControl::None, ack: Some(1), to: to(22), ..Raw::syn(5001, 9) }.frame(),
        packet(UDP, 0),
        packet(SCTP, 0),
        packet(UDP, FIRST_FRAGMENT),
        lldp,
        to_other_addr,
        fragmentation_needed(to(22), "10.0.0.9:5000".parse().unwrap(), 1_000),
    ] {
        let mut host = host();
        assert_eq!(host.onward(&frame), Onward::Kernel, "{frame:02x?}");
        assert_eq!(host.stack.stats().rx_to_kernel, 1);
        assert!(host.burst(Instant::from_millis(1), &[]).is_empty(), "it is not answered here");
    }
}

#[test]
fn what_is_the_engines_stays() {
    const TCP: u8 = 6;
    let mut host = host();
    assert_eq!(host.onward(&syn_to(80)), Onward::Done);
    assert_eq!(host.stack.stats().rx_syn_accepted, 1);
    // Put together by the kernel, it would be a segment of a connection that the kernel does not know.
    assert_eq!(host.onward(&packet(TCP, 0x2000)), Onward::Done);
    // Both learn from it.
    assert_eq!(host.onward(&arp_of_raw()), Onward::Everyone);
    let mut for_others = syn_to(22);
    for_others[5] ^= 1;
    assert_eq!(host.onward(&for_others), Onward::Done);
    assert_eq!(host.stack.stats().rx_to_kernel, 0);
    // A stray segment to a port that we listen on is answered with RST as ever.
    let stray = Raw { control: TcpControl::None, ack: Some(1), ..Raw::syn(5002, 9) };
    assert_eq!(host.onward(&stray.frame()), Onward::Done);
    assert_eq!(host.stack.stats().rx_rst_sent, 1);
}
