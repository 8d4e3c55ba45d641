//! Ephemeral ports.
