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
        timeout: Duration::from_secs(60),
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
        let report = run(&Plan { size: size.into(), text, ..plan(2, 2, 8) }, &wiring());
        assert_eq!((report.messages, report.errors), (8, 0), "size {size}, text {text}: {report}");
    }
}

#[test]
fn messages_come_back_whole_through_tls() {
    for size in [0, 20, 70_000] {
        let wiring = Wiring { tls: true, ..wiring() };
        let report = run(&Plan { size: size.into(), ..plan(4, 4, 200) }, &wiring);
        assert_eq!((report.messages, report.errors, report.tls), (200, 0, true), "size {size}: {report}");
    }
}

#[test]
fn messages_come_back_whole_through_compression() {
    for (size, tls) in [(20, false), (1_024, false), (70_000, true)] {
        let wiring = Wiring { tls, ..wiring() };
        let report = run(&Plan { size: size.into(), deflate: true, ..plan(4, 4, 200) }, &wiring);
        assert_eq!((report.messages, report.errors, report.deflate), (200, 0, true), "{size}: {report}");
    }
}

#[test]
fn messages_of_a_distribution_come_back_whole() {
    let size = "20,300,5000".parse().unwrap();
    let report = run(&Plan { size, ..plan(10, 2, 1_000) }, &wiring());
    assert_eq!((report.messages, report.errors), (1_000, 0), "{report}");
    let mean = report.payload_bytes_per_second / report.messages_per_second;
    assert!((1_500.0..2_100.0).contains(&mean), "{mean}");
}

#[test]
fn an_open_loop_sends_at_its_rate_and_times_from_when_messages_were_due() {
    let stop = Stop::After(Duration::from_millis(500));
    for workers in [1, 2] {
        let plan = Plan { rate: Some(2_000.0), in_flight: 64, workers, stop, ..plan(20, 1, 0) };
        let report = run(&plan, &wiring());
        assert_eq!((report.errors, report.lost), (0, 0), "{report}");
        let due = report.messages + report.unsent;
        assert!(due.abs_diff(1_000) <= 2, "{due} messages were due: {report}");
    }
}

#[test]
fn an_open_loop_that_cannot_keep_up_says_so() {
    let stop = Stop::After(Duration::from_millis(300));
    // 100 us each way and one message at a time: each connection manages under 5,000 a second.
    let faults = Faults { loss: 0.0, reorder: 0.0, duplicate: 0.0, corrupt: 0.0, delay_us: 100, seed: 7 };
    let wiring = Wiring { faults: Some(faults), ..wiring() };
    let report = run(&Plan { rate: Some(20_000.0), stop, ..plan(1, 1, 0) }, &wiring);
    assert_eq!(report.errors, 0, "{report}");
    assert!(report.unsent > 3_000 && report.rtt_us.p99 > 100_000.0, "{report}");
    assert!(report.to_string().contains("were due and not sent"), "{report}");
}

#[test]
fn a_ramp_draws_out_the_opening() {
    let begun = std::time::Instant::now();
    let ramp = Duration::from_millis(300);
    let report = run(&Plan { ramp, ..plan(30, 1, 300) }, &wiring());
    assert_eq!((report.messages, report.errors), (300, 0), "{report}");
    assert!(begun.elapsed() >= Duration::from_millis(280), "{:?}", begun.elapsed());
}

#[test]
fn what_one_publishes_all_get() {
    for (workers, in_flight) in [(1, 1), (1, 4), (2, 2)] {
        let plan =
            Plan { scenario: Scenario::Broadcast, workers, size: 64.into(), ..plan(31, in_flight, 100) };
        let report = run(&plan, &wiring());
        assert_eq!((report.messages, report.errors, report.lost), (3_000, 0, 0), "{report}");
        assert_eq!((report.connections, report.published_per_second.is_some()), (30, true));
        assert!(report.to_string().contains("30 subscribers"), "{report}");
    }
}

#[test]
fn a_broadcast_at_a_rate_publishes_as_often() {
    let stop = Stop::After(Duration::from_millis(400));
    let plan = Plan { scenario: Scenario::Broadcast, rate: Some(500.0), stop, ..plan(11, 16, 0) };
    let report = run(&plan, &wiring());
    assert_eq!(report.errors, 0, "{report}");
    let due = report.messages / 10 + report.unsent;
    assert!(due.abs_diff(200) <= 2, "{due} messages were due: {report}");
}

#[test]
fn connections_are_held_weighed_and_prove_that_they_are_there() {
    let stop = Stop::After(Duration::from_millis(300));
    for active in [0, 10] {
        let scenario = Scenario::Idle { active, server: None };
        let report = run(&Plan { scenario, stop, ..plan(200, 1, 0) }, &wiring());
        assert_eq!((report.errors, report.lost), (0, 0), "{report}");
        assert_eq!(report.messages > 0, active > 0, "{report}");
        assert_eq!(report.memory.unwrap().connections, 200);
        assert!(report.to_string().contains("200 connections held"), "{report}");
    }
}

#[test]
fn a_stream_is_counted_in_bits() {
    let plan = Plan { scenario: Scenario::Stream, size: 65_536.into(), ..plan(2, 4, 50) };
    let report = run(&plan, &wiring());
    assert_eq!((report.messages, report.errors), (50, 0), "{report}");
    assert!(report.gbit_per_second > 0.0, "{report}");
}

#[test]
fn a_run_is_drawn() {
    let folder = std::env::temp_dir().join(format!("unsocket-plot-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("run.svg");
    let output =
        unsocket(&format!("bench --connections 10 --duration 0.3 --warmup 0 --plot {}", file.display()));
    let svg = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(output.status.success());
    for part in ["<svg", "p99.9", "messages/s", "latency, us", "polyline"] {
        assert!(svg.contains(part), "{part} is missing in\n{svg}");
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
    let report = run(&Plan { size: 5_000.into(), ..plan(4, 2, 200) }, &wiring);
    assert_eq!((report.messages, report.errors), (200, 0), "{report}");
    assert_eq!((report.checksum.as_str(), report.congestion.as_str()), ("software", "none"));
}

#[test]
fn nothing_is_lost_or_changed_on_a_bad_path() {
    let faults = Faults { loss: 0.01, reorder: 0.01, duplicate: 0.01, corrupt: 0.01, delay_us: 100, seed: 7 };
    let wiring = Wiring { checksums: true, faults: Some(faults), ..wiring() };
    let report = run(&Plan { size: 300.into(), ..plan(50, 2, 3_000) }, &wiring);
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
        ("bench --scenario connect --rate 5", "--rate means nothing in --scenario connect"),
        ("bench --active 1", "--active means nothing in --scenario echo"),
        ("bench ws://127.0.0.1:65535/ --ports 2", "the last one is 65535"),
        ("bench ws://127.0.0.1:9/ --port tap:x --source 127.0.0.2", "--source is about kernel sockets"),
        ("bench ws://127.0.0.1:9/ --scenario idle --server-pid 4294967295", "there is no such process"),
        ("bench --size 65MiB", "a message may have 64 MiB"),
        ("bench --rate 0", "0.001 to 1e9"),
    ] {
        let output = unsocket(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {said}");
        assert!(said.contains(expected), "{arguments}: {said}");
    }
}
