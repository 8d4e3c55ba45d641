//! Faults of a world as they begin and end.

use crate::book::Violation;
use crate::nic::BurstMode;
use crate::scenario::FaultKind;
use crate::world::{Event, World};
use std::time::Duration;

impl World {
    pub(crate) fn begin_fault(&mut self, index: usize) -> Result<(), Violation> {
        let (now, fault) = (self.now, self.scenario.faults[index]);
        self.trace.event(now, 4 << 8, &[index as u8], || format!("fault {index} begins: {fault:?}"));
        self.net.begin_fault(index, fault, now);
        let Some(host) = fault.host else {
            for host in 0..self.hosts.len() {
                self.begin_at(host, fault.kind, index)?;
            }
            return Ok(());
        };
        self.begin_at(host, fault.kind, index)
    }

    fn begin_at(&mut self, at: usize, kind: FaultKind, index: usize) -> Result<(), Violation> {
        let host = &mut self.hosts[at];
        match kind {
            FaultKind::TxRoom { .. } => self.give_room(index),
            FaultKind::NoBuffers => host.seats.iter().for_each(|seat| seat.queue.borrow_mut().dry = true),
            FaultKind::OneFrameBursts => host.set_burst(BurstMode::One),
            FaultKind::RandomBursts => host.set_burst(BurstMode::Random),
            FaultKind::Freeze => host.frozen = true,
            FaultKind::ClockJump { by } => {
                host.offset.set(host.offset.get() + by);
                self.wake_all(at);
            }
            FaultKind::Crash => {
                host.crash()?;
                self.book.borrow_mut().lose_host(at);
            }
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn end_fault(&mut self, index: usize) {
        let (now, fault) = (self.now, self.scenario.faults[index]);
        self.trace.event(now, 5 << 8, &[index as u8], || format!("fault {index} ends"));
        self.net.end_fault(index);
        self.short_until = now + Duration::from_secs(1);
        for at in 0..self.hosts.len() {
            if fault.host.is_some_and(|host| host != at) {
                continue;
            }
            let others = |kind: fn(&FaultKind) -> bool| {
                self.net
                    .active
                    .iter()
                    .any(|active| kind(&active.fault.kind) && active.fault.host.is_none_or(|host| host == at))
            };
            match fault.kind {
                FaultKind::TxRoom { .. } if !others(|kind| matches!(kind, FaultKind::TxRoom { .. })) => {
                    self.hosts[at].seats.iter().for_each(|seat| seat.queue.borrow_mut().tx_room = usize::MAX);
                }
                FaultKind::NoBuffers if !others(|kind| *kind == FaultKind::NoBuffers) => {
                    self.hosts[at].seats.iter().for_each(|seat| seat.queue.borrow_mut().dry = false);
                }
                FaultKind::OneFrameBursts | FaultKind::RandomBursts => {
                    self.hosts[at].set_burst(BurstMode::Full)
                }
                FaultKind::Freeze if !others(|kind| *kind == FaultKind::Freeze) => {
                    self.hosts[at].frozen = false;
                    self.hosts[at].seats.iter_mut().for_each(|seat| seat.poll_at = None);
                    self.wake_all(at);
                }
                FaultKind::Crash if !others(|kind| *kind == FaultKind::Crash) && !self.hosts[at].drained => {
                    self.trace.say(now, || format!("host {at} is back"));
                    self.hosts[at].start(now);
                    self.wake_all(at);
                }
                _ => {}
            }
        }
    }

    /// The device takes a few frames again.
    pub(crate) fn give_room(&mut self, index: usize) {
        let Some(active) = self.net.active.iter().find(|active| active.index == index) else { return };
        let (FaultKind::TxRoom { frames, every }, Some(host)) = (active.fault.kind, active.fault.host) else {
            return;
        };
        self.short_until = self.now + Duration::from_secs(1);
        self.hosts[host].seats.iter().for_each(|seat| seat.queue.borrow_mut().tx_room = frames);
        self.at(self.now + every, Event::TxRoom { index });
    }
}
