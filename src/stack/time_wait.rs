//! TIME-WAIT records.
