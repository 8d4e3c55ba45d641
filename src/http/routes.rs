//! What the server answers to plain HTTP requests: static pages by path.

use super::{HeadError, RequestHead};

/// One static answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// `Content-Type`.
    pub content_type: &'static str,
    /// The body.
    pub body: std::borrow::Cow<'static, [u8]>,
}

/// Paths and their answers, and which paths take WebSocket upgrades.
#[derive(Clone, Debug, Default)]
pub struct Routes {}

impl Routes {
    /// Adds a static answer at `path`.
    pub fn insert(&mut self, path: &str, answer: Answer) {
        let _ = (path, answer);
        todo!()
    }

    /// Appends the whole response to a request that is not an upgrade: 200, 404, 405 or 400.
    pub fn respond(&self, head: &RequestHead<'_, '_>, out: &mut Vec<u8>) {
        let _ = (head, out);
        todo!()
    }

    /// Appends the response to a head that could not be parsed; the connection closes after it.
    pub fn respond_error(&self, error: HeadError, out: &mut Vec<u8>) {
        let _ = (error, out);
        todo!()
    }
}

/// Appends a plain-text response, e.g. a refused upgrade.
pub fn write_plain(out: &mut Vec<u8>, status: u16, extra: &[(String, String)], body: &str, keep_alive: bool) {
    let _ = (out, status, extra, body, keep_alive);
    todo!()
}
