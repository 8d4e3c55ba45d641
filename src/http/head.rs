//! The request head, parsed with `httparse` under bounds.

use httparse::Header;

/// Most headers in one request head.
pub const HEADERS_MAX: usize = 64;

/// A parsed request head; borrows from the bytes it was parsed from.
#[derive(Debug)]
pub struct RequestHead<'h, 'b> {
    /// `GET`, `HEAD`, ...
    pub method: &'b str,
    /// Path without the query.
    pub path: &'b str,
    /// After the `?`, empty when there is none.
    pub query: &'b str,
    /// 0 or 1 of HTTP/1.x.
    pub minor_version: u8,
    /// All headers in their order.
    pub headers: &'h [Header<'b>],
    /// Length of the head in bytes, its blank line included.
    pub head_bytes: usize,
    /// Length of the body that follows, bytes; at most what the limit allows.
    pub body_bytes: usize,
    /// Whether the connection may carry another request.
    pub keep_alive: bool,
}

/// Why a request head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// 431: more bytes than `limit` without an end, or too many headers.
    #[error("request head over the limit of {limit} bytes")]
    TooLarge {
        /// The limit in force, bytes.
        limit: usize,
    },
}

impl HeadError {
    /// The status to answer with before closing: 400, 413, 431 or 505.
    pub const fn status(self) -> u16 {
        match self {
            HeadError::TooLarge { .. } => 431,
        }
    }
}

/// Parses the head at the front of `bytes`: `Ok(None)` when more bytes are needed.
///
/// # Errors
/// What is wrong with it; the connection is to be answered with [`HeadError::status`] and closed.
pub fn parse_head<'h, 'b>(
    bytes: &'b [u8],
    headers: &'h mut [Header<'b>; HEADERS_MAX],
    head_bytes_max: usize,
) -> Result<Option<RequestHead<'h, 'b>>, HeadError> {
    let _ = (bytes, headers, head_bytes_max);
    todo!()
}
