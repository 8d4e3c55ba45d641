//! A server on a TAP device that sends every message back.
//!
//! Needs the right to make a TAP device: run it as root (or with CAP_NET_ADMIN).
//!
//! ```text
//! sudo ./target/debug/examples/echo_server
//! python3 -m websockets ws://10.73.0.2/        # in another terminal
//! ```

use unsocket::engine::{Conn, EngineConfig, Handler, Server};
use unsocket::port::tap::{self, TapConfig};
use unsocket::ws::Message;

struct Echo;

impl Handler for Echo {
    type Session = ();

    fn on_message(&mut self, conn: &mut Conn<'_, Self>, message: Message<'_>) {
        conn.send(message);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = EngineConfig { listen: vec![80], ..EngineConfig::default() };
    config.stack.addrs = vec!["10.73.0.2/24".parse()?, "fd73::2/64".parse()?];

    let mut tap = TapConfig::new("uns0");
    tap.host_addresses = vec![("10.73.0.1".parse()?, 24), ("fd73::1".parse()?, 64)];
    let ports = tap::open(&tap)?;

    println!("ws://10.73.0.2/ and ws://[fd73::2]/ until Ctrl-C");
    // One worker per queue; each has its own `Echo`, made on its own thread.
    Server::with_ports(config, ports)?.serve(|_worker| Echo)?;
    Ok(())
}
