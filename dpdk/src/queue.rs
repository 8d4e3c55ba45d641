//! RX and TX queues: one owner, one core, bursts in and bursts out.

use crate::error::{Result, check};
use crate::mbuf::{self, BURST_MAX, Mbuf};
use crate::port::Shared;
use crate::quiet::Watched;
use crate::{ledger, sys};
use std::cell::Cell;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// A port's RX queue. It may move to another thread, but only one at a time may use it.
#[derive(Debug)]
pub struct RxQueue {
    port: Arc<Shared>,
    queue: u16,
    watched: Option<Watched>,
    /// Drivers take no lock: Send, not Sync.
    _not_sync: PhantomData<Cell<()>>,
}

/// A port's TX queue. It may move to another thread, but only one at a time may use it.
#[derive(Debug)]
pub struct TxQueue {
    port: Arc<Shared>,
    queue: u16,
    rules: sys::shim_tx_rules,
    refused: u64,
    watched: Option<Watched>,
    /// Drivers take no lock: Send, not Sync.
    _not_sync: PhantomData<Cell<()>>,
}

impl RxQueue {
    pub(crate) fn new(port: Arc<Shared>, queue: u16) -> Self {
        let watched = port.watched();
        Self { port, queue, watched, _not_sync: PhantomData }
    }

    /// The port's id.
    pub fn port(&self) -> u16 {
        self.port.id()
    }

    /// The queue's number within its port.
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// Has the driver announce frames on [`RxQueue::interrupt_fd`], or no longer. Frames that arrived before need not be
    /// announced: look once more after switching it on. A driver whose descriptor always announces has nothing to switch, and
    /// this succeeds.
    ///
    /// # Errors
    /// When the port was set up without interrupts, or the driver refuses.
    pub fn set_interrupt(&mut self, on: bool) -> Result<()> {
        let set = if on { sys::rte_eth_dev_rx_intr_enable } else { sys::rte_eth_dev_rx_intr_disable };
        // SAFETY: the port is started for as long as `self.port` lives.
        let returned = unsafe { set(self.port.id(), self.queue) };
        if returned == -libc::ENOTSUP {
            return self.interrupt_fd().map(drop);
        }
        check(returned, || format!("rte_eth_dev_rx_intr_enable of queue {}", self.queue)).map(drop)
    }

    /// A descriptor that polls readable when frames have arrived since the interrupt was switched on.
    ///
    /// # Errors
    /// When the driver has none for this queue.
    pub fn interrupt_fd(&self) -> Result<BorrowedFd<'_>> {
        // SAFETY: the port is started for as long as `self.port` lives.
        let fd = unsafe { sys::rte_eth_dev_rx_intr_ctl_q_get_fd(self.port.id(), self.queue) };
        let fd = check(fd, || format!("rte_eth_dev_rx_intr_ctl_q_get_fd of queue {}", self.queue))?;
        // SAFETY: the driver keeps it open until the port is closed, and `self.port` keeps that from happening.
        Ok(unsafe { BorrowedFd::borrow_raw(fd) })
    }

    /// Appends received frames to `burst`, at most `max` and [`BURST_MAX`]; returns how many. Never blocks.
    ///
    /// Drivers that use vector instructions receive nothing when `max` is below their stride: ask for 8 or more.
    /// Frames may be chains of segments where the port scatters, see [`Mbuf::linearize`].
    #[inline]
    pub fn rx_burst(&mut self, burst: &mut VecDeque<Mbuf>, max: usize) -> usize {
        let mut raw = [const { MaybeUninit::uninit() }; BURST_MAX];
        let max = max.min(BURST_MAX) as u16;
        let in_burst = self.watched.as_ref().map(Watched::enter);
        // SAFETY: the port is started for as long as `self.port` lives, this is the queue's only user, and there is
        // room for `max` pointers.
        let count = unsafe { sys::shim_rx_burst(self.port.id(), self.queue, raw.as_mut_ptr().cast(), max) };
        drop(in_burst);
        let count = usize::from(count).min(BURST_MAX);
        ledger::took(count);
        // SAFETY: the driver wrote `count` pointers and gave up its only reference to these mbufs.
        unsafe { mbuf::append(burst, &raw[..count]) };
        count
    }
}

impl TxQueue {
    pub(crate) fn new(port: Arc<Shared>, queue: u16, rules: sys::shim_tx_rules) -> Self {
        let watched = port.watched();
        Self { port, queue, rules, refused: 0, watched, _not_sync: PhantomData }
    }

    /// The port's id.
    pub fn port(&self) -> u16 {
        self.port.id()
    }

    /// The queue's number within its port.
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// Sends frames from the front of `burst` until the driver takes no more; returns how many it took. What is left in
    /// `burst` was not sent and still belongs to the caller. Never blocks.
    ///
    /// A frame that can never be sent is dropped and counted, see [`TxQueue::refused`]: it would block those behind it.
    #[inline]
    pub fn tx_burst(&mut self, burst: &mut VecDeque<Mbuf>) -> usize {
        let mut total = 0;
        loop {
            // A deque is two slices; what is sent from the first brings the second to the front.
            let front = burst.as_mut_slices().0;
            let offered = front.len().min(usize::from(u16::MAX)) as u16;
            if offered == 0 {
                return total;
            }
            let mut refused = 0;
            let in_burst = self.watched.as_ref().map(Watched::enter);
            // SAFETY: the port is started for as long as `self.port` lives, this is the queue's only user, `Mbuf` is
            // transparent over the pointer, and the mbufs that are taken are forgotten below.
            let sent = unsafe {
                sys::shim_tx_burst(
                    self.port.id(),
                    self.queue,
                    &self.rules,
                    front.as_mut_ptr().cast(),
                    offered,
                    &mut refused,
                )
            };
            drop(in_burst);
            burst.drain(..usize::from(sent)).for_each(Mbuf::forget);
            ledger::gave(usize::from(sent));
            total += usize::from(sent);
            if refused != 0 {
                burst.pop_front();
                self.refused += 1;
            } else if sent < offered {
                return total;
            }
        }
    }

    /// Frames dropped because they can never be sent: shorter than an Ethernet header, longer than the port takes, in several
    /// segments where the port sends one, or asking for an offload that the port was not set up for or that their headers
    /// do not allow.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}
