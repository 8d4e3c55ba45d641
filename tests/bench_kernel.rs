//! The load generator over kernel sockets, against servers that are right and servers that are wrong.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tungstenite::{Message, WebSocket, accept_with_config};
use unsocket::bench::{Plan, Report, Scenario, Stop, Target, kernel};

/// For servers that never answer.
const SHORT: Duration = Duration::from_millis(500);

fn plan(connections: u32, in_flight: u32, messages: u64) -> Plan {
    Plan { connections, in_flight, stop: Stop::Messages(messages), ..Plan::default() }
}

fn load(plan: &Plan, url: &str) -> Report {
    let target = Target::new(url.parse().unwrap(), None);
    load_target(plan, &target)
}

fn load_target(plan: &Plan, target: &Target) -> Report {
    kernel::run(plan, target, false, &AtomicBool::new(false), &mut |_| {}).unwrap()
}

/// A server that treats each connection as `serve` says; its URL. It ends with the test process.
fn server(address: &str, serve: fn(TcpStream)) -> String {
    let listener = TcpListener::bind(address).unwrap();
    let url = format!("ws://{}/echo", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            thread::spawn(move || serve(stream));
        }
    });
    url
}

/// A server that answers each message with what `answer` makes of it, counting messages from 0, and stops on `None`.
fn answering(answer: fn(u64, Message) -> Option<Message>) -> String {
    fn serve(stream: TcpStream, answer: fn(u64, Message) -> Option<Message>) {
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let Ok(mut socket) = accept_with_config(stream, Some(config)) else { return };
        for count in 0.. {
            match socket.read() {
                Ok(message) if message.is_close() => break,
                Ok(message) => match answer(count, message).map(|answer| socket.send(answer)) {
                    Some(Ok(())) => {}
                    _ => return,
                },
                Err(_) => return,
            }
        }
        while socket.read().is_ok() {}
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/echo", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            thread::spawn(move || serve(stream, answer));
        }
    });
    url
}

fn echo() -> String {
    answering(|_, message| Some(message))
}

/// The causes that occurred, with their counts.
fn causes(report: &Report) -> Vec<(&'static str, u64)> {
    report.errors_by_cause.iter().map(|(cause, error)| (*cause, error.count)).collect()
}

#[test]
fn every_message_of_a_right_server_counts_once() {
    let report = load(&plan(16, 4, 2_000), &echo());
    assert_eq!((report.messages, report.errors, report.lost), (2_000, 0, 0));
    assert!(report.rtt_us.max >= report.rtt_us.p50 && report.rtt_us.min > 0.0);
    assert!(report.messages_per_second > 0.0 && report.seconds > 0.0);
    assert_eq!(report.generators.len(), 1);
}

#[test]
fn several_threads_share_connections_and_messages() {
    let plan = Plan { workers: 3, ..plan(10, 2, 1_001) };
    let report = load(&plan, &echo());
    assert_eq!((report.messages, report.errors, report.workers), (1_001, 0, 3));
}

#[test]
fn a_duration_ends_a_run_and_what_is_on_its_way_then_is_waited_for() {
    let duration = Duration::from_millis(300);
    let plan = Plan { stop: Stop::After(duration), warmup: Duration::from_millis(50), ..plan(8, 1, 0) };
    let report = load(&plan, &echo());
    assert!(report.messages > 0);
    assert_eq!((report.errors, report.lost), (0, 0));
    assert!((report.seconds - duration.as_secs_f64()).abs() < 0.001, "{} s", report.seconds);
}

#[test]
fn messages_of_every_size_come_back_whole() {
    for size in [0, 1, 11, 12, 13, 125, 126, 65_535, 65_536, 3 << 20] {
        for text in [false, true] {
            let plan = Plan { size: size.into(), text, ..plan(2, 3, 12) };
            let report = load(&plan, &echo());
            assert_eq!((report.messages, report.errors), (12, 0), "size {size}, text {text}: {report}");
        }
    }
}

