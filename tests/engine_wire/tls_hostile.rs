//! What no good TLS client sends.

use crate::app::App;
use crate::tls_peer::{self, Peer, frame};
use crate::world::{RawWorld, tls_server_addr, tls_server_config};
use proptest::prelude::*;
use unsocket::engine::Cause;
use unsocket::time::Duration;
use unsocket::tls::Violation;

/// A fatal alert as it is sent before there are keys.
fn alert(description: u8) -> Vec<u8> {
    vec![21, 3, 3, 0, 2, 2, description]
}

const UNEXPECTED_MESSAGE: u8 = 10;
const RECORD_OVERFLOW: u8 = 22;

fn world() -> RawWorld {
    RawWorld::new(tls_server_config(), App::echo())
}

/// Nothing is left of any connection.
#[track_caller]
fn forgets(world: &mut RawWorld) {
    world.run_for(Duration::from_secs(60));
    let report = world.server.report().engine;
    assert_eq!((report.sessions, report.memory_bytes), (0, 0));
}

#[test]
fn plain_http_is_told_that_this_is_tls() {
    let mut world = world();
    let conn = world.open_at(tls_server_addr());
    let answer = world.ask(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("this port speaks TLS"), "{answer}");
    world.raw.finish(conn);
    forgets(&mut world);
}

#[test]
fn what_is_no_record_is_refused_at_its_header() {
    for (bytes, expected) in [
        (&[0x16, 9, 1, 0, 5][..], alert(UNEXPECTED_MESSAGE)),
        (&[0x80, 0x2e, 1, 0, 2], alert(UNEXPECTED_MESSAGE)),
        (&[23, 3, 3, 0xff, 0xff], alert(RECORD_OVERFLOW)),
        (&[22, 3, 1, 0x48, 0x01], alert(RECORD_OVERFLOW)),
    ] {
        let mut world = world();
        let conn = world.open_at(tls_server_addr());
        assert_eq!(world.exchange(conn, bytes), expected, "{bytes:?}");
        assert_eq!(world.server.report().engine.tls_failed, 1);
        world.raw.finish(conn);
        forgets(&mut world);
    }
}

#[test]
fn a_handshake_message_without_end_is_cut_off() {
    let mut world = world();
    let conn = world.open_at(tls_server_addr());
    // A ClientHello of 16 MiB, so its header says, in records of 16 KiB.
    let mut sent = 0;
    let mut record = vec![22, 3, 1, 0x40, 0];
    record.extend([1, 0xff, 0xff, 0xff]);
    record.resize(5 + 0x4000, 0);
    while world.server.report().engine.tls_failed == 0 && sent < 1 << 20 {
        sent += world.raw.send(conn, &record);
        world.step();
        assert!(world.server.report().engine.memory_bytes < 200_000);
    }
    assert!(sent < 400_000, "{sent} bytes were taken");
    world.raw.finish(conn);
    forgets(&mut world);
}

#[test]
fn a_handshake_of_one_byte_records_is_bounded() {
    let mut world = world();
    let conn = world.open_at(tls_server_addr());
    let mut records = vec![22, 3, 1, 0, 4, 1, 0, 0xff, 0xff];
    records.extend([22, 3, 1, 0, 1, 0].repeat(20_000));
    let mut sent = 0;
    let mut most = 0;
    for _ in 0..200_000 {
        sent += world.raw.send(conn, &records[sent..]);
        world.step();
        most = most.max(world.server.report().engine.memory_bytes);
        if world.server.report().engine.tls_failed > 0 {
            break;
        }
    }
    assert_eq!(world.server.report().engine.tls_failed, 1);
    assert!(most < 300_000, "{most} bytes were kept");
    world.raw.finish(conn);
    forgets(&mut world);
}

