//! Sockets that a process left behind when it was killed: drivers that listen on one refuse to start beside it.

use ::dpdk::Device;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

/// Removes the socket that `device` is to listen on, when it lies in the file system and nobody listens on it.
pub(super) fn remove_socket(device: &Device) {
    if let Some(socket) = listens_on(device)
        && is_deserted(socket)
    {
        // When it cannot be removed the driver refuses to start, and says why.
        let _ = std::fs::remove_file(socket);
    }
}

/// The file of the socket that the device's driver makes.
fn listens_on(device: &Device) -> Option<&Path> {
    let argument = |key| device.argument(key);
    let path = if device.name().starts_with("net_memif") {
        let listens = matches!(argument("role"), Some("server" | "master"));
        argument("socket").filter(|_| listens && argument("socket-abstract") == Some("no"))
    } else if device.name().starts_with("net_vhost") || device.name().starts_with("eth_vhost") {
        argument("iface").filter(|_| matches!(argument("client"), None | Some("0")))
    } else if device.name().contains("virtio_user") {
        argument("path").filter(|_| argument("server") == Some("1"))
    } else {
        None
    };
    path.map(Path::new)
}

/// Whether this is a socket on which nobody listens. Who does listen does not notice: its socket is of another type.
fn is_deserted(socket: &Path) -> bool {
    UnixDatagram::unbound()
        .and_then(|probe| probe.connect(socket))
        .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused && socket_exists(socket))
}

fn socket_exists(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    path.symlink_metadata().is_ok_and(|metadata| metadata.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn listens(devargs: &str) -> Option<String> {
        let device: Device = devargs.parse().unwrap();
        listens_on(&device).map(|path| path.display().to_string())
    }

    #[test]
    fn only_who_listens_makes_a_socket() {
        let socket = Some("/run/m.sock".to_owned());
        assert_eq!(listens("net_memif0,role=server,socket=/run/m.sock,socket-abstract=no"), socket);
        assert_eq!(listens("net_memif0,role=server,socket=/run/m.sock"), None);
        assert_eq!(listens("net_memif0,role=client,socket=/run/m.sock,socket-abstract=no"), None);
        assert_eq!(listens("net_vhost0,iface=/run/m.sock"), socket);
        assert_eq!(listens("net_vhost0,iface=/run/m.sock,client=1"), None);
        assert_eq!(listens("net_virtio_user0,path=/run/m.sock"), None);
        assert_eq!(listens("net_virtio_user0,path=/run/m.sock,server=1"), socket);
        assert_eq!(listens("net_af_packet0,iface=eth1"), None);
    }

    #[test]
    fn a_socket_is_removed_once_its_owner_is_gone() {
        let path = std::env::temp_dir().join(format!("unsocket-stale-{}.sock", std::process::id()));
        let device: Device = format!("net_vhost0,iface={}", path.display()).parse().unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        remove_socket(&device);
        assert!(path.exists(), "somebody listens");
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "who listens is not disturbed");
        drop(listener);
        remove_socket(&device);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_socket_stays() {
        let path = std::env::temp_dir().join(format!("unsocket-stale-{}.txt", std::process::id()));
        std::fs::write(&path, "mine").unwrap();
        remove_socket(&format!("net_vhost0,iface={}", path.display()).parse().unwrap());
        assert!(path.exists());
        std::fs::remove_file(&path).unwrap();
    }
}
