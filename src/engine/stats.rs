//! Counters of one worker.

use crate::port::PortStats;
use crate::stack::StackStats;

/// Counters of one worker's engine since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerStats {
    /// Calls of [`Worker::poll`](super::Worker::poll).
    pub polls: u64,
    /// Those that found something to do.
    pub busy_polls: u64,
    /// Frames received from the port.
    pub rx_frames: u64,
    /// Segments that the device gave to this worker and another one owns.
    pub misplaced: u64,
    /// Frames handed over to the workers that own them, or copied to all of them.
    pub handed_over: u64,
    /// Frames that other workers handed over to this one.
    pub taken_over: u64,
    /// Frames lost on the way to another worker because the link was full. TCP sends them again.
    pub hand_over_dropped: u64,

    /// Frames for nobody handed to the kernel, and copies of what it learns from.
    pub to_kernel: u64,
    /// Frames of the kernel's sent out of the port.
    pub from_kernel: u64,
    /// Frames lost on the exception path: more than a burst moves, too long, or no room.
    pub exception_dropped: u64,

    /// Sessions just now: every connection that was not yet given back to the stack.
    pub sessions: u64,
    /// WebSockets just now.
    pub open: u64,
    /// WebSockets opened, in both roles.
    pub opened: u64,
    /// WebSockets ended after close frames went both ways.
    pub closed_clean: u64,
    /// WebSockets ended otherwise.
    pub closed_unclean: u64,
    /// HTTP requests answered, upgrades and refusals included.
    pub http_requests: u64,
    /// Requests answered with 503: too many connections, too little memory, or a drain.
    pub refused_busy: u64,
    /// Connections reset because their peer had as many as it may.
    pub refused_peer: u64,
    /// Connections from a proxy that did not begin with a PROXY header.
    pub refused_proxy: u64,
    /// Outgoing connections that came to nothing.
    pub connects_failed: u64,

    /// TLS handshakes that came to their end, in both roles.
    pub tls_handshakes: u64,
    /// Of them, those that resumed an earlier session.
    pub tls_resumed: u64,
    /// Connections that ended because TLS failed, during the handshake or after it.
    pub tls_failed: u64,

    /// Messages received.
    pub messages_in: u64,
    /// Their payload bytes.
    pub message_bytes_in: u64,
    /// Messages accepted for sending (a fragment counts as one).
    pub messages_out: u64,
    /// Their payload bytes, as they were sent.
    pub message_bytes_out: u64,
    /// Of the messages accepted, those that were compressed.
    pub messages_deflated: u64,
    /// Bytes that compressing them saved.
    pub deflated_bytes_saved: u64,
    /// Of them, those that had to wait for room in the send ring.
    pub messages_queued: u64,
    /// Pings received.
    pub pings_in: u64,
    /// Connections closed for a violation of the protocol or a limit.
    pub protocol_errors: u64,

    /// Messages dropped because their connection had too much waiting.
    pub dropped_slow_reader: u64,
    /// Messages dropped because their connection sent too fast.
    pub dropped_rate: u64,
    /// Messages dropped because the worker's memory was used up.
    pub dropped_memory: u64,
    /// Messages from the mailbox for connections that were closed by then.
    pub dropped_closed: u64,
    /// Publishes that another worker's full mailbox did not take.
    pub publishes_not_forwarded: u64,

    /// Heap in use for messages being assembled, for overflow queues and for the contexts of compression, bytes.
    pub memory_bytes: u64,
}

/// Everything one worker counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerReport {
    /// Its index.
    pub worker: usize,
    /// The engine.
    pub engine: WorkerStats,
    /// TCP/IP.
    pub stack: StackStats,
    /// The port.
    pub port: PortStats,
}