#[test]
fn a_server_that_does_not_compress_when_asked_to_is_an_error() {
    let report = load(&Plan { deflate: true, ..plan(3, 1, 9) }, &echo());
    assert_eq!((causes(&report), report.messages), (vec![("upgrade", 3)], 0));
    assert!(report.errors_by_cause["upgrade"].first.contains("permessage-deflate"), "{report}");
}

#[test]
fn connections_are_opened_used_and_closed_again_and_again() {
    for (echoes, workers) in [(0, 1), (1, 2), (3, 1)] {
        let scenario = Scenario::Connect { echoes };
        let report = load(&Plan { scenario, workers, ..plan(8, 1, 300) }, &echo());
        assert_eq!((report.messages, report.errors, report.lost), (300, 0, 0), "{report}");
    }
}

#[test]
fn a_server_that_does_not_answer_the_close_frame_is_an_error() {
    let url = server("127.0.0.1:0", |stream| {
        let mut socket = tungstenite::accept(stream).unwrap();
        let message = socket.read().unwrap();
        socket.send(message).unwrap();
        // TCP ends, without a word.
        let _ = socket.get_mut().shutdown(std::net::Shutdown::Both);
    });
    let scenario = Scenario::Connect { echoes: 1 };
    let report = load(&Plan { scenario, ..plan(2, 1, 10) }, &url);
    assert_eq!(report.messages, 10, "{report}");
    let [(cause, count)] = causes(&report)[..] else { panic!("{report}") };
    assert!(["closed", "reset"].contains(&cause) && count == 10, "{report}");
}

#[test]
fn connections_come_from_the_addresses_that_were_named() {
    let url = server("127.0.0.1:0", |stream| {
        let peer = stream.peer_addr().unwrap().ip().to_string();
        assert!(["127.0.3.1", "127.0.3.2"].contains(&peer.as_str()), "{peer}");
        let mut socket = tungstenite::accept(stream).unwrap();
        while let Ok(message) = socket.read() {
            if message.is_binary() {
                socket.send(message).unwrap();
            }
        }
    });
    let sources = vec!["127.0.3.1".parse().unwrap(), "127.0.3.2".parse().unwrap()];
    let target = Target { sources, ..Target::new(url.parse().unwrap(), None) };
    let report = load_target(&plan(8, 1, 80), &target);
    assert_eq!((report.messages, report.errors), (80, 0), "{report}");
}

#[test]
fn an_open_loop_keeps_its_rate_over_kernel_sockets() {
    let stop = Stop::After(Duration::from_millis(500));
    let plan = Plan { rate: Some(1_000.0), stop, ..plan(5, 32, 0) };
    let report = load(&plan, &echo());
    assert_eq!(report.errors, 0, "{report}");
    assert!((report.messages + report.unsent).abs_diff(500) <= 2, "{report}");
}

#[test]
fn connections_are_held_over_kernel_sockets() {
    let stop = Stop::After(Duration::from_millis(300));
    let scenario = Scenario::Idle { active: 5, server: Some(std::process::id()) };
    let report = load(&Plan { scenario, stop, ..plan(20, 1, 0) }, &echo());
    assert_eq!((report.errors, report.lost), (0, 0), "{report}");
    let memory = report.memory.unwrap();
    assert_eq!((memory.connections, memory.server_per_connection.is_some()), (20, true));
}

#[test]
fn an_ipv6_server_is_reached_by_its_bracketed_address() {
    let url = server("[::1]:0", |stream| {
        let mut socket = tungstenite::accept(stream).unwrap();
        while let Ok(message) = socket.read() {
            if message.is_binary() {
                socket.send(message).unwrap();
            }
        }
    });
    assert!(url.starts_with("ws://[::1]:"));
    let report = load(&plan(4, 1, 100), &url);
    assert_eq!((report.messages, report.errors), (100, 0));
}

