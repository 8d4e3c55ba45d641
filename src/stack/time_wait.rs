//! TIME-WAIT without a socket: what is left to remember of a connection that we closed first.
//!
//! RFC 9293 section 3.6.1 keeps such a 4-tuple for two segment lifetimes, so that a lost last acknowledgement can be
//! sent again and no old segment is taken for a new connection's. smoltcp would hold a whole socket meanwhile and
//! ignore a new SYN. A record is 32 bytes here and 48 in its flow table; there are at most a fixed number, and
//! the oldest makes room. Those that have run out go a few in each burst: they stand in the order in which they do.

use super::classify::TcpInfo;
use super::flow::FlowTable;
use super::isn::is_after;
use super::key::FlowKey;
use super::reply::Reply;
use crate::time::{Duration, Instant};

const NONE: u32 = u32::MAX;
/// Records that have run out and are dropped at once, in a burst or for a new record: more than come, few enough to bound
/// the work.
const EXPIRED_AT_ONCE: usize = 4;

/// What to do with a segment of a 4-tuple in TIME-WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The peer missed our last acknowledgement, or begins anew with a sequence number that an old SYN could have had: send
    /// the acknowledgement again.
    Acknowledge(Reply),
    /// Nothing: resets that answer no challenge of ours (RFC 1337), and acknowledgements.
    Drop,
    /// A new connection (RFC 9293 section 3.10.7.4, MAY-2), whose initial sequence number has to be above the floor.
    Reuse {
        /// The last sequence number that the old connection used.
        isn_floor: u32,
    },
}

#[derive(Clone, Copy)]
struct Record {
    expires: Instant,
    snd_nxt: u32,
    rcv_nxt: u32,
    older: u32,
    newer: u32,
    /// A SYN that could have been an old one was answered with an acknowledgement.
    challenged: bool,
}

/// All 4-tuples in TIME-WAIT.
pub(crate) struct TimeWait {
    flows: FlowTable,
    records: Vec<Record>,
    /// Records that are not in use, linked by `newer`.
    free: u32,
    oldest: u32,
    newest: u32,
    records_max: usize,
    duration: Duration,
}

impl TimeWait {
    /// Remembers at most `records_max` 4-tuples, each for `duration`. Memory is reserved here and touched as
    /// connections close.
    pub(crate) fn new(records_max: usize, duration: Duration, secret: &[u8; 32]) -> Self {
        TimeWait {
            flows: FlowTable::new(records_max, secret),
            records: Vec::with_capacity(records_max),
            free: NONE,
            oldest: NONE,
            newest: NONE,
            records_max,
            duration,
        }
    }

    /// Remembers a connection that is over: `snd_nxt` follows our FIN, `rcv_nxt` the peer's.
    pub(crate) fn insert(&mut self, now: Instant, key: FlowKey, snd_nxt: u32, rcv_nxt: u32) {
        self.remove(&key);
        self.drop_expired(now);
        if self.records_max == 0 {
            return;
        }
        if self.flows.len() == self.records_max {
            self.remove_at(self.oldest);
        }
        let record = Record {
            expires: now + self.duration,
            snd_nxt,
            rcv_nxt,
            older: NONE,
            newer: NONE,
            challenged: false,
        };
        let index = self.free;
        let index = if index == NONE {
            self.records.push(record);
            // Under `records_max`, which the flow table has checked to be far under 2^32.
            (self.records.len() - 1) as u32
        } else {
            self.free = self.records[index as usize].newer;
            self.records[index as usize] = record;
            index
        };
        self.flows.insert(key, index);
        self.link_newest(index);
    }

