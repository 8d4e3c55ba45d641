//! A thread that has nothing to do with the engine publishes to everybody who listens.
//!
//! A server and a listener in one process, joined by memory: no privilege, no device.
//!
//! ```text
//! cargo run --example push_from_thread
//! ```

use std::time::Duration;
use unsocket::engine::{Client, Conn, Connect, EngineConfig, Handle, HandleError, Handler, Server};
use unsocket::port::wire::{self, WireConfig};
use unsocket::ws::Message;

/// Everybody who connects gets the prices.
struct Feed;

impl Handler for Feed {
    type Session = ();

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        if let Err(error) = conn.subscribe("prices") {
            eprintln!("not subscribed: {error}");
        }
    }

    fn on_message(&mut self, _: &mut Conn<'_, Self>, _: Message<'_>) {}
}

/// Prints ten prices and ends.
struct Listener {
    handle: Handle,
    left: usize,
}

impl Handler for Listener {
    type Session = ();

    fn on_message(&mut self, _: &mut Conn<'_, Self>, message: Message<'_>) {
        println!("{message:?}");
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            self.handle.drain();
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (server_port, client_port) = wire::pair(&WireConfig::default())?;

    let mut config = EngineConfig { listen: vec![80], ..EngineConfig::default() };
    config.stack.addrs.push("10.0.0.1/24".parse()?);
    let server = Server::with_ports(config, vec![server_port])?.start(|_worker| Feed)?;

    // The handle goes wherever it is needed; it wakes the workers if they sleep.
    let handle = server.handle();
    let market = std::thread::spawn(move || {
        for price in 100.. {
            match handle.publish("prices", Message::Text(&format!("ACME {price}"))) {
                Ok(()) => {}
                // Nothing waits here: what to do about a mailbox that is full is for the caller to say.
                Err(HandleError::Full { .. }) => eprintln!("a price was skipped"),
                Err(error) => return eprintln!("no more prices: {error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
            if price == 150 {
                return;
            }
        }
    });

    let mut config = EngineConfig::default();
    config.stack.addrs.push("10.0.0.2/24".parse()?);
    let client = Client::with_ports(config, vec![client_port])?;
    client.connect(Connect::new("10.0.0.1:80".parse()?, "/"))?;
    let handle = client.handle();
    client.run(move |_worker| Listener { handle: handle.clone(), left: 10 })?;

    market.join().map_err(|_| "the market has crashed")?;
    drop(server);
    Ok(())
}
