//! What can be wrong with a configuration: one cause a variant, each saying where, what and how to mend it.

use std::path::PathBuf;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The text is no TOML, or a value has the wrong type.
    #[error("{origin}: {message}")]
    Syntax {
        /// The file or option.
        origin: String,
        /// Line, column and what was expected.
        message: String,
    },
    /// A key that does not exist.
    #[error("{origin}, line {line}: unknown key `{key}`; {hint}")]
    UnknownKey {
        /// The file or option.
        origin: String,
        /// Line, from 1.
        line: usize,
        /// The key with its table.
        key: String,
        /// The nearest known key, or the keys of its table.
        hint: String,
    },
    /// A number outside its range.
    #[error("`{key}` is {value}, allowed is {allowed}")]
    OutOfRange {
        /// The key with its table.
        key: &'static str,
        /// What was given.
        value: u64,
        /// The range in words.
        allowed: String,
    },
    /// A value that cannot work, alone or beside another.
    #[error("`{key}` is `{value}`: {reason}")]
    Invalid {
        /// The key with its table.
        key: &'static str,
        /// What was given.
        value: String,
        /// What was expected and how to mend it.
        reason: String,
    },
    /// One of several ports is refused.
    #[error("port {number}, {spec}: {source}")]
    OfPort {
        /// Its number, from 1: `[port]`, then each of `[[more_ports]]`.
        number: usize,
        /// Its `spec`.
        spec: String,
        /// What is wrong with it.
        source: Box<ConfigError>,
    },
    /// A value that has no default and was not given.
    #[error("`{key}` is not set: {hint}")]
    Missing {
        /// The key with its table.
        key: &'static str,
        /// How to give it.
        hint: &'static str,
    },
}
