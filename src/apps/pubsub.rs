//! Topics: what one sends, all who are connected to the same path get.

use crate::engine::{Conn, Handler, Request, Upgrade};
use crate::ws::{CloseCode, Message};

/// Publishes every message to all connections of the same path, on all workers, the sender's own too: the same kind, the same
/// bytes. A subscriber that does not read what comes is treated as `slow_reader` says.
#[derive(Clone, Copy, Debug, Default)]
pub struct PubSub;

impl Handler for PubSub {
    /// The topic: the request's path.
    type Session = Box<str>;

    fn on_upgrade(&mut self, request: &Request<'_>) -> Upgrade<Box<str>> {
        Upgrade::accept(request.path().into())
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        let topic = std::mem::take(conn.session());
        if let Err(error) = conn.subscribe(&topic) {
            conn.close(CloseCode::TRY_AGAIN_LATER, &error.to_string());
        }
        *conn.session() = topic;
    }

    fn on_message(&mut self, conn: &mut Conn<'_, Self>, message: Message<'_>) {
        let topic = std::mem::take(conn.session());
        conn.publish(&topic, message);
        *conn.session() = topic;
    }
}
