//! One process to an AF_XDP interface. The driver of a second one cannot have the queue and, giving up, takes away the
//! XDP program of the first, which then hears nothing any more.

use super::DpdkError;
use ::dpdk::Device;
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Claims the interface of a net_af_xdp device until it is dropped or the process ends; `None` for other devices.
///
/// # Errors
/// [`DpdkError::InterfaceInUse`] when another process has it.
pub(super) fn interface(device: &Device) -> Result<Option<UnixDatagram>, DpdkError> {
    let Some(interface) = device.argument("iface").filter(|_| device.name().starts_with("net_af_xdp")) else {
        return Ok(None);
    };
    // Abstract names are those of a network namespace, as interfaces are, and none outlives its process.
    let claimed = SocketAddr::from_abstract_name(format!("unsocket/af_xdp/{interface}"))
        .and_then(|name| UnixDatagram::bind_addr(&name));
    match claimed {
        Ok(claim) => Ok(Some(claim)),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            Err(DpdkError::InterfaceInUse { interface: interface.to_owned() })
        }
        // Without the claim all is right as long as nobody else comes.
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_has_one_owner_at_a_time() {
        let device: Device = "net_af_xdp0,iface=uns-claim".parse().unwrap();
        let claim = interface(&device).unwrap();
        assert!(claim.is_some());
        let refused = interface(&"net_af_xdp1,iface=uns-claim".parse().unwrap()).unwrap_err();
        assert!(refused.to_string().contains("uns-claim is in use"), "{refused}");
        assert!(interface(&"net_af_packet0,iface=uns-claim".parse().unwrap()).unwrap().is_none());
        drop(claim);
        assert!(interface(&device).unwrap().is_some());
    }
}
