//! The configuration: one TOML file, every limit with its unit, validated once.
