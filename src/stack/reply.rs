//! Answers to single TCP segments.
