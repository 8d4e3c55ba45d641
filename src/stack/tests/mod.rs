//! The stack against itself and against crafted segments, on a virtual clock.

mod closing;
mod dhcp;
mod host;
mod opening;
mod paths;
mod sharing;
mod transfer;
