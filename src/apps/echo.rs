//! Every message goes back to its sender.

use crate::engine::{Conn, Handler};
use crate::ws::Message;

/// Sends every message back: the same kind, the same bytes. For measurements and for trying clients out.
///
/// A peer that does not read what comes back is not read from either, so nothing is dropped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl Handler for Echo {
    type Session = ();

    fn on_message(&mut self, conn: &mut Conn<'_, Self>, message: Message<'_>) {
        conn.send(message);
    }
}
