//! What ships in the binary.

pub mod page;