#[test]
fn a_changed_byte_is_an_error_for_each_message_it_is_in() {
    let url = answering(|count, message| {
        let mut bytes = message.into_data().to_vec();
        if count % 10 == 3 {
            bytes[19] ^= 1;
        }
        Some(Message::binary(bytes))
    });
    let report = load(&plan(1, 1, 100), &url);
    assert_eq!(causes(&report), [("corrupt", 10)]);
    assert_eq!((report.messages, report.lost), (90, 0));
    assert!(report.errors_by_cause["corrupt"].first.contains("byte 19"));
}

#[test]
fn a_reply_of_another_kind_or_length_is_told_apart() {
    let as_text = answering(|_, _| Some(Message::text("x".repeat(20))));
    assert_eq!(causes(&load(&plan(1, 1, 5), &as_text)), [("corrupt", 5)]);
    let as_binary = answering(|_, message| Some(Message::binary(message.into_data())));
    let report = load(&Plan { text: true, ..plan(1, 1, 5) }, &as_binary);
    assert_eq!((causes(&report), report.messages), (vec![("kind", 5)], 0));
    let longer = answering(|_, message| Some(Message::binary([&message.into_data()[..], b"!"].concat())));
    assert_eq!(causes(&load(&plan(1, 1, 5), &longer)), [("length", 5)]);
}

#[test]
fn a_lost_message_is_a_reply_out_of_order() {
    let url = answering(|count, message| Some(if count == 5 { Message::Ping("".into()) } else { message }));
    let report = load(&plan(3, 4, 300), &url);
    assert_eq!(causes(&report), [("out_of_order", 3)]);
    assert_eq!(report.messages, 3 * 5);
}

#[test]
fn a_server_that_falls_silent_is_a_timeout_for_each_connection() {
    let url =
        answering(|count, message| if count < 4 { Some(message) } else { Some(Message::Ping("".into())) });
    let report = load(&Plan { timeout: SHORT, ..plan(3, 1, 300) }, &url);
    assert_eq!(causes(&report), [("timeout", 3)]);
    assert_eq!((report.messages, report.lost), (12, 3));
}

#[test]
fn a_server_that_closes_early_is_told_with_its_code() {
    let url = answering(|count, message| {
        let close = CloseFrame { code: CloseCode::Away, reason: "gone fishing".into() };
        Some(if count < 2 { message } else { Message::Close(Some(close)) })
    });
    let report = load(&plan(5, 1, 500), &url);
    assert_eq!(causes(&report), [("closed", 5)]);
    let first = &report.errors_by_cause["closed"].first;
    assert!(first.contains("1001") && first.contains("gone fishing"), "{first}");
    assert_eq!(report.messages, 10);
}

#[test]
fn a_connection_that_ends_without_a_close_frame_is_told() {
    let report = load(&plan(5, 1, 500), &answering(|count, message| (count < 2).then_some(message)));
    assert_eq!(causes(&report), [("closed", 5)]);
    assert!(report.errors_by_cause["closed"].first.contains("without a close frame"));
}

#[test]
fn nobody_listening_is_an_error_for_each_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    drop(listener);
    let report = load(&plan(7, 1, 100), &url);
    assert_eq!((causes(&report), report.messages), (vec![("refused", 7)], 0));
}

#[test]
fn a_refused_upgrade_is_told_with_its_status() {
    let url = server("127.0.0.1:0", |mut stream| {
        let mut request = [0; 1024];
        let _ = stream.read(&mut request);
        let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    });
    let report = load(&plan(3, 1, 100), &url);
    assert_eq!(causes(&report), [("upgrade", 3)]);
    let first = &report.errors_by_cause["upgrade"].first;
    assert!(first.contains("404"), "{first}");
}

#[test]
fn a_server_that_never_answers_the_upgrade_is_a_timeout() {
    let url = server("127.0.0.1:0", |mut stream| while matches!(stream.read(&mut [0; 1024]), Ok(1..)) {});
    let report = load(&Plan { timeout: SHORT, ..plan(3, 1, 100) }, &url);
    assert_eq!(causes(&report), [("timeout", 3)]);
}

