//! The binary as scripts call it: exit statuses, and what is written where.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

fn unsocket(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_unsocket")).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

#[test]
fn help_names_the_commands_and_options() {
    let help = unsocket(&["--help"]);
    assert!(help.status.success());
    for command in ["serve", "doctor"] {
        assert!(stdout(&help).contains(command));
    }
    let help = unsocket(&["serve", "--help"]);
    for option in
        ["--port", "--ip", "--host-ip", "--netns", "--listen", "--app", "--workers", "--cores", "--config"]
    {
        assert!(stdout(&help).contains(&format!("{option} <")), "{option}");
    }
}

#[test]
fn a_wrong_configuration_ends_with_2_and_says_what_to_mend() {
    for (arguments, words) in [
        (vec!["serve"], "--port tap:NAME"),
        (vec!["serve", "--port", "eth0"], "known are `tap:NAME`"),
        (vec!["serve", "--port", "tap:t", "--ip", "10.0.0.2"], "prefix length"),
        (vec!["serve", "--set", "tcp.min_rto=20"], "did you mean `tcp.min_rto_ms`?"),
        (vec!["serve", "--set", "tcp.min_rto_ms=3"], "allowed is 4..=1000"),
        (vec!["serve", "--config", "/nonexistent/unsocket.toml"], "/nonexistent/unsocket.toml"),
        (vec!["connect", "--reconnect", "-H", "Bad Name: x", "ws://127.0.0.1:1/"], "Bad Name"),
        (vec!["connect", "--count", "0", "ws://127.0.0.1:1/"], "--count"),
        (vec!["connect", "--close-reason", &"x".repeat(124), "ws://127.0.0.1:1/"], "124 bytes"),
        (vec!["connect", "--mtu", "900", "ws://127.0.0.1:1/"], "--port tap:uns0"),
    ] {
        let output = unsocket(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(words), "{arguments:?}: {}", stderr(&output));
        assert!(stdout(&output).is_empty());
    }
}

#[test]
fn a_port_that_cannot_be_served_on_ends_with_1() {
    let output = unsocket(&["serve", "--port", "wire", "--ip", "10.0.0.2/24"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("use tap:NAME"), "{}", stderr(&output));
}

/// The server's end of the tool's connection, after the opening handshake.
fn upgraded(listener: &TcpListener) -> TcpStream {
    let (mut server, _) = listener.accept().unwrap();
    let mut request = [0; 4096];
    let length = server.read(&mut request).unwrap();
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Request::new(&mut headers);
    assert!(head.parse(&request[..length]).unwrap().is_complete());
    let key = head.headers.iter().find(|header| header.name == "Sec-WebSocket-Key").unwrap().value;
    let mut answer = Vec::new();
    let key = std::str::from_utf8(key).unwrap();
    unsocket::ws::handshake::write_accept(&mut answer, key, None, None, &[]).unwrap();
    server.write_all(&answer).unwrap();
    server
}

#[test]
fn a_server_that_pings_and_never_reads_does_not_fill_the_tools_memory() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let mut tool = Command::new(env!("CARGO_BIN_EXE_unsocket"))
        .args(["connect", "--keep-open", &url])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut server = upgraded(&listener);
    let ping = [&[0x89, 125][..], &[b'p'; 125]].concat().repeat(1_000);
    // 64 MB of pings, and never a read.
    for _ in 0..500 {
        server.write_all(&ping).unwrap();
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", tool.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    tool.kill().unwrap();
    tool.wait().unwrap();
    assert!(peak_kib < 40_000, "{peak_kib} KiB");
}

#[test]
fn while_a_long_message_waits_the_server_is_heard_and_its_latest_ping_answered() {
    // More than the kernel holds, and than may wait before another message is accepted.
    const MESSAGE_BYTES: usize = 16 << 20;
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("long_message");
    std::fs::write(&path, "m".repeat(MESSAGE_BYTES) + "\n").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 64 << 10).unwrap();
    rustix::net::sockopt::set_socket_send_buffer_size(&listener, 64 << 10).unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let mut tool = Command::new(env!("CARGO_BIN_EXE_unsocket"))
        .args(["connect", "--no-compression", "--keep-open"])
        .args(["--block-bytes", &MESSAGE_BYTES.to_string(), &url])
        .stdin(File::open(&path).unwrap())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut server = upgraded(&listener);
    for timeout in [TcpStream::set_write_timeout, TcpStream::set_read_timeout] {
        timeout(&server, Some(Duration::from_secs(10))).unwrap();
    }
    let mut header = [0; 2 + 8 + 4];
    server.read_exact(&mut header).unwrap();
    assert_eq!(header[..10], [&[0x81, 0xff][..], &(MESSAGE_BYTES as u64).to_be_bytes()].concat());
    // Like a server that does one thing after the other, it says all it has to say before it reads on.
    let frame = [&[0x81, 126, 0x40, 0][..], &[b's'; 0x4000]].concat();
    let mut said = Ok(());
    for _ in 0..500 {
        said = said.and_then(|()| server.write_all(&frame));
    }
    for ping in [b"\x89\x01a", b"\x89\x01b"] {
        said = said.and_then(|()| server.write_all(ping));
    }
    let mut message = vec![0; MESSAGE_BYTES];
    let mut pong = [0; 2 + 4 + 1];
    let heard = said.and_then(|()| server.read_exact(&mut message));
    let heard = heard.and_then(|()| server.read_exact(&mut pong));
    tool.kill().unwrap();
    tool.wait().unwrap();
    heard.unwrap();
    // RFC 6455 section 5.5.3: the latest ping's payload.
    assert_eq!((pong[..2].to_vec(), pong[6] ^ pong[2]), (vec![0x8a, 0x81], b'b'));
}

#[test]
fn doctor_prints_one_json_object_and_its_status_says_the_same() {
    let output = unsocket(&["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.iter().any(|check| check["name"] == "tap-permission"));
    let failed = checks.iter().any(|check| check["status"] == "fail");
    assert_eq!(report["ok"], !failed);
    assert_eq!(output.status.code(), Some(i32::from(failed)));

    let table = unsocket(&["doctor"]);
    assert_eq!(table.status.code(), output.status.code());
    assert_eq!(stdout(&table).lines().filter(|line| !line.starts_with("    ")).count(), checks.len() + 1);
}
