//! docs/security.md states every limit with its key, its default and where it is enforced.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use unsocket::config::Config;
use unsocket::http::{BODY_BYTES_MAX, HEADERS_MAX, PROXY_HEADER_BYTES_MAX};
use unsocket::stack::{ADDRS_PER_NAME_MAX, CUT_SEGMENT_BYTES_MIN, LOOKUPS_MAX, SEGMENTS_PER_PASS};

/// Limits that cannot be configured.
const FIXED: [(&str, usize); 7] = [
    ("SEGMENTS_PER_PASS", SEGMENTS_PER_PASS),
    ("CUT_SEGMENT_BYTES_MIN", CUT_SEGMENT_BYTES_MIN),
    ("HEADERS_MAX", HEADERS_MAX),
    ("BODY_BYTES_MAX", BODY_BYTES_MAX),
    ("PROXY_HEADER_BYTES_MAX", PROXY_HEADER_BYTES_MAX),
    ("LOOKUPS_MAX", LOOKUPS_MAX),
    ("ADDRS_PER_NAME_MAX", ADDRS_PER_NAME_MAX),
];

/// Keys that bound what we do of our own accord, not what a peer can make us do.
const OURS: [&str; 1] = ["burst.tls_handshakes"];

struct Row {
    default: String,
    file: String,
}

fn rows() -> BTreeMap<String, Row> {
    let page = include_str!("../docs/security.md");
    let lines = page.lines().skip_while(|line| !line.starts_with("| limit |")).skip(2);
    let mut rows = BTreeMap::new();
    for line in lines.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [_, key, default, _, file, past] = cells.as_slice() else { panic!("not six cells: {line}") };
        assert!(!past.is_empty(), "{line}");
        let row = Row { default: default.trim_matches('`').into(), file: file.trim_matches('`').into() };
        let before = rows.insert(key.trim_matches('`').to_owned(), row);
        assert!(before.is_none(), "{key} has two rows");
    }
    rows
}

fn default_of(config: &Value, key: &str) -> Option<String> {
    let (table, name) = key.split_once('.')?;
    Some(config.get(table)?.get(name)?.to_string())
}

#[test]
fn every_row_names_a_limit_its_default_and_its_place() {
    let config = serde_json::to_value(Config::default()).expect("plain data");
    for (key, row) in rows() {
        let fixed = FIXED.iter().find(|(name, _)| *name == key).map(|(_, value)| value.to_string());
        let default = fixed.or_else(|| default_of(&config, &key));
        assert_eq!(default.as_deref(), Some(&*row.default), "{key}");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(&row.file);
        assert!(path.is_file(), "{key} is said to be enforced in {}, which is not there", row.file);
    }
}

#[test]
fn every_limit_of_the_configuration_has_a_row() {
    let rows = rows();
    let is_limit = |key: &String| {
        let name = key.split_once('.').map_or("", |(_, name)| name);
        let of_peers = ["tcp.", "websocket.", "limits."].iter().any(|table| key.starts_with(table));
        let ends = ["_max", "_max_ms", "_timeout_ms", "_high_water", "_policy", "slow_consumer"];
        of_peers && ends.iter().any(|end| name.ends_with(end))
    };
    let limits: Vec<String> = Config::keys().into_iter().filter(is_limit).collect();
    assert!(limits.len() > 25, "{limits:?}");
    for key in &limits {
        assert!(rows.contains_key(key), "docs/security.md has no row for {key}");
    }
    for key in rows.keys().filter(|key| key.contains('.')) {
        assert!(limits.contains(key) || OURS.contains(&key.as_str()), "{key} is no limit");
    }
}
