//! The exception path: frames for nobody go to the kernel, and what it answers goes out by the port.
//!
//! What is the engine's: segments of its connections, those in TIME-WAIT included, segments to the TCP ports that it listens
//! on, and DHCP when it runs that. ARP, neighbour discovery and reports about paths are both's: the engine learns
//! and answers, and the kernel gets a copy. Everything else that reaches our MAC address is the kernel's.
//!
//! Each worker has an exit of its own, so nothing is shared; a burst moves a bounded number of frames each way, and
//! what is over that is dropped and counted.

use crate::port::{ETHERNET_HEADER_BYTES, Frame, Port};
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

/// Frames that one burst hands to the kernel, and takes from it, at most.
const FRAMES_PER_BURST: usize = 32;

/// One worker's way to the kernel: a port at whose other end it is.
pub(super) struct Exit<Q: Port> {
    port: Q,
    out: VecDeque<Q::Frame>,
    received: VecDeque<Q::Frame>,
    /// Frames handed over in this burst.
    given: usize,
}

/// An [`Exit`], whatever its port.
pub(super) trait Kernel: Send {
    /// Copies a frame for the kernel; `false` when this burst has given enough, or there is no room.
    fn give(&mut self, frame: &[u8]) -> bool;

    /// Sends what was given; returns how many frames the kernel did not take, which are dropped.
    fn flush(&mut self) -> u64;

    /// Lends what the kernel wants sent, at most `max` frames; returns how many.
    fn take(&mut self, max: usize, each: &mut dyn FnMut(&[u8])) -> usize;

    /// A descriptor that polls readable when the kernel wants something sent.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Announces sleep; `false` when frames are waiting.
    fn prepare_sleep(&mut self) -> bool;
}

impl<Q: Port> Exit<Q> {
    pub(super) fn new(port: Q) -> Self {
        let frames = || VecDeque::with_capacity(FRAMES_PER_BURST);
        Exit { port, out: frames(), received: frames(), given: 0 }
    }
}

impl<Q: Port + Send> Kernel for Exit<Q>
where
    Q::Frame: Send,
{
    fn give(&mut self, bytes: &[u8]) -> bool {
        let info = self.port.info();
        if self.given >= FRAMES_PER_BURST || bytes.len() > info.mtu + ETHERNET_HEADER_BYTES {
            return false;
        }
        let Some(mut frame) = self.port.alloc() else { return false };
        self.given += 1;
        frame.set_len(bytes.len());
        frame.bytes_mut().copy_from_slice(bytes);
        self.out.push_back(frame);
        true
    }

    fn flush(&mut self) -> u64 {
        self.given = 0;
        self.port.tx_burst(&mut self.out);
        let left = self.out.len() as u64;
        for frame in self.out.drain(..) {
            self.port.release(frame);
        }
        left
    }

    fn take(&mut self, max: usize, each: &mut dyn FnMut(&[u8])) -> usize {
        let taken = self.port.rx_burst(&mut self.received, max.min(FRAMES_PER_BURST));
        for frame in self.received.drain(..) {
            each(frame.bytes());
            self.port.release(frame);
        }
        taken
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.port.wait_fd()
    }

    fn prepare_sleep(&mut self) -> bool {
        self.port.prepare_sleep()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::wire::{WireConfig, WirePort, pair};

    fn exit() -> (Exit<WirePort>, WirePort) {
        let (ours, kernel) = pair(&WireConfig::default()).unwrap();
        (Exit::new(ours), kernel)
    }

    #[test]
    fn a_burst_gives_so_many_frames_and_the_next_as_many_again() {
        let (mut exit, mut kernel) = exit();
        for _ in 0..2 {
            let given = (0..100).filter(|_| exit.give(&[1; 60])).count();
            assert_eq!((given, exit.flush()), (FRAMES_PER_BURST, 0));
        }
        let mut received = VecDeque::new();
        assert_eq!(kernel.rx_burst(&mut received, 100), 2 * FRAMES_PER_BURST);
    }

    #[test]
    fn what_the_kernel_does_not_take_is_counted() {
        let (mut exit, _kernel) = exit();
        let mut dropped = 0;
        for _ in 0..2_000 {
            exit.give(&[1; 60]);
            dropped += exit.flush();
        }
        assert!(dropped > 0, "nobody receives");
        assert!(!exit.give(&[0; 1515]), "longer than the kernel's MTU");
    }

    #[test]
    fn what_the_kernel_sends_is_lent() {
        let (mut exit, mut kernel) = exit();
        let mut frame = kernel.alloc().unwrap();
        frame.set_len(60);
        frame.bytes_mut().fill(7);
        kernel.tx_burst(&mut VecDeque::from([frame]));
        assert!(!exit.prepare_sleep());
        let mut seen = Vec::new();
        assert_eq!(exit.take(8, &mut |frame| seen.push(frame.to_vec())), 1);
        assert_eq!(seen, [[7; 60]]);
        assert!(exit.prepare_sleep());
    }
}
