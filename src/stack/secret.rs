//! Keys derived from the secret.
