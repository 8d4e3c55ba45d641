//! What can be asked of a port and changed while it runs.

use super::Port;
use super::config::{Link, PortStats};
use crate::error::Result;
use crate::rss::{RssConfig, RssFunctions};
use crate::sys;
use std::time::Duration;

/// The length of the Toeplitz key of most devices, and more than the longest, in bytes.
const RSS_KEY_BYTES: usize = 40;
const RSS_KEY_BYTES_MAX: usize = 64;
/// How often the link is looked at while waiting for it.
const LINK_INTERVAL: Duration = Duration::from_millis(10);

impl Port {
    /// The link as it is now.
    ///
    /// # Errors
    /// When the driver cannot tell.
    pub fn link(&self) -> Result<Link> {
        let mut link = sys::shim_link::default();
        // SAFETY: the structure is writable.
        let returned = unsafe { sys::shim_port_link(self.id(), &mut link) };
        self.call("rte_eth_link_get_nowait", returned)?;
        let known = !matches!(link.speed_mbps, sys::SHIM_SPEED_NONE | sys::SHIM_SPEED_UNKNOWN);
        Ok(Link {
            up: link.up != 0,
            speed_mbps: known.then_some(link.speed_mbps),
            full_duplex: link.full_duplex != 0,
        })
    }

    /// Waits until the link is up, at most about `timeout`; returns it as it is then. Some NICs take seconds.
    ///
    /// # Errors
    /// When the driver cannot tell.
    pub fn wait_link(&self, timeout: Duration) -> Result<Link> {
        let tries = timeout.as_millis() / LINK_INTERVAL.as_millis();
        for _ in 0..tries {
            let link = self.link()?;
            if link.up {
                return Ok(link);
            }
            std::thread::sleep(LINK_INTERVAL);
        }
        self.link()
    }

    /// The port's MAC address.
    ///
    /// # Errors
    /// When the driver cannot tell.
    pub fn mac(&self) -> Result<[u8; 6]> {
        let mut mac = sys::rte_ether_addr::default();
        // SAFETY: the structure is writable.
        let returned = unsafe { sys::rte_eth_macaddr_get(self.id(), &mut mac) };
        self.call("rte_eth_macaddr_get", returned)?;
        Ok(mac.addr_bytes)
    }

    /// Gives the port another MAC address.
    ///
    /// # Errors
    /// When the driver refuses it, as it does a multicast address.
    pub fn set_mac(&self, mac: [u8; 6]) -> Result<()> {
        let mut mac = sys::rte_ether_addr { addr_bytes: mac };
        // SAFETY: the structure outlives the call.
        let returned = unsafe { sys::rte_eth_dev_default_mac_addr_set(self.id(), &mut mac) };
        self.call("rte_eth_dev_default_mac_addr_set", returned).map(drop)
    }

    /// Receive frames for any MAC address, or only for the port's own.
    ///
    /// # Errors
    /// When the driver cannot.
    pub fn set_promiscuous(&self, on: bool) -> Result<()> {
        let set = if on { sys::rte_eth_promiscuous_enable } else { sys::rte_eth_promiscuous_disable };
        // SAFETY: the port is open.
        let returned = unsafe { set(self.id()) };
        self.call("rte_eth_promiscuous_enable", returned).map(drop)
    }

    /// Whether frames for any MAC address are received.
    pub fn promiscuous(&self) -> bool {
        // SAFETY: the port is open.
        unsafe { sys::rte_eth_promiscuous_get(self.id()) == 1 }
    }

    /// Receive all multicast frames, or only those for groups the port was told of.
    ///
    /// # Errors
    /// When the driver cannot.
    pub fn set_allmulticast(&self, on: bool) -> Result<()> {
        let set = if on { sys::rte_eth_allmulticast_enable } else { sys::rte_eth_allmulticast_disable };
        // SAFETY: the port is open.
        let returned = unsafe { set(self.id()) };
        self.call("rte_eth_allmulticast_enable", returned).map(drop)
    }

