//! Values that are written as text: ports, MAC addresses, and serde's way to any `FromStr` type.

use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Serialize};

/// Longest name of a Linux network device, bytes (`IFNAMSIZ` less its NUL).
const DEVICE_NAME_BYTES_MAX: usize = 15;

/// Which device carries the frames.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum PortSpec {
    /// `tap:NAME`: a Linux TAP device.
    Tap {
        /// The device's name.
        name: String,
    },
    /// `dpdk:DEVARGS`: a DPDK device.
    #[cfg(feature = "dpdk")]
    Dpdk {
        /// The device with its arguments.
        device: ::dpdk::Device,
    },
    /// `wire`: two ends in one process.
    Wire,
}

impl PortSpec {
    /// Whether it is a DPDK device.
    pub fn is_dpdk(&self) -> bool {
        match self {
            #[cfg(feature = "dpdk")]
            PortSpec::Dpdk { .. } => true,
            PortSpec::Tap { .. } | PortSpec::Wire => false,
        }
    }
}

impl FromStr for PortSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known =
            "known are `tap:NAME`, e.g. `tap:uns0`, `dpdk:DEVARGS`, e.g. `dpdk:0000:03:00.0`, and `wire`";
        let (kind, rest) = text.split_once(':').map_or((text, None), |(kind, rest)| (kind, Some(rest)));
        match (kind, rest) {
            ("tap", Some(name)) => {
                check_device_name(name).map_err(|reason| format!("port `{text}`: {reason}"))?;
                Ok(PortSpec::Tap { name: name.to_owned() })
            }
            ("tap", None) => {
                Err("port `tap` lacks the device's name: write `tap:NAME`, e.g. `tap:uns0`".into())
            }
            ("dpdk", Some(devargs)) => dpdk(text, devargs),
            ("dpdk", None) => {
                Err("port `dpdk` lacks the device: write `dpdk:DEVARGS`, e.g. `dpdk:0000:03:00.0` or \
                 `dpdk:net_memif0,role=server,socket=/run/m.sock`"
                    .into())
            }
            ("wire", None) => Ok(PortSpec::Wire),
            ("wire", Some(_)) => Err(format!("port `{text}`: `wire` takes no argument")),
            _ => Err(format!("unknown port `{text}`: {known}")),
        }
    }
}

#[cfg(feature = "dpdk")]
fn dpdk(text: &str, devargs: &str) -> Result<PortSpec, String> {
    let device = devargs.parse().map_err(|error: ::dpdk::Error| format!("port `{text}`: {error}"))?;
    Ok(PortSpec::Dpdk { device })
}

#[cfg(not(feature = "dpdk"))]
fn dpdk(text: &str, _devargs: &str) -> Result<PortSpec, String> {
    Err(format!(
        "port `{text}`: this program was built without DPDK: build it with `cargo build --release --features dpdk` \
         (`scripts/setup --for dpdk` installs what that needs)"
    ))
}

/// The device's name, as narrow as the port takes it.
fn check_device_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > DEVICE_NAME_BYTES_MAX {
        return Err(format!(
            "a device's name has 1 to {DEVICE_NAME_BYTES_MAX} bytes, this has {}",
            name.len()
        ));
    }
    let odd = |c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | '.');
    match name.chars().find(|&c| odd(c)) {
        Some(c) => {
            Err(format!("{c:?} cannot be in a device's name: it has letters, digits, `-`, `_` and `.`"))
        }
        None if matches!(name, "." | "..") => Err("that is no device's name".into()),
        None => Ok(()),
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortSpec::Tap { name } => write!(f, "tap:{name}"),
            #[cfg(feature = "dpdk")]
            PortSpec::Dpdk { device } => write!(f, "dpdk:{device}"),
            PortSpec::Wire => f.write_str("wire"),
        }
    }
}

