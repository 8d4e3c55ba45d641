//! Receive and send rings.
