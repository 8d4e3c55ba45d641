//! TLS 1.2 and 1.3 for `wss://`, both roles, sans-IO.
//!
//! rustls does the handshake: versions, certificates, tickets. What it agreed on, the secrets, then moves into a record
//! layer that works where bytes lie: records are opened in the receive ring and sealed in the send ring, without a
//! buffer in between and without allocating. The ciphers are those of AWS-LC; no cryptography is made here.
//!
//! | part | what it does |
//! |---|---|
//! | `server`, `client`, `files` | what the two roles are configured with; certificates and keys from files |
//! | `stream` | one connection |
//! | `handshake` | rustls' part of it |
//! | `traffic`, `record` | data, alerts and key updates; one record, opened or sealed in place |
//!
//! # Invariants
//!
//! * A peer allocates nothing beyond one handshake message (`handshake`) or one record.
//! * Nothing is sealed twice under one sequence number, and nothing after the close_notify.
//! * Sequence numbers and keys only ever advance; a record that does not open ends the connection.

mod client;
mod error;
mod files;
mod handshake;
mod record;
mod server;
mod stream;
mod traffic;

pub use client::{ClientTls, Trust};
pub use error::{TlsError, Violation};
pub use files::{FileError, Identity};
pub use handshake::Agreed;
pub use server::{ClientAuth, ServerOptions, ServerTls};
pub use stream::{Data, Step, Stream};
