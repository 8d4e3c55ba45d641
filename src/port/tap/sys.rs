//! The `ioctl` calls of `/dev/net/tun` that no crate wraps. All of the TAP's unsafe code is here.
#![allow(unsafe_code, reason = "ioctl takes an untyped argument")]

use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Makes `tun` a queue of the TAP device `name` (`TUNSETIFF`), which is created if it does not exist.
pub(super) fn attach(tun: BorrowedFd<'_>, name: &str, flags: libc::c_int) -> Result<(), Errno> {
    let mut request = ifreq(name);
    // All IFF_ flags of a TAP fit in 16 bits; IFF_TUN_EXCL is the sign bit.
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, and `request` is one.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })
}

/// The `IFF_` flags of the device that `tun` is attached to (`TUNGETIFF`).
pub(super) fn flags(tun: BorrowedFd<'_>) -> Result<libc::c_int, Errno> {
    let mut request = ifreq("");
    // SAFETY: TUNGETIFF writes one `ifreq`, and `request` is one.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNGETIFF, &raw mut request) })?;
    // SAFETY: TUNGETIFF filled in the flags, and every bit pattern is a valid `c_short`.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(libc::c_int::from(flags as u16))
}

/// Says which offloads this end can take from the kernel (`TUNSETOFFLOAD`, `TUN_F_` bits).
pub(super) fn set_offload(tun: BorrowedFd<'_>, features: libc::c_uint) -> Result<(), Errno> {
    // SAFETY: TUNSETOFFLOAD takes its bits by value; no memory is involved.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(features)) })
}

/// Sets how many bytes of `virtio_net_hdr` precede every frame (`TUNSETVNETHDRSZ`).
pub(super) fn set_vnet_header_bytes(tun: BorrowedFd<'_>, bytes: libc::c_int) -> Result<(), Errno> {
    // SAFETY: TUNSETVNETHDRSZ reads one `int`, and `bytes` is one.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const bytes) })
}

/// The MTU of the interface `name`, if it is up; `socket` is any socket of its namespace.
pub(super) fn mtu_when_up(socket: BorrowedFd<'_>, name: &str) -> Result<Option<usize>, Errno> {
    let mut request = ifreq(name);
    // SAFETY: SIOCGIFFLAGS reads and writes one `ifreq`, and `request` is one.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) })?;
    // SAFETY: SIOCGIFFLAGS filled in the flags, and every bit pattern is a valid `c_short`.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    if libc::c_int::from(flags) & libc::IFF_UP == 0 {
        return Ok(None);
    }
    // SAFETY: SIOCGIFMTU reads and writes one `ifreq`, and `request` is one.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &raw mut request) })?;
    // SAFETY: SIOCGIFMTU filled in the MTU, and every bit pattern is a valid `c_int`.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    Ok(usize::try_from(mtu).ok())
}

/// A request about the interface `name`, its union all zero. Names were validated, so none is cut off.
fn ifreq(name: &str) -> libc::ifreq {
    let mut ifr_name = [0; libc::IFNAMSIZ];
    // The last byte stays 0: the name is NUL-terminated.
    for (slot, byte) in ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
        *slot = byte as libc::c_char;
    }
    libc::ifreq {
        ifr_name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_map: libc::__c_anonymous_ifru_map {
                mem_start: 0,
                mem_end: 0,
                base_addr: 0,
                irq: 0,
                dma: 0,
                port: 0,
            },
        },
    }
}

fn check(result: libc::c_int) -> Result<(), Errno> {
    if result < 0 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    Ok(())
}
