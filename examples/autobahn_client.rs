//! The client that `scripts/conformance` has tested by Autobahn|Testsuite: it asks each fuzzing server how many
//! cases there are, runs them one after the other as an echo, and asks for the report.
//!
//! ```text
//! sudo ./target/release/examples/autobahn_client KEY=VALUE.. ADDRESS:PORT..
//! ```
//!
//! KEY=VALUE sets keys of the configuration, as `unsocket serve --set` does: `port.spec` and `port.ip` at least.

use std::net::SocketAddr;
use unsocket::config::Config;
use unsocket::engine::{Client, Closed, Conn, Connect, ConnectFailure, Context, Handle, Handler};
use unsocket::http::Routes;
use unsocket::port::{Port, tap};
use unsocket::ws::Message;

const AGENT: &str = "unsocket";

/// One fuzzing server, and how far its cases have come.
#[derive(Clone)]
struct Course {
    server: SocketAddr,
    cases: usize,
    /// 0 while the number of cases is asked for, `cases + 1` while the report is.
    at: usize,
}

impl Course {
    fn target(&self) -> String {
        match self.at {
            0 => "/getCaseCount".to_owned(),
            case if case <= self.cases => format!("/runCase?case={case}&agent={AGENT}"),
            _ => format!("/updateReports?agent={AGENT}"),
        }
    }
}

/// Echoes in all courses side by side.
struct Runner {
    handle: Handle,
    courses: Vec<Course>,
    outstanding: usize,
}

impl Runner {
    fn connect(&self, course: usize) {
        let Some(Course { server, .. }) = self.courses.get(course) else { return };
        let target = self.courses[course].target();
        let connect = Connect { token: course as u64, ..Connect::new(*server, target) };
        if let Err(error) = self.handle.connect(connect) {
            eprintln!("error: {server}: {error}");
            self.handle.drain();
        }
    }
}

impl Handler for Runner {
    /// Index of the course.
    type Session = usize;

    fn on_start(&mut self, _: &mut Context<'_, Self>) {
        for course in 0..self.courses.len() {
            self.connect(course);
        }
    }

    fn on_connect(&mut self, connect: &Connect, _protocol: Option<&str>) -> usize {
        connect.token as usize
    }

    fn on_message(&mut self, conn: &mut Conn<'_, Self>, message: Message<'_>) {
        let course = &mut self.courses[*conn.session()];
        match message {
            Message::Text(count) if course.at == 0 => course.cases = count.parse().unwrap_or(0),
            _ => drop(conn.send(message)),
        }
    }

    fn on_close(&mut self, conn: &mut Conn<'_, Self>, _: &Closed<'_>) {
        let index = *conn.session();
        let course = &mut self.courses[index];
        if course.at > course.cases {
            println!("{}: {} cases", course.server, course.cases);
            self.outstanding -= 1;
            if self.outstanding == 0 {
                self.handle.drain();
            }
            return;
        }
        course.at += 1;
        self.connect(index);
    }

    fn on_connect_failed(&mut self, _: &mut Context<'_, Self>, connect: &Connect, failure: ConnectFailure) {
        // A case whose handshake fails is one that its server did not pass.
        eprintln!("error: {}{}: {failure}", connect.remote, connect.target);
        self.handle.drain();
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config::default();
    config.set("websocket.ping_interval_ms=0")?;
    config.set("websocket.idle_timeout_ms=0")?;
    let mut courses = Vec::new();
    for argument in std::env::args().skip(1) {
        if argument.contains('=') {
            config.set(&argument)?;
        } else {
            courses.push(Course { server: argument.parse()?, cases: 0, at: 0 });
        }
    }
    config.validate()?;
    if let Some(tap) = config.tap() {
        return run(&config, tap::open(&tap)?, courses);
    }
    #[cfg(feature = "dpdk")]
    if let Some(dpdk) = config.dpdk() {
        return run(&config, unsocket::port::dpdk::open(&dpdk)?, courses);
    }
    Err("expected KEY=VALUE.. ADDRESS:PORT.., with port.spec among the keys".into())
}

fn run<P: Port + Send + 'static>(
    config: &Config,
    ports: Vec<P>,
    courses: Vec<Course>,
) -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::with_ports(config.engine(Routes::default()), ports)?;
    let handle = client.handle();
    let outstanding = courses.len();
    client.run(move |_worker| Runner { handle: handle.clone(), courses: courses.clone(), outstanding })?;
    Ok(())
}
