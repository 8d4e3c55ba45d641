//! Ports: one network device each, set up from what its driver says it can do.

mod config;
mod control;
mod start;

pub use config::{Capabilities, InUse, Link, PortConfig, PortStats};

use crate::device::{Bus, Device};
use crate::eal::{self, Eal};
use crate::error::{Error, Result, check};
use crate::interrupts::Hold;
use crate::mempool::{self, Mempool};
use crate::quiet::Watched;
use crate::sys;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::{CStr, c_char};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One port, owned by this handle and the queues that came from it: the last of them to go stops and closes it.
///
/// Send, not Sync: DPDK's control functions take no lock. They may run beside the queues' bursts.
#[derive(Debug)]
pub struct Port {
    shared: Arc<Shared>,
    name: String,
    capabilities: Capabilities,
    in_use: Option<InUse>,
    _not_sync: PhantomData<Cell<()>>,
}

/// What the port and its queues own together.
#[derive(Debug)]
pub(crate) struct Shared {
    id: u16,
    /// Mempools that the port's RX rings are filled from.
    pools: Mutex<Vec<Mempool>>,
    /// A device of software: EAL's interrupt thread works on its memory, and closing it needs no interrupt.
    is_virtual: bool,
    _eal: Eal,
}

static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

fn taken() -> MutexGuard<'static, BTreeSet<u16>> {
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Port {
    /// Takes the port with this id and asks its driver what it can do.
    ///
    /// # Errors
    /// [`Error::PortTaken`] when it is open, [`Error::Call`] when there is none of that id.
    pub fn open(eal: &Eal, id: u16) -> Result<Self> {
        let name = name_of(id)?;
        let capabilities = Capabilities::of(id)?;
        if !taken().insert(id) {
            return Err(Error::PortTaken { port: id });
        }
        mempool::port_opened();
        let is_virtual = name.parse::<Device>().is_ok_and(|device| device.bus() == Bus::Virtual);
        let shared = Arc::new(Shared { id, pools: Mutex::new(Vec::new()), is_virtual, _eal: eal.clone() });
        Ok(Self { shared, name, capabilities, in_use: None, _not_sync: PhantomData })
    }

    /// DPDK's id of the port.
    pub fn id(&self) -> u16 {
        self.shared.id
    }

    /// The device's name, e.g. `0000:03:00.0` or `net_memif0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the driver says it can do.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// What is in use, once the port is started.
    pub fn in_use(&self) -> Option<&InUse> {
        self.in_use.as_ref()
    }

    fn call(&self, function: &'static str, returned: i32) -> Result<i32> {
        if returned == -libc::ENOTSUP || returned == -libc::ENOSYS {
            return Err(self.unsupported(function));
        }
        check(returned, || format!("{function} of {}", self.name))
    }

    fn unsupported(&self, what: &'static str) -> Error {
        Error::Unsupported { port: self.id(), driver: self.capabilities.driver.clone(), what }
    }
}

impl Shared {
    pub(crate) fn id(&self) -> u16 {
        self.id
    }

    /// What a new queue tells of its bursts, where a driver may take memory from under them.
    pub(crate) fn watched(&self) -> Option<Watched> {
        self.is_virtual.then(Watched::new)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let control = eal::control();
        // Without an answer, closing is still better than not.
        let interrupts = if self.is_virtual { Hold::take() } else { None };
        // SAFETY: the port was opened by us and all its queues are gone, so no burst runs.
        let stopped = unsafe { sys::rte_eth_dev_stop(self.id) };
        // SAFETY: as above; after this its rings hold no mbuf.
        let closed = unsafe { sys::rte_eth_dev_close(self.id) };
        if stopped != 0 || closed != 0 {
            tracing::warn!(target: "dpdk", port = self.id, stopped, closed, "the port did not stop and close cleanly");
        }
        drop(interrupts);
        drop(control);
        taken().remove(&self.id);
        if closed == 0 {
            mempool::port_closed();
        }
    }
}

fn name_of(id: u16) -> Result<String> {
    let mut name: [c_char; sys::SHIM_NAME_BYTES as usize] = [0; sys::SHIM_NAME_BYTES as usize];
    // SAFETY: the array is as long as DPDK's longest name with its NUL; ids are checked there.
    let returned = unsafe { sys::rte_eth_dev_get_name_by_port(id, name.as_mut_ptr()) };
    check(returned, || format!("rte_eth_dev_get_name_by_port({id})"))?;
    Ok(text(&name))
}

/// A C string in an array of DPDK's, up to its NUL.
fn text(chars: &[c_char]) -> String {
    // SAFETY: c_char and u8 are of one size, and the slice is the same.
    let bytes = unsafe { std::slice::from_raw_parts(chars.as_ptr().cast::<u8>(), chars.len()) };
    match CStr::from_bytes_until_nul(bytes) {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(_) => String::from_utf8_lossy(bytes).into_owned(),
    }
}
