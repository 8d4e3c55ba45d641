//! The sources keep to the layers: who imports whom, where unsafe code lies, who reads a clock.
//!
//! The rules are the constants below; `docs/architecture.md` says why, and is held to the same table.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Each layer and the layers that it may import.
const LAYERS: [(&str, &[&str]); 11] = [
    ("time", &[]),
    ("ws", &["time"]),
    ("http", &[]),
    ("tls", &["time"]),
    ("port", &["time"]),
    ("stack", &["port", "time"]),
    ("engine", &["http", "port", "stack", "time", "tls", "ws"]),
    ("apps", &["engine", "http", "port", "stack", "time", "tls", "ws"]),
    ("config", &["engine", "http", "port", "stack", "time", "tls", "ws"]),
    ("bench", &["apps", "config", "engine", "http", "port", "stack", "time", "tls", "ws"]),
    ("cli", &["apps", "bench", "config", "engine", "http", "port", "stack", "time", "tls", "ws"]),
];

/// The files that may hold unsafe code.
const UNSAFE_FILES: [&str; 4] =
    ["src/port/tap/sys.rs", "src/stack/lend.rs", "src/stack/rings.rs", "src/ws/mask.rs"];

/// Words that only the files below these paths may use, and why.
const CONFINED: [(&[&str], &[&str], &str); 5] = [
    (&["smoltcp"], &["src/stack/"], "one layer knows the TCP/IP library"),
    (
        &["rustls", "aws_lc_rs", "webpki", "rustls_native_certs"],
        &["src/tls/"],
        "one layer knows the TLS library and the ciphers",
    ),
    (
        &["Instant::now", "SystemTime::now", "clock_gettime", "clock_gettime_dynamic"],
        &["src/bench/", "src/cli/", "src/engine/launch", "src/main.rs"],
        "time is an argument below the launcher",
    ),
    (
        &["getrandom"],
        &["src/bench/", "src/cli/", "src/engine/launch", "src/port/tap/"],
        "randomness is an argument below the launcher; a TAP port makes up its MAC address when it is opened",
    ),
    (
        &["tracing", "println", "eprintln", "dbg"],
        &["src/apps/", "src/bench/", "src/cli/", "src/engine/", "src/main.rs"],
        "lower layers return a status and do not log",
    ),
];

/// Most lines of a file without its tests.
const LINES_MAX: usize = 600;

/// One source file without its tests.
struct Source {
    /// As in `src/stack/flow.rs`.
    path: String,
    /// The layer, or the file's own name for those directly in `src`.
    layer: String,
    /// How many modules deep: 1 for `src/stack/mod.rs`, 2 for `src/stack/flow.rs`.
    depth: usize,
    /// Identifiers and punctuation, comments and literals left out.
    tokens: Vec<String>,
    /// Lines before the test module.
    lines: usize,
}

/// All sources of the library and the binary.
fn sources() -> Vec<Source> {
    sources_below("src")
}

/// All sources below a folder; files of tests are left out.
fn sources_below(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(&root.join(folder), &mut files);
    files.sort();
    let sources: Vec<_> = files.iter().map(|file| source(root, file)).collect();
    assert!(sources.len() > 10, "only {} files were found below {folder}", sources.len());
    sources
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.file_stem().is_some_and(|name| name == "tests") {
            continue;
        }
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn source(root: &Path, file: &Path) -> Source {
    let text = std::fs::read_to_string(file).unwrap();
    let path = file.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
    let stream: TokenStream = text.parse().unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut tokens = Vec::new();
    flatten(stream, &mut tokens);
    let modules: Vec<_> =
        path.trim_end_matches(".rs").split('/').skip(1).filter(|name| *name != "mod").collect();
    let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
    Source { layer: modules[0].to_owned(), depth: modules.len(), path, tokens, lines }
}

/// The tokens in a row, without literals, doc comments and whatever is `#[cfg(test)]` up to its `;` or `}`.
fn flatten(stream: TokenStream, out: &mut Vec<String>) {
    let mut trees = stream.into_iter().peekable();
    while let Some(tree) = trees.next() {
        match tree {
            TokenTree::Ident(ident) => out.push(ident.to_string()),
            TokenTree::Punct(punct) if punct.as_char() == '#' => match trees.next() {
                Some(TokenTree::Group(attribute)) if is_cfg_test(&attribute.stream()) => {
                    for skipped in trees.by_ref() {
                        match skipped {
                            TokenTree::Group(body) if body.delimiter() == Delimiter::Brace => break,
                            TokenTree::Punct(end) if end.as_char() == ';' => break,
                            _ => {}
                        }
                    }
                }
                Some(TokenTree::Group(attribute)) => flatten(attribute.stream(), out),
                // The `!` of an inner attribute; its group comes next.
                _ => {}
            },
            TokenTree::Punct(punct) => out.push(punct.to_string()),
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                out.push(open.to_owned());
                flatten(group.stream(), out);
                out.push(close.to_owned());
            }
            TokenTree::Literal(_) => {}
        }
    }
}

