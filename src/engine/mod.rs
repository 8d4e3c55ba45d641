//! Workers, handlers, sessions.
