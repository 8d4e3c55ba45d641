//! The load with server and clients in one process: the whole engine from end to end, and its command line.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use unsocket::bench::in_process::{self, Wiring};
use unsocket::bench::report::Faults;
use unsocket::bench::{BenchError, Phase, Plan, Report, Scenario, Stop};
use unsocket::stack::CongestionControl;

fn plan(connections: u32, in_flight: u32, messages: u64) -> Plan {
    Plan {
        connections,
        in_flight,
        stop: Stop::Messages(messages),
        timeout: Duration::from_secs(10),
        ..Plan::default()
    }
}

fn wiring() -> Wiring {
    Wiring {
        mtu: 1500,
        checksums: false,
        congestion: CongestionControl::Cubic,
        faults: None,
        tls: false,
        server_cores: Vec::new(),
    }
}

fn run(plan: &Plan, wiring: &Wiring) -> Report {
    in_process::run(plan, wiring, &AtomicBool::new(false), &mut |_| {}).unwrap()
}

#[test]
fn every_message_comes_back_and_the_server_says_what_it_cost() {
    let report = run(&plan(50, 2, 5_000), &wiring());
    assert_eq!((report.messages, report.errors, report.lost), (5_000, 0, 0), "{report}");
    assert!(report.server_busy_ns_per_message.unwrap() > 0.0);
    assert_eq!((report.servers.len(), report.generators.len()), (1, 1));
    assert_eq!(
        (report.checksum.as_str(), report.congestion.as_str(), report.mtu),
        ("trust", "cubic", Some(1500))
    );
}

#[test]
fn messages_of_every_size_come_back_whole() {
    for (size, text) in [(0, false), (1, true), (125, false), (126, true), (65_536, false), (1 << 20, true)] {
        let report = run(&Plan { size, text, ..plan(2, 2, 8) }, &wiring());
        assert_eq!((report.messages, report.errors), (8, 0), "size {size}, text {text}: {report}");
    }
}

#[test]
fn messages_come_back_whole_through_tls() {
    for size in [0, 20, 70_000] {
        let wiring = Wiring { tls: true, ..wiring() };
        let report = run(&Plan { size, ..plan(4, 4, 200) }, &wiring);
        assert_eq!((report.messages, report.errors, report.tls), (200, 0, true), "size {size}: {report}");
    }
}

#[test]
fn messages_come_back_whole_through_compression() {
    for (size, tls) in [(20, false), (1_024, false), (70_000, true)] {
        let wiring = Wiring { tls, ..wiring() };
        let report = run(&Plan { size, deflate: true, ..plan(4, 4, 200) }, &wiring);
        assert_eq!((report.messages, report.errors, report.deflate), (200, 0, true), "{size}: {report}");
    }
}

#[test]
fn each_generator_has_a_server_of_its_own() {
    let report = run(&Plan { workers: 2, ..plan(10, 1, 1_001) }, &wiring());
    assert_eq!((report.messages, report.errors, report.workers, report.servers.len()), (1_001, 0, 2, 2));
}

#[test]
fn a_small_mtu_checksums_and_no_congestion_control_change_nothing_but_the_time() {
    let wiring = Wiring { mtu: 576, checksums: true, congestion: CongestionControl::None, ..wiring() };
    let report = run(&Plan { size: 5_000, ..plan(4, 2, 200) }, &wiring);
    assert_eq!((report.messages, report.errors), (200, 0), "{report}");
    assert_eq!((report.checksum.as_str(), report.congestion.as_str()), ("software", "none"));
}

#[test]
fn nothing_is_lost_or_changed_on_a_bad_path() {
    let faults = Faults { loss: 0.01, reorder: 0.01, duplicate: 0.01, corrupt: 0.01, delay_us: 100, seed: 7 };
    let wiring = Wiring { checksums: true, faults: Some(faults), ..wiring() };
    let report = run(&Plan { size: 300, ..plan(50, 2, 3_000) }, &wiring);
    assert_eq!((report.messages, report.errors, report.lost), (3_000, 0, 0), "{report}");
    assert!(report.rtt_us.min >= 200.0, "100 us each way: {report}");
}

#[test]
fn connections_are_opened_used_and_closed_again_and_again() {
    for (echoes, workers) in [(0, 1), (1, 2), (3, 1)] {
        let scenario = Scenario::Connect { echoes };
        let report = run(&Plan { scenario, workers, ..plan(20, 1, 2_000) }, &wiring());
        assert_eq!((report.messages, report.errors, report.lost), (2_000, 0, 0), "{report}");
        assert!(report.to_string().contains("connections opened/s"), "{report}");
    }
}

#[test]
fn a_server_that_is_not_there_ends_the_load() {
    let faults = Faults { loss: 1.0, reorder: 0.0, duplicate: 0.0, corrupt: 0.0, delay_us: 0, seed: 7 };
    let wiring = Wiring { faults: Some(faults), ..wiring() };
    let scenario = Scenario::Connect { echoes: 1 };
    let timeout = Duration::from_millis(200);
    let report = run(&Plan { scenario, timeout, ..plan(20, 1, 1_000_000) }, &wiring);
    assert_eq!((report.messages, report.errors), (0, 20), "{report}");
    assert_eq!(report.errors_by_cause["timeout"].count, 20);
}

