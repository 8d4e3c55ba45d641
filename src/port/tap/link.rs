//! The kernel's end of a TAP device: sized, brought up and addressed through rtnetlink (RFC 3549).

use super::sys;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const IFLA_ADDRESS: u16 = 1;
const IFLA_MTU: u16 = 4;
const IFLA_TXQLEN: u16 = 13;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFF_UP: u32 = 1;
/// No duplicate address detection: the address is usable at once.
const IFA_F_NODAD: u8 = 0x02;
const NLMSGHDR_BYTES: usize = 16;

/// Frames that wait in the kernel's end for us to read them. Its default of 1,000 drops a burst of thousands of
/// connections; a worker that keeps up never lets it grow.
const TX_QUEUE_FRAMES: u32 = 16_384;

/// An rtnetlink socket in the network namespace of the thread that opened it.
pub(super) struct Rtnetlink {
    socket: OwnedFd,
}

impl Rtnetlink {
    pub(super) fn open() -> Result<Self, Errno> {
        // No protocol number is protocol 0: NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Rtnetlink { socket })
    }

    /// The interface's index, or `None` when there is no such interface.
    pub(super) fn index_of(&self, name: &str) -> Option<u32> {
        rustix::net::netdevice::name_to_index(&self.socket, name).ok()
    }

    /// Whether the interface is up with this MTU.
    pub(super) fn is_up(&self, name: &str, mtu: usize) -> bool {
        sys::mtu_when_up(self.socket.as_fd(), name) == Ok(Some(mtu))
    }

    /// Sets the MTU and the transmit queue's length, and brings the interface up.
    pub(super) fn bring_up(&self, index: u32, mtu: usize) -> Result<(), Errno> {
        let mtu = u32::try_from(mtu).map_err(|_| Errno::INVAL)?;
        let mut message = Message::new(RTM_NEWLINK, 0);
        // struct ifinfomsg: family, padding, type, index, flags, mask of flags to change.
        message.bytes(&[0; 4]).bytes(&index.to_ne_bytes());
        message.bytes(&IFF_UP.to_ne_bytes()).bytes(&IFF_UP.to_ne_bytes());
        message.attribute(IFLA_MTU, &mtu.to_ne_bytes());
        message.attribute(IFLA_TXQLEN, &TX_QUEUE_FRAMES.to_ne_bytes());
        self.transact(message)
    }

    /// Gives the interface this MAC address.
    pub(super) fn set_mac(&self, index: u32, mac: [u8; 6]) -> Result<(), Errno> {
        let mut message = Message::new(RTM_NEWLINK, 0);
        // struct ifinfomsg, as above; no flag is to change.
        message.bytes(&[0; 4]).bytes(&index.to_ne_bytes()).bytes(&[0; 8]);
        message.attribute(IFLA_ADDRESS, &mac);
        self.transact(message)
    }

    /// Adds an address with its prefix length; nothing happens when the interface has it already.
    pub(super) fn add_address(&self, index: u32, ip: IpAddr, prefix_bits: u8) -> Result<(), Errno> {
        let (family, octets) = match ip {
            IpAddr::V4(ip) => (AddressFamily::INET, ip.octets().to_vec()),
            IpAddr::V6(ip) => (AddressFamily::INET6, ip.octets().to_vec()),
        };
        let mut message = Message::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE);
        // struct ifaddrmsg: family, prefix length, flags, scope (0: everywhere), index. Families fit in a byte.
        message.bytes(&[family.as_raw() as u8, prefix_bits, IFA_F_NODAD, 0]).bytes(&index.to_ne_bytes());
        message.attribute(IFA_LOCAL, &octets).attribute(IFA_ADDRESS, &octets);
        self.transact(message)
    }

    /// Sends a request and waits for the kernel's verdict.
    fn transact(&self, message: Message) -> Result<(), Errno> {
        send(&self.socket, &message.finish(), SendFlags::empty())?;
        let mut reply = [0u8; 1024];
        let (received, _) = recv(&self.socket, &mut reply, RecvFlags::empty())?;
        // struct nlmsgerr: a header with type NLMSG_ERROR, then an errno, negative, or 0 for success.
        let field = |at: usize| reply[..received].get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        let kind = field(4).map(|[low, high, ..]: [u8; 4]| u16::from_ne_bytes([low, high]));
        match (kind, field(NLMSGHDR_BYTES).map(i32::from_ne_bytes)) {
            (Some(NLMSG_ERROR), Some(0)) => Ok(()),
            (Some(NLMSG_ERROR), Some(errno)) => Err(Errno::from_raw_os_error(errno.saturating_neg())),
            _ => Err(Errno::BADMSG),
        }
    }
}

/// One rtnetlink request. Every part is padded to 4 bytes, as netlink wants it.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        let mut message = Message(Vec::with_capacity(128));
        // struct nlmsghdr: length (filled in at the end), type, flags, sequence number, sender.
        message.bytes(&[0; 4]).bytes(&kind.to_ne_bytes());
        message.bytes(&(NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes()).bytes(&[0; 8]);
        message
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        // Values are addresses and integers: 4 to 16 bytes.
        let length = 4 + value.len() as u16;
        let padding = value.len().next_multiple_of(4) - value.len();
        self.bytes(&length.to_ne_bytes()).bytes(&kind.to_ne_bytes()).bytes(value).bytes(&[0; 4][..padding])
    }

    fn finish(mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}