/// A MAC address that a port can have: unicast and not all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("`{text}` is not a MAC address, like 02:00:00:00:00:02");
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts
                .next()
                .filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))
                .ok_or_else(wanted)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wanted())?;
        }
        if parts.next().is_some() {
            return Err(wanted());
        }
        // IEEE 802: the lowest bit of the first byte marks a group address.
        if bytes[0] & 1 == 1 || bytes == [0; 6] {
            return Err(format!(
                "`{text}` is a group or the zero address: a port needs its own, e.g. 02:00:00:00:00:02"
            ));
        }
        Ok(Mac(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

macro_rules! text_in_toml {
    ($($type:ty),*) => {$(
        impl TryFrom<String> for $type {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.to_string()
            }
        }
    )*};
}

text_in_toml!(PortSpec, Mac);

/// One value of a type that reads and writes itself as text.
pub(super) mod one {
    use super::*;
    use serde::{Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<T: fmt::Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: fmt::Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// A list of values of a type that reads and writes itself as text.
pub(super) mod list {
    use super::*;
    use serde::{Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<T: fmt::Display, S: Serializer>(values: &[T], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(values.iter().map(T::to_string))
    }

    pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<Vec<T>, D::Error>
    where
        T: FromStr<Err: fmt::Display>,
        D: Deserializer<'de>,
    {
        Vec::<String>::deserialize(from)?.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_and_written() {
        assert_eq!("tap:uns0".parse(), Ok(PortSpec::Tap { name: "uns0".into() }));
        assert_eq!("wire".parse(), Ok(PortSpec::Wire));
        assert_eq!("tap:uns0".parse::<PortSpec>().unwrap().to_string(), "tap:uns0");
    }

    #[cfg(feature = "dpdk")]
    #[test]
    fn dpdk_ports_are_read_and_written() {
        let text = "dpdk:net_memif0,role=server,socket=/run/m.sock";
        let spec: PortSpec = text.parse().unwrap();
        assert!(matches!(&spec, PortSpec::Dpdk { device } if device.name() == "net_memif0"));
        assert_eq!(spec.to_string(), text);
        assert_eq!("dpdk:3:00.0".parse::<PortSpec>().unwrap().to_string(), "dpdk:0000:03:00.0");
        let error = "dpdk:0000:03:00".parse::<PortSpec>().unwrap_err();
        assert!(error.contains("0000:03:00.0"), "{error}");
    }

    #[cfg(not(feature = "dpdk"))]
    #[test]
    fn a_dpdk_port_needs_a_build_with_dpdk() {
        let error = "dpdk:0000:03:00.0".parse::<PortSpec>().unwrap_err();
        assert!(error.contains("--features dpdk") && error.contains("scripts/setup --for dpdk"), "{error}");
    }

    #[test]
    fn a_bad_port_is_told_what_is_known() {
        let refused = |text: &str| text.parse::<PortSpec>().unwrap_err();
        assert!(refused("eth0").contains("`tap:NAME`") && refused("eth0").contains("`wire`"));
        assert!(refused("tap").contains("tap:NAME"));
        assert!(refused("dpdk").contains("dpdk:DEVARGS"));
        assert!(refused("wire:x").contains("no argument"));
        assert!(refused("tap:").contains("1 to 15 bytes"));
        assert!(refused("tap:abcdefghijklmnop").contains("this has 16"));
        for name in ["a b", "a/b", "a:b", "tap%d", "é", "..", "a\0"] {
            assert!(!refused(&format!("tap:{name}")).is_empty(), "{name}");
        }
    }

    #[test]
    fn mac_addresses() {
        assert_eq!("02:00:5E:10:00:ff".parse(), Ok(Mac([2, 0, 0x5e, 0x10, 0, 0xff])));
        assert_eq!(Mac([2, 0, 0x5e, 0x10, 0, 0xff]).to_string(), "02:00:5e:10:00:ff");
        for bad in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "2:0:0:0:0:0",
            "02:00:00:00:00:0g",
            "02:00:00:00:00:+2",
        ] {
            assert!(bad.parse::<Mac>().unwrap_err().contains("02:00:00:00:00:02"), "{bad}");
        }
        assert!("01:00:00:00:00:00".parse::<Mac>().unwrap_err().contains("group"));
        assert!("00:00:00:00:00:00".parse::<Mac>().unwrap_err().contains("zero"));
    }
}
