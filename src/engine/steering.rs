//! Handing frames to the workers they belong to: a link, which is a wire, between each pair of workers.
//!
//! A frame is copied, because each worker's frames belong to its own port. What a full link does not take is
//! dropped and counted: TCP sends it again.

use crate::port::wire::{self, WireConfig, WireError, WireFrame, WirePort};
use crate::port::{Frame, Port};
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

/// Frames that a link holds in each direction.
const LINK_FRAMES: usize = 256;
/// Frames of a link that one worker may hold at once: a burst on its way out and one on its way in.
const HELD_FRAMES: usize = 128;

/// One worker's links to all others.
pub(super) struct Links {
    /// By worker; `None` for this worker itself.
    links: Vec<Option<Link>>,
    received: VecDeque<WireFrame>,
}

struct Link {
    port: WirePort,
    out: VecDeque<WireFrame>,
}

impl Links {
    /// The links of each of `workers` workers, for frames with IP packets up to `mtu` bytes.
    pub(super) fn new(workers: usize, mtu: usize) -> Result<Vec<Links>, WireError> {
        let own = |_| Links {
            links: (0..workers).map(|_| None).collect(),
            received: VecDeque::with_capacity(HELD_FRAMES),
        };
        let mut all: Vec<Links> = (0..workers).map(own).collect();
        let config =
            WireConfig { mtu, ring_frames: LINK_FRAMES, held_frames: HELD_FRAMES, ..WireConfig::default() };
        for a in 0..workers {
            for b in a + 1..workers {
                let (end_a, end_b) = wire::pair(&config)?;
                all[a].links[b] = Some(Link::new(end_a));
                all[b].links[a] = Some(Link::new(end_b));
            }
        }
        Ok(all)
    }

    /// Whether there is any other worker.
    pub(super) fn is_empty(&self) -> bool {
        self.links.len() <= 1
    }

    /// Copies a frame for one other worker, with what the device said of its checksums; `false` when the link is full.
    pub(super) fn give(&mut self, worker: usize, frame: &impl Frame) -> bool {
        self.links.get_mut(worker).and_then(Option::as_mut).is_some_and(|link| link.give(frame))
    }

    /// Copies a frame for all other workers; returns how many got it and how many did not.
    pub(super) fn give_all(&mut self, frame: &impl Frame) -> (u64, u64) {
        let mut counts = (0, 0);
        for link in self.links.iter_mut().flatten() {
            if link.give(frame) {
                counts.0 += 1;
            } else {
                counts.1 += 1;
            }
        }
        counts
    }

    /// Sends what was given; returns how many frames were dropped because a link was full.
    pub(super) fn flush(&mut self) -> u64 {
        let mut dropped = 0;
        for link in self.links.iter_mut().flatten() {
            link.port.tx_burst(&mut link.out);
            for frame in link.out.drain(..) {
                link.port.release(frame);
                dropped += 1;
            }
        }
        dropped
    }

    /// Takes up to `max` frames from each other worker and lends them to `each`; returns how many it took.
    pub(super) fn take(&mut self, max: usize, mut each: impl FnMut(&WireFrame)) -> usize {
        let mut taken = 0;
        let Links { links, received } = self;
        for link in links.iter_mut().flatten() {
            taken += link.port.rx_burst(received, max);
            for frame in received.drain(..) {
                each(&frame);
                link.port.release(frame);
            }
        }
        taken
    }

    /// Descriptors that poll readable when frames are waiting.
    pub(super) fn wait_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.links.iter().flatten().filter_map(|link| link.port.wait_fd())
    }

    /// Announces sleep on every link; `false` when frames are waiting.
    pub(super) fn prepare_sleep(&mut self) -> bool {
        let mut quiet = true;
        // Each link must hear of it, whatever the others say.
        for link in self.links.iter_mut().flatten() {
            quiet &= link.port.prepare_sleep();
        }
        quiet
    }
}

impl Link {
    fn new(port: WirePort) -> Self {
        Link { port, out: VecDeque::with_capacity(HELD_FRAMES) }
    }

    fn give(&mut self, received: &impl Frame) -> bool {
        let bytes = received.bytes();
        if bytes.len() > self.port.info().frame_bytes_max || self.out.len() >= HELD_FRAMES {
            return false;
        }
        let Some(mut frame) = self.port.alloc() else { return false };
        frame.set_len(bytes.len());
        frame.bytes_mut().copy_from_slice(bytes);
        frame.set_rx_checksum(received.rx_checksum());
        self.out.push_back(frame);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::RxChecksum;

    /// A frame of equal bytes of which the device says that its checksums are right.
    struct Sound(Vec<u8>);

    impl Sound {
        fn new(byte: u8, len: usize) -> Self {
            Sound(vec![byte; len])
        }
    }

    impl Frame for Sound {
        fn bytes(&self) -> &[u8] {
            &self.0
        }

        fn bytes_mut(&mut self) -> &mut [u8] {
            &mut self.0
        }

        fn set_len(&mut self, len: usize) {
            self.0.resize(len, 0);
        }

        fn rx_checksum(&self) -> RxChecksum {
            RxChecksum::Good
        }
    }

    #[test]
    fn every_pair_is_joined_both_ways() {
        let mut all = Links::new(3, 1500).unwrap();
        for (from, links) in all.iter_mut().enumerate() {
            assert_eq!(links.give_all(&Sound::new(from as u8, 60)), (2, 0));
            assert_eq!(links.flush(), 0);
        }
        for (me, links) in all.iter_mut().enumerate() {
            let mut seen = Vec::new();
            links.take(8, |frame| seen.push((usize::from(frame.bytes()[0]), frame.rx_checksum())));
            let others = (0..3).filter(|&other| other != me);
            let expected: Vec<_> = others.map(|other| (other, RxChecksum::Good)).collect();
            assert_eq!(seen, expected);
        }
    }

    #[test]
    fn a_full_link_drops_and_counts_and_recovers() {
        let mut all = Links::new(2, 1500).unwrap();
        let (mut given, mut dropped) = (0, 0);
        for _ in 0..10 * LINK_FRAMES {
            if all[0].give(1, &Sound::new(0, 60)) {
                given += 1;
            } else {
                dropped += 1;
            }
            dropped += all[0].flush();
        }
        assert!(dropped > 0);
        let mut taken = 0;
        while all[1].take(64, |_| {}) > 0 {
            taken += 64;
        }
        assert!(taken >= LINK_FRAMES);
        assert!(given > LINK_FRAMES);
        assert!(all[0].give(1, &Sound::new(0, 60)) && all[0].flush() == 0);
    }

    #[test]
    fn nobody_is_handed_its_own_frames_or_one_too_long() {
        let mut all = Links::new(2, 1500).unwrap();
        assert!(!all[0].give(0, &Sound::new(0, 60)));
        assert!(!all[0].give(7, &Sound::new(0, 60)));
        assert!(!all[0].give(1, &Sound::new(0, 2_000)));
    }

    #[test]
    fn frames_beyond_the_burst_stay_in_the_link() {
        let mut all = Links::new(2, 1500).unwrap();
        for _ in 0..4 {
            assert!(all[0].give(1, &Sound::new(0, 60)));
        }
        all[0].flush();
        assert_eq!(all[1].take(1, |_| {}), 1);
        assert_eq!(all[1].take(8, |_| {}), 3);
    }
}
