//! `unsocket serve`: an application on a device, until SIGTERM or SIGINT.

use super::port_args::{PortArgs, replace_list};
use super::ready::Ready;
use super::{CliError, logging};
use crate::apps::{Chat, Echo, PubSub, page};
use crate::config::{App, ClientCertificates, Config, ConfigError, LogFormat, Poll};
use crate::engine::{EngineConfig, PortGroup, Server};
use crate::http::Routes;
use crate::port::Port;
use crate::port::tap::{self, TapConfig};
use crate::tls::ServerTls;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// Serve HTTP and WebSocket on a device until SIGTERM or SIGINT, then drain
///
/// Settings come from the defaults, then the configuration file, then these options. What has no option of its own
/// is set with --set; docs/configuration.md lists all keys. --port and what goes with it are about the first device; more of
/// them are tables of [[more_ports]].
#[derive(Args, Debug)]
pub(super) struct ServeArgs {
    /// Configuration file in TOML [default: none]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one key of the configuration, e.g. tcp.min_rto_ms=20; may be repeated [default: none]
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    port: PortArgs,
    /// TAP device by which frames for nobody go to the kernel and its answers come back, so that ssh and ping on the same
    /// addresses go on; it is made [default: none, such frames are dropped or answered with RST]
    #[arg(long, value_name = "NAME", help_heading = "Device")]
    exception_path: Option<String>,
    /// TCP ports to accept connections on [default: 80]
    #[arg(long, value_name = "PORT,..", value_delimiter = ',', help_heading = "Service")]
    listen: Vec<u16>,
    /// TCP ports to accept connections with TLS on: wss:// and https:// [default: none]
    #[arg(long, value_name = "PORT,..", value_delimiter = ',', help_heading = "TLS")]
    listen_tls: Vec<u16>,
    /// PEM file with a certificate and its chain; may be repeated, the client's SNI chooses [default: none]
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    cert: Vec<PathBuf>,
    /// PEM file with the private key of the --cert in the same place [default: none]
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    key: Vec<PathBuf>,
    /// Whether clients have to show a certificate [default: none]
    #[arg(long, value_name = "WHEN", help_heading = "TLS")]
    client_auth: Option<ClientCertificates>,
    /// PEM file of the authorities that issue clients' certificates [default: none]
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    client_ca: Option<PathBuf>,
    /// Application to run [default: echo]
    #[arg(long, help_heading = "Service")]
    app: Option<App>,
    /// Agree to compression (permessage-deflate) with clients that offer it; see [compression] in docs/configuration.md
    #[arg(long, help_heading = "Service")]
    deflate: bool,
    /// Worker threads, each with its own queue and connections, 1..=256 [default: 1]
    #[arg(long, value_name = "N", help_heading = "Workers")]
    workers: Option<usize>,
    /// Cores to pin the workers to, in their order [default: none, not pinned]
    #[arg(long, value_name = "CORE,..", value_delimiter = ',', help_heading = "Workers")]
    cores: Vec<usize>,
    /// What an idle worker does: spin (least latency, a whole core) or adaptive (spin, then sleep)
    /// [default: adaptive on TAP, spin on DPDK]
    #[arg(long, help_heading = "Workers")]
    poll: Option<Poll>,
    /// Form of the log on standard error [default: human]
    #[arg(long, value_name = "FORM", help_heading = "Log")]
    log_format: Option<LogFormat>,
    /// Least level (error, warn, info, debug, trace), or levels by module: info,unsocket::engine=debug
    /// [default: info]
    #[arg(long, value_name = "LEVEL", help_heading = "Log")]
    log_level: Option<String>,
    /// Write a line to this open file descriptor (a pipe or file) when ready [default: none]
    #[arg(long, value_name = "FD", help_heading = "Service")]
    ready_fd: Option<u32>,
}

impl ServeArgs {
    /// Defaults, then the file, then the options; validated.
    fn config(&self) -> Result<Config, ConfigError> {
        let mut config = match &self.config {
            Some(path) => Config::load(path)?,
            None => Config::default(),
        };
        for assignment in &self.set {
            config.set(assignment)?;
        }
        self.port.apply(&mut config);
        if self.exception_path.is_some() {
            config.port.exception_path.clone_from(&self.exception_path);
        }
        replace_list(&mut config.server.listen, &self.listen);
        replace_list(&mut config.tls.listen, &self.listen_tls);
        replace_list(&mut config.tls.certs, &self.cert);
        replace_list(&mut config.tls.keys, &self.key);
        config.tls.client_auth = self.client_auth.unwrap_or(config.tls.client_auth);
        if let Some(path) = &self.client_ca {
            config.tls.client_ca = Some(path.clone());
        }
        replace_list(&mut config.workers.cores, &self.cores);
        config.server.app = self.app.unwrap_or(config.server.app);
        config.compression.enabled |= self.deflate;
        config.workers.count = self.workers.unwrap_or(config.workers.count);
        config.workers.poll = self.poll.or(config.workers.poll);
        config.log.format = self.log_format.unwrap_or(config.log.format);
        if let Some(level) = &self.log_level {
            config.log.level.clone_from(level);
        }
        config.validate()?;
        config.devices()?;
        Ok(config)
    }
}