#[test]
fn a_message_that_answers_nothing_is_an_error() {
    let url = server("127.0.0.1:0", |stream| {
        let mut socket: WebSocket<_> = tungstenite::accept(stream).unwrap();
        while let Ok(message) = socket.read() {
            if message.is_binary()
                && socket.send(message.clone()).and_then(|()| socket.send(message)).is_err()
            {
                return;
            }
        }
    });
    let report = load(&plan(1, 1, 100), &url);
    // The copy comes before or after the next message has gone.
    assert_eq!(report.errors, 1, "{report}");
    assert!(matches!(causes(&report)[0].0, "unsolicited" | "out_of_order"));
}

#[test]
fn frames_that_violate_the_protocol_are_told() {
    let url = server("127.0.0.1:0", |stream| {
        let mut socket: WebSocket<_> = tungstenite::accept(stream).unwrap();
        let _ = socket.read();
        // A masked frame from a server, RFC 6455 section 5.1.
        let _ = socket.get_mut().write_all(&[0x82, 0x81, 1, 2, 3, 4, 5]);
        let _ = socket.read();
    });
    let report = load(&plan(2, 1, 100), &url);
    assert_eq!(causes(&report), [("protocol", 2)]);
}

#[test]
fn pings_are_answered_within_a_load() {
    let url = server("127.0.0.1:0", |stream| {
        let mut socket: WebSocket<_> = tungstenite::accept(stream).unwrap();
        // Each message is echoed only after the pong to a ping of its own has come.
        while let Ok(message) = socket.read() {
            if !message.is_binary() {
                continue;
            }
            socket.send(Message::Ping(message.clone().into_data())).unwrap();
            let pong = socket.read().unwrap();
            assert_eq!(pong.into_data(), message.clone().into_data());
            socket.send(message).unwrap();
        }
    });
    let report = load(&Plan { timeout: SHORT, ..plan(2, 1, 50) }, &url);
    assert_eq!((report.messages, report.errors), (50, 0), "{report}");
}

/// A server of rustls and tungstenite that sends each message back, and whom to believe.
fn secure_echo() -> Target {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config =
        rustls::ServerConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
    let config = std::sync::Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let authority = folder.join(format!("bench-kernel-{}.pem", listener.local_addr().unwrap().port()));
    std::fs::write(&authority, made.cert.pem()).unwrap();
    let url = format!("wss://{}/echo", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let config = config.clone();
            thread::spawn(move || {
                let tls = rustls::ServerConnection::new(config).unwrap();
                let stream = rustls::StreamOwned::new(tls, stream.unwrap());
                let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
                let Ok(mut socket) = accept_with_config(stream, Some(config)) else { return };
                while let Ok(message) = socket.read() {
                    if message.is_close() || socket.send(message).is_err() {
                        return;
                    }
                }
            });
        }
    });
    let trust = unsocket::tls::Trust::File(authority);
    let tls = unsocket::tls::ClientTls::load(&trust, None).unwrap();
    Target::new(url.parse().unwrap(), Some(tls))
}

#[test]
fn a_load_goes_over_tls() {
    let target = secure_echo();
    for size in [0, 20, 100_000] {
        let plan = Plan { size: size.into(), ..plan(4, 8, 400) };
        let report = load_target(&plan, &target);
        assert_eq!((report.messages, report.errors), (400, 0), "{report}");
        assert!(report.tls);
    }
}

#[test]
fn a_certificate_that_is_not_believed_is_an_error_of_tls() {
    let stranger = secure_echo();
    let target = Target { tls: Some(unsocket::tls::pair("x.test").unwrap().1), ..stranger };
    let report = load_target(&plan(1, 1, 1), &target);
    assert_eq!(report.errors_by_cause["tls"].count, 1, "{report}");
}
