//! What docs/protocol.md says is so: codes, statuses, and the tests that it names.

use std::fs;
use std::path::Path;
use unsocket::ws::ProtocolError::{self, *};
use unsocket::ws::handshake::HandshakeError;

const ERRORS: [ProtocolError; 18] = [
    ReservedBits,
    ReservedOpcode { opcode: 3 },
    ControlFragmented,
    ControlTooLong,
    NotMasked,
    Masked,
    LengthNotMinimal,
    LengthTopBit,
    ContinuationUnexpected,
    ContinuationExpected,
    TextNotUtf8,
    NotDeflate,
    CloseCodeCut,
    CloseCodeForbidden { code: 1006 },
    CloseReasonNotUtf8,
    FrameTooBig { limit: 1 },
    MessageTooBig { limit: 1 },
    TooManyFragments { limit: 1 },
];

const REFUSALS: [HandshakeError; 11] = [
    HandshakeError::Method,
    HandshakeError::HttpVersion,
    HandshakeError::Host,
    HandshakeError::Upgrade,
    HandshakeError::Connection,
    HandshakeError::Version,
    HandshakeError::VersionTwice,
    HandshakeError::Key,
    HandshakeError::KeyTwice,
    HandshakeError::Protocol,
    HandshakeError::Extensions,
];

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows of the table whose first column is called `head`, as their cells.
fn table(head: &str) -> Vec<Vec<String>> {
    let page = read("docs/protocol.md");
    let rows = page.lines().skip_while(|line| !line.starts_with(&format!("| {head} |")));
    let rows = rows.skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// How many variants with a message the error enums of a source file have.
fn variants(path: &str) -> usize {
    read(path).matches("#[error(").count()
}

/// A variant's name, from how it is printed for debugging.
fn name(error: impl std::fmt::Debug) -> String {
    let printed = format!("{error:?}");
    printed.split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn every_protocol_error_stands_there_with_its_close_code() {
    let rows = table("`ProtocolError`");
    assert_eq!(variants("src/ws/error.rs"), ERRORS.len());
    assert_eq!(rows.len(), ERRORS.len());
    for (row, error) in rows.iter().zip(ERRORS) {
        assert_eq!(row[0], format!("`{}`", name(error)));
        assert_eq!(row[2], error.close_code().0.to_string(), "{error:?}");
        assert!(error.close_code().may_be_sent());
    }
}

#[test]
fn every_refusal_of_a_handshake_stands_there_with_its_status() {
    let rows = table("`HandshakeError`");
    assert_eq!(variants("src/ws/handshake/server.rs"), REFUSALS.len());
    assert_eq!(rows.len(), REFUSALS.len());
    for (row, refusal) in rows.iter().zip(REFUSALS) {
        assert_eq!(row[0], format!("`{}`", name(refusal)));
        assert!(row[2].starts_with(&refusal.status().to_string()), "{refusal:?}");
    }
}

#[test]
fn every_test_that_is_named_exists() {
    let sources = [
        "src/ws/frame.rs",
        "src/ws/mask.rs",
        "src/ws/decoder.rs",
        "src/ws/assembly.rs",
        "src/ws/close.rs",
        "src/ws/deflate/mod.rs",
        "src/ws/deflate/parameters.rs",
        "src/ws/deflate/negotiate.rs",
        "src/ws/handshake/mod.rs",
        "src/ws/handshake/server.rs",
        "src/ws/handshake/client.rs",
        "tests/ws_split.rs",
        "tests/ws_robustness.rs",
        "tests/ws_tungstenite.rs",
    ]
    .map(read)
    .concat();
    let rows = table("rule");
    assert!(rows.len() > 20);
    for row in rows {
        let mut named = 0;
        for test in row[2].split(", ") {
            let function = format!("fn {}(", test.trim_matches('`'));
            assert!(sources.contains(&function), "{test} of the rule {:?}", row[0]);
            named += 1;
        }
        assert!(named > 0, "{:?}", row[0]);
    }
}
