//! HTTP/1.1 as far as a WebSocket server needs it: the request head, routes, static answers. Sans-IO.
//!
//! A connection from a proxy that says for whom it speaks begins with what [`parse_proxy_header`] reads. One that has
//! not been upgraded is served like this:
//!
//! 1. [`parse_head`] over what has arrived, until it gives a head or an error;
//! 2. an error is answered with [`Routes::respond_error`], then the connection closes;
//! 3. an upgrade to WebSocket (the codec says whether it is one) on a path that [`Routes::takes_upgrade`] goes to
//!    the handshake; everything else is answered with [`Routes::respond`];
//! 4. [`RequestHead::head_bytes`] and then [`RequestHead::body_bytes`] are skipped, and the next request begins,
//!    or the connection closes when [`RequestHead::keep_alive`] is false.
//!
//! Absent on purpose: request bodies (they are skipped), chunked transfer coding, ranges, `Date` (RFC 9110
//! section 6.6.1: a server without a clock must not send it, and no layer below the launcher has one).

pub mod head;
pub mod proxy;
pub mod routes;

mod response;
mod target;

pub use head::{BODY_BYTES_MAX, HEADERS_MAX, HeadError, HeaderSlots, RequestHead, header_slots, parse_head};
pub use proxy::{PROXY_HEADER_BYTES_MAX, ProxyError, ProxyHeader, parse_proxy_header};
pub use response::write_plain;
pub use routes::{Answer, Routes};