#[test]
fn openings_are_measured_for_a_time_and_through_faults() {
    let scenario = Scenario::Connect { echoes: 1 };
    let stop = Stop::After(Duration::from_millis(300));
    let report = run(&Plan { scenario, stop, ..plan(50, 1, 0) }, &wiring());
    assert!(report.messages > 0 && report.errors == 0, "{report}");

    let faults = Faults { loss: 0.01, reorder: 0.01, duplicate: 0.01, corrupt: 0.01, delay_us: 100, seed: 7 };
    let wiring = Wiring { checksums: true, faults: Some(faults), ..wiring() };
    let report = run(&Plan { scenario, ..plan(50, 1, 1_000) }, &wiring);
    assert_eq!((report.messages, report.lost), (1_000, 0), "{report}");
    assert_eq!(report.errors, 0, "{report}");
}

#[test]
fn corruption_without_checksums_is_refused() {
    let faults = Faults { loss: 0.0, reorder: 0.0, duplicate: 0.0, corrupt: 0.01, delay_us: 0, seed: 1 };
    let wiring = Wiring { faults: Some(faults), ..wiring() };
    let refused = in_process::run(&plan(1, 1, 1), &wiring, &AtomicBool::new(false), &mut |_| {});
    assert!(matches!(refused, Err(BenchError::CorruptionUnnoticed)));
}

#[test]
fn an_interrupted_run_reports_what_was_measured() {
    let interrupted = AtomicBool::new(false);
    let plan = Plan { stop: Stop::After(Duration::from_secs(600)), ..plan(10, 1, 0) };
    let mut phases = Vec::new();
    let report = in_process::run(&plan, &wiring(), &interrupted, &mut |progress| {
        phases.push(progress.phase);
        if progress.phase == Phase::Measuring && progress.replies > 0 {
            interrupted.store(true, Ordering::Relaxed);
        }
    })
    .unwrap();
    assert!(report.messages > 0 && report.seconds < 60.0, "{report}");
    assert_eq!((report.errors, report.lost), (0, 0), "{report}");
    assert!(phases.contains(&Phase::Measuring));
}

#[test]
fn a_core_that_does_not_exist_is_named() {
    let wiring = Wiring { server_cores: vec![100_000], ..wiring() };
    let refused = in_process::run(&plan(1, 1, 1), &wiring, &AtomicBool::new(false), &mut |_| {});
    assert!(matches!(refused, Err(BenchError::Core { core: 100_000, .. })));
}

fn unsocket(arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_unsocket")).args(arguments.split_whitespace()).output().unwrap()
}

#[test]
fn with_a_dash_standard_output_is_one_json_object_and_nothing_else_is_said() {
    let output = unsocket("bench --connections 10 --messages 500 --json -");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["messages"], &json["errors"], &json["mode"]), (&500.into(), &0.into(), &"wire".into()));
    for field in ["messages_per_second", "seconds", "server_busy_ns_per_message"] {
        assert!(json[field].as_f64().unwrap() > 0.0, "{field}");
    }
    for percentile in ["p50", "p99", "p99_9", "max"] {
        assert!(json["rtt_us"][percentile].as_f64().unwrap() > 0.0, "{percentile}");
    }
}

#[test]
fn with_a_file_the_json_goes_there_and_a_summary_to_standard_output() {
    let file = std::env::temp_dir().join(format!("unsocket-bench-{}.json", std::process::id()));
    let output = unsocket(&format!("bench --connections 10 --duration 0.2 --json {}", file.display()));
    let json = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(output.status.code(), Some(0));
    let summary = String::from_utf8(output.stdout).unwrap();
    assert!(summary.contains("messages/s") && summary.contains("p99.99"), "{summary}");
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["seconds"], 0.2);
}

#[test]
fn errors_on_connections_are_status_1_and_wrong_arguments_status_2() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    drop(listener);
    let output = unsocket(&format!("bench {url} --connections 3 --json -"));
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["errors_by_cause"]["refused"]["count"], 3);
    for (arguments, hint) in [
        ("bench http://a/", "ws://"),
        ("bench ws://127.0.0.1:1/ --fault-loss 0.1", "--port"),
        ("bench ws://127.0.0.1:1/ --checksum trust", "--checksum"),
        ("bench --ip 10.0.0.1/24", "--port"),
        ("bench --port tap:uns0 --ip 10.0.0.1/24", "URL"),
        ("bench ws://127.0.0.1:1/ --port wire --ip 10.0.0.1/24", "tap:NAME"),
        ("bench --connections 4000000 --in-flight 65536", "--in-flight"),
        ("bench --messages 5 --duration 1", "--duration"),
        ("bench --fault-loss 2", "0 to 1"),
        ("bench --mtu 100", "576"),
    ] {
        let output = unsocket(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {said}");
        assert!(said.contains(hint), "{arguments}: {said}");
    }
}

#[test]
fn an_interrupt_ends_the_run_with_its_result() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_unsocket"))
        .args(["bench", "--connections", "5", "--duration", "600", "--json", "-"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(1_500));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let json: serde_json::Value = serde_json::from_reader(&mut stdout).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(json["messages"].as_u64().unwrap() > 0 && json["seconds"].as_f64().unwrap() < 60.0);
}

#[test]
fn what_a_scenario_cannot_use_is_refused() {
    for (arguments, expected) in [
        ("bench --echoes 2", "--echoes means nothing in --scenario echo"),
        ("bench --scenario connect --in-flight 2", "--in-flight means nothing in --scenario connect"),
        ("bench ws://127.0.0.1:9/ --scenario connect", "carried out by the engine's own client"),
    ] {
        let output = unsocket(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {said}");
        assert!(said.contains(expected), "{arguments}: {said}");
    }
}
