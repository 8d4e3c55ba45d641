//! The engine end to end in one thread: workers joined by in-process wires, on a virtual clock.

mod app;
mod world;

mod backpressure;
mod closing;
mod echo;
mod http;
