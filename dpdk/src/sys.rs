//! The raw bindings: generated from `shim/shim.h`, private to this crate.
//!
//! `bindgen` adds a compile-time check of every structure's size, alignment and offsets as clang sees them;
//! `shim/shim.c` holds [`shim_mbuf`] to DPDK's `struct rte_mbuf` as the C compiler sees it.

#![allow(non_camel_case_types, non_upper_case_globals, dead_code)]
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