fn is_cfg_test(attribute: &TokenStream) -> bool {
    attribute.to_string().replace(' ', "") == "cfg(test)"
}

impl Source {
    /// The modules of the crate's root that this file names: by `crate::`, or by enough `super::`.
    fn imports(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let tokens: Vec<&str> = self.tokens.iter().map(String::as_str).collect();
        for at in 0..tokens.len() {
            let climbs = tokens[at..].chunks(3).take_while(|three| *three == ["super", ":", ":"]).count();
            if tokens[at..].starts_with(&["crate", ":", ":"]) {
                found.extend(first_names(&tokens[at + 3..]));
            } else if climbs == self.depth {
                found.extend(first_names(&tokens[at + 3 * climbs..]));
            }
        }
        found.remove(&self.layer);
        found
    }

    /// Whether the words, e.g. `unsafe` or `Instant::now`, follow each other here.
    fn uses(&self, words: &str) -> bool {
        let wanted: Vec<String> =
            words.split("::").flat_map(|word| [":", ":", word]).skip(2).map(str::to_owned).collect();
        self.tokens.windows(wanted.len()).any(|tokens| tokens == wanted)
    }
}

/// The name that a path begins with, or the names that a group like `{port::Frame, time}` begins its paths with.
fn first_names(path: &[&str]) -> Vec<String> {
    let Some(("{", group)) = path.split_first().map(|(first, rest)| (*first, rest)) else {
        return path.first().map(|name| (*name).to_owned()).into_iter().collect();
    };
    let mut names = Vec::new();
    let (mut depth, mut first) = (0usize, true);
    for token in group {
        match *token {
            "}" if depth == 0 => break,
            "{" => depth += 1,
            "}" => depth -= 1,
            "," if depth == 0 => first = true,
            name if depth == 0 && first => {
                names.push(name.to_owned());
                first = false;
            }
            _ => {}
        }
    }
    names
}

fn is_below(path: &str, places: &[&str]) -> bool {
    places.iter().any(|place| path.starts_with(place))
}

#[test]
fn each_layer_imports_only_what_it_may() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| !matches!(source.layer.as_str(), "lib" | "main")) {
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == source.layer) else {
            faults.push(format!("{} is in no layer of the table", source.path));
            continue;
        };
        let imports = source.imports();
        faults.extend(
            imports
                .iter()
                .filter(|import| {
                    LAYERS.iter().any(|(name, _)| name == import) && !allowed.contains(&import.as_str())
                })
                .map(|import| format!("{} imports {import}", source.path)),
        );
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_binding_to_dpdk_knows_nothing_of_the_engine() {
    for source in sources_below("dpdk/src") {
        assert!(!source.uses("unsocket"), "{} names unsocket", source.path);
    }
}

#[test]
fn the_table_has_no_circles() {
    for (at, (name, imports)) in LAYERS.iter().enumerate() {
        for import in *imports {
            let before = LAYERS.iter().position(|(other, _)| other == import).unwrap();
            assert!(before < at, "{name} imports {import}, which stands below it");
        }
    }
}

