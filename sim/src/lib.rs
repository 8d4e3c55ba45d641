//! A simulator of whole worlds: real workers of many hosts in one thread, on a virtual clock and a simulated network,
//! drawn from one 64-bit seed, with every rule of [the documentation](../docs/simulation.md) checked all along.
//!
//! | part | what it is |
//! |---|---|
//! | `rng`, `scenario` | a tree of random streams; what is drawn from it |
//! | `world`, `net`, `host`, `nic` | the clock and its events; links, switches and router; workers; their queues |
//! | `app`, `book` | the application on every host; what it saw, and what must be true of that |
//! | `adversary`, `packet` | hosts that keep no rule; frames as bytes |
//! | `fleet`, `shrink`, `trace` | many worlds; a failing one made smaller; what happened in it |

mod adversary;
mod app;
mod book;
mod fleet;
mod host;
mod net;
mod nic;
mod packet;
mod rng;
mod scenario;
mod shrink;
mod trace;
mod world;

pub use fleet::{Fleet, Totals, run_fleet};
pub use scenario::Without;
pub use shrink::{Failure, Replay, examine};
