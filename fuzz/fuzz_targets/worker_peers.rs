//! A whole worker with the chat on it, and hosts that keep no rule.
#![no_main]

#[path = "../peers.rs"]
#[allow(dead_code)] // each target attacks one kind of host
mod peers;

libfuzzer_sys::fuzz_target!(|steps: Vec<peers::Step>| peers::attack_worker(steps));
