//! Setting a port up: what is wanted, cut down to what the driver offers and then to what it really gives.

use super::Port;
use super::config::{self, InUse, L2_BYTES_MAX, PortConfig};
use crate::error::{Error, Result, check};
use crate::mempool::Mempool;
use crate::offload::Offloads;
use crate::queue::{RxQueue, TxQueue};
use crate::rss::RssFunctions;
use crate::{eal, log, sys};
use std::sync::{Arc, PoisonError};

/// What will be asked of the driver.
struct Plan {
    setup: sys::shim_port_setup,
    /// Keeps the key that `setup` points to.
    _key: Option<Vec<u8>>,
    rx_descriptors: u16,
    tx_descriptors: u16,
    mtu: u16,
    refused: Vec<String>,
}

impl Port {
    /// Sets the port up and starts it; RX queue `n` receives into mbufs of `pools[n % pools.len()]`.
    ///
    /// What the driver does not offer is not asked for; what it offers and then refuses is done without where that is
    /// possible. [`Port::in_use`] tells what came of it.
    ///
    /// # Errors
    /// [`Error::Setting`] for what cannot work with any driver, or a second start; [`Error::Call`] with the driver's words
    /// when it does not start.
    pub fn start(&mut self, config: &PortConfig, pools: &[Mempool]) -> Result<(Vec<RxQueue>, Vec<TxQueue>)> {
        if self.in_use.is_some() {
            return Err(setting("port", &self.name, "it is started already"));
        }
        let mut plan = self.plan(config, pools)?;
        self.shared.pools.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(pools);
        let _control = eal::control();
        log::forget();
        while let Err(error) = self.configure_and_start(&plan, pools) {
            // No driver says beforehand whether it has interrupts, and some advertise RSS and refuse it when they start.
            if plan.setup.rx_interrupts != 0 {
                plan.refused.push(format!("RX interrupts: {} has none", self.capabilities.driver));
                plan.setup.rx_interrupts = 0;
            } else if plan.setup.rss_functions != 0 {
                plan.refused.push(format!(
                    "RSS: {} offers it and does not start with it ({error})",
                    self.capabilities.driver
                ));
                plan.setup.rss_functions = 0;
            } else {
                return Err(error);
            }
            log::forget();
        }
        let in_use = self.settle(config, plan)?;
        let rules = sys::shim_tx_rules {
            offload_flags: in_use.offloads.tx_flags(),
            frame_bytes_max: u32::from(in_use.mtu) + L2_BYTES_MAX,
            tcp_checksum: in_use.offloads.tx_tcp_checksum.into(),
            udp_checksum: in_use.offloads.tx_udp_checksum.into(),
            multi_segment: in_use.offloads.tx_multi_segment.into(),
        };
        let rx = (0..in_use.rx_queues).map(|queue| RxQueue::new(Arc::clone(&self.shared), queue)).collect();
        let tx =
            (0..in_use.tx_queues).map(|queue| TxQueue::new(Arc::clone(&self.shared), queue, rules)).collect();
        self.in_use = Some(in_use);
        Ok((rx, tx))
    }

    fn plan(&self, config: &PortConfig, pools: &[Mempool]) -> Result<Plan> {
        let can = &self.capabilities;
        let mut refused = Vec::new();
        let mut at_most = |what: &str, wanted: u16, most: u16| {
            if wanted > most {
                refused.push(format!("{wanted} {what}: {} has {most}", can.driver));
            }
            wanted.min(most)
        };
        if config.rx_queues == 0 && config.tx_queues == 0 {
            return Err(setting("number of queues", "0", "a port needs at least one RX or TX queue"));
        }
        if config.rx_queues > 0 && pools.is_empty() {
            return Err(setting("mempools", "none", "RX queues need one to receive into"));
        }
        let rx_queues = at_most("RX queues", config.rx_queues, can.rx_queues_max);
        let tx_queues = at_most("TX queues", config.tx_queues, can.tx_queues_max);
        let mtu = at_most("bytes of MTU", config.mtu, can.mtu_max).max(can.mtu_min);
        let offloads = config.offloads.and(can.offloads);
        let mbuf_bytes = pools.iter().map(|pool| pool.config().data_bytes).min().unwrap_or(u16::MAX);
        if u32::from(mbuf_bytes) < u32::from(mtu) + L2_BYTES_MAX && !offloads.rx_scatter {
            let expected = format!(
                "at least {} for an MTU of {mtu}, or the offload rx-scatter",
                u32::from(mtu) + L2_BYTES_MAX
            );
            return Err(setting("data bytes of the mempool's mbufs", &mbuf_bytes.to_string(), &expected));
        }
        for name in config.offloads.without(can.offloads).names() {
            refused.push(format!("offload {name}: {} has none", can.driver));
        }
        let rss = config.rss.as_ref().filter(|_| rx_queues > 1);
        let rss_functions = rss.map_or(RssFunctions::NONE, |rss| rss.functions.and(can.rss_functions));
        if let Some(rss) = rss
            && rss_functions != rss.functions
        {
            refused.push(format!("RSS over {}: {} offers {}", rss.functions, can.driver, can.rss_functions));
        }
        let key = rss.and_then(|rss| rss.key.clone()).filter(|_| !rss_functions.is_empty());
        if let Some(key) = &key
            && key.len() != can.rss_key_bytes
        {
            let expected = format!("{} bytes, the length of {}'s key", can.rss_key_bytes, can.driver);
            return Err(setting("RSS key", &format!("{} bytes long", key.len()), &expected));
        }
        let setup = sys::shim_port_setup {
            rx_offloads: offloads.rx_bits(),
            tx_offloads: offloads.tx_bits(),
            rss_functions: rss_functions.bits(),
            rss_key: key.as_ref().map_or(std::ptr::null(), |key| key.as_ptr()),
            rss_key_bytes: key.as_ref().map_or(0, |key| key.len() as u32),
            mtu: mtu.min(can.mtu_stated).into(),
            rx_queues,
            tx_queues,
            rx_interrupts: config.rx_interrupts.into(),
        };
        Ok(Plan {
            setup,
            _key: key,
            rx_descriptors: config.rx_descriptors,
            tx_descriptors: config.tx_descriptors,
            mtu,
            refused,
        })
    }

