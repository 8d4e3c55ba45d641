//! How an operator names a device: DPDK's devargs, taken apart far enough to say what is wrong with them.

use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// A device by its devargs: `0000:03:00.0`, `03:00.0,opt=1`, `net_memif0,role=server,socket=/tmp/m.sock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    bus: Bus,
    name: String,
    arguments: Option<String>,
}

/// Where a device lives, as far as EAL must be told before it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// A PCI function: EAL must be allowed to probe it.
    Pci,
    /// A device of software: attached after EAL has started.
    Virtual,
    /// Another bus that EAL scans by itself (`vmbus:...`, `auxiliary:...`).
    Other,
}

impl Device {
    /// The bus the device is on.
    pub fn bus(&self) -> Bus {
        self.bus
    }

    /// The device's name, without arguments; a PCI address is in its long form.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Name and arguments as DPDK takes them.
    pub fn devargs(&self) -> String {
        match &self.arguments {
            Some(arguments) => format!("{},{arguments}", self.name),
            None => self.name.clone(),
        }
    }

    /// The value of `key` among the arguments, e.g. `iface` in `net_af_packet0,iface=eth1`.
    pub fn argument(&self, key: &str) -> Option<&str> {
        self.arguments.as_deref()?.split(',').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.devargs())
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(devargs: &str) -> Result<Self> {
        let wrong = |reason: String| Error::WrongDevargs { devargs: devargs.to_owned(), reason };
        if devargs.contains('\0') || devargs.chars().any(char::is_whitespace) {
            return Err(wrong(
                "it contains a blank or a NUL; devargs are one word, e.g. `net_memif0,role=server`".into(),
            ));
        }
        let (name, arguments) = match devargs.split_once(',') {
            Some((name, arguments)) => (name, Some(arguments.to_owned())),
            None => (devargs, None),
        };
        for pair in arguments.iter().flat_map(|arguments| arguments.split(',')) {
            // A list of values carries commas of its own: [1,2].
            if pair.is_empty() {
                return Err(wrong(
                    "an argument between two commas is empty; write `key=value,key=value`".into(),
                ));
            }
        }
        let (bus, name) = match name.strip_prefix("pci:").unwrap_or(name) {
            address if looks_like_pci(address) => match pci_address(address) {
                Some(address) => (Bus::Pci, address),
                None => {
                    return Err(wrong(format!(
                        "`{address}` is not a PCI address; one looks like 0000:03:00.0 (domain:bus:device.function)"
                    )));
                }
            },
            name if name.starts_with("vmbus:") || name.starts_with("auxiliary:") => {
                (Bus::Other, name.to_owned())
            }
            name => {
                let name = name.strip_prefix("vdev:").unwrap_or(name);
                let sound = name.starts_with(|first: char| first.is_ascii_alphabetic())
                    && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
                if !sound {
                    return Err(wrong(format!(
                        "`{name}` is neither a PCI address (0000:03:00.0) nor the name of a virtual device (net_memif0, net_af_xdp0, net_tap0, ...)"
                    )));
                }
                (Bus::Virtual, name.to_owned())
            }
        };
        Ok(Self { bus, name, arguments })
    }
}

fn looks_like_pci(name: &str) -> bool {
    name.contains(':') && name.chars().all(|c| c.is_ascii_hexdigit() || matches!(c, ':' | '.'))
}

/// `[domain:]bus:device.function` in its long form, or `None` when it is not one.
fn pci_address(text: &str) -> Option<String> {
    let (rest, function) = text.rsplit_once('.')?;
    let mut parts = rest.rsplit(':');
    let device = hex(parts.next()?, 0x1f)?;
    let bus = hex(parts.next()?, 0xff)?;
    let domain = parts.next().map_or(Some(0), |part| hex(part, 0xffff_ffff))?;
    let function = hex(function, 7)?;
    parts.next().is_none().then(|| format!("{domain:04x}:{bus:02x}:{device:02x}.{function:x}"))
}

fn hex(text: &str, max: u32) -> Option<u32> {
    let plain = !text.is_empty() && text.chars().all(|c| c.is_ascii_hexdigit());
    u32::from_str_radix(text, 16).ok().filter(|value| plain && *value <= max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Bus, String) {
        let device: Device = text.parse().unwrap();
        (device.bus(), device.devargs())
    }

    #[test]
    fn pci_addresses_short_and_long() {
        assert_eq!(parsed("0000:03:00.0"), (Bus::Pci, "0000:03:00.0".into()));
        assert_eq!(parsed("3:0.1"), (Bus::Pci, "0000:03:00.1".into()));
        assert_eq!(parsed("pci:0001:af:1f.7,queues=4"), (Bus::Pci, "0001:af:1f.7,queues=4".into()));
    }

    #[test]
    fn virtual_devices_with_arguments() {
        assert_eq!(parsed("net_null0"), (Bus::Virtual, "net_null0".into()));
        let device: Device = "net_memif0,role=server,socket=/tmp/a.sock".parse().unwrap();
        assert_eq!((device.bus(), device.name()), (Bus::Virtual, "net_memif0"));
        assert_eq!(device.argument("socket"), Some("/tmp/a.sock"));
        assert_eq!(device.argument("sock"), None);
        assert_eq!(device.argument("id"), None);
        assert_eq!(parsed("auxiliary:mlx5_core.sf.4"), (Bus::Other, "auxiliary:mlx5_core.sf.4".into()));
    }

    #[test]
    fn wrong_names_say_what_was_expected() {
        for (text, expected) in [
            ("0000:03:20.0", "not a PCI address"),
            ("0000:03:00", "not a PCI address"),
            ("0000:03:00.8", "not a PCI address"),
            ("1:2:3:4.5", "not a PCI address"),
            ("", "neither a PCI address"),
            ("/dev/null", "neither a PCI address"),
            ("net memif0", "one word"),
            ("net_memif0,,id=1", "empty"),
        ] {
            let error = text.parse::<Device>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