/// Serves until a signal comes and everything is drained.
pub(super) fn run(args: &ServeArgs) -> Result<ExitCode, CliError> {
    let config = args.config()?;
    logging::init(&config.log)?;
    let ready = Ready::new(args.ready_fd)?;
    let tls = config.tls().map(ServerTls::load).transpose()?;
    let each = config.each_port();
    let taps: Vec<TapConfig> = each.iter().filter_map(Config::tap).collect();
    if !taps.is_empty() {
        let opened = taps.iter().map(tap::open).collect::<Result<Vec<_>, _>>()?;
        return start(&config, tls, each.into_iter().zip(opened), ready);
    }
    #[cfg(feature = "dpdk")]
    if each.iter().all(|config| config.dpdk().is_some()) {
        let opened = open_dpdk(&each)?;
        return start(&config, tls, each.into_iter().zip(opened), ready);
    }
    Err(CliError::Unreachable)
}

/// Opens each port's DPDK device, and says how.
#[cfg(feature = "dpdk")]
fn open_dpdk(each: &[Config]) -> Result<Vec<Vec<crate::port::dpdk::DpdkPort>>, CliError> {
    use crate::port::dpdk::{self, Memory};
    let mut configs: Vec<_> = each.iter().filter_map(Config::dpdk).collect();
    // The first device starts DPDK, with the memory of all.
    let mib = configs.iter().map(|config| match config.memory {
        Memory::Ordinary { mib } => mib,
        Memory::HugePages => 0,
    });
    let mib = mib.fold(0, u32::saturating_add);
    if let Some(config) = configs.first_mut().filter(|_| mib > 0) {
        config.memory = Memory::Ordinary { mib };
    }
    let mut opened = Vec::with_capacity(configs.len());
    for (config, of_port) in configs.iter().zip(each) {
        let ports = dpdk::open(config)?;
        if let Some(port) = ports.first() {
            tracing::info!("{}", port.summary());
            if let Some(advice) = super::numa::advice_for(port.summary(), &of_port.workers.cores) {
                tracing::warn!("{advice}");
            }
        }
        opened.push(ports);
    }
    Ok(opened)
}

/// Runs the application on the ports, each with its own configuration, until it has drained.
fn start<P: Port + Send + 'static>(
    config: &Config,
    tls: Option<ServerTls>,
    ports: impl Iterator<Item = (Config, Vec<P>)>,
    ready: Ready,
) -> Result<ExitCode, CliError> {
    let engine =
        EngineConfig { guards: config.guards()?, tls: tls.map(Arc::new), ..config.engine(routes(config)) };
    let (mut groups, mut exits) = (Vec::new(), Vec::new());
    for (of_port, ports) in ports {
        exits.push(ports.first().and_then(|port| of_port.exception_tap(port.info().mac)));
        let mut group = PortGroup::new(&engine, ports);
        group.stack = of_port.stack();
        group.cores = of_port.workers.cores;
        groups.push(group);
    }
    let mut server = Server::with_groups(engine, groups)?;
    for (group, tap) in exits.into_iter().enumerate().filter_map(|(group, tap)| Some((group, tap?))) {
        server = server.exception_path_of(group, tap::open(&tap)?)?;
        tracing::info!(tap = tap.name, "frames for nobody go to the kernel, and its own go out of the port");
    }
    let running = match config.server.app {
        App::Echo => server.start(|_worker| Echo)?,
        App::Chat => server.start(Chat::new)?,
        App::PubSub => server.start(|_worker| PubSub)?,
    };
    ready.announce(&ready_line(config))?;
    running.wait()?;
    Ok(ExitCode::SUCCESS)
}

/// What is answered over plain HTTP, and where WebSockets may be opened.
fn routes(config: &Config) -> Routes {
    let mut routes = Routes::default();
    routes.insert_healthz();
    if config.server.page {
        let path = config.server.paths.first().map_or("/ws", String::as_str);
        routes.insert("/", page::page(path));
    }
    for path in &config.server.paths {
        routes.insert_upgrade(path);
    }
    if config.server.paths.is_empty() {
        routes.upgrade_any_path();
    }
    routes
}

