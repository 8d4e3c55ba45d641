//! What the owner of a stack is told: of its connections, of frames that belong elsewhere, in counters.

/// Names one connection of one stack; never reused for another (the generation differs).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    /// Slot in the stack's slab; dense, so a parallel table can be indexed with it.
    pub index: u32,
    /// Counts the slot's uses.
    pub generation: u32,
}

/// Where a connection stands, as its owner needs to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// TCP's handshake is under way.
    Connecting,
    /// Bytes flow both ways.
    Open,
    /// The peer has sent FIN: what it sent before can be read, and we may still send.
    PeerFinished,
    /// Over; nothing more arrives and nothing more is sent.
    Closed(CloseCause),
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCause {
    /// Both ends finished.
    Finished,
    /// The peer sent RST.
    Reset,
    /// [`Stack::abort`](super::Stack::abort) was called.
    Aborted,
    /// The peer stayed silent too long (retransmissions, keep-alive, SYN).
    TimedOut,
    /// Nobody listens there (RST in answer to our SYN).
    Refused,
    /// Our address was taken away (DHCP).
    AddressLost,
}

/// Where a frame has to go after [`Stack::ingress`](super::Stack::ingress), when several workers share a port's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Onward {
    /// Nowhere: it was taken, or dropped and counted.
    Done,
    /// To the worker that owns its flow; it was neither taken nor counted here.
    Owner(u32),
    /// To a worker that no device would have chosen: the first for DHCP, which it alone runs, a flow's owner for a report about its
    /// path. It was neither taken nor counted here.
    Worker(u32),
    /// It was taken, and all other workers must learn from it (ARP, NDP, answers of DNS); the kernel, too, where there is
    /// an exception path.
    Everyone,
    /// To the kernel, by the exception path: it is for nobody here. It was counted and not answered.
    Kernel,
}

/// Counters of one stack since it was made. Every received frame is counted in exactly one of the first group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackStats {
    /// Segments handed to the connection that owns them.
    pub rx_segments: u64,
    /// ARP, NDP, ICMP, DHCP and DNS frames that were looked at, reports about paths among them.
    pub rx_control: u64,
    /// SYNs that made a connection.
    pub rx_syn_accepted: u64,
    /// SYNs dropped: limits of connections.
    pub rx_syn_refused: u64,
    /// Segments of no flow, answered with RST.
    pub rx_rst_sent: u64,
    /// Segments of no flow, not answered: RSTs themselves, or the RST rate was used up.
    pub rx_no_flow: u64,
    /// Segments that a TIME-WAIT record answered or swallowed.
    pub rx_time_wait: u64,
    /// Frames dropped because a checksum was wrong.
    pub rx_bad_checksum: u64,
    /// Frames dropped because a header was malformed or cut short.
    pub rx_malformed: u64,
    /// IPv4 fragments of TCP and other things that the stack leaves out on purpose.
    pub rx_unsupported: u64,
    /// Frames for another MAC or IP address.
    pub rx_not_ours: u64,
    /// Frames for nobody, left to the exception path.
    pub rx_to_kernel: u64,
    /// Runs of segments that became one before the connection got them.
    pub rx_merged: u64,

    /// Connections opened (SYN-RECEIVED became ESTABLISHED, or our SYN was answered).
    pub opened: u64,
    /// Connections over, for whatever cause.
    pub closed: u64,
    /// Half-open connections dropped: their deadline, or to make room for newer ones.
    pub half_open_dropped: u64,
    /// Connections dropped that were closing without an owner, to make room for new ones.
    pub orphans_dropped: u64,
    /// Frames handed to the TX queue.
    pub tx_frames: u64,
    /// Large segments that were cut into frames before they were handed to it, as the port does not.
    pub tx_cut: u64,
    /// Immediate answers that found no room in the TX queue.
    pub tx_answers_lost: u64,
    /// Connections moved to a smaller segment size after an ICMP "too big".
    pub paths_narrowed: u64,
    /// Quiet connections whose ring pages were given back.
    pub rings_reclaimed: u64,
}
