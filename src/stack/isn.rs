//! Initial sequence numbers.
