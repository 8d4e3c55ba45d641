//! The binary as scripts call it: exit statuses, and what is written where.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

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

#[test]
fn a_server_that_pings_and_never_reads_does_not_fill_the_tools_memory() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let mut tool = Command::new(env!("CARGO_BIN_EXE_unsocket"))
        .args(["connect", "--keep-open", &url])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
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