    /// Whether all multicast frames are received.
    pub fn allmulticast(&self) -> bool {
        // SAFETY: the port is open.
        unsafe { sys::rte_eth_allmulticast_get(self.id()) == 1 }
    }

    /// Lets frames of a VLAN in, on a started port with the offload `rx_vlan_filter`.
    ///
    /// # Errors
    /// When the driver cannot, or the port has no filter.
    pub fn receive_vlan(&self, id: u16) -> Result<()> {
        // SAFETY: the port is open.
        let returned = unsafe { sys::rte_eth_dev_vlan_filter(self.id(), id, 1) };
        self.call("rte_eth_dev_vlan_filter", returned).map(drop)
    }

    /// The driver's counters.
    ///
    /// # Errors
    /// When the driver keeps none.
    pub fn stats(&self) -> Result<PortStats> {
        let mut stats = sys::shim_port_stats::default();
        // SAFETY: the structure is writable.
        let returned = unsafe { sys::shim_port_stats(self.id(), &mut stats) };
        self.call("rte_eth_stats_get", returned)?;
        Ok(PortStats {
            rx_frames: stats.rx_frames,
            rx_bytes: stats.rx_bytes,
            rx_missed: stats.rx_missed,
            rx_errors: stats.rx_errors,
            rx_no_mbuf: stats.rx_no_mbuf,
            tx_frames: stats.tx_frames,
            tx_bytes: stats.tx_bytes,
            tx_errors: stats.tx_errors,
        })
    }

    /// Sets the driver's counters to zero.
    ///
    /// # Errors
    /// When the driver cannot.
    pub fn reset_stats(&self) -> Result<()> {
        // SAFETY: the port is open.
        let returned = unsafe { sys::rte_eth_stats_reset(self.id()) };
        self.call("rte_eth_stats_reset", returned).map(drop)
    }

    /// All counters that the driver keeps, by its own names.
    ///
    /// # Errors
    /// When the driver cannot tell.
    pub fn xstats(&self) -> Result<Vec<(String, u64)>> {
        // SAFETY: with no array DPDK only counts.
        let count = unsafe { sys::rte_eth_xstats_get_names(self.id(), std::ptr::null_mut(), 0) };
        let count = self.call("rte_eth_xstats_get_names", count)? as u32;
        let mut names = vec![sys::rte_eth_xstat_name::default(); count as usize];
        let mut values = vec![sys::rte_eth_xstat::default(); count as usize];
        // SAFETY: the array has `count` entries.
        let named = unsafe { sys::rte_eth_xstats_get_names(self.id(), names.as_mut_ptr(), count) };
        names.truncate(self.call("rte_eth_xstats_get_names", named)? as usize);
        // SAFETY: the array has `count` entries.
        let valued = unsafe { sys::rte_eth_xstats_get(self.id(), values.as_mut_ptr(), count) };
        values.truncate(self.call("rte_eth_xstats_get", valued)? as usize);
        Ok(values
            .iter()
            .filter_map(|entry| {
                Some((super::text(&names.get(usize::try_from(entry.id).ok()?)?.name), entry.value))
            })
            .collect())
    }

    /// What RSS hashes and with which key, as the driver tells it.
    ///
    /// # Errors
    /// When the driver has no RSS or cannot tell.
    pub fn rss(&self) -> Result<RssConfig> {
        // A driver that states no length has the usual one; there is room for the longest that any has.
        let bytes = if self.capabilities.rss_key_bytes == 0 {
            RSS_KEY_BYTES
        } else {
            self.capabilities.rss_key_bytes
        };
        let mut key = vec![0; bytes.max(RSS_KEY_BYTES_MAX)];
        let (rss_key, rss_key_len) = (key.as_mut_ptr(), bytes as u8);
        let mut conf = sys::rte_eth_rss_conf { rss_key, rss_key_len, ..Default::default() };
        // SAFETY: the structure points to a key of the length that it says.
        let returned = unsafe { sys::rte_eth_dev_rss_hash_conf_get(self.id(), &mut conf) };
        self.call("rte_eth_dev_rss_hash_conf_get", returned)?;
        key.truncate(if conf.rss_key_len == 0 { bytes } else { conf.rss_key_len.into() });
        Ok(RssConfig { functions: RssFunctions::from_bits(conf.rss_hf), key: Some(key) })
    }

