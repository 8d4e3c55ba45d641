//! The engine end to end in one thread: workers joined by in-process wires, on a virtual clock.

mod app;
mod crowd;
mod pki;
mod tls_peer;
mod world;

mod backpressure;
mod closing;
mod compression;
mod deadlines;
mod echo;
mod ending;
mod guards;
mod http;
mod limits;
mod outgoing;
mod random;
mod reconnect;
mod steering;
mod tls;
mod tls_hostile;
mod topics;
