//! The stack against itself and against crafted segments, on a virtual clock.

mod closing;
mod cut;
mod dhcp;
mod exception;
mod host;
mod merging;
mod opening;
mod paths;
mod resolving;
mod segmentation;
mod sharing;
mod transfer;
