//! unsocket: a WebSocket engine without the socket.
//!
//! One poll-mode worker per core takes raw Ethernet frames from a port, runs them through a userspace
//! TCP/IP stack and feeds the byte stream straight into a WebSocket codec. The layers, from the wire up:
//!
//! | module | what it is | imports |
//! |---|---|---|
//! | [`time`] | instants, durations, the stack clock; never reads a clock | nothing |
//! | [`port`] | one RX/TX queue pair: in-process wire, TAP; fault and pcap wrappers | `time` |
//! | [`stack`] | flow table and TCP over smoltcp, timers, ring memory | `port`, `time` |
//! | [`ws`] | RFC 6455, sans-IO, both roles | `time` |
//! | [`http`] | request head, routes, static answers | |
//! | [`tls`] | TLS for `wss://`, sans-IO, both roles | `time` |
//! | [`engine`] | worker, handler, sessions, topics, mailbox, launch | all above |
//! | [`apps`] | what ships in the binary: echo, chat | `engine` |
//! | [`bench`](mod@bench) | the load generator behind `unsocket bench` | all above |
//! | [`config`] | one TOML file, every limit with its unit | |

pub mod apps;
#[cfg(feature = "cli")]
pub mod bench;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
pub mod config;
pub mod engine;
pub mod http;
pub mod port;
pub mod stack;
pub mod time;
pub mod tls;
pub mod ws;
