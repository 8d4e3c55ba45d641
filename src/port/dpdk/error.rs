//! Why a DPDK device could not be opened.

use crate::port::{MTU_MAX, MTU_MIN};

/// Why a DPDK device could not be opened. Every message says how to mend it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DpdkError {
    /// The port's specification is not one of a DPDK device.
    #[error(
        "`{0}` does not name a DPDK device: write `dpdk:DEVARGS`, e.g. `dpdk:0000:03:00.0` or `dpdk:net_memif0,role=server`"
    )]
    Spec(String),
    /// The MTU is out of range.
    #[error("a port's MTU must be {MTU_MIN} to {MTU_MAX} bytes, not {0}")]
    Mtu(usize),
    /// The device does not carry packets that long.
    #[error("{device} ({driver}) carries IP packets of up to {max} bytes, not {wanted}: lower the MTU")]
    MtuOfDevice {
        /// The device's name.
        device: String,
        /// Its driver.
        driver: String,
        /// The MTU that was asked for, in bytes.
        wanted: usize,
        /// The largest that it takes, in bytes.
        max: usize,
    },
    /// A number is out of range.
    #[error("{what} must be {min} to {max}, not {given}")]
    Number {
        /// What is counted.
        what: &'static str,
        /// The least.
        min: usize,
        /// The most.
        max: usize,
        /// What was given.
        given: usize,
    },
    /// The device was probed and has no Ethernet port.
    #[error("{0} has no Ethernet port: name a network device")]
    NoPort(String),
    /// The device has no queue pair.
    #[error("{0} has no RX and TX queue that could be used together")]
    NoQueues(String),
    /// The queue pairs cannot be divided evenly.
    #[error("{queues} queue pairs cannot be divided evenly between {workers} workers: make it a multiple")]
    UnevenQueues {
        /// Queue pairs that were asked for.
        queues: usize,
        /// Workers.
        workers: usize,
    },
    /// The device has fewer queue pairs than were asked for.
    #[error("{device} has {given} queue pairs, not {wanted}: ask for fewer, or for none in particular")]
    FewQueues {
        /// The device with its arguments.
        device: String,
        /// Queue pairs that were asked for.
        wanted: usize,
        /// Queue pairs that it gives.
        given: usize,
    },
    /// The other end would be let to send what cannot be received.
    #[error(
        "{0}: `tso=1` lets the other end send segments that are larger than the MTU, and those are not received: leave it out"
    )]
    LargeReceive(String),
    /// Another process has the interface.
    #[error("{interface} is in use by another unsocket: AF_XDP lets one program have it, end that first")]
    InterfaceInUse {
        /// Its name.
        interface: String,
    },
    /// The kernel gives no AF_XDP socket; DPDK does not say why.
    #[error(
        "{device}: {source}; an AF_XDP socket needs CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF, or root, and a queue that no other \
         program has: `ip -details link show` names the interface's XDP program"
    )]
    XdpSocket {
        /// The device with its arguments.
        device: String,
        /// What DPDK said.
        source: ::dpdk::Error,
    },
    /// DPDK does not do it; the cause and the way out are in it.
    #[error(transparent)]
    Dpdk(#[from] ::dpdk::Error),
}
