//! The binary as scripts call it: exit statuses, and what is written where.

use std::process::{Command, Output};

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
