//! Opening a TAP device: from a configuration to one descriptor per queue.

use super::link::Rtnetlink;
use super::{FRAMES_MAX, FRAMES_MIN, QUEUES_MAX, TapConfig, TapError, VNET_HEADER_BYTES, sys};
use crate::port::{MTU_MAX, MTU_MIN};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::thread;

/// An open device.
pub(super) struct Opened {
    /// One descriptor per queue.
    pub queues: Vec<OwnedFd>,
    /// Keeps other processes that use this crate off a device of several queues, as long as it lives.
    pub claim: Option<UnixListener>,
}

/// Says what is wrong with a configuration, before anything is touched.
pub(super) fn validate(config: &TapConfig) -> Result<(), TapError> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let name = config.name.as_str();
    if !(1..libc::IFNAMSIZ).contains(&name.len()) || !name.bytes().all(legal) || [".", ".."].contains(&name) {
        return Err(TapError::Name(config.name.clone()));
    }
    if let Some(netns) = &config.netns
        && (netns.is_empty() || netns.contains(['/', '\0']) || [".", ".."].contains(&netns.as_str()))
    {
        return Err(TapError::NetnsName(netns.clone()));
    }
    if !(1..=QUEUES_MAX).contains(&config.queues) {
        return Err(TapError::Queues(config.queues));
    }
    if !(MTU_MIN..=MTU_MAX).contains(&config.mtu) {
        return Err(TapError::Mtu(config.mtu));
    }
    if !(FRAMES_MIN..=FRAMES_MAX).contains(&config.frames) {
        return Err(TapError::Frames(config.frames));
    }
    for &(address, prefix_bits) in &config.host_addresses {
        if prefix_bits > if address.is_ipv4() { 32 } else { 128 } {
            return Err(TapError::Prefix { address, prefix_bits });
        }
        if address.is_ipv6() && config.mtu < 1280 {
            return Err(TapError::MtuBelowIpv6 { address, mtu: config.mtu });
        }
    }
    match config.mac {
        Some(mac) if mac[0] & 1 == 1 || mac == [0; 6] => Err(TapError::Mac(mac)),
        _ => Ok(()),
    }
}

