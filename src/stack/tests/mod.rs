//! The stack against itself and against crafted segments, on a virtual clock.

mod closing;
mod dhcp;
mod exception;
mod host;
mod opening;
mod paths;
mod resolving;
mod sharing;
mod transfer;