    fn configure_and_start(&self, plan: &Plan, pools: &[Mempool]) -> Result<()> {
        let id = self.id();
        // SAFETY: the port is ours and stopped; the key that the setup points to lives in the plan.
        let returned = unsafe { sys::shim_port_configure(id, &plan.setup) };
        check(returned, || format!("rte_eth_dev_configure of {}", self.name))?;
        let (rx, tx) = self.descriptors(plan)?;
        for queue in 0..plan.setup.rx_queues {
            let pool = &pools[usize::from(queue) % pools.len()];
            // SAFETY: the port is configured and stopped, and keeps the mempool alive in its list.
            let returned =
                unsafe { sys::shim_rx_queue_setup(id, queue, rx, plan.setup.rx_offloads, pool.as_ptr()) };
            check(returned, || format!("rte_eth_rx_queue_setup of queue {queue} of {}", self.name))?;
        }
        for queue in 0..plan.setup.tx_queues {
            // SAFETY: the port is configured and stopped.
            let returned = unsafe { sys::shim_tx_queue_setup(id, queue, tx, plan.setup.tx_offloads) };
            check(returned, || format!("rte_eth_tx_queue_setup of queue {queue} of {}", self.name))?;
        }
        // SAFETY: the port and all its queues are set up.
        let returned = unsafe { sys::rte_eth_dev_start(id) };
        check(returned, || format!("rte_eth_dev_start of {}", self.name))?;
        Ok(())
    }

    /// The numbers of descriptors as the driver rounds them.
    fn descriptors(&self, plan: &Plan) -> Result<(u16, u16)> {
        let (mut rx, mut tx) = (plan.rx_descriptors, plan.tx_descriptors);
        // SAFETY: both are writable.
        let returned = unsafe { sys::shim_port_adjust_descriptors(self.id(), &mut rx, &mut tx) };
        check(returned, || format!("rte_eth_dev_adjust_nb_rx_tx_desc of {}", self.name))?;
        Ok((rx, tx))
    }

    /// Switches on what is set on a started port, and finds out what is in use.
    fn settle(&self, config: &PortConfig, plan: Plan) -> Result<InUse> {
        let (rx_descriptors, tx_descriptors) = self.descriptors(&plan)?;
        let Plan { setup, mtu, mut refused, .. } = plan;
        let mut attempt = |what: &str, result: Result<()>| {
            if let Err(error) = result {
                refused.push(format!("{what}: {error}"));
            }
        };
        if let Some(mac) = config.mac {
            attempt("MAC address", self.set_mac(mac));
        }
        if config.promiscuous {
            attempt("promiscuous mode", self.set_promiscuous(true));
        }
        if config.allmulticast {
            attempt("allmulticast mode", self.set_allmulticast(true));
        }
        // What the driver was not asked to keep, because it states less than it carries, holds as it was wanted.
        let kept = u16::try_from(config::info(self.id())?.mtu).unwrap_or(u16::MAX);
        let mtu = if mtu > self.capabilities.mtu_stated { mtu } else { kept };
        Ok(InUse {
            rx_queues: setup.rx_queues,
            tx_queues: setup.tx_queues,
            rx_descriptors,
            tx_descriptors,
            mtu,
            offloads: Offloads::from_bits(setup.rx_offloads, setup.tx_offloads),
            rss_functions: RssFunctions::from_bits(setup.rss_functions),
            promiscuous: self.promiscuous(),
            allmulticast: self.allmulticast(),
            mac: self.mac()?,
            rx_interrupts: setup.rx_interrupts != 0,
            refused,
        })
    }
}

fn setting(what: &'static str, given: &str, expected: &str) -> Error {
    Error::Setting { what, given: given.to_owned(), expected: expected.to_owned() }
}
