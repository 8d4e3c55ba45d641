//! A stack alone: Ethernet frames, ARP, NDP, ICMP and TCP segments of any kind.
#![no_main]

#[path = "../peers.rs"]
#[allow(dead_code)] // each target attacks one kind of host
mod peers;

libfuzzer_sys::fuzz_target!(|steps: Vec<peers::Step>| peers::attack_stack(steps));