    /// Hashes with another key from now on.
    ///
    /// # Errors
    /// When the key is not as long as the port's, or the driver refuses.
    pub fn set_rss_key(&self, key: &[u8]) -> Result<()> {
        let mut key = key.to_vec();
        let mut conf = self.rss_conf(&mut key)?;
        conf.rss_hf = self.in_use.as_ref().map_or(0, |in_use| in_use.rss_functions.bits());
        // SAFETY: the structure points to a key of the length that it says.
        let returned = unsafe { sys::rte_eth_dev_rss_hash_update(self.id(), &mut conf) };
        self.call("rte_eth_dev_rss_hash_update", returned).map(drop)
    }

    fn rss_conf(&self, key: &mut [u8]) -> Result<sys::rte_eth_rss_conf> {
        if key.is_empty() || key.len() != self.capabilities.rss_key_bytes {
            return Err(self.unsupported("an RSS key of this length"));
        }
        // The driver states the length in a u8 itself.
        let (rss_key, rss_key_len) = (key.as_mut_ptr(), key.len() as u8);
        Ok(sys::rte_eth_rss_conf { rss_key, rss_key_len, ..Default::default() })
    }

    /// The RSS redirection table: the queue for each value of the hash's low bits.
    ///
    /// # Errors
    /// When the driver has none or cannot tell.
    pub fn reta(&self) -> Result<Vec<u16>> {
        let mut groups = self.reta_groups()?;
        let entries = self.capabilities.reta_entries;
        // SAFETY: there are as many groups as the number of entries needs.
        let returned =
            unsafe { sys::rte_eth_dev_rss_reta_query(self.id(), groups.as_mut_ptr(), entries as u16) };
        self.call("rte_eth_dev_rss_reta_query", returned)?;
        Ok(groups.iter().flat_map(|group| group.reta).take(entries).collect())
    }

    /// Writes the RSS redirection table, repeating `queues` over all of it: `[0, 1, 2]` spreads over three queues.
    ///
    /// # Errors
    /// When the driver has none, a queue is not one of the port's, or the driver refuses.
    pub fn set_reta(&self, queues: &[u16]) -> Result<()> {
        let mut groups = self.reta_groups()?;
        let have = self.in_use.as_ref().map_or(0, |in_use| in_use.rx_queues);
        if queues.is_empty() || queues.iter().any(|&queue| queue >= have) {
            return Err(self.unsupported("a redirection table with queues that it has not"));
        }
        let entries = self.capabilities.reta_entries;
        let slots = groups.iter_mut().flat_map(|group| group.reta.iter_mut()).take(entries);
        for (slot, &queue) in slots.zip(queues.iter().cycle()) {
            *slot = queue;
        }
        // SAFETY: there are as many groups as the number of entries needs.
        let returned =
            unsafe { sys::rte_eth_dev_rss_reta_update(self.id(), groups.as_mut_ptr(), entries as u16) };
        self.call("rte_eth_dev_rss_reta_update", returned).map(drop)
    }

    /// Groups for the whole table, with every entry marked.
    fn reta_groups(&self) -> Result<Vec<sys::rte_eth_rss_reta_entry64>> {
        let entries = self.capabilities.reta_entries;
        if entries == 0 {
            return Err(self.unsupported("an RSS redirection table"));
        }
        let group = sys::SHIM_RETA_GROUP as usize;
        let mut groups = vec![sys::rte_eth_rss_reta_entry64::default(); entries.div_ceil(group)];
        for (at, entry) in groups.iter_mut().enumerate() {
            let marked = (entries - at * group).min(group);
            entry.mask = u64::MAX >> (group - marked);
        }
        Ok(groups)
    }
}
