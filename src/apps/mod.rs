//! What ships in the binary.