#[test]
fn the_library_has_no_module_outside_the_table() {
    let library = include_str!("../src/lib.rs");
    let modules: Vec<_> = library
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    assert!(modules.len() > 5);
    for module in modules {
        assert!(LAYERS.iter().any(|(name, _)| *name == module), "{module}");
    }
}

#[test]
fn unsafe_code_is_where_it_is_said_to_be() {
    for source in sources() {
        let allowed = UNSAFE_FILES.contains(&source.path.as_str());
        for word in ["unsafe", "unsafe_code"] {
            assert!(allowed || !source.uses(word), "{} uses `{word}`", source.path);
        }
    }
}

#[test]
fn confined_words_stay_where_they_belong() {
    let mut faults = Vec::new();
    for source in sources() {
        for (words, places, why) in CONFINED {
            for word in words.iter().filter(|word| !is_below(&source.path, places) && source.uses(word)) {
                faults.push(format!(
                    "{} uses `{word}`, allowed in {}: {why}",
                    source.path,
                    places.join(", ")
                ));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn files_can_be_read_in_one_sitting() {
    let long: Vec<_> = sources()
        .into_iter()
        .filter(|s| s.lines >= LINES_MAX)
        .map(|s| format!("{}: {}", s.path, s.lines))
        .collect();
    assert!(long.is_empty(), "{LINES_MAX} lines or more without tests: {}", long.join(", "));
}

#[test]
fn the_architecture_page_has_the_same_table() {
    let page = include_str!("../docs/architecture.md");
    for (name, imports) in LAYERS {
        let imports = imports.iter().map(|import| format!("`{import}`")).collect::<Vec<_>>().join(", ");
        let imports = if imports.is_empty() { "nothing".to_owned() } else { imports };
        let row = page.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/architecture.md has no row for `{name}`"));
        assert!(row.ends_with(&format!("| {imports} |")), "{row}\nshould end with: {imports}");
    }
    for file in UNSAFE_FILES {
        assert!(page.contains(&format!("`{file}`")), "docs/architecture.md does not name {file}");
    }
}

/// The rules would be worth nothing if the reader of sources saw nothing.
mod reader {
    use super::*;

    fn reads(layer: &str, depth: usize, text: &str) -> Source {
        let mut tokens = Vec::new();
        flatten(text.parse().unwrap(), &mut tokens);
        Source { path: "x.rs".into(), layer: layer.into(), depth, tokens, lines: 0 }
    }

    fn imports(text: &str) -> Vec<String> {
        reads("stack", 2, text).imports().into_iter().collect()
    }

    #[test]
    fn paths_are_seen() {
        assert_eq!(imports("use crate::port::Frame;"), ["port"]);
        assert_eq!(imports("use crate::{time::{Duration, Instant}, ws, stack::x};"), ["time", "ws"]);
        assert_eq!(imports("fn f() { g(crate::engine::X) }"), ["engine"]);
        assert_eq!(imports("use super::super::http::Routes; use super::flow;"), ["http"]);
        assert_eq!(imports("use super::{flow::Flow, super::x};"), Vec::<String>::new());
    }

    #[test]
    fn comments_strings_and_tests_are_not() {
        let text = "//! [`crate::engine`]\n/// unsafe\nfn f() { let _ = \"crate::ws\"; /* crate::http */ }\n\
                    #[cfg(test)]\nmod tests { use crate::cli; unsafe {} }\n#[cfg(test)]\nmod more;\nuse crate::port;";
        assert_eq!(imports(text), ["port"]);
        assert!(!reads("stack", 2, text).uses("unsafe"));
    }

    #[test]
    fn words_are_seen() {
        let source =
            reads("ws", 2, "#![allow(unsafe_code)]\nfn f() { std::time::Instant::now(); x!(smoltcp) }");
        assert!(source.uses("Instant::now") && source.uses("smoltcp") && source.uses("unsafe_code"));
        assert!(!source.uses("SystemTime::now") && !source.uses("unsafe"));
    }
}