/// Opens the device, in its namespace.
pub(super) fn open(config: &TapConfig) -> Result<Opened, TapError> {
    let Some(netns) = &config.netns else { return open_here(config) };
    // A namespace is a property of a thread, and we want to leave ours alone: a thread of its own goes there. The
    // descriptors that it brings back stay tied to the device wherever it is.
    thread::scope(|scope| {
        let visit = scope.spawn(|| {
            enter(netns)?;
            open_here(config)
        });
        visit.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn enter(netns: &str) -> Result<(), TapError> {
    let refused = |errno: Errno| match errno {
        Errno::NOENT => TapError::NetnsMissing(netns.into()),
        Errno::PERM | Errno::ACCESS => TapError::NetnsPermission(netns.into()),
        _ => TapError::Kernel {
            action: "enter the network namespace",
            name: netns.into(),
            source: errno.into(),
        },
    };
    let path = Path::new("/run/netns").join(netns);
    let namespace =
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(refused)?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).map_err(refused)
}

fn open_here(config: &TapConfig) -> Result<Opened, TapError> {
    let kernel = |action| {
        move |errno: Errno| TapError::Kernel { action, name: config.name.clone(), source: errno.into() }
    };
    let rtnetlink = Rtnetlink::open().map_err(kernel("open an rtnetlink socket"))?;
    let existed = rtnetlink.index_of(&config.name).is_some();
    if !existed && !config.create {
        return Err(TapError::Missing(config.name.clone()));
    }
    let claim = claim(config)?;
    let queues = (0..config.queues).map(|_| open_queue(config, existed)).collect::<Result<Vec<_>, _>>()?;
    if existed && config.queues > 1 && is_transient(&queues[0]).map_err(kernel("read its flags"))? {
        // It lives only as long as somebody has it open, and that was not us. A device of one queue says EBUSY by itself.
        return Err(TapError::Busy(config.name.clone()));
    }
    let index = rtnetlink.index_of(&config.name).ok_or(Errno::NODEV).map_err(kernel("find it"))?;
    configure(config, &rtnetlink, index)?;
    Ok(Opened { queues, claim })
}

/// A second process could add its queues to a persistent device of several, and the kernel would spread the flows over
/// all of them. An abstract socket's name is unique in a network namespace, and vanishes with its process.
fn claim(config: &TapConfig) -> Result<Option<UnixListener>, TapError> {
    if config.queues == 1 {
        return Ok(None);
    }
    let bind = || {
        let address = SocketAddr::from_abstract_name(format!("unsocket/tap/{}", config.name))?;
        UnixListener::bind_addr(&address)
    };
    match bind() {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(TapError::Busy(config.name.clone())),
        Err(source) => Err(TapError::Kernel { action: "claim it", name: config.name.clone(), source }),
    }
}

fn is_transient(queue: &OwnedFd) -> Result<bool, Errno> {
    Ok(sys::flags(queue.as_fd())? & libc::IFF_PERSIST == 0)
}

fn open_queue(config: &TapConfig, existed: bool) -> Result<OwnedFd, TapError> {
    let kernel = |action| {
        move |errno: Errno| TapError::Kernel { action, name: config.name.clone(), source: errno.into() }
    };
    let access = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let tun = rustix::fs::open("/dev/net/tun", access, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => TapError::NoDriver(errno.into()),
        Errno::ACCESS | Errno::PERM => TapError::DriverPermission(errno.into()),
        _ => kernel("open /dev/net/tun")(errno),
    })?;
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI;
    if config.queues > 1 {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    if config.offload {
        flags |= libc::IFF_VNET_HDR;
    }
    sys::attach(tun.as_fd(), &config.name, flags).map_err(|errno| match errno {
        Errno::PERM | Errno::ACCESS => permission(config, if existed { "attach to" } else { "create" }),
        Errno::BUSY => TapError::Busy(config.name.clone()),
        Errno::INVAL if existed => {
            TapError::WrongKind { name: config.name.clone(), multi_queue: config.queues > 1 }
        }
        _ => kernel("make it a TAP device")(errno),
    })?;
    // A persistent device keeps what its last user set: say it in both cases.
    let mut features = 0;
    if config.offload {
        sys::set_vnet_header_bytes(tun.as_fd(), VNET_HEADER_BYTES as libc::c_int)
            .map_err(kernel("set the size of its vnet header"))?;
        features = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    }
    sys::set_offload(tun.as_fd(), features).map_err(kernel("set its offloads"))?;
    Ok(tun)
}

/// Sizes the kernel's end, brings it up, and gives it its addresses.
fn configure(config: &TapConfig, rtnetlink: &Rtnetlink, index: u32) -> Result<(), TapError> {
    // Lets the link-local address, too, be used at once. Where /proc/sys is read-only it takes a second longer.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{}/accept_dad", config.name), "0");
    if let Some(mac) = config.host_mac {
        rtnetlink.set_mac(index, mac).map_err(|errno| match errno {
            Errno::PERM | Errno::ACCESS => permission(config, "give a MAC address to"),
            _ => TapError::Kernel {
                action: "give it a MAC address",
                name: config.name.clone(),
                source: errno.into(),
            },
        })?;
    }
    // A device that root has prepared needs no privilege from here on.
    if !rtnetlink.is_up(&config.name, config.mtu) {
        rtnetlink.bring_up(index, config.mtu).map_err(|errno| match errno {
            Errno::PERM | Errno::ACCESS => permission(config, "bring up"),
            _ => TapError::Kernel { action: "bring it up", name: config.name.clone(), source: errno.into() },
        })?;
    }
    for &(address, prefix_bits) in &config.host_addresses {
        rtnetlink.add_address(index, address, prefix_bits).or_else(|errno| match errno {
            Errno::PERM if is_local(address) => Ok(()),
            Errno::PERM => Err(permission(config, "give an address to")),
            _ => Err(TapError::HostAddress {
                name: config.name.clone(),
                address,
                prefix_bits,
                hint: if errno == Errno::ACCESS && address.is_ipv6() {
                    " (IPv6 is switched off there: see `sysctl net.ipv6.conf.all.disable_ipv6`)"
                } else {
                    ""
                },
                source: errno.into(),
            }),
        })?;
    }
    Ok(())
}

/// Whether the host has this address: one can bind to it.
fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

fn permission(config: &TapConfig, action: &'static str) -> TapError {
    TapError::Permission {
        action,
        name: config.name.clone(),
        program: std::env::current_exe().map_or_else(|_| "PROGRAM".into(), |path| path.display().to_string()),
        multi_queue: if config.queues > 1 { " multi_queue" } else { "" },
        mtu: config.mtu,
    }
}