#[test]
fn a_forged_record_ends_the_connection_with_bad_record_mac() {
    let mut world = world();
    let mut peer = Peer::upgraded(&mut world, tls_peer::any());
    use std::io::Write;
    peer.tls.writer().write_all(&frame(1, b"to be forged")).unwrap();
    let mut records = peer.records();
    *records.last_mut().unwrap() ^= 1;
    let received = world.exchange(peer.conn, &records);
    peer.take(&received);
    let alert = rustls::AlertDescription::BadRecordMac;
    assert_eq!(peer.error, Some(rustls::Error::AlertReceived(alert)));
    assert_eq!(
        world.server.handler().how_it_closed(),
        (1006, String::new(), false, Cause::Tls(Violation::BadRecord))
    );
    assert_eq!(world.server.handler().messages, 0);
    world.raw.finish(peer.conn);
    forgets(&mut world);
}

#[test]
fn a_replayed_or_a_missing_record_is_a_forged_one() {
    for replay in [true, false] {
        let mut world = world();
        let mut peer = Peer::upgraded(&mut world, tls_peer::any());
        use std::io::Write;
        peer.tls.writer().write_all(&frame(1, b"once")).unwrap();
        let first = peer.records();
        peer.tls.writer().write_all(&frame(1, b"twice")).unwrap();
        let second = peer.records();
        let records = if replay { [first.clone(), first].concat() } else { second };
        world.exchange(peer.conn, &records);
        assert_eq!(world.server.handler().how_it_closed().3, Cause::Tls(Violation::BadRecord));
        assert_eq!(world.server.handler().messages, usize::from(replay));
    }
}

#[test]
fn plaintext_after_the_handshake_is_refused() {
    for record in [&[21, 3, 3, 0, 2, 1, 0][..], &[22, 3, 3, 0, 4, 0, 0, 0, 0], &[20, 3, 3, 0, 1, 1]] {
        let mut world = world();
        let peer = Peer::upgraded(&mut world, tls_peer::any());
        world.exchange(peer.conn, record);
        let cause = world.server.handler().how_it_closed().3;
        let expected = [Cause::Tls(Violation::UnexpectedMessage), Cause::Tls(Violation::BadRecord)];
        assert!(expected.contains(&cause), "{record:?}: {cause:?}");
    }
}

#[test]
fn records_without_data_are_bounded() {
    let mut world = world();
    let mut peer = Peer::upgraded(&mut world, tls_peer::any());
    // A peer's warnings: TLS 1.3 knows no others, but `user_canceled` is let pass (RFC 8446 section 6.1). rustls cannot be
    // made to send it, nor empty records; key updates it can.
    for _ in 0..200 {
        peer.tls.refresh_traffic_keys().unwrap();
    }
    let records = peer.records();
    let received = world.exchange(peer.conn, &records);
    peer.take(&received);
    assert_eq!(world.server.handler().how_it_closed().3, Cause::Tls(Violation::TooMany));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn garbage_harms_nobody(bytes in proptest::collection::vec(any::<u8>(), 1..2_000), looks_like_tls: bool) {
        let mut world = world();
        let conn = world.open_at(tls_server_addr());
        let mut bytes = bytes;
        if looks_like_tls {
            let len = (bytes.len() as u16).to_be_bytes();
            bytes.splice(0..0, [22, 3, 1, len[0], len[1]]);
        }
        world.exchange(conn, &bytes);
        world.raw.finish(conn);
        forgets(&mut world);
    }

    #[test]
    fn a_damaged_handshake_harms_nobody(at in 0usize..3_000, bit in 0u8..8, cut in 0usize..3_000) {
        let mut world = world();
        let mut peer = Peer::connect(&mut world, tls_peer::any(), "one.test");
        let mut sent = 0;
        for _ in 0..4 {
            let mut records = peer.records();
            let len = records.len();
            if let Some(byte) = at.checked_sub(sent).and_then(|at| records.get_mut(at)) {
                *byte ^= 1 << bit;
            }
            let end = cut.saturating_sub(sent).min(len);
            let received = world.exchange(peer.conn, &records[..if cut > sent + len { len } else { end }]);
            peer.take(&received);
            sent += len;
        }
        world.raw.abort(peer.conn);
        forgets(&mut world);
    }
}