    /// What a segment means to its 4-tuple's record; `None` without one.
    pub(crate) fn on_segment(&mut self, now: Instant, segment: &TcpInfo) -> Option<Verdict> {
        let index = self.flows.get(&segment.key)?;
        let record = self.records[index as usize];
        if record.expires <= now {
            self.remove_at(index);
            return None;
        }
        if segment.flags.is_opening() {
            // RFC 6191 for connections without timestamps: no later number, no new connection.
            if !is_after(record.rcv_nxt, segment.seq) {
                return Some(Verdict::Reuse { isn_floor: record.snd_nxt });
            }
            // A process that has forgotten its last connections begins at any number (RFC 6528 with a new secret). It
            // answers the acknowledgement of what it never sent with RST, which an old SYN's sender does not, and its
            // next SYN finds no record (RFC 9293 section 3.10.7.4, RFC 5961 section 4.2).
            self.records[index as usize].challenged = true;
            return Some(Verdict::Acknowledge(Reply::acknowledge(segment, record.snd_nxt, record.rcv_nxt)));
        }
        if segment.flags.rst() {
            // RFC 5961 section 3.2: exactly the number that the challenge asked for.
            if record.challenged && segment.seq == record.rcv_nxt {
                self.remove_at(index);
            }
            return Some(Verdict::Drop);
        }
        // A bare acknowledgement is not answered, or two ends in TIME-WAIT would go on for ever.
        let is_answered = segment.flags.ack() && segment.end_seq() != segment.seq;
        if !is_answered {
            return Some(Verdict::Drop);
        }
        if segment.flags.fin() && segment.end_seq() == record.rcv_nxt {
            // RFC 9293 section 3.10.7.4: a retransmitted FIN starts the time anew.
            self.unlink(index);
            self.records[index as usize].expires = now + self.duration;
            self.link_newest(index);
        }
        Some(Verdict::Acknowledge(Reply::acknowledge(segment, record.snd_nxt, record.rcv_nxt)))
    }

    /// Whether a 4-tuple is still in TIME-WAIT.
    pub(crate) fn contains(&self, now: Instant, key: &FlowKey) -> bool {
        self.flows.get(key).is_some_and(|index| self.records[index as usize].expires > now)
    }

    /// Forgets a 4-tuple: it is in use again.
    pub(crate) fn remove(&mut self, key: &FlowKey) {
        if let Some(index) = self.flows.get(key) {
            self.remove_at(index);
        }
    }

