//! HTTP/1.1 as far as a WebSocket server needs it: the request head, routes, static answers. Sans-IO.

pub mod head;
pub mod routes;

pub use head::{HeadError, RequestHead, parse_head};
pub use routes::{Answer, Routes};