/// Where the server can be reached, in one line.
fn ready_line(config: &Config) -> String {
    let each_port = || std::iter::once(&config.port).chain(&config.more_ports);
    let mut line = String::from("ready:");
    // The default port is left out, as in a browser's address bar.
    for (ports, scheme, default) in
        [(&config.server.listen, "http", ":80"), (&config.tls.listen, "https", ":443")]
    {
        for port in ports {
            for cidr in each_port().flat_map(|port| &port.ip) {
                let host = std::net::SocketAddr::new(cidr.addr, *port).to_string();
                let host = host.strip_suffix(default).unwrap_or(&host);
                line.push_str(&format!(" {scheme}://{host}/"));
            }
        }
    }
    if each_port().any(|port| port.dhcp) {
        line.push_str(" (and the address that DHCP gives)");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::config::PortSpec;
    use clap::Parser;

    fn args(line: &str) -> ServeArgs {
        match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
            Command::Serve(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_form_that_scripts_use() {
        let config = args(
            "unsocket serve --port tap:uns0 --ip 10.73.0.2/24,fd73::2/64 --host-ip 10.73.0.1/24,fd73::1/64 \
             --netns blue --listen 80,8080 --app chat --workers 2 --cores 1,2",
        )
        .config()
        .unwrap();
        assert_eq!(config.port.spec, Some(PortSpec::Tap { name: "uns0".into() }));
        assert_eq!((config.port.ip.len(), config.port.host_ip.len()), (2, 2));
        assert_eq!(config.port.netns.as_deref(), Some("blue"));
        assert_eq!(config.server.listen, [80, 8080]);
        assert_eq!(config.server.app, App::Chat);
        assert_eq!((config.workers.count, config.workers.cores.as_slice()), (2, &[1, 2][..]));
    }

    fn config_of_two_ports() -> Config {
        let mut args = args("unsocket serve --port tap:a --ip 10.0.0.2/24");
        args.set.push("more_ports=[{ spec = 'tap:b', ip = ['10.1.0.2/24'] }]".into());
        args.config().unwrap()
    }

    #[test]
    fn options_override_the_file() {
        let directory = std::env::temp_dir().join(format!("unsocket-serve-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let file = directory.join("unsocket.toml");
        let text = "[server]\nlisten = [81]\napp = 'chat'\n[port]\nspec = 'tap:a'\nip = ['10.0.0.2/24']\n\
                    [tcp]\nmin_rto_ms = 50\n[log]\nlevel = 'warn'";
        std::fs::write(&file, text).unwrap();
        let line = format!(
            "unsocket serve --config {} --port tap:b --app echo --set tcp.min_rto_ms=20",
            file.display()
        );
        let config = args(&line).config();
        std::fs::remove_dir_all(&directory).unwrap();
        let config = config.unwrap();
        assert_eq!(config.port.spec, Some(PortSpec::Tap { name: "b".into() }));
        assert_eq!((config.server.app, config.tcp.min_rto_ms), (App::Echo, 20));
        assert_eq!((config.server.listen.as_slice(), config.log.level.as_str()), (&[81][..], "warn"));
    }

    #[test]
    fn what_is_missing_is_asked_for() {
        let refused = |line: &str| args(line).config().unwrap_err().to_string();
        assert!(refused("unsocket serve").contains("--port tap:NAME"));
        assert!(refused("unsocket serve --port tap:a").contains("--ip"));
        assert!(refused("unsocket serve --config /nonexistent.toml").contains("/nonexistent.toml"));
    }

    #[test]
    fn bad_values_are_refused_by_the_option() {
        for line in
            ["--port eth0", "--ip 10.0.0.2", "--mac 1:2", "--app web", "--listen 70000", "--gateway x"]
        {
            let line = format!("unsocket serve {line}");
            assert_eq!(Cli::try_parse_from(line.split_whitespace()).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn the_ready_line_names_every_address() {
        let config =
            args("unsocket serve --port tap:a --ip 10.0.0.2/24,fd73::2/64 --listen 80,8080").config();
        assert_eq!(
            ready_line(&config.unwrap()),
            "ready: http://10.0.0.2/ http://[fd73::2]/ http://10.0.0.2:8080/ http://[fd73::2]:8080/"
        );
        let mut config = config_of_two_ports();
        config.server.listen = vec![80];
        assert_eq!(ready_line(&config), "ready: http://10.0.0.2/ http://10.1.0.2/");
    }
}
