//! Rooms: what one says, all in the room hear.

use crate::engine::{Closed, Conn, Handler, Request, Upgrade};
use crate::ws::{CloseCode, Message};

/// Longest text that one may say at once, bytes.
pub const TEXT_BYTES_MAX: usize = 4096;
/// Longest name, characters.
pub const NAME_CHARS_MAX: usize = 32;
/// Longest name of a room, bytes.
pub const ROOM_BYTES_MAX: usize = 64;

/// A chat. The room is the request's path, or `?room=`; the name is `?name=`, or a guest's.
///
/// A text reaches everybody in the room, on all workers, the speaker too, as `name: text`; lines that begin with `* `
/// tell who comes and goes. Whoever sends bytes is closed with 1003, whoever says too much at once with 1009.
#[derive(Debug)]
pub struct Chat {
    worker: usize,
    guests: u64,
    line: String,
}

/// Somebody in a room.
#[derive(Debug, Default)]
pub struct Guest {
    name: String,
    room: String,
}

impl Chat {
    /// The chat of one worker.
    pub fn new(worker: usize) -> Self {
        Chat { worker, guests: 0, line: String::new() }
    }

    /// Says `text` to the room of `conn`, in the name of its guest.
    fn say(&mut self, conn: &mut Conn<'_, Self>, before: &str, between: &str, text: &str) {
        let guest = conn.session();
        let room = std::mem::take(&mut guest.room);
        self.line.clear();
        for part in [before, &guest.name, between, text] {
            self.line.push_str(part);
        }
        conn.publish(&room, Message::Text(&self.line));
        conn.session().room = room;
    }
}

impl Handler for Chat {
    type Session = Guest;

    fn on_upgrade(&mut self, request: &Request<'_>) -> Upgrade<Guest> {
        self.guests += 1;
        let room = parameter(request.query(), "room").unwrap_or_else(|| request.path().to_owned());
        if room.len() > ROOM_BYTES_MAX {
            let body = format!("400: a room's name may have at most {ROOM_BYTES_MAX} bytes\n");
            return Upgrade::refuse(400, body);
        }
        let name = parameter(request.query(), "name").map(|name| tidy(&name)).filter(|name| !name.is_empty());
        let name = name.unwrap_or_else(|| format!("guest-{}.{}", self.worker, self.guests));
        Upgrade::accept(Guest { name, room })
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        let room = conn.session().room.clone();
        if let Err(error) = conn.subscribe(&room) {
            conn.close(CloseCode::TRY_AGAIN_LATER, &error.to_string());
            return;
        }
        self.say(conn, "* ", " is here", "");
    }

    fn on_message(&mut self, conn: &mut Conn<'_, Self>, message: Message<'_>) {
        match message {
            Message::Text(text) if text.len() <= TEXT_BYTES_MAX => self.say(conn, "", ": ", text),
            Message::Text(_) => conn.close(CloseCode::TOO_BIG, "at most 4096 bytes at once"),
            Message::Binary(_) => conn.close(CloseCode::UNSUPPORTED, "text only"),
        }
    }

    fn on_close(&mut self, conn: &mut Conn<'_, Self>, _: &Closed<'_>) {
        self.say(conn, "* ", " has left", "");
    }
}

/// A name as others may see it: no control characters, not too long.
fn tidy(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect::<String>().trim().to_owned()
}

/// The value of a query's parameter, decoded; `None` when there is none or it is not UTF-8.
fn parameter(query: &str, name: &str) -> Option<String> {
    let value = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(known, _)| *known == name)?.1;
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        assert_eq!(parameter("name=ada&room=a+b", "room").as_deref(), Some("a b"));
        assert_eq!(parameter("name=%C3%A9t%C3%A9", "name").as_deref(), Some("été"));
        for none in ["", "name", "nam=ada", "name=%C3", "name=%4", "name=%zz", "name=%+4", "xname=ada"] {
            assert_eq!(parameter(none, "name"), None, "{none}");
        }
    }

    #[test]
    fn names_are_tidied() {
        assert_eq!(tidy(" a\r\nb\u{7} "), "ab");
        assert_eq!(tidy(&"ü".repeat(100)).chars().count(), NAME_CHARS_MAX);
    }
}
