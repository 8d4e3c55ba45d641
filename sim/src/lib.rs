//! A simulator of whole worlds: real workers of many hosts in one thread, on a virtual clock and a simulated network,
//! drawn from one 64-bit seed, with every rule of [the documentation](../docs/simulation.md) checked all along.
//!
//! | part | what it is |
//! |---|---|
//! | `rng`, `scenario`, `draw` | a tree of random streams; a world; how it is drawn from them |
//! | `world`, `faults` | the clock and its events; faults as they begin and end |
//! | `net`, `nic`, `host`, `audit` | links, switches and router; queues; workers; what must hold of them |
//! | `app`, `letter`, `tls` | the application on every host; what it says; what carries it |
//! | `book`, `publications`, `judge` | what the applications saw, and what must be true of that |
//! | `adversary`, `packet` | hosts that keep no rule; frames as bytes |
//! | `fleet`, `shrink`, `trace` | many worlds; a failing one made smaller; what happened in it |

mod adversary;
mod app;
mod audit;
mod book;
mod draw;
mod faults;
mod fleet;
mod host;
mod judge;
mod letter;
mod net;
mod nic;
mod packet;
mod publications;
mod rng;
mod scenario;
mod shrink;
mod tls;
mod trace;
mod world;

pub use fleet::{Fleet, Totals, run_fleet};
pub use scenario::Without;
pub use shrink::{Failure, Replay, examine};
