//! A small safe binding to DPDK: what a packet engine needs of it, and no more.
//!
//! | type | what it is | dropped |
//! |---|---|---|
//! | [`Eal`] | the runtime, once per process | cleaned up with its last owner |
//! | [`Mempool`] | a fixed set of mbufs | freed when its mbufs are back |
//! | [`Mbuf`] | one frame, owned | back to its mempool |
//! | [`Port`] | one device, set up from its capabilities | stopped and closed with its last queue |
//! | [`RxQueue`], [`TxQueue`] | bursts in, bursts out; one owner each | |
//! | [`RegisteredThread`] | a thread of yours that EAL knows | unregistered |
//!
//! ```no_run
//! # use std::collections::VecDeque;
//! # fn main() -> dpdk::Result<()> {
//! use dpdk::{Eal, EalArgs, Mempool, MempoolConfig, Port, PortConfig};
//!
//! let device = "0000:03:00.0".parse()?;
//! let eal = Eal::init(&EalArgs::new().device(device))?;
//! let pool = Mempool::new(&eal, MempoolConfig::default())?;
//! let mut port = Port::open(&eal, eal.ports()[0])?;
//! let (mut rx, mut tx) = port.start(&PortConfig::default(), &[pool])?;
//! let mut burst = VecDeque::new();
//! loop {
//!     rx[0].rx_burst(&mut burst, dpdk::BURST_MAX);
//!     tx[0].tx_burst(&mut burst); // what was not sent stays in `burst`
//! }
//! # }
//! ```
//!
//! Needs DPDK 22.11 or newer, found by `pkg-config`, linked shared; drivers come from EAL's plugin folder.
//!
//! # Invariants
//! * An [`Mbuf`] has one owner and a reference count of one: nothing here clones, attaches or shares one.
//! * Everything that uses EAL holds it, so EAL ends last; while mbufs are out it does not end at all (see `ledger.rs`).
//! * A port's queues hold it, so it is stopped only when no burst can run.
//! * What a driver takes back when its peer goes, it takes back when no burst is in progress (see `quiet.rs`).
//! * A frame reaches a driver only if its lengths and offloads are what that port was set up for.
//! * One call into C per burst; what one burst costs does not depend on how many mempools, ports or threads there are.
//!
//! What another process may do: with memif's `zero-copy` the peer can write to a frame while it is read here, which Rust's
//! rules leave undefined. Use it between processes that trust each other; without it, frames are copied in.
//!
//! Absent on purpose: `RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE` (a queue may send mbufs of any mempool), mbuf clones, external
//! buffers, secondary processes' shared objects, lcore launching (threads are yours).
#![allow(unsafe_code)] // The one crate that may call DPDK; every block says why it is sound.

mod args;
#[cfg(feature = "bench")]
pub mod bench;
mod device;
mod diagnose;
mod eal;
mod error;
mod interrupts;
mod ledger;
mod log;
mod mbuf;
mod mempool;
mod offload;
mod port;
mod queue;
mod quiet;
mod rss;
mod sys;

pub use args::{EalArgs, Memory};
pub use device::{Bus, Device};
pub use eal::{Eal, RegisteredThread};
pub use error::{Errno, Error, LogLines, Result};
pub use mbuf::{BURST_MAX, Mbuf, TooLong};
pub use mempool::{Mempool, MempoolConfig};
pub use offload::{IpVersion, L4Checksum, Offloads, RxChecksum, TxOffload};
pub use port::{Capabilities, InUse, Link, Port, PortConfig, PortStats};
pub use queue::{RxQueue, TxQueue};
pub use rss::{RssConfig, RssFunctions, symmetric_key};