    /// Records in memory: those that have run out are among them until [`TimeWait::drop_expired`] comes to them.
    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }

    /// Drops a few records that have run out.
    pub(crate) fn drop_expired(&mut self, now: Instant) {
        for _ in 0..EXPIRED_AT_ONCE {
            let oldest = self.oldest;
            if oldest == NONE || self.records[oldest as usize].expires > now {
                return;
            }
            self.remove_at(oldest);
        }
    }

    /// Reads what the end of the oldest record will read: it is next to go, and has not been looked at for long.
    fn touch_oldest(&self) {
        if self.oldest != NONE {
            self.flows.touch(&self.flows.key(self.oldest));
        }
    }

    /// Reads where the search for a 4-tuple begins, see [`FlowTable::touch`].
    pub(crate) fn touch(&self, key: &FlowKey) {
        self.flows.touch(key);
    }

    fn remove_at(&mut self, index: u32) {
        let key = self.flows.key(index);
        self.flows.remove(&key);
        self.unlink(index);
        self.records[index as usize].newer = self.free;
        self.free = index;
    }

    fn link_newest(&mut self, index: u32) {
        let before = core::mem::replace(&mut self.newest, index);
        self.records[index as usize].older = before;
        self.records[index as usize].newer = NONE;
        match self.records.get_mut(before as usize) {
            Some(before) => before.newer = index,
            None => self.oldest = index,
        }
    }

    fn unlink(&mut self, index: u32) {
        let Record { older, newer, .. } = self.records[index as usize];
        match self.records.get_mut(older as usize) {
            Some(older) => older.newer = newer,
            None => {
                self.oldest = newer;
                self.touch_oldest();
            }
        }
        match self.records.get_mut(newer as usize) {
            Some(newer) => newer.older = older,
            None => self.newest = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::classify::{Class, classify};
    use super::super::frames::*;
    use super::*;
    use proptest::prelude::*;
    use smoltcp::wire::{TcpControl, TcpRepr, TcpSeqNumber};
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    const SECRET: [u8; 32] = [4; 32];
    const DURATION: Duration = Duration::from_secs(60);
    /// What follows our FIN and the peer's.
    const SND_NXT: u32 = 5_000;
    const RCV_NXT: u32 = 1_000;

    fn at(secs: u64) -> Instant {
        Instant::from_millis(secs * 1_000)
    }

    fn peer(n: u16) -> SocketAddr {
        SocketAddr::new(peer_v4().ip(), 40_000 + n)
    }

    fn key(n: u16) -> FlowKey {
        FlowKey::new(ours_v4(), peer(n))
    }

    /// One record, made at time 0.
    fn one() -> TimeWait {
        let mut records = TimeWait::new(4, DURATION, &SECRET);
        records.insert(at(0), key(0), SND_NXT, RCV_NXT);
        records
    }

    fn frame(repr: &TcpRepr<'_>) -> Vec<u8> {
        tcp_frame(peer(0), ours_v4(), repr)
    }

    fn info(frame: &[u8]) -> TcpInfo {
        match classify(frame, OUR_MAC) {
            Class::Tcp(info) => info,
            other => panic!("not a segment but {other:?}"),
        }
    }

    fn with_seq(seq: u32, control: TcpControl) -> TcpRepr<'static> {
        let ack_number = (control != TcpControl::Syn).then_some(TcpSeqNumber(SND_NXT as i32));
        TcpRepr { seq_number: TcpSeqNumber(seq as i32), control, ack_number, ..segment() }
    }

    fn verdict(records: &mut TimeWait, now: Instant, repr: &TcpRepr<'_>) -> Option<Verdict> {
        records.on_segment(now, &info(&frame(repr)))
    }

    #[test]
    fn a_retransmitted_fin_is_acknowledged_and_starts_the_time_anew() {
        let mut records = one();
        let received = frame(&with_seq(RCV_NXT - 1, TcpControl::Fin));
        let Some(Verdict::Acknowledge(reply)) = records.on_segment(at(59), &info(&received)) else {
            panic!("not acknowledged");
        };
        let mut answer = vec![0; reply.frame_bytes()];
        reply.emit(&received, &mut answer);
        let Class::Tcp(ack) = classify(&answer, PEER_MAC) else { panic!("not a segment") };
        assert!(ack.checksum_is_good(&answer) && ack.flags.ack() && !ack.flags.rst() && !ack.flags.fin());
        assert_eq!((ack.seq, ack.ack, ack.payload_len), (SND_NXT, RCV_NXT, 0));
        assert!(records.contains(at(118), &key(0)));
        assert!(!records.contains(at(119), &key(0)));
    }

    #[test]
    fn old_data_is_acknowledged_without_more_time() {
        let mut records = one();
        let old = TcpRepr { payload: b"old", ..with_seq(RCV_NXT - 4, TcpControl::Psh) };
        assert!(matches!(verdict(&mut records, at(59), &old), Some(Verdict::Acknowledge(_))));
        assert!(!records.contains(at(60), &key(0)));
    }

    #[test]
    fn resets_and_bare_acknowledgements_change_nothing() {
        let mut records = one();
        for control in [TcpControl::Rst, TcpControl::None] {
            let repr = with_seq(RCV_NXT, control);
            assert_eq!(verdict(&mut records, at(1), &repr), Some(Verdict::Drop));
        }
        let without_ack =
            TcpRepr { ack_number: None, payload: b"x", ..with_seq(RCV_NXT - 2, TcpControl::Psh) };
        assert_eq!(verdict(&mut records, at(1), &without_ack), Some(Verdict::Drop));
        assert!(records.contains(at(1), &key(0)));
    }

    #[test]
    fn a_syn_with_a_later_number_may_reuse_the_connection() {
        let mut records = one();
        for later in [RCV_NXT, RCV_NXT + 1, RCV_NXT + 0x7fff_ffff] {
            let syn = with_seq(later, TcpControl::Syn);
            let reuse = Verdict::Reuse { isn_floor: SND_NXT };
            assert_eq!(verdict(&mut records, at(1), &syn), Some(reuse), "{later}");
        }
    }

    #[test]
    fn a_syn_with_an_earlier_number_is_challenged_and_its_sender_may_reset_the_record() {
        for earlier in [RCV_NXT - 1, RCV_NXT.wrapping_sub(0x7fff_ffff)] {
            let mut records = one();
            let syn = frame(&with_seq(earlier, TcpControl::Syn));
            let Some(Verdict::Acknowledge(reply)) = records.on_segment(at(1), &info(&syn)) else {
                panic!("not challenged");
            };
            let mut answer = vec![0; reply.frame_bytes()];
            reply.emit(&syn, &mut answer);
            let Class::Tcp(ack) = classify(&answer, PEER_MAC) else { panic!("not a segment") };
            assert!(ack.flags.ack() && !ack.flags.syn() && !ack.flags.rst());
            assert_eq!((ack.seq, ack.ack), (SND_NXT, RCV_NXT));
            // A reset must have exactly the number that was acknowledged.
            for wrong in [RCV_NXT - 1, RCV_NXT + 1] {
                let reset = with_seq(wrong, TcpControl::Rst);
                assert_eq!(verdict(&mut records, at(1), &reset), Some(Verdict::Drop));
                assert!(records.contains(at(1), &key(0)), "{wrong}");
            }
            assert_eq!(
                verdict(&mut records, at(1), &with_seq(RCV_NXT, TcpControl::Rst)),
                Some(Verdict::Drop)
            );
            assert!(!records.contains(at(1), &key(0)));
            assert_eq!(verdict(&mut records, at(1), &with_seq(earlier, TcpControl::Syn)), None);
        }
    }

    #[test]
    fn a_record_runs_out() {
        let mut records = one();
        let fin = with_seq(RCV_NXT - 1, TcpControl::Fin);
        assert_eq!(verdict(&mut records, at(60), &fin), None);
        assert_eq!(records.len(), 0);
    }

    #[test]
    fn another_flow_is_not_concerned() {
        let mut records = one();
        let stranger = tcp_frame(peer(1), ours_v4(), &with_seq(RCV_NXT - 1, TcpControl::Fin));
        assert_eq!(records.on_segment(at(1), &info(&stranger)), None);
    }

    #[test]
    fn the_oldest_makes_room() {
        let mut records = TimeWait::new(2, DURATION, &SECRET);
        for n in 0..3 {
            records.insert(at(u64::from(n)), key(n), SND_NXT, RCV_NXT);
        }
        let present: Vec<bool> = (0..3).map(|n| records.contains(at(3), &key(n))).collect();
        assert_eq!((present, records.len()), (vec![false, true, true], 2));
        let mut none = TimeWait::new(0, DURATION, &SECRET);
        none.insert(at(0), key(0), SND_NXT, RCV_NXT);
        assert_eq!(none.len(), 0);
    }

    #[test]
    fn a_record_is_32_bytes() {
        assert_eq!(size_of::<Record>(), 32);
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_map(steps in prop::collection::vec((0_u8..4, 0_u16..8, 0_u64..30), 0..100)) {
            let mut records = TimeWait::new(8, DURATION, &SECRET);
            let mut model = BTreeMap::new();
            let mut secs = 0;
            for (step, n, by) in steps {
                match step {
                    0 => secs += by,
                    1 => {
                        records.remove(&key(n));
                        model.remove(&n);
                    }
                    2 => {
                        let fin = tcp_frame(peer(n), ours_v4(), &with_seq(RCV_NXT - 1, TcpControl::Fin));
                        let verdict = records.on_segment(at(secs), &info(&fin));
                        let is_live = model.get(&n).is_some_and(|&expires| expires > secs);
                        prop_assert_eq!(verdict.is_some(), is_live);
                        if is_live {
                            model.insert(n, secs + 60);
                        }
                    }
                    _ => {
                        records.insert(at(secs), key(n), SND_NXT, RCV_NXT);
                        model.insert(n, secs + 60);
                    }
                }
                prop_assert!(records.len() <= 8);
                for n in 0..8 {
                    let is_live = model.get(&n).is_some_and(|&expires| expires > secs);
                    prop_assert_eq!(records.contains(at(secs), &key(n)), is_live);
                }
            }
        }
    }
}
