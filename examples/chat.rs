//! Rooms on two workers: what one says, all in the room hear, whichever worker they are on.
//!
//! A server and three guests in one process, joined by memory: no privilege, no device.
//!
//! ```text
//! cargo run --example chat
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use unsocket::apps::Chat;
use unsocket::engine::{Client, Conn, Connect, EngineConfig, Handle, Handler, Server};
use unsocket::port::wire::{self, WireConfig};
use unsocket::ws::Message;

const GUESTS: [&str; 3] = ["ada", "bob", "cleo"];

/// The guests on one client worker. Everyone says hello once; when all have heard all it is over.
struct Guests {
    handle: Handle,
    heard: Arc<AtomicUsize>,
}

impl Handler for Guests {
    /// Who it is, and how many have come.
    type Session = (u64, usize);

    fn on_connect(&mut self, connect: &Connect, _protocol: Option<&str>) -> (u64, usize) {
        (connect.token, 0)
    }

    fn on_message(&mut self, conn: &mut Conn<'_, Self>, message: Message<'_>) {
        let Message::Text(line) = message else { return };
        let (guest, _) = *conn.session();
        println!("{:>5} hears: {line}", GUESTS[guest as usize]);
        if line.ends_with("is here") {
            // The last to come sees only its own arrival; whoever sees the last arrival knows that all are here.
            if line.contains(GUESTS[GUESTS.len() - 1]) {
                conn.send_text("hello");
            }
        } else if line.ends_with(": hello") {
            let heard = self.heard.fetch_add(1, Ordering::Relaxed) + 1;
            if heard == GUESTS.len() * GUESTS.len() {
                self.handle.drain();
            }
        }
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        // One after the other, so that each sees those who come later.
        let (guest, _) = *conn.session();
        if let Some(next) = GUESTS.get(guest as usize + 1) {
            let mut connect = enter(next);
            connect.token = guest + 1;
            // A full mailbox would be the only reason; there is room for thousands.
            let _ = self.handle.connect(connect);
        }
    }
}

fn enter(name: &str) -> Connect {
    let server = std::net::SocketAddr::from(([10, 0, 0, 1], 80));
    Connect::new(server, format!("/lobby?name={name}"))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (server_ports, client_ports) = wire::queues(2, &WireConfig::default())?;

    let mut config = EngineConfig { listen: vec![80], ..EngineConfig::default() };
    config.stack.addrs.push("10.0.0.1/24".parse()?);
    let server = Server::with_ports(config, server_ports)?.start(Chat::new)?;

    let mut config = EngineConfig::default();
    config.stack.addrs.push("10.0.0.2/24".parse()?);
    let client = Client::with_ports(config, client_ports)?;
    client.connect(enter(GUESTS[0]))?;
    let handle = client.handle();
    let heard = Arc::new(AtomicUsize::new(0));
    client.run(move |_worker| Guests { handle: handle.clone(), heard: heard.clone() })?;

    drop(server);
    Ok(())
}
