//! The options that say which device to use, shared by every command that opens one.

use crate::config::{Checksum, Config, Mac, PortSpec};
use crate::stack::Cidr;
use clap::Args;
use std::net::IpAddr;

/// Which device, and who we are on it. What is given here overrides the configuration file.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Device")]
pub struct PortArgs {
    /// Device that carries the frames: tap:NAME, or dpdk:DEVARGS in a build with DPDK, e.g. dpdk:0000:03:00.0
    /// [default: none, it must be given here or in the file]
    #[arg(long, value_name = "SPEC")]
    pub port: Option<PortSpec>,
    /// Our addresses with prefix lengths, e.g. 10.73.0.2/24,fd73::2/64 [default: none]
    #[arg(long, value_name = "CIDR,..", value_delimiter = ',')]
    pub ip: Vec<Cidr>,
    /// Addresses of the kernel's end of the TAP device [default: none, the kernel's end is left alone]
    #[arg(long, value_name = "CIDR,..", value_delimiter = ',')]
    pub host_ip: Vec<Cidr>,
    /// Network namespace for the kernel's end of the TAP device; it must exist [default: our own]
    #[arg(long, value_name = "NAME")]
    pub netns: Option<String>,
    /// Our MAC address [default: the port's choice]
    #[arg(long, value_name = "MAC")]
    pub mac: Option<Mac>,
    /// Largest IP packet in bytes, 576..=9000 [default: 1500]
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<usize>,
    /// Queue pairs of a DPDK device, a multiple of --workers; over a memif the same at both ends [default: one for each
    /// worker, one of a memif]
    #[arg(long, value_name = "N")]
    pub queues: Option<usize>,
    /// VLAN that a DPDK device belongs to, 1..=4094 [default: none, untagged frames]
    #[arg(long, value_name = "ID")]
    pub vlan: Option<u16>,
    /// Default routers, at most one each of IPv4 and IPv6 [default: none, only our own networks are reached]
    #[arg(long, value_name = "IP,..", value_delimiter = ',')]
    pub gateway: Vec<IpAddr>,
    /// Get an IPv4 address and router by DHCP
    #[arg(long)]
    pub dhcp: bool,
    /// DNS servers at which names of outgoing connections are looked up, at most 4, tried in turn [default: those of the
    /// DHCP lease]
    #[arg(long, value_name = "IP,..", value_delimiter = ',')]
    pub dns: Vec<IpAddr>,
    /// TCP and IP checksums: verify, or trust where both ends share memory and neither looks at them (DPDK devices;
    /// bench in one process) [default: verify; bench in one process: trust, with --fault-corrupt verify]
    #[arg(long, value_name = "HOW")]
    pub checksum: Option<Checksum>,
    /// Let DPDK work on ordinary pages instead of hugepages: slower
    #[arg(long)]
    pub no_huge: bool,
    /// Arguments for DPDK's EAL, as they stand, for those who know them [default: derived]
    #[arg(last = true, value_name = "EAL ARGUMENT")]
    pub eal: Vec<String>,
}

impl PortArgs {
    /// The options that were given beside `--port`.
    pub(super) fn given(&self) -> impl Iterator<Item = &'static str> {
        let PortArgs {
            port: _,
            ip,
            host_ip,
            netns,
            mac,
            mtu,
            queues,
            vlan,
            gateway,
            dhcp,
            dns,
            checksum,
            no_huge,
            eal,
        } = self;
        let given = [
            ("--ip", !ip.is_empty()),
            ("--host-ip", !host_ip.is_empty()),
            ("--netns", netns.is_some()),
            ("--mac", mac.is_some()),
            ("--mtu", mtu.is_some()),
            ("--queues", queues.is_some()),
            ("--vlan", vlan.is_some()),
            ("--gateway", !gateway.is_empty()),
            ("--dhcp", *dhcp),
            ("--dns", !dns.is_empty()),
            ("--checksum", checksum.is_some()),
            ("--no-huge", *no_huge),
            ("what follows --", !eal.is_empty()),
        ];
        given.into_iter().filter(|(_, given)| *given).map(|(option, _)| option)
    }

    /// Overrides what was given.
    pub fn apply(&self, config: &mut Config) {
        let port = &mut config.port;
        replace(&mut port.spec, &self.port);
        replace(&mut port.netns, &self.netns);
        replace(&mut port.mac, &self.mac);
        replace(&mut port.mtu, &self.mtu);
        replace(&mut port.queues, &self.queues);
        replace(&mut port.vlan, &self.vlan);
        replace_list(&mut port.ip, &self.ip);
        replace_list(&mut port.host_ip, &self.host_ip);
        replace_list(&mut port.gateway, &self.gateway);
        replace_list(&mut port.dns, &self.dns);
        replace_list(&mut port.eal, &self.eal);
        port.checksum = self.checksum.unwrap_or(port.checksum);
        port.dhcp |= self.dhcp;
        port.hugepages &= !self.no_huge;
    }
}

fn replace<T: Clone>(setting: &mut Option<T>, given: &Option<T>) {
    if given.is_some() {
        setting.clone_from(given);
    }
}

/// An option that was not given is an empty list.
pub(super) fn replace_list<T: Clone>(setting: &mut Vec<T>, given: &[T]) {
    if !given.is_empty() {
        *setting = given.to_vec();
    }
}
