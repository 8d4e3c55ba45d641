//! A client and a server in one process, joined by memory: no privilege, no device.
//!
//! ```text
//! cargo run --example client
//! ```

use unsocket::apps::Echo;
use unsocket::engine::{
    Client, Closed, Conn, Connect, ConnectFailure, Context, EngineConfig, Handle, Handler, Server,
};
use unsocket::port::wire::{self, WireConfig};
use unsocket::ws::{CloseCode, Message};

/// Says three things, prints what comes back, and closes.
struct Talker {
    handle: Handle,
}

impl Handler for Talker {
    type Session = usize;

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
        println!("open: {} -> {}", conn.local(), conn.peer());
        conn.send_text("one");
    }

    fn on_message(&mut self, conn: &mut Conn<'_, Self>, message: Message<'_>) {
        println!("received: {message:?}");
        *conn.session() += 1;
        match *conn.session() {
            1 => drop(conn.send_text("two")),
            2 => drop(conn.send_binary(b"three")),
            _ => conn.close(CloseCode::NORMAL, "that was all"),
        }
    }

    fn on_close(&mut self, _: &mut Conn<'_, Self>, closed: &Closed<'_>) {
        println!("closed: {} {:?}, clean: {}", closed.code.0, closed.reason, closed.clean);
        self.handle.drain();
    }

    fn on_connect_failed(&mut self, _: &mut Context<'_, Self>, connect: &Connect, failure: ConnectFailure) {
        println!("no connection to {}: {failure}", connect.remote);
        self.handle.drain();
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (server_port, client_port) = wire::pair(&WireConfig::default())?;

    let mut config = EngineConfig { listen: vec![80], ..EngineConfig::default() };
    config.stack.addrs.push("10.0.0.1/24".parse()?);
    let server = Server::with_ports(config, vec![server_port])?.start(|_worker| Echo)?;

    let mut config = EngineConfig::default();
    config.stack.addrs.push("10.0.0.2/24".parse()?);
    let client = Client::with_ports(config, vec![client_port])?;
    client.connect(Connect::new("10.0.0.1:80".parse()?, "/echo"))?;
    let handle = client.handle();
    client.run(move |_worker| Talker { handle: handle.clone() })?;

    drop(server);
    Ok(())
}
