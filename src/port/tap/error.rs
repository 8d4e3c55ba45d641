//! Why a TAP device could not be opened, and the way out.

use crate::port::{MTU_MAX, MTU_MIN};
use std::io;
use std::net::IpAddr;

/// Why a TAP device could not be opened. Every message says how to mend it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TapError {
    /// The device's name is not one that the kernel takes.
    #[error(
        "`{0}` cannot be the name of a TAP device: it must have 1 to 15 characters out of letters, digits, \
         `-`, `_` and `.`, and not be `.` or `..`"
    )]
    Name(String),
    /// The namespace's name is not one that `ip netns` takes.
    #[error("`{0}` cannot be the name of a network namespace: it must be a file name below /run/netns")]
    NetnsName(String),
    /// Too few or too many queues.
    #[error("a TAP device has 1 to {max} queues, not {0}", max = super::QUEUES_MAX)]
    Queues(usize),
    /// The MTU is out of range.
    #[error("a TAP device's MTU must be {MTU_MIN} to {MTU_MAX} bytes, not {0}")]
    Mtu(usize),
    /// Too few or too many frames.
    #[error(
        "each queue of a TAP device has {min} to {max} frames, not {0}",
        min = super::FRAMES_MIN,
        max = super::FRAMES_MAX
    )]
    Frames(usize),
    /// The MTU is too small for the IPv6 address that the host's end shall have.
    #[error("the host's end cannot have {address} with an MTU of {mtu}: IPv6 needs 1280 or more (RFC 8200)")]
    MtuBelowIpv6 {
        /// The address.
        address: IpAddr,
        /// The MTU in bytes.
        mtu: usize,
    },
    /// A prefix length that the address family does not have.
    #[error("{address}/{prefix_bits}: the prefix length is over {max}", max = if address.is_ipv4() { 32 } else { 128 })]
    Prefix {
        /// The address.
        address: IpAddr,
        /// What was given, in bits.
        prefix_bits: u8,
    },
    /// Our own MAC address is a group address, or all zero.
    #[error("{} cannot be a port's MAC address: it must be a unicast address", mac_text(.0))]
    Mac([u8; 6]),
    /// The kernel has no TUN/TAP driver loaded.
    #[error(
        "/dev/net/tun is missing: load the driver with `modprobe tun` (in a container, pass the device in with \
         `--device /dev/net/tun`)"
    )]
    NoDriver(#[source] io::Error),
    /// `/dev/net/tun` exists, and its file permissions keep us out.
    #[error("no permission to open /dev/net/tun: `chmod 0666 /dev/net/tun`, or run as root")]
    DriverPermission(#[source] io::Error),
    /// We may not create, attach to, or configure the device.
    #[error(
        "no permission to {action} `{name}`: this needs CAP_NET_ADMIN. Either `sudo setcap cap_net_admin+ep \
         {program}`, or run as root, or let root prepare the device once: `ip tuntap add dev {name} mode tap \
         user USER{multi_queue}`, then `ip link set {name} mtu {mtu} up` and `ip addr add` what it shall have"
    )]
    Permission {
        /// What was refused.
        action: &'static str,
        /// The device.
        name: String,
        /// This program's file.
        program: String,
        /// ` multi_queue` when several queues are wanted.
        multi_queue: &'static str,
        /// The MTU that was wanted, in bytes.
        mtu: usize,
    },
    /// Another process has the device.
    #[error(
        "`{0}` is in use by another process: stop that one (`fuser -v /dev/net/tun` shows who has a TAP open), \
         or choose another name"
    )]
    Busy(String),
    /// The interface exists, and is no TAP device of the kind that was asked for.
    #[error(
        "`{name}` exists, but is not a TAP device made for {wanted}: choose another name, or replace it with \
         `ip link del {name}` and `ip tuntap add dev {name} mode tap{flag}`",
        wanted = if *.multi_queue { "several queues" } else { "one queue" },
        flag = if *.multi_queue { " multi_queue" } else { "" },
    )]
    WrongKind {
        /// The interface.
        name: String,
        /// Several queues were asked for.
        multi_queue: bool,
    },
    /// The device does not exist, and may not be created.
    #[error(
        "there is no TAP device `{0}`: make it with `ip tuntap add dev {0} mode tap`, or let it be created"
    )]
    Missing(String),
    /// The network namespace does not exist.
    #[error("there is no network namespace `{0}`: make it with `ip netns add {0}`")]
    NetnsMissing(String),
    /// The network namespace may not be entered.
    #[error("no permission to enter the network namespace `{0}`: this needs CAP_SYS_ADMIN; run as root")]
    NetnsPermission(String),
    /// The host's end refused an address.
    #[error("the host's end of `{name}` cannot have {address}/{prefix_bits}{hint}: {source}")]
    HostAddress {
        /// The device.
        name: String,
        /// The address.
        address: IpAddr,
        /// Prefix length in bits.
        prefix_bits: u8,
        /// What to look at.
        hint: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused something else.
    #[error("`{name}`: could not {action}: {source}")]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// The device or the namespace.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

fn mac_text(mac: &[u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
